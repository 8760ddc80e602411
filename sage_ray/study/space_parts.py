"""The parts of a search space's file as checked objects: its dimensions, in order, and its constraints."""

from __future__ import annotations

import json
from typing import Any

from sage_ray.config import ExperimentConfig, check_path
from sage_ray.errors import UserError
from sage_ray.study.constraints import Constraint, parse_constraint
from sage_ray.study.dimension import Dimension
from sage_ray.study.expressions import parse
from sage_ray.study.file_schema import DimensionPart

NO_DIMENSION = {
    "runtime.": "it is no part of a run's identity; set it under base.set",
    "data.path": "scores on different images do not compare; make one study per data set",
    "data.split.": "scores on different splits do not compare; set it under base.set",
    "evaluation.min_object_pixels": "it changes what the scores mean; set it under base.set",
    "evaluation.boundary_tolerance": "it changes what the scores mean; set it under base.set",
}


def make_dimension(path: str, part: DimensionPart, base: ExperimentConfig, source: str) -> Dimension:
    """The dimension of a config path as the file's part describes it, its choices as the config holds them.

    Raises:
        UserError: the path is none that may be searched, or a value is refused by the config.
    """
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
        when[condition] = tuple(normal_value(base, condition, value, f"{where}, when") for value in listed)
    if part.tie is not None:
        expression = parse(part.tie, where)
        for read in expression.paths:
            check_path(read, f"{where}, tie")
        return Dimension(path, "tie", expression=expression, when=when)
    if part.categorical is not None:
        choices = tuple(normal_value(base, path, choice, where) for choice in part.categorical)
        if len({json.dumps(choice) for choice in choices}) != len(choices):
            raise UserError("repeated choice", where, "list each choice once")
        return Dimension(path, "categorical", choices=choices, when=when)
    if part.float_range is not None:
        low, high = part.float_range
        return Dimension(path, "float", low, high, part.log, part.step, when=when)
    assert part.int_range is not None
    return Dimension(path, "int", *part.int_range, part.log, part.step, when=when)


def normal_value(base: ExperimentConfig, path: str, value: Any, where: str) -> Any:
    """`value` as the config field at `path` holds it: 1e-4 read as text is a number, a list may become a tuple."""
    check_path(path, where)
    try:
        return base.with_values({path: value}).get(path)
    except UserError as error:
        if error.where.endswith(path):
            raise UserError(f"bad value for {path}", where, error.mend) from None
    # Refused only together with other settings of the base: the ends are checked later, with conditions and ties.
    return value


def ordered(dimensions: tuple[Dimension, ...], source: str) -> tuple[Dimension, ...]:
    """The dimensions in an order in which each comes after those that its condition or tie reads.

    Raises:
        UserError: they depend on each other in a circle.
    """
    by_path = {d.path: d for d in dimensions}
    needs: dict[str, list[str]] = {}
    for d in dimensions:
        reads = (*d.when, *(d.expression.paths if d.expression else ()))
        needs[d.path] = [path for path in reads if path in by_path]
    found: list[Dimension] = []
    placed: set[str] = set()
    while len(found) < len(dimensions):
        ready = [d for d in dimensions if d.path not in placed and all(p in placed for p in needs[d.path])]
        if not ready:
            circle = [path for path in by_path if path not in placed]
            mend = f"leave the tie or the when out of one of {', '.join(circle)}"
            raise UserError("dimensions depend on each other in a circle", source, mend)
        found.append(ready[0])
        placed.add(ready[0].path)
    return tuple(found)


def make_constraint(text: str, source: str) -> Constraint:
    """The constraint in `text`, whose paths the config has. Raises UserError if they are not, or it is none."""
    where = f"{source}, constraints"
    constraint = parse_constraint(text, where)
    for path in constraint.paths:
        check_path(path, where)
    return constraint
