"""Scores on images that a model has not seen: the only reader of a locked test part, and it counts its reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sage_ray.config import ExperimentConfig, stable_hash
from sage_ray.data.pairs import patterns_for
from sage_ray.data.prepare import PreparedData, prepare
from sage_ray.data.splits import group_names
from sage_ray.errors import UserError
from sage_ray.evaluation import ledger
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
from sage_ray.record.home import Home
from sage_ray.record.model_reference import ModelRef, resolve_model
from sage_ray.record.run_folder import BASELINE, RunFolder
from sage_ray.sections import DataConfig, SplitConfig
from sage_ray.statistics import paired_interval
from sage_ray.training.scoring import (
    SCORING_PRECISION,
)

OWN_TEST = "test"
"""As DATA: the locked test part of the data that the model was trained on."""


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
class Evaluation:
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


Tell = Callable[[Evaluation], object]


def evaluate(
    model: str | Path, data: str | Path | None, home: Home, *, baseline: bool = True, tell: Tell | None = None
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

    Raises:
        UserError: no such model or data, nothing unseen in it, or a model of unknown data asked for its own test part.
    """
    home.check_writable()
    ref = resolve_model(model, home)
    task = _task(ref, data, home)
    run = _run_of(ref, home)
    # The run's folder holds scores of its whole locked test, at the size of training, and no others.
    if task.locked and task.masks is None and run is not None:
        return _of_run(task, run, home, "evaluate", baseline=baseline, tell=tell)
    folder = home.path / "evaluations"
    identity = [
        ref.identity()["weights_sha"] or str(ref.folder),
        name_test_set(task.shas),
        task.definitions,
    ]
    path = folder / f"{stable_hash(identity)}.parquet"
    pull(path)
    frame = _read_frame(path)
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
        folder.mkdir(exist_ok=True)
        with replacing(path) as temporary:
            frame.to_parquet(temporary, index=False)
        push(path)
    _count(read, task, home, result)
    return result


def score_locked_test(run_id: str, home: Home, *, purpose: str) -> pd.DataFrame:
    """Test rows of a finished run, with column `seed`; scored once, read back ever after.

    Raises:
        UserError: the run has no model, or its data have no test part.
    """
    ref = resolve_model(run_id, home)
    task = _task(ref, OWN_TEST, home)
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
        rows = score_model(task) if fresh else []
        rows += score_otsu(task) if baseline and not _stored(run, task, baseline=True) else []
        # What is not stored yet is labelled as it will be.
        frames = [pd.DataFrame(rows).assign(run_id=run.run_id, seed=record.seed)] if rows else []
        frames += [] if fresh else [stored_test_rows(run)]
        frames += [stored_test_rows(run, baseline=True)] if baseline and _stored(run, task, baseline=True) else []
        reads = record.test_reads + 1 if fresh or record.test_reads == 0 else record.test_reads
        earlier = ledger.reads_of_run(home.path, run.run_id, record.created)[1]
        read = {**_read_row(task, purpose, run.run_id, earlier + reads), "run_created": record.created}
        frame = pd.concat(frames, ignore_index=True)
        result = _evaluation(task, frame, home, run.per_image_path, read, fresh=fresh)
        if tell is not None:
            tell(result)
        # The rows are written before the count: a kill in between is mended here, and a read is never counted twice.
        if rows:
            run.write_per_image(rows)
        if reads != record.test_reads:
            run.update(test_reads=reads)
        _count(read, task, home, result)
    return result


def _stored(run: RunFolder, task: ScoringTask, *, baseline: bool = False) -> bool:
    frame = stored_test_rows(run, baseline=baseline)
    if frame.empty:
        return False
    named = task.definitions
    same = all(named.get(score) == text for score, text in zip(frame["score"], frame["definition"], strict=True))
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


def _task(ref: ModelRef, data: str | Path | None, home: Home) -> ScoringTask:
    config = ref.config(home)
    own = data is None or str(data) in ("", OWN_TEST)
    if own:
        return _own_test(ref, config, home)
    given = str(data)
    if config is None:  # a folder without a record
        bare = ref.load()
        bar = int(bare.spec["preprocessing"]["crop_bottom"])
        config = ExperimentConfig(data=DataConfig(image_size=bare.image_size, crop_bottom=bar, stretch=bare.stretch))
    split, masks = SplitConfig(test=0.0, validation=0.0), patterns_for(given, config.data.masks)
    # Truth is scored as it is given: how training cleaned its own masks is no property of other data.
    bare_truth = {"mask_erosion": 0, "min_object_pixels": 0}
    data_config = config.data.model_copy(update={"path": given, "split": split, "masks": masks, **bare_truth})
    prepared = prepare(data_config, home.cache)
    seen, tested, note = _seen(ref, home)
    rows = np.array([i for i, sha in enumerate(prepared.shas) if sha not in seen], dtype=np.int64)
    notes = [note] if note else []
    if not len(rows):
        raise UserError("the model was trained on every image", given, "give images that it has not seen")
    left_out = len(prepared.shas) - len(rows)
    if left_out:
        notes.append(f"{left_out} of {len(prepared.shas)} images left out: the model was trained or chosen on them")
    is_locked = any(prepared.shas[i] in tested for i in rows)
    if is_locked and {prepared.shas[i] for i in rows} == tested:
        return _own_test(ref, config, home, notes)
    part = "unseen images" if left_out else "all images"
    names = group_names(prepared.stems, config.data.split.group, lenient=True)
    groups = [names[i] for i in rows] if names else None
    return ScoringTask(ref, config, prepared, rows, is_locked, part, given, tuple(notes), groups, masks)


def _own_test(ref: ModelRef, config: ExperimentConfig | None, home: Home, notes: Sequence[str] = ()) -> ScoringTask:
    if config is None:
        raise UserError("model has no test part of its own", ref.text, "name a folder of image/mask pairs as DATA")
    prepared = prepare(config.data, home.cache)
    if not len(prepared.split.test):
        raise UserError("no locked test part", f"data.split.test=0 of {ref.text}", "name other data to score it on")
    known = ref.provenance.get("fingerprint") if ref.provenance else None
    if ref.run_id is not None and known is None and ref.run_id in home.run_ids():
        known = RunFolder.open(home.runs, ref.run_id).read().data_fingerprint
    if known is not None and known != prepared.fingerprint:
        what = f"data have changed since the training (fingerprint {prepared.fingerprint}, was {known})"
        raise UserError(what, config.data.path, "restore the images, or name the new folder as DATA")
    rows = prepared.split.test
    groups = [prepared.groups[i] for i in rows] if prepared.groups else None
    return ScoringTask(ref, config, prepared, rows, True, "locked test", config.data.path, tuple(notes), groups)


def _seen(ref: ModelRef, home: Home) -> tuple[set[str], set[str], str | None]:
    """(shas trained or chosen on, shas of the locked test part, a note if neither can be known)."""
    if ref.provenance is not None:
        return set(ref.provenance["seen_shas"]), set(ref.provenance["test_shas"]), None
    config = ref.config(home)
    unknown = "training data are not at hand, so images that the model was trained on cannot be left out"
    if config is None:
        return set(), set(), unknown
    try:
        prepared = prepare(config.data, home.cache)
    except UserError:
        return set(), set(), unknown
    seen, tested = seen_and_tested(prepared)
    return set(seen), set(tested), None


def seen_and_tested(data: PreparedData) -> tuple[list[str], list[str]]:
    """Shas of the training and validation images, and of the test images; the images themselves are not read."""
    seen = sorted(data.shas[i] for part in (data.split.train, data.split.validation) for i in part)
    return seen, sorted(data.shas[i] for i in data.split.test)


def _read_frame(path: Path) -> pd.DataFrame | None:
    return pd.read_parquet(path) if path.is_file() else None


def _evaluation(
    task: ScoringTask, frame: pd.DataFrame, home: Home, path: Path, read: dict[str, Any] | None, *, fresh: bool
) -> Evaluation:
    """The evaluation of the scores in `frame`; its counts are those after `read` has been counted."""
    where = task.ref.text
    mine = frame[frame["checkpoint"] != BASELINE]
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
        data=task.source,
        part=task.part,
        images=len(task.rows),
        test_set=test_set,
        fingerprint=task.data.fingerprint,
        split_id=task.data.split.split_id if task.locked else None,
        scores=summary(mine, where),
        baseline=summary(other, "otsu") if len(other) else {},
        gain=_gain(mine, other, where) if len(other) else None,
        test_reads=sum(row["reader"] in readers and row["weights_sha"] == weights for row in reads),
        test_reads_of_home=len(reads),
        readings=counted,
        fresh=fresh,
        notes=[*task.notes, *(counted.notes if counted is not None else ())],
        per_image=path,
        scoring=SCORING_PRECISION,
    )


def _gain(mine: pd.DataFrame, other: pd.DataFrame, where: str) -> Gain:
    found, reference = seed_table(mine, PRIMARY, where), seed_table(other, PRIMARY, "otsu").values
    why = why_no_interval(found.groups)
    if why is not None:
        return Gain(PRIMARY, float((found.values - reference).mean()), None, None, None, f"{why}: no interval")
    gain = paired_interval(found.values, reference, groups=found.groups)
    return Gain(PRIMARY, gain.mean, gain.low, gain.high, gain.level, gain.over)
