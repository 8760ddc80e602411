"""Which images a model was trained, chosen and tested on."""

from __future__ import annotations

from sage_ray.data.prepare import PreparedData, prepare
from sage_ray.errors import UserError
from sage_ray.record.home import Home
from sage_ray.record.model_reference import ModelRef


def seen_by(ref: ModelRef, home: Home) -> tuple[set[str], set[str], str | None]:
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
