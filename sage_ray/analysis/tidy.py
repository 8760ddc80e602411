"""All recorded runs of a home as one tidy table, HOME/tables/tidy.parquet: one row per value.

The run folders are the truth; a run that has not changed since the last time is not read again. With a tracking URI and
no home at hand, the same files are fetched from MLflow's artifacts first. `analysis/collect.py` makes the table.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sage_ray.analysis.run_rows import FILES, SCHEMA, join, read_run
from sage_ray.errors import UserError, did_you_mean
from sage_ray.files import read_json, replacing, write_json
from sage_ray.record.home import Home
from sage_ray.record.store_uris import redacted, sqlite_file

FORMAT = 2
"""Format of the rows; a table of another format is made anew."""
RUNS_A_GROUP = 100
"""Runs in one row group: what is held in memory at a time."""
STUDY_FILES = ("study.json", "design.yaml", "space.yaml", "base.yaml")
_CONTENTS = b"sage.contents"
# Texts and counts repeat, scores do not; statistics are for the columns that rows are found by.
_LAYOUT: Any = {
    "compression": "zstd",
    "use_dictionary": [name for name in SCHEMA.names if name != "value"],
    "write_statistics": ["study", "run_id", "kind"],
}

Say = Callable[[str], None]


@dataclass(frozen=True)
class Tidy:
    """The tidy table of one home.

    Attributes:
        path: of the parquet file.
        home: whose runs and studies it tells of.
        read, kept: how many runs were read now, and how many were taken over from the table before.
        unreadable: run folders with a damaged record, and what is wrong with each.
    """

    path: Path
    home: Home
    read: int = 0
    kept: int = 0
    unreadable: tuple[str, ...] = ()

    def rows(
        self,
        *,
        kind: str,
        studies: Collection[str] | None = None,
        part: str | None = None,
        scores: Collection[str] | None = None,
        run_ids: Collection[str] | None = None,
        columns: Sequence[str] | None = None,
    ) -> pd.DataFrame:
        """Rows of one kind as a pandas frame, texts as plain strings (None where there is none).

        Args:
            kind: epoch, image, run or setting.
            studies: only rows of these studies.
            part: train, val or test.
            scores: only rows of these scores.
            run_ids: only rows of these runs.
            columns: of the frame; None: all.
        """
        wanted: list[Any] = [("kind", "==", kind)]
        for name, values in (("study", studies), ("score", scores), ("run_id", run_ids)):
            if values is not None:
                wanted.append((name, "in", sorted(values)))
        if part is not None:
            wanted.append(("part", "==", part))
        table = pq.read_table(self.path, columns=list(columns) if columns else None, filters=wanted)
        return _frame(table)

    def runs(self, studies: Collection[str] | None = None) -> pd.DataFrame:
        """One row per run: study, arm, trial, run_id, seed, fold, state and a column for each fact that a run has."""
        identity = ["study", "arm", "trial", "run_id", "seed", "fold", "state"]
        rows = self.rows(kind="run", studies=studies, columns=[*identity, "score", "value", "text"])
        if rows.empty:
            return pd.DataFrame(columns=[*identity, "data_fingerprint", "split_id", "commit", "missing"])
        named = rows.drop_duplicates("run_id")[identity].set_index("run_id")
        values = rows.pivot(index="run_id", columns="score", values="value").dropna(axis=1, how="all")
        texts = rows.pivot(index="run_id", columns="score", values="text").dropna(axis=1, how="all")
        wide = named.join(texts).join(values[values.columns.difference(texts.columns)])
        for name in ("data_fingerprint", "split_id", "commit", "missing"):
            if name not in wide:
                wide[name] = None
        wide = wide.astype(object).where(wide.notna(), None)
        return wide.reset_index().sort_values(["study", "run_id"], na_position="last", ignore_index=True)

    def settings(self, studies: Collection[str] | None = None, paths: Collection[str] | None = None) -> pd.DataFrame:
        """Settings of the runs' configs: index run_id, one column per path, values as in the config."""
        rows = self.rows(kind="setting", studies=studies, scores=paths, columns=["run_id", "score", "text"])
        known = {text: json.loads(text) for text in rows["text"].unique()}
        values = pd.Series([known[text] for text in rows["text"]], index=rows.index, dtype=object)
        return rows.assign(value=values).pivot(index="run_id", columns="score", values="value")

    def studies(self) -> list[str]:
        """Names of all studies with a run."""
        table = pq.read_table(self.path, columns=["study"], filters=[("kind", "==", "run")])
        return sorted(name for name in pc.unique(table["study"].cast(pa.string())).to_pylist() if name is not None)

    def check_studies(self, names: Collection[str]) -> None:
        """Raise UserError, with the nearest name, if one of the studies has no run."""
        known = self.studies()
        for name in names:
            if name not in known:
                shown = did_you_mean(name, known, f"there are: {', '.join(known) or 'none'}")
                raise UserError("no run of such a study", f"{name} in {self.home.path}", shown)


def collect(
    home: Home | str | Path | None = None,
    studies: Collection[str] | None = None,
    *,
    tracking_uri: str | None = None,
    say: Say | None = None,
) -> Tidy:
    """Bring HOME/tables/tidy.parquet up to the run folders of a home, and return it.

    Args:
        home: a Home or its folder; None: `SAGE_HOME` or ./sage_runs.
        studies: that must have runs; with a tracking URI, only their runs are fetched.
        tracking_uri: fetch records and scores from this MLflow store into HOME/tables/mlflow-HASH, and tell of these.
        say: told lines for the user.

    Raises:
        UserError: no such home or study, no such server, or the table cannot be written.
    """
    place = home if isinstance(home, Home) else Home(home).look()
    say = say or (lambda _: None)
    if tracking_uri is not None:
        place = fetch(tracking_uri, place, studies, say)
    elif not place.path.is_dir():
        raise UserError("no such home", place.path, "give the folder of the runs with --home DIR or SAGE_HOME")
    path = place.path / "tables" / "tidy.parquet"
    stamps = {run_id: _stamp(place.runs / run_id) for run_id in place.run_ids()}
    before = _Contents.of(path)
    try:
        if before.stamps == stamps and path.exists():
            tidy = Tidy(path, place, 0, len(stamps), tuple(before.unreadable.values()))
        else:
            tidy = _rewrite(path, place, stamps, before)
    except OSError as error:
        mend = f"make the folder writable, or copy the home ({error.strerror or error})"
        raise UserError("tidy table cannot be written", path, mend) from None
    for line in tidy.unreadable:
        say(f"left out: {line}")
    if studies is not None:
        tidy.check_studies(studies)
    return tidy


@dataclass(frozen=True)
class _Contents:
    """What a table on disk was made from: a stamp for each run, and what is wrong with those that cannot be read."""

    stamps: dict[str, str]
    unreadable: dict[str, str]

    @classmethod
    def of(cls, path: Path) -> _Contents:
        """The contents of the table at `path`; nothing if there is none of this format."""
        try:
            stored = json.loads(pq.read_metadata(path).metadata[_CONTENTS])
            if stored["format"] == FORMAT:
                return cls(stored["stamps"], stored["unreadable"])
        except (OSError, pa.ArrowException, KeyError, ValueError, TypeError):
            pass
        return cls({}, {})


def _rewrite(path: Path, home: Home, stamps: Mapping[str, str], before: _Contents) -> Tidy:
    kept = {run_id for run_id, stamp in stamps.items() if before.stamps.get(run_id) == stamp}
    fresh = [run_id for run_id in stamps if run_id not in kept]
    unreadable = {run_id: line for run_id, line in before.unreadable.items() if run_id in kept}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, durable=False) as temporary, pq.ParquetWriter(temporary, SCHEMA, **_LAYOUT) as writer:
        for group in _groups_of(path, kept) if kept else ():
            writer.write_table(group)
        for start in range(0, len(fresh), RUNS_A_GROUP):
            writer.write_table(_read_runs(home, fresh[start : start + RUNS_A_GROUP], unreadable))
        contents = {"format": FORMAT, "stamps": stamps, "unreadable": unreadable}
        writer.add_key_value_metadata({_CONTENTS: json.dumps(contents)})
    return Tidy(path, home, len(fresh), len(kept), tuple(unreadable.values()))


def _read_runs(home: Home, run_ids: Sequence[str], unreadable: dict[str, str]) -> pa.Table:
    tables = []
    for run_id in run_ids:
        try:
            tables.append(read_run(home.runs / run_id))
        except UserError as error:
            unreadable[run_id] = str(error)
    return join(tables) if tables else SCHEMA.empty_table()


def _groups_of(path: Path, kept: Collection[str]) -> Iterator[pa.Table]:
    """Row groups of a table, cut to the runs that are kept."""
    wanted = pa.array(sorted(kept), pa.string())
    with pq.ParquetFile(path) as file:
        for place in range(file.num_row_groups):
            group = file.read_row_group(place)
            yield group.filter(pc.is_in(group["run_id"].cast(pa.string()), wanted)).cast(SCHEMA)


def _stamp(folder: Path) -> str:
    """A text that changes when a file changes that the table is made from."""
    marks = []
    for name in FILES:
        try:
            status = (folder / name).stat()
            marks.append(f"{status.st_size}-{status.st_mtime_ns}")
        except OSError:
            marks.append("")
    return " ".join(marks)


def _frame(table: pa.Table) -> pd.DataFrame:
    columns = {}
    for name in table.column_names:
        column = table.column(name)
        if pa.types.is_dictionary(column.type):
            columns[name] = pd.Series(_texts(column), dtype=object)
        else:
            columns[name] = column.to_pandas()
    return pd.DataFrame(columns)


def _texts(column: pa.ChunkedArray) -> np.ndarray:
    """Texts of an encoded column as an array of objects, each distinct text held once."""
    whole = column.unify_dictionaries().combine_chunks()
    if isinstance(whole, pa.ChunkedArray):
        whole = whole.chunk(0) if whole.num_chunks else pa.DictionaryArray.from_arrays(pa.array([], pa.int32()), [])
    known = np.array([*whole.dictionary.to_pylist(), None], dtype=object)
    codes = whole.indices.fill_null(len(known) - 1).to_numpy(zero_copy_only=False)
    return np.asarray(known[codes])


def fetch(uri: str, home: Home, studies: Collection[str] | None, say: Say) -> Home:
    """Copy records, scores and studies from an MLflow store into a folder of its own, and return it as a home.

    What has not changed on the server since the last time is not fetched again.

    Raises:
        UserError: the store cannot be reached, or holds no run of ours.
    """
    from sage_ray.record.mlflow_client import (
        MirrorUnavailable,
        connect,
        experiment_name,
        find_experiment,
        one_line_of,
    )

    database, shown = sqlite_file(uri), redacted(uri)
    if database is not None and not database.is_file():
        raise UserError("no such MLflow database", shown, "give --tracking-uri sqlite:////absolute/path or http://...")
    target = _Remote(home.path / "tables" / f"mlflow-{hashlib.sha256(uri.encode()).hexdigest()[:12]}", uri)
    try:
        client = connect(target)
        experiment = find_experiment(client)
        if experiment is None:
            mend = f"it has no experiment {experiment_name()}; `sage-ray sync` makes it"
            raise UserError("no runs in MLflow", shown, mend)
        count = 0
        for kind in ("study", "run"):
            for entry in _entries(client, experiment.experiment_id, kind):
                if studies is None or entry.data.tags.get("sage.study") in studies:
                    count += _fetch_entry(client, entry, target, kind)
    except UserError:
        raise
    except Exception as error:  # MLflow, SQLAlchemy, requests and the artifact stores each have their own errors
        mend = "start the server, or mend the URI" if isinstance(error, MirrorUnavailable) else "see the server's log"
        raise UserError("MLflow cannot be read", f"{shown} ({one_line_of(error)})", mend) from None
    say(f"{count} runs and studies fetched from {shown} into {target.path}")
    return target


class _Remote(Home):
    """A folder for what is fetched from one MLflow store."""

    def __init__(self, path: Path, uri: str) -> None:
        super().__init__(path)
        self._uri = uri

    @property
    def mlflow_uri(self) -> str:
        return self._uri


def _entries(client: Any, experiment_id: str, kind: str) -> Iterator[Any]:
    token = None
    while True:
        page = client.search_runs(
            [experiment_id], filter_string=f"tags.`sage.kind` = '{kind}'", max_results=500, page_token=token
        )
        yield from page
        token = page.token
        if not token:
            return


def _fetch_entry(client: Any, entry: Any, target: Home, kind: str) -> int:
    """Fetch the files of one run or study if they changed; 1 if they did."""
    tags = entry.data.tags
    name = tags["sage.run_id"] if kind == "run" else tags["sage.study"]
    folder = (target.runs if kind == "run" else target.studies) / name
    # Tags carry state, attempt and test reads; they and the end of the run change whenever its files do.
    own = {key: value for key, value in sorted(tags.items()) if key.startswith("sage.")}
    mark = {"run": entry.info.run_id, "status": entry.info.status, "ended": entry.info.end_time, "tags": own}
    try:
        if read_json(folder / "fetched.json") == mark:
            return 0
    except (OSError, ValueError):
        pass
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    wanted = FILES if kind == "run" else STUDY_FILES
    there = {item.path for item in client.list_artifacts(entry.info.run_id)}
    for file in wanted:
        if file in there:
            client.download_artifacts(entry.info.run_id, file, str(folder))
    if kind == "run" and "attention" in there:
        attention = folder / "artifacts"
        attention.mkdir()
        client.download_artifacts(entry.info.run_id, "attention", str(attention))
    write_json(folder / "fetched.json", mark, durable=False)
    return 1
