"""Steps and memory of several processes that train one config at the same time on one device, measured."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from sage_ray.config import ExperimentConfig
from sage_ray.search.device_memory import DeviceMemory, device_memory, give_back_memory, process_memory
from sage_ray.search.epoch_cost import kinds_of
from sage_ray.training.context import choose_device

WINDOW_S = 3.0
"""Seconds of steps of each kind of epoch that are counted; at least one step is."""
START_LIMIT_S = 120.0
"""Longest time that processes may take to start, beside what they train."""
END_S = 5.0
"""How long a process that was killed is waited for."""

_Answer = tuple[int, dict[str, Any] | None]
"""Number of a process, and what it answered; None: it has ended."""


@dataclass(frozen=True)
class SideBySide:
    """What several processes did that trained the same config at the same time on one device.

    Attributes:
        count: of processes.
        steps_per_s: of all of them together, by kind of epoch; {} where they could not be measured.
        process_bytes: the most memory of the device that one process took, its CUDA context included.
        context_bytes: of that, what a process takes beside torch's allocator (on a GPU its CUDA context).
        others_bytes: memory of the device that other programs had taken before.
        device_bytes: memory of the device, all of it.
        problem: why it could not be measured, in words; None if it was.
        out_of_memory: whether a process had no memory left.
    """

    count: int
    steps_per_s: Mapping[str, float] = field(default_factory=dict)
    process_bytes: int = 0
    context_bytes: int = 0
    others_bytes: int = 0
    device_bytes: int = 0
    problem: str | None = None
    out_of_memory: bool = False

    @property
    def total_bytes(self) -> int:
        """Memory that all processes take together if each is at its peak."""
        return self.count * self.process_bytes


class _NotMeasured(Exception):
    """The processes cannot be measured: why, and whether memory ran out."""

    def __init__(self, problem: str, *, out_of_memory: bool = False) -> None:
        super().__init__(problem)
        self.out_of_memory = out_of_memory


def measure_side_by_side(
    config: ExperimentConfig, count: int, cache: Path, *, limit_s: float, window_s: float
) -> SideBySide:
    """Steps per second and memory of `count` processes that train a config at the same time on its device.

    Each process is a new one, builds what a run builds, and takes some steps of each kind of epoch that do not count;
    then all begin together, and go on until the slowest has been measured. None of them is left when this returns or
    raises, whatever becomes of it.

    Args:
        config: its runtime is resolved; one worker.
        count: of processes.
        cache: has the prepared data.
        limit_s: after that many seconds the processes are ended, and a problem is returned.
        window_s: seconds of steps of each kind of epoch that are counted.
    """
    device = choose_device(config.runtime.device)
    give_back_memory(device)
    before, own = device_memory(device), process_memory(device).held_bytes
    request = {"config": config.model_dump(mode="json"), "cache": str(cache), "window_s": window_s}
    try:
        with _Processes(request, count, limit_s) as processes:
            reports = [processes.measure(kind) for kind in kinds_of(config)]
    except _NotMeasured as stopped:
        return SideBySide(
            count, device_bytes=before.total_bytes, problem=str(stopped), out_of_memory=stopped.out_of_memory
        )
    on_gpu = device.type == "cuda"
    return _result(kinds_of(config), reports, before, own, on_gpu=on_gpu)


def _result(
    kinds: Sequence[str],
    reports: Sequence[Sequence[Mapping[str, Any]]],
    before: DeviceMemory,
    own: int,
    *,
    on_gpu: bool,
) -> SideBySide:
    """What was measured.

    Args:
        kinds: of epochs.
        reports: for each of them, what each process has measured.
        before: memory of the device before there were the processes.
        own: bytes that this process's allocator had of that.
        on_gpu: whether a process takes more than it knows of, for its context.
    """
    context = context_bytes(before, reports) if on_gpu else 0
    # This process took steps on the GPU too, so its own context is part of what was taken before. It will be gone when
    # the study trains, and is no memory of other programs.
    return SideBySide(
        count=len(reports[0]),
        steps_per_s={
            kind: sum(each["steps"] / each["seconds"] for each in report)
            for kind, report in zip(kinds, reports, strict=True)
        },
        process_bytes=max(each["peak_bytes"] for report in reports for each in report) + context,
        context_bytes=context,
        others_bytes=max(before.taken_bytes - own - context, 0),
        device_bytes=before.total_bytes,
    )


def context_bytes(before: DeviceMemory, reports: Sequence[Sequence[Mapping[str, Any]]]) -> int:
    """Memory of a GPU that a process takes beside torch's allocator: its CUDA context, with the kernels in it.

    torch does not count it. It is found from the whole GPU: what is taken there beyond what was taken before the
    processes began and beyond what their allocators hold, divided by their number. Each process reads it while all of
    them live; the largest number over all kinds of epochs is taken.
    """
    most = 0
    for report in reports:
        taken = max(int(each["device_taken_bytes"]) for each in report) - before.taken_bytes
        held = sum(int(each["held_bytes"]) for each in report)
        most = max(most, (taken - held) // len(report))
    return most


class _Processes:
    """Processes of `pilot_process`, killed by their ids at the end of the body at the latest."""

    def __init__(self, request: Mapping[str, Any], count: int, limit_s: float) -> None:
        self._request, self._count, self._limit_s = request, count, limit_s
        self._deadline = time.monotonic() + limit_s
        self._answers: queue.Queue[_Answer] = queue.Queue()
        self._started: list[subprocess.Popen[str]] = []
        self._errors: list[IO[str]] = []

    def __enter__(self) -> _Processes:
        try:
            for number in range(self._count):
                self._start(number)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def measure(self, kind: str) -> list[dict[str, Any]]:
        """What each process measures of a kind of epoch, all of them at the same time."""
        self._await("ready", kind)
        self._tell("go")
        found = self._await("measured", kind)
        self._tell("stop")
        return found

    def _start(self, number: int) -> None:
        errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._errors.append(errors)
        command = [sys.executable, "-m", "sage_ray.search.pilot_process"]
        # In a session of its own: Ctrl-C of the terminal reaches this process alone, which ends the others.
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )
        self._started.append(process)
        threading.Thread(target=self._listen, args=(number, process), daemon=True).start()
        self._write(process, json.dumps(self._request))

    def _listen(self, number: int, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        # A process that is killed in the middle of a line leaves no JSON.
        with process.stdout, contextlib.suppress(ValueError):
            for line in process.stdout:
                self._answers.put((number, json.loads(line)))
        self._answers.put((number, None))

    def _await(self, event: str, kind: str) -> list[dict[str, Any]]:
        """The answer of each process, once all of them have given it."""
        found: dict[int, dict[str, Any]] = {}
        while len(found) < self._count:
            try:
                number, answer = self._answers.get(timeout=max(self._deadline - time.monotonic(), 0.0))
            except queue.Empty:
                raise _NotMeasured(f"not done within {self._limit_s:.0f} s, and ended") from None
            if answer is None:
                raise self._has_ended(number)
            if answer["event"] == "failed":
                raise _NotMeasured(answer["problem"], out_of_memory=answer["out_of_memory"])
            assert (answer["event"], answer["kind"]) == (event, kind), answer
            found[number] = answer
        return [found[number] for number in range(self._count)]

    def _has_ended(self, number: int) -> _NotMeasured:
        """Why a process has ended that said nothing of it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._started[number].wait(END_S)
        code = self._started[number].returncode
        if code == -signal.SIGKILL:
            return _NotMeasured("a process was killed, as where a machine has no memory left", out_of_memory=True)
        self._errors[number].seek(0)
        said = [line.strip() for line in self._errors[number] if line.strip()]
        return _NotMeasured(f"a process ended with exit code {code}" + (f": {said[-1]}" if said else ""))

    def _tell(self, word: str) -> None:
        for process in self._started:
            self._write(process, word)

    def _write(self, process: subprocess.Popen[str], line: str) -> None:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended, which its end of stdout tells
            process.stdin.write(line + "\n")
            process.stdin.flush()

    def _end(self) -> None:
        for process in self._started:
            if process.poll() is None:
                # It leads a group of its own, with whatever it has started itself (compilers of kernels).
                with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: it has ended just now
                    os.killpg(process.pid, signal.SIGKILL)
        for process in self._started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_S)
            with contextlib.suppress(OSError):
                assert process.stdin is not None
                process.stdin.close()
        for errors in self._errors:
            errors.close()
