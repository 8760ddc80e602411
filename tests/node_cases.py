"""A Ray cluster of nodes that are processes of `ray start`, with disks and an environment of their own where wanted."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

RAY = str(Path(sys.executable).with_name("ray"))

BREAKS = """
import sys


class Missing:
    def find_spec(self, name, path=None, target=None):
        if name == MODULE:
            raise ImportError("libsage.so.1: cannot open shared object file")
        return None


sys.meta_path.insert(0, Missing())
"""
"""What a node's interpreter runs first: one library of it is broken."""


class ClusterOfProcesses:
    """The cluster while it is there. `environment` is that of every node and of the drivers that tests start."""

    def __init__(self, temp: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self.temp = temp
        self.nodes: list[subprocess.Popen[bytes]] = []

    def head(self, cpus: int, *words: str, **environment: str) -> None:
        """Start the head node and wait until it answers."""
        start = ["--head", f"--port={self.port}", "--include-dashboard=false", f"--temp-dir={self.temp}"]
        process = self._start([*start, f"--num-cpus={cpus}", *words], environment)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            assert process.poll() is None, "the head node ended"
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.2)
        pytest.fail("the head node did not start")

    def add(self, cpus: int, *, own_disk: Path | None = None, **environment: str) -> subprocess.Popen[bytes]:
        """Start a node; `own_disk` is a folder at which it has another disk than the other nodes."""
        words = [f"--address={self.address}", f"--num-cpus={cpus}"]
        return self._start(words, environment, own_disk)

    def _start(
        self, words: list[str], environment: Mapping[str, str], own_disk: Path | None = None
    ) -> subprocess.Popen[bytes]:
        command = [RAY, "start", "--block", "--disable-usage-stats", *words]
        if own_disk is not None:
            mount = f'mount -t tmpfs none "{own_disk}" && exec "$@"'
            command = ["unshare", "--mount", "sh", "-c", mount, "node", *command]
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.nodes.append(process)
        return process

    def end(self, node: subprocess.Popen[bytes]) -> None:
        """End a node and all that runs on it."""
        self.nodes.remove(node)
        family = [psutil.Process(node.pid), *psutil.Process(node.pid).children(recursive=True)]
        node.send_signal(signal.SIGKILL)
        for process in reversed(family):
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        node.wait(timeout=30)

    def wait_for(self, count: int) -> None:
        """Wait until so many nodes are in the cluster, asked in a process of its own."""
        ask = (
            "import sys, time, ray; ray.init(address=sys.argv[1], log_to_driver=False)\n"
            "while sum(n['Alive'] for n in ray.nodes()) != int(sys.argv[2]): time.sleep(0.2)"
        )
        subprocess.run([sys.executable, "-c", ask, self.address, str(count)], check=True, timeout=180)


@contextmanager
def cluster_of_processes(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: Any) -> Iterator[ClusterOfProcesses]:
    """A cluster without nodes yet; `RAY_ADDRESS` is its own."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    temp = Path("/tmp") / f"sage-{os.getpid()}-{time.time_ns() % 10**6}"  # sockets in it need a short path
    made = ClusterOfProcesses(temp)
    monkeypatch.setenv("RAY_ADDRESS", made.address)
    try:
        yield made
    finally:
        for node in reversed(made.nodes[:]):
            made.end(node)
        shutil.rmtree(temp, ignore_errors=True)
