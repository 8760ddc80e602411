"""Scores on images that a model has not seen: the only reader of a locked test part, and it counts its reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from sage_ray.config import stable_hash
from sage_ray.data.lineage import extra_pairs_of
from sage_ray.errors import UserError
from sage_ray.evaluation import ledger
from sage_ray.evaluation.particle_scores import (
    as_rows,
    of_particles,
    particle_lines,
    particle_notes,
    read_sizes,
    write_sizes,
)
from sage_ray.evaluation.reading_task import OWN_TEST, reading_task
from sage_ray.evaluation.score_tables import (
    PRIMARY,
    ScoreLine,
    name_test_set,
    seed_table,
    summary,
    why_no_interval,
)
from sage_ray.evaluation.scoring_task import ScoringTask, score_model, score_otsu
from sage_ray.evaluation.shared_reads import READ_KEY, Readings, count_reading, readings_of
from sage_ray.files import replacing
from sage_ray.followed import pull, push
from sage_ray.locks import locked
from sage_ray.metrics.definitions import PARTICLE_ROWS
from sage_ray.notebook_view import NotebookView
from sage_ray.record.home import Home
from sage_ray.record.model_reference import ModelRef, resolve_model
from sage_ray.record.run_folder import BASELINE, RunFolder
from sage_ray.record.run_record import unknown_pairs
from sage_ray.statistics import paired_interval
from sage_ray.training.scoring import SCORING_PRECISION


@dataclass(frozen=True)
class Gain:
    """Paired Dice difference, model minus Otsu, with its interval over images; none of one image."""

    score: str
    mean: float
    low: float | None
    high: float | None
    level: float | None
    over: str


@dataclass(frozen=True)
class Evaluation(NotebookView):
    """Scores of a model, or of the Otsu baseline beside it, on images that it has not seen."""

    model: dict[str, Any]
    data: str
    part: str
    """`locked test`, or `all images` or `unseen images` of other data."""
    images: int
    test_set: str
    """Names the scored images by contents."""
    fingerprint: str
    split_id: str | None
    scores: dict[str, ScoreLine]
    baseline: dict[str, ScoreLine]
    """Otsu thresholding of the same images."""
    gain: Gain | None
    """None without the baseline."""
    test_reads: int
    """How often this model has been scored on this test set, this time included; 0 for other data."""
    test_reads_of_home: int
    """Reads of this test set by all models of the home."""
    readings: Readings | None
    """Reads of this test set over all homes of a shared store, this time included; None: other data."""
    fresh: bool
    """False: read back from what an earlier evaluation stored; nothing was scored, nothing counted."""
    notes: list[str]
    per_image: Path
    """Parquet file with the score of every image."""
    scoring: str
    """Precision that the images were scored in."""

    def frame(self) -> pd.DataFrame:
        """One row per score: score, mean, low, high, otsu (of Otsu's threshold on the same images), definition."""
        rows = [
            {
                "score": name,
                "mean": line.mean,
                "low": line.low,
                "high": line.high,
                "otsu": self.baseline[name].mean if name in self.baseline else None,
                "definition": line.definition,
            }
            for name, line in self.scores.items()
        ]
        return pd.DataFrame(rows)

    def headline(self) -> str:
        """How many images of which data were scored."""
        return f"{self.images} images ({self.part} of {self.data})"

    def remarks(self) -> list[str]:
        """What the intervals are over, how often the test was read, and what to keep in mind."""
        line = self.scores[PRIMARY]
        over = line.over if line.level is None else f"{line.level:.0%} intervals over {line.over}"
        return [over, *([] if self.readings is None else [self.readings.text]), *self.notes]


Tell = Callable[[Evaluation], object]
Rows = list[dict[str, Any]]
Score = Callable[[ScoringTask], Rows]


def evaluate(
    model: str | Path,
    data: str | Path | None,
    home: Home,
    *,
    baseline: bool = True,
    tell: Tell | None = None,
    foreground: str | None = None,
) -> Evaluation:
    """Score a model and keep the score of every image.

    A reading of a locked test part is counted when all is ready to be shown, and before anything is: what fails on the
    way, `tell` included, leaves no score and no count behind, and nobody can see a score that is not counted.

    Args:
        model: run id, folder or `models:/` URI.
        data: a folder of image/mask pairs or `synthetic://...`; None or "test" is the model's own locked test part.
            Images that the model was trained or chosen on are left out, so its own data folder gives its locked test
            part. All other data are scored at their own size, in the masks that `predict` writes, and the locked test
            at the size of training: the definitions of the scores say which.
        home: of the runs; its ledger counts the reads of a locked test part.
        baseline: also score Otsu thresholding.
        tell: makes of the result what will be shown; called before anything is stored and counted.
        foreground: `data.foreground` for other data; None takes that of the training where it finds particles.

    Raises:
        UserError: no such model or data, nothing unseen in it, or a model of unknown data asked for its own test part.
    """
    ref = resolve_model(model, home)
    home.check_writable()
    task = reading_task(ref, data, home, foreground)
    run = _run_of(ref, home)
    # The run's folder holds scores of its whole locked test, at the size of training, and no others.
    if task.locked and not task.own_size and run is not None:
        return _of_run(task, run, home, "evaluate", baseline=baseline, tell=tell)
    path = _path_of(task, home)
    pull(path)
    frame = _read_frame(path, task)
    fresh = frame is None
    if frame is None:
        rows = score_model(task) + (score_otsu(task) if baseline else [])
        frame = pd.DataFrame(rows).assign(run_id=ref.run_id, seed=task.config.seed)
    elif task.groups is not None:
        frame = frame.assign(group=frame["image_sha"].map(dict(zip(task.shas, task.groups, strict=True))))
    read = _read_row(task, "evaluate", ref.run_id or ref.text) if task.locked else None
    result = _evaluation(task, frame, home, path, read, fresh=fresh)
    if tell is not None:
        tell(result)
    if fresh:
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as temporary:
            frame.to_parquet(temporary, index=False)
        push(path)
    _count(read, task, home, result)
    return result


def _path_of(task: ScoringTask, home: Home) -> Path:
    """Where scores are kept that are none of a run's own locked test."""
    ref = task.ref
    identity = [ref.identity()["weights_sha"] or str(ref.folder), name_test_set(task.shas), task.definitions]
    # Masks of other data may be mended while their images stay as they are.
    identity += [] if task.locked else [task.data.fingerprint]
    return home.path / "evaluations" / f"{stable_hash(identity)}.parquet"


def score_locked_test(run_id: str, home: Home, *, purpose: str) -> pd.DataFrame:
    """Test rows of a finished run, with column `seed`; scored once, read back ever after.

    Raises:
        UserError: the run has no model, or its data have no test part.
    """
    ref = resolve_model(run_id, home)
    task = reading_task(ref, OWN_TEST, home)
    _of_run(task, RunFolder.open(home.runs, run_id), home, purpose, baseline=False)
    return stored_test_rows(RunFolder.open(home.runs, run_id))


def stored_test_rows(run: RunFolder, *, baseline: bool = False) -> pd.DataFrame:
    """Rows of part `test` that a run's folder holds, with column `seed`; of its weights, or of the Otsu baseline.

    Empty if they were never scored.
    """
    rows = [row for row in run.per_image() if row["part"] == "test" and (row["checkpoint"] == BASELINE) == baseline]
    return pd.DataFrame(rows).assign(seed=run.read().seed)


def _of_run(
    task: ScoringTask, run: RunFolder, home: Home, purpose: str, *, baseline: bool, tell: Tell | None = None
) -> Evaluation:
    with locked(run.path / ".test.lock", timeout_s=600) as held:
        if not held:
            raise UserError("run is being scored", run.run_id, "wait for the other process")
        record = run.read()
        fresh = not _stored(run, task)
        kept, rows = _kept_and_new(task, run, score_model, whole=purpose == "evaluate")
        if baseline:
            others = _kept_and_new(task, run, score_otsu, whole=True)
            kept, rows = kept + others[0], rows + others[1]
        # What is not stored yet is labelled as it will be.
        frame = pd.DataFrame([*rows, *kept]).assign(run_id=run.run_id, seed=record.seed)
        reads = record.test_reads + 1 if fresh or record.test_reads == 0 else record.test_reads
        earlier = ledger.reads_of_run(home.path, run.run_id, record.created)[1]
        read = {**_read_row(task, purpose, run.run_id, earlier + reads), "run_created": record.created}
        result = _evaluation(task, frame, home, run.per_image_path, read, fresh=fresh)
        if tell is not None:
            tell(result)
        # The rows are written before the count: a kill in between is mended here, and a read is never counted twice.
        if rows:
            run.write_per_image(write_sizes(run, rows))
        if reads != record.test_reads:
            run.update(test_reads=reads)
        _count(read, task, home, result)
    return result


def _kept_and_new(task: ScoringTask, run: RunFolder, score: Score, *, whole: bool) -> tuple[Rows, Rows]:
    """Rows that the run's folder holds, and those that were scored just now and are to be stored.

    A reading of an earlier release has no scores of particles. They are added to it for who asks for the `whole`.
    """
    baseline = score is score_otsu
    if not _stored(run, task, baseline=baseline):
        return [], score(task)
    stored = as_rows(stored_test_rows(run, baseline=baseline))
    kept = stored + [row for row in read_sizes(run) if (row["checkpoint"] == BASELINE) == baseline]
    if not whole or task.has_particles(kept):
        return kept, []
    try:
        added = of_particles(score(task))
    except UserError:  # the weights are gone, the reading is not
        return kept, []
    return [], [row for row in stored if row["score"] not in PARTICLE_ROWS] + added


def _stored(run: RunFolder, task: ScoringTask, *, baseline: bool = False) -> bool:
    frame = stored_test_rows(run, baseline=baseline)
    if frame.empty:
        return False
    pixels = frame[~frame["score"].isin(PARTICLE_ROWS)]
    named = task.definitions
    same = all(named.get(score) == text for score, text in zip(pixels["score"], pixels["definition"], strict=True))
    return same and set(frame["image_sha"]) == set(task.shas)


def _read_row(task: ScoringTask, purpose: str, reader: str, read: int = 1) -> dict[str, Any]:
    """What the ledger is to hold of a reading."""
    return {
        "reader": reader,
        "read": read,
        "purpose": purpose,
        "model": task.ref.text,
        "weights_sha": task.ref.identity()["weights_sha"],
        "test_set": name_test_set(task.shas),
        "split_id": task.data.split.split_id,
        "fingerprint": task.data.fingerprint,
        "images": len(task.rows),
    }


def _count(row: dict[str, Any] | None, task: ScoringTask, home: Home, result: Evaluation) -> None:
    if row is not None and result.readings is not None:
        count_reading(home, row, task.config.runtime.stage_store, result.readings)


def _run_of(ref: ModelRef, home: Home) -> RunFolder | None:
    """The run of this home that made the model, if it still holds those weights."""
    if ref.run_id is None or ref.run_id not in home.run_ids():
        return None
    run = RunFolder.open(home.runs, ref.run_id)
    same = ref.kind == "run" or run.read().weights_sha == ref.identity()["weights_sha"]
    return run if same else None


def _read_frame(path: Path, task: ScoringTask) -> pd.DataFrame | None:
    frame = pd.read_parquet(path) if path.is_file() else None
    if frame is None or task.locked:
        return frame
    # What an earlier release scored without particles costs nothing to score again.
    return frame if task.has_particles(as_rows(frame[frame["checkpoint"] != BASELINE])) else None


def _evaluation(
    task: ScoringTask, frame: pd.DataFrame, home: Home, path: Path, read: dict[str, Any] | None, *, fresh: bool
) -> Evaluation:
    """The evaluation of the scores in `frame`; its counts are those after `read` has been counted."""
    where = task.ref.text
    mine = frame[frame["checkpoint"] != BASELINE]
    particles = particle_lines(mine, where)
    other = frame[frame["checkpoint"] == BASELINE]
    test_set = name_test_set(task.shas)
    reads = ledger.reads_of_test_set(home.path, test_set) if read is not None else []
    if read is not None and not any(all(row[name] == read[name] for name in READ_KEY) for row in reads):
        reads.append(read)
    store = task.config.runtime.stage_store
    counted = readings_of(home, test_set, stage_store=store, pending=read, write=True) if read is not None else None
    readers, weights = {task.ref.run_id, task.ref.text}, task.ref.identity()["weights_sha"]
    return Evaluation(
        model=task.ref.identity(),
        data=task.read_with.path,
        part=task.part,
        images=len(task.rows),
        test_set=test_set,
        fingerprint=task.data.fingerprint,
        split_id=task.data.split.split_id if task.locked else None,
        scores=summary(mine, where) | particles,
        baseline=summary(other, "otsu") | particle_lines(other, "otsu") if len(other) else {},
        gain=_gain(mine, other, where) if len(other) else None,
        test_reads=sum(row["reader"] in readers and row["weights_sha"] == weights for row in reads),
        test_reads_of_home=len(reads),
        readings=counted,
        fresh=fresh,
        notes=[
            *task.notes,
            *_of_pairs(task.ref),
            *particle_notes(particles, task.truth),
            *(counted.notes if counted is not None else ()),
        ],
        per_image=path,
        scoring=SCORING_PRECISION,
    )


def _of_pairs(ref: ModelRef) -> list[str]:
    """A note if the model was trained on extra pairs that nobody tells the lineage of."""
    note = unknown_pairs(extra_pairs_of(ref.folder))
    return [note] if note else []


def _gain(mine: pd.DataFrame, other: pd.DataFrame, where: str) -> Gain:
    found, reference = seed_table(mine, PRIMARY, where), seed_table(other, PRIMARY, "otsu").values
    why = why_no_interval(found.groups)
    if why is not None:
        return Gain(PRIMARY, float((found.values - reference).mean()), None, None, None, f"{why}: no interval")
    gain = paired_interval(found.values, reference, groups=found.groups)
    return Gain(PRIMARY, gain.mean, gain.low, gain.high, gain.level, gain.over)
