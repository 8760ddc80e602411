"""What MLflow has of a study, a final training or single runs of this home, and its removal there."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from sage_ray.record import mlflow_rows
from sage_ray.record.home import Home
from sage_ray.record.mlflow_client import connect, find_experiment, unavailable
from sage_ray.record.run_record import RunRecord

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

PAGE, PAGES = 1000, 1000


@dataclass(frozen=True)
class MirroredRun:
    """A run as MLflow has it: its id there, and the folder of its artifacts if that lies in this home."""

    mlflow_id: str
    artifacts: Path | None


def find_in_mlflow(
    home: Home, *, parent: str | None = None, records: Sequence[RunRecord] = (), kept: Collection[str] = ()
) -> list[MirroredRun]:
    """The runs that MLflow has of a study or final training, or of single runs; a parent comes after its runs.

    Args:
        home: whose runs they are; those of another home in the same server are never found.
        parent: name of the study or final training.
        records: of single runs.
        kept: ids of runs (ours) that are left out; the parent is then left out too.

    Raises:
        MirrorUnavailable: MLflow cannot be reached.
    """
    if home.database is not None and not home.database.is_file():
        return []
    with _refusals(home):
        client = connect(home)
        experiment = find_experiment(client)
        if experiment is None:
            return []
        where = str(experiment.experiment_id)
        keys = [mlflow_rows.run_key(home.identity_in(home.mlflow_uri), record) for record in records]
        found = [run for key in keys for run in _search(client, where, f"tags.`sage.key` = '{key}'")]
        if parent is not None:
            key = mlflow_rows.parent_key(home.identity_in(home.mlflow_uri), parent)
            for above in _search(client, where, f"tags.`sage.key` = '{key}'"):
                below = list(_search(client, where, f"tags.`mlflow.parentRunId` = '{above.info.run_id}'"))
                found += below + [above] * (not any(_name(run) in kept for run in below))
        return [_mirrored(run, home) for run in found if _name(run) not in kept]


def delete_from_mlflow(home: Home, runs: Sequence[MirroredRun]) -> None:
    """Delete runs in MLflow, and their artifacts where these lie in this home; harmless twice.

    MLflow marks them as deleted; `mlflow gc` ends them.

    Raises:
        MirrorUnavailable: MLflow cannot be reached; a later call deletes the rest.
    """
    if not runs:
        return
    with _refusals(home):
        client = connect(home)
        for run in runs:
            if run.artifacts is not None:  # first: a run that is still found is finished by the next call
                shutil.rmtree(run.artifacts.parent, ignore_errors=True)
            client.delete_run(run.mlflow_id)


def _search(client: MlflowClient, experiment: str, query: str) -> Iterator[Run]:
    token = None
    for _ in range(PAGES):
        page = client.search_runs([experiment], filter_string=query, max_results=PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _name(run: Run) -> str:
    return str(run.data.tags.get("sage.run_id", ""))


def _mirrored(run: Run, home: Home) -> MirroredRun:
    mlflow_id = str(run.info.run_id)
    folder = Path(unquote(urlsplit(run.info.artifact_uri or "").path))
    # MLflow lays them out as ROOT/RUN/artifacts; anything else is not ours to remove.
    own = home.database is not None and folder == home.artifact_root / mlflow_id / "artifacts"
    return MirroredRun(mlflow_id, folder if own else None)


@contextlib.contextmanager
def _refusals(home: Home) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # MLflow, requests and SQLAlchemy each have their own errors
        raise unavailable(home.mlflow_uri, error) from error
