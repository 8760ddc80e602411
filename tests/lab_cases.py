"""A lab of machines with nothing in common but a network: nodes of Ray, S3, Postgres, MLflow, and a laptop."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from machine_cases import Command, Machine, Network, network
from mlflow_cases import await_server, server_words
from postgres_cases import PostgresServer, postgres_server
from s3_cases import S3Server, s3_server

from sage_ray import followed
from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder

NODES = {"head": 11, "first": 12, "second": 13}
TWINS = {"twin-a": 31, "twin-b": 32}
NUMBERS = {"s3": 2, "postgres": 3, "mlflow": 4, **NODES, "laptop": 21, **TWINS}
RAY_PORT, MLFLOW_PORT = 6379, 5000
LIMIT_S = 300.0


class Lab:
    """What a lab's people have: machines by name, their servers, and `sage-ray` on each machine.

    Attributes:
        switch: the network with its machines.
        postgres: the database server.
    """

    def __init__(self, switch: Network, s3: S3Server, s3_port: int, postgres: PostgresServer) -> None:
        self.switch, self.postgres, self._s3 = switch, postgres, s3
        self._variables = {
            **s3.environment_at(f"http://s3:{s3_port}"),
            "MLFLOW_TRACKING_URI": f"http://mlflow:{MLFLOW_PORT}",
            "RAY_AUTH_MODE": "disabled",
            "OMP_NUM_THREADS": "1",
        }
        self._bare = {name: self._variables[name] for name in ("RAY_AUTH_MODE", "OMP_NUM_THREADS")}
        self._trials: dict[str, str] = {}

    def machine(self, name: str) -> Machine:
        """A machine that is on."""
        return self.switch.machines[name]

    def add_node(self, name: str) -> None:
        """Switch on a machine and make it a node of one CPU. It knows the address of the head and of no server."""
        machine = self.switch.add(name)
        place = ["--head", f"--port={RAY_PORT}", "--include-dashboard=false"]
        place = place if name == "head" else [f"--address=head:{RAY_PORT}"]
        words = [f"--node-ip-address={machine.address}", "--num-cpus=1", "--block", "--disable-usage-stats"]
        # Ray names its own temporary folder on all nodes after the head's.
        folder = [f"--temp-dir={self.switch.disk}/r"] if name == "head" else []
        ray = str(Path(sys.executable).with_name("ray"))
        machine.start([ray, "start", *place, *words, *folder], self._bare, log=self._log("ray"))
        if name == "head":
            until(lambda: machine.answers(RAY_PORT))

    def serve_mlflow(self) -> None:
        """Start MLflow's server on its machine, with its runs in Postgres and its artifacts in S3."""
        machine = self.machine("mlflow")
        runs = self.postgres.database("mlflow").replace("postgresql:", "postgresql+psycopg:")
        words = server_words("0.0.0.0", MLFLOW_PORT, runs, f"{self._s3.uri}/mlflow")
        hosts = ["--allowed-hosts", f"mlflow,mlflow:{MLFLOW_PORT}"]
        variables = {**self._variables, "MLFLOW_S3_ENDPOINT_URL": self._variables["AWS_ENDPOINT_URL"]}
        server = machine.start([*words, *hosts], variables, log=self._log("mlflow"))
        await_server(server, lambda: machine.answers(MLFLOW_PORT))

    def _log(self, name: str) -> Path:
        return self.switch.hosts.parent / f"{name}.log"

    def address(self, home: str) -> str:
        """Of a home in the bucket."""
        return f"{self._s3.uri}/{home}"

    def start(self, machine: str, home: str, *words: str) -> Command:
        """Start `sage-ray` on a machine, with a home of that name."""
        variables = self.variables(home)
        if machine in NODES:
            variables["RAY_ADDRESS"] = f"{self.machine('head').address}:{RAY_PORT}"
        command = [sys.executable, "-m", "sage_ray", *words, "--json"]
        return self.machine(machine).start(command, variables)

    def variables(self, home: str) -> dict[str, str]:
        """What a command needs to know of the lab's servers and of a home in it."""
        if home not in self._trials:
            self._trials[home] = self.postgres.database(f"trials_{home}")
        return {**self._variables, "SAGE_OPTUNA_URL": self._trials[home], "SAGE_HOME": self.address(home)}

    def say(self, machine: str, home: str, *words: str, code: int = 0) -> dict[str, Any]:
        """Run a command to its end, and return its JSON."""
        return answer_of(self.start(machine, home, *words), code)

    def enter(self, home: str, patch: pytest.MonkeyPatch) -> Home:
        """A home as this process sees it, which reaches S3 by another way and none of the other servers."""
        for name, value in {**self.variables(home), **self._s3.environment}.items():
            patch.setenv(name, value)
        patch.setenv(followed.VARIABLE, str(self.switch.hosts.parent / "seen"))
        return Home(self.address(home))

    def trainers(self, machine: str) -> list[psutil.Process]:
        """The processes that train on a machine, or start in order to: of trials, and of workers of several."""
        found = [(process, _title(process)) for process in self.machine(machine).processes()]
        return [process for process, title in found if "ImplicitFunc" in title or "RayTrainWorker" in title]


def epochs(home: Home, run_id: str) -> list[dict[str, Any]]:
    """What the bucket says of a run's epochs."""
    folder = RunFolder(home.runs / run_id)
    folder.refresh(now=True)
    return folder.metrics()


def answer_of(command: Command, code: int = 0) -> dict[str, Any]:
    """The JSON of a command that ends by itself with that exit code."""
    try:
        output, errors = command.communicate(timeout=LIMIT_S)
    except BaseException:
        command.signal_it(signal.SIGKILL)
        raise
    assert command.returncode == code, f"{command.returncode}: {output}\n{errors}"
    value: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return value


def until(condition: Callable[[], Any], command: Command | None = None, limit_s: float = LIMIT_S) -> None:
    """Return when the condition holds; fail if the command ends or the time is over first."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert command is None or command.poll() is None, f"ended early: {command.communicate()}"
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)


@contextlib.contextmanager
def lab() -> Iterator[Lab]:
    """A lab with its three servers and two nodes, `head` and `first`."""
    with network(NUMBERS) as switch, contextlib.ExitStack() as servers:
        listener = servers.enter_context(switch.add("s3").listen())
        s3 = servers.enter_context(s3_server("lab", listener))
        postgres = servers.enter_context(postgres_server(switch.add("postgres")))
        made = Lab(switch, s3, listener.getsockname()[1], postgres)
        switch.add("mlflow")
        switch.add("laptop")
        made.add_node("head")
        made.add_node("first")
        made.serve_mlflow()
        yield made


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
