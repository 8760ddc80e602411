"""What a home holds, at a glance: read from its small files, without torch, Ray or Optuna, so that it is quick."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage_ray.files import read_json
from sage_ray.locks import sign_of
from sage_ray.notebook_view import NotebookView
from sage_ray.record.at_work import shown_state
from sage_ray.record.home import Home
from sage_ray.record.sqlite_reading import reading

if TYPE_CHECKING:
    import pandas as pd

ENDED = ("COMPLETE", "PRUNED", "FAIL")
STORAGE_FILE, JOURNAL_FILE = "optuna.db", "optuna.journal"
COUNTS_FILE = "counts.json"
"""Trials by state of a study that has no sqlite file, written by its driver."""
DRIVER_LOCK = "driver.lock"
FAILED_ATTR = "failed"
"""User attribute of a trial that failed although Optuna has it in another state (`search.storage`)."""


@dataclass(frozen=True)
class ListedStudy:
    """One study: how many of its trials ended in which way.

    `state`: running, finished, interrupted (resumable), or damaged: its storage is lost, and `resume` makes it anew
    from its runs; nothing is counted then. `interrupted`: trials that were begun while nobody runs the study; `died`:
    whoever ran it gives no sign of life and did not end it.
    """

    study: str
    kind: str
    state: str
    done: int
    pruned: int
    failed: int
    running: int
    target: int
    interrupted: int = 0
    died: bool = False


class ListedStudies(list[ListedStudy], NotebookView):
    """The studies of a home: a list that a notebook shows as a table."""

    def frame(self) -> pd.DataFrame:
        """One row per study: study, kind, state, done, pruned, failed, running, target, interrupted, died."""
        import pandas as pd

        columns = [field.name for field in fields(ListedStudy)]
        return pd.DataFrame([asdict(study) for study in self], columns=columns)

    def headline(self) -> str:
        """How many there are."""
        return f"{len(self)} studies"


@dataclass(frozen=True)
class ListedRun:
    """One run that belongs to no study and to no final training; INTERRUPTED, too, if its process died."""

    run_id: str
    state: str
    epoch: int


@dataclass(frozen=True)
class Overview:
    """Studies, final trainings and single runs of a home, each by name."""

    studies: tuple[ListedStudy, ...]
    finals: tuple[str, ...]
    runs: tuple[ListedRun, ...]


def overview(home: Home) -> Overview:
    """What the home holds. A run whose record is damaged, or a study whose study.json is, is left out."""
    studies = (_study(home.studies / name) for name in home.study_names())
    runs = (_run(home.runs / run_id) for run_id in home.run_ids())
    return Overview(
        tuple(study for study in studies if study is not None),
        tuple(home.final_ids()),
        tuple(run for run in runs if run is not None),
    )


def _study(folder: Path) -> ListedStudy | None:
    try:
        facts = dict(read_json(folder / "study.json"))
        kind = str(facts.get("kind", "sweep")) if facts else None
    except (OSError, ValueError, TypeError):
        return None
    if kind is None:
        return None
    sign = sign_of(folder / DRIVER_LOCK)
    running = sign.held
    source = folder / (COUNTS_FILE if "storage" in facts else STORAGE_FILE)
    try:
        count = _counted(source) if source.name == COUNTS_FILE else _trials_by_state(source)
        target = int(facts["trials"]) if "trials" in facts else _target_of_files(folder, facts, count)
    except (OSError, ValueError, TypeError, KeyError, sqlite3.Error):
        count, target = None, int(facts.get("trials", 0))
    if count is None or (not running and not source.is_file() and _has_runs(folder)):
        return ListedStudy(folder.name, kind, "damaged", 0, 0, 0, 0, target)
    unfinished = "running" if running else "interrupted"
    ended = sum(count[state] for state in ENDED)
    return ListedStudy(
        study=folder.name,
        kind=kind,
        state="finished" if ended >= target else unfinished,
        done=count["COMPLETE"],
        pruned=count["PRUNED"],
        failed=count["FAIL"],
        running=count["RUNNING"] if running else 0,
        target=target,
        interrupted=0 if running else count["RUNNING"],
        died=sign.died and ended < target,
    )


def _has_runs(folder: Path) -> bool:
    """Whether runs of a study's names are there; asked only of a study without storage."""
    return next(folder.parent.with_name("runs").glob(f"{folder.name}-*/record.json"), None) is not None


def _counted(file: Path) -> Counter[str]:
    """Trials by state as their driver counted them: neither a server nor a journal is read for a list."""
    return Counter({str(state): int(count) for state, count in read_json(file).items()} if file.is_file() else {})


def _trials_by_state(database: Path) -> Counter[str]:
    """Trials of a study's storage by state. Reads Optuna's own table: tests hold it against Optuna's own answer."""
    if not database.is_file():
        return Counter()
    with reading(database, 10) as connection:
        return Counter(dict(connection.execute(_COUNT, {"failed": FAILED_ATTR}).fetchall()))


_COUNT = """
SELECT CASE WHEN a.trial_id IS NULL OR t.state != 'PRUNED' THEN t.state ELSE 'FAIL' END AS shown, COUNT(*)
FROM trials t LEFT JOIN trial_user_attributes a ON a.trial_id = t.trial_id AND a.key = :failed
GROUP BY shown
"""


def _target_of_files(folder: Path, facts: Mapping[str, Any], count: Counter[str]) -> int:
    """Trials of a study of the first release, whose study.json does not say how many they are."""
    import yaml

    ablation = facts.get("kind") == "ablation"
    tree = yaml.safe_load((folder / ("design.yaml" if ablation else "space.yaml")).read_text(encoding="utf-8"))
    if not ablation:  # a grid, which may leave out how many, is queued whole when it starts
        return int(tree.get("trials") or count.total())
    trained = [arm for arm in facts["arms"] if arm["not_run"] is None]
    return len(trained) * len(tree.get("seeds", (0,))) * max(1, len(tree.get("folds", ())))


def _run(folder: Path) -> ListedRun | None:
    try:
        record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
        if record.get("study") is not None or record.get("parent") is not None:
            return None
        state = shown_state(folder, str(record["state"]))
        return ListedRun(folder.name, state, int(record.get("epoch", 0)))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
