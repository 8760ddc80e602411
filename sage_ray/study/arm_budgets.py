"""Budgets of arms that follow another arm's, so that arms are compared at equal epochs, steps or GPU-seconds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sage_ray.config import ExperimentConfig
from sage_ray.errors import UserError
from sage_ray.sections import AdversarialConfig, PretrainConfig
from sage_ray.study.design_schema import ArmPart, BudgetPart
from sage_ray.study.file_schema import nearest
from sage_ray.system_rules import has_segmenter

EPOCHS, STEPS, TOTAL = "pretrain.epochs", "pretrain.steps", "pretrain.schedule.total_epochs"
EACH = "pretrain.epoch_steps"

BUDGETED = (EPOCHS, STEPS, TOTAL)
"""What a budget decides on."""


def followed_epochs(budget: BudgetPart, own: ExperimentConfig, reference: ExperimentConfig) -> int:
    """Epochs of phase 1 that give an arm of phase 1 alone the budget of the reference.

    epochs: those of both phases of the reference. steps: batches that the reference's segmenter learns from, in epochs
    of the arm, rounded up: one per step of either phase, and one more in each step of phase 2 that mixes generated
    images in (their expected number; systems other than sage_gan do so in every step). Batches of different sizes are
    taken to be as many as the sizes go into the images, which is exact where they divide them, and where budgets are in
    steps. gpu_seconds: not known before the reference has run; here its epochs.

    Raises:
        ValueError: steps of a reference without a segmenter, of phases that learn from different numbers of images, or
            of budgets some of which are in steps and others in epochs.
    """
    pretrain, adversarial = reference.pretrain, reference.adversarial
    if budget.unit != "steps":
        return pretrain.num_epochs + adversarial.num_epochs
    if not has_segmenter(adversarial):
        raise ValueError(f"{budget.of} has no segmenter whose steps could be counted: give the budget in epochs")
    phases = [phase for phase in (own.pretrain, pretrain, adversarial) if phase.num_epochs]
    if len({bool(phase.steps) for phase in phases}) > 1:
        mend = "give both phases steps, or both epochs: how many images an epoch has is not known"
        raise ValueError(f"{budget.of} and the arm that follows it have budgets in steps and in epochs; {mend}")
    if _images(own) != _images(reference):
        mend = "set pretrain.steps (and adversarial.steps) instead of epochs, or give the budget in epochs"
        raise ValueError(f"an epoch over rendered pairs and one over real images differ in steps: {mend}")
    ours = _epoch_steps(own.pretrain)
    followed = pretrain.num_epochs * _epoch_steps(pretrain) / ours
    followed += (adversarial.num_epochs + _mixed_epochs(adversarial)) * _epoch_steps(adversarial) / ours
    return math.ceil(followed - 1e-9)


def _mixed_epochs(adversarial: AdversarialConfig) -> float:
    """Epochs of phase 2, or parts of them, whose steps have a generated batch that the segmenter learns from."""
    if not adversarial.lambda_cycle * adversarial.weights.rec_mask > 0:
        return 0.0
    if adversarial.system != "sage_gan":
        return adversarial.num_epochs
    return math.fsum(adversarial.mix_probability(epoch) for epoch in range(adversarial.num_epochs))


def _images(config: ExperimentConfig) -> int | None:
    """How many rendered pairs an epoch of phase 1 has; None: it has the training images, or a number of steps."""
    rendered = config.render.train_on_pairs and config.pretrain.num_epochs and not config.pretrain.steps
    return config.render.pairs if rendered else None


def _epoch_steps(phase: PretrainConfig | AdversarialConfig) -> float:
    """Steps of an epoch of a phase; where its budget is in epochs, as a share of the training images."""
    return phase.epoch_steps if phase.steps else 1 / phase.batch_size


def budget_values(config: ExperimentConfig, epochs: int) -> dict[str, Any]:
    """What a budget of so many epochs sets: a polynomial rate runs down over all of them."""
    return _phase_one(config, epochs) | ({TOTAL: epochs} if config.pretrain.schedule.rule == "poly" else {})


def one_epoch(config: ExperimentConfig) -> dict[str, int]:
    """A budget of one epoch of phase 1, in epochs or in steps as that of the config."""
    return _phase_one(config, 1)


def _phase_one(config: ExperimentConfig, epochs: int) -> dict[str, int]:
    """So many epochs of phase 1, whole: they hold over a preset's, too, whichever budget that one has."""
    each = config.pretrain.epoch_steps
    return {EPOCHS: 0, STEPS: epochs * each, EACH: each} if config.pretrain.steps else {EPOCHS: epochs}


def check_budget(name: str, part: ArmPart, arms: Mapping[str, ArmPart], values: Mapping[str, Any], where: str) -> None:
    """Raise UserError unless the budget of arm `name` follows another arm that has epochs of its own."""
    assert part.budget is not None
    of = part.budget.of
    try:
        nearest(of, tuple(arms), "arm")
    except ValueError as error:
        raise UserError("bad value", f"{where}.budget.of", str(error)) from None
    if of == name or arms[of].budget is not None:
        raise UserError(f"{of} has no budget of its own", f"{where}.budget.of", "name an arm without a budget")
    if part.budget.unit == "gpu_seconds" and part.not_run is None and arms[of].not_run is not None:
        mend = f"give the budget in epochs or steps, or run {of}"
        raise UserError(f"{of} is not run, so that its seconds are not known", f"{where}.budget", mend)
    for path in BUDGETED:
        if path in values:
            raise UserError(f"budget and {path} are both given", where, "the budget decides on it: drop one")


def budget_line(name: str, budget: BudgetPart, config: ExperimentConfig) -> str:
    """What `plan` says of the budget of an arm."""
    epochs = config.pretrain.num_epochs
    if budget.unit == "gpu_seconds":
        return (
            f"{name} follows {budget.of}: as many epochs as take the GPU-seconds (on a CPU, seconds) of its run of the "
            f"same seed, known when that has ended; counted here as {epochs}"
        )
    counted = "batches that its segmenter learns from, generated ones too" if budget.unit == "steps" else "epochs"
    return f"{name} follows {budget.of}: {epochs} epochs, by the number of {counted}"
