"""What runs and studies tell their progress to; it knows nothing of ours, so that every layer may name it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Watch(Protocol):
    """What a sweep, a final training or a run tells its progress to."""

    def update(self, status: Any) -> None:
        """Show a study: an object with `study`, counts and `trials` as in `sage-ray status --json`."""

    def line(self, text: str) -> None:
        """Show one event."""

    def epoch(self, report: Mapping[str, Any], total: int, run: str = "") -> None:
        """Show one epoch's report of a run of `total` epochs over all its stages; `run` tells several runs apart."""

    def close(self, *, replaced: bool = False) -> None:
        """Leave the terminal as it was found, harmless twice; `replaced`: what is printed next tells the study anew."""


def tell_maker(watch: Watch, progress: Mapping[str, Any], run: str = "") -> None:
    """Show an epoch of what a run trains first for its extra pairs, as that of a run beside it."""
    if progress["phase"] != "pairs":
        watch.epoch(progress, int(progress["epochs"]), f"{run} {progress['maker']}".strip())


class SilentWatch:
    """--quiet: no progress at all."""

    def update(self, status: Any) -> None:
        """Nothing is shown."""

    def line(self, text: str) -> None:
        """Nothing is shown."""

    def epoch(self, report: Mapping[str, Any], total: int, run: str = "") -> None:
        """Nothing is shown."""

    def close(self, *, replaced: bool = False) -> None:
        """Nothing to do."""
