"""The bytes of a state: those of the library, in one copy."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from safetensors.torch import load, save

from sage_ray.stages.state_bytes import state_bytes

TYPES = [torch.float64, torch.int64, torch.float32, torch.int32, torch.bfloat16, torch.float16, torch.int16]
TYPES += [torch.int8, torch.uint8, torch.bool]


def tensors() -> dict[str, torch.Tensor]:
    made = {f"{letter}{i}": (torch.rand(3, 2) * 9).to(kind) for letter in "xa" for i, kind in enumerate(TYPES)}
    made |= {"ü/network.0": torch.rand(()), "empty": torch.empty(0, 3), 'q"': torch.rand(3, 4).t()}
    return made | {
        "parameter": torch.nn.Parameter(torch.rand(2, 2, 3, 3).contiguous(memory_format=torch.channels_last))
    }


@pytest.mark.parametrize("case", ["all", "none", "unknown type"])
def test_the_bytes_are_those_of_the_library(case: str) -> None:
    made = {} if case == "none" else tensors()
    if case == "unknown type":
        made["small"] = torch.rand(4).to(torch.float8_e4m3fn)
    content = state_bytes(made)
    assert content == save({name: tensor.detach().contiguous() for name, tensor in made.items()})
    read = load(content)
    assert read.keys() == made.keys()
    assert all(torch.equal(read[name].view(torch.uint8), made[name].detach().contiguous().view(torch.uint8))
               for name in made if made[name].dim())  # fmt: skip


MEASURE = """
import sys, torch
from sage_ray.stages.state_bytes import state_bytes

def resident(what):
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(what)).split()[1])

size = 256 << 20
state = {f"network.{i}": torch.full((size // 32,), float(i)) for i in range(8)}
state_bytes({"warm": torch.ones(4)})
open("/proc/self/clear_refs", "w").write("5")
before = resident("VmRSS")
content = state_bytes(state)
print((resident("VmHWM") - before) / size)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_state_is_copied_once() -> None:
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    assert 0.9 < float(done.stdout) < 1.2
