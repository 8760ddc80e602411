"""The epochs that a study's trials start from, kept in its folder for as long as it is open."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from sage_ray.config import ExperimentConfig
from sage_ray.errors import UserError
from sage_ray.files import write_json
from sage_ray.followed import push
from sage_ray.runtime.named_epochs import FILE, Budgets, families, written
from sage_ray.search.study_folder import StudyFolder
from sage_ray.sections import PHASES
from sage_ray.study.dimension import Dimension
from sage_ray.study.spec import StudySpec

MAX_VALUES = 8
"""Most epochs that a range of budgets names. Of a wider range so many evenly spaced ones are named; a trial with
another budget starts from the nearest one below."""
BUDGETS = (".epochs", ".steps")
MAX_KNOWN = 512
"""Most configurations known beforehand that a study names at its start; others are named when their trials begin."""


class StudyBudgets:
    """budgets.json of an open study: budgets of its known and drawn trials, and those that it may draw for a family.

    Values of an epochs dimension count for the families of each drawn trial, unless a real-valued dimension belongs to
    the same stage: no other trial will then have that stage.
    """

    def __init__(self, folder: StudyFolder, spec: StudySpec) -> None:
        self._path, self._spec = folder.path / FILE, spec
        self._budgets: Budgets = {}

    def open(self, drawn: list[Mapping[str, Any]]) -> None:
        """Write the file for the configurations known beforehand and those of drawn trials (overrides of the base)."""
        known = [sample.values for sample in self._spec.fixed[:MAX_KNOWN]]
        for values in [*known, *drawn[-MAX_KNOWN:]]:
            with suppress(UserError):  # a trial that was refused ends nowhere
                self._add(values, self._spec.config(values))
        self._write()

    def note(self, values: Mapping[str, Any], config: ExperimentConfig) -> None:
        """Add the budgets of a trial that begins, of its values and the config of one of its runs."""
        if self._add(values, config):
            self._write()

    def close(self) -> None:
        """The study is finished and names nothing more."""
        self._path.unlink(missing_ok=True)
        push(self._path)

    def _write(self) -> None:
        write_json(self._path, written(self._budgets), durable=False)
        push(self._path)

    def _add(self, values: Mapping[str, Any], config: ExperimentConfig) -> bool:
        """Whether the budgets of the configuration were new."""
        before = sum(map(len, self._budgets.values()))
        own = families(config)
        for phase, family in own.items():
            epochs = self._budgets.setdefault(family, set())
            epochs.add(config.epochs_of(phase))
            drawn = self._drawn_epochs(f"{phase}.epochs", values)
            if phase in PHASES:
                per_epoch = config.phase(phase).epoch_steps
                drawn |= {steps // per_epoch for steps in self._drawn_epochs(f"{phase}.steps", values)} - {0}
            if not drawn <= epochs and not self._alone(config, values, phase, family):
                epochs |= drawn
        return sum(map(len, self._budgets.values())) > before

    def _drawn_epochs(self, path: str, values: Mapping[str, Any]) -> set[int]:
        """Epochs (or steps), above 0, that other trials may have where this one has its own."""
        dimension = next((d for d in self._spec.dimensions if d.path == path), None)
        return set() if dimension is None else {epochs for epochs in self._values(dimension, values) if epochs > 0}

    def _values(self, dimension: Dimension, values: Mapping[str, Any]) -> set[int]:
        if dimension.expression is None:
            return spaced(dimension)
        by_path = {d.path: d for d in self._spec.dimensions}
        axes = [
            sorted(spaced(by_path[path])) if path in by_path and path.endswith(BUDGETS) else [self._now(path, values)]
            for path in dimension.expression.paths
        ]
        found = set()
        for cell in itertools.islice(itertools.product(*axes), MAX_VALUES**2):
            chosen = dict(zip(dimension.expression.paths, cell, strict=True))
            found.add(int(dimension.expression.evaluate(chosen.__getitem__, dimension.path)))
        return found

    def _now(self, path: str, values: Mapping[str, Any]) -> Any:
        return values[path] if path in values else self._spec.base.get(path)

    def _alone(self, config: ExperimentConfig, values: Mapping[str, Any], phase: str, family: str) -> bool:
        """Whether a real-valued dimension of this configuration belongs to the stage, so that no trial repeats it."""
        for dimension in self._spec.dimensions:
            if dimension.kind != "float" or dimension.step is not None or dimension.path not in values:
                continue
            other = dimension.low if values[dimension.path] != dimension.low else dimension.high
            try:
                if families(config.with_values({dimension.path: other})).get(phase) != family:
                    return True
            except UserError:  # refused only together with other settings: it does belong to something
                return True
        return False


def spaced(dimension: Dimension) -> set[int]:
    """Whole values of a dimension: all of them, or `MAX_VALUES` evenly spaced ones with both ends."""
    if dimension.kind == "categorical":
        return {int(choice) for choice in dimension.choices}
    step = dimension.step or 1.0
    count = int((dimension.high - dimension.low) / step + 1e-8) + 1
    if count > MAX_VALUES:
        return {int(dimension.low + step * round(k * (count - 1) / (MAX_VALUES - 1))) for k in range(MAX_VALUES)}
    return {int(dimension.low + step * k) for k in range(count)}
