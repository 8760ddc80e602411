"""What predict looks at: each image at its own scale and without its own information bar, with the origins told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from model_cases import micrograph
from PIL import Image

from sage_ray.apply.particle_measure import ParticleMeasure
from sage_ray.apply.picture_frame import read_crop, read_scale
from sage_ray.apply.predict import NothingSegmented, predict
from sage_ray.data.notes import first_named
from sage_ray.errors import UserError
from sage_ray.imaging.model import model_spec, save_model_folder
from sage_ray.models import SEGMENTERS
from sage_ray.models.init import initialise
from sage_ray.record.home import Home


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained; of its foreground class it is sure enough in places to have particles."""
    kind = ("unet", {"width": 4, "depth": 2, "norm": "batch"})
    segmenter = SEGMENTERS[kind[0]](**kind[1])
    initialise(segmenter, 0)
    spec = model_spec(kind, None, image_size=(32, 32), native_size=(40, 40))
    return save_model_folder(tmp_path_factory.mktemp("model") / "m", segmenter, None, spec)


def scaled(path: Path, per_nm: tuple[float, float], image: np.ndarray | None = None) -> Path:
    """A TIFF as ImageJ writes it, with so many pixels per nm along x and y."""
    path.parent.mkdir(parents=True, exist_ok=True)
    grey = micrograph(40, 40) if image is None else image
    tifffile.imwrite(path, grey, imagej=True, resolution=per_nm, metadata={"unit": "nm"})
    return path


def barred(image: np.ndarray, rows: int) -> np.ndarray:
    """The image with a black bar of so many rows below it, which has a white line as text."""
    bar = np.zeros((rows, image.shape[1]), np.uint8)
    bar[rows // 3 : rows // 2, 4:20] = 255
    return np.concatenate([image, bar])


def test_each_image_has_the_scale_of_its_file(model: Path, tmp_path: Path, home: Home) -> None:
    """The kind of scale_in_the_file: 1 and 0.2 nm per pixel, and one image that says nothing, which comes first."""
    folder = tmp_path / "in"
    scaled(folder / "s1.tif", (1, 1))
    scaled(folder / "s5.tif", (5, 5))
    Image.fromarray(micrograph(40, 40)).save(folder / "a.png")
    result = predict(model, folder, tmp_path / "out", home=home)
    images = pd.read_csv(tmp_path / "out" / "images.csv").set_index("image")
    assert images.loc["s1.tif", "nm_per_pixel"] == 1 and images.loc["s5.tif", "nm_per_pixel"] == 0.2
    assert np.isnan(images.loc["a.png", "nm_per_pixel"])
    assert list(images["scale_from"].fillna("")) == ["", "ImageJ", "ImageJ"]
    assert "nm_per_pixel_height" not in images
    table = pd.read_csv(tmp_path / "out" / "particles.csv")
    parts = {name: part for name, part in table.groupby("image")}
    assert len(parts["s1.tif"]) and parts["a.png"]["area_nm2"].isna().all()
    for name, side in (("s1.tif", 1.0), ("s5.tif", 0.2)):
        found = parts[name]
        np.testing.assert_allclose(found["equivalent_diameter_nm"], found["equivalent_diameter_px"] * side, rtol=1e-4)
        np.testing.assert_allclose(found["area_nm2"], found["area_px"] * side**2, rtol=1e-4)
    assert result.notes[0] == "scale: 0.2 nm to 1 nm per pixel, from ImageJ (2)"
    assert result.notes[1].startswith("note: 1 of 3 images have no scale, so nothing of them is in nm (a.png)")
    facts = json.loads((tmp_path / "out" / "prediction.json").read_text())
    assert {"nm_per_pixel": [1.0, 1.0], "from": "ImageJ", "images": 1} in facts["scales"]
    described = json.loads((tmp_path / "out" / "particles.json").read_text())
    assert list(described["columns"]) == list(table.columns)


def test_the_option_overrides_what_files_say(model: Path, tmp_path: Path, home: Home) -> None:
    scaled(tmp_path / "in" / "s5.tif", (5, 5))
    predict(model, tmp_path / "in", tmp_path / "out", home=home, nm_per_pixel=read_scale("3,2"))
    row = pd.read_csv(tmp_path / "out" / "images.csv").iloc[0]
    assert np.isnan(row["nm_per_pixel"]) and row["scale_from"] == "option"
    assert (row["nm_per_pixel_height"], row["nm_per_pixel_width"]) == (3, 2)
    table = pd.read_csv(tmp_path / "out" / "particles.csv")
    assert len(table)
    np.testing.assert_allclose(table["area_nm2"], table["area_px"] * 6, rtol=1e-4)


def test_no_scale_where_nm_is_asked_for_is_one_line(model: Path, tmp_path: Path, home: Home) -> None:
    Image.fromarray(micrograph(40, 40)).save(tmp_path / "a.png")
    with pytest.raises(
        NothingSegmented, match=r"^no scale where nm is asked for: .*a.png: give the size of its pixels"
    ):
        predict(model, tmp_path / "a.png", tmp_path / "out", home=home, nm_per_pixel="file")
    scaled(tmp_path / "in" / "b.tif", (1, 1))
    Image.fromarray(micrograph(40, 40)).save(tmp_path / "in" / "a.png")
    result = predict(model, tmp_path / "in", tmp_path / "out", home=home, nm_per_pixel="file")
    assert result.images == 1 and [one.image for one in result.failed] == ["a.png"]


def test_what_is_no_size_of_a_pixel() -> None:
    assert read_scale(None) is None and read_scale("file") == "file" and read_scale("1.5") == 1.5
    assert read_scale("1.5, 1.4") == (1.5, 1.4)
    for text in ("wide", "0", "-1", "nan", "inf", "", "1,2,3", "1,,2"):
        with pytest.raises(UserError, match="no size of a pixel"):
            read_scale(text)
    with pytest.raises(UserError, match="decimals have a point"):
        read_scale("1,117")
    assert read_crop(None) is None and read_crop("auto") == "auto" and read_crop("64") == 64
    for text in ("-1", "6.5", "bar", ""):
        with pytest.raises(UserError, match="no number of rows"):
            read_crop(text)


def test_the_bar_of_each_image_is_cut_off(model: Path, tmp_path: Path, home: Home) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    plain = micrograph(60, 50)
    for name, image in {"b8": barred(plain, 8), "b16": barred(plain, 16), "none": plain}.items():
        Image.fromarray(image).save(folder / f"{name}.png")
    predict(model, folder, tmp_path / "out", home=home, crop_bottom="auto")
    images = pd.read_csv(tmp_path / "out" / "images.csv").set_index("image")
    assert images["crop_bottom"].to_dict() == {"b8.png": 8, "b16.png": 16, "none.png": 0}
    assert images["crop_from"].to_dict() == {"b8.png": "its look", "b16.png": "its look", "none.png": "no bar seen"}
    masks = {name: np.asarray(Image.open(tmp_path / "out" / "masks" / f"{name}.png")) for name in ("b8", "b16", "none")}
    assert masks["b8"].shape == (68, 50) and not masks["b8"][60:].any() and masks["none"].any()
    for name in ("b8", "b16"):  # what is below the micrograph changes nothing
        assert np.array_equal(masks[name][:60], masks["none"])
        assert images.loc[f"{name}.png", "coverage"] == images.loc["none.png", "coverage"]
    tables = pd.read_csv(tmp_path / "out" / "particles.csv")
    one, other = (tables[tables["image"] == name].drop(columns="image") for name in ("b16.png", "none.png"))
    pd.testing.assert_frame_equal(one.reset_index(drop=True), other.reset_index(drop=True))
    labels = tifffile.imread(tmp_path / "out" / "labels" / "b16.tif")
    assert labels.shape == (76, 50) and not labels[60:].any()


def test_a_number_of_rows_and_a_bar_that_is_looked_at(model: Path, tmp_path: Path, home: Home) -> None:
    Image.fromarray(barred(micrograph(60, 50), 16)).save(tmp_path / "a.png")
    result = predict(model, tmp_path / "a.png", tmp_path / "out", home=home)
    line = "note: an information bar is taken for micrograph; --crop-bottom auto cuts it off"
    assert f"{line} (a.png: 16 rows by its look, 0 cut off)" in result.notes
    row = pd.read_csv(tmp_path / "out" / "images.csv").iloc[0]
    assert (row["crop_bottom"], row["crop_from"]) == (0, "model")
    result = predict(model, tmp_path / "a.png", tmp_path / "out", home=home, crop_bottom=16)
    assert not any(line in note for note in result.notes)
    row = pd.read_csv(tmp_path / "out" / "images.csv").iloc[0]
    assert (row["crop_bottom"], row["crop_from"]) == (16, "option")
    with pytest.raises(NothingSegmented, match="lower than its information bar"):
        predict(model, tmp_path / "a.png", tmp_path / "out", home=home, crop_bottom=76)


@pytest.mark.parametrize("bands", [128, 7])
def test_a_particle_that_the_bar_cuts_touches_the_border(tmp_path: Path, bands: int) -> None:
    """The kind of particles_cut_by_the_bar: one within, one cut by the bar, one that ends a row above it."""
    rows, columns = np.mgrid[:128, :128]
    discs = [(40, 40, 8), (100, 40, 9), (93, 90, 9)]
    mask = np.zeros((128, 128), bool)
    for row, column, radius in discs:
        mask |= (rows - row) ** 2 + (columns - column) ** 2 <= radius**2
    with ParticleMeasure((128, 128), "watershed", 24) as measure:
        for row in range(0, 104, bands):
            part = mask[row : min(row + bands, 104)]
            measure.add(part, part.astype(np.uint8), part.astype(np.float32))
        table, preview = measure.finish(tmp_path / "labels.tif")
    # In the order of their first rows.
    assert list(table.frame["centroid_column"]) == [40, 90, 40]
    assert list(table.frame["touches_border"].astype(bool)) == [False, False, True]
    labels = tifffile.imread(tmp_path / "labels.tif")
    assert labels.shape == preview.shape == (128, 128) and not labels[104:].any()
    assert measure.coverage == pytest.approx(mask[:104].mean())


def test_the_first_of_many_names_are_one_line() -> None:
    assert first_named(["a\nb", "c"]) == "a b, c"
    assert first_named(["a", "b", "c", "d"], 2) == "a, b and 2 more"
