"""A model folder is loaded by a process that has little else."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

import sage_ray.imaging.model as model_module
from sage_ray.imaging import tiles
from sage_ray.imaging.model import model_spec, save_model_folder
from sage_ray.models import GENERATORS, SEGMENTERS
from sage_ray.models.init import initialise

SEGMENTER = ("unet", {"width": 4, "depth": 2, "norm": "batch"})


GENERATOR = ("style_unet", {"width": 4, "depth": 2, "style_dim": 8})


def trained(network: torch.nn.Module, seed: int) -> torch.nn.Module:
    """The network with keyed weights and running statistics that are not the identity, as training leaves them."""
    initialise(network, seed)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.endswith(("running_mean", "running_var")):
                value.add_(0.3 * torch.rand(value.shape, generator=draw))
    return network.eval()


def make_folder(
    folder: Path, image_size: tuple[int, int] = (64, 96), *, generator: bool = True, **spec: object
) -> Path:
    segmenter = trained(SEGMENTERS[SEGMENTER[0]](**SEGMENTER[1]), 1)
    made = trained(GENERATORS[GENERATOR[0]](**GENERATOR[1]), 2) if generator else None
    described = model_spec(SEGMENTER, GENERATOR if generator else None, image_size=image_size, **spec)  # type: ignore[arg-type]
    return save_model_folder(folder, segmenter, made, described)


def micrograph(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Discs on a shaded, noisy ground, uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:rows, :columns]
    image = 60 + 40 * x / columns + rng.normal(0, 6, (rows, columns))
    for _ in range(max(rows * columns // 900, 1)):
        row, column, radius = rng.uniform(0, rows), rng.uniform(0, columns), rng.uniform(3, 8)
        image[(y - row) ** 2 + (x - column) ** 2 <= radius**2] += 90
    return np.clip(image, 0, 255).astype(np.uint8)


def test_module_loads_without_the_rest_of_the_package(tmp_path: Path) -> None:
    """In a registered model there is neither ray, mlflow, pandas, Pillow, scipy nor the trainer."""
    folder = make_folder(tmp_path / "model", run_id="r1")
    np.save(tmp_path / "image.npy", micrograph(70, 80))
    barred = [
        "ray",
        "mlflow",
        "pandas",
        "PIL",
        "scipy",
        "skimage",
        "pydantic",
        "yaml",
        "kornia",
        "tifffile",
        "matplotlib",
    ]
    code = f"""
import sys
for name in {barred!r}:
    sys.modules[name] = None
import numpy as np
from sage_ray.imaging.model import load_model_folder
model = load_model_folder({str(folder)!r})
model.generate(model.predict_mask(np.load({str(tmp_path / "image.npy")!r}))[1], 1)
ours = sorted(m for m in sys.modules if m.startswith("sage_ray."))
assert not any(m.startswith(("sage_ray.data", "sage_ray.training", "sage_ray.config")) for m in ours), ours
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    for module in (model_module, tiles):
        tree = ast.parse(Path(module.__file__ or "").read_text())
        roots = {n.module.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module}
        assert roots - set(sys.stdlib_module_names) <= {"sage_ray", "safetensors", "torch"}
