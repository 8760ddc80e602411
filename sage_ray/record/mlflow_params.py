"""Which settings of a run MLflow shows as its params, and what the run is called there.

A run of a study shows what varies in the study, its system, its preset and its seed: what tells it from its neighbours
in the list. The run of the study itself, and a run of its own, show what differs from the preset: the one that the
config was begun from where that is known, else the nearest, which then has another name. The whole config is the
artifact `config.yaml` of each run.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from sage_ray.config import ExperimentConfig, flatten, preset_tree, shipped
from sage_ray.files import read_json
from sage_ray.metrics.definitions import is_lower_better
from sage_ray.record.run_record import RunRecord

STUDY_FILES = ("design.yaml", "space.yaml")
OBJECTIVE: dict[str, Any] = {"metric": "val/dice", "reduce": "plateau", "direction": None}
"""What holds where a study's file does not name an objective, or a part of it."""
MAX_PARAM_CHARS = 6000
MAX_VARIED = 20
"""Arms that differ in more settings than these are other networks or presets: their name says more."""
NEAREST = "nearest_preset"
"""Param in place of `preset` where it is not known what a config was begun from: the one that it differs least from."""
_EPOCHS = ("pretrain.epochs", "adversarial.epochs")


def shown_params(config: ExperimentConfig, record: RunRecord, studies: Path) -> dict[str, str]:
    """Params of a run of a study or of one of its own; a setting keeps the dotted name that it has in the config.

    Args:
        config: of the run.
        record: of the run.
        studies: folder of the home's studies.
    """
    found, preset = _settings(config), preset_of_run(record, studies)
    asked = asked_params(record, studies) if record.study else None
    names = sorted(own_settings(config, preset)) if asked is None else [name for name in asked if name in found]
    values: dict[str, Any] = {name: found[name] for name in names}
    if record.arm is not None:
        values["arm"] = record.arm
    return _texts({**values, **_common(config, preset), "seed": config.seed})


def asked_params(record: RunRecord, studies: Path) -> list[str] | None:
    """Names of the settings that a run of a study shall show, whether it has them or not; None: its study is gone."""
    if not record.study:
        return []
    return varied(studies / record.study) if (studies / record.study / "study.json").is_file() else None


def study_params(base: ExperimentConfig, preset: str | None = None) -> dict[str, str]:
    """Params of the run that holds those of a study: what all its runs have and its preset does not.

    Args:
        base: of the study, or the config of a final training.
        preset: that it was begun from; None: not known.
    """
    return _texts({**own_settings(base, preset), **_common(base, preset)})


def run_name(record: RunRecord, studies: Path) -> str:
    """What a run is called in MLflow, what tells it from its neighbours first: "t0003-s0 of STUDY".

    An arm has its label, if the design gives one: "Without mixing, s0 of STUDY". A run of its own has its id.
    """
    owner = record.parent or record.study
    if owner is None or not record.run_id.startswith(f"{owner}-"):
        return record.run_id
    own, arm = record.run_id.removeprefix(f"{owner}-"), record.arm or ""
    label = labels(studies / record.study).get(arm) if record.study else None
    if label and own.startswith(f"{arm}-"):
        own = f"{label}, {own.removeprefix(f'{arm}-')}"
    return f"{own} of {owner}"


def system_of(config: ExperimentConfig) -> str:
    """What is trained: the system of phase 2, or the one network of a run without it."""
    return config.adversarial.system if config.adversarial.num_epochs else config.segmenter.name


def preset_of_run(record: RunRecord, studies: Path) -> str | None:
    """The shipped preset that the config of a run was begun from; None: not known.

    The study of a run says it. A run of its own has it in the id that was made for it, beside the hash of its config.
    """
    if record.study:
        study = studies / record.study
        if record.parent in (None, record.study):
            return preset_of_study(study, record.arm)
        # A final training may be that of any arm.
        return None if (study_facts(study).get("presets") or {}).get("arms") else preset_of_study(study)
    named = re.fullmatch(r"(.+)-([0-9a-f]{8})-s\d+", record.run_id)
    if named is None or not record.config_hash.startswith(named[2]):
        return None
    return named[1] if named[1] in _presets() else None


def preset_of_study(study: Path, arm: str | None = None) -> str | None:
    """The shipped preset that the base of a study, or one arm of it, was begun from; None: not known.

    Args:
        study: folder of the study.
        arm: one of its arms; None: the base.
    """
    begun = study_facts(study).get("presets") or {}
    found = (begun.get("arms") or {}).get(arm) or begun.get("base")
    return str(found) if found in _presets() else None


def preset_words(shown: Mapping[str, str]) -> str:
    """How a description calls the preset among params: the one that was begun from, or the nearest, said as such."""
    if "preset" in shown:
        return f"preset `{shown['preset']}`"
    return f"nearest preset `{shown[NEAREST]}`"


def nearest_preset(config: ExperimentConfig) -> str:
    """The shipped preset that a config differs least from, data and seed aside."""
    return _nearest(config)[0]


def own_settings(config: ExperimentConfig, preset: str | None = None) -> dict[str, Any]:
    """Settings, by dotted name, that differ from a preset, the nearest without one; `data.path` is one of them."""
    return _nearest(config)[1] if preset is None else _apart(_settings(config), preset)


def varied(study: Path) -> list[str]:
    """Dotted names of the settings that differ between the runs of a study; none if its files cannot be read.

    An ablation whose arms differ in more than `MAX_VARIED` settings names none: its arms are other presets.
    """
    tree, facts = study_tree(study), study_facts(study)
    names: dict[str, None] = dict.fromkeys(tree.get("space") or {})
    for point in tree.get("points") or ():
        names |= dict.fromkeys(flatten(point))
    arms = [arm for arm in facts.get("arms") or () if not arm.get("not_run")]
    differing = dict.fromkeys(name for arm in arms for name in arm.get("values") or {})
    if any(arm.get("budget") for arm in arms):
        differing |= dict.fromkeys(_EPOCHS)
    if len(differing) <= MAX_VARIED:
        names |= differing
    names |= {"data.split.fold": None} if tree.get("folds") else {}
    names |= {"data.split.subset": None} if tree.get("subsets") else {}
    return list(names)


def labels(study: Path) -> dict[str, str]:
    """Names for people of a study's arms, those that have one."""
    return {arm["name"]: arm["label"] for arm in study_facts(study).get("arms") or () if arm.get("label")}


def objective_of(study: Path) -> dict[str, Any] | None:
    """Metric, reduction and direction of a study's first objective, from its own file; None if that cannot be read."""
    tree = study_tree(study)
    if not tree:
        return None
    try:
        listed = tree.get("objective") or {}
        written = {**OBJECTIVE, **(listed[0] if isinstance(listed, list) else listed)}
    except (TypeError, IndexError):
        return None
    metric, direction = str(written["metric"]), written["direction"]
    maximize = not is_lower_better(metric) if direction is None else direction == "maximize"
    return {"metric": metric, "reduce": str(written["reduce"]), "maximize": maximize}


def study_tree(study: Path) -> Mapping[str, Any]:
    """What a study's own file says, design or space; empty if it cannot be read. Not to be changed."""
    return next((tree for name in STUDY_FILES if (tree := _read(study / name))), MappingProxyType({}))


def study_facts(study: Path) -> Mapping[str, Any]:
    """What study.json says; empty if it cannot be read. Not to be changed."""
    return _read(study / "study.json")


def _read(path: Path) -> Mapping[str, Any]:
    try:
        return _parsed(path, path.stat().st_mtime_ns)
    except OSError:
        return MappingProxyType({})


@functools.lru_cache(maxsize=64)
def _parsed(path: Path, _changed: int) -> Mapping[str, Any]:
    """A file of a study, read once while it stays as it is: a sync asks for it once for each run."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        tree = read_json(path) if path.suffix == ".json" else yaml.load(path.read_text(encoding="utf-8"), loader)
    except (OSError, ValueError, yaml.YAMLError):
        return MappingProxyType({})
    return tree if isinstance(tree, dict) else MappingProxyType({})


def _common(config: ExperimentConfig, preset: str | None) -> dict[str, Any]:
    begun = {NEAREST: nearest_preset(config)} if preset is None else {"preset": preset}
    return {"system": system_of(config), **begun}


def _settings(config: ExperimentConfig) -> dict[str, Any]:
    return flatten(config.model_dump(mode="json", exclude={"runtime"}))


def _nearest(config: ExperimentConfig) -> tuple[str, dict[str, Any]]:
    """Name of the nearest preset that trains the same, the shortest of equals, and the settings that differ from it."""
    mine = _settings(config)
    del mine["seed"]

    def distance(name: str) -> tuple[bool, int, int]:
        theirs = _presets()[name]
        apart = sum(value != theirs[path] for path, value in mine.items() if path != "data.path")
        return _trained(theirs) != _trained(mine), apart, len(name)

    nearest = min(_presets(), key=distance)
    return nearest, _apart(mine, nearest)


def _apart(mine: Mapping[str, Any], preset: str) -> dict[str, Any]:
    """The settings, the seed aside, that differ from those of a preset."""
    theirs = _presets()[preset]
    return {path: value for path, value in mine.items() if path != "seed" and value != theirs[path]}


def _trained(settings: Mapping[str, Any]) -> str:
    """What settings train: the system of phase 2, or the network of phase 1 alone."""
    phase_2 = settings["adversarial.epochs"] or settings["adversarial.steps"]
    return str(settings["adversarial.system"] if phase_2 else settings["segmenter.name"])


@functools.cache
def _presets() -> dict[str, dict[str, Any]]:
    """All settings of each shipped preset, by dotted name."""
    default = _settings(ExperimentConfig())
    return {name: {**default, **flatten(preset_tree(name)[0])} for name in shipped("preset", None)}


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {name: text_of(value)[:MAX_PARAM_CHARS] for name, value in values.items()}


def text_of(value: Any) -> str:
    """A value as MLflow holds it: a text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)
