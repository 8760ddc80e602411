"""How much of a study fits into a budget of hours: its first trials, or of an ablation whole seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sage_ray.errors import UserError
from sage_ray.search.planned_runs import Clock
from sage_ray.search.schedule import RunOfPlan
from sage_ray.study.spec import StudySpec

Cost = Callable[[Sequence[RunOfPlan]], float]
"""Hours of some runs that count against the budget."""


@dataclass(frozen=True)
class Trim:
    """What fits.

    Attributes:
        budget_hours: hours of GPUs; on a CPU, of workers.
        hours: of what fits.
        trials: that fit, from the first one on.
        of: trials of the whole study.
        seeds: of an ablation, those whose runs all fit; () for a search.
        sets: what --set makes the study fit; () if all of it does.
    """

    budget_hours: float
    hours: float
    trials: int
    of: int
    seeds: tuple[int, ...]
    sets: tuple[str, ...]


def trimmed(spec: StudySpec, clock: Clock, runs: Sequence[RunOfPlan] | None, budget_hours: float) -> Trim:
    """The largest part of a study that fits into a budget.

    Of a search these are trials from the front, in the order that they are drawn; of an ablation whole seeds, in the
    order of the file, so that every arm has the same.

    Args:
        spec: the study.
        clock: its hours.
        runs: all of them, timed; None: no time is known.
        budget_hours: hours of GPUs; on a CPU, of workers.

    Raises:
        UserError: no time is known, or not even the smallest part fits.
    """
    where = f"--budget-gpu-hours {budget_hours:g}"
    if runs is None:
        raise UserError("what the trials take is not known", where, "give --pilot too, which measures it")

    def cost(some: Sequence[RunOfPlan]) -> float:
        hours = clock.hours(some)
        return hours.gpu if spec.base.runtime.device == "cuda" else hours.worker

    if spec.kind == "ablation":
        return _whole_seeds(spec, runs, budget_hours, cost, where)
    return _front(spec, runs, budget_hours, cost, where)


def _front(spec: StudySpec, runs: Sequence[RunOfPlan], budget: float, cost: Cost, where: str) -> Trim:
    low, high = 0, spec.trials
    while low < high:  # more trials never take fewer hours
        middle = (low + high + 1) // 2
        fits = cost([run for run in runs if run.trial < middle]) <= budget
        low, high = (middle, high) if fits else (low, middle - 1)
    least = max(len(getattr(spec.file, "points", ())), 1)
    if low < least:
        what = f"the first trial takes {cost([run for run in runs if run.trial < 1]):.3g} hours"
        if least > 1:
            what = f"the {least} points of the study take {cost([r for r in runs if r.trial < least]):.3g} hours"
        raise UserError(what, where, "raise the budget, or lower the epochs or the seeds of the study")
    hours = cost([run for run in runs if run.trial < low])
    sets = () if low == spec.trials else (f"trials={low}",)
    return Trim(budget, hours, low, spec.trials, (), sets)


def _whole_seeds(spec: StudySpec, runs: Sequence[RunOfPlan], budget: float, cost: Cost, where: str) -> Trim:
    seeds = tuple(spec.file.seeds)
    for number in range(len(seeds), 0, -1):
        some = [run for run in runs if run.seed in seeds[:number]]
        hours = cost(some)
        if hours <= budget:
            sets = () if number == len(seeds) else (f"seeds=[{','.join(map(str, seeds[:number]))}]",)
            return Trim(budget, hours, len(some), spec.trials, seeds[:number], sets)
    one = cost([run for run in runs if run.seed == seeds[0]])
    mend = "raise the budget, or lower the epochs or the number of arms"
    raise UserError(f"one seed of all arms takes {one:.3g} hours", where, mend)
