"""What of a run folder belongs in MLflow, as plain data, and how much of it was sent already."""

from __future__ import annotations

import hashlib
import json
from calendar import timegm
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import strptime
from typing import Any

from sage_ray.config import ExperimentConfig, flatten
from sage_ray.files import read_json
from sage_ray.record.run_folder import RunFolder
from sage_ray.record.run_record import RunRecord, State

MAX_PARAM_CHARS, MAX_TAG_CHARS = 6000, 5000

STATUS: dict[State, str] = {
    "RUNNING": "RUNNING",
    "COMPLETE": "FINISHED",
    "FAIL": "FAILED",
    # Stopped on purpose: KILLED keeps them apart from finished runs in MLflow's own tables; tag sage.state says which.
    "PRUNED": "KILLED",
    "INTERRUPTED": "KILLED",
}
_FILES = ("config.yaml", "record.json", "metrics.jsonl", "per_image.parquet", "error.txt")
# Weights go to the registry once, for the model that is chosen, and not to every trial's artifacts.
_LEFT_OUT = "artifacts/model/"

Point = tuple[str, float, int, int]
"""A metric: name, value, time in ms, step."""


@dataclass
class Cursor:
    """What of a run folder is already in MLflow; valid for one store and one run.

    `uri` names the store: its URI, or the file's name of the home's own database.
    """

    uri: str
    key: str
    mlflow_run_id: str | None = None
    params: bool = False
    lines: int = 0
    digest: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    artifacts: dict[str, str] = field(default_factory=dict)
    status: str = ""

    @classmethod
    def load(cls, path: Path, uri: str, key: str) -> Cursor:
        """The cursor in `path` if it is of this store and run, else a fresh one."""
        try:
            value = read_json(path)
            if value["uri"] == uri and value["key"] == key:
                return cls(**{name: value[name] for name in cls.__dataclass_fields__})
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return cls(uri, key)

    def matches(self, folder: RunFolder, record: RunRecord) -> bool:
        """Whether all that the folder says has been sent."""
        lines = folder.metrics()
        return (
            self.mlflow_run_id is not None
            and self.params
            and (self.lines, self.digest) == (len(lines), digest(lines))
            and self.tags == tags(record)
            and self.status == STATUS[record.state]
            and self.artifacts == artifact_stamps(folder, record)
        )


def run_key(home: str, record: RunRecord) -> str:
    """Value of tag `sage.key` of a run of the home with that identity: a run made anew under the name has another."""
    return _key(f"{home}:{record.run_id}:{record.created}:{record.config_hash}")


def parent_key(home: str, name: str) -> str:
    """Value of tag `sage.key` of the run that holds those of a study or a final training."""
    return _key(f"{home}:study:{name}")


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def params(config: ExperimentConfig) -> dict[str, str]:
    """Flattened identity of a config. `runtime` is left out: it may change between attempts, a param must not."""
    return {name: _text(value)[:MAX_PARAM_CHARS] for name, value in flatten(config.identity()).items()}


def tags(record: RunRecord) -> dict[str, str]:
    """Tags of a run; fields that are None are left out."""
    values = {
        "sage.run_id": record.run_id,
        "sage.study": record.study,
        "sage.trial": record.trial,
        "sage.arm": record.arm,
        "sage.seed": record.seed,
        "sage.fold": record.fold,
        "sage.attempt": record.attempt,
        "sage.state": record.state,
        "sage.error": record.error,
        "sage.config_hash": record.config_hash,
        "sage.data_fingerprint": record.data_fingerprint,
        "sage.split_id": record.split_id,
        "sage.numerics": record.numerics or None,
        "sage.computed_on": record.computed_on or None,
        "sage.stage_keys": record.stage_keys or None,
        "sage.weights_sha": record.weights_sha,
        "sage.selected_epoch": record.selected_epoch,
        "sage.test_reads": record.test_reads,
        "sage.dirty": record.dirty,
        "mlflow.source.git.commit": record.commit,
        "mlflow.source.name": "sage_ray",
    }
    return {name: _text(value)[:MAX_TAG_CHARS] for name, value in values.items() if value is not None}


def epoch_points(line: Mapping[str, Any]) -> list[Point]:
    """All finite numbers of one line of metrics.jsonl, at its epoch and at the time kept with it."""
    stamp, step = int(line["time_ms"]), int(line["epoch"])
    return [(k, v, stamp, step) for k, v in _numbers(line).items() if k not in ("time_ms", "epoch")]


def result_points(record: RunRecord, lines: Sequence[Mapping[str, Any]]) -> list[Point]:
    """Scores of the selected epoch as `selected/...` and the run's totals, once it has ended."""
    if record.state == "RUNNING" or not lines:
        return []
    result = {f"selected/{name}": value for name, value in _numbers(record.selected_metrics).items()}
    result |= {"total/seconds": record.seconds, "total/gpu_seconds": record.gpu_seconds}
    step = record.selected_epoch or record.epoch
    return [(name, value, int(lines[-1]["time_ms"]), step) for name, value in result.items()]


def nonfinite_tag(lines: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Which metrics were inf or nan, and when: MLflow would store inf as 1.8e308."""
    named = [f"{name}@{line['epoch']}" for line in lines for name, value in line.items() if value is None]
    return {"sage.nonfinite": " ".join(named)[:MAX_TAG_CHARS]} if named else {}


def artifact_stamps(folder: RunFolder, record: RunRecord) -> dict[str, str]:
    """Files to send, by path in the run folder, with a stamp that changes when they do; none while it runs."""
    if record.state == "RUNNING":
        return {}
    files = [folder.path / name for name in _FILES] + sorted(folder.artifacts.rglob("*"))
    stamps: dict[str, str] = {}
    for path in files:
        name = path.relative_to(folder.path).as_posix()
        if path.is_file() and not name.startswith(_LEFT_OUT) and not path.name.startswith("."):
            status = path.stat()
            stamps[name] = f"{status.st_size}-{status.st_mtime_ns}"
    return stamps


def artifact_folder(name: str) -> str | None:
    """Folder under MLflow's artifacts for a file of the run folder; None for the top."""
    parent = Path(name.removeprefix("artifacts/")).parent.as_posix()
    return None if parent == "." else parent


def digest(lines: Sequence[Mapping[str, Any]]) -> str:
    """16 hex digits over lines of metrics.jsonl; empty for none."""
    if not lines:
        return ""
    return hashlib.sha256("".join(json.dumps(line) for line in lines).encode()).hexdigest()[:16]


def milliseconds(stamp: str) -> int:
    """Unix time in ms of a record's time text."""
    return timegm(strptime(stamp, "%Y-%m-%dT%H:%M:%SZ")) * 1000


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {k: float(v) for k, v in values.items() if isinstance(v, int | float) and not isinstance(v, bool)}
