"""Which images a model was trained, chosen and tested on."""

from __future__ import annotations

from sage_ray.data.lineage import handed_on
from sage_ray.data.prepare import PreparedData, prepare
from sage_ray.errors import UserError
from sage_ray.record.home import Home
from sage_ray.record.model_reference import ModelRef

UNKNOWN = "training data are not at hand, so images that the model was trained on cannot be left out"
UNKNOWN_ORIGIN = (
    "nobody tells which images lie behind the model's extra pairs or pretrain.checkpoint, so they cannot be left out"
)


def seen_by(ref: ModelRef, home: Home) -> tuple[set[str], set[str], str | None]:
    """(shas trained or chosen on, shas of the locked test part, a note if not all of the first are known).

    What was seen by the makers of its extra pairs and by the segmenter that it started from counts: sha256 of images,
    and of the mask files that were shown to a generator.
    """
    before = handed_on(ref.folder)
    handed = set(before.seen)
    note = None if before.known else UNKNOWN_ORIGIN
    if ref.provenance is not None:
        return handed | set(ref.provenance["seen_shas"]), set(ref.provenance["test_shas"]), note
    config = ref.config(home)
    if config is None:
        return handed, set(), UNKNOWN
    try:
        prepared = prepare(config.data, home.cache)
    except UserError:
        return handed, set(), UNKNOWN
    seen, tested = seen_and_tested(prepared)
    return handed | set(seen), set(tested), note


def seen_and_tested(data: PreparedData) -> tuple[list[str], list[str]]:
    """Shas of the training and validation images, and of the test images; the images themselves are not read.

    Training images without labels count as seen: a discriminator may have learnt from them.
    """
    split = data.split
    seen = sorted(data.shas[i] for part in (split.train, split.validation, split.unlabelled) for i in part)
    return seen, sorted(data.shas[i] for i in data.split.test)
