"""sage_ray in a real kernel: a sweep that is interrupted there and gone on with, and the tutorial from end to end."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Empty
from typing import Any

import jupytext
import pytest
from emps_cases import EMPS_FACTS
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell
from tiny_cases import SMALLEST

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1200)]

REPO = Path(__file__).resolve().parents[2]
TUTORIAL = REPO / "docs" / "tutorial" / "first_study.py"
PATIENCE_S = 400


class Kernel:
    """A kernel, and what it says of a cell."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self._manager, self._client = manager, client

    def run(self, code: str, *, interrupt_at: str | None = None) -> list[dict[str, Any]]:
        """Messages of a cell: type and content; the kernel is interrupted once one matches `interrupt_at`."""
        asked, end = self._client.execute(code), time.monotonic() + PATIENCE_S
        found: list[dict[str, Any]] = []
        while time.monotonic() < end:
            try:
                message = self._client.get_iopub_msg(timeout=1)
            except Empty:
                continue
            if message["parent_header"].get("msg_id") != asked:
                continue
            content = message["content"]
            if content.get("execution_state") == "idle":
                return found
            found.append({"type": message["msg_type"], **content})
            if interrupt_at is not None and re.search(interrupt_at, json.dumps(content)):
                interrupt_at = None
                self._manager.interrupt_kernel()
        raise TimeoutError(f"no end of: {code}; it said {found}")


def environment() -> dict[str, str]:
    """Without the backend of the tests, with which a notebook would draw nothing."""
    return {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(tmp_path), env=environment())
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=PATIENCE_S)
        yield Kernel(manager, client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel()


def text_of(messages: list[dict[str, Any]]) -> str:
    return "".join(message["text"] for message in messages if message["type"] == "stream")


def test_a_sweep_in_a_kernel_is_seen_interrupted_and_gone_on_with(kernel: Kernel) -> None:
    own = {"pretrain.epochs": 1, "adversarial.epochs": 60, "runtime.pictures": False}
    sets = {**SMALLEST, **own, "trials": 1, "concurrency": 1, "scheduler": {"name": "fifo"}}
    call = f"sage_ray.sweep('search_tiny', 'home', name='first', sets={sets!r})"
    kernel.run("import sage_ray")
    refused = kernel.run("sage_ray.sweep('search_tniy', 'home')")[-1]
    assert refused["type"] == "error" and refused["ename"] == "UserError" and len(refused["traceback"]) == 1

    stopped = kernel.run(call, interrupt_at=r" [1-9]\d*/61 ")
    shown = [message for message in stopped if message["type"] in ("display_data", "update_display_data")]
    places = {message["transient"]["display_id"] for message in shown}
    assert len(shown) > 1 and len(places) == 1, "the table changes in place"
    assert shown[0]["type"] == "display_data" and {m["type"] for m in shown[1:]} == {"update_display_data"}
    assert shown[-1]["data"]["text/plain"].startswith("trial") and "<pre" in shown[-1]["data"]["text/html"]
    assert "trials on CPU" in text_of(stopped)
    error = stopped[-1]
    assert error["ename"] == "Interrupted" and len(error["traceback"]) == 1, error
    assert error["evalue"] == "what was trained is kept; go on with: sage_ray.resume('first', 'home')"

    assert kernel.run("1 + 1")[-1]["data"]["text/plain"] == "2", "the kernel stays usable"
    again = kernel.run("study = sage_ray.resume('first', 'home')\nstudy")
    table = again[-1]["data"]["text/html"]
    assert "first finished: 1 of 1 trials complete" in table and "adversarial.lambda_cycle" in table
    assert "going on with 1 unfinished trials" in text_of(again)
    answer = kernel.run(
        "print(study.frame().epochs[0], sage_ray.status(study.trials[0].runs[0].run_id, 'home').attempt)"
    )
    assert text_of(answer).split() == ["61", "2"]


ANSWERS = """
import json
print(json.dumps({
    "pairs": len(checked.facts), "states": study.frame()["state"].tolist(), "best": best.trial,
    "reused": [sage_ray.status(one.runs[0].run_id, HOME).reused_epochs for one in study.trials],
    "seeds": final.frame()["seed"].tolist(), "dice": final.frame()["dice"].tolist(), "version": final.version,
    "reads": [one.test_reads for one in final.runs], "painted": int(images["painted"].sum()),
    "images": len(images), "found": prediction.particles, "rows": len(particles),
    "diameter": float(particles["equivalent_diameter_px"].median()),
}))
"""


def test_the_tutorial_runs_from_the_data_to_particle_sizes() -> None:
    book = jupytext.read(TUTORIAL, fmt="py:percent")
    book.cells.append(new_code_cell(ANSWERS))
    client = NotebookClient(book, timeout=600, kernel_name="python3")
    client.execute(cwd=str(TUTORIAL.parent), env=environment())
    outputs = [out for cell in book.cells for out in cell.get("outputs", [])]
    found = json.loads(outputs[-1].text.splitlines()[-1])
    assert found["pairs"] == found["images"] == 12 and found["painted"] == EMPS_FACTS["716d7ae672ea81c7"].objects
    assert found["states"] == ["COMPLETE"] * 3 and found["best"] in (0, 1, 2)
    assert found["reused"] == [58, 50, 50], "phase 1 was trained once, and the first trial is the training before"
    assert found["seeds"] == ["0", "1", "all"] and found["version"] == 1 and found["reads"] == [1, 1]
    assert all(0.1 < dice < 1 for dice in found["dice"])
    assert found["found"] == found["rows"] > 12 and 4 < found["diameter"] < 300
    pictures = [out for out in outputs if "image/png" in out.get("data", {})]
    tables = [out for out in outputs if "<table" in out.get("data", {}).get("text/html", "")]
    assert len(pictures) == 3 and len(tables) >= 9


def test_the_page_of_the_tutorial_belongs_to_the_notebook() -> None:
    command = [sys.executable, "scripts/make_tutorial.py", "--check"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = TUTORIAL.with_suffix("")
    files = [TUTORIAL.with_suffix(".md"), *folder.iterdir()]
    assert sum(file.stat().st_size for file in files) < 600_000
    text = files[0].read_text(encoding="utf-8")
    assert all(f"({folder.name}/{file.name})" in text for file in files[1:]) and "/tmp/tmp" not in text
