"""The table of each seed's mean: its columns, mean, spread and difference, worked out by hand."""

from __future__ import annotations

from sage_ray.reports.page_parts import Grid
from sage_ray.reports.scores_by_seed import LONG, seed_grid


def grid(rows: dict[str, dict[str, float]]) -> Grid:
    (found,) = seed_grid("arm", rows, "3 images")
    assert isinstance(found, Grid)
    return found


def test_two_rows_have_their_difference_by_seed() -> None:
    found = grid(
        {
            "full": {"seed 0": 0.80, "seed 1": 0.84},
            "bare": {"seed 0": 0.70, "seed 1": 0.78, "seed 10": 0.9, "seed 2": 0.5},
        }
    )
    assert found.head == ["arm", "seed 0", "seed 1", "seed 2", "seed 10", "mean", "standard deviation"]
    # sd of .80, .84 is .04 / sqrt 2.
    assert found.rows[0] == ["full", "0.800", "0.840", "", "", "0.820", "0.028"]
    assert found.rows[1][:6] == ["bare", "0.700", "0.780", "0.500", "0.900", "0.720"]
    # Over the seeds that both have: -.10 and -.06.
    assert found.rows[2][1:] == ["\N{MINUS SIGN}0.100", "\N{MINUS SIGN}0.060", "", "", "\N{MINUS SIGN}0.080", "0.028"]
    assert found.caption.startswith("Dice of each seed: its mean over 3 images.")
    assert found.caption.endswith("of 2 seeds it is known badly.") and not found.folded


def test_one_seed_has_no_scatter_and_what_is_no_seed_is_a_repeat() -> None:
    assert seed_grid("arm", {"full": {"seed 0": 0.8}, "bare": {"seed 0": 0.7}}, "3 images") == []
    assert seed_grid("arm", {}, "3 images") == []
    subsets = {name: {f"subset {k}": 0.5 + 0.1 * k for k in range(3)} for name in "abc"}
    found = grid(subsets)
    assert found.caption == "Dice of each repeat: its mean over 3 images. Standard deviation: over repeats."
    assert len(found.rows) == 3, "of three nothing is taken from the other"


def test_many_rows_are_folded_and_close_scores_have_four_digits() -> None:
    rows = {f"arm {k}": {"seed 0": 0.5 + 0.0001 * k, "seed 1": 0.6} for k in range(LONG + 1)}
    found = grid(rows)
    assert found.folded and found.rows[1][1] == "0.5001"
