"""The mirror: projects run folders into MLflow. It is the only writer of runs there and can be repeated at any time.

What a run folder says is the truth; `mlflow.json` in it (the cursor) says what has been sent. Nothing is lost when the
server is away: `sync` sends the rest later. Only `MlflowClient` is used, never MLflow's global active run.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sage_ray.errors import UserError
from sage_ray.locks import locked
from sage_ray.record import mlflow_calls, mlflow_rows
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
from sage_ray.record.mlflow_inputs import data_inputs
from sage_ray.record.mlflow_params import asked_params, run_name, shown_params
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
REPORTS = "report"
"""Folder among the artifacts of a study's run that holds its reports."""
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
            mlflow_calls.set_status(self.client, run_id, mlflow_rows.STATUS[state], None)
            return run_id

    def log_parent_artifact(self, name: str, file: Path, folder: str | None = None) -> None:
        """Attach a file to a study's run. Raises MirrorUnavailable as `push`."""
        with self._refusals():
            self.client.log_artifact(self._find_parent(name), str(file), folder)

    def send_report(self, name: str, file: Path, sent: str, pictures: Sequence[Path] = ()) -> str | None:
        """Put a file under `report/` of the run of a study or final training, unless it is there.

        Args:
            name: of the study or final training.
            file, pictures: to send; the pictures that it refers to lie below its folder.
            sent: what the last call for it returned; "" if there was none.

        Returns:
            What tells the next call that all this is there as it is now; None if MLflow has no such run yet.

        Raises:
            MirrorUnavailable: as `push`.
        """
        with self._refusals():
            if (found := self._find(self._parent_key(name))) is None:
                return None
            run_id, files = str(found.info.run_id), (*pictures, file)
            mark = " ".join([self.store, run_id, *map(mlflow_rows.stamp, files)])
            for each in files if mark != sent else ():
                place = Path(REPORTS) / each.parent.relative_to(file.parent)
                self.client.log_artifact(run_id, str(each), place.as_posix())
            return mark

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
        asked, name = asked_params(record, self.home.studies), run_name(record, self.home.studies)
        return self.cursor(folder, record).matches(folder, record, asked, name)

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
        with locked(folder / mlflow_rows.SENDING_LOCK, LOCK_TIMEOUT_S) as held:
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
        status, asked = mlflow_rows.STATUS[facts.state], list(facts.params)
        # Without its time: the same numbers are not told twice.
        digest = mlflow_rows.digest([{name: value} for name, value, *_ in facts.points])
        before = (cursor.tags, cursor.digest, cursor.artifacts, cursor.status, cursor.asked, cursor.note)
        if before == (tags, digest, stamps, status, asked, facts.note):
            return False
        points = [] if digest == cursor.digest else mlflow_calls.with_withdrawn(self.client, run_id, facts.points)
        cleared = dict.fromkeys(cursor.tags.keys() - tags.keys(), "")
        by_hand = facts.note != cursor.note and mlflow_calls.is_by_hand(self.client, run_id, cursor.note)
        noted = {} if by_hand or facts.note == cursor.note else {mlflow_calls.NOTE: facts.note}
        params = {} if cursor.asked == asked else mlflow_calls.unknown_params(self.client, run_id, facts.params)
        mlflow_calls.send_batches(self.client, run_id, points, {**cleared, **tags, **noted}, params)
        cursor.tags, cursor.digest, cursor.params = tags, digest, True
        cursor.asked, cursor.note = asked, facts.note
        for file in facts.files:
            if file.name in stamps and cursor.artifacts.get(file.name) != stamps[file.name]:
                self.client.log_artifact(run_id, str(file))
                cursor.artifacts[file.name] = stamps[file.name]
        cursor.artifacts = stamps
        if cursor.status != status:
            mlflow_calls.set_status(self.client, run_id, status, None)
            cursor.status = status
        return True

    def _send(self, folder: RunFolder, record: RunRecord, cursor: Cursor) -> None:
        made = False
        if cursor.mlflow_run_id is None:
            cursor.mlflow_run_id, made = self._find_or_create(record)
        run_id, name = cursor.mlflow_run_id, run_name(record, self.home.studies)
        cursor.name = name if made else cursor.name
        asked = asked_params(record, self.home.studies)
        if asked is not None and cursor.name not in ("", name):  # its arm has another label by now
            mlflow_calls.rename(self.client, run_id, cursor.name, name)
            cursor.name = name
        asked = (cursor.asked or []) if asked is None else asked
        with_params = cursor.asked != asked or not cursor.params
        with_inputs = cursor.inputs != (record.data_fingerprint or "")
        config = folder.config() if with_params or with_inputs else None
        params: dict[str, str] = {}
        if config is not None and with_params:
            params = shown_params(config, record, self.home.studies)
            params = params if made else mlflow_calls.unknown_params(self.client, run_id, params)
        lines = folder.metrics()
        if cursor.lines > len(lines) or mlflow_rows.digest(lines[: cursor.lines]) != cursor.digest:
            cursor.lines = 0  # lines were replaced; what is sent again with its old time is stored once
        points = [point for line in lines[cursor.lines :] for point in mlflow_rows.epoch_points(line)]
        tags = mlflow_rows.tags(record)
        cleared = dict.fromkeys(cursor.tags.keys() - tags.keys(), "")
        points += mlflow_rows.objective_points(record, lines, self.home, cursor.lines)
        points += mlflow_rows.result_points(folder, record, lines)
        tags_now = {**cleared, **tags, **mlflow_rows.nonfinite_tag(lines)}
        mlflow_calls.send_batches(self.client, run_id, points, tags_now, params)
        cursor.params, cursor.asked = True, asked
        cursor.lines, cursor.digest, cursor.tags = len(lines), mlflow_rows.digest(lines), tags
        if config is not None and with_inputs:
            mlflow_calls.send_inputs(self.client, run_id, data_inputs(config, record))
            cursor.inputs = record.data_fingerprint or ""
        self._send_artifacts(folder, record, cursor, run_id)
        status = mlflow_rows.STATUS[record.state]
        if cursor.status != status:
            mlflow_calls.set_status(self.client, run_id, status, mlflow_rows.milliseconds(record.updated))
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

    def _find_or_create(self, record: RunRecord) -> tuple[str, bool]:
        """MLflow's id of a run, and whether the run was made just now."""
        key = self._key(record)
        client = self.client
        parent = record.parent or record.study
        # The key goes in with the creation, so a kill right after it leaves a run that the next attempt finds.
        found = self._find(key)
        if found is not None:
            return str(found.info.run_id), False
        tags = {"sage.key": key, "sage.kind": "run", **mlflow_rows.tags(record)}
        if parent is not None:
            tags[PARENT_TAG] = self._find_parent(parent)
        began, name = mlflow_rows.milliseconds(record.created), run_name(record, self.home.studies)
        run = client.create_run(self._experiment, start_time=began, tags=tags, run_name=name)
        return str(run.info.run_id), True

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
