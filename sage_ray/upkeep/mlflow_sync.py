"""What MLflow lacks of a home, and sending it: runs, studies and final trainings, purged or deleted ones too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sage_ray.errors import UserError
from sage_ray.notebook_view import NotebookView
from sage_ray.record.home import Home
from sage_ray.record.mlflow_client import MirrorAway, MirrorUnavailable
from sage_ray.record.mlflow_mirror import CURSOR, Mirror
from sage_ray.record.mlflow_reports import send_reports
from sage_ray.record.mlflow_rows import Cursor, ParentFacts, hide_password
from sage_ray.record.run_folder import RunFolder
from sage_ray.registry.final_plan import read_plan
from sage_ray.registry.register import final_parent
from sage_ray.search.parent_run import STATES, study_parent
from sage_ray.search.study_folder import StudyFolder
from sage_ray.search.study_status import status

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class SyncReport(NotebookView):
    """What `sync` did: run ids sent, already there, and found without a live process (now INTERRUPTED)."""

    sent: list[str] = field(default_factory=list)
    up_to_date: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    parents: list[str] = field(default_factory=list)
    """Studies and final trainings whose own run was made, closed or put right."""
    failed: dict[str, str] = field(default_factory=dict)
    """What could not be sent, by name, each with the reason."""

    def frame(self) -> pd.DataFrame:
        """One row per run, study and final training: name, outcome and, where it failed, the reason."""
        import pandas as pd

        told = {
            "sent": self.sent,
            "up to date": self.up_to_date,
            "closed": self.orphans,
            "parent put right": self.parents,
        }
        rows = [(name, outcome, "") for outcome, names in told.items() for name in names]
        rows += [(name, "failed", reason) for name, reason in self.failed.items()]
        return pd.DataFrame(rows, columns=["name", "outcome", "reason"])

    def headline(self) -> str:
        """How many were sent, were there already, and could not be sent."""
        sent = len(self.sent) + len(self.parents)
        return f"MLflow: {sent} sent, {len(self.up_to_date)} up to date, {len(self.failed)} failed"


def sync(home: Home, *, say: Callable[[str], None] | None = None) -> SyncReport:
    """Send to MLflow what it lacks of a home; runs whose process died are closed as INTERRUPTED.

    MLflow is asked which runs it has, whatever was sent to it before. What is refused is named, and keeps nothing
    else from being sent.

    Args:
        home: of the runs.
        say: told each refusal.

    Raises:
        UserError: there is no such home, or MLflow cannot be reached.
    """
    home.refuse_missing()
    report = SyncReport()
    for place in (home.runs, home.studies, home.finals):
        for cursor in sorted(place.glob(f"*/{CURSOR}")):
            hide_password(cursor)
    mirror = Mirror(home, insist=True)
    try:
        _send_all(mirror, report)
    except MirrorUnavailable as error:
        if not report.sent and not report.parents:
            mend = "start the server or mend MLFLOW_TRACKING_URI, then sync again"
            if home.database is not None:
                mend = "restore that file, or move it away: then `sage-ray sync` fills a new one"
            raise UserError("MLflow did not take the runs", str(error), mend) from None
        report.failed["the rest"] = str(error)
    if say is not None:
        for name, reason in report.failed.items():
            say(f"{name} was not sent: {reason}")
    return report


def _send_all(mirror: Mirror, report: SyncReport) -> None:
    """Parents first, so that each run finds its own."""
    runs = list(_runs(mirror.home, report))
    parents = list(_parents(mirror.home, report))
    cursors = [_cursor_of(mirror, run, report) for run in runs] + [mirror.parent_cursor(facts) for facts in parents]
    there = mirror.stored_runs([found.mlflow_run_id for found in cursors if found and found.mlflow_run_id])
    for facts in parents:
        known = mirror.parent_cursor(facts).mlflow_run_id
        stored = there.get(known or "")
        if facts.state == "RUNNING" and stored is not None and stored.info.lifecycle_stage == "active":
            continue  # its driver tells MLflow how it goes on
        if _tried(facts.name, report, lambda facts=facts: mirror.send_parent(facts, there)):  # type: ignore[misc]
            report.parents.append(facts.name)
    for facts in parents:
        sent = _tried(facts.name, report, lambda facts=facts: send_reports(mirror, facts.name))  # type: ignore[misc]
        if sent and facts.name not in report.parents:
            report.parents.append(facts.name)
    named = {facts.name for facts in parents}
    for run in runs:
        if run.run_id in report.failed:
            continue
        sent = _tried(run.run_id, report, lambda run=run: mirror.renew(run, there))  # type: ignore[misc]
        if run.run_id not in report.failed:
            (report.sent if sent else report.up_to_date).append(run.run_id)
        if sent:
            _close_lost_parent(run, named, mirror, report)


def _tried(name: str, report: SyncReport, send: Callable[[], bool]) -> bool:
    """Whether something was sent; what one run or study is refused for does not keep the others from being sent."""
    try:
        return send()
    except MirrorAway:
        raise
    except (MirrorUnavailable, UserError, OSError) as error:
        report.failed[name] = str(error)
        return False


def _cursor_of(mirror: Mirror, run: RunFolder, report: SyncReport) -> Cursor | None:
    try:
        return mirror.cursor(run, run.read())
    except UserError as error:
        report.failed[run.run_id] = str(error)
        return None


def _runs(home: Home, report: SyncReport) -> Iterator[RunFolder]:
    """All runs that can be read, those closed whose process died."""
    for run_id in home.run_ids():
        folder = RunFolder.open(home.runs, run_id)
        try:
            if folder.read().state == "RUNNING" and not folder.alive():
                folder.set_state("INTERRUPTED", error="its process died; run it again to go on from its last snapshot")
                report.orphans.append(run_id)
        except UserError as error:
            report.failed[run_id] = str(error)
            continue
        yield folder


def _parents(home: Home, report: SyncReport) -> Iterator[ParentFacts]:
    for name in home.study_names():
        try:
            found = status(name, home)
            yield study_parent(StudyFolder(home, name), found, STATES[found.state])
        except UserError as error:
            report.failed[name] = str(error)
    for name in home.final_ids():
        try:
            yield final_parent(read_plan(home, name), home)
        except UserError as error:
            report.failed[name] = str(error)


def _close_lost_parent(run: RunFolder, named: set[str], mirror: Mirror, report: SyncReport) -> None:
    """Close the run of a study that the home has no more, which a run of it has just brought back to MLflow."""
    record = run.read()
    name = record.parent or record.study
    if name is None or name in named:
        return
    named.add(name)

    def close() -> bool:
        mirror.parent_run(name, state="INTERRUPTED")
        return True

    if _tried(name, report, close):
        report.parents.append(name)
