"""What a study is, from the files in its folder: kind, arms and their reference, seeds, the score it was judged by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from sage_ray.analysis.labelled_subsets import READ, with_subsets
from sage_ray.analysis.tidy import Tidy
from sage_ray.errors import UserError
from sage_ray.files import read_json
from sage_ray.metrics.definitions import is_lower_better
from sage_ray.study.design_schema import DEFAULT_REFERENCE, FINAL_ARM


@dataclass(frozen=True)
class StudyFacts:
    """What is known of a study.

    Attributes:
        name: of its folder.
        kind: sweep or ablation.
        arms: of an ablation in the order of its design, those that are not run too; () of a sweep.
        reference: the arm that all others are compared with; None if it is not known.
        not_run: arms that are declared but not trained, with the reason.
        design: kind of the design (arms, one_factor, ...); "" if it is not known.
        levels: of each arm, factor to level; {} for a listed arm.
        seeds, folds, subsets: that every arm should have; () if the file is gone, or has none.
        metric, maximize: what a trial is judged by.
        notes: sentences on the structure of a fractional design.
        labels: names of arms for tables, where the design gives any.
        budgets: of the arms whose epochs follow another arm's: which one's (`of`), and in what (`in`).
    """

    name: str
    kind: str
    arms: tuple[str, ...] = ()
    reference: str | None = None
    not_run: Mapping[str, str] = field(default_factory=dict)
    design: str = ""
    levels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()
    folds: tuple[int, ...] = ()
    subsets: tuple[int, ...] = ()
    metric: str = "val/dice"
    maximize: bool = True
    notes: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    budgets: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def called(self, arm: str) -> str:
        """What tables and figures call an arm: its label, or its name."""
        return self.labels.get(arm, arm)

    def place_of(self, arm: str) -> int:
        """Place of an arm in the design's order; one that it does not list comes after all that it does."""
        return self.arms.index(arm) if arm in self.arms else len(self.arms)


def study_facts(tidy: Tidy, name: str) -> StudyFacts:
    """The facts of a study with runs; what its files do not say is taken from the runs.

    Raises:
        UserError: a file of the study is damaged.
    """
    folder = tidy.home.studies / name
    meta = _json(folder / "study.json")
    design, space = _yaml(folder / "design.yaml"), _yaml(folder / "space.yaml")
    file = design or space
    objective = file.get("objective") or {}
    metric = str(objective.get("metric", "val/dice"))
    direction = objective.get("direction") or ("minimize" if is_lower_better(metric) else "maximize")
    common: dict[str, Any] = {
        "name": name,
        "seeds": tuple(int(seed) for seed in file.get("seeds") or ()),
        "folds": tuple(int(fold) for fold in file.get("folds") or ()),
        "subsets": tuple(int(subset) for subset in file.get("subsets") or ()),
        "metric": metric,
        "maximize": direction == "maximize",
    }
    recorded = _recorded_arms(tidy, name)
    if space or (not design and not recorded):
        return StudyFacts(kind="sweep", **common)
    declared = _declared(meta, design)
    names = [*declared, *(arm for arm in recorded if arm not in declared)]
    reference = meta.get("reference") or design.get("reference") or DEFAULT_REFERENCE
    return StudyFacts(
        kind="ablation",
        arms=tuple(names),
        reference=reference if reference in names else None,
        not_run={arm: str(given["not_run"]) for arm, given in declared.items() if given.get("not_run")},
        design=str(meta.get("design") or design.get("kind") or ""),
        levels={arm: dict(given.get("levels") or {}) for arm, given in declared.items()},
        notes=tuple(str(line) for line in meta.get("fraction") or ()),
        labels={arm: str(given["label"]) for arm, given in declared.items() if given.get("label")},
        budgets={arm: dict(given["budget"]) for arm, given in declared.items() if given.get("budget")},
        **common,
    )


def study_runs(tidy: Tidy, name: str) -> pd.DataFrame:
    """Rows of `Tidy.runs` of a study, with its subsets (`labelled_subsets.with_subsets`).

    Final trainings are left out: they have splits and seeds of their own.
    """
    runs = tidy.runs([name])
    runs = runs[runs["arm"] != FINAL_ARM].reset_index(drop=True)
    return with_subsets(runs, tidy.settings([name], READ))


def _recorded_arms(tidy: Tidy, name: str) -> list[str]:
    runs = tidy.rows(kind="run", studies=[name], scores=["attempt"], columns=["arm", "trial"])
    named = runs[runs["arm"].notna() & (runs["arm"] != FINAL_ARM)].sort_values("trial")
    return list(dict.fromkeys(named["arm"]))


def _declared(meta: Mapping[str, Any], design: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Arms as study.json lists them; else as the design does (whose factors are not crossed here)."""
    arms: Sequence[Mapping[str, Any]] = meta.get("arms") or ()
    if arms:
        return {str(arm["name"]): arm for arm in arms}
    listed: Mapping[str, Any] = design.get("arms") or {}
    return {str(name): arm or {} for name, arm in listed.items()}


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(read_json(path))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError):
        raise UserError("damaged study", path, "restore the file, or remove the study's folder") from None


def _yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        raise UserError("damaged study", path, "restore the file, or remove the study's folder") from None
    return tree if isinstance(tree, dict) else {}
