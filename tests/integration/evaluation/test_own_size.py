"""Larger fields of view and images of other scales: `predict` and `evaluate` do the same, at the scale of training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from field_cases import field, scene, trained_on_scenes, write_pair
from PIL import Image

from sage_ray.apply.predict import predict
from sage_ray.data.images import read_image
from sage_ray.data.preprocess import stretch
from sage_ray.errors import UserError
from sage_ray.evaluation.locked_test import Evaluation, evaluate
from sage_ray.files import sha256_of
from sage_ray.grey_range import MINMAX
from sage_ray.imaging.model import load_model_folder, save_model_folder
from sage_ray.metrics.image_scores import score_image
from sage_ray.metrics.threshold import otsu
from sage_ray.record.home import Home


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_on_scenes(tmp_path_factory.mktemp("scenes") / "model")


def with_spec(model: Path, folder: Path, **changes: object) -> Path:
    """The same weights with other entries in model.json."""
    loaded = load_model_folder(model)
    return save_model_folder(folder, loaded.segmenter, None, {**loaded.spec, **changes})


def dice_of_predict(model: Path, data: Path, out: Path, home: Home) -> dict[str, float]:
    predict(model, data / "images", out, home=home)
    found = {}
    for path in sorted((data / "images").iterdir()):
        truth = np.asarray(Image.open(data / "masks" / f"{path.stem}.png")) > 0
        mask = np.asarray(Image.open(out / "masks" / f"{path.stem}.png")) > 0
        assert mask.shape == truth.shape
        found[path.stem] = 2 * (mask & truth).sum() / (mask.sum() + truth.sum())
    return found


def dice_of_evaluate(model: Path, data: Path, home: Home) -> tuple[dict[str, float], Evaluation]:
    result = evaluate(model, data, home)
    frame = pd.read_parquet(result.per_image)
    frame = frame[(frame["score"] == "dice") & (frame["checkpoint"] != "otsu")]
    by_sha = dict(zip(frame["image_sha"], frame["value"], strict=True))
    return {path.stem: by_sha[sha256_of(path)] for path in sorted((data / "images").iterdir())}, result


def test_larger_fields_of_view_score_alike_in_predict_and_evaluate(model: Path, tmp_path: Path, home: Home) -> None:
    data = tmp_path / "data"
    for side in (1, 2, 3, 4, 5):
        write_pair(data, f"m{side}", *field(side))
    write_pair(data, "strip", *field(1, 4))
    cut_image, cut_mask = field(3)
    write_pair(data, "odd", cut_image[:150, :101], cut_mask[:150, :101])
    predicted = dice_of_predict(model, data, tmp_path / "out", home)
    evaluated, result = dice_of_evaluate(model, data, home)
    assert min(predicted.values()) > 0.95 and max(predicted.values()) - min(predicted.values()) < 0.03
    assert predicted == pytest.approx(evaluated, abs=1e-6)
    definition = result.scores["dice"].definition
    assert "truth as given, at the size of each image, in the masks that `predict` writes" in definition
    assert (result.part, result.images, result.test_reads) == ("all images", 7, 0)
    again = evaluate(model, data, home)
    assert not again.fresh and again.scores == result.scores
    # The baseline is that of the same pictures.
    grey = [(otsu(stretch(read_image(path), MINMAX)), path) for path in (data / "images").iterdir()]
    truths = [np.asarray(Image.open(data / "masks" / path.name)) > 0 for _, path in grey]
    scores = [
        score_image(mask, truth, min_object_pixels=15, boundary_tolerance=2)["dice"]
        for (mask, _), truth in zip(grey, truths, strict=True)
    ]
    assert result.baseline["dice"].mean == pytest.approx(np.mean(scores))


def test_a_model_that_saw_smaller_pictures_sees_larger_fields_so_too(tmp_path: Path, home: Home) -> None:
    """Training images of 64 x 64 pixels that the network saw at 32 x 32."""
    model = trained_on_scenes(tmp_path / "half", seen=32)
    data = tmp_path / "data"
    for side in (1, 2, 3, 5):
        write_pair(data, f"m{side}", *field(side))
    predicted = dice_of_predict(model, data, tmp_path / "out", home)
    evaluated, _ = dice_of_evaluate(model, data, home)
    assert min(predicted.values()) > 0.9 and max(predicted.values()) - min(predicted.values()) < 0.03
    assert predicted == pytest.approx(evaluated, abs=1e-6)


def test_the_bar_is_part_of_neither_mask_nor_score(model: Path, tmp_path: Path, home: Home) -> None:
    preprocessing = load_model_folder(model).spec["preprocessing"] | {"crop_bottom": 20}
    model = with_spec(model, tmp_path / "barred", preprocessing=preprocessing)
    image, mask = field(2)
    image[108:], mask[108:] = 255, True
    write_pair(tmp_path / "data", "a", image, mask)
    predict(model, tmp_path / "data", tmp_path / "out", home=home)
    found = np.asarray(Image.open(tmp_path / "out" / "masks" / "a.png")) > 0
    assert not found[108:].any()
    expected = score_image(found[:108], mask[:108], min_object_pixels=15, boundary_tolerance=2)["dice"]
    evaluated, _ = dice_of_evaluate(model, tmp_path / "data", home)
    assert evaluated["a"] == pytest.approx(expected) and expected > 0.95


def test_drawn_data_are_scored_at_their_own_size(model: Path, home: Home) -> None:
    result = evaluate(model, "synthetic://ordered?num=3&size=96&seed=2", home)
    assert result.images == 3 and "at the size of each image" in result.scores["iou"].definition


def test_nanometres_set_the_scale_in_evaluate_too(model: Path, tmp_path: Path, home: Home) -> None:
    """Trained at 2 nm per pixel; the same particles with 1 nm per pixel are twice as large in pixels."""
    model = with_spec(model, tmp_path / "nm", nm_per_pixel=[2.0, 2.0])
    image, labels = scene(5, 192, 192, step=48)
    truth, loaded = labels > 0, load_model_folder(model)

    def written(name: str, pixels_per_nm: float) -> Path:
        write_pair(tmp_path / name, "a", image, truth)
        path = tmp_path / name / "images" / "a.png"
        path.unlink()
        nm = {"resolution": (pixels_per_nm, pixels_per_nm), "metadata": {"unit": "nm"}}
        tifffile.imwrite(path.with_suffix(".tif"), image, imagej=True, **nm)
        return tmp_path / name

    expected = {}
    for nm in (1.0, 2.0):
        mask = loaded.predict_mask(image, nm_per_pixel=(nm, nm))[1]
        expected[nm] = score_image(mask, truth, min_object_pixels=15, boundary_tolerance=2)["dice"]
        assert evaluate(model, written(f"at-{nm}", 1 / nm), home).scores["dice"].mean == pytest.approx(expected[nm])
    assert expected[1.0] != expected[2.0] and min(expected.values()) > 0.9
    with pytest.raises(UserError, match=r"another scale .*a\.tif \(10 nm per pixel, the model was trained at 2\): "):
        evaluate(model, written("far", 0.1), home)
