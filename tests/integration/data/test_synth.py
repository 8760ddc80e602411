"""Drawn pixels are the same in another process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from sage_ray.data.synth import DrawnSource, draw_pair, write_dataset


def test_same_seed_same_pixels_in_another_process(tmp_path: Path) -> None:
    first = write_dataset(tmp_path / "a", num=3, size=64, seed=9)
    code = f"from sage_ray.data.synth import write_dataset; write_dataset({str(tmp_path / 'b')!r}, 3, 64, 9)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    for path in sorted(first.rglob("*.png")):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(first)).read_bytes()
    source = DrawnSource(3, 64, 9)
    alone, other = source.draw(2), DrawnSource(3, 64, 10).draw(2)
    np.testing.assert_array_equal(np.asarray(Image.open(first / "images" / "ordered_00002.png")), alone.image)
    assert not np.array_equal(other.image, alone.image)
    one, two = (draw_pair(np.random.default_rng(seed), 64).image for seed in (1, 2))
    assert not np.array_equal(one, two)
