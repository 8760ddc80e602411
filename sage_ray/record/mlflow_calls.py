"""What is asked of MLflow for one run, in as few calls as its limits allow."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sage_ray.record.mlflow_inputs import DataInput
from sage_ray.record.mlflow_rows import Point

if TYPE_CHECKING:
    from mlflow import MlflowClient

NOTE = "mlflow.note.content"
"""Tag that MLflow shows as the description of a run."""
SIGNED = "<!-- by sage-ray -->"
"""Last line of a description that was not written by hand; it is not shown."""
OF_STUDIES = ("best/", "reference/", "test/")
"""How the metrics of a study's run begin that may cease to hold."""
# Limits of MLflow's log_batch.
MAX_METRICS, MAX_PARAMS = 900, 100
TRIES = 3
_TWICE = ("IntegrityError", "UniqueViolation")
"""How the drivers of databases call a row that is there already, in what MLflow says of it."""


def send_batches(
    client: MlflowClient,
    run_id: str,
    points: Sequence[Point],
    tags: Mapping[str, str],
    params: Mapping[str, str] | None = None,
) -> None:
    """Send metrics, tags and params of a run."""
    from mlflow.entities import Metric, Param, RunTag

    metrics = [Metric(*point) for point in points]
    entries = [Param(name, value) for name, value in (params or {}).items()]
    batch = [RunTag(name, value) for name, value in tags.items()]
    calls = max(1, math.ceil(len(metrics) / MAX_METRICS), math.ceil(len(entries) / MAX_PARAMS))
    for k in range(calls):
        own = metrics[k * MAX_METRICS : (k + 1) * MAX_METRICS]
        client.log_batch(run_id, own, entries[k * MAX_PARAMS : (k + 1) * MAX_PARAMS], batch)
        batch = []


def send_inputs(client: MlflowClient, run_id: str, inputs: Sequence[DataInput]) -> None:
    """Tell which data a run has; harmless twice."""
    from mlflow.entities import Dataset, DatasetInput, InputTag
    from mlflow.exceptions import MlflowException

    told = [
        DatasetInput(
            Dataset(
                each.name,
                each.digest,
                each.source_type,
                json.dumps({"uri": each.source}),
                profile=json.dumps({"images": each.images}) if each.images else None,
            ),
            [InputTag("mlflow.data.context", each.context)],
        )
        for each in inputs
    ]
    for left in reversed(range(TRIES)):
        try:
            return client.log_inputs(run_id, told)
        except MlflowException as error:
            # Two runs that begin together both find no entry of their data set, and one of them is refused its own.
            if not left or not any(word in str(error) for word in _TWICE):
                raise


def unknown_params(client: MlflowClient, run_id: str, params: Mapping[str, str]) -> dict[str, str]:
    """Those of some params that MLflow does not have: one that it has it never takes again with another value."""
    stored = client.get_run(run_id).data.params
    return {name: value for name, value in params.items() if name not in stored}


def is_by_hand(client: MlflowClient, run_id: str, sent: str) -> bool:
    """Whether a person wrote the description of a run that MLflow has: it is not empty, and not the one that was sent.

    Where nothing is known of what was sent (""), one that ends with `SIGNED` was not written by hand.
    """
    stored = client.get_run(run_id).data.tags.get(NOTE, "")
    return bool(stored) and stored != sent and (bool(sent) or not stored.endswith(SIGNED))


def with_withdrawn(client: MlflowClient, run_id: str, points: Sequence[Point]) -> list[Point]:
    """The numbers of a study's run, and NaN in place of each of `OF_STUDIES` that is there and holds no more.

    MLflow keeps a metric for good: the test score of a trial that was the best one would pass for that of the next.
    """
    stored, now = client.get_run(run_id).data.metrics, {name for name, *_ in points}
    gone = [name for name in stored if name.startswith(OF_STUDIES) and name not in now and math.isfinite(stored[name])]
    time_ms, step = points[0][2:] if points else (0, 0)
    return [*points, *((name, math.nan, time_ms, step) for name in gone)]


def rename(client: MlflowClient, run_id: str, before: str, name: str) -> None:
    """Call a run otherwise, unless a person has given it a name."""
    if client.get_run(run_id).info.run_name == before:
        client.update_run(run_id, name=name)


def set_status(client: MlflowClient, run_id: str, status: str, end_ms: int | None) -> None:
    """Put a run into one of MLflow's states."""
    if status == "RUNNING":
        client.update_run(run_id, status=status)
    else:
        client.set_terminated(run_id, status, end_ms)
