"""ExperimentConfig: the one frozen, validated object that describes a run, and the way from YAML to it.

Flow: preset or YAML file, then `--set a.b=value` or a trial's sample, then one validated object. `runtime` is no part
of a run's identity; all else is. Where the paper and its public code differ (docs/method/DISCREPANCIES.md), the row
number stands in the field's description and both values can be chosen; presets `sage_gan_paper` and `sage_gan_public`
do so.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError, model_validator

from sage_ray.argument_kinds import kinds_checked
from sage_ray.config_rules import check_extra_pairs, check_phases, check_rendering, check_schedules, check_selection
from sage_ray.errors import UserError, did_you_mean
from sage_ray.identity import identity_tree, later
from sage_ray.identity import stable_hash as stable_hash
from sage_ray.near_paths import leaf_instead_of
from sage_ray.render_section import RenderConfig
from sage_ray.sections import (
    AdversarialConfig,
    Count,
    DataConfig,
    DiscriminatorsConfig,
    EvaluationConfig,
    GeneratorConfig,
    PretrainConfig,
    RuntimeConfig,
    Section,
    SegmentationLossConfig,
    SegmenterConfig,
)
from sage_ray.system_rules import check_system

logger = logging.getLogger(__name__)

DEFAULT_PRESET = "sage_gan_paper"
"""What a config is begun from where neither a preset nor a file is named."""
REMOVED: dict[str, str] = {
    "runtime.snapshot_every": "snapshots go by time, see runtime.snapshot_seconds (0: one per epoch)",
    "runtime.keep_every": "the newest two snapshots are kept, ends of stages, and epochs that an open study names",
}
"""Settings of an earlier release that are gone, with what holds instead: read, ignored, and said once per process."""


class ExperimentConfig(Section):
    """All that describes one run. Immutable; use `with_values` for a changed copy."""

    data: DataConfig = DataConfig()
    segmenter: SegmenterConfig = SegmenterConfig()
    generator: GeneratorConfig = GeneratorConfig()
    discriminators: DiscriminatorsConfig = DiscriminatorsConfig()
    segmentation_loss: SegmentationLossConfig = SegmentationLossConfig()
    pretrain: PretrainConfig = PretrainConfig()
    adversarial: AdversarialConfig = AdversarialConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    render: RenderConfig = later(RenderConfig())
    seed: Count = 0
    """Seed of all random draws of a run: starting weights, order of images, augmentation, noise."""
    runtime: RuntimeConfig = RuntimeConfig()

    @model_validator(mode="after")
    def _together(self) -> ExperimentConfig:
        check_phases(self.pretrain, self.adversarial, self.runtime)
        check_extra_pairs(self.data, self.pretrain)
        check_schedules(self.pretrain, self.adversarial)
        check_selection(self.data.split, self.pretrain, self.adversarial, self.evaluation)
        check_system(self.segmenter, self.generator, self.pretrain, self.adversarial, self.evaluation)
        check_rendering(self.render, self.adversarial)
        return self

    def phase(self, name: str) -> PretrainConfig | AdversarialConfig:
        """The settings of one of the two phases, by its name in `PHASES`."""
        phases: dict[str, PretrainConfig | AdversarialConfig] = {
            "pretrain": self.pretrain,
            "adversarial": self.adversarial,
        }
        return phases[name]

    def epochs_of(self, stage: str) -> int:
        """Epochs of a stage of a run's chain: one of `PHASES`, or "render", which comes before them."""
        return self.render.epochs if stage == "render" else self.phase(stage).num_epochs

    @property
    def num_epochs(self) -> int:
        """Epochs that a run reports: those of both phases, and of its rendering if it trains on rendered pairs."""
        rendering = self.render.epochs if self.render.train_on_pairs else 0
        return rendering + self.pretrain.num_epochs + self.adversarial.num_epochs

    def identity(self) -> dict[str, Any]:
        """Everything but `runtime`, as plain data: what makes two runs the same experiment.

        A setting of a later release is left out while it has its introduction value (`sage_ray.identity`).
        """
        return identity_tree(self, exclude={"runtime"})

    def config_hash(self) -> str:
        """16 hex digits over `identity()`."""
        return stable_hash(self.identity())

    @kinds_checked
    def with_values(self, values: Mapping[str, Any]) -> ExperimentConfig:
        """A validated copy with dotted paths replaced, such as {"adversarial.lambda_cycle": 2.0}.

        Raises:
            UserError: a path does not exist or a value is refused.
        """
        tree = self.model_dump(mode="json")
        for path, value in values.items():
            set_path(tree, path, value, "override")
        return build_config(tree, "override")

    def with_sections(self, **sections: Any) -> ExperimentConfig:
        """A copy with whole sections (or the seed) replaced by valid ones; nothing is validated again.

        For what is settled after a config was built, such as where it computes: `with_values` builds a new one.
        """
        return self.model_copy(update=sections)

    @kinds_checked
    def get(self, path: str) -> Any:
        """Value at a dotted path. Raises UserError with the nearest valid name if there is none."""
        check_path(path, "config")
        value: Any = self
        for part in path.split("."):
            value = getattr(value, part)
        return value


@dataclass(frozen=True)
class Resolved:
    """A validated config and, for each dotted path, where its value came from."""

    config: ExperimentConfig
    origins: dict[str, str]


def known_paths(model: type[BaseModel] = ExperimentConfig, prefix: str = "") -> dict[str, Any]:
    """All leaf paths of the config with their pydantic FieldInfo."""
    paths: dict[str, Any] = {}
    for name, info in model.model_fields.items():
        annotation = info.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            paths.update(known_paths(annotation, f"{prefix}{name}."))
        else:
            paths[f"{prefix}{name}"] = info
    return paths


@functools.cache
def _leaves() -> dict[str, Any]:
    """`known_paths` of the config, looked up once: a study checks every key of every configuration against them."""
    return known_paths()


@functools.cache
def _texts() -> dict[str, bool]:
    """The settings that are text, such as a path, and whether each may be left unset (None)."""
    kinds = {path: info.annotation for path, info in _leaves().items()}
    return {path: kind is not str for path, kind in kinds.items() if kind is str or kind == str | None}


def check_path(path: str, where: str) -> None:
    """Raise UserError, naming the nearest valid path, unless `path` is a leaf of the config."""
    known = _leaves()
    if path not in known:
        raise UserError(
            f"unknown key {path}", where, leaf_instead_of(path, known, "`sage-ray config show` lists every key")
        )


def set_path(tree: dict[str, Any], path: str, value: Any, where: str) -> None:
    """Set a dotted path in a nested dict, checking that the config has it; a removed setting is ignored and said."""
    if path in REMOVED:
        _say_removed(path)
        return
    check_path(path, where)
    *parents, leaf = path.split(".")
    for part in parents:
        tree = tree.setdefault(part, {})
    tree[leaf] = value


def build_config(tree: Mapping[str, Any], where: str) -> ExperimentConfig:
    """The validated config of a nested dict. A removed setting is ignored and said.

    Raises:
        UserError: naming the first refused key, its value and the remedy.
    """
    values: dict[str, Any] = {}
    for path, value in flatten(tree).items():
        set_path(values, path, value, where)
    try:
        return ExperimentConfig.model_validate(values)
    except ValidationError as error:
        raise _as_user_error(error, where) from None


@functools.cache
def _say_removed(path: str) -> None:
    logger.warning("setting %s is gone and ignored: %s", path, REMOVED[path])


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _as_user_error(error: ValidationError, where: str) -> UserError:
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if path.endswith("schedule.rule"):
        message = "a rule must not depend on the run's number of epochs; use constant, plateau, drops, or poly"
    elif not isinstance(first["input"], Mapping | BaseModel):
        message = f"{message} (got {first['input']!r})"
    label = f"{where}, {path}" if path else where
    return UserError("bad value", label, message)


def shipped(kind: Literal["preset", "space", "design", "study"], name: str | None = None) -> dict[str, Path]:
    """Shipped YAML files by name: presets (search_spaces/base), search spaces, ablation designs (ablate_*), or both.

    Raises:
        UserError: `name` is none of them.
    """
    root = Path(str(files("sage_ray"))) / "search_spaces"
    if not root.is_dir():
        root = Path(str(files("sage_ray"))).parent / "search_spaces"
    folder = root / "base" if kind == "preset" else root
    found = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    if kind in ("space", "design"):
        found = {stem: path for stem, path in found.items() if stem.startswith("ablate_") == (kind == "design")}
    if name is not None and name not in found:
        raise UserError(f"unknown {kind}", name, did_you_mean(name, found, "choose one of " + ", ".join(found)))
    return found


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises UserError if it is missing, unreadable, or no mapping."""
    import yaml  # here, and where text is read or written: who builds a config from values needs no YAML

    try:
        # libyaml's, where it is there: the same values, ten times as fast.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        text = path.read_text(encoding="utf-8")
        tree = yaml.load(text, Loader=loader)
        if isinstance(tree, dict) and _keep_texts(tree, tree):
            _keep_texts(tree, yaml.load(text, Loader=getattr(yaml, "CBaseLoader", yaml.BaseLoader)))
    except FileNotFoundError:
        raise UserError("no such file", path, "give the path of a YAML file") from None
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        detail = str(error).replace("\n", " ")
        raise UserError("unreadable YAML", path, f"write the file as YAML ({detail})") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError("not a mapping", path, "the top level must be keys and values")
    return tree


def _keep_texts(tree: dict[str, Any], written: Any, prefix: str = "") -> bool:
    """Put what the file says in the place of what YAML made of it (2024, true, a date) where the setting is text.

    Args:
        tree: changed in place.
        written: the same mapping with every value as the text that the file has.
        prefix: dotted path of `tree` in the file, which may be that of a study.

    Returns:
        Whether any value was, or would have to be, replaced.
    """
    found = False
    for key, value in tree.items():
        path, text = f"{prefix}.{key}", written.get(str(key), written.get(key))
        name = next((name for name in _texts() if path.endswith(f".{name}")), None)
        if isinstance(value, dict) and isinstance(text, dict):
            found |= _keep_texts(value, text, path)
        elif name is not None and not isinstance(value, str | list):
            found = True
            if isinstance(text, str) and (value is not None or (text == "null" and not _texts()[name])):
                tree[key] = text
    return found


def preset_tree(name: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Nested values of a preset, with what it extends, and the origin of each path."""
    tree = read_yaml(shipped("preset", name)[name])
    parent = tree.pop("extends", None)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    if parent is not None:
        values, origins = preset_tree(parent)
    for path, value in flatten(tree).items():
        set_path(values, path, value, f"preset {name}")
        origins[path] = f"preset {name}"
    return values, origins


def parse_sets(sets: Iterable[str] | Mapping[str, Any]) -> dict[str, Any]:
    """Overrides by dotted path, of a mapping or of "a.b=value" texts; a text alone is one of them."""
    if isinstance(sets, Mapping):
        return dict(sets)
    return dict(map(parse_set, [sets] if isinstance(sets, str) else sets))


def parse_set(text: str) -> tuple[str, Any]:
    """("a.b", value) of "a.b=value"; a setting that is text is taken as written, any other value is read as YAML.

    YAML here takes 1e-4 as a number. A text that is quoted as a whole loses its quotes; where a setting may be left
    unset, nothing, null and ~ leave it so.

    Raises:
        UserError: there is no "=", or a value that is no YAML.
    """
    import yaml

    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise UserError("not an assignment", f"--set {text}", "write --set section.key=value")
    path, value = path.strip(), value.strip()
    optional = _texts().get(path)
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    if optional is not None and not quoted:
        return path, None if not value or (optional and value.lower() in ("null", "~")) else value
    try:
        parsed = yaml.safe_load(value) if value else None
    except yaml.YAMLError:
        if optional is None:
            raise UserError("unreadable value", f"--set {text}", "write it as in YAML, quotes round text") from None
        parsed = value
    return path, parsed if optional is not None else _numbers(parsed)


def _numbers(value: Any) -> Any:
    # YAML 1.1 reads 1e-4 as text.
    if isinstance(value, str):
        try:
            return float(value) if value.lower() not in ("nan", "inf", "-inf", "infinity") else math.nan
        except ValueError:
            return value
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return value


def resolve(
    preset: str | None = None,
    file: str | Path | None = None,
    sets: Iterable[str] | Mapping[str, Any] = (),
) -> Resolved:
    """One validated config from a preset or a YAML file, then overrides ("a.b=value" texts or a mapping).

    A file may say `extends: PRESET`. Without preset and file the base is `sage_gan_paper`.

    Raises:
        UserError: unknown preset, key or value; both preset and file given.
    """
    if preset is not None and file is not None:
        raise UserError("both --preset and -c", f"{preset}, {file}", "give one; a file may say `extends: PRESET`")
    where = f"preset {preset}"
    if file is not None:
        where = str(file)
        tree = read_yaml(Path(file))
        parent = tree.pop("extends", None)
        values, origins = preset_tree(parent) if parent else ({}, {})
        for path, value in flatten(tree).items():
            set_path(values, path, value if path in _texts() else _numbers(value), where)
            origins[path] = where
    else:
        values, origins = preset_tree(preset or DEFAULT_PRESET)
    for path, value in parse_sets(sets).items():
        set_path(values, path, value, f"--set {path}")
        origins[path] = "--set"
        where = f"--set {path}"
    config = build_config(values, where)
    return Resolved(config, {path: origins.get(path, "default") for path in known_paths()})


def dump(config: ExperimentConfig) -> str:
    """The config as YAML that `resolve(file=...)` reads back to an equal object."""
    import yaml

    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return str(yaml.dump(config.model_dump(mode="json"), Dumper=dumper, sort_keys=False, width=120))
