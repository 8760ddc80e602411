"""Home: the folder or bucket that holds everything a project has computed, and where its MLflow store is."""

from __future__ import annotations

import logging
import os
import re
import uuid
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

from sage_ray.argument_kinds import kinds_checked
from sage_ray.bucket_client import place_of_address
from sage_ray.errors import UserError
from sage_ray.followed import Followed, follow, pull, push
from sage_ray.locks import share_sessions
from sage_ray.object_store import check_writable
from sage_ray.record.home_identity import FILE as IDENTITY_FILE
from sage_ray.record.home_identity import HomeIdentity, settle_identity
from sage_ray.record.home_release import note_release, refuse_newer
from sage_ray.record.store_uris import absolute, is_http, is_server, sqlite_uri

logger = logging.getLogger(__name__)

LOOK_S = 2.0
"""What is in a bucket is looked for no more often."""


def place_of_home(named: str | Path) -> str | Path:
    """The absolute folder that a name of a home means, or the address of a bucket; nothing is asked of it.

    Raises:
        UserError: an address with a slash missing, which is what a path makes of it, or of another kind of store.
    """
    text = str(named)
    if re.match(r"[a-z][a-z0-9+.-]+:/[^/]", text):
        raise UserError("neither a folder nor the address of a bucket", text, "write s3://BUCKET/PREFIX, as text")
    place = place_of_address(text)
    return place.expanduser().absolute() if isinstance(place, Path) else text.rstrip("/")


class Home:
    """Absolute paths under one folder: the given one, else `SAGE_HOME`, else `./sage_runs`.

    Of a home in a bucket (s3://BUCKET/PREFIX, gs://...) the folder is this process's own, and follows the bucket
    (`sage_ray.followed`). Making the object of a folder creates nothing; `check_writable` does.

    Raises:
        UserError: a bucket that cannot be used, or a home that a newer release has written to.
    """

    @kinds_checked
    def __init__(self, path: str | Path | None = None) -> None:
        chosen = path or os.environ.get("SAGE_HOME") or "sage_runs"
        self._followed: Followed | None = None
        place = place_of_home(chosen)
        if isinstance(place, Path):
            self.path = place
        else:
            self._followed = follow(place)
            self.path = self._followed.root
            pull(self.path / IDENTITY_FILE)
        refuse_newer(self.path)
        share_sessions(self.path)

    def __repr__(self) -> str:
        return f"Home({self.address!r})"

    def __fspath__(self) -> str:
        return str(self.path)

    def __reduce__(self) -> tuple[type[Home], tuple[str]]:
        return type(self), (self.address,)

    @property
    def address(self) -> str:
        """What names the home on every machine: the path of its folder, or the address of its bucket."""
        return str(self.path) if self._followed is None else self._followed.address

    @property
    def in_bucket(self) -> bool:
        """Whether the home is in a bucket, and `path` this process's own view of it."""
        return self._followed is not None

    @property
    def runs(self) -> Path:
        """runs/ID: one folder per run (`record.run_folder.RunFolder`)."""
        return self.path / "runs"

    @property
    def stages(self) -> Path:
        """stages/KEY/EPOCH of a home that is a folder."""
        return self.path / "stages"

    @property
    def stage_store(self) -> str | Path:
        """Where the stages are, unless `runtime.stage_store` names another place."""
        return self.stages if self._followed is None else f"{self._followed.address}/stages"

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
        """Decoded data and downloads; may be deleted at any time. Of a home in a bucket each machine has its own."""
        return self.path / "cache" if self._followed is None else self._followed.machine / "cache"

    @property
    def artifact_root(self) -> Path:
        """Where MLflow keeps artifacts when its store is a database and no server."""
        return self.path / "mlartifacts"

    @property
    def artifact_uri(self) -> str:
        """The address of `artifact_root`."""
        return self.artifact_root.as_uri() if self._followed is None else f"{self._followed.address}/mlartifacts"

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
            self.__dict__["_identity"] = settle_identity(self.path, self._place)
            return self._identity.news
        return None

    @property
    def _place(self) -> str | None:
        return None if self._followed is None else self._followed.address

    @cached_property
    def _identity(self) -> HomeIdentity:
        found = settle_identity(self.path, self._place)
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

    def look(self) -> Home:
        """Bring in all records of a home in a bucket, by a few listings, so that single ones need no look."""
        for folder in (self.runs, self.studies, self.finals):
            pull(folder, every_s=LOOK_S)
        return self

    def run_ids(self) -> list[str]:
        """Names of all run folders, sorted."""
        pull(self.runs, every_s=LOOK_S)
        if not self.runs.is_dir():
            return []
        return sorted(folder.name for folder in self.runs.iterdir() if (folder / "record.json").is_file())

    def study_names(self) -> list[str]:
        """Names of all studies, searches and ablations, sorted."""
        pull(self.studies, every_s=LOOK_S)
        if not self.studies.is_dir():
            return []
        return sorted(folder.name for folder in self.studies.iterdir() if (folder / "study.json").is_file())

    def final_ids(self) -> list[str]:
        """Ids of the declared final trainings, sorted."""
        pull(self.finals, every_s=LOOK_S)
        return sorted(path.stem for path in self.finals.glob("*.json"))

    def refuse_missing(self) -> None:
        """Raise UserError if the home is a folder that is not there: what only reads makes none of a mistyped name."""
        if not self.in_bucket and not self.path.is_dir():
            mend = "begin a run or a study there, or give another with --home DIR or SAGE_HOME"
            raise UserError("no such home", self.address, mend)

    def check_writable(self) -> None:
        """Create the home if need be and prove that a file can be written.

        Raises:
            UserError: the home is no folder, or cannot be written; one in a bucket has no server for MLflow, or no
                package by which MLflow reaches the bucket.
        """
        if self._followed is not None:
            check_writable(self._followed.store)
            self._refuse_databases()
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
            push(self.path / IDENTITY_FILE)

    def _refuse_databases(self) -> None:
        """Raise UserError if MLflow's stores would be files in the bucket, or MLflow has no client for the bucket."""
        for name, uri in (("MLFLOW_TRACKING_URI", self.mlflow_uri), ("MLFLOW_REGISTRY_URI", self.registry_uri)):
            if not is_server(uri):
                mend = f"set {name} to a server, or to a database on one; or give a folder as the home"
                raise UserError("a home in a bucket holds no database of MLflow", self.address, mend)
        if self.address.startswith("gs://") and not is_http(self.mlflow_uri) and not _has_client_of_google():
            what = "google-cloud-storage is not installed, which MLflow needs beside a database for files in gs://"
            mend = "pip install google-cloud-storage, or set MLFLOW_TRACKING_URI to an MLflow server (http://...)"
            raise UserError(what, self.address, mend)


def _has_client_of_google() -> bool:
    try:
        return find_spec("google.cloud.storage") is not None
    except ModuleNotFoundError:  # not even the package that it is in
        return False
