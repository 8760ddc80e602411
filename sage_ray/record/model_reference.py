"""From what a user calls a model (run id, folder, `models:/` URI) to a folder of safetensors weights and its origin."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sage_ray.config import ExperimentConfig, build_config, read_yaml
from sage_ray.errors import UserError, did_you_mean
from sage_ray.files import read_json
from sage_ray.followed import pull
from sage_ray.imaging.pickle_guard import refuse_pickle
from sage_ray.pair_source import PairSource
from sage_ray.record.home import Home
from sage_ray.record.model_versions import Version, download, get_version, parse_uri

if TYPE_CHECKING:
    from sage_ray.imaging.model import Model

SEGMENTER_FILE = "segmenter.safetensors"
WEIGHTS = (SEGMENTER_FILE, "generator.safetensors")
"""Files of which a model has at least one: a system may have no segmenter."""
PROVENANCE_FILE = "provenance.json"
MODEL_IN_RUN = Path("artifacts/model")
MODEL_IN_PACKAGE = Path("artifacts/model")
_MARKS = ("record.json", "MLmodel", "package/MLmodel", SEGMENTER_FILE, "generator.safetensors")
"""What tells a model's folder from one of pairs."""


@dataclass(frozen=True)
class ModelRef:
    """A model that exists: its folder and, as far as known, the run or the registry version that it came from."""

    text: str
    folder: Path
    kind: Literal["run", "folder", "registry"]
    run_id: str | None = None
    version: Version | None = None
    provenance: dict[str, Any] | None = None
    """Contents of provenance.json of a registered model."""

    def load(self) -> Model:
        """The networks, on the CPU. Raises UserError on pickled or damaged weights."""
        from sage_ray.imaging.model import load_model_folder

        return load_model_folder(self.folder)

    def config(self, home: Home) -> ExperimentConfig | None:
        """The config that the model was trained with; None for a folder that came from elsewhere."""
        if self.provenance is not None:
            return build_config(self.provenance["config"], f"{self.text}, {PROVENANCE_FILE}")
        path = self.folder.parent.parent / "config.yaml"
        if self.kind == "run" or path.is_file():
            return build_config(read_yaml(path), str(path))
        return None

    def identity(self) -> dict[str, Any]:
        """What a result made with this model records about it."""
        facts: dict[str, Any] = {"model": self.text, "kind": self.kind, "run_id": self.run_id}
        if self.version is not None:
            facts |= {"uri": self.version.uri, "name": self.version.name, "version": self.version.version}
        facts["weights_sha"] = weights_sha(self)
        return facts


def weights_sha(ref: ModelRef) -> str | None:
    """The run's `weights_sha` (sha256 over the selected weights in name order), if the origin tells it."""
    known = (ref.provenance or {}).get("weights_sha")
    if known is None:
        try:
            known = read_json(ref.folder / "model.json").get("weights_sha")
        except (OSError, ValueError, AttributeError):  # `load` tells what is wrong with it
            return None
    return None if known is None else str(known)


def resolve_model(text: str | Path, home: Home) -> ModelRef:
    """The model that `text` names: a run id or the id of a final training of this home, a folder, or a `models:/` URI.

    A folder may be a model folder, a run folder, a downloaded package, or finals/ID of a final training.

    Raises:
        UserError: there is no such model (the nearest name is given), it has no weights, or they are pickled.
    """
    name = str(text).strip()
    if not name:
        raise UserError("no model named", "MODEL", "give a run id, a folder or models:/NAME@ALIAS")
    if name.startswith("models:"):
        return _from_registry(name, home)
    if "/" not in name:
        pull(home.runs / name, all_sizes=True)
    if "/" not in name and (home.runs / name).is_dir():
        return _from_run(name, home)
    if "/" not in name and name in home.final_ids():
        return _from_final(name, home)
    path = Path(name).expanduser()
    if path.is_dir():
        return _from_folder(name, path.absolute())
    if path.is_file():
        refuse_pickle(path)
        raise UserError("not a model folder", path, f"give the folder that holds {SEGMENTER_FILE} and model.json")
    raise UserError("no such model", name, _nearest_run(name, home))


def segmenter_file(named: str, home: Home) -> Path:
    """The file of the segmenter that `pretrain.checkpoint` names: a safetensors file, or a MODEL.

    Raises:
        UserError: there is no such file or model, or it is pickled.
    """
    path = Path(named).expanduser()
    of_run = "/" not in named and named in home.run_ids()
    if not (named.startswith("models:") or of_run or path.exists()):
        mend = "give a segmenter's .safetensors file, a model folder, the id of a finished run, or models:/NAME@ALIAS"
        raise UserError("no such segmenter", f"pretrain.checkpoint={named}", mend)
    try:
        if path.is_file():
            refuse_pickle(path)
            return path.absolute()
        folder = resolve_model(named, home).folder
        if not (folder / SEGMENTER_FILE).is_file():
            raise UserError("model without segmenter", named, "name one of another system: it only generates images")
        return (folder / SEGMENTER_FILE).absolute()
    except UserError as error:
        raise UserError(error.what, f"pretrain.checkpoint={error.where}", error.mend) from None


def _has_weights(folder: Path) -> bool:
    return any((folder / name).is_file() for name in WEIGHTS)


def located_pairs(config: ExperimentConfig, home: Home) -> ExperimentConfig:
    """The config with a MODEL of `data.extra_pairs` as the folder of its weights; any other source as it is.

    Raises:
        UserError: there is no such model, nor a folder of pairs.
    """
    text = config.data.extra_pairs
    source = PairSource.parse(text) if text else None
    if source is None or source.kind != "place":
        return config
    name, path = source.name, Path(source.name).expanduser()
    if path.is_dir() and not any((path / mark).exists() for mark in _MARKS):
        return config
    if "/" in name and not name.startswith("models:") and not path.exists():
        mend = "give a folder with images/ and masks/, a run id, models:/NAME@ALIAS, or another source of pairs"
        raise UserError("no such folder of extra pairs", f"data.extra_pairs={text}", mend)
    try:
        folder = resolve_model(name, home).folder.absolute()
    except UserError as error:
        raise UserError(error.what, f"data.extra_pairs={error.where}", error.mend) from None
    found = str(PairSource("model", str(folder), source.pairs))
    return config.with_sections(data=config.data.model_copy(update={"extra_pairs": found}))


def _from_registry(name: str, home: Home) -> ModelRef:
    version = get_version(home, *parse_uri(name))
    package = download(home, version)
    return _from_package(name, package, version)


def _from_package(name: str, package: Path, version: Version | None) -> ModelRef:
    folder = package / MODEL_IN_PACKAGE
    if not _has_weights(folder):
        raise UserError("not a sage_ray model", name, "name a version that `sage-ray final` registered")
    path = package / "artifacts" / PROVENANCE_FILE
    provenance = read_json(path) if path.is_file() else None
    run_id = provenance.get("run_id") if provenance else None
    return ModelRef(name, folder, "registry" if version else "folder", run_id, version, provenance)


def _from_run(run_id: str, home: Home) -> ModelRef:
    folder = home.runs / run_id / MODEL_IN_RUN
    if not _has_weights(folder):
        raise UserError("run has no model", run_id, f"it has not finished; `sage-ray resume {run_id}` continues it")
    return ModelRef(run_id, folder, "run", run_id)


def _from_final(final_id: str, home: Home) -> ModelRef:
    folder = home.finals / final_id
    pull(folder, all_sizes=True)
    if not (folder / "package" / "MLmodel").is_file():
        raise UserError("final training has no model", final_id, f"`sage-ray resume {final_id}` goes on with it")
    return _from_package(final_id, folder / "package", None)


def _from_folder(name: str, path: Path) -> ModelRef:
    for package in (path, path / "package"):  # of a final training: finals/ID/package
        if (package / "MLmodel").is_file():
            return _from_package(name, package, None)
    folder = path / MODEL_IN_RUN if (path / "record.json").is_file() else path
    if _has_weights(folder):
        record = folder.parent.parent / "record.json"
        run_id = str(read_json(record)["run_id"]) if record.is_file() else None
        return ModelRef(name, folder, "folder", run_id)
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        refuse_pickle(file)
    mend = f"it needs {SEGMENTER_FILE} and model.json, as in runs/ID/{MODEL_IN_RUN}"
    raise UserError("no model in folder", path, mend)


def _nearest_run(name: str, home: Home) -> str:
    if name in home.study_names():
        return f"it is a study, of whose best trial `sage-ray final {name}` makes a model"
    otherwise = "give a run id (`sage-ray list`), a folder or models:/NAME@ALIAS"
    return did_you_mean(name, home.run_ids(), otherwise, least=0.5)
