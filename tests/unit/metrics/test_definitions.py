"""What a score is: its text to the letter, its direction, and one list of names for all who read it."""

from __future__ import annotations

from typing import Any

import pytest

from sage_ray.config import ExperimentConfig, flatten
from sage_ray.metrics.definitions import (
    COUNTS,
    IMAGE_SCORES,
    LABELS,
    LOSS,
    POOLED,
    SCORES_TO_ONE,
    STUDY_SCORES,
    VALIDATION_SCORES,
    counted_for,
    definitions,
    definitions_from,
    is_lower_better,
    label,
    loss_definition,
    name_of,
    whole_definition,
)
from sage_ray.training.scoring import per_image_rows, score_definitions

SETTINGS: dict[str, Any] = {
    "min_object_pixels": 15, "boundary_tolerance": 2.0, "mask_erosion": 0, "min_truth_pixels": 0,
    "image_size": (512, 768),
}  # fmt: skip
END = "truth as given, at 512x768 pixels"
PIXELS = "foreground pixels, argmax (probability > 0.5)"
# Registered versions are compared by equal texts, so a text that has been stored once may never change.
STORED = {
    "dice": f"Dice of {PIXELS}, mean over images, both empty 1, {END}",
    "iou": f"IoU of {PIXELS}, mean over images, both empty 1, {END}",
    "precision": f"precision of {PIXELS}, mean over images, both empty 1, {END}",
    "recall": f"recall of {PIXELS}, mean over images, both empty 1, {END}",
    **{
        f"f1_object_{percent}": f"F1 of objects matched one to one at IoU > {threshold}, 4-connected components of the "
        "foreground, those under 15 pixels removed, argmax (probability > 0.5), mean over images, both empty 0, " + END
        for percent, threshold in ((50, "0.5"), (75, "0.75"), (90, "0.9"))
    },
    "boundary_f1": "F1 of boundary pixels of the foreground within 2 pixels, argmax (probability > 0.5), mean over "
    f"images, both empty 1, {END}",
    "f1_pixel": f"F1 = Dice of {PIXELS}, counts pooled over images, both empty 1, {END}",
}


def test_stored_texts_stay_as_they_are_to_the_letter() -> None:
    found = definitions(**SETTINGS)
    counts = {name: f"pixels counted as {name} for: {STORED['f1_pixel']}" for name in ("tp", "fp", "fn")}
    assert found == STORED | counts
    assert len(set(found.values())) == len(found)
    eroded = definitions(**SETTINGS | {"mask_erosion": 2, "min_truth_pixels": 9})
    assert eroded["dice"] == STORED["dice"].replace(
        "truth as given,", "truth eroded by 2x2 pixels, truth objects under 9 pixels dropped,"
    )
    assert loss_definition({"w_ce": 1.0}) == "mean over batches of the segmentation loss {'w_ce': 1.0}"


@pytest.mark.parametrize(
    ("values", "differs"),
    [
        ({"data.mask_erosion": 2}, "dice"),
        ({"data.min_object_pixels": 7}, "iou"),
        ({"data.image_size": [256, 256]}, "recall"),
        ({"evaluation.boundary_tolerance": 3.0}, "boundary_f1"),
        ({"evaluation.min_object_pixels": 30}, "f1_object_50"),
    ],
)
def test_a_config_and_its_settings_by_path_give_the_same_texts(values: dict[str, Any], differs: str) -> None:
    config = ExperimentConfig().with_values(values)
    found = score_definitions(config)
    assert definitions_from(flatten(config.model_dump(mode="json"))) == found
    assert found[differs] != score_definitions(ExperimentConfig())[differs]


def test_settings_that_are_not_recorded_define_nothing() -> None:
    assert definitions_from({}) == {}
    assert definitions_from({"data.mask_erosion": 0}) == {}


def test_every_score_has_a_label_a_direction_and_one_list_of_names() -> None:
    assert set(LABELS) == {*IMAGE_SCORES, POOLED, LOSS}
    assert label("val") == "val" and label("dice") == "Dice"
    assert set(STUDY_SCORES) < set(VALIDATION_SCORES)
    assert [name_of(metric) for metric in VALIDATION_SCORES] == [*SCORES_TO_ONE, LOSS]
    assert [metric for metric in VALIDATION_SCORES if is_lower_better(metric)] == ["val/loss"]


def test_a_definition_of_an_earlier_release_is_completed_and_a_foreign_one_kept() -> None:
    whole = definitions(**SETTINGS)
    short = whole["dice"].removesuffix(", at 512x768 pixels")
    assert whole_definition("dice", short, whole) == whole["dice"] == whole_definition("dice", whole["dice"], whole)
    assert whole_definition("tp", "tp pixels of the foreground, for pooling, truth eroded by 0", whole) == whole["tp"]
    assert whole_definition("dice", "Dice as another program has it", whole) == "Dice as another program has it"
    assert whole_definition("dice", short, {}) == short
    assert all(counted_for(whole[name]) == whole[POOLED] for name in COUNTS)
    assert counted_for(short) == short


def test_training_stores_whole_definitions_beside_validation_scores() -> None:
    config = ExperimentConfig()
    scores = dict.fromkeys((*IMAGE_SCORES, *COUNTS), 0.5)
    rows = per_image_rows([scores], ["a" * 64], config, part="val", checkpoint="best")
    assert {row["score"]: row["definition"] for row in rows} == {
        name: text for name, text in score_definitions(config).items() if name != POOLED
    }
