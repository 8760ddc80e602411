"""Memory that runs out: a named state of the run, with the settings that need less."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_cases import tiny_config

from sage_ray.errors import OutOfMemory
from sage_ray.training.memory import is_out_of_memory, memory_of

# The address space ends 200 MB above what is taken before training, and one layer's output takes more.
SCRIPT = """
import json, resource, sys
from pathlib import Path
import psutil, torch
from tiny_cases import tiny_config
from sage_ray.record.home import Home
from sage_ray.runtime.launch import run

home, phase = Home(Path(sys.argv[1])), sys.argv[2]
sets = ["data.image_size=[256,256]", "data.path=synthetic://ordered?num=8&size=256", "runtime.pictures=false"]
small = tiny_config(*sets, "pretrain.epochs=1", "adversarial.epochs=0", f"{phase}.batch_size=1")
assert run(small, home, "small", mirror=False, launcher="inline").state == "COMPLETE"
taken = psutil.Process().memory_info().vms
resource.setrlimit(resource.RLIMIT_AS, (taken + 200_000_000, resource.RLIM_INFINITY))
wide = small.with_values({"segmenter.width": 1024, "pretrain.epochs": 1})
record = run(wide, home, "wide", mirror=False, launcher="inline")
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(json.dumps([record.state, record.error, (home.runs / "wide" / "error.txt").exists()]))
"""


def test_a_run_without_memory_says_what_to_lower(tmp_path: Path) -> None:
    words = [sys.executable, "-c", SCRIPT, str(tmp_path), "pretrain"]
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    state, error, has_trace = json.loads(done.stdout.strip().splitlines()[-1])
    assert (state, has_trace) == ("FAIL", True)
    assert error.startswith(
        "out_of_memory: no memory left on the machine in pretrain (batches of 1 images of 256 x 256"
    )
    assert "more wanted): lower pretrain.batch_size" in error and "concurrency" in error


def test_on_a_gpu_precision_and_sharing_are_named() -> None:
    config = tiny_config("runtime.precision=fp32", "adversarial.batch_size=4")
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of ...")
    with pytest.raises(OutOfMemory) as caught, memory_of(config, "adversarial", torch.device("cuda")):
        raise error
    line = str(caught.value)
    assert "on the GPU in adversarial (batches of 4 images" in line and "2.00 GiB more wanted" in line
    assert "adversarial.batch_size" in line and "runtime.precision=bf16" in line and "resources.gpu" in line
    assert caught.value.__cause__ is error


def test_what_is_named_is_what_the_stage_or_the_system_has() -> None:
    lines = {}
    for phase, preset in (("adversarial", "tiny_gan"), ("render", "tiny_diffrender"), ("render", "diffrender")):
        config, where = tiny_config(preset=preset), torch.device("cuda")
        with pytest.raises(OutOfMemory) as caught, memory_of(config, phase, where):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        lines[preset] = str(caught.value)
    assert "generator.width" in lines["tiny_gan"] and "segmenter" not in lines["tiny_gan"]
    assert "in render (an image of" in lines["tiny_diffrender"] and "render.scenes" in lines["tiny_diffrender"]
    assert "render.samples" in lines["diffrender"] and "render.samples" not in lines["tiny_diffrender"]
    assert "batch_size" not in lines["diffrender"] and "precision" not in lines["diffrender"]


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    ],
)
def test_what_the_libraries_of_a_gpu_say_without_memory_is_known(text: str) -> None:
    assert is_out_of_memory(RuntimeError(text))
    assert not is_out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))


@pytest.mark.parametrize("error", [RuntimeError("shape mismatch"), ValueError("no memory"), KeyError("memory")])
def test_other_errors_pass_as_they_are(error: Exception) -> None:
    assert not is_out_of_memory(error)
    with pytest.raises(type(error)) as caught, memory_of(tiny_config(), "pretrain", torch.device("cpu")):
        raise error
    assert caught.value is error
