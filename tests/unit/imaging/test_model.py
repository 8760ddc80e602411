from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from model_cases import GENERATOR, SEGMENTER, make_folder, micrograph, trained
from PIL import Image

from sage_ray.data.preprocess import prepare_image, prepare_mask
from sage_ray.data.preprocess import stretch as training_stretch
from sage_ray.errors import UserError
from sage_ray.imaging import tiles
from sage_ray.imaging.model import Model, load_model_folder, model_spec, save_model_folder
from sage_ray.models import SEGMENTERS

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("model"), run_id="r1", native_size=(150, 211))


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return load_model_folder(folder)


def test_weights_and_spec_come_back(folder: Path, model: Model) -> None:
    fresh = trained(SEGMENTERS[SEGMENTER[0]](**SEGMENTER[1]), 1).state_dict()
    assert all(torch.equal(value, fresh[name]) for name, value in model.segmenter.state_dict().items())
    assert not model.segmenter.training and model.generator is not None
    assert model.spec["run_id"] == "r1" and model.image_size == (64, 96)
    assert set(json.loads((folder / "model.json").read_text())["sha256"]) == {
        "segmenter.safetensors",
        "generator.safetensors",
    }
    assert sorted(path.name for path in folder.iterdir()) == [
        "generator.safetensors",
        "model.json",
        "segmenter.safetensors",
    ]


def test_saving_again_without_generator_replaces_the_model(tmp_path: Path) -> None:
    make_folder(tmp_path)
    make_folder(tmp_path, generator=False)
    loaded = load_model_folder(tmp_path)
    assert loaded.generator is None and not (tmp_path / "generator.safetensors").exists()
    with pytest.raises(UserError, match="model without generator"):
        loaded.generate(np.ones((20, 20)), 0)
    with pytest.raises(ValueError, match="spec and networks disagree"):
        save_model_folder(tmp_path, loaded.segmenter, None, model_spec(SEGMENTER, GENERATOR, image_size=(32, 32)))


def test_resize_is_pillows() -> None:
    """To the bit, but for the order of the two passes, which Pillow chooses by shape."""
    for seed in range(60):
        rng = np.random.default_rng(seed)
        old, new = tuple(map(int, rng.integers(1, 90, 2))), tuple(map(int, rng.integers(1, 90, 2)))
        image = rng.integers(0, 256, old).astype(np.uint8)
        expected = np.asarray(Image.fromarray(image).resize((new[1], new[0]), Image.Resampling.BILINEAR))
        ours = tiles.resize_image(image, new)
        rows_first = tiles.resize_image(tiles.resize_image(image, (new[0], old[1])), new)
        assert (ours == expected).all() or (rows_first == expected).all()
        assert np.abs(ours.astype(int) - expected).max() <= 1
        nearest = np.asarray(Image.fromarray(image).resize((new[1], new[0]), Image.Resampling.NEAREST))
        np.testing.assert_array_equal(tiles.resize_nearest(image, new), nearest)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32"])
def test_images_are_prepared_as_in_training(dtype: str) -> None:
    image = (micrograph(150, 211).astype(np.float64) * 37 % 4000).astype(dtype)
    low, high = float(image.min()), float(image.max())
    np.testing.assert_array_equal(tiles.stretch(image, low, high), training_stretch(image))
    ours = tiles.resize_image(tiles.stretch(image, low, high), (64, 96))
    np.testing.assert_array_equal(ours, prepare_image(image, (64, 96)))


def test_prediction_at_the_images_own_size(model: Model) -> None:
    image = micrograph(150, 211)
    probability, mask = model.predict_mask(image)
    assert probability.shape == mask.shape == image.shape
    assert probability.dtype == np.float32 and mask.dtype == bool
    assert 0 <= probability.min() < probability.max() <= 1
    np.testing.assert_array_equal(mask, probability > 0.5)
    # On prepared images the numbers are the network's; the image's own size only resizes them.
    small = prepare_image(image, (64, 96))
    with torch.no_grad():
        logits = model.segmenter(torch.tensor(small)[None, None].float() / 127.5 - 1)
    direct = model.probabilities(small[None])[0]
    np.testing.assert_allclose(direct, torch.softmax(logits, 1)[0, 1].numpy(), atol=1e-5)
    resized = F.interpolate(torch.from_numpy(direct)[None, None], image.shape, mode="bilinear", antialias=True)
    np.testing.assert_allclose(probability, resized[0, 0].numpy(), atol=1e-4)


def test_grey_range_and_depth_do_not_matter(model: Model) -> None:
    image = micrograph(90, 120)
    expected = model.predict_mask(image)[0]
    for other in (image.astype(np.uint16) * 257, image.astype(np.float32) / 255 - 3, image.astype(">u2")):
        np.testing.assert_allclose(model.predict_mask(other)[0], expected, atol=0.05)
    assert np.isfinite(model.predict_mask(np.full((40, 40), 9, np.uint8))[0]).all()


def test_information_bar_is_left_out(tmp_path: Path) -> None:
    cut = load_model_folder(make_folder(tmp_path, crop_bottom=20, generator=False))
    image = micrograph(120, 96)
    image[100:] = 255
    probability, mask = cut.predict_mask(image)
    assert probability.shape == image.shape and not mask[100:].any() and not probability[100:].any()
    np.testing.assert_array_equal(probability[:100], cut.predict_mask(image[:100], crop_bottom=0)[0])
    streamed = np.concatenate(list(cut.predict_stream(tiles.ArraySource(image))))
    np.testing.assert_array_equal(streamed, probability)
    with pytest.raises(UserError, match="lower than its information bar"):
        cut.predict_mask(image[:15])


def test_generated_images_are_keyed_by_seed(model: Model) -> None:
    mask = micrograph(100, 130) > 140
    first, again, other = model.generate(mask, 3), model.generate(mask * 255, 3), model.generate(mask, 4)
    assert first.shape == mask.shape and first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.1
    assert (first != model.generate(~mask, 3)).mean() > 0.1
    with pytest.raises(UserError, match="negative seed"):
        model.generate(mask, -1)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 5, 3)), "not a grey image"),
        (np.zeros((0, 5)), "not a grey image"),
        (np.full((20, 20), np.nan), "not finite"),
        (np.full((20, 20), "a"), "not an image"),
        (np.zeros((20, 20), complex), "not an image"),
    ],
)
def test_what_is_no_image_is_refused(model: Model, image: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message):
        model.predict_mask(image)


def spoil_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))


def edit_spec(folder: Path, **changes: object) -> None:
    path = folder / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: spoil_byte(f / "segmenter.safetensors"), "damaged weights: .*segmenter"),
        (lambda f: spoil_byte(f / "generator.safetensors"), "damaged weights: .*generator"),
        (lambda f: (f / "generator.safetensors").unlink(), "no such file: .*generator"),
        (lambda f: (f / "model.json").unlink(), "no model in folder"),
        (lambda f: (f / "model.json").write_text("{"), "unreadable model.json"),
        (lambda f: edit_spec(f, format_version=99), "model of another format"),
        (lambda f: edit_spec(f, sha256={}), "incomplete model.json: .*: entry 'segmenter.safetensors'"),
        (lambda f: edit_spec(f, segmenter={"name": "vision_net", "kwargs": {}}), "unknown network"),
        (lambda f: edit_spec(f, segmenter={"name": "unet", "kwargs": {"width": 8, "depth": 2}}), "do not fit"),
        (lambda f: edit_spec(f, segmenter={"name": "unet", "kwargs": {"wdth": 8}}), "do not fit"),
        (lambda f: torch.save({}, f / "segmenter.safetensors"), "pickled weights are not loaded: .*segmenter"),
    ],
)
def test_spoilt_folders_are_refused(tmp_path: Path, spoil: object, message: str) -> None:
    folder = make_folder(tmp_path / "model")
    load_model_folder(folder)
    spoil(folder)  # type: ignore[operator]
    with pytest.raises(UserError, match=message):
        load_model_folder(folder)


@pytest.mark.parametrize("name", ["model.pt", "weights.bin", "no_suffix"])
@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_are_refused_under_any_name(tmp_path: Path, name: str, zipped: bool) -> None:
    torch.save({"a": torch.zeros(2)}, tmp_path / name, _use_new_zipfile_serialization=zipped)
    for offered in (tmp_path / name, tmp_path):
        with pytest.raises(UserError, match=f"pickled weights are not loaded: .*{name}"):
            load_model_folder(offered)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such model"):
        load_model_folder(tmp_path / "absent")
    with pytest.raises(UserError, match="no model in folder"):
        load_model_folder(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UserError, match="not a model folder"):
        load_model_folder(tmp_path / "notes.txt")


def test_mask_preparation_agrees_with_training() -> None:
    mask = micrograph(101, 77) > 140
    np.testing.assert_array_equal(tiles.resize_nearest(mask, (64, 96)), prepare_mask(mask, (64, 96)) > 0)
