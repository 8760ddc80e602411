"""One run folder as rows of the tidy table: its epochs, images, facts and settings, one row per value."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from sage_ray.metrics.definitions import definitions_from
from sage_ray.record.run_folder import RunFolder
from sage_ray.record.run_record import RunRecord

FILES = ("record.json", "config.yaml", "metrics.jsonl", "per_image.parquet")
"""The files of a run folder that the tidy table is made from."""
TEXTS = (
    "study", "arm", "run_id", "state", "part", "kind", "phase", "checkpoint", "image", "group", "score", "definition",
    "text",
)  # fmt: skip
NUMBERS = ("trial", "seed", "fold", "epoch")
OF_A_RUN = ("study", "arm", "run_id", "state", "trial", "seed", "fold")
SCHEMA = pa.schema(
    [(name, pa.dictionary(pa.int32(), pa.string())) for name in TEXTS]
    + [(name, pa.int32()) for name in NUMBERS]
    + [("value", pa.float64())]
)
"""The tidy table. `kind` says what a row is:

- epoch: a number of one epoch (`part` train or val, or none: `lr`, `seconds`);
- image: a score of one image (`image` its sha256, `group` the micrograph that it is a crop of, if it is one) under the
  weights `checkpoint`;
- run: a fact of the run (`value`, or `text`): see FACTS;
- setting: `score` is a path of its config, `text` the JSON of what it is set to, `value` the same if it is a number.
"""
FACTS = (
    "parent", "attempt", "error", "config_hash", "data_fingerprint", "split_id", "commit", "dirty", "epoch",
    "selected_epoch", "seconds", "gpu_seconds", "synthetic_steps", "generator_updates", "reused_epochs", "weights_sha",
    "test_reads", "created", "numerics", "stage_keys", "parts", "extra_pairs",
)  # fmt: skip
MISSING = "missing"
"""Fact: a file of a finished run that is not there or cannot be read."""
_NOT_SCORES = ("epoch", "phase", "phase_epoch", "replayed", "time_ms")
_PARTS = ("train", "val", "test")
_NO_ROWS = pa.schema([field for field in SCHEMA if field.name not in OF_A_RUN]).empty_table()


@dataclass(frozen=True)
class RunRows:
    """Rows of one run without the columns that are the same in all of them (`OF_A_RUN`); `join` makes them whole."""

    record: RunRecord
    table: pa.Table


def read_run(path: Path) -> RunRows:
    """All rows of one run.

    Raises:
        UserError: its record is damaged.
    """
    folder = RunFolder(path)
    record = folder.read()
    settings = read_settings(path / "config.yaml")
    meanings = definitions_from(settings.values)
    lost: list[str] = []
    parts = [_epochs(folder, record, meanings, lost), _images(folder, record, lost)]
    parts += [_facts(record, lost), _settings(settings)]
    return RunRows(record, _together([part for part in parts if part is not None]))


def join(runs: Sequence[RunRows]) -> pa.Table:
    """The rows of several runs as a table of SCHEMA, with one dictionary per text column."""
    whole = _together([run.table for run in runs]).unify_dictionaries().combine_chunks()
    columns = {name: whole.column(name) for name in whole.column_names}
    codes = np.repeat(np.arange(len(runs), dtype=np.int32), [run.table.num_rows for run in runs])
    for name in OF_A_RUN:
        values = [getattr(run.record, name) for run in runs]
        columns[name] = _coded(codes, values) if name in TEXTS else pa.array(values, pa.int32()).take(pa.array(codes))
    return pa.table({name: columns[name] for name in SCHEMA.names}, schema=SCHEMA)


@dataclass(frozen=True)
class Settings:
    """Settings by dotted path, and the same as JSON."""

    values: Mapping[str, Any]
    texts: Mapping[str, str]


def read_settings(path: Path) -> Settings:
    """The settings of a config.yaml; none if it is missing or damaged."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return Settings({}, {})
    # Runs of a study share most sections: each distinct section is parsed once.
    sections = re.split(r"(?m)^(?=[^\s#-])", text)
    try:
        parsed = [_section(section) for section in sections if section.strip()]
    except yaml.YAMLError:
        try:
            parsed = [_section(text)]
        except yaml.YAMLError:
            return Settings({}, {})
    values: dict[str, Any] = {}
    texts: dict[str, str] = {}
    for section in parsed:
        values.update(section.values)
        texts.update(section.texts)
    return Settings(values, texts)


@lru_cache(maxsize=4096)
def _section(text: str) -> Settings:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    tree = yaml.load(text, loader)  # noqa: S506  (a safe loader)
    values = _flat(tree) if isinstance(tree, dict) else {}
    return Settings(values, {path: json.dumps(value) for path, value in values.items()})


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _epochs(folder: RunFolder, record: RunRecord, meanings: Mapping[str, str], lost: list[str]) -> pa.Table | None:
    lines = folder.metrics()
    if record.finished and len(lines) < record.epoch:
        lost.append("metrics.jsonl")
    if not lines:
        return None
    epochs, phases, counts = [], [], []
    values: list[Any] = []
    places: dict[str, int] = {}
    codes: list[np.ndarray] = []
    by_names: dict[tuple[str, ...], np.ndarray] = {}
    for line in lines:
        epochs.append(int(line["epoch"]))
        phases.append(str(line.get("phase", "")))
        for key in _NOT_SCORES:
            line.pop(key, None)
        names = tuple(line)
        if names not in by_names:
            by_names[names] = np.array([places.setdefault(name, len(places)) for name in names], np.int32)
        codes.append(by_names[names])
        values.extend(line.values())
        counts.append(len(names))
    split = [_split(name) for name in places]
    meant = [meanings.get(score) if part == "val" else None for part, score in split]
    named = np.concatenate(codes)
    lines_of = np.repeat(np.arange(len(lines), dtype=np.int32), counts)
    return _table(
        len(values),
        kind="epoch",
        part=_coded(named, [part for part, _ in split]),
        score=_coded(named, [score for _, score in split]),
        definition=_coded(named, meant),
        phase=_coded(lines_of, phases),
        epoch=pa.array(np.array(epochs, np.int32)[lines_of]),
        value=pa.array(_numbers(values), pa.float64()),
    )


def _numbers(values: Sequence[Any]) -> np.ndarray:
    """Float64 of values; nan where one is missing or no number."""
    try:
        return np.array(values, np.float64)
    except (TypeError, ValueError):
        return np.array([value if isinstance(value, int | float) else math.nan for value in values], np.float64)


def _split(name: str) -> tuple[str | None, str]:
    part, slash, score = name.partition("/")
    return (part, score) if slash and part in _PARTS else (None, name)


def _images(folder: RunFolder, record: RunRecord, lost: list[str]) -> pa.Table | None:
    try:
        rows = folder.per_image_encoded()
    except (OSError, pa.ArrowException):
        if record.finished:
            lost.append("per_image.parquet")
        return None
    return _table(
        rows.num_rows,
        kind="image",
        part=_whole(rows["part"]),
        checkpoint=_whole(rows["checkpoint"]),
        image=_whole(rows["image_sha"]),
        group=_whole(rows["group"]),
        score=_whole(rows["score"]),
        definition=_whole(rows["definition"]),
        value=_whole(rows["value"]),
    )


def _facts(record: RunRecord, lost: Sequence[str]) -> pa.Table:
    facts: dict[str, Any] = {name: getattr(record, name) for name in FACTS}
    facts |= {f"parameters_{network}": count for network, count in record.parameters.items()}
    facts[MISSING] = ", ".join(lost) or None
    present = {name: value for name, value in facts.items() if value is not None}
    texts = {
        name: value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        for name, value in present.items()
        if not isinstance(value, int | float)
    }
    return _named("run", present, texts)


def _settings(settings: Settings) -> pa.Table:
    return _named("setting", settings.values, settings.texts)


def _named(kind: str, values: Mapping[str, Any], texts: Mapping[str, str]) -> pa.Table:
    numbers = [value if isinstance(value, int | float) else math.nan for value in values.values()]
    return _table(
        len(values),
        kind=kind,
        score=_each(list(values)),
        value=pa.array(numbers, pa.float64()),
        text=_each([texts.get(name) for name in values]),
    )


def _table(length: int, *, kind: str, **columns: pa.Array) -> pa.Table:
    """Rows of one kind; the columns that it has no use for are filled in by `_together`."""
    return pa.table({"kind": _coded(np.zeros(length, np.int32), [kind]), **columns})


def _together(tables: Sequence[pa.Table]) -> pa.Table:
    # The empty table names all columns, so that those that a kind lacks become nulls.
    return pa.concat_tables([_NO_ROWS, *tables], promote_options="default")


def _coded(codes: np.ndarray, texts: Sequence[str | None]) -> pa.DictionaryArray:
    """Texts by their places in `texts` (each may occur there twice), None being no text."""
    known = [text for text in dict.fromkeys(texts) if text is not None]
    places = {text: place for place, text in enumerate(known)}
    new = np.array([places[text] if text is not None else -1 for text in texts], np.int32)[codes]
    return pa.DictionaryArray.from_arrays(pa.array(new, mask=new < 0), pa.array(known, pa.string()))


def _each(texts: Sequence[str | None]) -> pa.DictionaryArray:
    return _coded(np.arange(len(texts), dtype=np.int32), texts)


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
