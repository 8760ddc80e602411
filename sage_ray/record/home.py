"""Home: the folder that holds everything a project has computed, and where its MLflow store is."""

from __future__ import annotations

import logging
import os
import re
import uuid
from functools import cached_property
from pathlib import Path

from sage_ray.errors import UserError
from sage_ray.locks import share_sessions
from sage_ray.record.home_identity import FILE as IDENTITY_FILE
from sage_ray.record.home_identity import HomeIdentity, settle_identity
from sage_ray.record.home_release import note_release, refuse_newer
from sage_ray.record.store_uris import absolute, sqlite_uri

logger = logging.getLogger(__name__)


class Home:
    """Absolute paths under one folder: the given one, else `SAGE_HOME`, else `./sage_runs`.

    Making the object creates nothing; `check_writable` does.

    Raises:
        UserError: an address of a bucket, or a home that a newer release has written to.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        chosen = path or os.environ.get("SAGE_HOME") or "sage_runs"
        if re.match(r"[a-z][a-z0-9+.-]+:/", str(chosen)):  # one slash: what a path makes of two
            mend = "give a folder; a bucket can hold the stages, with --set runtime.stage_store=s3://BUCKET/PREFIX"
            raise UserError("a home is a folder", chosen, mend)
        self.path = Path(chosen).expanduser().absolute()
        refuse_newer(self.path)
        share_sessions(self.path)

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
        return absolute(given) if given else sqlite_uri(self._own_database)

    @property
    def _own_database(self) -> Path:
        return self.path / "mlflow.db"

    @property
    def database(self) -> Path | None:
        """The file of the home's own MLflow database; None where `MLFLOW_TRACKING_URI` names another store."""
        return self._own_database if self._is_own(self.mlflow_uri) else None

    def _is_own(self, uri: str) -> bool:
        return uri in (sqlite_uri(self._own_database), f"sqlite:///{self._own_database}")

    @property
    def registry_uri(self) -> str:
        """`MLFLOW_REGISTRY_URI`, else `mlflow_uri`."""
        given = os.environ.get("MLFLOW_REGISTRY_URI")
        return absolute(given) if given else self.mlflow_uri

    def settle_identity(self) -> str | None:
        """Note where the home lies now; returns one line if it turns out to be a copy of another home."""
        if "_identity" not in self.__dict__ and (self.path / IDENTITY_FILE).exists():
            self.__dict__["_identity"] = settle_identity(self.path)
            return self._identity.news
        return None

    @cached_property
    def _identity(self) -> HomeIdentity:
        found = settle_identity(self.path)
        if found.news is not None:
            logger.warning("%s", found.news)
        return found

    @property
    def identity(self) -> str:
        """32 hex digits made once for each home, so that two homes never share a run in one MLflow server."""
        return self._identity.id

    def identity_in(self, uri: str) -> str:
        """What the home is called in an MLflow store: a copy keeps its name in its own copy of the database."""
        return self._identity.origin if self._is_own(uri) else self._identity.id

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
            UserError: the home is no folder, or cannot be written.
        """
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
        if self.identity:  # it is made, and its place noted, before anybody can copy the home
            note_release(self.path)
