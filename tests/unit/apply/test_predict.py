"""predict and generate: what they write, for images of any size and kind, and what they refuse."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image
from scipy import ndimage

from sage_ray.apply import particle_measure
from sage_ray.apply.generate import generate
from sage_ray.apply.particle_measure import MIN_PARTICLE_PIXELS, Thinned
from sage_ray.apply.predict import predict
from sage_ray.config import resolve
from sage_ray.data.check import check
from sage_ray.data.synth import write_dataset
from sage_ray.errors import UserError
from sage_ray.grey_range import MINMAX, PERCENTILE
from sage_ray.imaging.model import STRETCHES, load_model_folder, model_spec, save_model_folder
from sage_ray.imaging.particles import particle_table
from sage_ray.imaging.tiles import ArraySource
from sage_ray.models import GENERATORS, SEGMENTERS
from sage_ray.models.init import initialise
from sage_ray.record.home import Home
from sage_ray.training.build import network_kwargs


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "m", generator=True)


def make_model(folder: Path, *, generator: bool) -> Path:
    config = resolve(preset="tiny_sage_gan", sets={"segmenter.width": 4, "segmenter.depth": 2}).config
    kwargs = network_kwargs(config)
    segmenter = SEGMENTERS[config.segmenter.name](**kwargs["segmenter"])
    initialise(segmenter, 0)
    drawer = GENERATORS[config.generator.name](**kwargs["generator"]) if generator else None
    if drawer is not None:
        initialise(drawer, 0)
    named = (config.generator.name, kwargs["generator"]) if generator else None
    spec = model_spec(
        (config.segmenter.name, kwargs["segmenter"]), named, image_size=(32, 32), native_size=(48, 48), weights_sha="ab"
    )
    return save_model_folder(folder, segmenter, drawer, spec)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Four pictures of other sizes, kinds and formats."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(rng.integers(0, 256, (50, 70), dtype=np.uint8)).save(folder / "grey.png")
    Image.fromarray(rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(folder / "colour.jpg")
    tifffile.imwrite(folder / "deep.tif", rng.integers(0, 65535, (45, 45), dtype=np.uint16))
    Image.fromarray(rng.integers(0, 256, (300, 260), dtype=np.uint8)).save(folder / "large.bmp")
    (folder / "notes.txt").write_text("not a picture")
    return folder


def test_masks_overlays_and_tables_of_a_folder(model: Path, images: Path, tmp_path: Path, home: Home) -> None:
    out = tmp_path / "out"
    result = predict(model, images, out, home=home, nm_per_pixel=2.0)
    assert (result.images, result.tiled) == (4, 2)
    loaded = load_model_folder(model)
    summary = pd.read_csv(out / "images.csv").set_index("image")
    table = pd.read_csv(out / "particles.csv")
    assert list(summary.index) == ["colour.jpg", "deep.tif", "grey.png", "large.bmp"]
    for name in ("grey.png", "large.bmp"):
        grey = np.asarray(Image.open(images / name))
        mask = np.asarray(Image.open(out / "masks" / f"{Path(name).stem}.png"))
        assert mask.shape == grey.shape and set(np.unique(mask)) <= {0, 255}
        assert np.array_equal(mask > 0, loaded.predict_mask(grey)[1])
        expected = particle_table(mask, 2.0, MIN_PARTICLE_PIXELS, split="watershed")
        mine = table[table["image"] == name].drop(columns="image").reset_index(drop=True)
        probability = loaded.predict_mask(grey)[0]
        labels = tifffile.imread(out / "labels" / f"{Path(name).stem}.tif")
        assert labels.dtype == np.uint16 and set(np.unique(labels[mask > 0])) - {0} == set(mine["label"])
        for row in mine.itertuples():
            pixels = labels == row.label
            assert row.area_px == pixels.sum() and (mask[pixels] == 255).all()
            assert row.confidence == pytest.approx(probability[pixels].mean(), rel=1e-5)
            assert row.mean_grey == pytest.approx(grey[pixels].mean(), rel=1e-5)
        # Specks alone have no number.
        specks, number = ndimage.label((mask > 0) & (labels == 0))
        assert number == 0 or np.bincount(specks.ravel())[1:].max() < MIN_PARTICLE_PIXELS
        shared = mine.drop(columns=["mean_grey", "confidence"])
        pd.testing.assert_frame_equal(shared, expected, rtol=1e-5, check_dtype=False)
        assert summary.loc[name, "particles"] == len(expected)
        assert summary.loc[name, "coverage"] == pytest.approx((mask > 0).mean(), rel=1e-5)
    assert list(summary["tiled"]) == [False, False, True, True]
    assert {"area_nm2", "circularity", "centroid_row", "feret_max_nm"} <= set(table.columns)
    described = json.loads((out / "particles.json").read_text())
    assert list(described["columns"]) == list(table.columns) and described["split"]["method"] == "watershed"
    assert described["columns"]["feret_max_px"]["unit"] == "px" and described["columns"]["area_nm2"]["unit"] == "nm^2"
    assert all(column["meaning"] for column in described["columns"].values())
    assert {p.name for p in (out / "overlays").iterdir()} == {"colour.png", "deep.png", "grey.png", "large.png"}
    assert Image.open(out / "overview.png").size[0] > 300
    facts = json.loads((out / "prediction.json").read_text())
    assert facts["model"]["weights_sha"] == "ab" and facts["nm_per_pixel"] == 2.0 and facts["number_of_images"] == 4
    again = predict(model, images / "grey.png", tmp_path / "one", home=home, split="none")
    grey = np.asarray(Image.open(out / "masks" / "grey.png"))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "one" / "masks" / "grey.png")), grey)
    assert again.particles == len(particle_table(grey, None, MIN_PARTICLE_PIXELS))
    assert again.images == 1 and "area_nm2" not in pd.read_csv(tmp_path / "one" / "particles.csv")


def test_streamed_image_gives_the_mask_of_the_tiled_one(
    model: Path, tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the limit of what is held in memory lowered, the same file takes the way of a 40,000 x 40,000 one."""
    rng = np.random.default_rng(1)
    grey = rng.integers(0, 256, (310, 290), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "wide.tif", grey)
    predict(model, tmp_path / "wide.tif", tmp_path / "whole", home=home)
    monkeypatch.setattr("sage_ray.data.images.MAX_PIXELS", 10_000)
    monkeypatch.setattr(particle_measure, "PREVIEW_SIDE", 100)
    result = predict(model, tmp_path / "wide.tif", tmp_path / "streamed", home=home)
    streamed = tifffile.imread(tmp_path / "streamed" / "masks" / "wide.tif")
    whole = np.asarray(Image.open(tmp_path / "whole" / "masks" / "wide.png"))
    assert result.tiled == 1 and np.array_equal(streamed, whole)
    tables = [(tmp_path / name / "particles.csv").read_text() for name in ("whole", "streamed")]
    assert tables[0] == tables[1]
    labels = [tifffile.imread(tmp_path / name / "labels" / "wide.tif") for name in ("whole", "streamed")]
    assert np.array_equal(*labels) and labels[0].max() > 0
    preview = np.asarray(Image.open(tmp_path / "streamed" / "overlays" / "wide.png"))
    # 310 x 290 pixels, every fourth: 78 x 73, enlarged by whole numbers.
    assert preview.shape[0] % 78 == 0 and preview.shape[1] % 73 == 0


def test_one_picture_under_three_tags_gives_the_same_particles_whole_and_streamed(
    model: Path, tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    grey = np.random.default_rng(3).integers(0, 256, (310, 290), dtype=np.uint8)
    folder = tmp_path / "tags"
    folder.mkdir()
    tifffile.imwrite(folder / "plain.tif", grey)
    tifffile.imwrite(folder / "white_is_zero.tif", 255 - grey, photometric="miniswhite")
    ramp = np.stack([np.arange(256)[::-1] * 257] * 3).astype(np.uint16)
    tifffile.imwrite(folder / "palette.tif", 255 - grey, photometric="palette", colormap=ramp)
    tifffile.imwrite(folder / "turned.tif", grey[::-1, ::-1], extratags=[(274, 3, 1, 3, True)])
    tables = []
    for name, limit in (("whole", 64_000_000), ("streamed", 10_000)):
        monkeypatch.setattr("sage_ray.data.images.MAX_PIXELS", limit)
        predict(model, folder, tmp_path / name, home=home)
        found = pd.read_csv(tmp_path / name / "particles.csv").groupby("image")
        tables += [table.drop(columns="image").reset_index(drop=True) for _, table in found]
    assert len(tables) == 8 and len(tables[0])
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0])


def test_predict_says_when_few_pixels_take_the_grey_range_and_a_model_of_percentiles_does_not_mind(
    model: Path, tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = np.random.default_rng(4).integers(7000, 21000, (128, 128)).astype(np.uint16)
    hot = clean.copy()
    hot[3, 3] = 65535
    for name, image in (("clean", clean), ("hot", hot)):
        tifffile.imwrite(tmp_path / f"{name}.tif", image)
    assert not predict(model, tmp_path / "clean.tif", tmp_path / "a", home=home).notes
    for limit in (64_000_000, 10_000):
        monkeypatch.setattr("sage_ray.data.images.MAX_PIXELS", limit)
        (note,) = predict(model, tmp_path / "hot.tif", tmp_path / "b", home=home).notes
        assert "hot.tif: 1 pixel takes 76% of the grey range" in note and "data.stretch=percentile" in note
    loaded = load_model_folder(model)
    preprocessing = {"crop_bottom": 0, "stretch": STRETCHES[PERCENTILE]}
    steady = replace(loaded, spec={**loaded.spec, "preprocessing": preprocessing})
    assert (loaded.stretch, steady.stretch) == (MINMAX, PERCENTILE)
    shift = {}
    for name, one in (("minmax", loaded), ("percentile", steady)):
        shift[name] = np.abs(one.predict_mask(hot)[0] - one.predict_mask(clean)[0]).mean()
        streamed = np.concatenate(list(one.predict_stream(ArraySource(hot))))
        np.testing.assert_allclose(streamed, one.predict_mask(hot)[0], atol=1e-5)
    assert shift["percentile"] < 0.1 * shift["minmax"]


def test_a_stack_is_named_by_its_number_of_pages_and_the_others_are_segmented(
    model: Path, images: Path, tmp_path: Path, home: Home
) -> None:
    tifffile.imwrite(images / "stack.tif", np.zeros((3, 40, 40), np.uint8), photometric="minisblack")
    result = predict(model, images, tmp_path / "out", home=home)
    (failed,) = result.failed
    assert result.images == 4 and failed.image == "stack.tif"
    assert failed.error.startswith("file with 3 pages, where one image is expected: ") and "stack.tif" in failed.error
    with pytest.raises(UserError, match="file with 3 pages"):
        predict(model, images / "stack.tif", tmp_path / "alone", home=home)
    assert not (tmp_path / "alone").exists()


def test_preview_takes_every_nth_pixel_whatever_the_bands() -> None:
    picture = np.random.default_rng(2).integers(0, 9, (23, 17))
    preview = Thinned(4)
    for start, stop in ((0, 5), (5, 6), (6, 13), (13, 23)):
        preview.add(picture[start:stop])
    assert np.array_equal(preview.whole(), picture[::4, ::4])


def test_equal_stems_do_not_overwrite_each_other(model: Path, tmp_path: Path, home: Home) -> None:
    folder = tmp_path / "same"
    folder.mkdir()
    for suffix, level in ((".png", 0), (".bmp", 1)):
        grey = np.random.default_rng(level).integers(0, 256, (40, 40), dtype=np.uint8)
        Image.fromarray(grey).save(folder / f"a{suffix}")
    predict(model, folder, tmp_path / "out", home=home)
    assert {p.name for p in (tmp_path / "out" / "masks").iterdir()} == {"a_png.png", "a_bmp.png"}


def test_bad_input_of_predict_is_one_line(model: Path, images: Path, tmp_path: Path, home: Home) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "zero.png").write_bytes(b"")
    (tmp_path / "cut.png").write_bytes((images / "grey.png").read_bytes()[:400])
    (tmp_path / "file").write_text("x")
    cases = [
        ({"images": tmp_path / "nowhere"}, "no such folder of images"),
        ({"images": empty}, "no images in folder"),
        ({"images": images / "notes.txt"}, "not a picture file"),
        ({"images": tmp_path / "zero.png"}, "empty file"),
        ({"images": tmp_path / "cut.png"}, "cut.png"),
        ({"model": "nothing"}, "no such model"),
        ({"nm_per_pixel": 0.0}, "no size of a pixel"),
        ({"nm_per_pixel": float("nan")}, "no size of a pixel"),
        ({"split": "magic"}, "unknown way to split particles"),
        ({"out": tmp_path / "file" / "out"}, "folder cannot be written"),
    ]
    for changes, what in cases:
        given = {"model": model, "images": images, "out": tmp_path / "out"} | changes
        with pytest.raises(UserError, match=what) as caught:
            predict(**given, home=home)
        assert "\n" not in str(caught.value)


def test_generated_pairs_are_a_data_set(model: Path, tmp_path: Path, home: Home) -> None:
    masks = write_dataset(tmp_path / "data", 3, 48, 0)
    out = tmp_path / "out"
    result = generate(model, masks, out, home=home, seed=4, count=2)
    assert (result.masks, result.pairs) == (3, 6)
    report = check(out)
    assert report.ok, report.lines()
    name = sorted(p.stem for p in (masks / "masks").iterdir())[0]
    first, second = (np.asarray(Image.open(out / "images" / f"{name}-{copy:03d}.png")) for copy in (0, 1))
    assert first.shape == (48, 48) and not np.array_equal(first, second)
    truth = np.asarray(Image.open(masks / "masks" / f"{name}.png")) > 0
    assert np.array_equal(np.asarray(Image.open(out / "masks" / f"{name}-001.png")) > 0, truth)
    assert json.loads((out / "generation.json").read_text())["seed"] == 4
    assert Image.open(out / "pairs.png").size[0] > 500
    # Same seed and mask, same picture, whatever else is drawn with it; another seed, another picture.
    alone = masks / "masks" / f"{name}.png"
    generate(model, alone, tmp_path / "alone", home=home, seed=4, count=1)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "alone" / "images" / f"{name}.png")), first)
    generate(model, alone, tmp_path / "other", home=home, seed=5)
    assert not np.array_equal(np.asarray(Image.open(tmp_path / "other" / "images" / f"{name}.png")), first)


def test_bad_input_of_generate_is_one_line(model: Path, tmp_path: Path, home: Home) -> None:
    masks = write_dataset(tmp_path / "data", 2, 32, 0) / "masks"
    alone = make_model(tmp_path / "alone", generator=False)
    noise = tmp_path / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)).save(noise)
    used = tmp_path / "used"
    generate(model, masks, used, home=home)
    generate(model, masks, used, home=home)  # the same call again replaces its own files
    for arguments, what in (
        ((alone, masks, tmp_path / "o"), "model without generator"),
        ((model, tmp_path / "nowhere", tmp_path / "o"), "no such folder of masks"),
        ((model, noise, tmp_path / "o"), "neither binary nor an instance map"),
        ((model, sorted(masks.iterdir())[0], used), "folder holds other files"),
    ):
        with pytest.raises(UserError, match=what) as caught:
            generate(*arguments, home=home)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="bad number"):
        generate(model, masks, tmp_path / "o", home=home, count=0)
