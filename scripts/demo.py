"""The whole path on drawn particles, as a user would walk it: every step is a `sage-ray` command, printed as it runs.

Into ./demo_runs (made anew each time): a folder of micrographs, a search, final trainings of the untuned base and of
the best configuration, their comparison on the locked test, a champion, its scores beside Otsu thresholding on fresh
particles, masks and synthetic pairs. Ends with exit code 1 if a step fails, the generator never trained, the champion
does not beat Otsu, or the processes took more than 3 GB together.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
OUT = Path("demo_runs")
MARK = OUT / ".sage-demo"
HOME = OUT / "home"
MODEL = "models:/sage-gan@champion"
MEMORY_LIMIT_BYTES = 3_000_000_000
TIME_LIMIT_S = 300
STEP_TIMEOUT_S = 900


class DemoFailed(Exception):
    """A step did not end as it should."""


class MemoryWatch(threading.Thread):
    """Samples the proportional set size of this process and all its descendants; `peak` is in bytes."""

    def __init__(self, every_s: float = 1.0) -> None:
        super().__init__(daemon=True)
        self.peak, self.at = 0, ""
        self._every_s = every_s
        self._done = threading.Event()
        self.step = ""

    def run(self) -> None:
        while not self._done.wait(self._every_s):
            now = tree_pss(psutil.Process())
            if now > self.peak:
                self.peak, self.at = now, self.step

    def stop(self) -> None:
        self._done.set()
        self.join(timeout=30)


def tree_pss(root: psutil.Process) -> int:
    """Bytes of proportional set size: pages that processes share are counted once, split between them."""
    total = 0
    for process in [root, *root.children(recursive=True)]:
        try:
            info = process.memory_full_info()
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
        total += getattr(info, "pss", info.rss)
    return total


class Demo:
    """Runs the commands and remembers how long each took."""

    def __init__(self) -> None:
        self.memory = MemoryWatch()
        self.seconds: list[tuple[str, float]] = []

    def sage(self, command: str) -> dict[str, Any]:
        """Run `sage-ray COMMAND`, show what it says, return its JSON. Raises DemoFailed if it does not end with 0."""
        words = shlex.split(command)
        print(f"\n$ sage-ray {command}", flush=True)
        self.memory.step = " ".join(words[:2])
        start = time.monotonic()
        arguments = [sys.executable, "-m", "sage_ray.cli", *words, "--json"]
        environment = os.environ | {"SAGE_HOME": str(HOME), "PYTHONUNBUFFERED": "1"}
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "RAY_ADDRESS"):
            environment.pop(name, None)
        with subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env=environment
        ) as process:
            timer = threading.Timer(STEP_TIMEOUT_S, process.kill)
            timer.start()
            answer = follow(process)
            timer.cancel()
        self.seconds.append((self.memory.step, time.monotonic() - start))
        if process.returncode or not answer.get("ok"):
            raise DemoFailed(f"`sage-ray {command}` ended with {process.returncode}")
        return answer


def follow(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Print the lines of a verb as they come, all but the JSON at its end, which is returned."""
    assert process.stdout is not None
    last = None
    for line in process.stdout:
        if last is not None:
            print(f"  {last}", flush=True)
        last = line.rstrip("\n")
    try:
        return dict(json.loads(last or ""))
    except ValueError:
        if last:
            print(f"  {last}")
        return {}


def walk(demo: Demo) -> None:
    """The steps, one a line."""
    data, fresh = OUT / "data", OUT / "fresh"
    demo.sage(f"data synth {data} --num 64 --size 64 --seed 0")
    demo.sage(f"data check {data}")
    # A longer phase 1, which all trials share, and averaged weights: enough to learn dark particles beside bright ones.
    # A shorter phase 2, which costs five times as much an epoch: five minutes are for all of it.
    epochs = "--set pretrain.epochs=18 --set adversarial.epochs=13"
    chosen = f"search_tiny --name demo --set data.path={data} {epochs} --set evaluation.ema_decay=0.9"
    demo.sage(f"plan {chosen}")
    demo.sage(f"sweep {chosen}")
    best = demo.sage("best demo")
    base_final = demo.sage("final demo --trial base --seeds 0,1")
    # Where the rule keeps the untuned base, the highest-scoring other trial is the one to hold against it.
    rival = best["trial"] or next((row["trial"] for row in best["runner_ups"]), 0)
    best_final = demo.sage(f"final demo --trial {rival} --seeds 0,1")
    comparison = demo.sage("compare")
    demo.sage("promote")
    demo.sage(f"data synth {fresh} --num 24 --size 64 --seed 1000")
    scores = demo.sage(f"evaluate {MODEL} {fresh}")
    demo.sage(f"predict {MODEL} {fresh / 'images'} -o {OUT / 'masks'} --nm-per-pixel 2")
    demo.sage(f"generate {MODEL} {fresh / 'masks'} -o {OUT / 'synthetic'} --seed 0")
    demo.sage("report demo")
    check_training([*base_final["runs"], *best_final["runs"]])
    check_scores(scores)
    tell(best, comparison)


def check_training(runs: list[dict[str, Any]]) -> None:
    """Raises DemoFailed unless the generator of every final run really trained."""
    print("\nfinal runs:")
    for run in runs:
        print(
            f"  {run['run_id']}: generator_updates {run['generator_updates']}, synthetic_steps {run['synthetic_steps']}"
        )
        if not run["generator_updates"] or not run["synthetic_steps"]:
            raise DemoFailed(f"the generator of {run['run_id']} did not train")


def check_scores(scores: dict[str, Any]) -> None:
    """Raises DemoFailed unless the champion beats Otsu thresholding on the fresh particles."""
    champion, otsu, gain = scores["scores"]["dice"]["mean"], scores["baseline"]["dice"]["mean"], scores["gain"]
    interval = f"{gain['mean']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}]"
    print(f"\nfresh particles: champion Dice {champion:.4f}, Otsu {otsu:.4f}, difference {interval}")
    if champion <= otsu:
        raise DemoFailed("the champion does not beat Otsu thresholding on freshly drawn particles")


def tell(best: dict[str, Any], comparison: dict[str, Any]) -> None:
    """The champion's table against the untuned base, and the pictures to look at."""
    if best["trial"] == 0:
        print("\nthe rule of `best` keeps the untuned base; the highest-scoring other trial stands beside it")
    report = comparison["paths"].get("report")
    if report:
        print(f"\n{Path(report).read_text(encoding='utf-8').rstrip()}")
    pictures = sorted((OUT / "masks" / "overlays").glob("*.png"))
    if not pictures:
        raise DemoFailed("no overlays were written")
    print("\nworth looking at:")
    for path in [OUT / "masks" / "overview.png", *pictures[:3], OUT / "synthetic" / "pairs.png"]:
        print(f"  {path}")


def main() -> int:
    """Exit code: 0 if every step and every limit held."""
    os.chdir(ROOT)
    if OUT.exists() and not MARK.exists() and any(OUT.iterdir()):
        print(f"{OUT} holds files that are not the demo's: move them away first", file=sys.stderr)
        return 2
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    MARK.touch()
    demo, start = Demo(), time.monotonic()
    demo.memory.start()
    failure = None
    try:
        walk(demo)
    except DemoFailed as error:
        failure = str(error)
    except KeyboardInterrupt:
        failure = "interrupted"
    demo.memory.stop()
    took = time.monotonic() - start
    print("\nseconds: " + ", ".join(f"{name} {seconds:.0f}" for name, seconds in demo.seconds))
    print(
        f"time: {took:.0f} s of at most {TIME_LIMIT_S} s"
        + (" (over: is the machine busy?)" if took > TIME_LIMIT_S else "")
    )
    peak = f"{demo.memory.peak / 1e9:.2f} GB of at most {MEMORY_LIMIT_BYTES / 1e9:.0f} GB, during {demo.memory.at}"
    print(f"memory (proportional set size of all processes): {peak}")
    if failure is None and demo.memory.peak > MEMORY_LIMIT_BYTES:
        failure = "the processes took too much memory"
    print(f"demo {'failed: ' + failure if failure else 'done: ' + str(OUT)}")
    return 1 if failure else 0


if __name__ == "__main__":
    sys.exit(main())
