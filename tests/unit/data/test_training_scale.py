"""The scale of training images in nanometres, as far as their files say it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from sage_ray.data.prepare import prepare
from sage_ray.data.training_scale import training_nm_per_pixel
from sage_ray.sections import DataConfig, SplitConfig

ALL = SplitConfig(test=0.0, validation=0.0)


def scale_of(folder: Path, sizes: list[float | None], **data: object) -> tuple[float, float] | None:
    """Of a folder of one image for each size of a pixel in nm, of which None is not written."""
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for number, nm in enumerate(sizes):
        image = rng.integers(0, 256, (20, 20), dtype=np.uint8)
        told = {} if nm is None else {"resolution": (1 / nm, 1 / nm), "metadata": {"unit": "nm"}}
        tifffile.imwrite(folder / "images" / f"i{number}.tif", image, imagej=nm is not None, **told)
        Image.fromarray(np.eye(20, dtype=np.uint8) * 255).save(folder / "masks" / f"i{number}.png")
    config = DataConfig(path=str(folder), image_size=(16, 16), **{"split": ALL, **data})  # type: ignore[arg-type]
    return training_nm_per_pixel(config, prepare(config, folder / "cache"))


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([2.0, 2.0, 2.0], 2.0),
        ([1.0, 2.0, 3.0], 2.0),
        ([1.5, None], 1.5),
        ([1.5, None, None], None),
        ([None, None], None),
        ([1.0, 1.0, 5.0], None),
    ],
)
def test_median_of_what_most_files_say(tmp_path: Path, sizes: list[float | None], expected: float | None) -> None:
    found = scale_of(tmp_path / "data", sizes)
    assert found == (None if expected is None else pytest.approx((expected, expected)))


def test_only_training_images_count_and_drawn_ones_have_none(tmp_path: Path) -> None:
    sizes: list[float | None] = [1.0] * 3 + [3.0] * 3
    split = SplitConfig(test=0.5, validation=0.0)
    folder = tmp_path / "data"
    found = scale_of(folder, sizes, split=split)
    config = DataConfig(path=str(folder), image_size=(16, 16), split=split)
    data = prepare(config, folder / "cache")
    trained = [sizes[int(data.stems[row][1:])] for row in data.split.train]
    assert found == pytest.approx((np.median(trained),) * 2)
    drawn = DataConfig(path="synthetic://ordered?num=4&size=16", image_size=(16, 16), split=ALL)
    assert training_nm_per_pixel(drawn, prepare(drawn, tmp_path / "cache")) is None
