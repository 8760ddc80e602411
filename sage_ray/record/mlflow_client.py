"""The one way to MLflow: a client for the home's tracking store and registry, bounded in time, with quiet logs."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from sage_ray.locks import locked
from sage_ray.record.home import Home
from sage_ray.record.mlflow_places import follow_home

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "sage-ray"
PROBE_TIMEOUT_S = 2.0
LOCK_TIMEOUT_S = 60.0


class MirrorUnavailable(RuntimeError):
    """MLflow cannot be reached or refuses; the local record is complete."""


def connect(home: Home) -> MlflowClient:
    """A client for the home's tracking and registry URIs, with bounded retries and a quiet log.

    The places of artifacts in the home's own database follow the home (`mlflow_places`).

    The first use of a database file is guarded by a lock: two processes must not create its tables at once.

    Raises:
        MirrorUnavailable: the server does not answer within `PROBE_TIMEOUT_S`, or the database cannot be opened.
    """
    uri = home.mlflow_uri
    probe(uri)
    _prepare_import()
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    home.path.mkdir(parents=True, exist_ok=True)
    try:
        with locked(home.path / ".mlflow.lock", LOCK_TIMEOUT_S) as held:
            if not held:
                raise MirrorUnavailable("another process is opening it")
            if home.database is not None:
                follow_home(home.database, EXPERIMENT, home.artifact_root)
            return MlflowClient(tracking_uri=uri, registry_uri=home.registry_uri)
    except Exception as error:  # MLflow raises SQLAlchemy, alembic and its own errors here
        raise MirrorUnavailable(f"{uri}: {one_line_of(error)}") from error


def experiment_id(client: MlflowClient, home: Home) -> str:
    """Id of the one experiment that holds all runs; created on first use, by whichever process comes first."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        # A server keeps artifacts where it likes; a database file would put them into the working directory.
        root = None if is_http(home.mlflow_uri) else home.artifact_root.as_uri()
        with contextlib.suppress(MlflowException):
            return str(client.create_experiment(EXPERIMENT, artifact_location=root))
        found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        raise MirrorUnavailable(f"experiment {EXPERIMENT} cannot be created; was it deleted? restore it in MLflow")
    return str(found.experiment_id)


def _prepare_import() -> None:
    # Defaults are 7 retries of up to 120 s each and reports to MLflow's makers.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")


def is_http(uri: str) -> bool:
    """Whether a URI is a server's, and no database file."""
    return urlsplit(uri).scheme in ("http", "https")


def probe(uri: str) -> None:
    """Raise MirrorUnavailable if the server of a URI does not accept a connection within `PROBE_TIMEOUT_S`."""
    if not is_http(uri):
        return
    parts = urlsplit(uri)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        with socket.create_connection((parts.hostname or "", port), timeout=PROBE_TIMEOUT_S):
            return
    except (OSError, ValueError) as error:
        raise MirrorUnavailable(f"{uri}: {one_line_of(error)}") from None


def one_line_of(error: BaseException) -> str:
    """What an error says, on one line of at most 200 characters."""
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
