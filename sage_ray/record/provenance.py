"""Where a run's code and environment came from: git commit, dirty flag, package versions, machine."""

from __future__ import annotations

import getpass
import os
import platform
import socket
import subprocess
import sys
import time
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import sage_ray

GIT_TIMEOUT_S = 10.0


@lru_cache(maxsize=1)
def code_version() -> tuple[str | None, bool | None]:
    """(commit, dirty) of the checkout that the package runs from; (None, None) when installed without one.

    Read once per process: the code that runs is the code that was imported. `dirty` counts tracked files only.
    """
    root = Path(sage_ray.__file__).parent
    commit = _git(root, "rev-parse", "HEAD")
    # A package inside somebody else's repository (a virtual environment, say) has no tracked file there.
    if commit is None or not _git(root, "ls-files", "--", "__init__.py"):
        return None, None
    changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    return commit, None if changed is None else bool(changed)


@lru_cache(maxsize=1)
def environment() -> dict[str, Any]:
    """Python, platform, devices, and every installed distribution with its version, as plain data."""
    commit, dirty = code_version()
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "format_version": 1,
        "sage_ray": sage_ray.__version__,
        "commit": commit,
        "dirty": dirty,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "gpus": gpus,
        "cuda": torch.version.cuda,
        "packages": {
            name: dist.version for dist in metadata.distributions() if (name := dist.metadata["Name"]) is not None
        },
    }


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=GIT_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def who() -> str:
    """User and machine, such as "ana@node7"."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container without a passwd entry
        user = f"uid{os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def now() -> str:
    """UTC time in ISO form, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
