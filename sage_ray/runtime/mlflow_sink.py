"""The mirror: projects run folders into MLflow. It is the only writer of runs there and can be repeated at any time.

What a run folder says is the truth; `mlflow.json` in it (the cursor) says what has been sent. Nothing is lost when the
server is away: `sync` sends the rest later. Only `MlflowClient` is used, never MLflow's global active run.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from sage_ray.errors import UserError
from sage_ray.runtime import projection
from sage_ray.runtime.files import locked, write_json
from sage_ray.runtime.home import Home
from sage_ray.runtime.mlflow_places import follow_home
from sage_ray.runtime.projection import Cursor
from sage_ray.runtime.record import RunFolder, RunRecord, State

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

EXPERIMENT = "sage-ray"
PROBE_TIMEOUT_S = 2.0
POLL_S = 2.0
FLUSH_S = 20.0
MAX_BACKOFF_S = 30.0
LOCK_TIMEOUT_S = 60.0
# Limits of MLflow's log_batch.
MAX_METRICS, MAX_PARAMS = 900, 100


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
    _probe(uri)
    _prepare_import()
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    home.path.mkdir(parents=True, exist_ok=True)
    try:
        with locked(home.path / ".mlflow.lock", LOCK_TIMEOUT_S):
            if home.database is not None:
                follow_home(home.database, EXPERIMENT, home.artifact_root)
            return MlflowClient(tracking_uri=uri, registry_uri=home.registry_uri)
    except Exception as error:  # MLflow raises SQLAlchemy, alembic and its own errors here
        raise MirrorUnavailable(f"{uri}: {_one_line(error)}") from error


def fetch_registered(home: Home, uri: str, inner: str) -> Path:
    """Local copy, under the home's cache, of one file of a registered model.

    Args:
        home: whose registry is asked.
        uri: models:/NAME/VERSION or models:/NAME@ALIAS.
        inner: path of the file inside the model.

    Raises:
        UserError: the registry cannot be reached, or there is no such model, version or file.
    """
    name, _, wanted = uri.removeprefix("models:/").replace("@", "/@").partition("/")
    try:
        client = connect(home)
    except MirrorUnavailable as error:
        raise UserError("MLflow registry cannot be reached", str(error), "start the server or mend its URI") from None
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    try:
        by_alias = wanted.startswith("@")
        get = client.get_model_version_by_alias if by_alias else client.get_model_version
        version = get(name, wanted.removeprefix("@"))
        mark = hashlib.sha256(f"{home.registry_uri} {version.source} {version.creation_timestamp}".encode()).hexdigest()
        target = home.cache / "models" / f"{name}-{version.version}-{mark[:12]}-{Path(inner).name}"
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            source = client.get_model_version_download_uri(name, version.version).rstrip("/")
            with tempfile.TemporaryDirectory(dir=target.parent) as part:
                got = download_artifacts(f"{source}/{inner}", dst_path=part, tracking_uri=home.mlflow_uri)
                os.replace(got, target)
        return target
    except (MlflowException, OSError) as error:
        mend = f"`sage-ray list` shows the versions ({_one_line(error)})"
        raise UserError("no such model, or it lacks the file", f"{uri}, {inner}", mend) from None


def experiment_id(client: MlflowClient, home: Home) -> str:
    """Id of the one experiment that holds all runs; created on first use, by whichever process comes first."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        # A server keeps artifacts where it likes; a database file would put them into the working directory.
        root = None if _is_http(home.mlflow_uri) else home.artifact_root.as_uri()
        with contextlib.suppress(MlflowException):
            return str(client.create_experiment(EXPERIMENT, artifact_location=root))
        found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        raise MirrorUnavailable(f"experiment {EXPERIMENT} cannot be created; was it deleted? restore it in MLflow")
    return str(found.experiment_id)


class Mirror:
    """Sends run folders of one home to MLflow. Safe to call from several processes and to kill at any point."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.uri = home.mlflow_uri
        self._client: MlflowClient | None = None
        self._experiment = ""
        self._parents: dict[str, str] = {}

    def push(self, folder: RunFolder) -> bool:
        """Bring MLflow up to what the folder says; returns whether there was anything to send.

        Raises:
            MirrorUnavailable: MLflow did not take it; what was sent is noted, a later call sends the rest.
        """
        with locked(folder.path / ".mirror.lock", LOCK_TIMEOUT_S) as held:
            if not held:
                raise MirrorUnavailable(f"another process is sending {folder.run_id}")
            return self._push(folder)

    def parent_run(self, name: str, *, state: State = "RUNNING", tags: Mapping[str, str] | None = None) -> str:
        """MLflow run id of a study (or final training), created if need be and put into `state` with `tags`.

        Raises:
            MirrorUnavailable: as `push`.
        """
        with self._refusals():
            run_id = self._find_parent(name)
            for key, value in (tags or {}).items():
                self.client.set_tag(run_id, key, value[: projection.MAX_TAG_CHARS])
            self.client.set_tag(run_id, "sage.state", state)
            self._set_status(run_id, projection.STATUS[state], None)
            return run_id

    def log_parent_artifact(self, name: str, file: Path, folder: str | None = None) -> None:
        """Attach a file to a study's run. Raises MirrorUnavailable as `push`."""
        with self._refusals():
            self.client.log_artifact(self._find_parent(name), str(file), folder)

    def up_to_date(self, folder: RunFolder) -> bool:
        """Whether `push` would send nothing; asks no server."""
        record = folder.read()
        return self._cursor(folder, record).matches(folder, record)

    @property
    def client(self) -> MlflowClient:
        """The MLflow client. Raises MirrorUnavailable if there is no reaching the store."""
        if self._client is None:
            client = connect(self.home)
            try:
                self._experiment = experiment_id(client, self.home)
            except MirrorUnavailable:
                raise
            except Exception as error:  # network and database errors of any kind
                raise MirrorUnavailable(f"{self.uri}: {_one_line(error)}") from error
            self._client = client
        return self._client

    def _push(self, folder: RunFolder) -> bool:
        if self.up_to_date(folder):
            return False
        record = folder.read()
        cursor_path = folder.path / "mlflow.json"
        cursor = self._cursor(folder, record)
        try:
            with self._refusals():
                self._send(folder, record, cursor)
        finally:
            if cursor.mlflow_run_id is not None:
                write_json(cursor_path, cursor.__dict__, durable=False)
        return True

    def _cursor(self, folder: RunFolder, record: RunRecord) -> Cursor:
        # The own database is named relative to the home, so that a home at another path need not be sent again.
        store = self.home.database.name if self.home.database is not None else self.uri
        return Cursor.load(folder.path / "mlflow.json", store, self._key(record))

    def _send(self, folder: RunFolder, record: RunRecord, cursor: Cursor) -> None:
        if cursor.mlflow_run_id is None:
            cursor.mlflow_run_id = self._find_or_create(record)
        run_id = cursor.mlflow_run_id
        if not cursor.params:
            self._send_params(run_id, projection.params(folder.config()))
            cursor.params = True
        lines = folder.metrics()
        if cursor.lines > len(lines) or projection.digest(lines[: cursor.lines]) != cursor.digest:
            cursor.lines = 0  # lines were replaced; what is sent again with its old time is stored once
        points = [point for line in lines[cursor.lines :] for point in projection.epoch_points(line)]
        tags = projection.tags(record)
        cleared = dict.fromkeys(cursor.tags.keys() - tags.keys(), "")
        points += projection.result_points(record, lines)
        self._send_batches(run_id, points, {**cleared, **tags, **projection.nonfinite_tag(lines)})
        cursor.lines, cursor.digest, cursor.tags = len(lines), projection.digest(lines), tags
        self._send_artifacts(folder, record, cursor, run_id)
        status = projection.STATUS[record.state]
        if cursor.status != status:
            self._set_status(run_id, status, projection.milliseconds(record.updated))
            cursor.status = status

    def _send_artifacts(self, folder: RunFolder, record: RunRecord, cursor: Cursor, run_id: str) -> None:
        stamps = projection.artifact_stamps(folder, record)
        for name, stamp in stamps.items():
            if cursor.artifacts.get(name) != stamp:
                self.client.log_artifact(run_id, str(folder.path / name), projection.artifact_folder(name))
                cursor.artifacts[name] = stamp
        cursor.artifacts = {name: cursor.artifacts[name] for name in stamps}

    def _key(self, record: RunRecord) -> str:
        text = f"{self.home.identity}:{record.run_id}:{record.created}:{record.config_hash}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def _find_or_create(self, record: RunRecord) -> str:
        key = self._key(record)
        client = self.client
        parent = record.parent or record.study
        # The key goes in with the creation, so a kill right after it leaves a run that the next attempt finds.
        found = self._find(key)
        if found is not None:
            return str(found.info.run_id)
        tags = {"sage.key": key, "sage.kind": "run", **projection.tags(record)}
        if parent is not None:
            tags["mlflow.parentRunId"] = self._find_parent(parent)
        run = client.create_run(
            self._experiment, start_time=projection.milliseconds(record.created), tags=tags, run_name=record.run_id
        )
        return str(run.info.run_id)

    def _find(self, key: str) -> Run | None:
        client = self.client
        runs = client.search_runs([self._experiment], filter_string=f"tags.`sage.key` = '{key}'", max_results=1)
        return runs[0] if runs else None

    def _find_parent(self, name: str) -> str:
        if name not in self._parents:
            client = self.client
            key = hashlib.sha256(f"{self.home.identity}:study:{name}".encode()).hexdigest()[:32]
            with locked(self.home.path / ".mlflow.lock", LOCK_TIMEOUT_S):
                found = self._find(key)
                if found is None:
                    tags = {"sage.key": key, "sage.kind": "study", "sage.study": name, "sage.state": "RUNNING"}
                    found = client.create_run(self._experiment, tags=tags, run_name=name)
            self._parents[name] = str(found.info.run_id)
        return self._parents[name]

    def _send_params(self, run_id: str, params: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        entries = [Param(name, value) for name, value in params.items()]
        for start in range(0, len(entries), MAX_PARAMS):
            self.client.log_batch(run_id, params=entries[start : start + MAX_PARAMS])

    def _send_batches(self, run_id: str, points: Sequence[projection.Point], tags: Mapping[str, str]) -> None:
        from mlflow.entities import Metric, RunTag

        metrics = [Metric(*point) for point in points]
        batch = [RunTag(name, value) for name, value in tags.items()]
        for start in range(0, max(1, len(metrics)), MAX_METRICS):
            self.client.log_batch(run_id, metrics=metrics[start : start + MAX_METRICS], tags=batch)
            batch = []

    def _set_status(self, run_id: str, status: str, end_ms: int | None) -> None:
        if status == "RUNNING":
            self.client.update_run(run_id, status=status)
        else:
            self.client.set_terminated(run_id, status, end_ms)

    @contextlib.contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except (MirrorUnavailable, UserError):
            raise
        except Exception as error:  # MLflow, requests, SQLAlchemy and the artifact store each have their own errors
            raise MirrorUnavailable(f"{self.uri}: {_one_line(error)}") from error


class Follower:
    """Mirrors one run while it runs, from a thread of its own; a slow or absent server never stalls the training.

    Args:
        home: of the run.
        folder: the run.
        say: told once if MLflow is away.
    """

    def __init__(self, home: Home, folder: RunFolder, say: Callable[[str], None]) -> None:
        self._home, self._folder, self._say = home, folder, say
        self._ending, self._said = threading.Event(), False
        self.sent = False
        self._thread = threading.Thread(target=self._work, name=f"mirror-{folder.run_id}", daemon=True)
        self._thread.start()

    def close(self, timeout_s: float = FLUSH_S) -> bool:
        """Send the end of the run, for at most `timeout_s`; returns whether MLflow has all of it."""
        self._ending.set()
        self._thread.join(timeout_s)
        if not self.sent:
            self._tell("it did not take the end of the run in time")
        return self.sent

    def _work(self) -> None:
        mirror = Mirror(self._home)
        wait_s, last = 0.0, False
        while not last:
            last = self._ending.wait(wait_s)
            try:
                mirror.push(self._folder)
                wait_s = POLL_S
                self.sent = last
            except (MirrorUnavailable, UserError) as error:
                self._tell(str(error))
                wait_s = min(MAX_BACKOFF_S, max(POLL_S, 2 * wait_s))

    def _tell(self, reason: str) -> None:
        if not self._said:
            self._said = True
            self._say(f"MLflow is behind ({reason}); the local record is complete, `sage-ray sync` sends it later")


@dataclass(frozen=True)
class SyncReport:
    """What `sync` did: run ids sent, already there, and found without a live process (now INTERRUPTED)."""

    sent: list[str]
    up_to_date: list[str]
    orphans: list[str]


def sync(home: Home, *, say: Callable[[str], None] | None = None) -> SyncReport:
    """Send to MLflow what it lacks of every run folder; runs whose process died are closed as INTERRUPTED.

    Raises:
        UserError: MLflow cannot be reached.
    """
    report = SyncReport([], [], [])
    mirror = Mirror(home)
    for run_id in home.run_ids():
        folder = RunFolder.open(home.runs, run_id)
        try:
            if folder.read().state == "RUNNING" and not folder.alive():
                folder.set_state("INTERRUPTED", error="its process died; run it again to go on from its last snapshot")
                report.orphans.append(run_id)
            (report.sent if mirror.push(folder) else report.up_to_date).append(run_id)
        except MirrorUnavailable as error:
            mend = "start the server or mend MLFLOW_TRACKING_URI, then sync again"
            raise UserError("MLflow did not take the runs", str(error), mend) from None
        except UserError as error:  # one damaged folder must not keep the others from being sent
            if say is not None:
                say(str(error))
    return report


def _prepare_import() -> None:
    # Defaults are 7 retries of up to 120 s each and reports to MLflow's makers.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")


def _is_http(uri: str) -> bool:
    return urlsplit(uri).scheme in ("http", "https")


def _probe(uri: str) -> None:
    if not _is_http(uri):
        return
    parts = urlsplit(uri)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        with socket.create_connection((parts.hostname or "", port), timeout=PROBE_TIMEOUT_S):
            return
    except (OSError, ValueError) as error:
        raise MirrorUnavailable(f"{uri}: {_one_line(error)}") from None


def _one_line(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
