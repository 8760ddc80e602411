"""What a reading scores: a model, the images of data that it has not seen, and what is said of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sage_ray.config import ExperimentConfig
from sage_ray.data.other_data import checked_rule, read_alike
from sage_ray.data.prepare import prepare
from sage_ray.data.splits import group_names
from sage_ray.errors import UserError
from sage_ray.evaluation.scoring_task import ScoringTask
from sage_ray.evaluation.seen_images import seen_by
from sage_ray.record.home import Home
from sage_ray.record.model_reference import ModelRef
from sage_ray.record.run_folder import RunFolder
from sage_ray.sections import DataConfig

OWN_TEST = "test"
"""As DATA: the locked test part of the data that the model was trained on."""


def reading_task(ref: ModelRef, data: str | Path | None, home: Home, foreground: str | None = None) -> ScoringTask:
    """The task of a model and DATA, of which images that the model has seen are left out.

    Args:
        ref: the model.
        data: a folder, a drawn source, or None or "test" for its own locked test part.
        home: of the runs.
        foreground: `data.foreground` of other data; None takes that of the training where it finds particles.

    Raises:
        UserError: no such data, nothing unseen in it, or a model of unknown data asked for its own test part.
    """
    config = ref.config(home)
    own = data is None or str(data) in ("", OWN_TEST)
    if own:
        _refuse_other_rule(foreground, config)
        return _own_test(ref, config, home)
    given = str(data)
    if config is None:  # a folder without a record
        bare = ref.load()
        bar = int(bare.spec["preprocessing"]["crop_bottom"])
        config = ExperimentConfig(data=DataConfig(image_size=bare.image_size, crop_bottom=bar, stretch=bare.stretch))
    # Truth is scored as it is given: how training cleaned its own masks is no property of other data.
    bare_truth = {"mask_erosion": 0, "min_object_pixels": 0}
    data_config = read_alike(config.data, given, foreground).model_copy(update=bare_truth)
    prepared = prepare(data_config, home.cache)
    seen, tested, note = seen_by(ref, home)
    rows = np.array([i for i, sha in enumerate(prepared.shas) if sha not in seen], dtype=np.int64)
    notes = [note] if note else []
    if not len(rows):
        raise UserError("the model was trained on every image", given, "give images that it has not seen")
    left_out = len(prepared.shas) - len(rows)
    if left_out:
        notes.append(f"{left_out} of {len(prepared.shas)} images left out: the model was trained or chosen on them")
    is_locked = any(prepared.shas[i] in tested for i in rows)
    if is_locked and {prepared.shas[i] for i in rows} == tested:
        _refuse_other_rule(foreground, config)
        return _own_test(ref, config, home, notes)
    if data_config.foreground != config.data.foreground:
        notes.append(_other_rule(config.data.foreground, data_config.foreground))
    part = "unseen images" if left_out else "all images"
    names = group_names(prepared.stems, config.data.split.group, lenient=True)
    groups = [names[i] for i in rows] if names else None
    return ScoringTask(ref, config, prepared, rows, is_locked, part, data_config, tuple(notes), groups, own_size=True)


def _refuse_other_rule(foreground: str | None, config: ExperimentConfig | None) -> None:
    if foreground is None or (config is not None and checked_rule(foreground) == config.data.foreground):
        return
    raise UserError("rule for the locked test", foreground, "leave --foreground out: masks are read as in training")


def _other_rule(trained: str, used: str) -> str:
    if not used:
        return f"data.foreground='{trained}' of the training finds no particle in these masks: they are read without it"
    return f"masks are read with data.foreground='{used}', those of the training with '{trained}'"


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
    return ScoringTask(ref, config, prepared, rows, True, "locked test", config.data, tuple(notes), groups)
