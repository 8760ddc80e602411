"""What a worker's machine finds out about itself for the node check; it runs there."""

from __future__ import annotations

import hashlib
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sage_ray.record.mlflow_client import MirrorUnavailable, probe
from sage_ray.runtime.home_signs import answer_signs
from sage_ray.runtime.surroundings import Surroundings


@dataclass(frozen=True)
class NodeQuestion:
    """What is asked of a node.

    Attributes:
        token, places, wait_s: of the signs in shared folders.
        listings: files that trials read, by path: what `listing` of it is for the driver.
        surroundings: what travels with every trial.
        gpu: whether the node's GPUs are to be tried.
    """

    token: str
    places: Mapping[str, str]
    wait_s: float
    listings: Mapping[str, str]
    surroundings: Surroundings
    gpu: bool


@dataclass(frozen=True)
class NodeAnswer:
    """What a node says: what is wrong there, by kind (home, data, cuda, mlflow, host, files), and facts."""

    wrong: dict[str, str]
    commit: str | None
    cuda_devices: int
    ended_at: float
    """Unix time by the node's clock at the end of the answer."""
    facts: dict[str, str] = field(default_factory=dict)


def examine_node(question: NodeQuestion, node_id: str) -> NodeAnswer:
    """Answer the question on this machine; bounded in time."""
    from sage_ray.record.provenance import code_version

    question.surroundings.take_on()
    wrong: dict[str, str] = {}
    signs = answer_signs(question.places, question.token, node_id, question.wait_s)
    if signs is not None:
        wrong["home"] = signs
    for path, expected in question.listings.items():
        found = listing(path)
        if found != expected:
            wrong["data"] = f"{path} has {found}, for the driver {expected}"
            break
    missing = question.surroundings.missing_files()
    if missing:
        wrong["files"] = f"no such file here: {', '.join(missing)}"
    devices, cuda = _cuda(question.gpu)
    if cuda is not None:
        wrong["cuda"] = cuda
    for kind, found_wrong in (("mlflow", _mlflow()), ("host", _host())):
        if found_wrong is not None:
            wrong[kind] = found_wrong
    return NodeAnswer(wrong, code_version()[0], devices, time.time())


def listing(path: str) -> str:
    """A folder or file in a few words that differ when number, names or sizes of files differ; nothing is read.

    Of a folder with images/ only what lies in its subfolders counts, which is what is trained on.
    """
    root = Path(path).expanduser()
    if root.is_file():
        return f"a file of {root.stat().st_size} bytes"
    if not root.is_dir():
        return "nothing"
    sizes = []
    try:
        for folder in sorted(entry for entry in root.iterdir() if entry.is_dir()):
            with os.scandir(folder) as entries:
                sizes += [(folder.name, e.name, e.stat().st_size) for e in entries if e.is_file()]
    except OSError as error:
        return f"nothing that can be read ({error.strerror})"
    digest = hashlib.sha256(repr(sorted(sizes)).encode()).hexdigest()[:8]
    return f"{len(sizes)} files (names and sizes {digest})"


def _cuda(needed: bool) -> tuple[int, str | None]:
    """GPUs that torch sees here, and what is wrong with them where they are needed: a tiny kernel runs on each."""
    import torch

    if not needed:
        return torch.cuda.device_count(), None
    if not torch.cuda.is_available():
        return 0, "torch sees no CUDA device"
    try:
        for index in range(torch.cuda.device_count()):
            torch.ones(2, device=f"cuda:{index}").sum().item()
    except RuntimeError as error:
        busy = "busy or unavailable" in str(error)  # one process per GPU is allowed, and another trial has it
        return torch.cuda.device_count(), None if busy else _first_line(error)
    return torch.cuda.device_count(), None


def _mlflow() -> str | None:
    try:
        probe(os.environ["MLFLOW_TRACKING_URI"])
    except MirrorUnavailable as error:
        return f"MLflow does not answer: {error}"
    return None


def _host() -> str | None:
    """Whether this machine's own name leads to itself alone, which Gloo then tells the other workers."""
    name = socket.gethostname()
    try:
        address = socket.gethostbyname(name)
    except OSError:
        return f"host name {name} does not resolve"
    return f"host name {name} resolves to {address}" if address.startswith("127.") else None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
