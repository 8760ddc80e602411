"""Progress of runs and studies: a live table and bar on a terminal, one plain line per event anywhere else."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

from sage_ray.reports.study_words import field_of, score_text, tally, target_of
from sage_ray.terminal.display import (
    FINAL_STATES,
    Pace,
    RunClock,
    clean,
    cut,
    duration,
    ended,
    epoch_text,
    params_text,
    run_line,
    scores_text,
    shown_params,
    study_rows,
    trial_table,
)
from sage_ray.watch import SilentWatch, Watch

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.live import Live

_STYLES = {"RUNNING": "cyan", "PENDING": "blue", "COMPLETE": "green", "PRUNED": "yellow", "FAIL": "red"}
REDRAW_S = 0.2
"""Least time between two pictures; a person needs no more than a few a second."""
LOOK_S = 0.3
"""Time between two looks at the size of the terminal."""
FIRSTS = 3
"""Most lines below the table of trials that say what trials do before an epoch of their own."""
LOG_S = 600.0
"""Longest silence of a log about a run that trains: an epoch more often than a tenth of the run."""


def make_watch(*, quiet: bool = False, stream: IO[str] | None = None) -> Watch:
    """A live display if `stream` (default stdout) is a terminal, plain lines if not, nothing if `quiet`."""
    stream = sys.stdout if stream is None else stream
    if quiet:
        return SilentWatch()
    if stream.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        return LiveWatch(stream)
    return PlainWatch(stream)


def size_of(stream: IO[str]) -> tuple[int, int]:
    """(columns, rows) of the terminal behind `stream`, now; 80 x 24 where it does not say."""
    try:
        columns, rows = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):
        columns, rows = 0, 0
    usual = shutil.get_terminal_size()
    return columns or usual.columns, rows or usual.lines


def width_of(stream: IO[str] | None = None) -> int | None:
    """Columns that a table on `stream` (default stdout) may take; None if it is no terminal, where all is told."""
    stream = sys.stdout if stream is None else stream
    return size_of(stream)[0] if stream.isatty() else None


def trial_event(trial: Any) -> str:
    """What is said of a trial that has ended."""
    text = f"trial {field_of(trial, 'number')} {field_of(trial, 'state')} epoch {field_of(trial, 'epoch') or 0}"
    text += f" score {score_text(field_of(trial, 'value'))}"
    return text + (f" ({field_of(trial, 'error')})" if field_of(trial, "error") else "")


class PlainWatch:
    """One line per event, without control characters: for logs, pipes and notebooks.

    Of a run, a line for each tenth of its epochs, first and last included; more often where these are far apart.
    """

    def __init__(self, stream: IO[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._now = stream, clock
        self._pace = Pace()
        self._seen: dict[int, str] = {}
        self._looked = False
        self._runs: dict[str, _RunLines] = {}
        self._firsts: dict[int, tuple[str, float]] = {}
        self._lock = threading.Lock()

    def line(self, text: str) -> None:
        """Print one event."""
        print(_fit(clean(text), self._stream), file=self._stream, flush=True)

    def update(self, status: Any) -> None:
        """Print a line for each trial whose state has changed; what had ended before the first look is no event."""
        first, self._looked = not self._looked, True
        for trial in field_of(status, "trials", ()):
            number, state = field_of(trial, "number"), str(field_of(trial, "state"))
            self._tell_first(number, field_of(trial, "first"))
            if self._seen.get(number) == state:
                continue
            self._seen[number] = state
            if first and state in FINAL_STATES:
                continue
            self.line(self._trial_line(trial, state, status))

    def _tell_first(self, number: int, doing: str | None) -> None:
        """Now and then a line of a trial that has no epoch of its own yet, as it makes its extra pairs."""
        said, told = self._firsts.get(number, ("", -LOG_S))
        if doing is not None and doing != said and self._now() - told >= LOG_S:
            self._firsts[number] = (doing, self._now())
            self.line(f"trial {number} {doing}")

    def _trial_line(self, trial: Any, state: str, status: Any) -> str:
        remaining = self._pace.of_study(ended(status), target_of(status))
        if state in FINAL_STATES:
            return f"{trial_event(trial)} | {tally(status)}, ETA {duration(remaining)}"
        return f"trial {field_of(trial, 'number')} {state} {params_text(shown_params(status, trial))}"

    def epoch(self, report: Mapping[str, Any], total: int, run: str = "") -> None:
        """Print an epoch if it is its turn."""
        with self._lock:
            for text in self._runs.setdefault(run, _RunLines(self._now)).of_epoch(report, total):
                self.line(f"{run} {text}" if run else text)

    def close(self, *, replaced: bool = False) -> None:
        """Nothing to do: every line is already out."""


class _RunLines:
    """What is told of one run: a line for each tenth of its epochs, and for what was replayed."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._now, self._clock = clock, RunClock()
        self._replayed: Mapping[str, Any] | None = None
        self._last_epoch, self._tenth, self._told = 0, -1, 0.0

    def of_epoch(self, report: Mapping[str, Any], total: int) -> Iterator[str]:
        """The lines that an epoch's report brings: none, if it is not its turn."""
        remaining = self._clock.remaining(report, total)
        epoch = int(report["epoch"])
        if epoch <= self._last_epoch:
            self._replayed, self._tenth = None, -1  # another run
        self._last_epoch = epoch
        if report.get("replayed") and epoch < total:
            # Fifty epochs that cost nothing are one event: told with the first that is trained.
            self._replayed = report
            return
        last, self._replayed = self._replayed, None
        if last is not None:
            yield f"epochs 1 to {last['epoch']} of {total}, {scores_text(last) or 'unscored'} (from the stage store)"
        tenth = epoch * 10 // max(total, 1)
        if tenth == self._tenth and epoch < total and self._now() - self._told < LOG_S:
            return
        self._tenth, self._told = tenth, self._now()
        yield f"{epoch_text(report, total)} ETA {duration(remaining)}"


class LiveWatch:
    """A table of trials, or the bar of a run, redrawn in place and on any change of size; events scroll above it."""

    def __init__(self, stream: IO[str]) -> None:
        from rich.console import Console

        self._stream = stream
        self._console: Console = Console(file=stream, highlight=False)
        self._size = self._console.size = size_of(stream)
        self._lock = threading.RLock()
        self._live: Live | None = None
        self._picture: StudyPicture | RunsPicture | None = None
        self._bars: dict[str, RunPicture] = {}
        self._clocks: dict[str, RunClock] = {}
        self._said: deque[str] = deque(maxlen=200)
        self._closed = threading.Event()
        self._pace = Pace()
        self._changed = 0.0
        self._states: dict[int, str] | None = None

    def line(self, text: str) -> None:
        """Print one event above the live picture."""
        text = _fit(clean(text), self._stream)
        with self._lock:
            self._follow_size()
            self._said.append(text)
            self._console.print(text, markup=False)

    def update(self, status: Any) -> None:
        """Show the table of trials as it is now."""
        with self._lock:
            states = {int(field_of(t, "number")): str(field_of(t, "state")) for t in field_of(status, "trials", ())}
            now = time.monotonic()
            if self._live is not None and states == self._states and now - self._changed < REDRAW_S:
                return
            self._tell_failures(status, states)
            self._changed, self._states = now, states
            self._picture = StudyPicture(status, self._pace)
            self._draw()

    def _tell_failures(self, status: Any, states: Mapping[int, str]) -> None:
        # The table has no room for the reason; those that an earlier session ended are told by the verb's answer.
        before = self._states
        for trial in field_of(status, "trials", ()):
            number = int(field_of(trial, "number"))
            if before is not None and states[number] == "FAIL" != before.get(number) and field_of(trial, "error"):
                self.line(trial_event(trial))

    def epoch(self, report: Mapping[str, Any], total: int, run: str = "") -> None:
        """Show the bar of a run as it is now, among those of the runs that were seen before."""
        with self._lock:
            remaining = self._clocks.setdefault(run, RunClock()).remaining(report, total)
            self._bars[run] = RunPicture(report, total, remaining, run)
            now = time.monotonic()
            if self._live is not None and now - self._changed < REDRAW_S and report["epoch"] not in (1, total):
                return
            self._changed = now
            self._picture = RunsPicture([self._bars[name] for name in sorted(self._bars, key=natural)])
            self._draw()

    def _draw(self) -> None:
        self._follow_size()
        if self._live is None:
            self._begin()
            threading.Thread(target=self._look, name="terminal size", daemon=True).start()
        else:
            self._live.update(self._picture or "", refresh=True)

    def _begin(self) -> None:
        from rich.live import Live

        # What others print scrolls above the picture too, if it goes to this terminal and not to a file.
        shared = sys.stderr is not None and sys.stderr.isatty()
        self._live = Live(self._picture, console=self._console, auto_refresh=False, redirect_stderr=shared)
        self._live.start(refresh=True)

    def _look(self) -> None:
        while not self._closed.wait(LOOK_S):
            with self._lock:
                if not self._closed.is_set():
                    self._follow_size()

    def _follow_size(self) -> None:
        """After a change of size: an empty screen, the lines said last, the picture.

        Where the old picture stands is known no longer: some terminals wrap its lines anew, others cut them.
        """
        size = size_of(self._stream)
        if size == self._size:
            return
        self._size = self._console.size = size
        if self._live is None or self._picture is None:
            return
        self._live.transient = True
        self._live.stop()
        self._console.clear()
        room = size[1] - len(self._console.render_lines(self._picture, pad=False)) - 1
        shown: list[str] = []
        for text in reversed(self._said):
            room -= max(len(self._console.render_lines(text, pad=False)), 1)
            if room < 0:
                break
            shown.append(text)
        for text in reversed(shown):
            self._console.print(text, markup=False)
        self._begin()

    def close(self, *, replaced: bool = False) -> None:
        """End the live picture; the last one stays, unless it is replaced by what is printed next."""
        self._closed.set()
        with self._lock:
            live, self._live = self._live, None
            if live is not None:
                live.transient = replaced and isinstance(self._picture, StudyPicture)
                live.stop()


class StudyPicture:
    """A study as it was when it was told, drawn for whatever size the terminal has."""

    def __init__(self, status: Any, pace: Pace) -> None:
        from sage_ray.terminal.display import epochs_of

        self._status = status
        running = [t for t in field_of(status, "trials", ()) if field_of(t, "state") == "RUNNING"]
        self._remaining = {int(field_of(t, "number")): pace.of_trial(t, epochs_of(status, t)) for t in running}
        self._eta = pace.of_study(ended(status), target_of(status))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        trials = list(field_of(self._status, "trials", ()))
        shown = study_rows(self._status, limit=max(console.height - 8, 3))
        table = trial_table(self._status, shown, options.max_width, self._remaining)
        yield Text(_fit(table.header, console.file), "bold", no_wrap=True)
        for row, state in zip(table.rows, table.states, strict=True):
            text = Text(_fit(row, console.file), no_wrap=True)
            text.stylize(_STYLES.get(state, ""), table.state_at, table.state_at + len(state))
            yield text
        for trial in [trial for trial in shown if field_of(trial, "first")][:FIRSTS]:
            doing = cut(f"trial {field_of(trial, 'number')} {field_of(trial, 'first')}", options.max_width)
            yield Text(_fit(doing, console.file), no_wrap=True)
        hidden = len(trials) - len(shown)
        more = f", {hidden} not shown" if hidden else ""
        foot = f"{field_of(self._status, 'study')}: {tally(self._status)}{more}, ETA {duration(self._eta)}"
        yield Text(_fit(foot, console.file), "bold")


class RunsPicture:
    """The bars of the runs that go on or have ended, one below the other."""

    def __init__(self, bars: Sequence[RunPicture]) -> None:
        self._bars = bars

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from self._bars


class RunPicture:
    """The last epoch of a run as a bar, drawn for whatever width the terminal has."""

    def __init__(self, report: Mapping[str, Any], total: int, remaining: float | None, run: str) -> None:
        self._report, self._total, self._remaining, self._run = report, total, remaining, run

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.progress_bar import ProgressBar
        from rich.segment import Segment
        from rich.text import Text

        name = f"{self._run} " if self._run else ""
        line = run_line(self._report, self._total, self._remaining, options.max_width - len(name))
        yield Text(name, "bold", end="", no_wrap=True)
        yield Text(line.before, "cyan", end="", no_wrap=True)
        if line.bar:
            bar = ProgressBar(total=self._total, completed=int(self._report["epoch"]), width=line.bar)
            for segment in console.render(bar, options.update(width=line.bar)):
                if segment.text != "\n":
                    yield segment
        yield Text(line.after, end="", no_wrap=True)
        yield Segment.line()


def natural(name: str) -> tuple[str, int]:
    """Key that sorts s2 before s10."""
    digits = len(name) - len(name.rstrip("0123456789"))
    return (name[: len(name) - digits], int(name[-digits:])) if digits else (name, -1)


def _fit(text: str, stream: IO[str]) -> str:
    """The text in what the stream can encode, other characters as "?": no progress ends in a UnicodeEncodeError."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, errors="replace").decode(encoding)
