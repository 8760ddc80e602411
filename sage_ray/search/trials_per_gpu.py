"""How many trials to train on one GPU: which numbers fit in its memory, and which of them trains most per hour."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from sage_ray.config import ExperimentConfig
from sage_ray.runtime.disk_space import GB
from sage_ray.search.epoch_cost import Measured, epochs_of_kinds
from sage_ray.search.shared_device import SideBySide

TRIED = (1, 2, 3)
"""Numbers of trials per GPU that a pilot measures, beside the study's own."""
TRIED_AT_MOST = 8
"""Largest number of trials per GPU that a pilot measures where it is the study's own."""
MEMORY_MARGIN = 0.1
"""Share of a GPU's memory that has to stay free: a run takes a little more than a pilot, and memory gets fragmented."""
NOISE = 0.1
"""By how much more than as many times as fast several trials may seem before the measurement is called disturbed."""
GAIN = 0.05
"""By how much more trials per GPU have to train faster than fewer to be called fastest: a pilot measures seconds, and
each trial more is one more that may run out of memory."""

Verdict = Literal["fits", "does_not_fit", "not_measured"]


@dataclass(frozen=True)
class TrialsOnGpu:
    """What a number of trials does that share one GPU.

    Attributes:
        trials_per_gpu: the number.
        verdict: whether their memory fits, with `MEMORY_MARGIN` of the GPU's left free.
        reason: why they do not fit, or could not be measured, in words.
        memory_per_trial_gb: the most that one of them took, in 10^9 bytes, its CUDA context included; None: not known.
        memory_total_gb: likewise, of all of them.
        steps_per_s: of all of them together, by kind of epoch; {} where they were not measured.
        slowdown: by kind of epoch, how many times as long a step of one of them takes as that of a trial alone.
        epochs_per_hour: of the study's base, all of them together; None where they were not measured.
        relative_epochs_per_hour: the same, over that of a trial alone.
    """

    trials_per_gpu: int
    verdict: Verdict
    reason: str | None = None
    memory_per_trial_gb: float | None = None
    memory_total_gb: float | None = None
    steps_per_s: Mapping[str, float] = field(default_factory=dict)
    slowdown: Mapping[str, float] = field(default_factory=dict)
    epochs_per_hour: float | None = None
    relative_epochs_per_hour: float | None = None

    @property
    def fits(self) -> bool:
        """Whether the trials fit, and were measured."""
        return self.verdict == "fits"


def trials_on_gpu(
    config: ExperimentConfig, alone: Sequence[Measured], own: int, measure: Callable[[int], SideBySide]
) -> Iterator[TrialsOnGpu]:
    """What each number of trials per GPU does, from one on, up to the first that does not fit or cannot be measured.

    A number of which the memory that one process took already tells that it does not fit is not tried: other programs
    on the GPU would run out of memory too.

    Args:
        config: the study's base.
        alone: seconds of each kind of epoch of one trial alone.
        own: trials per GPU as the study has it; tried too.
        measure: processes side by side, as many as it is given.
    """
    first = before = measure(1)
    for count in numbers(own):
        refused = _refusal(before, count) if count > 1 else None
        if refused is not None:
            yield _unmeasured(before, count, refused)
            return
        found = first if count == 1 else measure(count)
        row = _row(found, first, config, alone)
        yield row
        if not row.fits:
            return
        before = found


def numbers(own: int) -> list[int]:
    """Numbers of trials per GPU that are measured, of a study with `own`."""
    return sorted({*TRIED, *([own] if own <= TRIED_AT_MOST else [])})


def share_of_gpu(count: int) -> float:
    """`resources.gpu` with which Ray places `count` trials on one GPU: 1, 0.5, 0.33, 0.25."""
    return math.floor(100 / count) / 100


def fastest(rows: Sequence[TrialsOnGpu], trials_at_once: Mapping[int, int]) -> int | None:
    """The number of trials per GPU with which a study trains most epochs an hour; None if none fits.

    A larger number is taken only where it gives at least `GAIN` more than every smaller one.

    Args:
        rows: what was measured.
        trials_at_once: for each number that fits, how many trials of the study run at a time with it on all GPUs: where
            the CPUs or `concurrency` allow no more, a larger number gains nothing.
    """
    measured = {row.trials_per_gpu: row for row in rows if row.fits}
    best, speed = None, 0.0
    for count in sorted(measured):
        together = max(n for n in measured if n <= min(count, trials_at_once[count]))
        relative = measured[together].relative_epochs_per_hour
        assert relative is not None
        # `relative / together` is the speed of one trial, in that of a trial alone.
        found = trials_at_once[count] * relative / together
        if best is None or found >= (1 + GAIN) * speed:
            best, speed = count, found
    return best


def _refusal(found: SideBySide, count: int) -> str | None:
    """Why `count` trials that take as much memory as those that were measured do not fit; None if they do."""
    total, free = count * found.process_bytes, (1 - MEMORY_MARGIN) * found.device_bytes - found.others_bytes
    if total <= free:
        return None
    others = f" and other programs have {found.others_bytes / GB:.1f} GB" if found.others_bytes >= 0.05 * GB else ""
    need = f"{count} x {found.process_bytes / GB:.1f} GB" if count > 1 else f"{total / GB:.1f} GB"
    return f"{need} of {found.device_bytes / GB:.1f} GB, of which {MEMORY_MARGIN:.0%} has to stay free{others}"


def _unmeasured(found: SideBySide, count: int, refused: str) -> TrialsOnGpu:
    """`count` trials of which the memory of fewer tells that they do not fit."""
    per_trial, total = found.process_bytes / GB, count * found.process_bytes / GB
    return TrialsOnGpu(count, "does_not_fit", refused, round(per_trial, 3), round(total, 3))


def _row(found: SideBySide, first: SideBySide, config: ExperimentConfig, alone: Sequence[Measured]) -> TrialsOnGpu:
    if found.problem is not None:
        return TrialsOnGpu(found.count, "does_not_fit" if found.out_of_memory else "not_measured", found.problem)
    refused = _refusal(found, found.count)
    slowdown = {kind: found.count * first.steps_per_s[kind] / speed for kind, speed in found.steps_per_s.items()}
    epochs = epochs_of_kinds(config)
    before = sum(epochs[each.kind] * each.seconds for each in alone)
    after = sum(epochs[each.kind] * each.seconds * slowdown[each.kind] for each in alone)
    return TrialsOnGpu(
        found.count,
        "fits" if refused is None else "does_not_fit",
        refused,
        memory_per_trial_gb=round(found.process_bytes / GB, 3),
        memory_total_gb=round(found.total_bytes / GB, 3),
        steps_per_s={kind: round(speed, 4) for kind, speed in found.steps_per_s.items()},
        slowdown={kind: round(times, 4) for kind, times in slowdown.items()},
        epochs_per_hour=round(3600 * found.count * sum(epochs.values()) / after, 3),
        relative_epochs_per_hour=round(found.count * before / after, 4),
    )
