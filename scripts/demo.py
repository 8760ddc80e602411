"""The whole path on drawn particles, as a user would walk it: every step is a `sage-ray` command, shown as it runs.

Into ./demo_runs (made anew each time): a folder of micrographs, a search, final trainings of the untuned base and of
the best configuration, their comparison on the locked test, a champion, its scores beside Otsu thresholding on fresh
particles, masks and synthetic pairs. Every command runs in a terminal: this one if there is one, so that the live table
is seen; else one that is drawn nowhere, of which the lines that would be left on it are printed. Ends with exit code 1
if a step fails, the generator never trained, the champion does not beat Otsu, or the processes took more than 5 GB
together.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import shlex
import shutil
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import psutil
import pyte

ROOT = Path(__file__).resolve().parents[1]
OUT = Path("demo_runs")
MARK = OUT / ".sage-demo"
HOME = OUT / "home"
MODEL = "models:/sage-gan@champion"
MEMORY_LIMIT_BYTES = 5_000_000_000
TIME_LIMIT_S = 300
STEP_TIMEOUT_S, GRACE_S = 900, 60
STEPS = 14
WIDE = (400, 24)
"""Columns and rows of the terminal that nobody sees: no line of an answer is longer."""
UNSAID = (b'{"verb"', b"next: ", b"  or: ", b"study: ", b"runs: ", b"model: ", b"out: ", b"per_image: ")
"""How lines begin that are for a script, name a next step where the demo takes it, or a place: its end names places."""
CONTROL = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")
LEADING = re.compile(rb"(?:\r|\x1b\[[0-9;?]*[A-Za-z])*")

BEGINNING = f"""\
sage-ray from a folder of images to a model that can be trusted, in {STEPS} commands, about 5 minutes on 2 cores:
64 drawn micrographs; a search of 6 configurations; final trainings of the untuned base and of the best one, two seeds
each; their comparison on locked test images; the champion's scores, masks and synthetic images on fresh particles.
All of it goes into {OUT} and can be removed with it. Ctrl-C ends it at any time."""


class DemoFailed(Exception):
    """A step did not end as it should."""


class MemoryWatch(threading.Thread):
    """Samples the proportional set size of this process and all its descendants; `peak` is in bytes."""

    def __init__(self, every_s: float = 2.0) -> None:
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


class Window(Protocol):
    """Where what a command writes to its terminal is shown."""

    def size(self) -> tuple[int, int]:
        """Columns and rows that the command has."""

    def show(self, data: bytes) -> None:
        """Show more of it."""

    def close(self) -> None:
        """The command has ended."""


class ThisTerminal:
    """The terminal that the demo runs in: all is handed on as it is."""

    def size(self) -> tuple[int, int]:
        columns, rows = os.get_terminal_size(sys.stdout.fileno())
        return columns or 80, rows or 24

    def show(self, data: bytes) -> None:
        sys.stdout.buffer.write(data)
        sys.stdout.flush()

    def close(self) -> None:
        """Nothing was kept back."""


class UnseenTerminal:
    """For a pipe or a file: at the end of a command, the lines that it would leave on a terminal."""

    def __init__(self) -> None:
        self._screen = pyte.HistoryScreen(*WIDE, history=10_000)
        self._stream = pyte.ByteStream(self._screen)

    def size(self) -> tuple[int, int]:
        return WIDE

    def show(self, data: bytes) -> None:
        self._stream.feed(data)

    def close(self) -> None:
        above = ["".join(row[x].data for x in range(WIDE[0])) for row in self._screen.history.top]
        text = "\n".join(line.rstrip() for line in (*above, *self._screen.display))
        print("\n".join(f"  {line}" for line in text.rstrip().splitlines()), flush=True)


class Sieve:
    """Lets through what a command writes, as it comes, without the lines of UNSAID; keeps the JSON among these.

    Args:
        only: how the lines begin that are let through; "" for all but UNSAID.
    """

    def __init__(self, only: str = "") -> None:
        self.answer: dict[str, Any] = {}
        self._only = only.encode()
        self._held, self._within_line = b"", False

    def __call__(self, data: bytes) -> bytes:
        passed, rest = b"", self._held + data
        while rest:
            if not self._within_line:
                control = LEADING.match(rest)
                assert control is not None
                passed, rest = passed + control[0], rest[control.end() :]
                if self._undecided(rest):
                    break
                if self._unsaid(rest):
                    line, _, rest = rest.partition(b"\n")
                    self._note(line)
                    continue
            line, end, rest = rest.partition(b"\n")
            passed, self._within_line = passed + line + end, not end
        self._held = rest
        return passed

    def end(self) -> bytes:
        """What was still held back when the command ended."""
        held, self._held = self._held, b""
        self._note(held)
        return b"" if self._unsaid(held) else held

    def _undecided(self, rest: bytes) -> bool:
        if not rest or b"\x1b[".startswith(rest[:2]) and not CONTROL.match(rest):
            return True
        waits = self._unsaid(rest) or any(sign.startswith(rest) for sign in (*UNSAID, self._only))
        return waits and b"\n" not in rest

    def _unsaid(self, line: bytes) -> bool:
        return line.startswith(UNSAID) or not line.startswith(self._only)

    def _note(self, line: bytes) -> None:
        if line.startswith(UNSAID[0]):
            self.answer = dict(json.loads(line))


class Demo:
    """Runs the commands and remembers how long each took."""

    def __init__(self) -> None:
        self.memory = MemoryWatch()
        self.seconds: list[tuple[str, float]] = []

    def sage(self, command: str, only: str = "") -> dict[str, Any]:
        """Run `sage-ray COMMAND` in a terminal, show what it says there, return its JSON.

        Args:
            command: words after `sage-ray`.
            only: how the lines begin that are shown; "" for all.

        Raises:
            DemoFailed: it does not end with 0.
        """
        words = shlex.split(command)
        print(f"[{len(self.seconds) + 1}/{STEPS}] sage-ray {command}", flush=True)
        self.memory.step = " ".join(words[:2])
        start = time.monotonic()
        sieve = Sieve(only)
        code = run_in(ThisTerminal() if sys.stdout.isatty() else UnseenTerminal(), words, sieve)
        self.seconds.append((self.memory.step, time.monotonic() - start))
        if code or not sieve.answer.get("ok"):
            late = f" after {STEP_TIMEOUT_S} s, its limit" if self.seconds[-1][1] >= STEP_TIMEOUT_S else ""
            raise DemoFailed(f"`sage-ray {command}` ended with {code}{late}")
        return sieve.answer


def run_in(window: Window, words: list[str], sieve: Sieve) -> int:
    """Exit code of `sage-ray WORDS --json`, run in a pseudo-terminal whose content is shown in the window."""
    environment = os.environ | {"SAGE_HOME": str(HOME), "PYTHONUNBUFFERED": "1"}
    if isinstance(window, UnseenTerminal):
        environment["TERM"] = "xterm-256color"
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "RAY_ADDRESS", "COLUMNS", "LINES"):
        environment.pop(name, None)
    main, side = pty.openpty()
    command = [sys.executable, "-m", "sage_ray", *words, "--json"]
    deadline, late = time.monotonic() + STEP_TIMEOUT_S, False
    # The command stays in the demo's process group, so that Ctrl-C reaches both.
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=side, stderr=side, env=environment) as process:
        try:
            for data in written(process, main, side, window):
                window.show(sieve(data))
                if time.monotonic() > deadline:
                    # As Ctrl-C: a study ends its trials and its Ray. The next time is for a command that does not.
                    (process.kill if late else process.terminate)()
                    late, deadline = True, deadline + GRACE_S
        except KeyboardInterrupt:
            for data in written(process, main, side, window):
                window.show(sieve(data))
            raise
        finally:
            window.show(sieve.end())
            window.close()
            os.close(main)
            os.close(side)
    return process.returncode


def written(process: subprocess.Popen[bytes], main: int, side: int, window: Window) -> Iterator[bytes]:
    """What a command writes to its terminal, until it has ended; the terminal follows the window's size."""
    size = (0, 0)
    while True:
        if window.size() != size:
            size = window.size()
            fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
        ended = process.poll() is not None
        ready, _, _ = select.select([main], [], [], 0.0 if ended else 0.1)
        if ready:
            yield os.read(main, 65536)
        elif ended:
            return
        else:
            yield b""


def walk(demo: Demo) -> None:
    """The steps, one per line."""
    data, fresh = OUT / "data", OUT / "fresh"
    demo.sage(f"data synth {data} --num 64 --size 64 --seed 0")
    demo.sage(f"data check {data}")
    # A longer phase 1, which all trials share, and averaged weights: enough to learn dark particles beside bright ones.
    # A shorter phase 2, which costs five times as much per epoch: five minutes are for all of it.
    epochs = "--set pretrain.epochs=18 --set adversarial.epochs=13"
    chosen = f"search_tiny --name demo --set data.path={data} {epochs} --set evaluation.ema_decay=0.9"
    demo.sage(f"plan {chosen}")
    demo.sage(f"sweep {chosen}")
    best = demo.sage("best demo")
    base_final = demo.sage("final demo --trial base --seeds 0,1")
    # Where the rule keeps the untuned base, the highest-scoring other trial is the one to hold against it.
    rival = best["trial"] or next((row["trial"] for row in best["runner_ups"]), 0)
    best_final = demo.sage(f"final demo --trial {rival} --seeds 0,1")
    demo.sage("compare")
    demo.sage("promote")
    demo.sage(f"data synth {fresh} --num 24 --size 64 --seed 1000")
    scores = demo.sage(f"evaluate {MODEL} {fresh}")
    demo.sage(f"predict {MODEL} {fresh / 'images'} -o {OUT / 'masks'} --nm-per-pixel 2")
    demo.sage(f"generate {MODEL} {fresh / 'masks'} -o {OUT / 'synthetic'} --seed 0")
    demo.sage("report demo", only="html: ")
    check_training([*base_final["runs"], *best_final["runs"]])
    check_scores(scores)


def check_training(runs: list[dict[str, Any]]) -> None:
    """Raises DemoFailed unless the generator of every final run really trained."""
    for run in runs:
        if not run["generator_updates"] or not run["synthetic_steps"]:
            raise DemoFailed(f"the generator of {run['run_id']} did not train")


def check_scores(scores: dict[str, Any]) -> None:
    """Raises DemoFailed unless the champion beats Otsu thresholding on the fresh particles."""
    if scores["scores"]["dice"]["mean"] <= scores["baseline"]["dice"]["mean"]:
        raise DemoFailed("the champion does not beat Otsu thresholding on freshly drawn particles")


def where_to_look() -> str:
    """The last line. Raises DemoFailed if what it names was not made."""
    places = [OUT / "masks" / "overview.png", OUT / "synthetic" / "pairs.png", HOME / "reports" / "study-demo.html"]
    missing = [str(place) for place in places if not place.is_file()]
    if missing:
        raise DemoFailed(f"not written: {', '.join(missing)}")
    return "demo done; look at {}, {} and {}".format(*places)


def main() -> int:
    """Exit code: 0 if every step and every limit held."""
    os.chdir(ROOT)
    if OUT.exists() and not MARK.exists() and any(OUT.iterdir()):
        print(f"{OUT} holds files that are not the demo's: move them away first", file=sys.stderr)
        return 2
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    MARK.touch()
    print(BEGINNING, flush=True)
    demo, start = Demo(), time.monotonic()
    demo.memory.start()
    failure, last = None, ""
    try:
        walk(demo)
        last = where_to_look()
    except DemoFailed as error:
        failure = str(error)
    except KeyboardInterrupt:
        failure = "interrupted"
    demo.memory.stop()
    took = time.monotonic() - start
    print("seconds: " + ", ".join(f"{name} {seconds:.0f}" for name, seconds in demo.seconds))
    late = " (over: is the machine busy?)" if took > TIME_LIMIT_S else ""
    print(
        f"{took:.0f} s of at most {TIME_LIMIT_S} s{late}; {demo.memory.peak / 1e9:.2f} GB of at most "
        f"{MEMORY_LIMIT_BYTES / 1e9:.0f} GB of memory for all processes, during {demo.memory.at}"
    )
    if failure is None and demo.memory.peak > MEMORY_LIMIT_BYTES:
        failure = "the processes took too much memory"
    print(f"demo failed: {failure}" if failure else last)
    return 1 if failure else 0


if __name__ == "__main__":
    sys.exit(main())
