"""What fidelity.json says of generated images, in sentences that claim no more than its intervals do."""

from __future__ import annotations

from typing import Any

import pytest

from sage_ray.reports.generated_findings import judged_in_words


def line(mean: float, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    return {"mean": mean, "low": low, "high": high}


def told(
    above: tuple[float, float], below: tuple[float, float] | None, p_value: float, images: int = 37
) -> dict[str, Any]:
    differences = {"above_null": line(sum(above) / 2, *above)}
    if below is not None:
        differences["below_ceiling"] = line(sum(below) / 2, *below)
    return {
        "images": images,
        "paired": below is not None,
        "scores": {"fidelity": line(0.493, 0.37, 0.615), "null": line(0.308)},
        "judge_on_real": line(0.67),
        "differences": differences,
        "distances": {"mmd": {"p_value": p_value}},
        "notes": [],
    }


@pytest.mark.parametrize(
    ("given", "said", "unsaid"),
    [
        (
            told((0.1, 0.3), (0.1, 0.3), 0.0002),
            ["**The generated images show their masks.**", "Dice 0.493 [0.370, 0.615] (37 masks)", "reaches 0.670",
             "agree by 0.308. That is worse than real images do, by 0.200 [0.100, 0.300].",
             "As a set they differ from real images (MMD, p < 0.001)."],
            ["are few"],
        ),
        (
            told((-0.1, 0.3), (-0.3, 0.1), 0.4, 9),
            ["**It is open whether the generated images show their masks.**",
             "Whether real images do so better is open",
             "was not found (MMD, p = 0.400), nor that they do not.", "Nine masks are few"],
            ["**The generated images", "That is"],
        ),
        (
            told((-0.3, -0.1), (-0.3, -0.1), 0.01),
            ["**The generated images show other masks than their own.**",
             "That is better than real images do, by 0.200 [0.100, 0.300]."],
            ["open"],
        ),
        (told((0.1, 0.3), None, 0.01), ["(37 made pairs)"], ["real images do"]),
    ],
)  # fmt: skip
def test_what_is_said_follows_from_the_intervals(given: dict[str, Any], said: list[str], unsaid: list[str]) -> None:
    text = judged_in_words(given)
    for part in said:
        assert part in text, (part, text)
    for part in unsaid:
        assert part not in text, (part, text)


def test_notes_of_the_judging_are_said_and_a_result_without_scores_is_none() -> None:
    given = told((0.1, 0.3), (0.1, 0.3), 0.01)
    assert judged_in_words({**given, "notes": ["the judge knows 3 of the images"]}).endswith(
        "The judge knows 3 of the images."
    )
    with pytest.raises(KeyError):
        judged_in_words({"scores": {}, "differences": {}, "images": 3})
