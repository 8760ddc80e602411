"""What of a run folder belongs in MLflow, as plain data, and how much of it was sent already."""

from __future__ import annotations

import hashlib
import json
import math
from calendar import timegm
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import strptime
from typing import Any, Literal

from sage_ray.files import read_json, write_json
from sage_ray.metrics.reduction import reduce_scores
from sage_ray.record.home import Home
from sage_ray.record.mlflow_params import objective_of, text_of
from sage_ray.record.mlflow_scores import locked_scores
from sage_ray.record.run_folder import RunFolder
from sage_ray.record.run_record import RunRecord, State
from sage_ray.record.store_uris import store_mark

MAX_TAG_CHARS = 5000
SENDING_LOCK = ".mirror.lock"
"""In a folder: held by the process that sends it to MLflow."""

STATUS: dict[State, str] = {
    "RUNNING": "RUNNING",
    "COMPLETE": "FINISHED",
    "FAIL": "FAILED",
    # Stopped on purpose: KILLED keeps them apart from finished runs in MLflow's own tables; tag sage.state says which.
    "PRUNED": "KILLED",
    "INTERRUPTED": "KILLED",
}
_LATER = ("asked", "inputs", "note", "name")
_FILES = ("config.yaml", "record.json", "metrics.jsonl", "per_image.parquet", "error.txt")
# Weights go to the registry once, for the model that is chosen, and not to every trial's artifacts.
_LEFT_OUT = "artifacts/model/"

Point = tuple[str, float, int, int]
"""A metric: name, value, time in ms, step."""


@dataclass
class Cursor:
    """What of a run folder is already in MLflow; valid for one store and one run. A study has one too, and a final.

    `uri` is the mark of the store, without a password (`store_uris.store_mark`); of the home's own database its name.
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
    asked: list[str] | None = None
    """Names of the settings that were to be params when they were sent; None: by an earlier release, which sent all."""
    inputs: str = ""
    """Fingerprint of the data set that was sent."""
    note: str = ""
    """The description that was sent."""
    name: str = ""
    """What the run was called when it was made in MLflow, or is called since; "": by an earlier release, unknown."""

    @classmethod
    def load(cls, path: Path, uri: str, key: str) -> Cursor:
        """The cursor in `path` if it is of this store and run, else a fresh one."""
        try:
            value = read_json(path)
            if value["key"] == key and uri in (value["uri"], store_mark(value["uri"])):
                # What a cursor of an earlier release does not have was not sent.
                later = {name: value[name] for name in _LATER if name in value}
                known = {name: value[name] for name in cls.__dataclass_fields__ if name not in _LATER}
                return cls(**known | later | {"uri": uri})
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return cls(uri, key)

    def save(self, path: Path) -> None:
        """Write the cursor, if it is of a run that MLflow has."""
        if self.mlflow_run_id is not None:
            write_json(path, self.__dict__, durable=False)

    def matches(self, folder: RunFolder, record: RunRecord, asked: list[str] | None, name: str) -> bool:
        """Whether all that the folder says has been sent; `asked` and `name` as `mlflow_params` says them."""
        lines = folder.metrics()
        return (
            self.mlflow_run_id is not None
            and self.params
            and self.asked is not None
            and (asked is None or (self.asked == asked and self.name in ("", name)))
            and self.inputs == (record.data_fingerprint or "")
            and (self.lines, self.digest) == (len(lines), digest(lines))
            and self.tags == tags(record)
            and self.status == STATUS[record.state]
            and self.artifacts == artifact_stamps(folder, record)
        )


@dataclass(frozen=True)
class ParentFacts:
    """What the MLflow run of a study or of a final training shall say; it holds the runs of both as its children."""

    name: str
    kind: Literal["study", "final"]
    folder: Path
    """Of the study or final training; the cursor lies in it."""
    state: State
    tags: Mapping[str, str]
    points: tuple[Point, ...] = ()
    """Its numbers: each objective of the best trial so far, counts of trials, scores on the locked test."""
    files: tuple[Path, ...] = ()
    params: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    """Its description, in markdown; what a person has written in its place is left alone."""


def hide_password(path: Path) -> None:
    """Put the mark of its store in place of the URI that a cursor of an earlier release holds, with its password."""
    try:
        value = read_json(path)
        if "://" in value["uri"]:
            write_json(path, {**value, "uri": store_mark(value["uri"])}, durable=False)
    except (OSError, ValueError, KeyError, TypeError):
        return


def run_key(home: str, record: RunRecord) -> str:
    """Value of tag `sage.key` of a run of the home with that identity: a run made anew under the name has another."""
    return _key(f"{home}:{record.run_id}:{record.created}:{record.config_hash}")


def parent_key(home: str, name: str) -> str:
    """Value of tag `sage.key` of the run that holds those of a study or a final training."""
    return _key(f"{home}:study:{name}")


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


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
        "sage.computed_on": record.computed_on or None,
        "sage.weights_sha": record.weights_sha,
        "sage.test_reads": record.test_reads,
        "sage.dirty": record.dirty,
        "mlflow.source.git.commit": record.commit,
        "mlflow.source.name": "sage_ray",
    }
    return {name: text_of(value)[:MAX_TAG_CHARS] for name, value in values.items() if value is not None}


def epoch_points(line: Mapping[str, Any]) -> list[Point]:
    """All finite numbers of one line of metrics.jsonl, at its epoch and at the time kept with it."""
    stamp, step = int(line["time_ms"]), int(line["epoch"])
    return [(k, v, stamp, step) for k, v in _numbers(line).items() if k not in ("time_ms", "epoch")]


def result_points(folder: RunFolder, record: RunRecord, lines: Sequence[Mapping[str, Any]]) -> list[Point]:
    """`selected/val/...` of the selected epoch, `test/...` of a locked test that was read, and totals, at its end."""
    if record.state == "RUNNING" or not lines:
        return []
    selected = _numbers(record.selected_metrics)
    result = {f"selected/{name}": value for name, value in selected.items() if name.startswith("val/")}
    result |= {"total/seconds": record.seconds, "total/gpu_seconds": record.gpu_seconds}
    result |= locked_scores(folder, record)
    step = record.selected_epoch or record.epoch
    return [(name, value, int(lines[-1]["time_ms"]), step) for name, value in result.items()]


def objective_points(record: RunRecord, lines: Sequence[Mapping[str, Any]], home: Home, begin: int) -> list[Point]:
    """The running objective of a study's run at each epoch from line `begin` on; none for a run of its own."""
    asked = (
        objective_of(home.studies / record.study) if record.study and record.parent in (None, record.study) else None
    )
    if asked is None:
        return []
    points = []
    for end in range(begin + 1, len(lines) + 1):
        value = reduce_scores(lines[:end], **asked)
        if math.isfinite(value):
            points.append(("objective", value, int(lines[end - 1]["time_ms"]), int(lines[end - 1]["epoch"])))
    return points


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
            stamps[name] = stamp(path)
    return stamps


def stamp(path: Path) -> str:
    """Text that changes when a file does."""
    status = path.stat()
    return f"{status.st_size}-{status.st_mtime_ns}"


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


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {k: float(v) for k, v in values.items() if isinstance(v, int | float) and not isinstance(v, bool)}
