"""Where pairs that were made come from, and whether they know images that a run must not see: lineage.json."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from sage_ray.config import read_yaml
from sage_ray.data.manifest import read_manifest
from sage_ray.data.prepare import PreparedData
from sage_ray.errors import UserError
from sage_ray.files import read_json, write_json

LINEAGE_FILE = "lineage.json"
EXTRA_PAIRS_FILE = "extra_pairs.json"
"""Beside a run's model: the lineage of the extra pairs that it was trained on."""
FORMAT_VERSION = 1
RENDERER = "renderer"
"""The maker of rendered pairs."""


@dataclass(frozen=True)
class Lineage:
    """What pairs were made from. Images stand for themselves and for their masks.

    Attributes:
        maker: "generator", "renderer", "drawn", or whatever made them.
        known: whether all of it is known.
        trained_on: sha256 of the images that the maker learned from.
        chosen_on: sha256 of the images by which its weights were chosen.
        source_masks: sha256 of the images whose masks were shown to it.
        source_mask_files: sha256 of the mask files that were shown to it.
        unlabelled: sha256 of the images that it learned from without their masks.
    """

    maker: str
    known: bool = True
    trained_on: tuple[str, ...] = ()
    chosen_on: tuple[str, ...] = ()
    source_masks: tuple[str, ...] = ()
    source_mask_files: tuple[str, ...] = ()
    unlabelled: tuple[str, ...] = ()

    @classmethod
    def of(cls, origin: Mapping[str, Any]) -> Lineage:
        """The lineage in the origin of made pairs, or in lineage.json; what it does not name is empty.

        A renderer learns from images alone; masks that it has its sizes from count as shown to it.
        """
        names = [field.name for field in fields(cls) if field.name not in ("maker", "known")]
        lists = {name: tuple(map(str, origin.get(name) or ())) for name in names}
        if origin.get("maker") == RENDERER:
            lists["unlabelled"] = _union(lists["unlabelled"], lists.pop("trained_on"))
            sizes_from = map(str, origin.get("sizes_from_masks_of") or ())
            lists["source_masks"] = _union(lists["source_masks"], sizes_from)
        return cls(str(origin.get("maker", "unknown")), bool(origin.get("known", True)), **lists)

    @property
    def seen(self) -> frozenset[str]:
        """sha256 of all images and mask files that the maker learned from, with masks or without, or was shown."""
        with_masks = {*self.trained_on, *self.chosen_on, *self.source_masks, *self.source_mask_files}
        return frozenset(with_masks | set(self.unlabelled))

    def plain(self) -> dict[str, Any]:
        """As `of` reads it."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def also(self, other: Lineage) -> Lineage:
        """This lineage, whose maker has also learned from what `other` tells of."""
        return Lineage(
            self.maker,
            self.known and other.known,
            _union(self.trained_on, other.trained_on, other.source_masks),
            _union(self.chosen_on, other.chosen_on),
            self.source_masks,
            _union(self.source_mask_files, other.source_mask_files),
            _union(self.unlabelled, other.unlabelled),
        )


UNKNOWN = Lineage("unknown", known=False)


def write_lineage(folder: Path, lineage: Lineage) -> None:
    """Write lineage.json into a folder of pairs."""
    write_json(folder / LINEAGE_FILE, {"format_version": FORMAT_VERSION, **lineage.plain()})


def read_lineage(folder: Path) -> Lineage:
    """The lineage of a folder of pairs; `UNKNOWN` if the folder does not tell.

    Raises:
        UserError: a lineage.json that cannot be read.
    """
    path = folder / LINEAGE_FILE
    if not path.is_file():
        return UNKNOWN
    try:
        told = read_json(path)
        if told["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format {told['format_version']}, this version reads {FORMAT_VERSION}")
        return Lineage.of(told)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, json.JSONDecodeError) as error:
        raise UserError("unreadable lineage", path, f"write the pairs again, or remove the file ({error})") from None


def lineage_of_model(folder: Path, maker: str = "generator") -> Lineage:
    """What a model knows: its training and validation images, and what was handed on to it (`handed_on`).

    Training images without labels count: a discriminator may have learned from them.

    Args:
        folder: with the weights, in a run (manifest.parquet beside it) or in a package (provenance.json beside it).
        maker: what the model is called.
    """
    beside = folder.parent
    try:
        if (beside / "manifest.parquet").is_file():
            table, _ = read_manifest(beside / "manifest.parquet")
            train, validation, unlabelled = (
                tuple(table.loc[table.part == part, "image_sha256"]) for part in ("train", "validation", "unlabelled")
            )
            # Whether or not they were shown to a discriminator: those of a run that left them out are its own too.
            own = Lineage(maker, True, trained_on=train, chosen_on=validation, unlabelled=unlabelled)
        else:
            own = Lineage(maker, True, trained_on=tuple(read_json(beside / "provenance.json")["seen_shas"]))
        return own.also(handed_on(folder))
    except (UserError, OSError, ValueError, TypeError, KeyError):
        return Lineage(maker, known=False)


def handed_on(folder: Path) -> Lineage:
    """What a model knows beside its own images: through extra pairs, and through the segmenter that it started from.

    Args:
        folder: as of `lineage_of_model`.
    """
    found = Lineage("model")
    try:
        extra = extra_pairs_of(folder)
        if extra is not None:
            found = found.also(Lineage.of(extra["made_from"])).also(
                Lineage("folder", trained_on=tuple(extra["images"]))
            )
        start = _checkpoint_of(folder)
        return found if start is None else found.also(lineage_of_model(_model_of(start, folder), "segmenter"))
    except (UserError, OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return Lineage("model", known=False)


def _model_of(checkpoint: str, folder: Path) -> Path:
    """The folder of the model that a model in `folder` started from; in the same home, where that was moved."""
    there = Path(checkpoint).parent
    beside = folder.absolute().parents[2].joinpath(*there.parts[-3:])  # runs/ID/artifacts/model
    return beside if not there.is_dir() and beside.is_dir() else there


def _checkpoint_of(folder: Path) -> str | None:
    """`pretrain.checkpoint` of the config of a model in a run or a package; None without."""
    if (folder.parent.parent / "config.yaml").is_file():
        config: Mapping[str, Any] = read_yaml(folder.parent.parent / "config.yaml")
    elif (folder.parent / "provenance.json").is_file():
        config = read_json(folder.parent / "provenance.json").get("config") or {}
    else:
        return None
    return (config.get("pretrain") or {}).get("checkpoint")


def extra_pairs_of(folder: Path) -> dict[str, Any] | None:
    """What lies beside a model, in its run or its package, of the extra pairs that it was trained on; None if nothing.

    It is what the record of the run says, `made_from`, the lineage, and `images`, the sha256 of those that are files.
    """
    for path, name in ((folder.parent / EXTRA_PAIRS_FILE, None), (folder.parent / "provenance.json", "extra_pairs")):
        if path.is_file():
            told = read_json(path)
            return dict(told) if name is None else told.get(name)
    return None


def check_lineage(lineage: Lineage, data: PreparedData, where: str) -> None:
    """Raise UserError if pairs know what a run must not see.

    These are images of the locked test part, and of its validation part, where a maker's weights may be chosen, as the
    run does itself; and masks of images that `data.split.labels` leaves without, whose pictures may be known.
    """
    labelled = {*lineage.trained_on, *lineage.source_masks}
    known = labelled | set(lineage.unlabelled)
    shown = set(lineage.source_mask_files)
    parts = (
        ("locked test", data.split.test, known | set(lineage.chosen_on)),
        ("validation", data.split.validation, known),
        ("unlabelled", data.split.unlabelled, labelled),
    )
    for part, images, seen in parts:
        facts = [data.facts[i] for i in images]
        met = [f for f in facts if f.image_sha in seen or f.mask_sha in shown]
        if met:
            what = f"extra pairs come from {len(met)} of the {len(facts)} images of the {part} part"
            raise UserError(what, where, "make them from the masks, and by a model, of this run's training part alone")


def check_contents(masks: np.ndarray, shas: Collection[tuple[str, str]], data: PreparedData, where: str) -> None:
    """Raise UserError if extra pairs are pictures, or show masks, that another part of the run's data has.

    These parts are the locked test, validation, and the images that `data.split.labels` leaves without masks.

    Masks are compared pixel by pixel at the training size; one that the training part has too tells nothing.

    Args:
        masks: (N,H,W) uint8 in {0,1}, of the extra pairs, as prepared.
        shas: (sha256 of the file, sha256 of the pixels) of the extra images, where they are files.
        data: of the run.
        where: names the pairs.
    """
    contents = {sha for pair in shas for sha in pair}
    shown = set(_digests(masks)) - set(_digests(data.masks[data.split.train]))
    others = (
        ("locked test", data.split.test),
        ("validation", data.split.validation),
        ("unlabelled", data.split.unlabelled),
    )
    for part, images in others:
        same = sum(data.facts[i].image_sha in contents or data.facts[i].pixel_sha in contents for i in images)
        if same:
            what = f"extra pairs hold {same} of the {len(images)} images of the {part} part"
            raise UserError(what, where, "remove them: these images must not be trained on")
        met = len(shown.intersection(_digests(data.masks[images])))
        if met:
            what = f"extra pairs show {met} masks of the {part} part"
            raise UserError(what, where, "make pairs from the masks of this run's training part alone")


def _digests(masks: np.ndarray) -> Iterable[bytes]:
    """What tells masks apart; one that is empty or full is no sign of where it comes from."""
    return [np.packbits(mask).tobytes() for mask in masks if 0 < int(mask.sum()) < mask.size]


def _union(*lists: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({sha for each in lists for sha in each}))
