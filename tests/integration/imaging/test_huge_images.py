"""Huge images are predicted in a process of its own, whose memory is measured."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile

from sage_ray.imaging import tiles
from sage_ray.imaging.model import model_spec, save_model_folder
from sage_ray.models import SEGMENTERS
from sage_ray.models.init import initialise


def smooth(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """A blobby image (rows, columns) uint8 that uses the whole grey range."""
    coarse = np.random.default_rng(seed).integers(0, 256, (rows // 8 + 2, columns // 8 + 2)).astype(np.uint8)
    image = tiles.resize_image(coarse, (rows, columns))
    image[0, 0], image[-1, -1] = 0, 255
    return image


HUGE = """
import resource, sys
from pathlib import Path
import numpy as np
import torch
from sage_ray.imaging import rasters
from sage_ray.imaging.model import load_model_folder

torch.set_num_threads(1)
folder, image, out = map(Path, sys.argv[1:4])
model = load_model_folder(folder)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
source = rasters.open_rows(image)
counts = []

def masks():
    for probability in model.predict_stream(source):
        counts.append(int((probability > 0.5).sum()))
        yield probability > 0.5

rasters.write_mask(out, source.shape, masks())
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, sum(counts))
"""


def huge_png(path: Path, side: int) -> None:
    """A PNG of side x side pixels whose lines repeat every 512 rows, written line by line with filters Up and Paeth."""
    tile = np.tile(smooth(512, 512), (1, side // 512 + 1))[:, :side]
    packer, left = zlib.compressobj(1), np.zeros(1, np.uint8)
    prior = np.zeros(side, np.uint8)
    with path.open("wb") as file:

        def chunk(kind: bytes, data: bytes) -> None:
            file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))

        file.write(b"\x89PNG\r\n\x1a\n")
        chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
        for row in range(side):
            line = tile[row % 512]
            average = (np.concatenate([left, line[:-1]]).astype(int) + prior) // 2
            kind, guess = (3, average) if row % 700 < 100 else (2, prior)
            data = packer.compress(bytes([kind]) + (line - guess).astype(np.uint8).tobytes())
            if data:
                chunk(b"IDAT", data)
            prior = line
        chunk(b"IDAT", packer.flush())
        chunk(b"IEND", b"")


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "side"), [("plain.tif", 20_000), ("deflated.tif", 12_000), ("lines.png", 12_000)])
def test_a_huge_image_is_predicted_in_bounded_memory(tmp_path: Path, kind: str, side: int) -> None:
    """20,000 x 20,000 pixels are 400 MB, their probabilities 1.6 GB; far less is held at a time.

    Most of what is measured is the network's own working memory.
    """
    segmenter = SEGMENTERS["unet"](width=2, depth=1)
    initialise(segmenter, 6)
    spec = model_spec(("unet", {"width": 2, "depth": 1}), None, image_size=(128, 128), native_size=(512, 512))
    save_model_folder(tmp_path / "model", segmenter, None, spec)
    image = tmp_path / kind
    if kind == "lines.png":
        huge_png(image, side)
    else:
        row = np.tile(smooth(512, 512), (1, side // 512 + 1))[:, :side]
        options = {"compression": "zlib"} if kind == "deflated.tif" else {}
        blocks = (np.ascontiguousarray(row[:, c : c + 512]) for _ in range(0, side, 512) for c in range(0, side, 512))
        padded = (np.pad(block, ((0, 0), (0, 512 - block.shape[1]))) for block in blocks)
        if options:
            tifffile.imwrite(image, padded, shape=(side, side), dtype=np.uint8, tile=(512, 512), **options)
        else:
            stored = tifffile.memmap(image, shape=(side, side), dtype=np.uint8)
            for top in range(0, side, 512):
                stored[top : top + 512] = row[: side - top]
            stored.flush()
    out = tmp_path / "mask.tif"
    command = [sys.executable, "-c", HUGE, str(tmp_path / "model"), str(image), str(out)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=280)
    megabytes, foreground = done.stdout.split()
    assert float(megabytes) < 350, f"{megabytes} MB above what the program itself takes"
    with tifffile.TiffFile(out) as file:
        assert file.pages.first.shape == (side, side)
        assert 0 < int(foreground) < side * side
    image.unlink()
