"""Early stopping with many trials decides as Ray Tune's own rule does."""

from __future__ import annotations

import math
import random
from itertools import islice
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.tune.schedulers import AsyncHyperBandScheduler

from sage_ray.search.halving import Halving, Rungs

SETTINGS: dict[str, Any] = {"time_attr": "epoch", "metric": "objective", "max_t": 30, "grace_period": 2}


@pytest.mark.filterwarnings("ignore:All-NaN")
@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("reduction_factor", [2, 3, 4, 2.5])
def test_decisions_are_those_of_ray(mode: str, reduction_factor: float) -> None:
    draw = random.Random(7)
    ours = Halving(**SETTINGS, mode=mode, reduction_factor=reduction_factor)
    theirs = AsyncHyperBandScheduler(**SETTINGS, mode=mode, reduction_factor=reduction_factor)
    live, others = list(range(8)), iter(range(8, 300))
    for number in live:
        begin(ours, theirs, number)
    stopped = 0
    reached = dict.fromkeys(range(300), 0)
    while live:
        number = draw.choice(live)
        reached[number] += draw.randint(1, 4)
        score = draw.choice([draw.random(), round(draw.random(), 1), math.nan if reached[number] > 9 else 0.5])
        result = {"epoch": reached[number], "objective": score}
        trial: Any = SimpleNamespace(trial_id=str(number), config={"number": number})
        nobody: Any = None
        decision = ours.on_trial_result(nobody, trial, result)
        assert decision == theirs.on_trial_result(nobody, trial, result), (number, result)
        if decision == "STOP" or reached[number] > 25:
            stopped += decision == "STOP"
            live.remove(number)
            for fresh in islice(others, 1):
                live.append(fresh)
                begin(ours, theirs, fresh)
    assert stopped > 50


def begin(ours: Halving, theirs: AsyncHyperBandScheduler, number: int) -> None:
    trial: Any = SimpleNamespace(trial_id=str(number), config={"number": number})
    nobody: Any = None
    for scheduler in (ours, theirs):
        scheduler.on_trial_add(nobody, trial)


@pytest.mark.parametrize("reduction_factor", [2, 3, 4, 2.5])
def test_the_score_to_reach_is_numpys_percentile_to_the_last_bit(reduction_factor: float) -> None:
    draw, rungs = random.Random(3), Rungs(reduction_factor)
    first: dict[str, float] = {}
    second: dict[str, float] = {}
    assert rungs.cutoff(first) is None
    for count in range(400):
        for rung in (first, second):
            for _ in range(draw.randint(0, 2)):
                rung[f"{count} {len(rung)}"] = math.nan if draw.random() < 0.1 else draw.lognormvariate(0, 3)
            known = [score for score in rung.values() if not math.isnan(score)]
            wanted = np.nanpercentile(known, (1 - 1 / reduction_factor) * 100) if known else None
            assert rungs.cutoff(rung) == wanted


def test_rays_own_rule_asks_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A canary: with a Ray that computes it elsewhere, all scores of a rung are sorted for each trial again."""
    monkeypatch.setattr(np, "nanpercentile", lambda *args: pytest.fail("all scores are sorted anew"))
    scheduler = Halving(**SETTINGS, mode="max", reduction_factor=3)
    nobody: Any = None
    for number, score in enumerate([0.5, 0.75, 0.25]):
        trial: Any = SimpleNamespace(config={"number": number})
        scheduler.on_trial_add(nobody, trial)
        decision = scheduler.on_trial_result(nobody, trial, {"epoch": 2, "objective": score})
        assert decision == ("STOP" if score == 0.25 else "CONTINUE")
