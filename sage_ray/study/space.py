"""Search space: a YAML file as a typed, checked object, and the way from a choice of values to a config."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from sage_ray.config import ExperimentConfig, stable_hash
from sage_ray.errors import UserError, did_you_mean
from sage_ray.identity import identity_tree
from sage_ray.section_base import PHASES
from sage_ray.study.base_config import (
    Sets,
    base_config,
    check_parts,
    find_file,
    hashed_device,
    read_tree,
    with_resources,
)
from sage_ray.study.constraints import Constraint
from sage_ray.study.dimension import Dimension, Sample
from sage_ray.study.file_schema import (
    ObjectivePart,
    SamplerPart,
    SchedulerPart,
    SpaceFile,
    StudyFile,
    parse_file,
)
from sage_ray.study.space_parts import make_constraint, make_dimension, normal_value, ordered
from sage_ray.study.spec import RunPlace, StudySpec

MAX_GRID = 100_000
OWN_KEYS = frozenset(SpaceFile.model_fields) - {"base", "space", "points", "earlier", "second_objective"}
MAX_LISTED = 5
"""Most impossible cells of a grid that are listed by name."""


@dataclass(frozen=True, kw_only=True)
class Space(StudySpec):
    """A checked search space.

    `dimensions` are in an order in which conditions and ties can be evaluated; `constraints` are those of the file.
    """

    kind = "sweep"
    noun = "space"
    file_name = "space.yaml"
    verb = "sweep"

    file: SpaceFile
    constraints: tuple[Constraint, ...] = ()

    @property
    def objectives(self) -> tuple[ObjectivePart, ...]:
        """The objective, and the second one if the file lists two."""
        second = self.file.second_objective
        if second is None:
            return (self.objective,)
        direction = "maximize" if second.maximize else "minimize"
        return (self.objective, second.model_copy(update={"direction": direction}))

    @cached_property
    def hash(self) -> str:
        """16 hex digits over what makes two studies the same search; trials, hours and concurrency may grow."""
        left_out = {"name", "base", "trials", "max_hours", "concurrency", "max_gpu_hours", "max_failures_in_a_row"}
        left_out |= {"storage"}
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

    def drawn_at_random(self) -> Space:
        """The same space, drawn by a sampler that looks at no scores."""
        sampler = self.file.sampler.model_copy(update={"name": "random"})
        return replace(self, file=self.file.model_copy(update={"sampler": sampler}))

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
        """Configurations known beforehand, in order: points, then the possible cells of a grid that are no points."""
        samples = [self.point(point, f"{self.source}, points[{k}]") for k, point in enumerate(self.file.points)]
        if self.file.sampler.name == "grid":
            seen = {stable_hash(sample.params) for sample in samples}
            cells = (cell for cell, refused in self._judged_cells if refused is None)
            samples += [cell for cell in cells if stable_hash(cell.params) not in seen]
        return tuple(samples)

    @cached_property
    def _judged_cells(self) -> tuple[tuple[Sample, str | None], ...]:
        """Each cell of the grid, and why it can be no trial."""
        return tuple((cell, self.refusal(cell)) for cell in self.cells())

    def details(self) -> list[str]:
        """Lines for `plan`: two objectives, constraints, and cells of a grid that cannot be combined."""
        lines = [f"constraint: {constraint.text}" for constraint in self.constraints]
        if len(self.objectives) > 1:
            both = " and ".join(f"{part.metric} ({part.direction})" for part in self.objectives)
            lines.insert(0, f"two objectives: {both}")
        return lines + self._impossible_cells() if self.file.sampler.name == "grid" else lines

    def _impossible_cells(self) -> list[str]:
        """Cells of a grid that take no trial, each with the reason."""
        refused = [(cell, reason) for cell, reason in self._judged_cells if reason is not None]
        lines = [
            f"impossible cell: {', '.join(f'{path}={value}' for path, value in cell.params.items())} ({reason})"
            for cell, reason in refused[:MAX_LISTED]
        ]
        more = len(refused) - MAX_LISTED
        return lines + ([f"and {more} more impossible cells"] if more > 0 else [])

    def refusal(self, sample: Sample) -> str | None:
        """Why a configuration can be no trial: a constraint that it violates, or what the config refuses."""
        try:
            missed = [text for text, amount in self.missed_constraints(sample.values).items() if amount > 0]
        except UserError as error:
            return str(error)
        return f"violates the constraint {missed[0]}" if missed else super().refusal(sample)

    def missed_constraints(self, values: Mapping[str, Any]) -> dict[str, float]:
        """Each constraint with the amount by which `values` miss it, at most 0 where it is kept.

        Raises:
            UserError: a constraint cannot be evaluated.
        """
        where = f"{self.source}, constraints"
        return {c.text: c.missed_by(lambda path: self._value(path, values), where) for c in self.constraints}

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
        given = {path: normal_value(self.base, path, value, where) for path, value in point.items()}
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
        """Largest number of epochs, all stages together, that a trial may have."""
        total = max(self._may_be("render.epochs")) if self.base.render.train_on_pairs else 0
        for phase in PHASES:
            steps = max(self._may_be(f"{phase}.steps")) // max(min(self._may_be(f"{phase}.epoch_steps")), 1)
            total += max(*self._may_be(f"{phase}.epochs"), steps)
        return total

    def _may_be(self, path: str) -> list[int]:
        """The base's value of a setting that counts, and the ends of what its dimension may draw."""
        ends = [int(self.base.get(path))]
        for dimension in self.dimensions:
            if dimension.path == path and dimension.kind == "categorical":
                ends += map(int, dimension.choices)
            elif dimension.path == path:
                ends += [int(dimension.low), int(dimension.high)]
        return ends

    def ends(self) -> Iterator[ExperimentConfig]:
        """The config at both ends of each range and at each choice, other dimensions at the base."""
        for _, _, values in _ends(self):
            yield self.config(values)

    def to_yaml(self, base_file: str) -> str:
        """The space as YAML with `base_file` as its base."""
        tree = self.file.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        tree = {"name": self.name, "base": {"file": base_file}, **{k: v for k, v in tree.items() if k != "base"}}
        tree["base"] = {"file": base_file}
        second = tree.pop("second_objective", None)
        if second is not None:
            tree["objective"] = [tree.get("objective", {}), second]
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

    def cells(self) -> Iterable[Sample]:
        """All configurations of a space whose dimensions have finitely many values, each once.

        Raises:
            UserError: a dimension has not, or there are more than `MAX_GRID`.
        """
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


def load_space(path_or_name: str | Path, sets: Sets = (), *, stored: bool = False) -> Space:
    """The space in a YAML file, or a shipped one by name; `sets` ("a.b=value") change its base or the file's own keys.

    A set whose first part is a key of the file (trials, seeds, scheduler.grace_epochs, ...) changes the file; every
    other one is a config path and changes the base. A `stored` file is that of a study: it is not asked again whether
    its networks are there, so that it can be read where they are not, and without torch.

    Raises:
        UserError: one line for the first thing that is wrong (CONTRACT, "Search space").
    """
    path = find_file(path_or_name, "space")
    tree, pairs = read_tree(path, sets, OWN_KEYS)
    if "space" not in tree and {"arms", "factors"} & set(tree):
        raise UserError("an ablation design, no search space", path, "run it with `sage-ray ablate`")
    return build_space(parse_file(SpaceFile, tree, str(path)), str(path), path.parent, pairs, stored=stored)


def build_space(file: SpaceFile, source: str, folder: Path, sets: Mapping[str, Any], *, stored: bool = False) -> Space:
    """The checked space of a parsed file. Args: source names it in errors; folder is what base.file is relative to."""
    base = with_resources(base_config(file.base, folder, sets), file, source)
    file, notes = _fixed_by(sets, file, base, source)
    check_parts(base, file, source)
    dimensions = tuple(make_dimension(path, part, base, source) for path, part in file.space.items())
    constraints = tuple(make_constraint(text, source) for text in file.constraints)
    space = Space(
        file=file,
        base=base,
        dimensions=ordered(dimensions, source),
        source=source,
        constraints=constraints,
        notes=(*notes, *against_notes(file, source)),
    )
    if file.sampler.name in ("gp", "qmc") and any(d.when for d in dimensions):
        where = f"{source}, sampler {file.sampler.name}"
        raise UserError("conditional dimensions", where, "it cannot search them; use tpe or random")
    if not stored:
        _check_ends(space)
    points = len(file.points)
    for number, sample in enumerate(space.fixed[:points]):
        space.config(sample.values)
        refused = space.refusal(sample)
        if refused is not None:
            raise UserError(f"point {number} {refused}", f"{source}, points", "change the point or the constraint")
    if file.trials is not None and points > file.trials:
        raise UserError(f"{points} points but {file.trials} trials", source, "raise trials or drop points")
    return space


def _fixed_by(
    sets: Mapping[str, Any], file: SpaceFile, base: ExperimentConfig, source: str
) -> tuple[SpaceFile, list[str]]:
    """The file without the dimensions that `sets` (from the command line) give a value, and a line for each of them."""
    fixed = [path for path in file.space if path in sets]
    if not fixed:
        return file, []
    if len(fixed) == len(file.space):
        raise UserError("nothing is left to search", f"{source}, --set {fixed[0]}", "leave a dimension free")
    space = {path: part for path, part in file.space.items() if path not in fixed}
    points: list[dict[str, Any]] = []
    for point in file.points:
        kept = {path: value for path, value in point.items() if path not in fixed}
        if kept not in points:
            points.append(kept)
    notes = [f"{path} is fixed at {base.get(path)} by --set: no dimension of this study" for path in fixed]
    return file.model_copy(update={"space": space, "points": tuple(points)}), notes


def against_notes(file: StudyFile, source: str) -> list[str]:
    """A warning if the file states another direction than the score's own."""
    objective = file.objective
    if not objective.against:
        return []
    better = "lower" if objective.direction == "maximize" else "higher"
    return [f"warning: {source} says {objective.direction} {objective.metric}, of which {better} is better"]


def _check_ends(space: Space) -> None:
    """Build the config at both ends of each range and at each choice. Raises UserError naming the dimension."""
    from sage_ray.training.build import check_names
    from sage_ray.training.scoring import check_objective

    for dimension, end, values in _ends(space):
        where = f"{space.source}, space.{dimension.path}"
        try:
            config = space.config(values)
            check_names(config)
            check_objective(config, space.objective.metric)
        except UserError as error:
            key = error.where.removeprefix("override, ").removeprefix("override")
            at = f" gives {key}" if key and key != dimension.path else ""
            raise UserError(f"{dimension.path} = {end}{at}: bad value", where, error.mend) from None


def _ends(space: Space) -> Iterator[tuple[Dimension, Any, Mapping[str, Any]]]:
    """Both ends of each range and each choice, with the overrides there; other dimensions are at the base."""
    for dimension in space.dimensions:
        if dimension.kind != "tie":
            for end in dimension.choices or (dimension.low, dimension.high):
                chosen = {dimension.path: int(end) if dimension.kind == "int" else end}
                yield dimension, end, _activated(space, dimension, chosen)


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
