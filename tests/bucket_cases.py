"""A home in a bucket, with its trials and MLflow in databases on a server, and machines that share nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from postgres_cases import PostgresServer
from s3_cases import S3Server

from sage_ray import followed
from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder
from sage_ray.terminal.cli import call


class HomeInBucket:
    """A home's address, and machines that reach it. Each has a folder of its own for what it keeps.

    Args:
        s3, postgres: its servers.
        name: of the home in the server's bucket, and of the databases.
        folder: where the machines keep what they keep.
        scheme: s3, or gs for Google's protocol.
        mlflow: address of an MLflow server; None: a database of `postgres`.
    """

    def __init__(
        self,
        s3: S3Server,
        postgres: PostgresServer | None,
        name: str,
        folder: Path,
        *,
        scheme: str = "s3",
        mlflow: str | None = None,
    ) -> None:
        self.address, self._folder = f"{scheme}://{s3.bucket}/{name}", folder
        self._environment = {**s3.environment, "MLFLOW_S3_ENDPOINT_URL": s3.address}
        if postgres is not None:
            self._environment["SAGE_OPTUNA_URL"] = postgres.database(f"{name}_trials")
        if mlflow is not None:
            self._environment["MLFLOW_TRACKING_URI"] = mlflow
        elif postgres is not None:
            self._environment["MLFLOW_TRACKING_URI"] = postgres.database(f"{name}_tracking")

    def enter(self, patch: pytest.MonkeyPatch) -> HomeInBucket:
        """Let this process reach the lab, from its machine `here`; until the patch is undone."""
        for variable, value in self._environment.items():
            patch.setenv(variable, value)
        self.on("here", patch)
        return self

    def on(self, machine: str, patch: pytest.MonkeyPatch) -> None:
        """This process is on that machine from now on."""
        patch.setattr(followed, "_FOLLOWED", {})
        patch.setenv(followed.VARIABLE, str(self._folder / machine))

    @property
    def home(self) -> Home:
        """The home as it is now."""
        return Home(self.address)

    def start(self, machine: str, *words: str) -> subprocess.Popen[str]:
        """A `sage-ray` command on a machine, in a session of its own, output captured."""
        environment = {
            **os.environ,
            **self._environment,
            followed.VARIABLE: str(self._folder / machine),
            "OMP_NUM_THREADS": "1",
        }
        return subprocess.Popen(
            [sys.executable, "-m", "sage_ray", *words, "--home", self.address, "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
        )

    def say(self, capsys: pytest.CaptureFixture[str], *words: str | Path) -> dict[str, Any]:
        """The JSON of a command that this process runs; it names no folder in which a machine keeps the home."""
        code = call([*map(str, words), "--home", self.address, "--json", "--quiet"])
        out, errors = capsys.readouterr()
        assert code == 0, errors
        assert str(self._folder) not in out + errors
        answer: dict[str, Any] = json.loads(out.splitlines()[-1])
        return answer

    def epochs(self, run_id: str) -> list[dict[str, Any]]:
        """What the bucket says of a run's epochs."""
        folder = RunFolder(self.home.runs / run_id)
        folder.refresh(now=True)
        return folder.metrics()
