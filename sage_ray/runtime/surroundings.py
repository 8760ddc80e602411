"""What of this process's environment its workers need: it travels inside the tasks that they are given.

Variables that are set in the driver reach no worker of a cluster that was there before. Ray's `runtime_env` would take
them, but shows them to everybody who may open the cluster's dashboard. So it only carries Ray's own settings, which
must be there when a process starts (`settings_of_processes`); addresses, names and secrets travel as `Surroundings`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sage_ray.errors import UserError
from sage_ray.record.home import Home
from sage_ray.record.store_uris import redacted, sqlite_file

TRAVELLING = ("MLFLOW_", "AWS_", "SAGE_", "GOOGLE_")
"""Beginnings of the names that travel."""
STAYING = (
    "MLFLOW_RUN_ID",
    "MLFLOW_TRACKING_URI",
    "MLFLOW_REGISTRY_URI",
    "SAGE_HOME",
    "SAGE_WAIT_FOR_NODES",
    "SAGE_CACHE_DIR",
)
"""Names that do not: a run that is open here, and what is resolved before it travels."""
CLEARED = ("MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID")
"""Where this process has none of them, a worker shall have none: its runs go where the driver's go."""
_FILES = ("_FILE", "_PATH", "_CREDENTIALS", "GOOGLE_SERVICE_ACCOUNT")
"""Ends of names whose value is a file. One that is not there on a worker's machine leaves that machine's own."""
_PROCESS = ("TUNE_", "RAY_TRAIN_")
_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"


@dataclass(frozen=True)
class Surroundings:
    """Variables of the environment and the working directory, for workers. Its text tells names and no values."""

    variables: Mapping[str, str] = field(repr=False)
    working_dir: str

    def take_on(self) -> None:
        """Make this process's environment and working directory the driver's, as far as they can be here."""
        for name in CLEARED:
            if name not in self.variables:
                os.environ.pop(name, None)
        missing = self.missing_files()
        os.environ.update({name: value for name, value in self.variables.items() if name not in missing})
        if Path(self.working_dir).is_dir():  # relative data paths keep their meaning
            os.chdir(self.working_dir)

    def missing_files(self) -> list[str]:
        """Names of variables that name a file which is not here."""
        named = [name for name in self.variables if name.endswith(_FILES)]
        return [name for name in named if not Path(self.variables[name]).exists()]


def surroundings_of(home: Home) -> Surroundings:
    """What workers of this process need; the stores of MLflow are resolved, so that a worker uses the same ones."""
    found = {name: value for name, value in os.environ.items() if name.startswith(TRAVELLING) and name not in STAYING}
    found |= {"MLFLOW_TRACKING_URI": home.mlflow_uri, "MLFLOW_REGISTRY_URI": home.registry_uri}
    found["SAGE_HOME"] = home.address
    return Surroundings(found, os.getcwd())


def settings_of_processes(settings: Mapping[str, str]) -> dict[str, str]:
    """Ray's own settings that a worker's process must start with, as variables of a `runtime_env`; none is secret.

    A variable that `ray job submit` has already given the job is left out: Ray refuses a name that is given twice.

    Args:
        settings: those that this package sets; what the user has set in their place counts.
    """
    names = {name for name in os.environ if name.startswith(_PROCESS)} | set(settings)
    try:
        job = json.loads(os.environ.get(_JOB) or "{}")
        given = set(job.get("runtime_env", {}).get("env_vars", {}))
    except (ValueError, AttributeError):
        given = set()
    return {name: os.environ[name] for name in sorted(names - given) if name in os.environ}


def shared_places(home: Home) -> dict[str, Path]:
    """Folders that every node must share with this machine, by what they are: the home, and where databases lie.

    Of a home in a bucket there is none: each process follows the bucket.

    Raises:
        UserError: an address of MLflow is a folder, which means another one on each machine.
    """
    places = {} if home.in_bucket else {"home": home.path}
    for name, uri in (("MLFLOW_TRACKING_URI", home.mlflow_uri), ("MLFLOW_REGISTRY_URI", home.registry_uri)):
        file = sqlite_file(uri)
        if file is not None and file.is_absolute() and not file.is_relative_to(home.path):
            places[f"folder of {name}"] = file.parent
        elif file is None and (uri.startswith("file:") or "://" not in uri) and not uri.startswith("databricks"):
            mend = "give a server (http://...) or a database that every node reaches, or unset it: sqlite in the home"
            raise UserError("MLflow's store is a folder of this machine alone", f"{name}={redacted(uri)}", mend)
    return places
