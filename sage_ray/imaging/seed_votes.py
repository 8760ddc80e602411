"""The segmenters of several seeds in one model folder, and their vote on an image.

A folder that `pack_seeds` has made is a model folder like any other: what lies at its top is the registered seed, and
all that uses a model uses that one unless it asks for the vote. The segmenters of the other seeds lie in `seeds/SEED/`,
each a model folder of its own. This module travels inside registered models, with `imaging.model`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sage_ray.errors import UserError
from sage_ray.files import write_text
from sage_ray.imaging.model import SEGMENTER_FILE, SPEC_FILE, Model, load_model_folder
from sage_ray.imaging.tiles import RowSource

SEEDS_FOLDER = "seeds"
SEEDS_ENTRY = "seeds"
"""Entry of model.json: the seeds whose segmenters the folder holds, the registered one first."""
MOST_DISAGREEMENT = 0.5
"""Largest disagreement of a pixel: half of the seeds are sure of particle, the other half of background."""
RULE = "mean probability > 0.5"
"""When a pixel is foreground. The mean, and not a count of masks, so that a seed that is sure outweighs one that wavers
near 0.5, the number of seeds may be even, and one seed gives its own mask."""

DOUBT = "1 - Dice of a seed's mask with the mask of the vote, mean over seeds"
"""What `doubt_of` says of an image, in words."""


@dataclass(frozen=True)
class Vote:
    """What the seeds say of an image, or of a band of its rows."""

    probability: np.ndarray
    """Mean over seeds of the foreground probability, (n, columns) float32 in [0,1]."""
    disagreement: np.ndarray
    """Standard deviation over seeds (of these seeds, not of seeds at large), (n, columns) float32 in [0, 0.5]."""
    counts: np.ndarray
    """(seeds, 3) whole numbers: foreground pixels of the seed's own mask, of the mask of the vote, and of both."""

    @property
    def mask(self) -> np.ndarray:
        """(n, columns) bool, probability > 0.5."""
        decided: np.ndarray = self.probability > 0.5
        return decided


def count_votes(probabilities: Sequence[np.ndarray]) -> Vote:
    """The vote of seeds on pixels (n, columns), whose probabilities (n, columns) float32 in [0,1] are given by seed."""
    first = probabilities[0].astype(np.float32)
    # Of differences to one seed: where all seeds say the same, rounding leaves exactly that, and a deviation of 0.
    offset, squares = np.zeros_like(first), np.zeros_like(first)
    for other in probabilities[1:]:
        step = other - first
        offset += step
        squares += step * step
    number = np.float32(len(probabilities))
    offset /= number
    variance = squares / number - offset * offset
    mean = np.clip(first + offset, 0, 1)
    spread = np.sqrt(np.clip(variance, 0, MOST_DISAGREEMENT**2))
    decided = mean > 0.5
    both = int(decided.sum())
    own = [probability > 0.5 for probability in probabilities]
    counts = [[int(mask.sum()), both, int((mask & decided).sum())] for mask in own]
    return Vote(mean, spread, np.array(counts, np.int64))


def doubt_of(counts: np.ndarray) -> float:
    """How much the mask of an image depends on the seed: 1 - Dice of a seed's mask with the vote's, mean over seeds.

    It is 0 where all seeds give the same mask, also an empty one, and has the scale of Dice, whatever the number and
    the size of the particles: a mean over pixels would rank images by how much edge they have.

    Args:
        counts: `Vote.counts` of the image, summed over its bands.

    Source: Roy, Conjeti, Navab, Wachinger, NeuroImage 195, 2019, who rank scans by the overlap of sampled masks.
    """
    own, voted, shared = counts.T.astype(float)
    sizes = own + voted
    dice = np.divide(2 * shared, sizes, out=np.ones(len(counts)), where=sizes > 0)
    return float(1 - dice.mean())


@dataclass(eq=False)
class SeedVotes:
    """The models of several seeds, which predict alike but for their weights.

    Attributes:
        models: by seed, the registered one first.
    """

    models: dict[int, Model]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, the registered one first."""
        return tuple(self.models)

    @property
    def registered(self) -> Model:
        """The model that is used where no vote is asked for."""
        return next(iter(self.models.values()))

    def to(self, device: Any) -> SeedVotes:
        """The same, all networks moved to `device`."""
        for model in self.models.values():
            model.to(device)
        return self

    def on_image(self, image: np.ndarray, **options: Any) -> Vote:
        """The vote on a grey image (H,W), at its size. Options and errors are those of `Model.predict_mask`."""
        return count_votes([model.predict_mask(image, **options)[0] for model in self.models.values()])

    def on_stream(self, source: RowSource, **options: Any) -> Iterator[Vote]:
        """The vote on an image of any size in bands from the top, the bands of `Model.predict_stream`.

        Each seed goes over the source for itself, in step with the others: memory is that of one times the seeds.
        """
        streams = (model.predict_stream(source, **options) for model in self.models.values())
        for bands in zip(*streams, strict=True):
            yield count_votes(bands)


def pack_seeds(folder: Path, registered: int, others: Mapping[int, Path]) -> tuple[int, ...]:
    """Add the segmenters of other seeds to a model folder, and note all seeds in its model.json; returns the seeds.

    Args:
        folder: model folder of the registered seed; its weights stay what they are.
        registered: that seed.
        others: model folders by seed; only their segmenters are taken.
    """
    seeds = (registered, *(seed for seed in others if seed != registered))
    shutil.rmtree(folder / SEEDS_FOLDER, ignore_errors=True)
    for seed in seeds[1:]:
        target = folder / SEEDS_FOLDER / str(seed)
        target.mkdir(parents=True)
        shutil.copyfile(others[seed] / SEGMENTER_FILE, target / SEGMENTER_FILE)
        spec = json.loads((others[seed] / SPEC_FILE).read_text(encoding="utf-8"))
        alone = {"generator": None, "sha256": {SEGMENTER_FILE: spec["sha256"][SEGMENTER_FILE]}}
        _write_spec(target, spec | alone)
    spec = json.loads((folder / SPEC_FILE).read_text(encoding="utf-8"))
    _write_spec(folder, spec | {SEEDS_ENTRY: list(seeds)})
    return seeds


def packed_seeds(spec: Mapping[str, Any]) -> tuple[int, ...]:
    """The seeds that model.json names, the registered one first; none for a model of one seed or of before 0.4."""
    return tuple(int(seed) for seed in spec.get(SEEDS_ENTRY) or ())


def load_seed_votes(folder: str | Path, model: str = "") -> SeedVotes:
    """The models of all seeds in a folder, on the CPU.

    Args:
        folder: model folder.
        model: what the user calls it.

    Raises:
        UserError: it holds one seed alone, or what `load_model_folder` refuses.
    """
    folder = Path(folder)
    registered = load_model_folder(folder)
    seeds = packed_seeds(registered.spec)
    if len(seeds) < 2:
        where = model or str(folder)
        mend = "leave the option out, or name a version that `sage-ray final` of this release made of several seeds"
        raise UserError("model of one seed has nobody to vote", where, mend)
    models = {seeds[0]: registered}
    for seed in seeds[1:]:
        models[seed] = load_model_folder(folder / SEEDS_FOLDER / str(seed))
    return SeedVotes(models)


def _write_spec(folder: Path, spec: Mapping[str, Any]) -> None:
    write_text(folder / SPEC_FILE, json.dumps(spec, indent=2) + "\n")
