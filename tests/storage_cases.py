"""A study's storage opened as a driver opens it, and what is compared of its trials."""

from __future__ import annotations

from typing import Any

from watch_cases import Heard

from sage_ray.search.opening import open_storage
from sage_ray.search.storage import StudyStorage, TrialRow
from sage_ray.search.study_folder import StudyFolder

POINTS: dict[str, Any] = {"points": [{}, {"adversarial.lambda_cycle": 2.0}, {"adversarial.lambda_cycle": 0.5}]}


def opened(folder: StudyFolder, **changes: Any) -> tuple[StudyStorage, list[str]]:
    heard = Heard()
    return open_storage(
        folder, changes.get("spec") or folder.spec(), "f", heard, changes.get("again") or ()
    ), heard.lines


def facts(rows: list[TrialRow]) -> list[tuple[Any, ...]]:
    return [(r.number, r.state, r.params, r.values, r.value, r.reports, r.error) for r in rows]
