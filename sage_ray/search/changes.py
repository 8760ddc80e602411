"""What of a study that exists may change, and what becomes of its trials then.

`resume NAME --set ...`, and `sweep` or `ablate` with an edited file, come here with the study's file as it was and as
it is wanted. What a trial was trained on or judged by stays; what is asked beside may grow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sage_ray.config import flatten, parse_sets, read_yaml
from sage_ray.errors import UserError, did_you_mean
from sage_ray.identity import identity_tree
from sage_ray.search.storage import TrialRow
from sage_ray.search.study_folder import StudyFolder
from sage_ray.study.arm import extras_of
from sage_ray.study.base_config import hashed_device, set_own
from sage_ray.study.design import Design, build_design
from sage_ray.study.design_schema import DesignFile
from sage_ray.study.file_schema import SpaceFile, parse_file
from sage_ray.study.space import Space, build_space
from sage_ray.study.spec import StudySpec

FREE = ("max_hours", "max_gpu_hours", "max_failures_in_a_row", "concurrency", "storage")
"""Keys that say nothing of the trials themselves."""
OF_SEARCH = ("trials", "seeds", "folds", "space", "points", "constraints", "sampler", "scheduler", *FREE)
OF_ABLATION = ("arms", "factors", "seeds", "folds", "subsets", "test", *FREE)
OF_RUNTIME = ("silence_minutes", "max_retries", "snapshot_seconds", "pictures")
"""Settings of `runtime` that change neither what is computed nor where."""
_PARTS = ("float", "int", "categorical", "tie", "log", "step", "when")


@dataclass(frozen=True)
class Change:
    """One key of a study that is to change, with both its values (None: it is not there)."""

    key: str
    old: Any
    new: Any

    @property
    def top(self) -> str:
        """The key of the file that it belongs to."""
        return self.key.split(".")[0]

    def __str__(self) -> str:
        return f"{self.key} was {_short(self.old)}, is {_short(self.new)}"


def may_change(kind: str) -> tuple[str, ...]:
    """Keys of the file of a search ("sweep") or an "ablation" that may change."""
    return OF_SEARCH if kind == "sweep" else OF_ABLATION


def changes_between(old: StudySpec, new: StudySpec) -> list[Change]:
    """All keys in which two files of a study differ, the settings of the base as base.PATH."""
    before, after = _flat(old), _flat(new)
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return [Change(key, before.get(key), after.get(key)) for key in keys]


def check_changes(old: StudySpec, new: StudySpec, rows: list[TrialRow], folder: StudyFolder) -> list[Change]:
    """The changes of a study, each of which may be made.

    Args:
        old: the study's file as it stands in its folder.
        new: as it is wanted.
        rows: trials that were started.
        folder: the study.

    Raises:
        UserError: a key must not change, with its old and new value, or would take away what has been trained.
    """
    changes = changes_between(old, new)
    free = may_change(old.kind)
    fixed = [change for change in changes if change.top not in free]
    if old.kind != new.kind:
        raise UserError(f"study is {old.kind}, not {new.kind}", folder.name, "choose another --name")
    if fixed:
        listed = "; ".join(map(str, fixed[:3])) + (f"; and {len(fixed) - 3} more" if len(fixed) > 3 else "")
        mend = f"choose another --name, or leave that as it was ({', '.join(free)} may change)"
        raise UserError(f"study exists with another {old.noun}", f"{folder.name}: {listed}", mend)
    _check_losses(old, new, rows, folder)
    return changes


def _check_losses(old: StudySpec, new: StudySpec, rows: list[TrialRow], folder: StudyFolder) -> None:
    """Raise UserError if a change would leave out what has begun."""
    if old.kind == "sweep" and new.trials < len(rows):
        mend = f"give {len(rows)} or more; `sage-ray forget` removes a whole study"
        raise UserError(f"{new.trials} trials, but {len(rows)} have begun", folder.name, mend)
    repeats = [(key, getattr(old.file, key, ()), getattr(new.file, key, ())) for key in ("seeds", "folds", "subsets")]
    for key, before, after in repeats:
        gone = [value for value in before if value not in after]
        if gone and rows:
            raise UserError(f"{key} {gone} would be left out", folder.name, f"{key} may be added; keep {list(before)}")
    for key, before, after in repeats[1:]:
        if rows and bool(before) != bool(after):
            mend = f"its runs are named without a {key[:-1]}: begin another study, which takes over their stages"
            raise UserError(f"{key} cannot be added to a study without", folder.name, mend)
    if isinstance(old, Design) and isinstance(new, Design):
        _check_arms(old, new, folder)


def _check_arms(old: Design, new: Design, folder: StudyFolder) -> None:
    begun = {place.arm: number for number, (_, place) in enumerate(old.cells) if folder.run_folders(old, number)}
    after = {arm.name: arm for arm in new.arms}
    for arm in old.arms:
        if arm.name not in begun:
            continue
        changed = after.get(arm.name)
        if changed is None or changed.not_run is not None:
            raise UserError(f"arm {arm.name} would be left out", folder.name, "it has runs; keep it")
        if (changed.config.identity(), changed.follows) != (arm.config.identity(), arm.follows):
            raise UserError(f"arm {arm.name} would be another", folder.name, "it has runs; add an arm of a new name")


def changed_spec(folder: StudyFolder, sets: Iterable[str] | Mapping[str, Any]) -> StudySpec:
    """The study's file with keys set, such as {"trials": 64, "space.adversarial.lr": {"float": [1e-5, 1e-2]}}.

    Raises:
        UserError: no key of the file, or a refused value.
    """
    pairs = parse_sets(sets)
    old = folder.spec()
    free = may_change(old.kind)
    runtime = {key: pairs.pop(key) for key in [f"runtime.{name}" for name in OF_RUNTIME] if key in pairs}
    for key in pairs:
        if key.split(".")[0] not in free:
            listed = ", ".join((*free, *(f"runtime.{name}" for name in OF_RUNTIME)))
            mend = did_you_mean(key, free, f"these may: {listed}; for anything else begin another study", least=0.7)
            raise UserError(f"{key} cannot change in a study that exists", folder.name, mend)
    tree = read_yaml(folder.spec_path)
    for key in [key for key in pairs if key.startswith("space.")]:
        _set_dimension(tree, key.removeprefix("space."), pairs.pop(key))
    set_own(tree, pairs)
    return _build(tree, folder.spec_path, old.kind, runtime)


def _build(tree: dict[str, Any], path: Path, kind: str, runtime: Mapping[str, Any]) -> StudySpec:
    if kind == "sweep":
        return build_space(parse_file(SpaceFile, tree, str(path)), str(path), path.parent, runtime)
    return build_design(parse_file(DesignFile, tree, str(path)), str(path), path.parent, runtime)


def _set_dimension(tree: dict[str, Any], path: str, value: Any) -> None:
    """Set a dimension, one part of it ("adversarial.lr.float"), or remove it (null)."""
    space = tree["space"]
    head, _, part = path.rpartition(".")
    if part in _PARTS and path not in space:
        space[head] = {**space.get(head, {}), part: value}
    elif value is None:
        space.pop(path, None)
    else:
        space[path] = value


def _flat(spec: StudySpec) -> dict[str, Any]:
    """What a study's file says, key by key; dimensions and arms are one key each."""
    left_out = {"name", "base", "space", "arms", "factors", "earlier"}
    tree = flatten(identity_tree(spec.file, exclude=left_out & set(type(spec.file).model_fields), by_alias=True))
    tree |= spec.file.model_dump(mode="json", include=set(FREE))
    tree["objective.direction"] = spec.objective.direction
    flat = {f"base.{path}": value for path, value in flatten(spec.base.identity()).items()}
    flat |= {"base.runtime.device": hashed_device(spec.base, spec.file), **tree}
    if isinstance(spec, Space):
        parts = spec.file.space.items()
        flat |= {
            f"space.{path}": part.model_dump(mode="json", by_alias=True, exclude_defaults=True) for path, part in parts
        }
        flat["trials"] = spec.trials
    if isinstance(spec, Design):
        flat |= {f"arms.{arm.name}": {"set": arm.values, "not_run": arm.not_run, **extras_of(arm)} for arm in spec.arms}
    return flat


def _short(value: Any) -> str:
    text = " ".join(yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").split())
    return "absent" if value is None else text if len(text) <= 60 else f"{text[:57]}..."
