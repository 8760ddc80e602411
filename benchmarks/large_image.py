"""What `predict` takes of time and memory for an image of 8192 x 8192 pixels, beside the bare network.

Each kind of file (plain, 0 as white, palette; they show the same picture) is predicted in a process of its own, whose
peak of memory and processor time are measured. The bare network is a process that passes as many pixels through the
same network in pieces of 512 x 512 that do not overlap (measured on a part, times the rest). The network is a UNet of
width 16, trained for seconds on pieces of the picture, so that there are particles to split and measure.

Run: python benchmarks/large_image.py [--side 8192] [--kinds plain,white_is_zero,palette] [--split watershed]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from record import save

NETWORK = ("unet", {"width": 16, "depth": 4, "norm": "batch"})
FIELD, PIECE, BARE_PIECES = 256, 512, 12

PREDICT = """
import json, resource, sys, time
from sage_ray.apply.predict import predict
from sage_ray.record.home import Home
model, image, out, split = sys.argv[1:]
before, wall = time.process_time(), time.perf_counter()
found = predict(model, image, out, home=Home(out + "-home"), split=split)
print(json.dumps({
    "wall_s": time.perf_counter() - wall,
    "cpu_s": time.process_time() - before,
    "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    "particles": found.particles,
}))
"""
BARE = """
import json, sys, time
import numpy as np
from sage_ray.imaging.model import load_model_folder
model, piece, pieces = load_model_folder(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
stack = np.random.default_rng(0).integers(0, 256, (1, piece, piece), dtype=np.uint8)
model.probabilities(stack)
before, wall = time.process_time(), time.perf_counter()
for _ in range(pieces):
    model.probabilities(stack)
print(json.dumps({"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - before}))
"""


def discs(side: int) -> np.ndarray:
    """A square picture (side, side) uint8 of bright discs on grey ground, which repeats every 1024 pixels."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:1024, :1024]
    image = rng.normal(90, 8, (1024, 1024))
    for row in range(48, 1024, 96):
        for column in range(48, 1024, 96):
            if rng.random() < 0.75:
                image[(y - row) ** 2 + (x - column) ** 2 < rng.uniform(32, 50) ** 2] += 80
    times = -(-side // 1024)
    return np.tile(image.clip(0, 255).astype(np.uint8), (times, times))[:side, :side]


def write_kind(kind: str, image: np.ndarray, path: Path) -> None:
    """Write the picture as a TIFF of a kind."""
    if kind == "plain":
        tifffile.imwrite(path, image)
    elif kind == "white_is_zero":
        tifffile.imwrite(path, 255 - image, photometric="miniswhite")
    else:
        ramp = np.stack([np.arange(256)[::-1] * 257] * 3).astype(np.uint16)
        tifffile.imwrite(path, 255 - image, photometric="palette", colormap=ramp)


def write_model(folder: Path, image: np.ndarray) -> None:
    """A model trained on pieces of 64 x 64 pixels of the picture, whose truth is a threshold between its two greys."""
    import torch
    from torch.nn import functional

    from sage_ray.imaging.model import model_spec, save_model_folder
    from sage_ray.models import SEGMENTERS
    from sage_ray.models.init import initialise

    network = SEGMENTERS[NETWORK[0]](**NETWORK[1])
    initialise(network, 0)
    shown = torch.from_numpy(image[:1024, :1024].copy()).float()
    rng = np.random.default_rng(0)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.003)
    network.train()
    for _ in range(60):
        places = rng.integers(0, 960, (8, 2)).tolist()
        pieces = torch.stack([shown[row : row + 64, column : column + 64] for row, column in places])[:, None]
        optimizer.zero_grad()
        functional.cross_entropy(network(pieces / 127.5 - 1), (pieces[:, 0] > 130).long()).backward()
        optimizer.step()
    spec = model_spec(NETWORK, None, image_size=(FIELD, FIELD), native_size=(FIELD, FIELD))
    save_model_folder(folder, network.eval(), None, spec)


def measured(script: str, *arguments: object) -> dict[str, Any]:
    """What a script prints as its last line of JSON, run in a process of its own."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=8192)
    parser.add_argument("--kinds", default="plain,white_is_zero,palette")
    parser.add_argument("--split", default="watershed")
    parser.add_argument("--name", default="large_image", help="of the files in benchmarks/results")
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        image = discs(given.side)
        write_model(root / "model", image)
        bare = measured(BARE, root / "model", PIECE, BARE_PIECES)
        pieces = image.size / PIECE**2
        whole = {key: value * pieces / BARE_PIECES for key, value in bare.items()}
        rows.append({"case": "bare network", **whole})
        for kind in given.kinds.split(","):
            write_kind(kind, image, root / f"{kind}.tif")
            found = measured(PREDICT, root / "model", root / f"{kind}.tif", root / kind, given.split)
            rows.append({"case": f"predict, {kind}", **found, "cpu / bare": found["cpu_s"] / whole["cpu_s"]})
            (root / f"{kind}.tif").unlink()
    title = f"predict on an image of {given.side} x {given.side} pixels, split={given.split}, UNet of width 16"
    save(given.name, title, rows, ["Processor time is compared, as the machine may be busy with other work."])


if __name__ == "__main__":
    main()
