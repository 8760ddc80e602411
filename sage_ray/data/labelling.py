"""How many labels a run has seen: those it trains on, and those of the validation part where they choose something."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sage_ray.config import ExperimentConfig
from sage_ray.data.splits import Split

CHOOSING = (
    "evaluation.select", "pretrain.handoff", "pretrain.epochs", "pretrain.steps", "adversarial.epochs",
    "adversarial.steps", "pretrain.schedule.rule", "adversarial.schedule.rule",
)  # fmt: skip
"""The settings that `validation_choices` reads."""


def validation_choices(get: Callable[[str], Any]) -> list[str]:
    """The settings by which validation labels have a say in a run, such as "evaluation.select=best"; [] without any.

    Args:
        get: value of a setting by its path; None where a run of an earlier release has none.
    """
    trained = {phase: bool(get(f"{phase}.epochs") or get(f"{phase}.steps")) for phase in ("pretrain", "adversarial")}
    found = []
    if get("evaluation.select") == "best":
        found.append("evaluation.select=best")
    if all(trained.values()) and get("pretrain.handoff") == "best":
        found.append("pretrain.handoff=best")
    plateau = (phase for phase, runs in trained.items() if runs and get(f"{phase}.schedule.rule") == "plateau")
    return found + [f"{phase}.schedule.rule=plateau" for phase in plateau]


def labels_seen(split: Split, config: ExperimentConfig) -> int:
    """Number of labelled images that a run learns or chooses from."""
    chosen = len(split.validation) if validation_choices(config.get) else 0
    return len(split.train) + chosen


def labelling_line(split: Split, config: ExperimentConfig) -> str | None:
    """What a run with `data.split.labels` learns and chooses from, in a sentence; None without."""
    settings = config.data.split
    if not settings.labels:
        return None
    count = len(split.train)
    asked = f" of the {settings.labels} asked for, as crops of one micrograph stay together" * (count < settings.labels)
    use = "the image discriminator sees them too" if settings.unlabelled == "disc_image" else "left out"
    line = f"labels: {count} training images{asked} (subset {settings.subset}); {len(split.unlabelled)} others: {use}"
    choices = validation_choices(config.get)
    if not choices or not len(split.validation):
        return f"{line}; no validation label chooses anything"
    beside = f"{len(split.validation)} validation labels choose by {', '.join(choices)}"
    return f"{line}; {beside}: {labels_seen(split, config)} labels in all"
