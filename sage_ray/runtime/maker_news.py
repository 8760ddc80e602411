"""How far workers are with what they train first for a run's extra pairs, read from the run's record."""

from __future__ import annotations

from collections.abc import Iterator

from sage_ray.config import ExperimentConfig
from sage_ray.record.run_folder import RunFolder
from sage_ray.stages.pair_keys import source_of
from sage_ray.training.report import MAKING, MakerProgress, Report


def maker_news(folder: RunFolder, config: ExperimentConfig) -> Iterator[Report | None]:
    """An endless iterator: what is new of a maker since the last call, as `MakerProgress.as_dict`; None: nothing.

    Its `seconds` are all that the run has spent on its pairs since then: several epochs may have ended.
    """
    if source_of(config) is None:
        while True:
            yield None
    begun = folder.read()
    told, spent = (begun.extra_pairs or {}).get("now"), begun.pair_seconds_spent
    while True:
        record = folder.read()
        now, seconds = (record.extra_pairs or {}).get("now"), record.pair_seconds_spent - spent
        if now is None and seconds > 0:  # what was spent last is told with the run's own first epoch
            now = {**(told or {"maker": "", "epoch": 0, "epochs": 0}), "phase": MAKING}
        fresh = now != told or seconds > 0
        told, spent = now, record.pair_seconds_spent
        yield MakerProgress(**now, seconds=seconds, replayed=not seconds).as_dict() if now and fresh else None
