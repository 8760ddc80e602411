"""Search space: a YAML file as a typed, checked object, and the way from a choice of values to a config."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from sage_ray.config import ExperimentConfig, check_path, stable_hash
from sage_ray.errors import UserError, did_you_mean
from sage_ray.identity import identity_tree
from sage_ray.study.base_config import (
    Sets,
    base_config,
    check_parts,
    find_file,
    hashed_device,
    read_tree,
    with_resources,
)
from sage_ray.study.dimension import Dimension, Sample
from sage_ray.study.expressions import parse
from sage_ray.study.file_schema import DimensionPart, SamplerPart, SchedulerPart, SpaceFile, parse_file
from sage_ray.study.spec import RunPlace, StudySpec
from sage_ray.training.build import check_names

MAX_GRID = 100_000
OWN_KEYS = frozenset(SpaceFile.model_fields) - {"base", "space", "points"}
NO_DIMENSION = {
    "runtime.": "it is no part of a run's identity; set it under base.set",
    "data.path": "scores on different images do not compare; make one study a data set",
    "data.split.": "scores on different splits do not compare; set it under base.set",
    "evaluation.min_object_pixels": "it changes what the scores mean; set it under base.set",
    "evaluation.boundary_tolerance": "it changes what the scores mean; set it under base.set",
}


@dataclass(frozen=True, kw_only=True)
class Space(StudySpec):
    """A checked search space. `dimensions` are in an order in which conditions and ties can be evaluated."""

    kind = "sweep"
    noun = "space"
    file_name = "space.yaml"
    verb = "sweep"
    may_change = "trials, max_hours and concurrency"

    file: SpaceFile

    @cached_property
    def hash(self) -> str:
        """16 hex digits over what makes two studies the same search; trials, hours and concurrency may grow."""
        left_out = {"name", "base", "trials", "max_hours", "concurrency"}
        tree = identity_tree(self.file, exclude=left_out, by_alias=True)
        return stable_hash({"base": self.base.identity(), "device": hashed_device(self.base, self.file), **tree})

    @cached_property
    def trials(self) -> int:
        """Number of trials of the whole study, points included."""
        if self.file.sampler.name == "grid":
            return min(len(self.fixed), self.file.trials or MAX_GRID)
        return self.file.trials or len(self.fixed)

    @property
    def sampler(self) -> SamplerPart:
        """How configurations are drawn, as the file says."""
        return self.file.sampler

    @property
    def scheduler(self) -> SchedulerPart:
        """Whether trials are stopped early, as the file says."""
        return self.file.scheduler

    @property
    def untuned(self) -> ExperimentConfig:
        """The base itself."""
        return self.base

    def run_grid(self, number: int) -> list[RunPlace]:
        """A run for each seed and fold; the fold stands in the name only where a study has several."""
        trial = f"{self.name}-t{number:04d}"
        return [
            RunPlace(f"{trial}-s{seed}" + ("" if fold is None else f"-f{fold}"), seed, fold)
            for seed, fold in self.seeds_and_folds()
        ]

    @cached_property
    def fixed(self) -> tuple[Sample, ...]:
        """Configurations known beforehand, in order: the points, then the cells of a grid that are no points."""
        samples = [self.point(point, f"{self.source}, points[{k}]") for k, point in enumerate(self.file.points)]
        if self.file.sampler.name == "grid":
            seen = {stable_hash(sample.params) for sample in samples}
            samples += [cell for cell in self._grid() if stable_hash(cell.params) not in seen]
        return tuple(samples)

    def sample(self, choose: Callable[[Dimension], Any]) -> Sample:
        """One configuration: `choose` gives the value of each active dimension, ties follow.

        Raises:
            UserError: a tie cannot be evaluated.
        """
        values: dict[str, Any] = {}
        drawn: dict[str, Any] = {}
        for dimension in self.dimensions:
            if not self._active(dimension, values):
                continue
            if dimension.expression is not None:
                where = f"{self.source}, space.{dimension.path}"
                value = dimension.expression.evaluate(lambda path: self._value(path, values), where)
                values[dimension.path] = int(value) if value == int(value) and self._whole(dimension.path) else value
            else:
                values[dimension.path] = choose(dimension)
                if dimension.contains(values[dimension.path]):
                    drawn[dimension.path] = values[dimension.path]
        return Sample(dict(values), values, drawn)

    def point(self, point: Mapping[str, Any], where: str) -> Sample:
        """The sample of a point: {} is the base untouched, a partial point takes the rest from the base.

        Raises:
            UserError: a path that is no free dimension, a value outside its range, an inactive condition.
        """
        free = {d.path: d for d in self.dimensions if d.kind != "tie"}
        for path in point:
            if path not in free:
                raise UserError(f"no free dimension {path}", where, did_you_mean(path, free, "use " + ", ".join(free)))
        given = {path: _normal(self.base, path, value, where) for path, value in point.items()}
        for path, value in given.items():
            if not free[path].contains(value):
                raise UserError(f"{path} = {value} lies outside its range", where, "move the point or widen the range")
        sample = self.sample(lambda dimension: given.get(dimension.path, self.base.get(dimension.path)))
        unused = [path for path in given if path not in sample.params]
        if unused:
            raise UserError(f"{unused[0]} is not active", where, "its `when` does not hold at this point; leave it out")
        if not point:
            params = {path: self.base.get(path) for path in sample.params}
            sample = Sample(params, {}, sample.drawn)
        self._refuse_outside(sample, where)
        return sample

    def max_epochs(self, number: int | None = None) -> int:
        """Largest number of epochs, both phases together, that a trial may have."""
        total = 0
        for path in ("pretrain.epochs", "adversarial.epochs"):
            largest = self.base.get(path)
            for dimension in self.dimensions:
                if dimension.path == path:
                    largest = max(largest, int(dimension.high), *(int(choice) for choice in dimension.choices))
            total += largest
        return total

    def to_yaml(self, base_file: str) -> str:
        """The space as YAML with `base_file` as its base."""
        tree = self.file.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        tree = {"name": self.name, "base": {"file": base_file}, **{k: v for k, v in tree.items() if k != "base"}}
        tree["base"] = {"file": base_file}
        return yaml.safe_dump(tree, sort_keys=False, width=120)

    def _refuse_outside(self, sample: Sample, where: str) -> None:
        free = [d.path for d in self.dimensions if d.kind != "tie"]
        outside = [path for path in free if path in sample.params and path not in sample.drawn]
        if outside and self.file.sampler.name in ("gp", "qmc"):
            path = outside[0]
            raise UserError(
                f"the base's {path} = {sample.params[path]} lies outside its range",
                where,
                f"sampler {self.file.sampler.name} needs it inside: widen the range, change base.set, or use tpe",
            )

    def _active(self, dimension: Dimension, values: Mapping[str, Any]) -> bool:
        return all(self._value(path, values) in allowed for path, allowed in dimension.when.items())

    def _value(self, path: str, values: Mapping[str, Any]) -> Any:
        return values[path] if path in values else self.base.get(path)

    def _whole(self, path: str) -> bool:
        return isinstance(self.base.get(path), int)

    def _grid(self) -> Iterable[Sample]:
        free = [d for d in self.dimensions if d.kind != "tie"]
        axes = [d.grid() for d in free]
        cells = 1
        for axis in axes:
            cells *= len(axis)
        if cells > MAX_GRID:
            raise UserError(f"grid of {cells} cells", self.source, f"at most {MAX_GRID}; use tpe or coarser steps")
        seen: set[str] = set()
        for cell in itertools.product(*axes):
            chosen = dict(zip((d.path for d in free), cell, strict=True))
            sample = self.sample(lambda dimension, chosen=chosen: chosen[dimension.path])  # type: ignore[misc]
            identity = stable_hash(sample.params)
            if identity not in seen:
                seen.add(identity)
                yield sample


def load_space(path_or_name: str | Path, sets: Sets = ()) -> Space:
    """The space in a YAML file, or a shipped one by name; `sets` ("a.b=value") change its base or the file's own keys.

    A set whose first part is a key of the file (trials, seeds, scheduler.grace_epochs, ...) changes the file; every
    other one is a config path and changes the base.

    Raises:
        UserError: one line for the first thing that is wrong (CONTRACT, "Search space").
    """
    path = find_file(path_or_name, "space")
    tree, pairs = read_tree(path, sets, OWN_KEYS)
    if "space" not in tree and {"arms", "factors"} & set(tree):
        raise UserError("an ablation design, no search space", path, "run it with `sage-ray ablate`")
    return build_space(parse_file(SpaceFile, tree, str(path)), str(path), path.parent, pairs)


def build_space(file: SpaceFile, source: str, folder: Path, sets: Mapping[str, Any]) -> Space:
    """The checked space of a parsed file. Args: source names it in errors; folder is what base.file is relative to."""
    base = with_resources(base_config(file.base, folder, sets), file, source)
    check_parts(base, file, source)
    dimensions = tuple(_dimension(path, part, base, source) for path, part in file.space.items())
    space = Space(file=file, base=base, dimensions=_ordered(dimensions, source), source=source)
    if file.sampler.name in ("gp", "qmc") and any(d.when for d in dimensions):
        where = f"{source}, sampler {file.sampler.name}"
        raise UserError("conditional dimensions", where, "it cannot search them; use tpe or random")
    _check_ends(space)
    for sample in space.fixed[: len(file.points)]:
        space.config(sample.values)
    points = len(file.points)
    if file.trials is not None and points > file.trials:
        raise UserError(f"{points} points but {file.trials} trials", source, "raise trials or drop points")
    return space


def _dimension(path: str, part: DimensionPart, base: ExperimentConfig, source: str) -> Dimension:
    where = f"{source}, space.{path}"
    check_path(path, where)
    if path == "seed":
        raise UserError("seed is no dimension", where, "list the seeds of a trial under seeds")
    for prefix, reason in NO_DIMENSION.items():
        if path.startswith(prefix):
            raise UserError(f"{path} is no dimension", where, reason)
    when: dict[str, tuple[Any, ...]] = {}
    for condition, allowed in part.when.items():
        check_path(condition, f"{where}, when")
        listed = allowed if isinstance(allowed, list | tuple) else [allowed]
        if not listed:
            raise UserError("empty condition", f"{where}, when.{condition}", "list at least one value")
        when[condition] = tuple(_normal(base, condition, value, f"{where}, when") for value in listed)
    if part.tie is not None:
        expression = parse(part.tie, where)
        for read in expression.paths:
            check_path(read, f"{where}, tie")
        return Dimension(path, "tie", expression=expression, when=when)
    if part.categorical is not None:
        choices = tuple(_normal(base, path, choice, where) for choice in part.categorical)
        if len({json.dumps(choice) for choice in choices}) != len(choices):
            raise UserError("repeated choice", where, "list each choice once")
        return Dimension(path, "categorical", choices=choices, when=when)
    if part.float_range is not None:
        low, high = part.float_range
        return Dimension(path, "float", low, high, part.log, part.step, when=when)
    assert part.int_range is not None
    return Dimension(path, "int", *part.int_range, part.log, part.step, when=when)


def _normal(base: ExperimentConfig, path: str, value: Any, where: str) -> Any:
    """`value` as the config field at `path` holds it: 1e-4 read as text is a number, a list may become a tuple."""
    check_path(path, where)
    try:
        return base.with_values({path: value}).get(path)
    except UserError as error:
        if error.where.endswith(path):
            raise UserError(f"bad value for {path}", where, error.mend) from None
    # Refused only together with other settings of the base: the ends are checked later, with conditions and ties.
    return value


def _ordered(dimensions: tuple[Dimension, ...], source: str) -> tuple[Dimension, ...]:
    by_path = {d.path: d for d in dimensions}
    needs: dict[str, list[str]] = {}
    for d in dimensions:
        reads = (*d.when, *(d.expression.paths if d.expression else ()))
        needs[d.path] = [path for path in reads if path in by_path]
    ordered: list[Dimension] = []
    placed: set[str] = set()
    while len(ordered) < len(dimensions):
        ready = [d for d in dimensions if d.path not in placed and all(p in placed for p in needs[d.path])]
        if not ready:
            circle = [path for path in by_path if path not in placed]
            raise UserError("dimensions depend on each other in a circle", source, " and ".join(circle))
        ordered.append(ready[0])
        placed.add(ready[0].path)
    return tuple(ordered)


def _check_ends(space: Space) -> None:
    """Build the config at both ends of each range and at each choice. Raises UserError naming the dimension."""
    for dimension in space.dimensions:
        if dimension.kind == "tie":
            continue
        for end in dimension.choices or (dimension.low, dimension.high):
            chosen = {dimension.path: int(end) if dimension.kind == "int" else end}
            values = _activated(space, dimension, chosen)
            where = f"{space.source}, space.{dimension.path}"
            try:
                check_names(space.config(values))
            except UserError as error:
                key = error.where.removeprefix("override, ").removeprefix("override")
                at = f" gives {key}" if key and key != dimension.path else ""
                raise UserError(f"{dimension.path} = {end}{at}: bad value", where, error.mend) from None


def _activated(space: Space, dimension: Dimension, chosen: dict[str, Any]) -> dict[str, Any]:
    """Overrides at `chosen`, other dimensions at the base, with the conditions of `dimension` made true."""
    free = {d.path: d for d in space.dimensions}
    pending = [dimension]
    while pending:
        for path, allowed in pending.pop().when.items():
            if path in free and path not in chosen:
                chosen[path] = allowed[0]
                pending.append(free[path])
    return space.sample(lambda d: chosen.get(d.path, space.base.get(d.path))).values
