"""The choice of the best trial: one standard error, ties to the cheaper, only complete trials."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_ray.config import resolve
from sage_ray.search.best import Candidate, choose, standard_errors
from sage_ray.search.network_flops import network_flops


def candidate(trial: int, values: list[float], **changes: object) -> Candidate:
    settings: dict[str, object] = {
        "trial": trial,
        "params": {"pretrain.lr": trial},
        "value": float(np.mean(values)),
        "seed_values": dict(enumerate(values)),
        "epochs": 10,
        "network_flops": 100,
    }
    return Candidate(**(settings | changes))  # type: ignore[arg-type]


def test_a_cheaper_trial_within_one_standard_error_wins() -> None:
    # Top: mean .90, sd .0283 over 2 seeds, so one standard error is .0283 / sqrt(2) = .02.
    top = candidate(0, [0.88, 0.92], epochs=20)
    near = candidate(1, [0.887, 0.887], epochs=10)
    far = candidate(2, [0.875, 0.875], epochs=5)
    chosen, best, standings, rule = choose([far, near, top], maximize=True, metric="val/dice")
    assert (chosen.trial, best.trial) == (1, 0)
    assert [s.trial for s in standings] == [0, 1, 2]
    assert [s.within for s in standings] == [True, True, False]
    assert standings[1].standard_error == pytest.approx(0.02)
    assert "2 of 3 complete trials" in rule and "seeds of the top trial" in rule


def test_ties_go_to_epochs_then_network_then_number() -> None:
    same = [
        candidate(3, [0.9], epochs=10, network_flops=100),
        candidate(2, [0.9], epochs=10, network_flops=100),
        candidate(1, [0.9], epochs=10, network_flops=200),
        candidate(0, [0.9], epochs=11, network_flops=1),
    ]
    chosen, _, _, rule = choose(same, maximize=True, metric="val/dice")
    assert chosen.trial == 2
    assert "only equal values tie" in rule
    assert choose(same[2:], maximize=True, metric="val/dice")[0].trial == 1


def test_without_seeds_or_images_the_better_value_wins() -> None:
    trials = [candidate(0, [0.9], epochs=1), candidate(1, [0.9001], epochs=50)]
    assert choose(trials, maximize=True, metric="val/dice")[0].trial == 1
    assert choose(trials, maximize=False, metric="val/loss")[0].trial == 0


def test_one_seed_takes_paired_differences_over_images() -> None:
    rng = np.random.default_rng(0)
    hard = rng.uniform(0.3, 0.9, 40)
    shas = [f"{i:02d}" for i in range(40)]
    top = candidate(0, [0.70], epochs=20, per_image=dict(zip(shas, hard, strict=True)))
    # Differences to the top: alternating 0 and .02, so mean .01, standard error .01013 / sqrt(40) = .0016.
    shifted = dict(zip(shas, hard - np.tile([0.0, 0.02], 20), strict=True))
    close = candidate(1, [0.6985], epochs=5, per_image=shifted)
    behind = candidate(2, [0.6980], epochs=1, per_image=shifted)
    errors, basis = standard_errors(top, [top, close, behind], "val/dice")
    expected = np.std(np.tile([0.0, 0.02], 20), ddof=1) / np.sqrt(40)
    assert errors == {0: 0.0, 1: pytest.approx(expected), 2: pytest.approx(expected)}
    assert "40 validation images" in basis and "one seed" in basis
    # The spread between images (.17) plays no part: the pairing takes it out.
    chosen, _, standings, _ = choose([top, close, behind], maximize=True, metric="val/dice")
    assert chosen.trial == 1
    assert [s.trial for s in standings if s.within] == [0, 1]


@given(
    st.lists(
        st.tuples(st.lists(st.floats(0, 1), min_size=2, max_size=2), st.integers(1, 30), st.integers(1, 5)),
        min_size=1,
        max_size=8,
    ),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_choice_is_never_worse_than_one_error_and_ignores_order(rows: list, maximize: bool, random: object) -> None:
    trials = [
        candidate(n, values, epochs=epochs, network_flops=flops) for n, (values, epochs, flops) in enumerate(rows)
    ]
    chosen, top, standings, _ = choose(trials, maximize=maximize, metric="val/dice")
    extreme = max if maximize else min
    assert top.value == extreme(t.value for t in trials)
    mine = next(s for s in standings if s.trial == chosen.trial)
    assert mine.behind <= mine.standard_error + 1e-12
    assert all(
        (chosen.epochs, chosen.network_flops, chosen.trial) <= (s.epochs, s.network_flops, s.trial)
        for s in standings
        if s.within
    )
    shuffled = list(trials)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert choose(shuffled, maximize=maximize, metric="val/dice")[0] == chosen


def test_network_cost_counts_what_is_trained_and_grows_with_width() -> None:
    small = resolve(preset="tiny_sage_gan").config
    wide = small.with_values({"segmenter.width": 16})
    alone = small.with_values({"adversarial.epochs": 0})
    assert 0 < network_flops(alone) < network_flops(small) < network_flops(wide)
    larger = small.with_values({"data.image_size": [128, 128]})
    assert network_flops(larger) > 3 * network_flops(small)
