"""Home: the folder that holds everything a project has computed, and where its MLflow store is."""

from __future__ import annotations

import os
import re
import uuid
from functools import cached_property
from pathlib import Path

from sage_ray.errors import UserError
from sage_ray.files import read_json, write_json

# In a database's URI they begin a query, or stand for another character: another file would be opened.
_NOT_IN_A_URI = re.compile(r"\?|%[0-9A-Fa-f]{2}")
_SQLITE = re.compile(r"^sqlite:///(?P<path>[^?]*)(?P<query>\?.*)?$")


class Home:
    """Absolute paths under one folder: the given one, else `SAGE_HOME`, else `./sage_runs`.

    Making the object creates nothing; `check_writable` does.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        chosen = path or os.environ.get("SAGE_HOME") or "sage_runs"
        self.path = Path(chosen).expanduser().absolute()

    def __repr__(self) -> str:
        return f"Home({str(self.path)!r})"

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def runs(self) -> Path:
        """runs/ID: one folder per run (`record.run_folder.RunFolder`)."""
        return self.path / "runs"

    @property
    def stages(self) -> Path:
        """stages/KEY/EPOCH: the stage store, unless `runtime.stage_store` names another."""
        return self.path / "stages"

    @property
    def studies(self) -> Path:
        """studies/NAME: one folder per study."""
        return self.path / "studies"

    @property
    def finals(self) -> Path:
        """finals/ID.json: a declared final training; beside it ID/package, once it is registered."""
        return self.path / "finals"

    @property
    def cache(self) -> Path:
        """Decoded data and downloads; may be deleted at any time."""
        return self.path / "cache"

    @property
    def artifact_root(self) -> Path:
        """Where MLflow keeps artifacts when its store is a database file and no server."""
        return self.path / "mlartifacts"

    @property
    def mlflow_uri(self) -> str:
        """`MLFLOW_TRACKING_URI`, else sqlite under the home; a relative sqlite path is made absolute."""
        given = os.environ.get("MLFLOW_TRACKING_URI")
        return _absolute(given) if given else f"sqlite:///{self.path / 'mlflow.db'}"

    @property
    def database(self) -> Path | None:
        """The file of the home's own MLflow database; None where `MLFLOW_TRACKING_URI` names another store."""
        own = self.path / "mlflow.db"
        return own if self.mlflow_uri == f"sqlite:///{own}" else None

    @property
    def registry_uri(self) -> str:
        """`MLFLOW_REGISTRY_URI`, else `mlflow_uri`."""
        given = os.environ.get("MLFLOW_REGISTRY_URI")
        return _absolute(given) if given else self.mlflow_uri

    @cached_property
    def identity(self) -> str:
        """32 hex digits made once for each home, so that two homes never share a run in one MLflow server."""
        path = self.path / "home.json"
        if not path.exists():
            self.path.mkdir(parents=True, exist_ok=True)
            write_json(path, {"format_version": 1, "id": uuid.uuid4().hex}, only_if_absent=True)
        return str(read_json(path)["id"])

    def run_ids(self) -> list[str]:
        """Names of all run folders, sorted."""
        if not self.runs.is_dir():
            return []
        return sorted(folder.name for folder in self.runs.iterdir() if (folder / "record.json").is_file())

    def study_names(self) -> list[str]:
        """Names of all studies, searches and ablations, sorted."""
        if not self.studies.is_dir():
            return []
        return sorted(folder.name for folder in self.studies.iterdir() if (folder / "study.json").is_file())

    def final_ids(self) -> list[str]:
        """Ids of the declared final trainings, sorted."""
        return sorted(path.stem for path in self.finals.glob("*.json"))

    def check_writable(self) -> None:
        """Create the home if need be and prove that a file can be written.

        Raises:
            UserError: the home is no folder, cannot be written, or has a name that no database can be opened under.
        """
        if _NOT_IN_A_URI.search(str(self.path)):
            mend = "rename it, or give another with --home DIR or SAGE_HOME: no ? and no % with two digits after it"
            raise UserError("home's path cannot be part of a database's address", self.path, mend)
        probe = self.path / f".probe-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"sage")
            probe.unlink()
        except OSError as error:
            reason = error.strerror or str(error)
            raise UserError(
                "home cannot be written", f"{self.path} ({reason})", "give another with --home DIR or SAGE_HOME"
            ) from None
        for folder in (self.runs, self.stages, self.studies, self.cache):
            folder.mkdir(exist_ok=True)


def _absolute(uri: str) -> str:
    match = _SQLITE.match(uri)
    if match is None or not match["path"]:
        return uri
    # MLflow opens a relative file against the working directory, and Ray workers have another one.
    return f"sqlite:///{Path(match['path']).absolute()}{match['query'] or ''}"
