"""The mirror: projects run folders into MLflow. It is the only writer of runs there and can be repeated at any time.

What a run folder says is the truth; `mlflow.json` in it (the cursor) says what has been sent. Nothing is lost when the
server is away: `sync` sends the rest later. Only `MlflowClient` is used, never MLflow's global active run.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sage_ray.errors import UserError
from sage_ray.locks import locked
from sage_ray.record import mlflow_rows
from sage_ray.record.home import Home
from sage_ray.record.mlflow_breaker import Breaker
from sage_ray.record.mlflow_client import (
    LOCK_TIMEOUT_S,
    MirrorAway,
    MirrorUnavailable,
    chosen_experiment,
    connect,
    experiment_id,
    is_gone,
    unavailable,
)
from sage_ray.record.mlflow_rows import Cursor, ParentFacts, hide_password
from sage_ray.record.run_folder import RunFolder
from sage_ray.record.run_record import RunRecord, State
from sage_ray.record.store_uris import store_mark

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

CURSOR = "mlflow.json"
"""In the folder of a run, a study or a final training: what of it has been sent."""
PARENT_TAG = "mlflow.parentRunId"
# Limits of MLflow's log_batch.
MAX_METRICS, MAX_PARAMS = 900, 100
RUNS_AT_ONCE = 200


class Mirror:
    """Sends run folders of one home to MLflow. Safe to call from several processes and to kill at any point.

    Args:
        home: of the runs.
        insist: ask MLflow even if it did not answer lately (`mlflow_breaker`), and take out of its trash what was
            deleted there.
    """

    def __init__(self, home: Home, *, insist: bool = False) -> None:
        self.home = home
        self.uri = home.mlflow_uri
        # The own database is named relative to the home, so that a home at another path need not be sent again.
        own = home.database.name if home.database is not None else self.uri
        self.store = store_mark(own, chosen_experiment())
        self.breaker = Breaker(home.path, self.store)
        self._insist = insist
        self._client: MlflowClient | None = None
        self._experiment = ""
        self._parents: dict[str, str] = {}

    def push(self, folder: RunFolder) -> bool:
        """Bring MLflow up to what the folder says; returns whether there was anything to send.

        Raises:
            MirrorUnavailable: MLflow did not take it; what was sent is noted, a later call sends the rest.
        """
        with self._alone(folder.path, folder.run_id):
            return self._push(folder)

    def renew(self, folder: RunFolder, there: Mapping[str, Run]) -> bool:
        """`push`, once what the cursor says has been held against what MLflow really has.

        Args:
            folder: the run.
            there: what `stored_runs` found.

        Raises:
            MirrorUnavailable: as `push`.
        """
        with self._alone(folder.path, folder.run_id):
            with self._refusals():
                changed = self._mend_cursor(folder, there)
            return self._push(folder) or changed

    def send_parent(self, facts: ParentFacts, there: Mapping[str, Run] | None = None) -> bool:
        """Bring the run of a study or final training up to `facts`; returns whether there was anything to send.

        Args:
            facts: what it shall say.
            there: what `stored_runs` found; None to believe the cursor.

        Raises:
            MirrorUnavailable: as `push`.
        """
        facts.folder.mkdir(parents=True, exist_ok=True)
        with self._alone(facts.folder, facts.name), self._refusals():
            hide_password(facts.folder / CURSOR)
            cursor = self.parent_cursor(facts)
            stored = None if there is None else there.get(cursor.mlflow_run_id or "")
            if stored is not None and stored.info.lifecycle_stage == "active":
                self._parents[facts.name] = str(stored.info.run_id)
            run_id = self._find_parent(facts.name)
            if cursor.mlflow_run_id != run_id or (stored is not None and _differs(stored, cursor)):
                cursor = Cursor(self.store, cursor.key, run_id)
            restored = stored is not None and stored.info.lifecycle_stage == "deleted"
            try:
                return self._send_facts(run_id, facts, cursor) or restored
            finally:
                cursor.save(facts.folder / CURSOR)

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

    def stored_runs(self, run_ids: Sequence[str]) -> dict[str, Run]:
        """Those of some MLflow run ids that the store has, deleted ones too; many are asked for in one call.

        Raises:
            MirrorUnavailable: as `push`.
        """
        from mlflow.entities import ViewType

        found: dict[str, Run] = {}
        with self._refusals():
            client = self.client
            for start in range(0, len(run_ids), RUNS_AT_ONCE):
                listed = ", ".join(f"'{run_id}'" for run_id in run_ids[start : start + RUNS_AT_ONCE])
                runs = client.search_runs(
                    [self._experiment], f"attributes.run_id IN ({listed})", ViewType.ALL, max_results=RUNS_AT_ONCE
                )
                found |= {str(run.info.run_id): run for run in runs}
        return found

    def up_to_date(self, folder: RunFolder) -> bool:
        """Whether `push` would send nothing; asks no server."""
        record = folder.read()
        return self.cursor(folder, record).matches(folder, record)

    def cursor(self, folder: RunFolder, record: RunRecord) -> Cursor:
        """What is known to have been sent of a run."""
        return Cursor.load(folder.path / CURSOR, self.store, self._key(record))

    def parent_cursor(self, facts: ParentFacts) -> Cursor:
        """What is known to have been sent of a study or final training."""
        return Cursor.load(facts.folder / CURSOR, self.store, self._parent_key(facts.name))

    @property
    def client(self) -> MlflowClient:
        """The MLflow client. Raises MirrorUnavailable if there is no reaching the store."""
        if self._client is None:
            client = connect(self.home)
            try:
                self._experiment = experiment_id(client, self.home, restore=self._insist)
            except Exception as error:  # network and database errors of any kind
                raise unavailable(self.uri, error) from error
            self._client = client
        return self._client

    @contextlib.contextmanager
    def _alone(self, folder: Path, name: str) -> Iterator[None]:
        with locked(folder / ".mirror.lock", LOCK_TIMEOUT_S) as held:
            if not held:
                raise MirrorUnavailable(f"another process is sending {name}")
            yield

    def _push(self, folder: RunFolder) -> bool:
        hide_password(folder.path / CURSOR)
        if self.up_to_date(folder):
            return False
        record = folder.read()
        cursor = self.cursor(folder, record)
        with self._refusals():
            try:
                self._send(folder, record, cursor)
            except Exception as error:
                if not is_gone(error):
                    raise
                cursor = Cursor(self.store, cursor.key)  # the run was purged: all of it is sent once more
                self._send(folder, record, cursor)
            finally:
                cursor.save(folder.path / CURSOR)
        return True

    def _mend_cursor(self, folder: RunFolder, there: Mapping[str, Run]) -> bool:
        """Forget what the cursor says beyond what MLflow has; returns whether a run in MLflow had to be changed."""
        record = folder.read()
        cursor = self.cursor(folder, record)
        if cursor.mlflow_run_id is None:
            return False
        stored = there.get(cursor.mlflow_run_id)
        if stored is None:
            (folder.path / CURSOR).unlink(missing_ok=True)
            return False
        changed = stored.info.lifecycle_stage == "deleted"
        if changed:
            self.client.restore_run(cursor.mlflow_run_id)
        if _differs(stored, cursor):
            Cursor(self.store, cursor.key, cursor.mlflow_run_id).save(folder.path / CURSOR)
        parent = record.parent or record.study
        if parent is not None and stored.data.tags.get(PARENT_TAG) != self._find_parent(parent):
            self.client.set_tag(cursor.mlflow_run_id, PARENT_TAG, self._find_parent(parent))
            changed = True
        return changed

    def _send_facts(self, run_id: str, facts: ParentFacts, cursor: Cursor) -> bool:
        tags = {**facts.tags, "sage.kind": facts.kind, "sage.state": facts.state}
        tags = {name: value[: mlflow_rows.MAX_TAG_CHARS] for name, value in tags.items()}
        stamps = {file.name: mlflow_rows.stamp(file) for file in facts.files if file.is_file()}
        status = mlflow_rows.STATUS[facts.state]
        # Without its time: the same best trial is not told twice.
        digest = mlflow_rows.digest([{name: value} for name, value, *_ in facts.best])
        before = (cursor.tags, cursor.digest, cursor.artifacts, cursor.status)
        if before == (tags, digest, stamps, status):
            return False
        points = [] if digest == cursor.digest else facts.best
        cleared = dict.fromkeys(cursor.tags.keys() - tags.keys(), "")
        self._send_batches(run_id, points, {**cleared, **tags})
        cursor.tags, cursor.digest, cursor.params = tags, digest, True
        for file in facts.files:
            if file.name in stamps and cursor.artifacts.get(file.name) != stamps[file.name]:
                self.client.log_artifact(run_id, str(file))
                cursor.artifacts[file.name] = stamps[file.name]
        cursor.artifacts = stamps
        if cursor.status != status:
            self._set_status(run_id, status, None)
            cursor.status = status
        return True

    def _send(self, folder: RunFolder, record: RunRecord, cursor: Cursor) -> None:
        if cursor.mlflow_run_id is None:
            cursor.mlflow_run_id = self._find_or_create(record)
        run_id = cursor.mlflow_run_id
        params = {} if cursor.params else mlflow_rows.params(folder.config())
        lines = folder.metrics()
        if cursor.lines > len(lines) or mlflow_rows.digest(lines[: cursor.lines]) != cursor.digest:
            cursor.lines = 0  # lines were replaced; what is sent again with its old time is stored once
        points = [point for line in lines[cursor.lines :] for point in mlflow_rows.epoch_points(line)]
        tags = mlflow_rows.tags(record)
        cleared = dict.fromkeys(cursor.tags.keys() - tags.keys(), "")
        points += mlflow_rows.objective_points(record, lines, self.home, cursor.lines)
        points += mlflow_rows.result_points(record, lines)
        self._send_batches(run_id, points, {**cleared, **tags, **mlflow_rows.nonfinite_tag(lines)}, params)
        cursor.params = True
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
        return mlflow_rows.run_key(self.home.identity_in(self.uri), record)

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
            tags[PARENT_TAG] = self._find_parent(parent)
        run = client.create_run(
            self._experiment, start_time=mlflow_rows.milliseconds(record.created), tags=tags, run_name=record.run_id
        )
        return str(run.info.run_id)

    def _find(self, key: str) -> Run | None:
        """The run of a key; one in MLflow's trash is restored by a mirror that insists, and overlooked by any other."""
        from mlflow.entities import ViewType

        client = self.client
        view = ViewType.ALL if self._insist else ViewType.ACTIVE_ONLY
        runs = client.search_runs([self._experiment], f"tags.`sage.key` = '{key}'", view)
        active = [run for run in runs if run.info.lifecycle_stage == "active"]
        for run in runs if not active else ():
            client.restore_run(run.info.run_id)
            return run
        return active[0] if active else None

    def _parent_key(self, name: str) -> str:
        return mlflow_rows.parent_key(self.home.identity_in(self.uri), name)

    def _find_parent(self, name: str) -> str:
        if name not in self._parents:
            client = self.client
            key = self._parent_key(name)
            with locked(self.home.path / ".mlflow.lock", LOCK_TIMEOUT_S) as held:
                if not held:
                    raise MirrorUnavailable(f"another process is making the parent run of {name}")
                found = self._find(key)
                if found is None:
                    tags = {"sage.key": key, "sage.kind": "study", "sage.study": name, "sage.state": "RUNNING"}
                    found = client.create_run(self._experiment, tags=tags, run_name=name)
            self._parents[name] = str(found.info.run_id)
        return self._parents[name]

    def _send_batches(
        self,
        run_id: str,
        points: Sequence[mlflow_rows.Point],
        tags: Mapping[str, str],
        params: Mapping[str, str] | None = None,
    ) -> None:
        """Send everything in as few calls as MLflow's limits allow."""
        from mlflow.entities import Metric, Param, RunTag

        metrics = [Metric(*point) for point in points]
        entries = [Param(name, value) for name, value in (params or {}).items()]
        batch = [RunTag(name, value) for name, value in tags.items()]
        calls = max(1, math.ceil(len(metrics) / MAX_METRICS), math.ceil(len(entries) / MAX_PARAMS))
        for k in range(calls):
            own = metrics[k * MAX_METRICS : (k + 1) * MAX_METRICS]
            self.client.log_batch(run_id, own, entries[k * MAX_PARAMS : (k + 1) * MAX_PARAMS], batch)
            batch = []

    def _set_status(self, run_id: str, status: str, end_ms: int | None) -> None:
        if status == "RUNNING":
            self.client.update_run(run_id, status=status)
        else:
            self.client.set_terminated(run_id, status, end_ms)

    @contextlib.contextmanager
    def _refusals(self) -> Iterator[None]:
        """Turns errors of MLflow into MirrorUnavailable, and notes for all processes whether it answers."""
        if not self._insist:
            self.breaker.check()
        asked = time.time()
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # MLflow, requests, SQLAlchemy and the artifact store each have their own errors
            refused = unavailable(self.uri, error)
            if isinstance(refused, MirrorAway):
                refused = MirrorAway(self.breaker.trip(str(refused), asked))
            raise refused from error
        self.breaker.reset()


def _differs(stored: Run, cursor: Cursor) -> bool:
    """Whether MLflow lacks what the cursor says was sent, as after a backup of its database was restored."""
    tags = stored.data.tags
    lost = cursor.status != stored.info.status or (cursor.lines > 0 and not stored.data.metrics)
    return lost or any(value and tags.get(name) != value for name, value in cursor.tags.items())
