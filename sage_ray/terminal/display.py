"""Progress as text of a given width: the trials of a study as a table, the epochs of a run as a bar."""

from __future__ import annotations

import math
import re
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sage_ray.figures.figure_words import short_names
from sage_ray.reports.study_words import field_of, further_objectives, objective_text, score_text

FINAL_STATES = ("COMPLETE", "PRUNED", "FAIL")
VALUE_COLUMNS = 16
"""Columns of a terminal that one parameter of a trial may take."""
SIGHTINGS = 6
"""Epochs seen last of a trial, from which its pace is read: phases, and epochs from the store, differ in theirs."""


def duration(seconds: float | None) -> str:
    """Seconds as 0:07, 12:30 or 3:02:01; "-" if unknown."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    minutes, rest = divmod(int(round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def clean(text: str) -> str:
    """The text as one line without control characters."""
    return "".join(c if c.isprintable() else " " for c in text).rstrip()


def cut(text: str, width: int | None, sign: str = "…") -> str:
    """The text, its end replaced by `sign` where it is longer than `width` characters (None: as long as it is)."""
    if width is None or len(text) <= width:
        return text
    return text[: max(width - len(sign), 0)] + sign[: max(width, 0)]


def wrapped(text: str, width: int | None) -> list[str]:
    """The text in lines of `width` columns (None: one line), broken between columns if it has some, else at words."""
    if width is None or len(text) <= width:
        return [text]
    indent = text[: len(text) - len(text.lstrip())]
    pieces: list[tuple[str, str]] = []
    for column in re.split(r"(?<=\S) {2,}", text.strip()):
        words = [column] if len(indent) + 4 + len(column) <= width else column.split(" ")
        pieces += [("  " if position == 0 else " ", word) for position, word in enumerate(words)]
    lines = [indent + pieces[0][1]]
    for gap, piece in pieces[1:]:
        if len(lines[-1]) + len(gap) + len(piece) <= width:
            lines[-1] += gap + piece
        else:
            lines.append(f"{indent}    {piece}")
    return lines


class Pace:
    """Remaining time of trials and of their study, from the epochs and ends seen so far."""

    def __init__(self, clock: Any = time.monotonic) -> None:
        self._clock = clock
        self._started = clock()
        self._seen: dict[int, deque[tuple[float, int]]] = {}
        self._done_at_start: int | None = None

    def of_trial(self, trial: Any, total: int | None) -> float | None:
        """Seconds until a running trial has run `total` epochs; None while nothing is known."""
        epoch = epochs_run(trial)
        now = self._clock()
        seen = self._seen.setdefault(field_of(trial, "number"), deque(maxlen=SIGHTINGS))
        if not seen or seen[-1][1] != epoch:
            seen.append((now, epoch))
        first_time, first_epoch = seen[0]
        if not total or epoch <= first_epoch or now <= first_time:
            return None
        left: float = max(total - epoch, 0) * (now - first_time) / (epoch - first_epoch)
        return left

    def of_study(self, ended: int, target: int | None) -> float | None:
        """Seconds until `target` trials have ended; trials that an earlier session ended do not count as pace."""
        if self._done_at_start is None:
            self._done_at_start = ended
        here = ended - self._done_at_start
        if not target or here <= 0:
            return None
        left: float = (target - ended) * (self._clock() - self._started) / here
        return left


class RunClock:
    """Remaining time of a run; epochs that were replayed from the stage store cost nothing and are no pace.

    An epoch number that does not grow begins another run: the next seed of a final training. Each phase has its pace.
    """

    def __init__(self) -> None:
        self._start: tuple[float, int] | None = None
        self._last: tuple[int, Any] = (0, None)

    def remaining(self, report: Mapping[str, Any], total: int) -> float | None:
        """Seconds until epoch `total`; the report's own `seconds` until two epochs have been seen."""
        epoch, phase, now = int(report["epoch"]), report.get("phase"), time.monotonic()
        another = epoch <= self._last[0] or phase != self._last[1]
        self._last = (epoch, phase)
        if self._start is None or another or report.get("replayed"):
            self._start = (now, epoch)
            seconds = report.get("seconds")
            return None if report.get("replayed") or seconds is None else float(seconds) * (total - epoch)
        first_time, first_epoch = self._start
        return (total - epoch) * (now - first_time) / max(epoch - first_epoch, 1)


@dataclass(frozen=True)
class Table:
    """Trials as text: `states` of the rows one by one, which stand from character `state_at` on."""

    header: str
    rows: list[str]
    states: list[str]
    state_at: int


def study_rows(status: Any, *, limit: int | None = None) -> list[Any]:
    """Trials in the order that a person looks for them: running, the best one, then the newest; at most `limit`."""
    trials: Sequence[Any] = list(field_of(status, "trials", ()))
    best = best_trial(status)

    def place(trial: Any) -> tuple[bool, bool, int]:
        number = int(field_of(trial, "number"))
        return field_of(trial, "state") != "RUNNING", number != best, -number

    return sorted(trials, key=place)[:limit]


def trial_table(
    status: Any, trials: Sequence[Any], width: int | None, remaining: Mapping[int, float | None] | None = None
) -> Table:
    """Trial, state, epoch, score and, where `remaining` is given, ETA: always whole. Parameters take what is left.

    Args:
        status: the study; its best trial is marked with a star, with two objectives each one of the Pareto front.
        trials: the rows.
        width: columns of the terminal; None: as many as the text needs.
        remaining: seconds that running trials still take, by number.
    """
    best, others = best_trials(status), further_objectives(status)
    columns = [["trial"], ["state"], ["epoch"], ["score"], *([metric] for metric in others)]
    columns += [["ETA"]] if remaining is not None else []
    for trial in trials:
        number, state = int(field_of(trial, "number")), str(field_of(trial, "state"))
        total = epochs_of(status, trial)
        cells = [f"{'*' if number in best else ''}{number}", state]
        cells += [f"{epochs_run(trial)}{f'/{total}' if total else ''}", score_text(field_of(trial, "value"))]
        cells += [objective_text(metric, (field_of(trial, "objectives") or {}).get(metric)) for metric in others]
        if remaining is not None:
            cells.append(duration(remaining.get(number)) if state == "RUNNING" else "")
        for column, cell in zip(columns, cells, strict=False):
            column.append(cell)
    sizes = [max(map(len, column)) for column in columns]
    sizes[1] = max(sizes[1], max(map(len, FINAL_STATES)))  # what comes later does not move the numbers
    gap = "  " if width is None or sum(sizes) + 2 * len(sizes) <= width else " "
    numbers = [
        gap.join(
            cell.ljust(size) if i == 1 else cell.rjust(size)
            for i, (cell, size) in enumerate(zip(row, sizes, strict=True))
        )
        for row in zip(*columns, strict=True)
    ]
    left = None if width is None else width - len(numbers[0]) - len(gap)
    params = parameter_columns([shown_params(status, trial) for trial in trials], left)
    lines = [cut(f"{a}{gap}{b}".rstrip(), width) for a, b in zip(numbers, params, strict=True)]
    states = [str(field_of(trial, "state")) for trial in trials]
    return Table(lines[0], lines[1:], states, sizes[0] + len(gap))


def shown_params(status: Any, trial: Any) -> dict[str, Any]:
    """Parameters of a trial as a person reads them: an arm by its label, where the design gives one."""
    params, labels = dict(field_of(trial, "params") or {}), field_of(status, "labels") or {}
    if params.get("arm") in labels:
        params["arm"] = labels[params["arm"]]
    return params


def parameter_columns(rows: Sequence[Mapping[str, Any]], width: int | None) -> list[str]:
    """A header and one text per row: parameters that vary between the rows, as many as `width` columns hold.

    Of one row, and of rows that are all alike, every parameter is shown: there is nothing that they differ in.
    """
    paths = list(dict.fromkeys(path for row in rows for path in row))
    varying = [path for path in paths if len({_value_text(row, path) for row in rows}) > 1] or paths
    names = list(short_names(varying).values())
    texts = ["" for _ in range(len(rows) + 1)]
    used = 0
    hidden = 0
    for position, path in enumerate(varying):
        cells = [names[position], *(_value_text(row, path) for row in rows)]
        size = max(map(len, cells)) if width is None else min(max(map(len, cells)), VALUE_COLUMNS)
        # Room for "  +12" behind it, unless nothing is left to hide.
        spare = 0 if position == len(varying) - 1 and not hidden else 5
        if width is not None and used + size + spare > width:
            hidden += 1
            continue
        used += size + 2
        texts = [f"{text}{cut(cell, size):<{size}}  " for text, cell in zip(texts, cells, strict=True)]
    if hidden and (width is None or used + 3 <= width):
        texts[0] += f"+{hidden}"
    return [text.rstrip() for text in texts]


def _value_text(params: Mapping[str, Any], path: str) -> str:
    value = params.get(path, "")
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def params_text(params: Mapping[str, Any]) -> str:
    """Parameters on one line, as name=value; numbers to four digits."""
    if not params:
        return "untuned base"
    pairs = zip(short_names(list(params)).values(), params, strict=True)
    return " ".join(f"{name}={_value_text(params, path)}" for name, path in pairs)


def epochs_run(trial: Any) -> int:
    """Epochs that a trial has run, over all of its seeds and folds that have begun."""
    runs = field_of(trial, "runs") or ()
    first = int(field_of(trial, "epoch") or 0)
    return first + sum(int(field_of(run, "epoch") or 0) for run in runs[1:])


def epochs_of(status: Any, trial: Any) -> int | None:
    """Epochs of the trial when it is complete, over all its seeds and folds; the study's where it says none itself."""
    stated = field_of(trial, "epochs") or field_of(status, "epochs")
    if not stated:
        seen = [t for t in field_of(status, "trials", ()) if field_of(t, "state") == "COMPLETE"]
        return max((epochs_run(t) for t in seen), default=0) or None
    return int(stated) * max(int(field_of(status, "runs_of_trial") or 1), 1)


def best_trial(status: Any) -> int | None:
    """Number of the complete trial with the best value."""
    done = [t for t in field_of(status, "trials", ()) if field_of(t, "state") == "COMPLETE"]
    scored = [t for t in done if field_of(t, "value") is not None]
    if not scored:
        return None
    sign = -1 if field_of(status, "direction", "maximize") == "minimize" else 1
    return int(field_of(max(scored, key=lambda t: sign * field_of(t, "value")), "number"))


def best_trials(status: Any) -> set[int]:
    """Numbers of the trials that are marked: the best one, or with two objectives those of the Pareto front."""
    best = best_trial(status)
    return set(field_of(status, "front") or ()) or ({best} if best is not None else set())


def ended(status: Any) -> int:
    """Trials that have ended, in whichever way."""
    return sum(int(field_of(status, name) or 0) for name in ("done", "pruned", "failed"))


@dataclass(frozen=True)
class RunLine:
    """A run's progress on one line: text, a bar of `bar` columns, text. `bar` is 0 where there is no room for one."""

    before: str
    bar: int
    after: str


def run_line(report: Mapping[str, Any], total: int, remaining: float | None, width: int) -> RunLine:
    """Phase, bar, epochs, scores and ETA in `width` columns: epochs and ETA always whole, scores as many as fit."""
    phase = str(report.get("phase", ""))
    count = f"{report['epoch']:>{len(str(total))}}/{total}"
    eta = f"ETA {duration(remaining)}"
    bare = len(count) + 1 + len(eta)
    narrow = width < bare + len("adversarial") + len("dice 0.0000") + 2
    phase = phase[:3] if narrow else f"{phase:<11}"
    if width < bare + len(phase) + 1:
        return RunLine("", 0, cut(f"{count} {eta}", width))
    left = width - bare - len(phase) - 1
    texts: list[str] = []
    for text in scores(report):
        # A bar says less than a score, but some of one belongs to every line that has the room.
        if left - len(text) - 2 < (11 if texts else 0):
            break
        texts.append(text)
        left -= len(text) + (2 if len(texts) > 1 else 1)
    bar = min(left - 1, 24)
    after = " ".join([count, *(["  ".join(texts)] if texts else []), eta])
    return RunLine(f"{phase} ", bar, f" {after}") if bar >= 4 else RunLine(f"{phase} ", 0, after)


def scores(report: Mapping[str, Any]) -> list[str]:
    """The scores and losses of an epoch that a person follows, the most telling first."""
    shown = [
        f"{name.removeprefix('val/')} {report[name]:.4f}"
        for name in ("val/dice", "val/f1_object_50", "val/loss")
        if isinstance(report.get(name), int | float)
    ]
    if report.get("synthetic_steps"):
        shown.append(f"synthetic {report['synthetic_steps']}")
    return shown


def scores_text(report: Mapping[str, Any]) -> str:
    """The scores and losses of an epoch on one line."""
    return "  ".join(scores(report))


def epoch_text(report: Mapping[str, Any], total: int) -> str:
    """One epoch as one plain line."""
    text = f"epoch {report['epoch']}/{total} {report.get('phase', '')} {scores_text(report)}".rstrip()
    if report.get("replayed"):
        return f"{text} (from the stage store)"
    seconds = report.get("seconds")
    return f"{text} {seconds:.2f} s" if isinstance(seconds, int | float) else text


def score_lines(scores: Mapping[str, Any], beside: Mapping[str, Any] | None = None) -> list[str]:
    """Scores with intervals and definitions, one per line, each beside that of something else on the same images.

    What all definitions share is said once, in the last line. A score has `mean`, `low`, `high` and `definition`.
    """
    parts = {name: line.definition.split(", ") for name, line in scores.items()}
    shared = [part for part in next(iter(parts.values()), []) if all(part in each for each in parts.values())]
    lines = []
    for name, line in scores.items():
        other = "" if beside is None else f"  {with_interval(beside[name]) if name in beside else '':<23}"
        own = ", ".join(part for part in parts[name] if part not in shared)
        lines.append(f"  {name:<12}  {with_interval(line):<23}{other}  {own}".rstrip())
    return [*lines, f"  all of them: {', '.join(shared)}"] if shared else lines


def with_interval(line: Any) -> str:
    """A score's mean and, where it has one, its interval."""
    interval = "" if line.low is None or line.high is None else f" [{line.low:.4f}, {line.high:.4f}]"
    return f"{line.mean:.4f}{interval}"


def score_pairs(scores: Mapping[str, Any]) -> list[str]:
    """Scores with intervals, two per line, for where they are defined elsewhere."""
    cells = [f"  {name:<12}  {with_interval(line):<23}" for name, line in scores.items()]
    return ["".join(cells[k : k + 2]).rstrip() for k in range(0, len(cells), 2)]
