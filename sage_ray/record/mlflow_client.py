"""The one way to MLflow: a client for the home's tracking store and registry, bounded in time, with quiet logs."""

from __future__ import annotations

import contextlib
import logging
import os
import ssl
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sage_ray.locks import locked
from sage_ray.record.home import Home
from sage_ray.record.mlflow_places import follow_home, forget_unmade
from sage_ray.record.mlflow_views import MARK, view_tags
from sage_ray.record.store_uris import is_http, is_server, redacted

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

EXPERIMENT = "sage-ray"
"""Experiment that holds all runs, unless `MLFLOW_EXPERIMENT_NAME` names another."""
PROBE_TIMEOUT_S = 5.0
LOCK_TIMEOUT_S = 60.0
LOG_LEVEL = "MLFLOW_LOGGING_LEVEL"
_LOUD = ("mlflow", "alembic", "psycopg", "sqlalchemy", "urllib3", "huey", "git")
"""Loggers whose lines would stand between ours; psycopg's warns of each row that was there already."""
_DATABASES: dict[str, dict[str, Any]] = {
    "postgresql": {"connect_timeout": int(PROBE_TIMEOUT_S)},
    "postgres": {"connect_timeout": int(PROBE_TIMEOUT_S)},
    "mysql": {"connect_timeout": int(PROBE_TIMEOUT_S)},
    "mssql": {"timeout": int(PROBE_TIMEOUT_S)},
}
"""Databases that have a server, with what limits the time of a connection."""
_NO_ANSWER = ("API request to", "Max retries", "timed out")
_NETWORK_ERRORS = ("Timeout", "ConnectTimeout", "ReadTimeout", "ConnectionError", "MaxRetryError", "InterfaceError")


class MirrorUnavailable(RuntimeError):
    """MLflow cannot be reached or refuses; the local record is complete."""


class MirrorAway(MirrorUnavailable):
    """MLflow does not answer at all; what else is sent to it now would wait in vain too."""


def experiment_name() -> str:
    """`MLFLOW_EXPERIMENT_NAME`, else `EXPERIMENT`."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME", "").strip() or EXPERIMENT


def chosen_experiment() -> str | None:
    """The experiment that the environment names, or gives the id of (`MLFLOW_EXPERIMENT_ID`); None: the usual one."""
    number = os.environ.get("MLFLOW_EXPERIMENT_ID", "").strip()
    if experiment_name() != EXPERIMENT:
        return experiment_name()
    named = bool(os.environ.get("MLFLOW_EXPERIMENT_NAME", "").strip())
    return f"id {number}" if number and not named else None


def find_experiment(client: MlflowClient) -> Experiment | None:
    """The experiment of the runs, deleted or not; None if there is none of that name yet.

    Raises:
        MirrorUnavailable: there is none of the id that `MLFLOW_EXPERIMENT_ID` gives.
    """
    chosen = chosen_experiment()
    if chosen is None or not chosen.startswith("id "):
        return client.get_experiment_by_name(experiment_name())
    from mlflow.exceptions import MlflowException

    number = chosen.removeprefix("id ")
    try:
        return client.get_experiment(number)
    except MlflowException as error:
        if not is_gone(error):
            raise
        raise MirrorUnavailable(f"there is no experiment {number}; mend MLFLOW_EXPERIMENT_ID") from None


def connect(home: Home) -> MlflowClient:
    """A client for the home's tracking and registry URIs, with bounded retries and a quiet log.

    The places of artifacts in the home's own database follow the home (`mlflow_places`).

    The first use of a database file is guarded by a lock: two processes must not create its tables at once. One that a
    killed process has left half made is made anew.

    Raises:
        MirrorAway: the server, or that of a database, does not answer within `PROBE_TIMEOUT_S`, or lets nobody in.
        MirrorUnavailable: the database cannot be opened.
    """
    uri = home.mlflow_uri
    probe(uri)
    prepare_import()
    from mlflow import MlflowClient

    _quieten()
    home.path.mkdir(parents=True, exist_ok=True)
    try:
        with locked(home.path / ".mlflow.lock", LOCK_TIMEOUT_S) as held:
            if not held:
                raise MirrorUnavailable("another process is opening it")
            if home.database is not None:
                forget_unmade(home.database)
                for name in dict.fromkeys((EXPERIMENT, experiment_name())):
                    follow_home(home.database, name, home.artifact_root)
            return MlflowClient(tracking_uri=uri, registry_uri=home.registry_uri)
    except Exception as error:  # MLflow raises SQLAlchemy, alembic and its own errors here
        raise unavailable(uri, error) from error


def experiment_id(client: MlflowClient, home: Home, *, restore: bool = False) -> str:
    """Id of the one experiment that holds all runs; created on first use, by whichever process comes first.

    Args:
        client: of the home's store.
        home: where artifacts go if the store is a database file.
        restore: take an experiment that was deleted out of MLflow's trash.

    Raises:
        MirrorUnavailable: the experiment cannot be created, or was deleted.
    """
    from mlflow.exceptions import MlflowException

    name = experiment_name()
    found = find_experiment(client)
    if found is None:
        # A server keeps artifacts where it likes; a database file would put them into the working directory.
        root = None if is_http(home.mlflow_uri) else home.artifact_uri
        with contextlib.suppress(MlflowException):
            return str(client.create_experiment(name, artifact_location=root, tags=view_tags()))
        found = find_experiment(client)
    if found is None:
        raise MirrorUnavailable(f"experiment {name} cannot be created")
    if found.lifecycle_stage == "deleted":
        if not restore:
            raise MirrorUnavailable(f"experiment {name} was deleted; `sage-ray sync` restores it")
        client.restore_experiment(found.experiment_id)
    if MARK not in found.tags:  # of an earlier release
        for key, value in view_tags().items():
            client.set_experiment_tag(found.experiment_id, key, value)
    return str(found.experiment_id)


def prepare_import() -> None:
    """Set, where the user has not, what MLflow reads from the environment; to be called before MLflow is used."""
    # Defaults are 7 retries of up to 120 s each and reports to MLflow's makers.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    # Standard output belongs to a verb's answer: MLflow prints links to runs and bars of progress.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # What is an error there is raised, too, and told by us in one line.
    os.environ.setdefault(LOG_LEVEL, "CRITICAL")


def _quieten() -> None:
    """Silence what MLflow and those whom it asks would log; to be called once MLflow is imported, which sets levels."""
    chosen = os.environ.get(LOG_LEVEL, "CRITICAL").upper()
    for name in _LOUD:
        logging.getLogger(name).setLevel(chosen if chosen in logging.getLevelNamesMapping() else logging.CRITICAL)


def probe(uri: str) -> None:
    """Ask a server for any answer, and a database's server for a connection; nothing is asked of a file.

    To connect to an HTTP server alone proves nothing: one that hangs still accepts it. MLflow itself would ask a
    database's server that is away ten times, for nearly two minutes.

    Raises:
        MirrorAway: there is no answer within `PROBE_TIMEOUT_S`, or the database lets nobody in.
    """
    if is_http(uri):
        _ask_server(uri)
    elif is_server(uri) and urlsplit(uri).scheme.partition("+")[0] in _DATABASES:
        _ask_database(uri)


def _ask_server(uri: str) -> None:
    parts = urlsplit(uri)
    # Without user and password: being refused is an answer too. So is a certificate that only MLflow knows.
    address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}/health"
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with urllib.request.urlopen(address, timeout=PROBE_TIMEOUT_S, context=context):
            return
    except urllib.error.HTTPError:
        return
    except (OSError, ValueError, HTTPException) as error:
        raise MirrorAway(f"{redacted(uri)}: {one_line_of(error)}") from None


def _ask_database(uri: str) -> None:
    import sqlalchemy

    _quieten()
    try:
        url = sqlalchemy.make_url(uri)
        wait = {} if "connect_timeout" in url.query else _DATABASES[url.get_backend_name()]
        engine = sqlalchemy.create_engine(url, connect_args=wait, poolclass=sqlalchemy.NullPool)
        engine.connect().close()
    except Exception as error:  # drivers raise their own; one that is not installed is an ImportError
        cause = getattr(error, "orig", None) or error
        raise MirrorAway(f"{redacted(uri)}: {one_line_of(cause)}") from None


def unavailable(uri: str, error: BaseException) -> MirrorUnavailable:
    """What to raise for an error of MLflow, requests, SQLAlchemy or an artifact store."""
    if isinstance(error, MirrorUnavailable):
        return error
    # A database file answers whatever happens; what a database server's driver raises so is a lost connection.
    lost = not uri.startswith("sqlite") and type(error).__name__ == "OperationalError"
    kind = MirrorAway if lost or _is_silence(error) else MirrorUnavailable
    return kind(f"{redacted(uri)}: {one_line_of(error)}")


def is_gone(error: BaseException) -> bool:
    """Whether an error of MLflow says that it does not have what was asked for."""
    return getattr(error, "error_code", None) in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND")


def is_refusal(error: BaseException) -> bool:
    """Whether an error of MLflow says that the server is none of MLflow's, or does not let this user in."""
    code = getattr(error, "error_code", None)
    return code in ("PERMISSION_DENIED", "UNAUTHENTICATED") or "API request to endpoint" in str(error)


def _is_silence(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, tells that nobody answered."""
    for _ in range(10):
        if error is None:
            return False
        names = {kind.__name__ for kind in type(error).__mro__}
        if names & set(_NETWORK_ERRORS) or isinstance(error, TimeoutError | ConnectionError):
            return True
        if "failed with exception" in str(error) and any(text in str(error) for text in _NO_ANSWER):
            return True
        error = error.__cause__ or error.__context__
    return False


def one_line_of(error: BaseException) -> str:
    """What an error says, on one line of at most 200 characters, without passwords, statements of SQL and web pages."""
    said = " ".join(redacted(str(error)).split()).partition(" [SQL: ")[0].partition(". Response body: ")[0]
    return (said or type(error).__name__)[:200]
