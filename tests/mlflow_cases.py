"""Runs that were never trained and what MLflow has of them; a real server, and one that accepts and never answers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sage_ray.config import ExperimentConfig
from sage_ray.record import mlflow_client
from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder
from sage_ray.record.run_record import RunLabels

START_S = 120.0
CONFIG = ExperimentConfig().with_values({"pretrain.epochs": 2, "adversarial.epochs": 3})


def make(home: Home, run_id: str = "run-1", epochs: int = 3, **labels: Any) -> RunFolder:
    home.check_writable()
    folder = RunFolder.create(home.runs, run_id, CONFIG, RunLabels(**labels))
    for epoch in range(1, epochs + 1):
        folder.append_metrics({"epoch": epoch, "phase": "pretrain", "val/dice": epoch / 10, "lr": 1e-4})
    return folder


def finish(folder: RunFolder, state: Any = "COMPLETE") -> None:
    (folder.artifacts / "pictures").mkdir(exist_ok=True)
    (folder.artifacts / "pictures" / "curves.png").write_bytes(b"picture")
    folder.model.mkdir(exist_ok=True)
    (folder.model / "segmenter.safetensors").write_bytes(b"weights")
    folder.set_state(state, epoch=3, selected_epoch=2, selected_metrics={"val/dice": 0.2}, commit="c" * 40, dirty=True)


def client(home: Home) -> Any:
    return mlflow_client.connect(home)


def runs(home: Home) -> list[Any]:
    c = client(home)
    return list(c.search_runs([mlflow_client.experiment_id(c, home)]))


def the_run(home: Home, run_id: str = "run-1") -> Any:
    (found,) = [run for run in runs(home) if run.data.tags.get("sage.run_id") == run_id]
    return found


def history(home: Home, run: Any, key: str) -> list[tuple[int, float]]:
    return sorted((m.step, m.value) for m in client(home).get_metric_history(run.info.run_id, key))


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def start(uri: str, folder: Path) -> subprocess.Popen[bytes]:
    """A real `mlflow server` at `uri` that keeps all it has in `folder`; it listens when this returns."""
    port = int(uri.rsplit(":", 1)[1])
    words = server_words("127.0.0.1", port, f"sqlite:///{folder}/server.db", f"{folder}/served")
    process = subprocess.Popen(
        words, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    await_server(process, answers)
    return process


def server_words(host: str, port: int, backend: str, artifacts: str) -> list[str]:
    """The command of a server of one worker."""
    words = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port), "--workers", "1"]
    return [*words, "--backend-store-uri", backend, "--artifacts-destination", artifacts]


def await_server(process: subprocess.Popen[Any], answers: Callable[[], bool]) -> None:
    """Return when it answers; if it ends before, or takes too long, it is ended and the test fails."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        if answers():
            return
        time.sleep(0.2)
    stop(process)
    raise AssertionError("mlflow server did not start")


def stop(process: subprocess.Popen[Any]) -> None:
    """End a server that `start` has started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait(20)


@contextmanager
def silent_server() -> Iterator[str]:
    """URI of a server that accepts every connection and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        held: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    held.append(listener.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            for connection in held:
                connection.close()
    thread.join(5)
