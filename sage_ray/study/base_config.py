"""What reading a search space and an ablation design have in common: the file, its `--set`, and the base config."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from sage_ray.config import ExperimentConfig, flatten, parse_sets, read_yaml, resolve, shipped
from sage_ray.errors import UserError
from sage_ray.pair_source import PairSource
from sage_ray.study.file_schema import BasePart, StudyFile

Sets = Iterable[str] | Mapping[str, Any]
_LOCATED = (
    *("data.path", "data.extra_pairs", "pretrain.checkpoint"),
    *("segmenter.encoder_weights", "adversarial.perceptual_weights", "render.sizes_table"),
    "runtime.stage_store",
)


def find_file(path_or_name: str | Path, kind: Literal["space", "design", "study"]) -> Path:
    """The YAML file of that path, or the shipped one of that name (NAME or NAME.yaml).

    Raises:
        UserError: a shipped name is unknown; the nearest is given.
    """
    path = Path(path_or_name)
    everything = shipped("study")
    if path.is_file():
        return path
    if path.suffix in (".yaml", ".yml"):
        return everything.get(path.stem, path) if path.name == str(path_or_name) else path
    name = str(path_or_name)
    return everything[name] if name in everything else shipped(kind, name)[name]


def read_tree(path: Path, sets: Sets, own_keys: Collection[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the file's mapping, sets of the base): a set whose first part is one of `own_keys` has changed the mapping."""
    tree = read_yaml(path)
    pairs = parse_sets(sets)
    own = {key: pairs.pop(key) for key in list(pairs) if key.split(".")[0] in own_keys}
    set_own(tree, own)
    return tree, pairs


def set_own(tree: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Change keys of a study file's mapping in place, such as {"seeds": [0, 1], "sampler.seed": 3}.

    Another metric takes its own direction with it, unless a direction is set beside it.
    """
    objective = tree.get("objective")
    if isinstance(objective, dict) and values.get("objective.metric", objective.get("metric")) != objective.get(
        "metric"
    ):
        objective.pop("direction", None)
    for key, value in values.items():
        _set_one(tree, key, value)


def _set_one(tree: dict[str, Any], key: str, value: Any) -> None:
    rest = key.split(".")
    while len(rest) > 1 and ".".join(rest) not in tree:
        # The name of an arm or of a level may itself have dots: the longest one that is there is meant.
        whole = (count for count in range(len(rest) - 1, 0, -1) if ".".join(rest[:count]) in tree)
        taken = next(whole, 1)
        part, rest = ".".join(rest[:taken]), rest[taken:]
        if tree.get(part) is None:
            tree[part] = {}
        tree = tree[part]
        if not isinstance(tree, dict):
            if isinstance(tree, list | tuple):
                raise UserError(f"{part} is a list", f"--set {key}", f"set the whole of it: {part}=[...]")
            raise UserError("unknown key", f"--set {key}", f"{part} holds no keys")
    tree[".".join(rest)] = int(value) if isinstance(value, float) and value.is_integer() else value


def base_config(part: BasePart, folder: Path, sets: Mapping[str, Any], preset: str | None = None) -> ExperimentConfig:
    """The base of a study: preset or file, then its `set`, then `sets`; places on this disk become absolute.

    Args:
        part: the file's `base`.
        folder: what `base.file` is relative to.
        sets: from the command line.
        preset: taken instead of the part's own preset or file.
    """
    base_file: Path | None = None
    if part.file is not None and preset is None:
        beside = folder / part.file
        base_file = beside if beside.is_file() else Path(part.file)
    config = resolve(preset=preset or part.preset, file=base_file, sets=flatten(part.set)).config
    return located(config.with_values(sets) if sets else config)


def located(config: ExperimentConfig) -> ExperimentConfig:
    """The config with absolute paths: workers have another working directory, and `resume` is called from anywhere."""
    given = {path: config.get(path) for path in _LOCATED}
    moved = {path: value for path, value in absolute(given).items() if value != given[path]}
    return config.with_values(moved) if moved else config


def absolute(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values by config path, with files and folders of this disk as absolute paths."""
    found = dict(values)
    for path in _LOCATED:
        value = found.get(path)
        if path == "data.extra_pairs":
            if value:
                found[path] = str(PairSource.parse(value).absolute())
        elif isinstance(value, str) and "://" not in value and (Path(value).exists() or path == "data.path"):
            found[path] = str(Path(value).expanduser().absolute())
    return found


def with_resources(base: ExperimentConfig, file: StudyFile, source: str) -> ExperimentConfig:
    """The config with the runtime that the file's `resources` ask for. Raises UserError for CUDA without a GPU.

    A number of GPUs decides on the device. With a word the base's device stands, and what `auto` leaves open is settled
    when the study begins (`search.placement`).
    """
    resources = file.resources
    device, gpus = base.runtime.device, resources.gpu
    if isinstance(gpus, str):
        gpus = 0.0 if device == "cpu" else "auto"
    elif device == "cuda" and not gpus:
        raise UserError("no GPU for the trials", f"{source}, resources.gpu", "runtime.device is cuda: give gpu above 0")
    else:
        device = "cuda" if gpus else "cpu"
    return base.with_values(
        {
            "runtime.workers": resources.workers,
            "runtime.cpus_per_worker": resources.cpu,
            "runtime.gpus_per_worker": gpus,
            "runtime.device": device,
            "runtime.threads": base.runtime.threads or max(1, int(resources.cpu)),
        }
    )


def hashed_device(base: ExperimentConfig, file: StudyFile) -> str:
    """The device in a study's hash: that of a numbered `resources.gpu`.

    A word is hashed as the CPU, in whose place it came, on whatever device the study began; the study stays on that one
    (`search.placement`).
    """
    return "cpu" if isinstance(file.resources.gpu, str) else base.runtime.device


def check_parts(base: ExperimentConfig, file: StudyFile, source: str) -> None:
    """Raise UserError if there is nothing to score on, or a fold that the base does not have."""
    if base.data.split.validation == 0 and not base.data.split.folds:
        raise UserError("no validation part", source, "a search needs scores: set data.split.validation above 0")
    for fold in file.folds:
        if fold >= max(base.data.split.folds, 1) or not base.data.split.folds:
            raise UserError(f"fold {fold} does not exist", source, f"the base has {base.data.split.folds} folds")
