"""An arm of an ablation design: its config, what it is called, and how long it is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from sage_ray.config import ExperimentConfig, check_path, flatten
from sage_ray.errors import UserError
from sage_ray.stages.keys import stage_keys
from sage_ray.stages.pair_stages import pair_stages
from sage_ray.study.arm_budgets import BUDGETED, TOTAL, budget_values, check_budget, followed_epochs, one_epoch
from sage_ray.study.base_config import base_config, located
from sage_ray.study.design_schema import ArmPart, BudgetPart, DesignFile
from sage_ray.study.factors import Combination

NOT_IN_AN_ARM = {
    "runtime.": "arms are compared under the same numerics; set it under base.set",
    "seed": "every arm has the same seeds; list them under seeds",
    "data.split.subset": "every arm has the same subsets of labelled images; list them under subsets",
}
PAIRED = ("data.path", "data.image_size", "data.crop_bottom", "data.split.")
"""What every arm must have in common, so that its scores are on the same pixels of the same images."""
LABELLING = ("data.split.labels", "data.split.subset", "data.split.unlabelled")
"""What of the split arms may differ in: it takes training images away, and leaves those that are scored as they are."""


@dataclass(frozen=True)
class Arm:
    """One variant of an ablation.

    Attributes:
        name: as in tables and run ids.
        config: at the base's seed and fold.
        values: where the config differs from the design's base, by path.
        levels: level of each factor; {} for a listed arm.
        not_run: why it is not trained; None if it is.
        label: its name in tables and figures, if it has one.
        budget: what its epochs follow, if they do; those in GPU-seconds are an estimate until the reference has run.
    """

    name: str
    config: ExperimentConfig
    values: dict[str, Any]
    levels: Combination
    not_run: str | None
    label: str | None = None
    budget: BudgetPart | None = None

    @property
    def full_name(self) -> str:
        """What a person reads: its label with the name behind it, or the name alone."""
        return f"{self.label} ({self.name})" if self.label else self.name

    @property
    def follows(self) -> str | None:
        """The arm whose run has to end before it is known how long this one's is; None if that is known."""
        return self.budget.of if self.budget is not None and self.budget.unit == "gpu_seconds" else None

    @property
    def epochs(self) -> int:
        """Number of epochs of all its own stages."""
        return self.config.num_epochs

    @cached_property
    def chain(self) -> tuple[str, ...]:
        """Keys of its stages, alike in two arms that can share the stage; they hold for one seed, fold and data set."""
        pretrain = self.config.pretrain.model_copy(update={"checkpoint": None})
        split = str(self.config.data.split.labels or "")
        plain = self.config.with_sections(pretrain=pretrain)
        return (*pair_stages(plain, "", split, {}).keys().values(), *stage_keys(plain, "", split, {}).values())

    @property
    def phase_one(self) -> str | None:
        """Key of its phase 1, likewise; None if it has none."""
        if not self.config.pretrain.num_epochs:
            return None
        return self.chain[-2 if self.config.adversarial.num_epochs else -1]

    @property
    def outcome(self) -> tuple[Any, ...]:
        """All that a run's result depends on, beside seed, fold and data: equal ones would train the same twice."""
        config = self.config
        epochs = (self.epochs, config.pretrain.num_epochs) if self.follows is None else (self.follows,)
        return (self.chain, *epochs, config.pretrain.checkpoint, config.evaluation.select)


def arms_as_listed(
    file: DesignFile, base: ExperimentConfig, source: str, folder: Path, sets: Mapping[str, Any]
) -> tuple[Arm, ...]:
    """The arms of a file that lists them, in its order; those with a budget follow the others."""
    arms: dict[str, Arm] = {}
    for name, part in sorted(file.arms.items(), key=lambda item: item[1].budget is not None):
        where, values = f"{source}, arms.{name}", flatten(part.set)
        given: dict[str, Any] = {}
        if part.budget is not None:
            check_budget(name, part, file.arms, values, where)
            followed = arms[part.budget.of].config
            any_epochs = {**one_epoch(base), TOTAL: 1}
            rooted = _root(file, part, base, folder, sets, any_epochs, where)
            own = make_arm(name, rooted, values | any_epochs, where, base, {}, None).config
            try:
                given = budget_values(own, followed_epochs(part.budget, own, followed))
            except ValueError as error:
                raise UserError("no such budget", f"{where}.budget", f"change the budget: {error}") from None
        root = _root(file, part, base, folder, sets, given, where)
        arm = make_arm(name, root, values | given, where, base, {}, part.not_run)
        if part.budget is not None and arm.config.adversarial.num_epochs:
            mend = "set adversarial.epochs (and adversarial.steps) to 0 in the arm, or drop its budget"
            raise UserError("a budget is of arms that have phase 1 alone", f"{where}.budget", mend)
        arms[name] = replace(arm, label=part.label, budget=part.budget)
    return tuple(arms[name] for name in file.arms)


def _root(
    file: DesignFile,
    part: ArmPart,
    base: ExperimentConfig,
    folder: Path,
    sets: Mapping[str, Any],
    given: Mapping[str, Any],
    where: str,
) -> ExperimentConfig:
    """What an arm starts from: the base, or its preset under the base's sets, which a budget overrides."""
    if part.preset is None:
        return base
    # What is set for all must fit the arm's preset only where the arm does not set it itself.
    values = flatten(part.set)
    mine = {path: values.get(path, value) for path, value in sets.items()}
    written = {path: values.get(path, value) for path, value in flatten(file.base.set).items()}
    under = file.base.model_copy(update={"set": {**written, **given}})
    try:
        own = base_config(under, folder, {**mine, **given}, preset=part.preset)
    except UserError as error:
        raise UserError(
            error.what, f"{where}, preset {part.preset} under base.set, {error.where}", error.mend
        ) from None
    return own.model_copy(update={"runtime": base.runtime})


def make_arm(
    name: str,
    root: ExperimentConfig,
    values: Mapping[str, Any],
    where: str,
    base: ExperimentConfig,
    levels: Combination,
    not_run: str | None,
) -> Arm:
    """The arm that `values` make of `root`; raises UserError naming the arm and the key."""
    for path in values:
        check_path(path, where)
        for prefix, reason in NOT_IN_AN_ARM.items():
            if path == prefix or (prefix.endswith(".") and path.startswith(prefix)):
                raise UserError(f"{path} cannot differ between arms", where, reason)
    try:
        config = located(root.with_values(values))
    except UserError as error:
        raise in_arm(error, where) from None
    mine, its = flatten(config.model_dump(mode="json")), flatten(base.model_dump(mode="json"))
    differing = {path: value for path, value in mine.items() if value != its[path]}
    for path in differing:
        if path.startswith(PAIRED) and path not in LABELLING:
            mend = f"set it under base.set, for all arms (here {mine[path]!r}, in the base {its[path]!r})"
            raise UserError(f"arms with different {path} do not compare", where, mend)
    return Arm(name, config, differing, levels, not_run)


def in_arm(error: UserError, where: str) -> UserError:
    """The error of a config as one of the arm that `where` names."""
    key = error.where.removeprefix("override").removeprefix(", ")
    return UserError(error.what, f"{where}, {key}" if key else where, error.mend)


def own_values(arm: Arm) -> dict[str, Any]:
    """The values of an arm but those that its budget decides on."""
    return {path: value for path, value in arm.values.items() if arm.budget is None or path not in BUDGETED}


def extras_of(arm: Arm) -> dict[str, Any]:
    """What an arm has beside its values, as in the file."""
    budget = None if arm.budget is None else arm.budget.model_dump(mode="json", by_alias=True)
    return {key: value for key, value in (("label", arm.label), ("budget", budget)) if value is not None}
