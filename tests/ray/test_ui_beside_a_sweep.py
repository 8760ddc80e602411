"""`sage-ray ui` beside a sweep that writes: both are asked all the time, and the sweep ends as if nobody looked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import psutil
import pytest
from browser_cases import look, needs_browser
from mlflow_cases import free_port
from sweep_cases import ended, start, write_space

from sage_ray.record.home import Home

pytestmark = pytest.mark.ray
LOOK_S, END_S = 0.1, 60.0
RUNS = json.dumps({"experiment_ids": ["1"], "max_results": 50})


class Ui:
    """The command on a home, what it has said, and the processes that it has started."""

    def __init__(self, home: Home) -> None:
        self.home = home
        command = [sys.executable, "-m", "sage_ray", "ui", "--home", str(home.path), "--json"]
        command += ["--mlflow-port", str(free_port()), "--optuna-port", str(free_port())]
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, start_new_session=True, env=os.environ, **pipes)
        lines = iter(self.process.stdout or ())
        self.said: dict[str, Any] = json.loads(next(line for line in lines if line.startswith("{")))
        self.family = psutil.Process(self.process.pid).children(recursive=True)

    def ask(self, name: str, path: str, body: str | None = None) -> Any:
        """The JSON that one of the two answers; fails unless it answers well."""
        host, port = self.said[name].removeprefix("http://").split(":")
        connection = HTTPConnection(host, int(port), timeout=60)
        headers = {"Content-Type": "application/json"} if body else {}
        connection.request("POST" if body else "GET", path, body, headers)
        response = connection.getresponse()
        text = response.read()
        assert response.status == 200, (path, response.status, text[:300])
        return json.loads(text)


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    home = Home(tmp_path_factory.mktemp("watched") / "home")
    home.check_writable()
    shown = Ui(home)
    yield shown
    for one in shown.family:
        if one.is_running():
            one.kill()
    shown.process.kill()
    shown.process.communicate()


class Onlooker(threading.Thread):
    """Asks for all studies, their trials and MLflow's runs, again and again."""

    def __init__(self, ui: Ui) -> None:
        super().__init__(daemon=True)
        self.ui, self.over, self.faults = ui, threading.Event(), list[str]()
        self.states: list[str] = []
        self.epochs_of_running = 0
        self.looks = 0

    def run(self) -> None:
        while not self.over.wait(LOOK_S):
            try:
                self._look()
            except (OSError, HTTPException, AssertionError, ValueError) as error:
                self.faults.append(repr(error))

    def _look(self) -> None:
        for study in self.ui.ask("optuna", "/api/studies")["study_summaries"]:
            trials = self.ui.ask("optuna", f"/api/studies/{study['study_id']}")["trials"]
            self.states = [trial["state"] for trial in trials]
            live = [len(trial["intermediate_values"]) for trial in trials if trial["state"] == "Running"]
            self.epochs_of_running = max([self.epochs_of_running, *live])
        self.ui.ask("mlflow", "/api/2.0/mlflow/runs/search", RUNS)
        self.looks += 1


def test_a_sweep_ends_as_if_nobody_looked_and_is_seen_while_it_runs(ui: Ui, tmp_path: Path) -> None:
    onlooker = Onlooker(ui)
    onlooker.start()
    # Long enough that a trial is seen between its epochs: the dashboard keeps what it has read for two seconds.
    base = {"adversarial.epochs": 16, "runtime.pictures": True}
    space = write_space(tmp_path, base=base, trials=2, concurrency=1)
    code, answer, lines = ended(start("sweep", str(space), "--home", str(ui.home.path), "--json"))
    time.sleep(3.0)  # the dashboard itself keeps trials for 2 s
    onlooker.over.set()
    onlooker.join(60)
    assert code == 0, (answer, lines)
    logs = "\n".join(log.read_text() for log in ui.home.runs.glob("*/log.txt"))
    assert "database is locked" not in lines + logs and "MLflow does not have" not in lines, lines
    assert onlooker.faults == [] and onlooker.looks > 5
    assert onlooker.states == ["Complete", "Complete"] and onlooker.epochs_of_running > 0
    first = ui.ask("optuna", "/api/studies/1")
    assert first["objective_names"] == ["val/dice"] and first["note"]["body"].startswith("Sweep **tiny**: 2 trials")
    assert {a["filename"].split()[1] for a in first["trials"][0]["artifacts"]} >= {"curves.png", "predictions.png"}
    names = {run["info"]["run_name"] for run in ui.ask("mlflow", "/api/2.0/mlflow/runs/search", RUNS)["runs"]}
    assert len(names) == 3


@needs_browser
def test_the_first_pages_show_the_study_and_the_browser_complains_of_nothing(ui: Ui) -> None:
    trials = look(f"{ui.said['optuna']}/dashboard/studies/1", awaits="val/dice")
    assert (trials.console_errors, trials.failed_requests, trials.overflow) == ([], [], False)
    runs = look(f"{ui.said['mlflow']}/#/experiments/1/runs", awaits="tiny")
    # MLflow's own page asks for a user, which a server without users does not know.
    known = "/mlflow/users/current"
    assert not [line for line in (*runs.console_errors, *runs.failed_requests) if known not in line]
    assert "tiny" in runs.text and not runs.overflow
    assert trials.outside == runs.outside == []


def test_a_server_that_ends_is_said_and_ends_the_other(ui: Ui) -> None:
    next(p for p in ui.family if "sage_ray.dashboards.optuna_page" in p.cmdline()[2:3]).kill()
    output, errors = ui.process.communicate(timeout=END_S)
    assert ui.process.returncode == 1
    assert errors.splitlines() == ["failed: Optuna has ended (exit code 137); MLflow was ended, too"]
    assert json.loads(output.splitlines()[-1])["error"] == errors.strip()
    assert not [p for p in ui.family if p.is_running()]
