"""The particles of the truth one by one, read again from the mask files: prepared data keep foreground alone."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np

from sage_ray.data.images import BadFile
from sage_ray.data.pair_masks import read_pair_mask
from sage_ray.data.pairing import Pair
from sage_ray.data.pairs import look_through
from sage_ray.data.prepare import PreparedData
from sage_ray.data.preprocess import prepare_labels
from sage_ray.data.synth import DRAWN_PREFIX, DrawnSource
from sage_ray.errors import UserError
from sage_ray.sections import DataConfig


class TrueParticles:
    """Labels of the true particles of prepared pictures, where their masks number them and are at hand."""

    def __init__(self, data: DataConfig, prepared: PreparedData) -> None:
        self._data, self._prepared = data, prepared

    def are_numbered(self, rows: Iterable[int]) -> bool:
        """Whether the mask of any of these pictures tells particles apart that touch."""
        return any(self.stored_labels(row) is not None for row in rows)

    @property
    def at_hand(self) -> bool:
        """Whether the masks can be read here; decoded data of another machine come without them."""
        return self._is_drawn or bool(self._pairs)

    def labels(self, row: int) -> np.ndarray | None:
        """Labels (H,W) int32 at the prepared size, 0 outside the prepared mask; None where there are none.

        Particles that eroding or cleaning took away are gone here too.
        """
        stored = self.stored_labels(row)
        if stored is None:
            return None
        mask = self._prepared.masks[row]
        return np.where(mask > 0, prepare_labels(stored, mask.shape, self._data.crop_bottom), 0)

    def stored_labels(self, row: int) -> np.ndarray | None:
        """Labels (H,W) int32 from 1 as the mask has them, at its own size; None if it has none or is not at hand."""
        stem = self._prepared.stems[row]
        if self._is_drawn:
            drawn = DrawnSource.parse(self._data.path)
            return drawn.draw(int(stem.rsplit("_", 1)[-1])).labels.astype(np.int32)
        pair = self._pairs.get(stem)
        if pair is None:
            return None
        try:
            facts = self._prepared.facts[row]
            labels = read_pair_mask(pair, (facts.rows, facts.columns), self._data.foreground).labels
        except BadFile:
            return None
        return None if labels is None else labels.astype(np.int32)

    @property
    def _is_drawn(self) -> bool:
        return self._data.path.startswith(DRAWN_PREFIX)

    @cached_property
    def _pairs(self) -> dict[str, Pair]:
        if self._is_drawn or not Path(self._data.path).expanduser().is_dir():
            return {}
        try:
            return {pair.stem: pair for pair in look_through(self._data.path, self._data.masks).pairs}
        except UserError:
            return {}
