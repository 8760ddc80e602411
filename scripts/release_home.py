"""Make a tiny home with a bit of everything that a release writes, as one archive for tests/data/.

Run once for each release, before the next change: `python scripts/release_home.py tests/data/home-COMMIT.tar.xz`.
Tests unpack every such archive somewhere else and go on with it (tests/ray/test_earlier_homes.py). What is in it:

- `old-search`: a finished search; `final` of its best trial is version 1 and champion.
- `old-paused`: a search that was interrupted in the middle of its third trial.
- `old-ablation`: a finished ablation of two arms and two seeds, test scores read.
- `old-run`: a single run, interrupted in phase 2.
- a final training of another configuration with the same seeds: version 2.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

BASE: dict[str, Any] = {
    "data.path": "synthetic://ordered?num=24&size=32&seed=0",
    "data.image_size": [32, 32],
    "segmenter.width": 2,
    "segmenter.depth": 2,
    "generator.width": 2,
    "generator.depth": 2,
    "generator.style_dim": 4,
    "discriminators.width": 2,
    "discriminators.heads": 1,
    "discriminators.head_dim": 4,
    "pretrain.epochs": 3,
    "adversarial.epochs": 4,
    "adversarial.freeze_epochs": 1,
    "adversarial.mix_start": 0.5,
    "runtime.threads": 1,
    "runtime.pictures": False,
}
STUDY: dict[str, Any] = {
    "objective": {"metric": "val/dice", "reduce": "plateau", "direction": "maximize"},
    "seeds": [0],
    "concurrency": 1,
    "resources": {"cpu": 1, "gpu": 0, "workers": 1},
}
SEARCH: dict[str, Any] = STUDY | {
    "space": {
        "adversarial.lambda_cycle": {"float": [0.1, 10], "log": True},
        "segmentation_loss.alpha": {"float": [0.2, 0.8]},
        "segmentation_loss.beta": {"tie": "1 - segmentation_loss.alpha"},
    },
    "sampler": {"name": "tpe", "seed": 0},
}
ABLATION: dict[str, Any] = STUDY | {
    "kind": "arms",
    "reference": "full",
    "arms": {
        "full": {},
        "no_mixing": {"set": {"adversarial.mix_start": 0, "adversarial.mix_step": 0, "adversarial.mix_max": 0}},
    },
    "seeds": [0, 1],
    "test": True,
}
# Unfinished runs share no phase 2 with finished ones, whose stages are left out of the archive.
OTHER_DRAWS = {"name": "tpe", "seed": 1}
ASHA = {"name": "asha", "grace_epochs": 4, "reduction_factor": 2}
KEPT_RUN = "old-search-t0000-s0"
LEFT_OUT = ("cache", "ray")
"""Folders of a home, and of a study, that are made again at need."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive", type=Path)
    archive = parser.parse_args().archive
    # A shell that starts this in the background has SIGINT ignored, and the verbs would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="release-home-") as place:
        home = Path(place) / "home"
        make(Path(place), home)
        pack(home, archive)
    print(f"{archive}: {archive.stat().st_size} bytes")
    return 0


def make(place: Path, home: Path) -> None:
    """Fill `home` through the verbs; files that they read are written to `place`."""
    search = write_study(place, SEARCH, "old-search", trials=3, scheduler=ASHA)
    paused = write_study(place, SEARCH, "old-paused", {"adversarial.epochs": 12}, trials=4, sampler=OTHER_DRAWS)
    design = write_study(place, ABLATION, "old-ablation")
    sage(home, "sweep", search)
    sage(home, "ablate", design)
    sage(home, "final", "old-search", "--seeds", "0,1")
    sage(home, "promote")
    sage(home, "final", "--preset", "tiny_sage_gan", *sets({**BASE, "adversarial.epochs": 6}), "--seeds", "0,1")
    interrupt(home, lambda: epochs(home, "old-paused-t0002-s0") >= 7, "sweep", paused)
    run = [*sets({**BASE, "adversarial.epochs": 60, "seed": 3}), "--run-id", "old-run"]
    interrupt(home, lambda: epochs(home, "old-run") >= 12, "train", "--preset", "tiny_sage_gan", *run)
    sage(home, "list")


def write_study(place: Path, tree: dict[str, Any], name: str, base: dict[str, Any] | None = None, **keys: Any) -> str:
    """Path of a study's file."""
    path = place / f"{name}.yaml"
    part = {"preset": "tiny_sage_gan", "set": {**BASE, **(base or {})}}
    path.write_text(yaml.safe_dump({"name": name, "base": part, **tree, **keys}, sort_keys=False))
    return str(path)


def sets(values: dict[str, Any]) -> list[str]:
    """Values as `--set` words."""
    pairs = [f"{path}={value if isinstance(value, str) else json.dumps(value)}" for path, value in values.items()]
    return [word for pair in pairs for word in ("--set", pair)]


def start(home: Path, *words: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "SAGE_HOME": str(home), "OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    return subprocess.Popen([sys.executable, "-m", "sage_ray", *words], env=environment, cwd=home.parent)


def sage(home: Path, *words: str) -> None:
    """Run a verb to its end."""
    process = start(home, *words)
    if process.wait(timeout=600):
        raise SystemExit(f"sage-ray {' '.join(words)}: exit {process.returncode}")


def interrupt(home: Path, when: Callable[[], bool], *words: str) -> None:
    """Start a verb and press Ctrl-C as soon as `when()` holds."""
    process = start(home, *words)
    deadline = time.monotonic() + 300
    while not when():
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"sage-ray {' '.join(words)}: ended before it could be interrupted")
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    if process.wait(timeout=120) != 130:
        raise SystemExit(f"sage-ray {' '.join(words)}: exit {process.returncode}, not 130")


def epochs(home: Path, run_id: str) -> int:
    path = home / "runs" / run_id / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.is_file() else 0


def drop_stages(home: Path) -> None:
    """Keep the newest snapshot of each stage, and of phase 2 only those of unfinished runs and of KEPT_RUN."""
    records = [json.loads(path.read_text()) for path in (home / "runs").glob("*/record.json")]
    ended, needed = set(), set()
    for record in records:
        going_on = record["run_id"] == KEPT_RUN or record["state"] in ("RUNNING", "INTERRUPTED")
        (needed if going_on else ended).add(record["stage_keys"].get("adversarial"))
    for stage in (home / "stages").iterdir():
        if stage.name in ended - needed:
            shutil.rmtree(stage)
            continue
        for epoch in sorted((e for e in stage.iterdir() if e.name.isdigit()), key=lambda e: int(e.name))[:-1]:
            shutil.rmtree(epoch)


def pack(home: Path, archive: Path) -> None:
    """The home as one archive without what is made again at need, nor who made it."""
    for folder in [home, *(home / "studies").iterdir()]:
        for name in LEFT_OUT:
            shutil.rmtree(folder / name, ignore_errors=True)
    drop_stages(home)

    def nobody(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid = info.gid = 0
        info.uname = info.gname = ""
        return info

    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:xz", preset=9) as tar:
        tar.add(home, "home", filter=nobody)


if __name__ == "__main__":
    sys.exit(main())
