"""The context of a run that is trained inside another one for what it makes; its epochs are no reports of the other."""

from __future__ import annotations

import time
from collections.abc import Iterable

import numpy as np
from torch import Tensor, nn

from sage_ray.pair_source import EPOCHS_FOLDER
from sage_ray.training.context import Arrays, RunContext
from sage_ray.training.report import MAKING, EpochReport, MakerProgress

SIGN_S = 1.0
"""Least seconds between two signs of life."""


class OriginContext:
    """Place among workers, reductions and wish to stop of the outer run; its epochs are told as those of a maker.

    Every step is a sign of life of the outer run, which reports no epoch of its own meanwhile.

    Args:
        outer: context of the run that waits for what is made.
        name: of what is trained, as it is told.
        epochs: that it will have.
    """

    def __init__(self, outer: RunContext, name: str, epochs: int) -> None:
        self._outer, self._name, self._epochs = outer, name, epochs
        self.rank, self.world_size, self.device = outer.rank, outer.world_size, outer.device
        self.stage_patience_s = outer.stage_patience_s
        self.computed = self.taken = 0
        """Epochs that were trained here, and that came from the stage store."""
        self.seconds = 0.0
        """That all of these epochs took, wherever they were trained."""
        self._signed = 0.0
        self._trained: list[int] = []

    def prepare(self, module: nn.Module) -> nn.Module:
        """As the outer run's."""
        return self._outer.prepare(module)

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """As the outer run's."""
        return self._outer.all_reduce(tensor)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """As the outer run's; every step does so, and shows that the run is alive."""
        self.waiting()
        self._outer.average_gradients(parameters)

    def barrier(self) -> None:
        """As the outer run's."""
        self._outer.barrier()

    def report(self, report: EpochReport) -> None:
        """Count an epoch, and tell the outer run how far it is.

        Those that were trained here are kept beside the outer run's record, whatever becomes of this attempt at it.
        """
        if report.replayed:
            self.taken += 1
        else:
            self.computed += 1
            self._trained.append(report.epoch)
            self._outer.keep(f"{EPOCHS_FOLDER}/from_{self._trained[0]:05d}", {"epoch": np.array(self._trained)})
        self.seconds += report.seconds
        told = (report.phase, report.epoch, self._epochs, report.seconds, report.replayed)
        self._outer.report_maker(MakerProgress(self._name, *told))
        self._outer.waiting()

    def makes(self, seconds: float = 0.0) -> None:
        """Tell that the pairs are being made, and at the end in how many seconds they were."""
        self._outer.report_maker(MakerProgress(self._name, MAKING, self._epochs, self._epochs, seconds))

    def report_maker(self, progress: MakerProgress) -> None:
        """As the outer run's."""
        self._outer.report_maker(progress)

    def keep(self, name: str, arrays: Arrays) -> None:
        """Nothing: what is kept beside the record is the outer run's own."""

    def should_stop(self) -> bool:
        """Whether the outer run is to end."""
        return self._outer.should_stop()

    def waiting(self) -> None:
        """As the outer run's, now and then."""
        now = time.monotonic()
        if now - self._signed >= SIGN_S:
            self._signed = now
            self._outer.waiting()

    def say(self, line: str) -> None:
        """As the outer run's."""
        self._outer.say(line)
