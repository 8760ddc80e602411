"""What a report is made of, read once: a study, its runs, its choice, its finals; what is damaged is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sage_ray.errors import UserError
from sage_ray.figures.tested_finals import called, plans_of
from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder
from sage_ray.record.run_record import RunRecord
from sage_ray.registry.final_plan import FinalPlan
from sage_ray.reports.known_images import KnownImages, known_images
from sage_ray.search.study_folder import StudyFolder
from sage_ray.search.study_status import StudyStatus, TrialStatus, study_rows
from sage_ray.search.study_status import status_of as read_status
from sage_ray.study.spec import StudySpec

if TYPE_CHECKING:
    from sage_ray.search.best import BestChoice


@dataclass(frozen=True)
class FinalEvidence:
    """A declared final training with the records of the seeds that have begun.

    Attributes:
        called: what sentences call it, such as "the untuned base" or "trial 3 (the choice of the search)".
    """

    plan: FinalPlan
    records: tuple[RunRecord, ...]
    called: str

    @property
    def finished(self) -> bool:
        """Whether every seed is trained."""
        return len(self.records) == len(self.plan.seeds) and all(record.finished for record in self.records)


@dataclass(frozen=True)
class StudyEvidence:
    """Everything recorded of one study that a report tells of.

    Attributes:
        home: that holds it.
        status: the study as it stands.
        records: of all its runs.
        finals: final trainings of its trials, in the order in which they were declared.
        choice: the best trial; None if there is none, and `no_choice` says why.
        runs_file: the study's own file, as text.
        base_trial: of a search, the trial of its untuned base, if it was among the points.
        folder: of the study.
        images: of the best trial, or of a finished run where there is none.
    """

    home: Home
    status: StudyStatus
    records: tuple[RunRecord, ...]
    finals: tuple[FinalEvidence, ...]
    choice: BestChoice | None
    no_choice: str
    runs_file: str
    base_trial: TrialStatus | None
    folder: Path
    images: KnownImages = field(default_factory=KnownImages)

    @property
    def name(self) -> str:
        """Of the study."""
        return self.status.study

    @property
    def is_search(self) -> bool:
        """Whether it is a search, not an ablation."""
        return self.status.kind == "sweep"

    @property
    def finished_records(self) -> list[RunRecord]:
        """Those of finished runs."""
        return [record for record in self.records if record.finished]

    @property
    def all_records(self) -> list[RunRecord]:
        """Those of the study's runs and of its final trainings."""
        return [*self.records, *(record for final in self.finals for record in final.records)]

    def folder_of(self, run_id: str) -> RunFolder:
        """The folder of a run."""
        return RunFolder(self.home.runs / run_id)


def read_study(name: str, home: Home) -> StudyEvidence:
    """The evidence of a study.

    Raises:
        UserError: no such study, a damaged file of it or of a run, no finished run, or runs on several data sets.
    """
    folder = StudyFolder.open(home, name)
    folder.meta()
    spec = folder.spec()
    status = read_status(folder, spec, study_rows(folder, spec))
    there = set(home.run_ids())
    ids = [place.run_id for number in range(spec.trials) for place in spec.run_grid(number)] if spec.trials else []
    ids += [run.run_id for trial in status.trials for run in trial.runs]
    records = [RunFolder(home.runs / run_id).read() for run_id in dict.fromkeys(ids) if run_id in there]
    check_records(name, records)
    for record in records:
        if record.finished:
            check_scores(RunFolder(home.runs / record.run_id))
    choice, no_choice = _choice(name, home)
    shown = choice.run_ids[0] if choice else next(record.run_id for record in records if record.finished)
    return StudyEvidence(
        home=home,
        status=status,
        records=tuple(records),
        finals=tuple(finals_of(name, home)),
        choice=choice,
        no_choice=no_choice,
        runs_file=folder.spec_path.read_text(encoding="utf-8").rstrip(),
        base_trial=_base_trial(spec, status),
        folder=folder.path,
        images=known_images(home, shown),
    )


def _base_trial(spec: StudySpec, status: StudyStatus) -> TrialStatus | None:
    """The trial whose config is that of the untuned base."""
    if spec.kind != "sweep":
        return None
    number = spec.untuned_trial()
    return next((trial for trial in status.trials if trial.number == number), None)


def check_records(name: str, records: Sequence[RunRecord]) -> None:
    """Raise UserError unless a run is finished and all finished runs are on the same data."""
    finished = [record for record in records if record.finished]
    if not finished:
        states = sorted({record.state for record in records})
        told = ", ".join(f"{sum(r.state == state for r in records)} {state}" for state in states) or "no run has begun"
        raise UserError("study has no finished run", f"{name} ({told})", f"`sage-ray resume {name}` goes on with it")
    prints: dict[str, str] = {}
    for record in finished:
        if record.data_fingerprint:
            prints.setdefault(record.data_fingerprint, record.run_id)
    if len(prints) > 1:
        (first, one), (second, other) = list(prints.items())[:2]
        mend = (
            "the data changed in between: sweep the new data under another --name, or restore the old data and resume"
        )
        raise UserError("study over two data sets", f"{name}: {one} has data {first}, {other} has {second}", mend)


def check_scores(folder: RunFolder) -> None:
    """Raise UserError if the scores of a finished run cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder.per_image_path
    if not path.exists():
        return
    try:
        pq.read_metadata(path)
    except (OSError, pa.ArrowException):
        mend = "restore it (MLflow keeps a copy), or remove the run's folder and resume the study"
        raise UserError("damaged scores of a finished run", path, mend) from None


def finals_of(name: str, home: Home) -> list[FinalEvidence]:
    """The final trainings of a study in the order in which they were declared.

    Raises:
        UserError: a damaged file.
    """
    return [read_final(plan, home) for plan in plans_of(name, home)]


def read_final(plan: FinalPlan, home: Home) -> FinalEvidence:
    """A final training with its records. Raises UserError for a damaged one."""
    there = set(home.run_ids())
    records = tuple(RunFolder(home.runs / run_id).read() for run_id in plan.run_ids if run_id in there)
    for record in records:
        if record.finished:
            check_scores(RunFolder(home.runs / record.run_id))
    return FinalEvidence(plan, records, called(plan, home))


def _choice(name: str, home: Home) -> tuple[BestChoice | None, str]:
    from sage_ray.search.best import best

    try:
        return best(name, home), ""
    except UserError as error:
        return None, f"{error.what}: {error.where}"


def state_mark(words: str, folders: Sequence[RunFolder], images: KnownImages | None = None) -> str:
    """Eight hex digits that change when what a report shows changes: its words, scores, and what can be drawn.

    Args:
        words: the report without its figures.
        folders: of the runs whose curves, scores and artifacts figures show.
        images: that pictures are drawn of, if any; a page that was made while they were gone has another state.
    """
    digest = hashlib.sha256(words.encode())
    if images is not None:
        digest.update(repr((images.lacking, sorted(images.names))).encode())
    for folder in folders:
        for name in ("record.json", "metrics.jsonl", "per_image.parquet"):
            path = folder.path / name
            digest.update(f"{folder.run_id}/{name}".encode())
            if path.is_file():
                digest.update(path.read_bytes())
    return digest.hexdigest()[:8]
