"""The run of a study in MLflow, which holds the runs of its trials and tells the best of them."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sage_ray.config import ExperimentConfig, resolve
from sage_ray.errors import UserError
from sage_ray.record.mlflow_client import MirrorUnavailable
from sage_ray.record.mlflow_follower import wait_for
from sage_ray.record.mlflow_mirror import Mirror
from sage_ray.record.mlflow_params import preset_of_study, study_facts, study_params, study_tree, text_of
from sage_ray.record.mlflow_rows import ParentFacts, Point
from sage_ray.record.run_folder import RunFolder
from sage_ray.record.run_record import State
from sage_ray.search.arm_verdicts import arm_verdicts
from sage_ray.search.parent_note import study_description
from sage_ray.search.parent_scores import PRIMARY, ArmStanding, arm_standings, best_arm, best_trial, counts, tests_of
from sage_ray.search.study_folder import StudyFolder
from sage_ray.search.study_status import StudyStatus
from sage_ray.watch import Watch

WAIT_S = 30.0
LOOK_S = 5.0
"""Least time between two looks for a better trial."""
COUNT_S = 60.0
"""Least time between two looks for new counts of trials alone."""
STATES: dict[str, State] = {"running": "RUNNING", "finished": "COMPLETE", "interrupted": "INTERRUPTED"}
_WORDS = {state: word for word, state in STATES.items()}


def study_parent(folder: StudyFolder, status: StudyStatus, state: State) -> ParentFacts:
    """What MLflow's run of a study shall say: numbers, the best trial or arm, a description, and the study's files."""
    home = folder.home
    facts, tree = study_facts(folder.path), study_tree(folder.path)
    arms, best = arm_standings(status, facts, home), best_trial(status)
    shown = study_params(_base(folder), preset_of_study(folder.path)) if folder.base_path.is_file() else {}
    tags = {"sage.study": folder.name, "sage.home": home.address}
    tags |= {"sage.metric": status.metric, "sage.direction": status.direction}
    values = counts(status)
    tests: dict[str, float] = {}
    if best is not None and best.value is not None:
        objectives = best.objectives if len(best.objectives) > 1 else {}
        values |= {f"best/{name}": value for name, value in {"objective": best.value, **objectives}.items()}
        tests = tests_of([run.run_id for run in best.runs], home)
        tags["sage.best_trial"] = str(best.number)
        tags |= {f"sage.best/{path}": text_of(value) for path, value in best.params.items()}
    top = best_arm(status, arms)
    if top is not None and top.value is not None:
        values["best/objective"] = top.value
        tests = dict(top.tests)
        tags["sage.best_arm"] = top.name
        values |= _of_reference(arms, str(facts.get("reference")))
    verdicts = arm_verdicts(status, facts, home) if arms and state != "RUNNING" else []
    ended, now_ms = status.done + status.pruned + status.failed, int(time.time() * 1000)
    points: tuple[Point, ...] = tuple((name, value, now_ms, ended) for name, value in {**values, **tests}.items())
    note = study_description(replace(status, state=_WORDS[state]), tree, shown, arms, verdicts, tests)
    files = () if state == "RUNNING" else (folder.spec_path, folder.base_path, folder.path / "study.json")
    return ParentFacts(folder.name, "study", folder.path, state, tags, points, files, shown, note)


def tell_parent(mirror: Mirror, folder: StudyFolder, status: StudyStatus) -> None:
    """Bring MLflow's run of a study that is not driven up to its status. Raises MirrorUnavailable as `Mirror.push`."""
    mirror.send_parent(study_parent(folder, status, STATES[status.state]))


def _of_reference(arms: Sequence[ArmStanding], reference: str) -> dict[str, float]:
    """Scores of the arm that the others are compared with."""
    arm = next((arm for arm in arms if arm.name == reference), None)
    if arm is None or arm.value is None:
        return {}
    tested = {f"reference/{PRIMARY}": arm.tests[PRIMARY]} if PRIMARY in arm.tests else {}
    return {"reference/objective": arm.value, **tested}


def _base(folder: StudyFolder) -> ExperimentConfig:
    return _read_base(folder.base_path, folder.base_path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _read_base(path: Path, _changed: int) -> ExperimentConfig:
    return resolve(file=path).config


class ParentRun:
    """The study's run in MLflow while it is driven; a server that is away never holds up the study."""

    def __init__(self, folder: StudyFolder, watch: Watch) -> None:
        self._folder, self._watch = folder, watch
        self._mirror = Mirror(folder.home)
        self._thread: threading.Thread | None = None
        self._best: int | None = None
        self._looked = self._counted = 0.0
        self._ended = 0
        self._said = False

    def say(self, state: State, status: StudyStatus, runs: Sequence[RunFolder] = ()) -> None:
        """Put the parent run into `state`: in the background at the start, waiting for it at the end."""
        if self._thread is not None:
            wait_for(self._thread, WAIT_S, self._mirror.breaker)
        self._start(state, status, runs)
        if state == "RUNNING" or self._thread is None:
            return
        in_time = wait_for(self._thread, WAIT_S, self._mirror.breaker)
        if not in_time and self._mirror.breaker.away() is None:
            self._tell("it did not take it in time")

    def watching(self) -> Watch:
        """The study's watch, through which MLflow also hears of a better trial as soon as there is one."""
        return _BestWatch(self._watch, self)

    def note(self, status: StudyStatus) -> None:
        """Tell MLflow, in the background, of a new best trial at once, and of trials that have ended after a while."""
        if time.monotonic() - self._looked < LOOK_S or (self._thread is not None and self._thread.is_alive()):
            return
        self._looked = time.monotonic()
        best, ended = best_trial(status), status.done + status.pruned + status.failed
        late = ended > self._ended and time.monotonic() - self._counted > COUNT_S
        if late or (best is not None and best.number != self._best):
            self._start("RUNNING", status, ())

    def _start(self, state: State, status: StudyStatus, runs: Sequence[RunFolder]) -> None:
        self._counted, self._ended = time.monotonic(), status.done + status.pruned + status.failed
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
            self._tell(str(error))

    def _tell(self, reason: str) -> None:
        if not self._said:
            self._said = True
            self._watch.line(f"MLflow does not have all of the study ({reason}); `sage-ray sync` sends it later")


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
