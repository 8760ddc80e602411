"""Progress of runs and studies: a live table and bar on a terminal, one plain line an event anywhere else."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.progress import Progress

FINAL_STATES = ("COMPLETE", "PRUNED", "FAIL")
_STYLES = {"RUNNING": "cyan", "COMPLETE": "green", "PRUNED": "yellow", "FAIL": "red"}


class Watch(Protocol):
    """What a sweep, a final training or a run tells its progress to."""

    def update(self, status: Any) -> None:
        """Show a study: an object with `study`, counts and `trials` as in `sage-ray status --json`."""

    def line(self, text: str) -> None:
        """Show one event."""

    def epoch(self, report: Mapping[str, Any], total: int) -> None:
        """Show one epoch's report of a run of `total` epochs over both phases."""

    def close(self) -> None:
        """Leave the terminal as it was found; harmless twice."""


def make_watch(*, quiet: bool = False, stream: IO[str] | None = None) -> Watch:
    """A live display if `stream` (default stdout) is a terminal, plain lines if not, nothing if `quiet`."""
    stream = sys.stdout if stream is None else stream
    if quiet:
        return SilentWatch()
    if stream.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        return LiveWatch(stream)
    return PlainWatch(stream)


def duration(seconds: float | None) -> str:
    """Seconds as 0:07, 12:30 or 3:02:01; "-" if unknown."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    minutes, rest = divmod(int(round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def score_text(value: Any) -> str:
    """A score with four decimals; "-" if there is none yet."""
    return f"{value:.4f}" if isinstance(value, int | float) and math.isfinite(value) else "-"


def field_of(row: Any, name: str, default: Any = None) -> Any:
    """A field of a trial or status, whether it is a mapping or an object."""
    return row.get(name, default) if isinstance(row, Mapping) else getattr(row, name, default)


class Pace:
    """Remaining time of trials and of their study, from the epochs and ends seen so far."""

    def __init__(self, clock: Any = time.monotonic) -> None:
        self._clock = clock
        self._started = clock()
        self._first: dict[int, tuple[float, int]] = {}
        self._done_at_start: int | None = None

    def of_trial(self, trial: Any, total: int | None) -> float | None:
        """Seconds until a running trial reaches `total` epochs; None while nothing is known."""
        epoch = int(field_of(trial, "epoch") or 0)
        now = self._clock()
        first_time, first_epoch = self._first.setdefault(field_of(trial, "number"), (now, epoch))
        if not total or epoch <= first_epoch or now <= first_time:
            return None
        return max(total - epoch, 0) * (now - first_time) / (epoch - first_epoch)

    def of_study(self, ended: int, target: int | None) -> float | None:
        """Seconds until `target` trials have ended; trials that an earlier session ended do not count as pace."""
        if self._done_at_start is None:
            self._done_at_start = ended
        here = ended - self._done_at_start
        if not target or here <= 0:
            return None
        return (target - ended) * (self._clock() - self._started) / here


class SilentWatch:
    """--quiet: no progress at all."""

    def update(self, status: Any) -> None:
        """Nothing is shown."""

    def line(self, text: str) -> None:
        """Nothing is shown."""

    def epoch(self, report: Mapping[str, Any], total: int) -> None:
        """Nothing is shown."""

    def close(self) -> None:
        """Nothing to do."""


class PlainWatch:
    """One line an event, without control characters: for logs, pipes and notebooks."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._pace = Pace()
        self._seen: dict[int, str] = {}
        self._clock = RunClock()
        self._replayed: Mapping[str, Any] | None = None

    def line(self, text: str) -> None:
        clean = "".join(c if c.isprintable() else " " for c in text).rstrip()
        print(clean, file=self._stream, flush=True)

    def update(self, status: Any) -> None:
        for trial in field_of(status, "trials", ()):
            number, state = field_of(trial, "number"), str(field_of(trial, "state"))
            if self._seen.get(number) == state:
                continue
            self._seen[number] = state
            self.line(self._trial_line(trial, state, status))

    def _trial_line(self, trial: Any, state: str, status: Any) -> str:
        text = f"trial {field_of(trial, 'number')} {state}"
        if state in FINAL_STATES:
            text += f" epoch {field_of(trial, 'epoch') or 0} score {score_text(field_of(trial, 'value'))}"
            text += f" | {tally(status)}, ETA {duration(self._pace.of_study(ended(status), target_of(status)))}"
        else:
            self._pace.of_study(ended(status), target_of(status))
            text += f" {params_text(field_of(trial, 'params') or {})}"
        return text

    def epoch(self, report: Mapping[str, Any], total: int) -> None:
        remaining = self._clock.remaining(report, total)
        if report.get("replayed") and int(report["epoch"]) < total:
            # Fifty epochs that cost nothing are one event: told with the first that is trained.
            self._replayed = report
            return
        self._tell_replayed(total)
        self.line(f"{epoch_text(report, total)} ETA {duration(remaining)}")

    def _tell_replayed(self, total: int) -> None:
        last, self._replayed = self._replayed, None
        if last is not None:
            self.line(
                f"epochs 1 to {last['epoch']} of {total}, {scores_text(last) or 'unscored'} (from the stage store)"
            )

    def close(self) -> None:
        """Nothing to do: every line is already out."""


class RunClock:
    """Remaining time of a run; epochs that were replayed from the stage store cost nothing and are no pace.

    An epoch number that does not grow begins another run: the next seed of a final training.
    """

    def __init__(self) -> None:
        self._start: tuple[float, int] | None = None
        self._last = 0

    def remaining(self, report: Mapping[str, Any], total: int) -> float | None:
        """Seconds until epoch `total`; the report's own `seconds` until two epochs have been seen."""
        epoch, now = int(report["epoch"]), time.monotonic()
        another_run = epoch <= self._last
        self._last = epoch
        if self._start is None or another_run or report.get("replayed"):
            self._start = (now, epoch)
            seconds = report.get("seconds")
            return None if report.get("replayed") or seconds is None else float(seconds) * (total - epoch)
        first_time, first_epoch = self._start
        return (total - epoch) * (now - first_time) / max(epoch - first_epoch, 1)


class LiveWatch:
    """A table of trials, or the bar of a run, redrawn in place; events scroll above it."""

    def __init__(self, stream: IO[str]) -> None:
        from rich.console import Console

        self._console: Console = Console(file=stream, highlight=False)
        self._pace = Pace()
        self._live: Live | None = None
        self._bar: Progress | None = None
        self._task: Any = None
        self._clock = RunClock()
        self._changed = 0.0
        self._states: list[str] = []

    def line(self, text: str) -> None:
        self._console.print("".join(c if c.isprintable() else " " for c in text).rstrip(), markup=False)

    def update(self, status: Any) -> None:
        # Every epoch of every trial comes here; a person needs no more than a few pictures a second.
        states = [str(field_of(t, "state")) for t in field_of(status, "trials", ())]
        now = time.monotonic()
        if self._live is not None and states == self._states and now - self._changed < 0.2:
            return
        self._changed, self._states = now, states
        self._draw(study_table(status, self._pace, rows=max(self._console.height - 8, 5)))

    def epoch(self, report: Mapping[str, Any], total: int) -> None:
        if self._bar is None:
            self._bar, self._task = make_bar(self._console, total)
        eta = duration(self._clock.remaining(report, total))
        self._bar.update(self._task, completed=int(report["epoch"]), total=total, text=scores_text(report), eta=eta)
        self._bar.update(self._task, description=str(report.get("phase", "")))
        self._draw(self._bar)

    def _draw(self, picture: RenderableType) -> None:
        if self._live is None:
            from rich.live import Live

            self._live = Live(picture, console=self._console, auto_refresh=False, redirect_stderr=False)
            self._live.start()
        self._live.update(picture, refresh=True)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live, self._bar = None, None


def make_bar(console: Console, total: int) -> tuple[Progress, Any]:
    """A progress bar with phase, epoch, scores and remaining time, and the id of its one task."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("[cyan]{task.description:<11}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[text]}"),
        TextColumn("ETA {task.fields[eta]}"),
    )
    bar = Progress(*columns, console=console, auto_refresh=False)
    return bar, bar.add_task("", total=total, text="", eta="-")


def study_table(status: Any, pace: Pace, rows: int) -> RenderableType:
    """The picture of a study: running trials first, then the newest, then one line of totals."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    trials: Sequence[Any] = list(field_of(status, "trials", ()))
    total = epochs_of(status, trials)
    order = sorted(trials, key=lambda t: (field_of(t, "state") != "RUNNING", -int(field_of(t, "number"))))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("trial", "state", "epoch", "score", "ETA"):
        table.add_column(name, justify="left" if name == "state" else "right", no_wrap=True)
    table.add_column("parameters", ratio=1, no_wrap=True, overflow="ellipsis")
    best = best_trial(status)
    for trial in order[:rows]:
        state = str(field_of(trial, "state"))
        epoch = f"{field_of(trial, 'epoch') or 0}" + (f"/{total}" if total else "")
        eta = duration(pace.of_trial(trial, total)) if state == "RUNNING" else ""
        number = f"{'*' if best is not None and field_of(trial, 'number') == best else ''}{field_of(trial, 'number')}"
        cells = (number, Text(state, _STYLES.get(state, "")), epoch, score_text(field_of(trial, "value")), eta)
        table.add_row(*cells, Text(params_text(field_of(trial, "params") or {})))
    hidden = len(trials) - min(len(order), rows)
    more = f", {hidden} older not shown" if hidden else ""
    foot = f"{field_of(status, 'study')}: {tally(status)}{more}, ETA "
    foot += duration(pace.of_study(ended(status), target_of(status)))
    return Group(table, Text(foot, "bold"))


def epochs_of(status: Any, trials: Sequence[Any]) -> int | None:
    """Epochs of a full trial: what the status says, else the most that a complete trial has run."""
    stated = field_of(status, "epochs")
    if stated:
        return int(stated)
    seen = [int(field_of(t, "epoch") or 0) for t in trials if field_of(t, "state") == "COMPLETE"]
    return max(seen, default=0) or None


def best_trial(status: Any) -> int | None:
    """Number of the complete trial with the best value."""
    done = [t for t in field_of(status, "trials", ()) if field_of(t, "state") == "COMPLETE"]
    scored = [t for t in done if field_of(t, "value") is not None]
    if not scored:
        return None
    sign = -1 if field_of(status, "direction", "maximize") == "minimize" else 1
    return int(field_of(max(scored, key=lambda t: sign * field_of(t, "value")), "number"))


def ended(status: Any) -> int:
    """Trials that have ended, in whichever way."""
    return sum(int(field_of(status, name) or 0) for name in ("done", "pruned", "failed"))


def target_of(status: Any) -> int | None:
    """Trials that the study is to have, if the status knows."""
    for name in ("target", "total"):
        if field_of(status, name):
            return int(field_of(status, name))
    return None


def tally(status: Any) -> str:
    """ "3 of 12 done, 1 pruned, 0 failed, 2 running"."""
    target = target_of(status)
    done = f"{field_of(status, 'done') or 0}{f' of {target}' if target else ''} done"
    return done + "".join(f", {field_of(status, name) or 0} {name}" for name in ("pruned", "failed", "running"))


def params_text(params: Mapping[str, Any]) -> str:
    """Parameters by the last part of their paths (the last two where that is not unique), numbers to four digits."""
    if not params:
        return "untuned base"
    names = [str(path).rsplit(".", 1)[-1] for path in params]
    parts = []
    for (path, value), name in zip(params.items(), names, strict=True):
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        unique = name if names.count(name) == 1 else ".".join(str(path).split(".")[-2:])
        parts.append(f"{unique}={shown}")
    return " ".join(parts)


def scores_text(report: Mapping[str, Any]) -> str:
    """The scores and losses of an epoch that a person follows."""
    shown = [
        f"{name.removeprefix('val/')} {report[name]:.4f}"
        for name in ("val/dice", "val/f1_object_50", "val/loss")
        if isinstance(report.get(name), int | float)
    ]
    if report.get("synthetic_steps"):
        shown.append(f"synthetic {report['synthetic_steps']}")
    return "  ".join(shown)


def epoch_text(report: Mapping[str, Any], total: int) -> str:
    """One epoch as one plain line."""
    text = f"epoch {report['epoch']}/{total} {report.get('phase', '')} {scores_text(report)}".rstrip()
    if report.get("replayed"):
        return f"{text} (from the stage store)"
    seconds = report.get("seconds")
    return f"{text} {seconds:.2f} s" if isinstance(seconds, int | float) else text
