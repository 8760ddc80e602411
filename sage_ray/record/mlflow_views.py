"""Saved views of MLflow's list of runs: which columns it shows, where a person has not chosen others.

MLflow keeps a saved view as a tag of the experiment, `mlflow.sharedViewState.ID`: JSON with a name, times, and the
state of its page as text (read in MLflow 3.17). It offers them under "Views"; a link that ends with
`?viewStateShareKey=ID` opens one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

STUDIES, RUNS = "sage-studies", "sage-runs"
"""Ids of the views: of studies and final trainings, and of their runs."""
MARK = "sage.views"
"""Tag of an experiment that was given the views: one that a person deletes does not come back."""
_TAG = "mlflow.sharedViewState."
_FORMAT = "1"
_MADE_MS = 1_790_000_000_000  # the same for all, so that equal views are equal texts


def view_tags() -> dict[str, str]:
    """Tags that give an experiment the saved views."""
    studies = [
        *("metrics.`best/objective`", "metrics.`test/dice`", "metrics.`reference/test/dice`"),
        *("metrics.`trials/complete`", "metrics.`trials/pruned`", "metrics.`trials/failed`", "metrics.`trials/wanted`"),
        *(
            "tags.`sage.state`",
            "params.`preset`",
            "params.`nearest_preset`",
            "params.`system`",
            "attributes.`Description`",
        ),
    ]
    runs = [
        *("metrics.`objective`", "metrics.`selected/val/dice`", "metrics.`test/dice`", "metrics.`total/seconds`"),
        *("tags.`sage.state`", "tags.`sage.study`", "params.`arm`", "params.`seed`", "params.`preset`"),
        "attributes.`Dataset`",
    ]
    return {
        _TAG + STUDIES: _view(
            "Studies and their scores", "tags.`sage.kind` != 'run'", studies, "attributes.start_time"
        ),
        _TAG + RUNS: _view("Runs, highest score first", "tags.`sage.kind` = 'run'", runs, "metrics.`objective`"),
        MARK: _FORMAT,
    }


def _view(name: str, query: str, columns: Sequence[str], order: str) -> str:
    state = {
        "searchFilter": query,
        "orderByKey": order,
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": list(columns),
        "columnOrder": [],
        "columnWidths": {},
    }
    return json.dumps({"name": name, "createdAt": _MADE_MS, "updatedAt": _MADE_MS, "state": json.dumps(state)})
