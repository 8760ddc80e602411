"""A model folder is loaded by a process that has little else."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
from model_cases import make_folder, micrograph

import sage_ray.imaging.model as model_module
from sage_ray.imaging import tiles


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
