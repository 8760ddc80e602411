"""What is known of the images that the shown model generates: how `sage-ray fidelity` judged them, if it did."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sage_ray.analysis.generation_table import RESULT
from sage_ray.analysis.tables import interval
from sage_ray.data.splits import THIRDS
from sage_ray.errors import UserError
from sage_ray.files import read_json
from sage_ray.reports.evidence import StudyEvidence
from sage_ray.reports.page_parts import Paragraph, Part
from sage_ray.statistics.verdict_sentences import FEW_IMAGES, MINUS, counted, in_words, upper_first

SURE = 0.05
"""Chance of no difference below which two sets of images are said to differ."""


def judged_pairs(evidence: StudyEvidence) -> list[Part]:
    """Sentences on the generated pairs that the page shows: how they were judged, or the command that judges them.

    Raises:
        UserError: a damaged fidelity.json.
    """
    if evidence.choice is None:
        return []
    for run_id in evidence.choice.run_ids:
        path = evidence.folder_of(run_id).path / RESULT
        if not path.is_file():
            continue
        try:
            text = judged_in_words(read_json(path))
        except (ValueError, KeyError, TypeError, AttributeError):
            mend = f"`sage-ray fidelity {run_id}` writes it anew"
            raise UserError("damaged scores of generated images", path, mend) from None
        return [Paragraph(f"{text} Of run `{run_id}`.", of_figure="generated")]
    shown = evidence.choice.run_ids[0]
    told = "No score of these images was recorded: the page shows them, and says nothing of how good they are."
    if evidence.folder_of(shown).config().data.split.part in THIRDS:
        ask = f"`sage-ray fidelity {shown}` has a segmenter that never saw them judge whether they show their masks"
    else:
        # Without parts a generator has learned from all images that are not locked away.
        ask = (
            f"`sage-ray fidelity {shown} --data FOLDER` has an independent segmenter judge whether they show their "
            "masks; FOLDER holds marked images that the model has not learned from. A study with "
            "`--set data.split.part=A` keeps such images back by itself"
        )
    return [Paragraph(f"{told} {ask}.", of_figure="generated")]


def judged_in_words(told: Mapping[str, Any]) -> str:
    """The content of fidelity.json in sentences.

    Raises:
        KeyError, TypeError: it lacks a score.
    """
    scores, differences, images = told["scores"], told["differences"], int(told["images"])
    fidelity, real, null = scores["fidelity"], told["judge_on_real"]["mean"], scores["null"]["mean"]
    verdict, why = _shows_masks(differences)
    kind = counted(images, "mask" if told.get("paired", True) else "made pair")
    text = (
        f"**{verdict}** An independent segmenter finds in them the masks that they were made from with Dice "
        f"{_range(fidelity)} ({kind}); on real images it reaches {real:.3f}, and masks of other images would agree by "
        f"{null:.3f}.{why}"
    )
    text += f" {_as_a_set(told['distances'])}"
    if images < FEW_IMAGES:
        text += f" {upper_first(in_words(images))} {kind.split(' ', 1)[1]} are few: one odd one can carry the result."
    return " ".join([text, *(f"{upper_first(note.rstrip('.'))}." for note in told.get("notes") or [])])


def _shows_masks(differences: Mapping[str, Mapping[str, Any]]) -> tuple[str, str]:
    """Whether the images show their masks, and whether they do so as well as real ones."""
    above = differences["above_null"]
    if above["low"] is not None and above["low"] > 0:
        verdict = "The generated images show their masks."
    elif above["high"] is not None and above["high"] < 0:
        verdict = "The generated images show other masks than their own."
    else:
        verdict = "It is open whether the generated images show their masks."
    below = differences.get("below_ceiling")
    if below is None or below["low"] is None:
        return verdict, ""
    if below["low"] > 0:
        return verdict, f" That is worse than real images do, by {_range(below)}."
    if below["high"] < 0:
        return verdict, f" That is better than real images do, by {_range(below, turned=True)}."
    return verdict, f" Whether real images do so better is open: by {_range(below)}."


def _as_a_set(distances: Mapping[str, Any]) -> str:
    """Whether the images differ from real ones as a set."""
    p_value = float(distances["mmd"]["p_value"])
    chance = f"p = {p_value:.3f}" if p_value >= 0.001 else "p < 0.001"
    if p_value < SURE:
        return f"As a set they differ from real images (MMD, {chance})."
    return f"That they differ from real images as a set was not found (MMD, {chance}), nor that they do not."


def _range(line: Mapping[str, Any], *, turned: bool = False) -> str:
    """A score with its interval, or with its sign turned."""
    value, low, high = line["mean"], line["low"], line["high"]
    if turned:
        value, low, high = (None if end is None else -end for end in (value, high, low))
    return interval(value, low, high).replace("-", MINUS)
