"""Golden sentences: what a report says of a comparison, word for word."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sage_ray.statistics.verdict_sentences import Finding, open_together, say, score_digits

CLEAR = Finding(
    subject="version 2",
    reference="version 1",
    score="Dice",
    difference=0.012,
    low=0.002,
    high=0.022,
    level=0.95,
    images=13,
    micrographs=13,
    seeds=2,
    word="supported",
)
OPEN = replace(CLEAR, low=-0.004, high=0.028, word="undecided")
ONE_SEED = replace(CLEAR, seeds=1, word="undecided")
LINES = {
    "Version 2 is better than version 1: Dice +0.012, 95 % interval +0.002 to +0.022, 13 locked-test images, 2 seeds. "
    "With two seeds read it as a hint.": CLEAR,
    "Version 2 is better than version 1: Dice +0.012, 95 % interval +0.002 to +0.022, 13 locked-test images, "
    "5 seeds.": replace(CLEAR, seeds=5),
    "Version 2 is better than version 1: Dice +0.012, 95 % interval +0.002 to +0.022, 13 locked-test images of 4 "
    "micrographs, 5 seeds. Four micrographs are few: one odd one among them can carry the result.": replace(
        CLEAR, seeds=5, micrographs=4
    ),
    "It is open whether version 2 differs from version 1: Dice +0.012, 95 % interval −0.004 to +0.028, 13 locked-test "
    "images, 2 seeds. Two seeds are few.": OPEN,
    "One training each cannot tell version 2 from version 1: Dice +0.012, 95 % interval +0.002 to +0.022, "
    "13 locked-test images, 1 seed. One seed says nothing of another training: train at least one more.": ONE_SEED,
    "Version 2 is worse than version 1: Dice −0.012, 95 % interval −0.022 to −0.002, 13 locked-test images, "
    "3 seeds.": replace(CLEAR, difference=-0.012, low=-0.022, high=-0.002, word="refuted", seeds=3),
    "Version 2 scored the same as version 1: Dice +0.000, 95 % interval +0.000 to +0.000, 13 locked-test images, "
    "3 seeds.": replace(CLEAR, difference=0.0, low=0.0, high=0.0, word="refuted", seeds=3),
    "Version 2 is better than version 1 by more than 0.005: Dice +0.012, 95 % interval +0.006 to +0.018, "
    "13 locked-test images, 3 seeds.": replace(CLEAR, low=0.006, high=0.018, margin=0.005, seeds=3),
    "Version 2 is not better than version 1 by more than 0.05: Dice +0.012, 95 % interval +0.002 to +0.022, "
    "13 locked-test images, 3 seeds.": replace(CLEAR, word="refuted", margin=0.05, seeds=3),
    "It is open whether version 2 differs from version 1: Dice +0.012, no interval (one image), 1 locked-test image, "
    "2 seeds. Two seeds are few. One image says nothing of others.": replace(
        CLEAR, low=None, high=None, word="undecided", images=1, micrographs=1, why_no_interval="one image"
    ),
    "Without mixing is worse than full: Dice −0.030, 95 % interval −0.040 to −0.020, 20 validation images, "
    "3 seeds.": Finding(
        "without mixing", "full", "Dice", -0.03, -0.04, -0.02, 0.95, 20, 20, 3, "supported", "worse",
        images_are="validation images",
    ),
    "Without mixing is better than full: Dice +0.030, 95 % interval +0.020 to +0.040, 20 locked-test images, "
    "3 seeds.": Finding("without mixing", "full", "Dice", 0.03, 0.02, 0.04, 0.95, 20, 20, 3, "refuted", "worse"),
    "no_mixing is worse than full: Dice −0.030, 95 % interval −0.040 to −0.020, 20 locked-test images, "
    "3 seeds.": Finding("no_mixing", "full", "Dice", -0.03, -0.04, -0.02, 0.95, 20, 20, 3, "supported", "worse"),
    "A is better than b: validation loss −0.100, 95 % interval −0.200 to −0.050, 3 seeds.": Finding(
        "a", "b", "validation loss", -0.1, -0.2, -0.05, 0.95, 0, 0, 3, "supported", lower_is_better=True
    ),
    "A is at most 0.01 worse than b: Dice −0.002, 95 % interval −0.007 to +0.003, 20 locked-test images, "
    "4 seeds.": Finding(
        "a", "b", "Dice", -0.002, -0.007, 0.003, 0.95, 20, 20, 4, "supported", "no_worse", 0.01
    ),
    "A and b differ by less than 0.01: Dice −0.002, 95 % interval −0.007 to +0.003, 20 locked-test images, "
    "4 seeds.": Finding(
        "a", "b", "Dice", -0.002, -0.007, 0.003, 0.95, 20, 20, 4, "supported", "equivalent", 0.01
    ),
}  # fmt: skip


@pytest.mark.parametrize("line", LINES)
def test_golden_sentences(line: str) -> None:
    assert say(LINES[line]).line == line


def test_plain_words_say_who_is_better_and_by_how_much_and_never_call_the_open_equal() -> None:
    clear = say(replace(CLEAR, means=(0.812, 0.800)))
    assert clear.tone == "better" and "Expect version 2 to score about 0.012 Dice higher (0.812 against 0.800)" in (
        clear.plain
    )
    # .8915 and .8898 are .892 and .890 in three digits, whose difference is not that of the exact ones.
    near = say(replace(OPEN, means=(0.8915, 0.8898), difference=0.0017, low=-0.003, high=0.0064))
    assert "(0.8915 against 0.8898)" in near.plain and "Dice +0.0017" in near.numbers
    undecided = say(OPEN)
    assert undecided.tone == "open" and "anything from 0.004 worse to 0.028 better" in undecided.plain
    assert undecided.plain.endswith("It does not show that the two are equal.")
    assert "a second training might have turned it round" in say(ONE_SEED).plain
    # A difference that its own interval decides, but not among ten comparisons, is open and says so.
    withdrawn = say(replace(CLEAR, word="undecided", corrected_over=10, seeds=4))
    assert withdrawn.tone == "open" and "among 10 comparisons" in withdrawn.plain


def test_means_that_would_look_equal_are_told_with_a_digit_more() -> None:
    near = say(replace(CLEAR, difference=0.0003, low=0.0001, high=0.0005, means=(0.8904, 0.8901)))
    assert "(0.8904 against 0.8901)" in near.plain and "about 0.0003 Dice" in near.plain
    assert near.numbers.startswith("Dice +0.0003, 95 % interval +0.0001 to +0.0005")
    assert [score_digits(scores) for scores in ([0.8904, 0.8901], [0.891, 0.89], [0.8, 0.8], [0.8, 0.80001])] == [
        4, 3, 3, 3,
    ]  # fmt: skip


def test_a_lower_score_that_is_better_is_told_from_the_side_of_the_better_one() -> None:
    worse = say(
        Finding("a", "b", "loss", 0.1, 0.05, 0.2, 0.95, 0, 0, 3, "refuted", lower_is_better=True, means=(0.5, 0.4))
    )
    assert (
        worse.tone == "worse"
        and "Expect b to score about 0.100 loss lower, which is better (0.400 against 0.500)" in (worse.plain)
    )


def test_many_open_comparisons_share_one_entry_that_names_them_all() -> None:
    arms = [replace(OPEN, subject=name, reference="full", difference=gain) for name, gain in
            {"a": 0.01, "b": -0.02, "c": 0.0}.items()]  # fmt: skip
    said = open_together(arms)
    assert said.line == (
        "It is open whether a, b and c differ from full: Dice −0.020 (b) to +0.010 (a), "
        "13 locked-test images, 2 seeds. Two seeds are few."
    )
    assert "It does not show that they are equal." in said.plain
    validated = open_together([replace(arm, images_are="validation images") for arm in arms])
    assert "13 validation images" in validated.line and "locked" not in validated.line
