"""When runs begin and end on a number of slots, by hand-computed times; the tree of their stages as text."""

from __future__ import annotations

import pytest

from sage_ray.search.epoch_cost import EpochSeconds
from sage_ray.search.schedule import RunOfPlan, StageOfRun, schedule
from sage_ray.search.stage_tree import stage_tree, tree_lines
from sage_ray.terminal.stage_picture import stage_picture

COST = EpochSeconds({"pretrain": 1.0, "frozen": 2.0, "adversarial": 4.0}, rest_s=0.5, frozen_epochs=2, sources=())


def run(trial: int, *stages: tuple[str, str, int], seed: int = 0) -> RunOfPlan:
    return RunOfPlan(trial, seed, tuple(StageOfRun(*stage) for stage in stages), COST)


def first(epochs: int, key: str = "a") -> tuple[str, str, int]:
    return (key, "pretrain", epochs)


def second(epochs: int, key: str) -> tuple[str, str, int]:
    return (key, "adversarial", epochs)


def test_seconds_of_an_epoch_are_those_of_its_kind() -> None:
    assert COST.between("pretrain", 3, 5) == 2
    assert COST.between("adversarial", 0, 5) == 2 * 2 + 3 * 4  # two frozen ones
    assert COST.between("adversarial", 1, 2) == 2 and COST.between("adversarial", 2, 3) == 4


def test_one_slot_trains_each_stage_once() -> None:
    runs = [run(0, first(10), second(2, "x")), run(1, first(10), second(2, "y"))]
    found = schedule(runs, 1, {})
    assert (found.wall_s, found.held_s, found.waiting_s) == (10 + 4.5 + 4.5, 19, 0)


def test_a_run_waits_for_the_stage_that_another_one_computes() -> None:
    runs = [run(0, first(10), second(2, "x")), run(1, first(10), second(2, "y"))]
    found = schedule(runs, 2, {})
    assert (found.wall_s, found.held_s, found.waiting_s) == (14.5, 14.5 + 4.5, 10)


SHARED_AND_OWN = [
    run(0, first(10), second(2, "x")),
    run(1, first(10), second(2, "y")),
    run(2, first(6, "own")),
    run(3, first(3, "too")),
]


def test_a_trial_that_waits_leaves_its_slot_to_one_that_can_run() -> None:
    """Slot 1: trial 0 to 14.5. Slot 2: trial 2 to 6.5, trial 3 to 10, trial 1 to 14.5."""
    found = schedule(SHARED_AND_OWN, 2, {})
    assert (found.wall_s, found.waiting_s) == (14.5, 0) and found.held_s == 29


def test_no_trial_is_drawn_in_place_of_one_that_waits_where_results_matter() -> None:
    found = schedule(SHARED_AND_OWN, 2, {}, blind=lambda place: False)
    # Slot 2 stands empty until 10, trial 1 has it until 14.5; trials 2 and 3 follow.
    assert (found.wall_s, found.waiting_s) == (14.5 + 6.5, 10)


def test_no_more_trials_are_drawn_ahead_than_there_are_slots() -> None:
    runs = [run(n, first(10), second(1, f"x{n}")) for n in range(6)] + [run(6, first(4, "own"))]
    # Trials 1 to 3 wait for the stage of trial 0, and so many may; trial 6 is not drawn before it is there.
    found = schedule(runs, 2, {})
    assert found.waiting_s == 10 and found.wall_s == 10 + 2 * (2 + 0.5) + 4.5 + 2.5


def test_a_shorter_run_goes_on_when_the_longer_one_has_passed_its_epoch() -> None:
    found = schedule([run(0, first(10)), run(1, first(4), second(2, "y"))], 2, {})
    assert (found.wall_s, found.waiting_s) == (10.5, 4)


def test_a_longer_run_waits_and_then_goes_on_from_there() -> None:
    found = schedule([run(0, first(4)), run(1, first(10))], 2, {})
    assert (found.wall_s, found.held_s, found.waiting_s) == (4 + 6 + 0.5, 4.5 + 6.5, 4)


@pytest.mark.parametrize(("stored", "seconds"), [({}, 10.5), ({("a", 10): 7}, 3.5), ({("a", 10): 10}, 0.5)])
def test_what_is_stored_is_not_trained_again(stored: dict[tuple[str, int], int], seconds: float) -> None:
    assert schedule([run(0, first(10))], 2, stored).wall_s == seconds


def test_a_range_that_was_trained_before_serves_later_runs() -> None:
    """The stage is extended twice; a run that needs an epoch of the first part finds it."""
    found = schedule([run(0, first(4)), run(1, first(10)), run(2, first(2))], 1, {})
    assert found.wall_s == 4 + 6 + 3 * 0.5


def test_trials_take_slots_in_order() -> None:
    runs = [run(number, first(epochs, f"own{number}")) for number, epochs in enumerate((10, 2, 3, 4))]
    # Slot 1: trial 0 to 10.5. Slot 2: trials 1, 2 and 3 to 2.5, 6, 10.5.
    assert schedule(runs, 2, {}).wall_s == 10.5
    assert schedule(runs[:3], 2, {}).held_s == 10.5 + 2.5 + 3.5


def test_seeds_of_a_trial_run_one_after_another() -> None:
    runs = [run(0, first(3, "s0"), seed=0), run(0, first(3, "s1"), seed=1)]
    assert schedule(runs, 2, {}).wall_s == 7


SHARED = [run(n, first(8), second(16, f"own{n}")) for n in range(3)] + [run(3, first(4), second(5, "short"))]


def test_the_tree_shows_what_is_shared() -> None:
    (root,) = stage_tree(SHARED)
    assert (root.ends, root.runs, [node.start for node in root.below]) == ([4, 8], 4, [4, 8, 8, 8])
    assert tree_lines([root]) == [
        "phase 1, 8 epochs (kept at 4): 4 runs, seed 0",
        "├─ phase 2, from epoch 4, 5 epochs: 1 run",
        "└─ 3 x phase 2, from epoch 8, 16 epochs: 1 run each",
    ]


def test_seeds_with_the_same_tree_are_one_branch() -> None:
    runs = [run(0, first(8, f"s{seed}"), second(2, f"x{seed}"), seed=seed) for seed in (0, 1)]
    assert tree_lines(stage_tree(runs))[0] == "2 x phase 1, 8 epochs: 1 run each, seeds 0, 1"


def test_a_segmenter_that_learns_from_made_pairs_does_not_go_on_from_their_maker() -> None:
    made = (StageOfRun("g", "pretrain", 8, first=True), StageOfRun("h", "adversarial", 16, first=True))
    runs = [RunOfPlan(n, 0, (*made, StageOfRun(f"own{n}", "pretrain", 8)), COST) for n in range(2)]
    rendered = RunOfPlan(2, 0, (StageOfRun("r", "render", 6), StageOfRun("s", "pretrain", 8)), COST)
    assert tree_lines(stage_tree([*runs, rendered])) == [
        "phase 1, 8 epochs: 2 runs, seed 0",
        "└─ phase 2, from epoch 8, 16 epochs: 2 runs",
        "   └─ 2 x phase 1, on pairs made at epoch 16, 8 epochs: 1 run each",
        "rendering, 6 epochs: 1 run, seed 0",
        "└─ phase 1, on pairs made at epoch 6, 8 epochs: 1 run",
    ]


def test_a_long_tree_is_cut_and_counted() -> None:
    runs = [run(n, first(8), second(n + 1, f"own{n}")) for n in range(40)]
    lines = tree_lines(stage_tree(runs), 20)
    assert len(lines) == 21 and lines[-1] == "... and 21 more"
    picture = stage_picture(stage_tree(runs), "many")
    assert picture.count("<rect") == 1 + 2 + 40 and "... and 1 more" in picture


def test_the_picture_is_an_svg_whose_bars_lie_over_their_epochs() -> None:
    from xml.etree import ElementTree

    root = ElementTree.fromstring(stage_picture(stage_tree(SHARED), "a < b & c"))
    width = float(root.attrib["width"])
    bars = [
        b
        for b in root.iter("{http://www.w3.org/2000/svg}rect")
        if b.attrib.get("rx") == "3" and "opacity" not in b.attrib
    ]
    spans = [(float(bar.attrib["x"]), float(bar.attrib["width"])) for bar in bars]
    per_epoch = spans[0][1] / 8
    assert spans[1][0] == pytest.approx(spans[0][0] + 4 * per_epoch, abs=0.1)
    assert spans[2][0] == pytest.approx(spans[0][0] + 8 * per_epoch, abs=0.1)
    assert all(x + length <= width for x, length in spans)
    assert any(text.text == "a < b & c" for text in root.iter("{http://www.w3.org/2000/svg}text"))
