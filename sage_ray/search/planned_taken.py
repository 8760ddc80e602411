"""What a study took, beside what was planned before it began."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sage_ray.durations import hours_text
from sage_ray.errors import UserError
from sage_ray.files import read_json
from sage_ray.record.home import Home
from sage_ray.record.run_record import RunRecord
from sage_ray.search.study_folder import StudyFolder
from sage_ray.study.spec import StudySpec

FILE = "plan.json"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class PlannedAndTaken:
    """A study as it was planned, and as it was.

    Attributes:
        planned_epochs: that were to be trained: each distinct stage once, without what was stored already. Here and
            below epochs of all stages count: of rendering, of both phases, and of what makes a run's extra pairs.
        epochs: that its runs trained.
        planned_hours: from the start of the driver to its end; None: it was not known.
        hours: likewise; pauses between two starts do not count.
        needed_epochs: of all its runs, whoever trained them.
        upper_bound: whether trials may be stopped early, so that less was to be expected.
    """

    planned_epochs: int
    epochs: int
    planned_hours: float | None
    hours: float
    needed_epochs: int
    upper_bound: bool

    @property
    def saved_epochs(self) -> int:
        """Epochs that runs took from the stage store."""
        return self.needed_epochs - self.epochs

    def line(self) -> str:
        """In words."""
        most = "at most " if self.upper_bound else ""
        time = "time unknown" if self.planned_hours is None else f"{most}{hours_text(self.planned_hours)}"
        return (
            f"planned {most}{self.planned_epochs} epochs, {time}; took {self.epochs} epochs, {hours_text(self.hours)}; "
            f"reuse saved {self.saved_epochs} of {self.needed_epochs} epochs"
        )


def planned_and_taken(name: str, home: Home) -> PlannedAndTaken | None:
    """The plan of a study beside what it took; None if it has no plan, or no run has begun."""
    folder = StudyFolder(home, name)
    plan = read_forecast(folder.path / FILE)
    if plan is None:
        return None
    with suppress(UserError, OSError, ValueError, KeyError):
        return _compared(plan, folder)
    return None


def read_forecast(path: Path) -> dict[str, Any] | None:
    """The forecast in a file; None if there is none that this release reads."""
    try:
        value = read_json(path)
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) and value.get("format_version") == FORMAT_VERSION else None


def trained_before(folder: StudyFolder, spec: StudySpec) -> dict[str, Any]:
    """What a study that changes has taken already: its stages are stored by now, and no part of the forecast."""
    records, trained, _ = _taken(folder, spec)
    hours = _wall_hours(folder, records) if records else 0.0
    return {"epochs_before": trained, "hours_before": round(hours, 6)}


def _taken(folder: StudyFolder, spec: StudySpec) -> tuple[list[RunRecord], int, int]:
    """(records of its runs, epochs that they trained, epochs that they have), those for extra pairs among both."""
    records: list[RunRecord] = []
    trained = needed = 0
    for number in range(spec.trials):
        for run in folder.run_folders(spec, number):
            record = run.read()
            records.append(record)
            epochs = run.count_epochs() if record.epoch else 0
            needed += epochs
            trained += epochs - (run.count_replayed() if epochs else 0)
            if record.extra_pairs is not None:
                known, here = record.extra_pairs, run.epochs_for_pairs()
                trained += here
                # Of a run that has its pairs, what they took, whoever trained it: what this attempt did not is stored.
                needed += max(sum(int(known.get(name, 0)) for name in ("trained_epochs", "stored_epochs")), here)
    return records, trained, needed


def _compared(plan: dict[str, Any], folder: StudyFolder) -> PlannedAndTaken | None:
    records, trained, needed = _taken(folder, folder.spec())
    if not records:
        return None
    wall, before = plan["wall_hours"], plan.get("hours_before", 0.0)
    return PlannedAndTaken(
        planned_epochs=int(plan["epochs_with_reuse"]) - int(plan["epochs_stored"]) + int(plan.get("epochs_before", 0)),
        epochs=trained,
        planned_hours=None if wall is None else wall + before,
        hours=_wall_hours(folder, records),
        needed_epochs=needed,
        upper_bound=bool(plan["upper_bound"]),
    )


def _wall_hours(folder: StudyFolder, records: Sequence[RunRecord]) -> float:
    """Hours in which the study was computed: pauses between its starts do not count.

    They are those of its drivers, where every one of them has noted its time; else the spans of its runs.
    """
    meta = folder.meta()
    driven = meta.get("driven", {})
    if driven and driven["starts"] == meta["starts"]:
        return float(driven["seconds"]) / 3600
    total, end = 0.0, 0.0
    for start, length in sorted((_seconds(record.created), record.seconds) for record in records):
        total += max(start + length - max(start, end), 0.0)
        end = max(end, start + length)
    return total / 3600


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp()
