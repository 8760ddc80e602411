from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sage_ray.imaging import drawing
from sage_ray.imaging.drawing import BOTH, PREDICTION, TRUTH


def disc(side: int, row: float, column: float, radius: float) -> np.ndarray:
    rows, columns = np.ogrid[:side, :side]
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


def is_colour(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return (picture == np.array(colour, np.uint8)).all(axis=2)


GREY = np.random.default_rng(0).integers(40, 200, (100, 100)).astype(np.uint8)


def test_overlay_draws_both_outlines_and_leaves_the_rest() -> None:
    mask, truth = disc(100, 40, 40, 20), disc(100, 40, 44, 20)
    picture = drawing.overlay(GREY, mask, truth, scale=1)
    assert picture.shape == (100, 100, 3) and picture.dtype == np.uint8
    drawn = {name: is_colour(picture, colour) for name, colour in (("p", PREDICTION), ("t", TRUTH), ("b", BOTH))}
    assert all(area.sum() > 5 for area in drawn.values())
    assert not (drawn["p"] & ~mask).any() and not (drawn["t"] & ~truth).any()
    untouched = ~(drawn["p"] | drawn["t"] | drawn["b"])
    np.testing.assert_array_equal(picture[untouched], np.repeat(GREY[..., None], 3, 2)[untouched])
    alone = drawing.overlay(GREY, mask, scale=1)
    assert is_colour(alone, PREDICTION).sum() > 50 and not is_colour(alone, TRUTH).any()
    assert GREY.max() < 200, "the image given is not drawn into"


def test_small_pictures_are_enlarged() -> None:
    assert drawing.overlay(GREY, GREY > 100).shape == (400, 400, 3)
    assert drawing.overlay(np.zeros((900, 700), np.uint16), np.zeros((900, 700))).shape == (900, 700, 3)
    mask = disc(100, 50, 50, 30)
    outline = is_colour(drawing.overlay(GREY, mask), PREDICTION)
    inside = np.repeat(np.repeat(mask, 4, 0), 4, 1)
    assert not (outline & ~inside).any() and outline.sum() > 600


def test_grey_images_of_any_depth_are_stretched() -> None:
    np.testing.assert_array_equal(drawing.as_rgb(GREY)[..., 1], GREY)
    wide = drawing.as_rgb(GREY.astype(np.float64) * 1000 - 5)
    assert wide.min() == 0 and wide.max() >= 254
    assert drawing.as_rgb(np.full((3, 3), 7.0)).max() == 0
    assert drawing.as_rgb(GREY > 100).max() == 255


def test_attention_is_coloured_on_a_fixed_scale() -> None:
    low, high = (drawing.attention_overlay(GREY, np.full((12, 12), value)) for value in (0.1, 0.9))
    assert low.shape == (400, 400, 3) and high.astype(int).sum() > low.astype(int).sum()
    ramp = np.linspace(0.4, 0.6, 144).reshape(12, 12)
    fixed, own = drawing.attention_overlay(GREY, ramp), drawing.attention_overlay(GREY, ramp, None)
    assert own[-40:].astype(int).std(axis=(0, 1)).sum() != fixed[-40:].astype(int).std(axis=(0, 1)).sum()
    assert np.ptp(own.mean(axis=(1, 2))) > 3 * np.ptp(fixed.mean(axis=(1, 2)))


def test_contact_sheet_holds_every_picture() -> None:
    shades = [np.full((60, 40 + 10 * k), 50 * k, np.uint8) for k in range(1, 6)]
    sheet = drawing.contact_sheet(
        shades, [f"shade {k} of a caption that is far too long for its cell" for k in range(5)]
    )
    assert sheet.ndim == 3 and sheet.shape[1] > 900
    for k in range(1, 6):
        assert is_colour(sheet, (50 * k,) * 3).sum() > 20_000
    titled = drawing.contact_sheet(shades, title="five", key=True, columns=5)
    assert is_colour(titled, PREDICTION).any() and is_colour(titled, TRUTH).any()
    assert titled.shape[1] > 1500
    with pytest.raises(ValueError, match="one caption a picture"):
        drawing.contact_sheet(shades, ["one"])
    np.testing.assert_array_equal(
        drawing.contact_sheet(shades[:1], ["of\ntwo lines"]), drawing.contact_sheet(shades[:1], ["of two lines"])
    )
    with pytest.raises(ValueError, match="0 pictures"):
        drawing.contact_sheet([])


def test_sheets_of_predictions_and_pairs() -> None:
    masks = [disc(100, 30 + 10 * k, 50, 12) for k in range(3)]
    sheet = drawing.prediction_sheet([GREY] * 3, masks, masks, ["a", "b", "c"])
    assert is_colour(sheet, BOTH).sum() > 100
    pairs = drawing.generated_pairs(masks, [GREY] * 3, cell=100)
    with_real = drawing.generated_pairs(masks, [GREY] * 3, [GREY] * 3, cell=100)
    assert with_real.shape[1] == pairs.shape[1] and with_real.shape[0] > 1.3 * pairs.shape[0]


def report(epoch: int, **values: float) -> dict[str, Any]:
    return {"epoch": epoch, "phase": "pretrain" if epoch < 4 else "adversarial", "val/dice": epoch / 10, **values}


@pytest.mark.parametrize(
    "history",
    [
        [report(1, **{"train/loss": 1.0})],
        [report(epoch, **{"train/loss": 0.0}) for epoch in range(1, 9)],
        [report(epoch, **{"train/loss": 1 / epoch, "train/adv_image": 2.0 * (epoch > 4)}) for epoch in range(1, 9)],
        [{"epoch": epoch, "phase": "pretrain", "train/loss": float("nan")} for epoch in range(1, 3)],
        [report(epoch, **{f"train/term{n}": n + 1.0 for n in range(20)}) for epoch in range(1, 30)],
    ],
)
def test_curves_of_any_history(tmp_path: Path, history: list[dict[str, Any]], recwarn: pytest.WarningsRecorder) -> None:
    path = drawing.learning_curves(history, tmp_path / "curves.png", selected_epoch=1, title="a run")
    with Image.open(path) as picture:
        assert picture.size[0] > 800 and np.asarray(picture.convert("L")).min() < 80
    assert not [str(warning.message) for warning in recwarn]
    with pytest.raises(ValueError, match="no epoch"):
        drawing.learning_curves([], path)


def test_pictures_are_saved(tmp_path: Path) -> None:
    mask = disc(50, 20, 20, 9)
    with Image.open(drawing.save(mask, tmp_path / "mask.png")) as picture:
        np.testing.assert_array_equal(np.asarray(picture), mask * np.uint8(255))
    with Image.open(drawing.save(drawing.overlay(GREY, GREY > 90), tmp_path / "overlay.png")) as picture:
        assert picture.mode == "RGB"
