"""The folder of a run. What it says is written before anything else is told, and MLflow is filled from it.

`runs/ID/{config.yaml, record.json, metrics.jsonl, per_image.parquet, error.txt, log.txt, artifacts/}`. Every file is
replaced in one step, except log.txt and metrics.jsonl, which grow by lines; a last line of metrics.jsonl that was cut
short by a crash is dropped.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ValidationError

from sage_ray import config as config_module
from sage_ray.config import ExperimentConfig
from sage_ray.data.splits import group_names
from sage_ray.errors import UserError
from sage_ray.files import read_json, replacing, write_json, write_text
from sage_ray.followed import exists, pull, push
from sage_ray.locks import lease_of, locked
from sage_ray.metrics.definitions import definitions_from, whole_definition
from sage_ray.pair_source import EPOCHS_FOLDER
from sage_ray.record.at_work import is_at_work
from sage_ray.record.metric_lines import dump_lines, finite, parse_lines, scores_of
from sage_ray.record.run_log import LOG_FILE, RunLog
from sage_ray.record.run_record import FORMAT_VERSION, RunLabels, RunRecord, State

PER_IMAGE_SCHEMA = pa.schema(
    [
        ("run_id", pa.string()),
        ("part", pa.string()),
        ("checkpoint", pa.string()),
        ("image_sha", pa.string()),
        ("score", pa.string()),
        ("definition", pa.string()),
        ("value", pa.float64()),
        ("group", pa.string()),
    ]
)
"""`group` names the micrograph that the image is a crop of; null where every image is its own."""
BASELINE = "otsu"
"""`checkpoint` of the rows that Otsu's threshold made, and no weights."""
_TEXTS = [field.name for field in PER_IMAGE_SCHEMA if field.type == pa.string()]
# The last words of a whole definition; those that releases up to 0.2 stored beside validation scores lack them.
_WHOLE_DEFINITION = re.compile(r", at \d+x\d+ pixels$")

LOOK_S = 1.0
"""What others write into a home in a bucket is looked for no more often."""
_RUN_ID = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._+=-]{0,199}$")


class RunFolder:
    """One run's folder. Only one process at a time may write (`lock`); anybody may read at any moment."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._last_epoch: int | None = None
        self.refresh()

    def refresh(self, *, now: bool = False) -> None:
        """See what others have written, where the home is in a bucket; at most every `LOOK_S` seconds, or `now`."""
        pull(self.path, every_s=0.0 if now else LOOK_S)

    @property
    def run_id(self) -> str:
        """Name of the run, which is that of its folder."""
        return self.path.name

    @property
    def artifacts(self) -> Path:
        """Folder of what the run has made beside its scores."""
        return self.path / "artifacts"

    @property
    def model(self) -> Path:
        """artifacts/model: the selected weights, see `imaging.model`."""
        return self.artifacts / "model"

    def epochs_for_pairs(self) -> int:
        """Number of epochs that all attempts at the run together have trained for its extra pairs."""
        trained: set[int] = set()
        for path in self.artifacts.glob(f"{EPOCHS_FOLDER}/*.npz"):
            with suppress(OSError, ValueError, KeyError, BadZipFile), np.load(path, allow_pickle=False) as stored:
                trained |= set(map(int, stored["epoch"]))
        return len(trained)

    @property
    def per_image_path(self) -> Path:
        """Path of the scores of each image."""
        return self.path / "per_image.parquet"

    @property
    def log(self) -> RunLog:
        """log.txt: what was said while the run was computed."""
        return RunLog(self.path / LOG_FILE)

    @property
    def stop_path(self) -> Path:
        """Its presence asks the run to end after the epoch."""
        return self.path / "stop"

    @classmethod
    def open(cls, runs: Path, run_id: str) -> RunFolder:
        """The folder of a run that exists.

        Raises:
            UserError: there is no such run.
        """
        folder = cls(runs / run_id)
        if not (folder.path / "record.json").is_file():
            raise UserError("no such run", run_id, f"`sage-ray list` shows the runs under {runs.parent}")
        return folder

    @classmethod
    def create(cls, runs: Path, run_id: str, config: ExperimentConfig, labels: RunLabels) -> RunFolder:
        """The folder with config.yaml and record.json; an existing one of the same config is taken up as it is.

        Raises:
            UserError: the name is no good file name, or holds a run of another config.
        """
        if not _RUN_ID.match(run_id):
            raise UserError("bad run id", repr(run_id), "use letters, digits and . _ + = - (at most 200)")
        folder = cls(runs / run_id)
        folder.artifacts.mkdir(parents=True, exist_ok=True)
        record = folder.read() if (folder.path / "record.json").is_file() else None
        if record is not None and record.config_hash != config.config_hash():
            owner = record.parent or record.study or run_id
            mend = f"choose another name, or free this one with `sage-ray forget {owner}`"
            raise UserError("run exists with another config", run_id, mend)
        write_text(folder.path / "config.yaml", config_module.dump(config))
        if record is None:
            split = config.data.split
            own_fold = split.fold if split.folds else None
            named = labels.model_dump() | {"fold": labels.fold if labels.fold is not None else own_fold}
            identity = {"run_id": run_id, "seed": config.seed, "config_hash": config.config_hash()}
            folder.write(RunRecord.model_validate({**identity, **named, "created": _now()}))
        return folder

    def read(self) -> RunRecord:
        """The record.

        Raises:
            UserError: missing, damaged, or of a newer format.
        """
        path = self.path / "record.json"
        try:
            value = read_json(path)
            if value.get("format_version", 0) > FORMAT_VERSION:
                raise UserError("record of a newer format", path, "read it with the sage_ray that wrote it, or upgrade")
            return RunRecord.model_validate(value)
        except FileNotFoundError:
            raise UserError("no such run", self.run_id, "`sage-ray list` shows the runs") from None
        except (ValidationError, json.JSONDecodeError, AttributeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError("damaged record", path, f"remove the run's folder and run it again ({reason})") from None

    def write(self, record: RunRecord, *, durable: bool = True) -> None:
        """Replace record.json, with a new `updated` time."""
        record.updated = _now()
        value = finite(record.model_dump(mode="json"))
        write_json(self.path / "record.json", value, durable=durable)
        push(self.path)

    def update(self, *, durable: bool = True, **changes: Any) -> RunRecord:
        """Read the record, change fields, write it back; a new state is noted in the log."""
        record = self.read()
        before = record.state
        for name, value in changes.items():
            setattr(record, name, value)
        self.write(record, durable=durable)
        if record.state != before:
            self.log.line(f"{before} -> {record.state}" + (f": {record.error}" if record.error else ""))
        return record

    def set_state(self, state: State, *, error: str | None = None, **changes: Any) -> RunRecord:
        """Change the state; `error` is cut to one line (None clears it)."""
        line = " ".join(error.split())[:500] if error else None
        self.refresh(now=True)
        return self.update(state=state, error=line, **changes)

    def write_error(self, trace: str) -> Path:
        """Write error.txt, the full trace; returns its path."""
        path = self.path / "error.txt"
        write_text(path, trace.rstrip() + "\n")
        return path

    def config(self) -> ExperimentConfig:
        """The run's config, from its config.yaml."""
        return config_module.resolve(file=self.path / "config.yaml").config

    def request_stop(self) -> None:
        """Ask the run to end after its epoch, from any process."""
        self.stop_path.touch()
        push(self.stop_path)

    def stop_requested(self) -> bool:
        """Whether somebody has asked the run to end."""
        return exists(self.stop_path, every_s=LOOK_S)

    # metrics.jsonl

    def append_metrics(self, report: Mapping[str, Any]) -> bool:
        """Add an epoch's report as one line with the time (`time_ms`); returns whether the file changed.

        An epoch that is there already with the same scores (a replay) is left alone, its time too. One with other
        scores replaces the old line and everything after it. Non-finite numbers are written as null.
        """
        epoch = int(report["epoch"])
        if self._last_epoch is None:
            self._repair()
        if epoch > (self._last_epoch or 0):
            line = {**finite(dict(report)), "time_ms": int(time.time() * 1000)}
            with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line) + "\n")
            self._last_epoch = epoch
            return True
        return self._replace_from(epoch, report)

    def metrics(self) -> list[dict[str, Any]]:
        """All complete lines of metrics.jsonl, in epoch order."""
        return parse_lines(self._metrics_bytes())

    def count_epochs(self) -> int:
        """How many epochs the run has reported; one that is trained again counts once."""
        return self._metrics_bytes().count(b"\n")

    def count_replayed(self) -> int:
        """How many of these epochs came from the stage store; also of a run that was stopped before its end."""
        # Counted in the text: a study may have a thousand runs of hundreds of epochs, which take seconds to parse.
        return self._metrics_bytes().count(b'"replayed": true')

    def _metrics_bytes(self) -> bytes:
        path = self.path / "metrics.jsonl"
        return path.read_bytes() if path.exists() else b""

    def _repair(self) -> None:
        content = self._metrics_bytes()
        lines = parse_lines(content)
        whole = dump_lines(lines)
        if content != whole:
            self._write_lines(lines)
        self._last_epoch = int(lines[-1]["epoch"]) if lines else 0

    def _replace_from(self, epoch: int, report: Mapping[str, Any]) -> bool:
        lines = self.metrics()
        new = finite(dict(report))
        old = next((line for line in lines if line["epoch"] == epoch), None)
        if old is not None and scores_of(old) == scores_of(new):
            return False
        # The time of the line it replaces: MLflow then sees the same (key, step, time) with the new value.
        stamp = old["time_ms"] if old is not None else int(time.time() * 1000)
        self._write_lines([*(line for line in lines if line["epoch"] < epoch), {**new, "time_ms": stamp}])
        self._last_epoch = epoch
        return True

    def _write_lines(self, lines: Sequence[Mapping[str, Any]]) -> None:
        with replacing(self.path / "metrics.jsonl") as temporary:
            temporary.write_bytes(dump_lines(lines))

    # per_image.parquet

    def write_per_image(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Replace the rows of each (part, checkpoint) that occurs in `rows`; others (the test part, say) stay.

        Args:
            rows: part ("val" or "test"), checkpoint ("selected", ...), image_sha, score, definition, value, and
                group where images are crops.
        """
        new = [{**row, "run_id": self.run_id, "value": float(row["value"])} for row in rows]
        table = pa.Table.from_pylist(new, schema=PER_IMAGE_SCHEMA)
        if self.per_image_path.exists():
            old = self.per_image_table()
            for part, checkpoint in sorted({(row["part"], row["checkpoint"]) for row in new}):
                same = pc.and_(pc.equal(old["part"], part), pc.equal(old["checkpoint"], checkpoint))
                old = old.filter(pc.invert(same))
            table = pa.concat_tables([old, table])
        with replacing(self.per_image_path) as temporary:
            pq.write_table(table, temporary)

    def per_image(self) -> list[dict[str, Any]]:
        """Rows of per_image.parquet; none if it does not exist."""
        if not self.per_image_path.exists():
            return []
        rows: list[dict[str, Any]] = self.per_image_table().to_pylist()
        return rows

    def per_image_table(self) -> pa.Table:
        """All rows of per_image.parquet, which must exist, in the columns of `PER_IMAGE_SCHEMA`."""
        return self.per_image_encoded().cast(PER_IMAGE_SCHEMA)

    def per_image_encoded(self) -> pa.Table:
        """The same rows with text columns dictionary-encoded and in one chunk, which is quick to read for many runs.

        What files of earlier releases lack is completed: the column `group` and parts of the definitions.
        """
        content = self.per_image_path.read_bytes()
        # The file is small: reading its columns in threads costs more than it saves.
        texts = [name for name in _TEXTS if name in pq.read_schema(pa.BufferReader(content)).names]
        table = pq.ParquetFile(pa.BufferReader(content), read_dictionary=texts).read(use_threads=False)
        table = table.unify_dictionaries().combine_chunks()
        if "group" not in table.column_names:
            groups = self._groups_by_image()
            named = [groups.get(sha) for sha in table["image_sha"].to_pylist()]
            table = table.append_column("group", pa.array(named, pa.string()).dictionary_encode())
        return self._with_whole_definitions(table.select(PER_IMAGE_SCHEMA.names))

    def _with_whole_definitions(self, table: pa.Table) -> pa.Table:
        """The table with each stored definition completed, as `whole_definition` says, from the run's config."""
        if all(map(_WHOLE_DEFINITION.search, table["definition"].unique().to_pylist())):
            return table
        try:
            whole = definitions_from(config_module.flatten(self.config().model_dump(mode="json")))
        except UserError:
            return table
        scores, stored = table["score"].chunk(0), table["definition"].chunk(0)
        width = len(stored.dictionary)
        pairs = scores.indices.to_numpy().astype(np.int64) * width + stored.indices.to_numpy()
        distinct, places = np.unique(pairs, return_inverse=True)
        texts = [
            whole_definition(scores.dictionary[pair // width].as_py(), stored.dictionary[pair % width].as_py(), whole)
            for pair in distinct.tolist()
        ]
        completed = pa.array(texts, pa.string()).dictionary_encode().take(pa.array(places))
        return table.set_column(table.column_names.index("definition"), "definition", completed)

    def _groups_by_image(self) -> dict[str, str]:
        """The micrograph of each image by its sha, from config and manifest; empty if the config names no groups.

        It is also empty if one of them is lost. It stands in for the column that the first release did not write.
        """
        # Here and not above: what only lists runs must not wait for pandas.
        from sage_ray.data.manifest import read_manifest

        try:
            pattern = self.config().data.split.group
            if pattern is None:
                return {}
            rows, _ = read_manifest(self.artifacts / "manifest.parquet")
            names = group_names(rows["stem"].tolist(), pattern, lenient=True) or []
        except UserError:
            return {}
        return dict(zip(rows["image_sha256"], names, strict=True))

    # who is at work

    @contextmanager
    def lock(
        self, role: Literal["driver", "writer"], timeout_s: float, say: Callable[[str], None] | None = None
    ) -> Iterator[None]:
        """Hold the run as its `driver` (who starts it) or `writer` (who trains it); `say` is told of a long wait.

        Raises:
            UserError: another live process kept it for `timeout_s`.
        """
        with locked(self.path / f".{role}.lock", timeout_s, say) as held:
            if held is None:
                raise UserError("run is being computed", self.run_id, "wait for the other process, or stop it first")
            self.refresh(now=True)
            yield

    def end_other_process(self, waiting: Callable[[], None]) -> None:
        """Ask a process that is at work on the run to end, and wait until it has; `waiting` is called meanwhile."""
        lease = lease_of(self.path / ".driver.lock")
        if lease.is_held():
            self.request_stop()
            lease.take(None, waiting)
            lease.give_back()

    def alive(self) -> bool:
        """Whether a live process is at work on the run."""
        return is_at_work(self.path)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
