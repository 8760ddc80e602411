"""Progress in a notebook: the table of trials, or the bar of a run, in one output that changes in place."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sage_ray.reports.study_words import field_of
from sage_ray.terminal.display import FINAL_STATES, Pace, RunClock, clean
from sage_ray.terminal.progress import RunPicture, RunsPicture, StudyPicture, natural, trial_event

if TYPE_CHECKING:
    from IPython.display import DisplayHandle

COLUMNS, ROWS = 110, 40
"""Size of the picture: what a notebook shows without a scroll bar."""
REDRAW_S = 0.5
"""Least time between two pictures: each travels to the browser."""
_FORMAT = '<pre style="white-space:pre;line-height:1.25;margin:0">{code}</pre>'


class NotebookWatch:
    """One output that changes in place; lines are printed as they come. Trials that fail get a line each."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._handle: DisplayHandle | None = None
        self._pace = Pace()
        self._clocks: dict[str, RunClock] = {}
        self._bars: dict[str, RunPicture] = {}
        self._states: dict[int, str] | None = None
        self._drawn = -REDRAW_S
        self._waiting: StudyPicture | RunsPicture | None = None

    def line(self, text: str) -> None:
        """Print one event."""
        print(clean(text), flush=True)

    def update(self, status: Any) -> None:
        """Show the table of trials as it is now."""
        with self._lock:
            states = {int(field_of(t, "number")): str(field_of(t, "state")) for t in field_of(status, "trials", ())}
            if not states:
                return
            before, self._states = self._states, states
            for trial in field_of(status, "trials", ()):
                number = int(field_of(trial, "number"))
                failed = states[number] == "FAIL" != (before or {}).get(number)
                if before is not None and failed and field_of(trial, "error"):
                    self.line(trial_event(trial))
            ended = all(state in FINAL_STATES for state in states.values())
            self._draw(StudyPicture(status, self._pace), at_once=states != before and (before is None or ended))

    def epoch(self, report: Mapping[str, Any], total: int, run: str = "") -> None:
        """Show the bar of a run as it is now, among those of the runs that were seen before."""
        with self._lock:
            remaining = self._clocks.setdefault(run, RunClock()).remaining(report, total)
            self._bars[run] = RunPicture(report, total, remaining, run)
            bars: Sequence[RunPicture] = [self._bars[name] for name in sorted(self._bars, key=natural)]
            self._draw(RunsPicture(bars), at_once=report["epoch"] in (1, total))

    def _draw(self, picture: StudyPicture | RunsPicture, *, at_once: bool) -> None:
        self._waiting = picture
        if not at_once and time.monotonic() - self._drawn < REDRAW_S:
            return
        self._show()

    def _show(self) -> None:
        if self._waiting is None:
            return
        from IPython.display import display

        bundle = rendered(self._waiting)
        self._waiting, self._drawn = None, time.monotonic()
        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(bundle, raw=True)  # type: ignore[no-untyped-call]

    def close(self, *, replaced: bool = False) -> None:
        """Show the last picture, which stays."""
        with self._lock:
            self._show()


def rendered(picture: StudyPicture | RunsPicture) -> dict[str, str]:
    """The picture as text and as HTML, by MIME type."""
    from rich.console import Console

    console = Console(
        record=True, file=io.StringIO(), width=COLUMNS, height=ROWS, force_terminal=True, highlight=False,
        color_system="standard", legacy_windows=False, force_jupyter=False,
    )  # fmt: skip
    console.print(picture)
    page = console.export_html(inline_styles=True, code_format=_FORMAT, clear=False)
    return {"text/plain": console.export_text().rstrip(), "text/html": page}
