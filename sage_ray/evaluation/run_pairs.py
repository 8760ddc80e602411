"""The pairs that a run's phase 1 was trained on, rendered or extra, read back with what their maker has seen."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from sage_ray.config import ExperimentConfig
from sage_ray.data.extra_folder import read_folder, resized
from sage_ray.data.lineage import Lineage, extra_pairs_of
from sage_ray.data.prepare import prepare
from sage_ray.errors import UserError
from sage_ray.record.home import Home
from sage_ray.record.model_reference import ModelRef
from sage_ray.record.run_folder import RunFolder
from sage_ray.record.run_record import RunRecord
from sage_ray.stages.made_pairs import read_pairs
from sage_ray.stages.pair_keys import RENDER, source_of
from sage_ray.stages.render_keys import rendered_pairs_key
from sage_ray.stages.store import StageStore


@dataclass(frozen=True, eq=False)
class RunPairs:
    """Made pairs at the run's training size.

    Attributes:
        images: (m,H,W) uint8.
        masks: (m,H,W) bool.
        text: what they are, for definitions: the same for runs that differ in their seed alone.
        place: where they lie.
        seen: sha256 of images and mask files that their maker has learned from (a renderer: without masks), was chosen
            on, or was shown.
        known: whether that is all of it.
    """

    images: np.ndarray
    masks: np.ndarray
    text: str
    place: str
    seen: frozenset[str]
    known: bool


def pairs_of_run(ref: ModelRef, config: ExperimentConfig, home: Home) -> RunPairs | None:
    """The pairs of a run of this home; None of a model that was trained on real pairs alone, or is no run.

    Raises:
        UserError: they are no longer there.
    """
    if ref.run_id is None or ref.run_id not in home.run_ids():
        return None
    record = RunFolder.open(home.runs, ref.run_id).read()
    if config.render.train_on_pairs:
        key = rendered_pairs_key(config, record.stage_keys[RENDER])
        images, masks, origin = _stored(key, config, home, ref)
        seen = Lineage.of(origin).also(Lineage("masks", trained_on=tuple(origin.get("sizes_from_masks_of") or ())))
        return _pairs(images, masks, f"pairs rendered by {origin.get('engine', 'a renderer')}", f"stage {key}", seen)
    return _extra_pairs(ref, config, record, home)


def mask_groups(masks: np.ndarray) -> list[str] | None:
    """A name of each of the masks (m,H,W), the same for equal ones, of which several images may have been made.

    None where all differ.
    """
    names = [hashlib.sha256(np.packbits(mask > 0).tobytes()).hexdigest() for mask in masks]
    return names if len(set(names)) < len(names) else None


def _extra_pairs(ref: ModelRef, config: ExperimentConfig, record: RunRecord, home: Home) -> RunPairs | None:
    source = source_of(config)
    if source is None or record.extra_pairs is None:
        return None
    if source.kind == "place":
        read = read_folder(source.name, config.data, prepare(config.data, home.cache), home.cache)
        images, masks, place = read.images, read.masks, source.name
    else:
        key = str(record.extra_pairs["key"])
        images, masks, _ = _stored(key, config, home, ref)
        place = f"stage {key}"
    told = _told(ref)
    seen = Lineage.of(told["made_from"]).also(Lineage("folder", trained_on=tuple(told["images"])))
    count = source.pairs or len(images)
    return _pairs(images[:count], masks[:count], f"pairs of {source}, maker {seen.maker}", place, seen)


def _told(ref: ModelRef) -> dict[str, Any]:
    try:
        told = extra_pairs_of(ref.folder)
        if told is None:
            raise FileNotFoundError("extra_pairs.json is not there")
        return {"made_from": dict(told["made_from"]), "images": list(told["images"])}
    except (OSError, TypeError, KeyError, json.JSONDecodeError) as error:
        mend = "restore artifacts/extra_pairs.json of the run (MLflow keeps a copy)"
        raise UserError(f"nobody tells what extra pairs were made from ({error})", ref.text, mend) from None


def _stored(
    key: str, config: ExperimentConfig, home: Home, ref: ModelRef
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Images, masks and origin of a stage of pairs, at the run's size."""
    pairs = read_pairs(StageStore(config.runtime.stage_store or home.stage_store), key)
    if pairs is None:
        what = f"the pairs that the run was trained on are not in the stage store (stage {key})"
        raise UserError(what, ref.text, "train it again under another run id, which makes them anew")
    images, masks = resized(pairs.images, pairs.masks, config.data.image_size)
    return images, masks, pairs.origin


def _pairs(images: np.ndarray, masks: np.ndarray, text: str, place: str, lineage: Lineage) -> RunPairs:
    return RunPairs(images, masks > 0, text, place, lineage.seen, lineage.known)
