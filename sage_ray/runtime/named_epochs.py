"""Epochs that the open studies of a home start trials from, so that a run which passes one leaves a snapshot there.

A study that is not finished has a file studies/NAME/budgets.json: for each family of stages, the epochs at which some
trial of it ends (and from which a longer one goes on). A family is what runs of one configuration have in common over
seeds, folds, data and numerics; its name is a stage key without these.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from sage_ray.config import ExperimentConfig
from sage_ray.files import read_json
from sage_ray.record.home import Home
from sage_ray.sections import PHASES
from sage_ray.stages.keys import stage_keys

FILE = "budgets.json"
Budgets = dict[str, set[int]]
"""Epochs by family."""


def families(config: ExperimentConfig) -> dict[str, str]:
    """The family of each stage that a config trains, by phase."""
    pretrain = config.pretrain.model_copy(update={"checkpoint": None})
    data = config.data.model_copy(update={"split": config.data.split.model_copy(update={"fold": 0})})
    return stage_keys(config.with_sections(seed=0, pretrain=pretrain, data=data), "", "", {})


def named_epochs(config: ExperimentConfig, home: Home) -> dict[str, list[int]]:
    """Epochs of each phase that an open study of the home names for the stages of a config, ascending."""
    own = families(config)
    found: dict[str, set[int]] = {phase: set() for phase in PHASES}
    home.study_names()  # brings them in where the home is in a bucket
    for path in home.studies.glob(f"*/{FILE}"):
        budgets = read_budgets(path)
        for phase, family in own.items():
            found.setdefault(phase, set()).update(budgets.get(family, set()))
    return {phase: sorted(epochs) for phase, epochs in found.items()}


def read_budgets(path: Path) -> Budgets:
    """What a budgets file says; nothing if it is gone or damaged, which costs some epochs trained again."""
    try:
        value = read_json(path)["families"]
        return {str(family): {int(epoch) for epoch in epochs} for family, epochs in value.items()}
    except (OSError, json.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError):
        return {}


def written(budgets: Mapping[str, set[int]]) -> dict[str, object]:
    """The content of a budgets file."""
    return {"format_version": 1, "families": {family: sorted(epochs) for family, epochs in sorted(budgets.items())}}
