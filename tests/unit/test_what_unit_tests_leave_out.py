"""Tests of this folder train nothing and start neither a process, nor a server, nor Ray: they take seconds in all."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent
INSTEAD = "move the test to tests/integration"

MODULES = {
    "subprocess",
    "multiprocessing",
    "concurrent.futures.process",
    "socketserver",
    "http.server",
    "mlflow",
}
"""Modules that a unit test does not import."""
NAMES = {
    # Training, by whatever door.
    *("sage_ray.runtime.launch.run", "run_training"),
    # Ray; its classes alone may be named.
    *("ray.init", "ray.remote", "ray.get", "TorchTrainer", "Tuner", "pytest.mark.ray"),
    # Processes and servers.
    *("socket.socket", "socket.create_server", "os.fork", "os.system", "os.posix_spawn", "ProcessPoolExecutor"),
    # Helpers of tests that start a process.
    *("terminals.Terminal", "analysis_cases.run_script"),
}
"""Names that a unit test does not use: whole dotted names as they are imported or written, or the last word alone."""


def breaches(source: str) -> list[str]:
    """What a test's source uses that belongs to an integration test."""
    tree = ast.parse(source)
    origin: dict[str, str] = {}
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if _barred_module(alias.name)}
            origin |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name for name in whole if _barred_module(name) or _barred_name(name)}
            origin |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            first, *rest = ast.unparse(node).split(".")
            name = ".".join([origin.get(first, first), *rest])
            found |= {name} if _barred_name(name) else set()
    return sorted(found)


def _barred_module(name: str) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in MODULES)


def _barred_name(name: str) -> bool:
    return name in NAMES or name.rsplit(".", 1)[-1] in NAMES


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.py")), ids=lambda path: str(path.relative_to(FOLDER)))
def test_no_training_no_server_no_process_no_ray(path: Path) -> None:
    assert not breaches(path.read_text(encoding="utf-8")), INSTEAD


@pytest.mark.parametrize(
    ("source", "seen"),
    [
        ("import subprocess", ["subprocess"]),
        ("def test():\n    from multiprocessing import Pool", ["multiprocessing.Pool"]),
        ("import ray\nray.init()", ["ray.init"]),
        ("from ray.tune import Tuner", ["ray.tune.Tuner"]),
        ("from http.server import HTTPServer", ["http.server.HTTPServer"]),
        ("import socket\nsocket.create_server(('', 0))", ["socket.create_server"]),
        ("from sage_ray.runtime.launch import run", ["sage_ray.runtime.launch.run"]),
        ("from sage_ray.runtime import launch\nlaunch.run(1)", ["sage_ray.runtime.launch.run"]),
        ("from sage_ray.training.loop import run_training", ["sage_ray.training.loop.run_training"]),
        ("from terminals import ROW, Terminal", ["terminals.Terminal"]),
        ("import pytest\n@pytest.mark.ray\ndef test(): ...", ["pytest.mark.ray"]),
    ],
)
def test_a_bad_example_is_seen(source: str, seen: list[str]) -> None:
    assert breaches(source) == seen


@pytest.mark.parametrize(
    "source",
    [
        "from sage_ray.runtime.launch import RunLabels",
        "from terminals import Emulator",
        "from ray.tune.search import Searcher",
        "import socket\nsocket.gethostname()",
        "TEXT = 'import subprocess'",
        "from sage_ray.training.loop import epochs_left",
    ],
)
def test_a_good_twin_passes(source: str) -> None:
    assert not breaches(source)
