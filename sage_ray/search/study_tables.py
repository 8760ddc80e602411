"""A study as tables: one row per trial, or one row per run; in memory (pandas) or in a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from sage_ray.errors import UserError
from sage_ray.files import replacing
from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder
from sage_ray.search.study_status import StudyStatus, status, with_labels

ENDINGS = (".csv", ".parquet")
RUN_FIELDS = (
    *("run_id", "trial", "arm", "seed", "fold", "state", "epoch", "selected_epoch", "attempt", "seconds"),
    *("gpu_seconds", "reused_epochs", "synthetic_steps", "generator_updates", "weights_sha", "test_reads", "error"),
)
"""Fields of a run's record that become columns; its scores at the selected epoch follow."""


def run_table(found: StudyStatus, home: Home) -> pd.DataFrame:
    """One row per run that was begun: what its record says, and its scores at the selected epoch (else the last).

    A study with several choices of labelled images has a column `subset` beside `fold`, one whose arms have labels a
    column `label` beside `arm`.
    """
    rows = []
    subsets: list[int | None] = []
    for run in (run for trial in found.trials for run in trial.runs):
        record = RunFolder.open(home.runs, run.run_id).read()
        rows.append({name: getattr(record, name) for name in RUN_FIELDS} | (record.selected_metrics or record.metrics))
        subsets.append(run.subset)
    scores = list(dict.fromkeys(name for row in rows for name in row if name not in RUN_FIELDS))
    table = pd.DataFrame(rows, columns=[*RUN_FIELDS, *scores])
    if any(subset is not None for subset in subsets):
        table.insert(RUN_FIELDS.index("fold") + 1, "subset", subsets)
    return with_labels(table, found.labels)


def export(name: str, out: str | Path, home: Home, *, runs: bool = False) -> Path:
    """Write a study's trials, or its runs, as a table; returns the file, which is replaced if it is there.

    Args:
        name: of the study.
        out: file that ends in .csv or .parquet; its folder is made.
        home: of the study.
        runs: one row per run instead of one per trial.

    Raises:
        UserError: no such study (the nearest is given), another ending, or a place that cannot be written.
    """
    path = Path(out).expanduser()
    if path.suffix not in ENDINGS:
        raise UserError("no such format", out, f"let the file's name end in {' or '.join(ENDINGS)}")
    found = status(name, home)
    table = run_table(found, home) if runs else found.frame()
    for column in table:
        table[column] = [_cell(value) for value in table[column]]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            if path.suffix == ".csv":
                table.to_csv(temporary, index=False)
            else:
                _of_one_kind(table).to_parquet(temporary, index=False)
    except OSError as error:
        raise UserError("cannot be written", path, error.strerror or str(error)) from None
    return path


def _cell(value: Any) -> Any:
    """A value that a cell of a file can hold: lists and mappings become JSON."""
    return json.dumps(value) if isinstance(value, list | tuple | dict) else value


def _of_one_kind(table: pd.DataFrame) -> pd.DataFrame:
    """The table with columns of mixed values as text: a column of parquet has one type."""
    table = table.copy()
    for column in table:
        kinds = {type(value) for value in table[column] if value is not None and value == value}
        if len(kinds) > 1 and not kinds <= {int, float}:
            table[column] = [None if value is None or value != value else str(value) for value in table[column]]
    return table
