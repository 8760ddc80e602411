"""Writing down a benchmark: JSON and markdown under benchmarks/results/, with machine, commit and command."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
RESULTS = REPO / "benchmarks" / "results"
UNKNOWN = "unknown"


def circumstances() -> dict[str, Any]:
    """Machine, versions, commit and command of this process."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    changed = _git("status", "--porcelain", "--", "sage_ray", "benchmarks", f":!{RESULTS.relative_to(REPO)}")
    return {
        "command": " ".join(["python", *map(shlex.quote, [_from_root(sys.argv[0]), *sys.argv[1:]])]),
        "commit": _git("rev-parse", "--short", "HEAD"),
        "uncommitted": changed not in ("", UNKNOWN),
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": os.getloadavg()[0],
        "gpu": gpu,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def save(name: str, title: str, rows: Sequence[Mapping[str, Any]], notes: Sequence[str] = ()) -> Path:
    """Write NAME.json and NAME.md, print the markdown, and return the latter's path."""
    facts = circumstances()
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps({**facts, "rows": list(rows)}, indent=1) + "\n", encoding="utf-8")
    heads = list(dict.fromkeys(key for row in rows for key in row))
    table = [heads, ["---"] * len(heads), *([_cell(row.get(head)) for head in heads] for row in rows)]
    dirty = " with uncommitted changes" if facts["uncommitted"] else ""
    lines = [
        f"# {title}",
        "",
        f"`{facts['command']}` at commit {facts['commit']}{dirty}, {facts['when']}; {facts['cpu']}, "
        f"{facts['cores']} cores (load {facts['load']:.1f} at the end), GPU {facts['gpu'] or 'none'}; "
        f"Python {facts['python']}, torch {facts['torch']}.",
        "",
        *(f"| {' | '.join(row)} |" for row in table),
        "",
        *notes,
    ]
    text = "\n".join(lines).rstrip() + "\n"
    (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)
    return RESULTS / f"{name}.md"


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def _from_root(path: str) -> str:
    full = Path(path).resolve()
    return str(full.relative_to(REPO)) if full.is_relative_to(REPO) else full.name


def _git(*words: str) -> str:
    try:
        done = subprocess.run(["git", *words], cwd=REPO, capture_output=True, text=True, timeout=30, check=False)
    except OSError:  # no git on this machine
        return UNKNOWN
    return done.stdout.strip() if done.returncode == 0 else UNKNOWN


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
