"""Models that an earlier release registered load with plain MLflow, whichever release Python has imported before.

The images are of the size that the models were trained at: others are resampled by other rules since the release that
gave models a scale.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[3]
ARCHIVES = sorted((REPO / "tests" / "data").glob("home-*.tar.xz"))
PREDICT = """
import json, sys
first = sys.argv[2] == "this release first"
if first:
    import sage_ray, sage_ray.imaging.model
import mlflow, numpy as np
model = mlflow.pyfunc.load_model(sys.argv[1])
stack = (np.random.default_rng(0).random((2, 32, 32)) * 255).astype("uint8")
masks = model.predict(stack, params={"task": "mask"})
images = model.predict(masks, params={"task": "generate", "seed": 3})
import sage_ray
print(json.dumps([sage_ray.__file__, masks.shape, masks.tolist(), images.tolist()]))
"""


@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda path: path.name.removesuffix(".tar.xz"))
def test_a_model_registered_before_loads_beside_this_release_and_alone(archive: Path, tmp_path: Path) -> None:
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    package = next((tmp_path / "home").rglob("MLmodel")).parent
    environment = os.environ | {"PYTHONPATH": str(REPO), "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    answers = []
    for order in ("this release first", "its own code"):
        command = [sys.executable, "-c", PREDICT, str(package), order]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        answers.append(json.loads(done.stdout.splitlines()[-1]))
    beside, alone = answers
    assert Path(beside[0]).is_relative_to(REPO) and Path(alone[0]).is_relative_to(package)
    assert beside[1] == [2, 32, 32] and 0 < sum(map(sum, beside[2][0])) < 32 * 32
    assert beside[1:] == alone[1:]
