"""Settings of arithmetic in a process of its own."""

from __future__ import annotations

import subprocess
import sys


def test_no_setting_warns_and_compiled_networks_can_read_them() -> None:
    code = (
        "import torch; from sage_ray.training.precision import use_precision\n"
        "for name in ('tf32', 'fp32', 'bf16'):\n"
        "    use_precision(name, torch.device('cuda'))\n"
        "    torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32\n"
        "    with torch.backends.cudnn.flags(enabled=True): pass\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr
