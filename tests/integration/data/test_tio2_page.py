"""The data path of docs/tio2.md: a set laid out as the public TiO2 one, masks with and without the rows of the bar."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sage_ray.data.check import check
from sage_ray.data.prepare import prepare
from sage_ray.sections import DataConfig, SplitConfig
from sage_ray.terminal.cli import call

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "draw_tio2_twin.py"
SIZE = {"images": 5, "columns": 256}


@pytest.fixture(scope="module")
def write_twin() -> Callable[..., Path]:
    found = importlib.util.spec_from_file_location("draw_tio2_twin", SCRIPT)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    written: Callable[..., Path] = module.write_twin
    return written


def test_check_finds_pairs_bar_and_scale(write_twin: Callable[..., Path], tmp_path: Path) -> None:
    report = check(write_twin(tmp_path / "twin", **SIZE))
    assert report.ok and len(report.stems) == 5
    lines = report.lines()
    assert "bar: all 5 images: the lowest 16 rows are an information bar, by its look: set data.crop_bottom=16" in lines
    assert "pairing: all 5 masks are named TiO2_masks/NAME_m, NAME being the image's name" in lines
    assert "scale: 5 of 5 images say their scale: 4.468 nm per pixel, from Zeiss metadata (5)" in lines
    assert not [line for line in lines if line.startswith("suspect")]


def test_masks_without_the_bar_lead_to_the_same_data(
    write_twin: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twin, low = write_twin(tmp_path / "twin", **SIZE), write_twin(tmp_path / "low", **SIZE, masks_without_bar=True)
    assert call(["data", "check", str(low), "--json"]) == 2
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["next"] == [f"sage-ray data check {low} --crop-bottom 16"] and len(told["problems"]) == 1
    assert call(["data", "check", str(low), "--crop-bottom", "16"]) == 0
    split = SplitConfig(validation=0.2, test=0.2)
    both = [
        prepare(DataConfig(path=str(path), image_size=(88, 128), crop_bottom=16, split=split), tmp_path / "cache")
        for path in (twin, low)
    ]
    assert np.array_equal(both[0].masks, both[1].masks) and both[0].masks.any()
    assert np.array_equal(both[0].images, both[1].images)
