"""The mirror: projects run folders into MLflow. It is the only writer of runs there and can be repeated at any time.

What a run folder says is the truth; `mlflow.json` in it (the cursor) says what has been sent. Nothing is lost when the
server is away: `sync` sends the rest later. Only `MlflowClient` is used, never MLflow's global active run.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sage_ray.errors import UserError
from sage_ray.files import write_json
from sage_ray.locks import locked
from sage_ray.record import mlflow_rows
from sage_ray.record.home import Home
from sage_ray.record.mlflow_client import LOCK_TIMEOUT_S, MirrorUnavailable, connect, experiment_id, one_line_of
from sage_ray.record.mlflow_rows import Cursor
from sage_ray.record.run_folder import RunFolder
from sage_ray.record.run_record import RunRecord, State

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

POLL_S = 2.0
FLUSH_S = 20.0
MAX_BACKOFF_S = 30.0
# Limits of MLflow's log_batch.
MAX_METRICS, MAX_PARAMS = 900, 100


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
                self.client.set_tag(run_id, key, value[: mlflow_rows.MAX_TAG_CHARS])
            self.client.set_tag(run_id, "sage.state", state)
            self._set_status(run_id, mlflow_rows.STATUS[state], None)
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
                raise MirrorUnavailable(f"{self.uri}: {one_line_of(error)}") from error
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
            self._send_params(run_id, mlflow_rows.params(folder.config()))
            cursor.params = True
        lines = folder.metrics()
        if cursor.lines > len(lines) or mlflow_rows.digest(lines[: cursor.lines]) != cursor.digest:
            cursor.lines = 0  # lines were replaced; what is sent again with its old time is stored once
        points = [point for line in lines[cursor.lines :] for point in mlflow_rows.epoch_points(line)]
        tags = mlflow_rows.tags(record)
        cleared = dict.fromkeys(cursor.tags.keys() - tags.keys(), "")
        points += mlflow_rows.result_points(record, lines)
        self._send_batches(run_id, points, {**cleared, **tags, **mlflow_rows.nonfinite_tag(lines)})
        cursor.lines, cursor.digest, cursor.tags = len(lines), mlflow_rows.digest(lines), tags
        self._send_artifacts(folder, record, cursor, run_id)
        status = mlflow_rows.STATUS[record.state]
        if cursor.status != status:
            self._set_status(run_id, status, mlflow_rows.milliseconds(record.updated))
            cursor.status = status

    def _send_artifacts(self, folder: RunFolder, record: RunRecord, cursor: Cursor, run_id: str) -> None:
        stamps = mlflow_rows.artifact_stamps(folder, record)
        for name, stamp in stamps.items():
            if cursor.artifacts.get(name) != stamp:
                self.client.log_artifact(run_id, str(folder.path / name), mlflow_rows.artifact_folder(name))
                cursor.artifacts[name] = stamp
        cursor.artifacts = {name: cursor.artifacts[name] for name in stamps}

    def _key(self, record: RunRecord) -> str:
        return mlflow_rows.run_key(self.home.identity, record)

    def _find_or_create(self, record: RunRecord) -> str:
        key = self._key(record)
        client = self.client
        parent = record.parent or record.study
        # The key goes in with the creation, so a kill right after it leaves a run that the next attempt finds.
        found = self._find(key)
        if found is not None:
            return str(found.info.run_id)
        tags = {"sage.key": key, "sage.kind": "run", **mlflow_rows.tags(record)}
        if parent is not None:
            tags["mlflow.parentRunId"] = self._find_parent(parent)
        run = client.create_run(
            self._experiment, start_time=mlflow_rows.milliseconds(record.created), tags=tags, run_name=record.run_id
        )
        return str(run.info.run_id)

    def _find(self, key: str) -> Run | None:
        client = self.client
        runs = client.search_runs([self._experiment], filter_string=f"tags.`sage.key` = '{key}'", max_results=1)
        return runs[0] if runs else None

    def _find_parent(self, name: str) -> str:
        if name not in self._parents:
            client = self.client
            key = mlflow_rows.parent_key(self.home.identity, name)
            with locked(self.home.path / ".mlflow.lock", LOCK_TIMEOUT_S) as held:
                if not held:
                    raise MirrorUnavailable(f"another process is making the parent run of {name}")
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

    def _send_batches(self, run_id: str, points: Sequence[mlflow_rows.Point], tags: Mapping[str, str]) -> None:
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
            raise MirrorUnavailable(f"{self.uri}: {one_line_of(error)}") from error


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
