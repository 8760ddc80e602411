"""What `plan` says: how much a study trains, how long it takes, what it costs, and which stages its runs share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage_ray.durations import hours_text, number_text
from sage_ray.errors import UserError
from sage_ray.terminal.disk_answers import disk_line
from sage_ray.terminal.display import parameter_columns
from sage_ray.terminal.progress import width_of
from sage_ray.terminal.sharing_answers import sharing_lines
from sage_ray.terminal.shell import Answer, Session, plain, quoted

if TYPE_CHECKING:
    from sage_ray.search.plan import Plan


@dataclass(frozen=True)
class Asked:
    """The words of a call of `plan` that its answer repeats."""

    study: str
    sets: list[str]
    name: str | None = None
    price: float | None = None
    svg: Path | None = None
    earlier: Sequence[str] = ()


def planned(plan: Plan, asked: Asked, session: Session) -> Answer:
    """Answer of `plan`: the cost of a study."""
    from sage_ray.search.stage_tree import tree_lines

    saved = 1 - plan.epochs_with_reuse / max(plan.epochs_without_reuse, 1)
    counted = f"{plan.trials} trials, {plan.runs} runs" if plan.kind == "sweep" else f"{plan.runs} runs"
    lines = [
        plan.data,
        f"{asked.name or plan.study}: {counted}, {plan.stages} distinct stages",
        *plan.details,
        *plan.placement,
        f"epochs: {plan.epochs_without_reuse} without reuse, {plan.epochs_with_reuse} with reuse ({saved:.0%} saved), "
        f"{plan.epochs_stored} of them stored already",
        *time_lines(plan, asked.price),
        *sharing_lines(plan),
        disk_line(plan),
        "stages, each trained once:",
        *(f"  {line}" for line in tree_lines(plan.tree)),
        *first_lines(plan, width_of()),
        plan.note,
        *trim_lines(plan),
    ]
    paths: dict[str, Any] = {}
    if asked.svg is not None:
        paths["svg"] = _drawn(plan, asked)
    return Answer(lines, {**plain(plan), "study": asked.name or plan.study}, paths, next=_next(plan, asked, session))


def time_lines(plan: Plan, price: float | None) -> list[str]:
    """How long a study takes and what it costs, and what that rests on; or that it is not known."""

    if plan.worker_hours is None:
        unknown = "time: not known: no recorded run of this home is alike enough; --pilot measures a few steps"
        return [unknown] + ([f"price: not known, at {price:g} per {plan.price_per}"] if price is not None else [])
    most = "at most " if plan.upper_bound else "about "
    on_gpu = plan.device == "cuda"
    held = plan.gpu_hours if on_gpu else plan.worker_hours
    unit = "GPU-hours" if on_gpu else "worker-hours (no GPU)"
    wall = "unknown without seeing the machines" if plan.wall_hours is None else most + hours_text(plan.wall_hours)
    slots = f" with {plan.trials_at_once} at once" if plan.trials_at_once else ""
    wait = ""
    if plan.waiting_hours and plan.waiting_hours >= 0.005 * plan.worker_hours:
        wait = f"; {number_text(plan.waiting_hours)} more stand empty, as what is left waits for shared stages"
    lines = [f"time: {wall}{slots}; {most}{number_text(held)} {unit}{wait}"]
    lines.append(f"  from {'; '.join(plan.time_basis)}")
    lines += [f"  not in these hours, as nothing like it was measured: {text}" for text in plan.not_in_hours]
    if plan.price is not None:
        lines.append(f"price: {most}{plan.price:,.2f}, at {price:g} per {plan.price_per}")
    return lines


def first_lines(plan: Plan, width: int | None) -> list[str]:
    """The configurations of the first trials as a table."""
    rows = [row["params"] for row in plan.first]
    if not rows or not any(rows):
        return []
    left = None if width is None else width - 9
    params = parameter_columns(rows, left)
    numbers = ["trial", *(str(row["number"]) for row in plan.first)]
    table = [f"  {number:>5}  {text}".rstrip() for number, text in zip(numbers, params, strict=True)]
    more = plan.trials - len(rows)
    return ["first trials:", *table, *([f"  ... and {more} more"] if more else [])]


def trim_lines(plan: Plan) -> list[str]:
    """What fits into the budget."""
    trim = plan.trim
    if trim is None:
        return []
    unit = "GPU-hours" if plan.device == "cuda" else "worker-hours (no GPU)"
    budget = f"budget of {trim.budget_hours:g} {unit}"
    noun = "trials" if plan.kind == "sweep" else "runs"
    if not trim.sets:
        return [f"{budget}: all of it fits ({number_text(trim.hours)})"]
    what = f"the first {trim.trials} of {trim.of} {noun}"
    if trim.seeds:
        seeds = f"seed{'s' if len(trim.seeds) > 1 else ''} {', '.join(map(str, trim.seeds))}"
        what = f"all arms with {seeds}, {trim.trials} of {trim.of} runs,"
    return [f"{budget}: {what} fit ({number_text(trim.hours)})"]


def _drawn(plan: Plan, asked: Asked) -> Path:
    from sage_ray.files import write_text
    from sage_ray.terminal.stage_picture import stage_picture

    assert asked.svg is not None
    path = asked.svg.absolute()
    try:
        write_text(path, stage_picture(plan.tree, f"{asked.name or plan.study}: what is trained, and what is shared"))
    except OSError as error:
        raise UserError("cannot be written", f"--svg {asked.svg} ({error.strerror})", "give another file") from None
    return path


def _next(plan: Plan, asked: Asked, session: Session) -> list[str]:
    tail = f" --name {quoted(asked.name)}" if asked.name else ""
    tail += "".join(f" --from {quoted(study)}" for study in asked.earlier)
    tail += "".join(f" --set {quoted(text)}" for text in asked.sets)
    fitting = "".join(f" --set {quoted(text)}" for text in plan.trim.sets) if plan.trim else ""
    verb = "sweep" if plan.kind == "sweep" else "ablate"
    follow = [session.command(f"{verb} {quoted(asked.study)}{tail}{fitting}")]
    if plan.worker_hours is None:
        price = f" --price {asked.price:g}" if asked.price is not None else ""
        follow.append(session.command(f"plan {quoted(asked.study)}{tail}{price} --pilot"))
    return follow
