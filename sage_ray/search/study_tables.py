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
from sage_ray.search.study_status import StudyStatus, status

ENDINGS = (".csv", ".parquet")
RUN_FIELDS = (
    *("run_id", "trial", "arm", "seed", "fold", "state", "epoch", "selected_epoch", "attempt", "seconds"),
    *("gpu_seconds", "reused_epochs", "synthetic_steps", "generator_updates", "weights_sha", "test_reads", "error"),
)
"""Fields of a run's record that become columns; its scores at the selected epoch follow."""


def trial_table(found: StudyStatus) -> pd.DataFrame:
    """One row per trial that was begun, by number.

    Columns: number, state, value (of the objective; of a trial that has not ended, so far), where a study has two
    objectives each of them by its metric, one per parameter by its dotted path, epochs (the last one of its first run),
    seconds (wall time, None before its end), error, weights_sha. A parameter that a trial does not have is missing
    there.
    """
    scores = list(dict.fromkeys(name for trial in found.trials for name in trial.objectives))
    scores = scores if len(scores) > 1 else []
    names = list(dict.fromkeys(name for trial in found.trials for name in trial.params))
    rows = [
        {
            "number": trial.number,
            "state": trial.state,
            "value": trial.value,
            **{name: trial.objectives.get(name) for name in scores},
            **{name: trial.params.get(name) for name in names},
            "epochs": trial.epoch,
            "seconds": trial.seconds,
            "error": trial.error,
            "weights_sha": trial.weights_sha,
        }
        for trial in found.trials
    ]
    columns = ["number", "state", "value", *scores, *names, "epochs", "seconds", "error", "weights_sha"]
    return pd.DataFrame(rows, columns=columns)


def run_table(found: StudyStatus, home: Home) -> pd.DataFrame:
    """One row per run that was begun: what its record says, and its scores at the selected epoch (else the last)."""
    rows = []
    for run_id in (run.run_id for trial in found.trials for run in trial.runs):
        record = RunFolder.open(home.runs, run_id).read()
        rows.append({name: getattr(record, name) for name in RUN_FIELDS} | (record.selected_metrics or record.metrics))
    scores = list(dict.fromkeys(name for row in rows for name in row if name not in RUN_FIELDS))
    return pd.DataFrame(rows, columns=[*RUN_FIELDS, *scores])


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
    table = run_table(found, home) if runs else trial_table(found)
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
