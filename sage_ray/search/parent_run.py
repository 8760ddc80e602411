"""The run of a study in MLflow, which holds the runs of its trials and tells the best of them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from sage_ray.errors import UserError
from sage_ray.record.mlflow_client import MirrorUnavailable
from sage_ray.record.mlflow_follower import wait_for
from sage_ray.record.mlflow_mirror import Mirror
from sage_ray.record.mlflow_rows import ParentFacts, Point
from sage_ray.record.run_folder import RunFolder
from sage_ray.record.run_record import State
from sage_ray.search.study_folder import StudyFolder
from sage_ray.search.study_status import StudyStatus, TrialStatus
from sage_ray.watch import Watch

WAIT_S = 30.0
LOOK_S = 5.0
"""Least time between two looks for a better trial."""
COUNTS = ("target", "done", "pruned", "failed", "metric", "direction")
STATES: dict[str, State] = {"running": "RUNNING", "finished": "COMPLETE", "interrupted": "INTERRUPTED"}


def study_parent(folder: StudyFolder, status: StudyStatus, state: State) -> ParentFacts:
    """What MLflow's run of a study shall say: counts, the best trial with its parameters, and the study's files."""
    tags = {"sage.study": folder.name, "sage.home": folder.home.address}
    tags |= {f"sage.{name}": str(getattr(status, name)) for name in COUNTS}
    best = best_trial(status)
    points: tuple[Point, ...] = ()
    if best is not None and best.value is not None:
        ended, now_ms = status.done + status.pruned + status.failed, int(time.time() * 1000)
        values = {"objective": best.value, **(best.objectives if len(best.objectives) > 1 else {})}
        points = tuple((f"best/{name}", value, now_ms, ended) for name, value in values.items())
        tags["sage.best_trial"] = str(best.number)
        tags |= {f"sage.best/{path}": _text(value) for path, value in best.params.items()}
    files = () if state == "RUNNING" else (folder.spec_path, folder.base_path, folder.path / "study.json")
    return ParentFacts(folder.name, "study", folder.path, state, tags, points, files)


def best_trial(status: StudyStatus) -> TrialStatus | None:
    """The complete trial with the best (first) objective; None for an ablation, which compares and seeks no best."""
    done = [trial for trial in status.trials if trial.state == "COMPLETE" and trial.value is not None]
    if status.kind != "sweep" or not done:
        return None
    sign = -1.0 if status.direction == "minimize" else 1.0
    return max(done, key=lambda trial: sign * (trial.value or 0.0))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


class ParentRun:
    """The study's run in MLflow while it is driven; a server that is away never holds up the study."""

    def __init__(self, folder: StudyFolder, watch: Watch) -> None:
        self._folder, self._watch = folder, watch
        self._mirror = Mirror(folder.home)
        self._thread: threading.Thread | None = None
        self._best: int | None = None
        self._looked = 0.0
        self._said = False

    def say(self, state: State, status: StudyStatus, runs: Sequence[RunFolder] = ()) -> None:
        """Put the parent run into `state`: in the background at the start, waiting for it at the end."""
        if self._thread is not None:
            wait_for(self._thread, WAIT_S, self._mirror.breaker)
        self._start(state, status, runs)
        if state != "RUNNING" and self._thread is not None:
            wait_for(self._thread, WAIT_S, self._mirror.breaker)

    def watching(self) -> Watch:
        """The study's watch, through which MLflow also hears of a better trial as soon as there is one."""
        return _BestWatch(self._watch, self)

    def note(self, status: StudyStatus) -> None:
        """Tell MLflow of the best trial so far, in the background, if it is a new one."""
        if time.monotonic() - self._looked < LOOK_S or (self._thread is not None and self._thread.is_alive()):
            return
        self._looked = time.monotonic()
        best = best_trial(status)
        if best is not None and best.number != self._best:
            self._start("RUNNING", status, ())

    def _start(self, state: State, status: StudyStatus, runs: Sequence[RunFolder]) -> None:
        self._thread = threading.Thread(target=self._send, args=(state, status, runs), daemon=True)
        self._thread.start()

    def _send(self, state: State, status: StudyStatus, runs: Sequence[RunFolder]) -> None:
        try:
            # Always by its facts, so that what was sent is noted: a study that goes on is closed again at its end.
            self._mirror.send_parent(study_parent(self._folder, status, state))
            best = best_trial(status)
            self._best = None if best is None else best.number
            for run in runs:
                self._mirror.push(run)
        except (MirrorUnavailable, UserError) as error:
            if not self._said:
                self._said = True
                self._watch.line(f"MLflow does not have all of the study ({error}); `sage-ray sync` sends it later")


class _BestWatch:
    """A watch that tells a parent run of each status of the study, beside what it shows."""

    def __init__(self, shown: Watch, parent: ParentRun) -> None:
        self._shown, self._parent = shown, parent

    def update(self, status: Any) -> None:
        """Show a study, and tell its parent run."""
        self._shown.update(status)
        self._parent.note(status)

    def line(self, text: str) -> None:
        """Show one event."""
        self._shown.line(text)

    def epoch(self, report: Mapping[str, Any], total: int, run: str = "") -> None:
        """Show one epoch's report."""
        self._shown.epoch(report, total, run)

    def close(self, *, replaced: bool = False) -> None:
        """Leave the terminal as it was found."""
        self._shown.close(replaced=replaced)
