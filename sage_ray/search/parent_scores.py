"""The numbers of a study's run in MLflow: the best trial or arm, the locked test where it was read, trials by state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sage_ray.record.home import Home
from sage_ray.record.mlflow_scores import locked_scores
from sage_ray.record.run_folder import RunFolder
from sage_ray.search.study_status import StudyStatus, TrialStatus

PRIMARY = "test/dice"


@dataclass(frozen=True)
class ArmStanding:
    """One arm of an ablation, means over its runs: `value` of the objective, `tests` of the locked test."""

    name: str
    label: str | None
    done: int
    wanted: int
    value: float | None
    tests: Mapping[str, float]
    """By metric, such as test/dice; empty unless every finished run has read the test."""
    not_run: str | None = None

    @property
    def called(self) -> str:
        """Its name for people."""
        return f"{self.label} (`{self.name}`)" if self.label else self.name


def best_trial(status: StudyStatus) -> TrialStatus | None:
    """The complete trial with the best (first) objective; None for an ablation, which has arms (`best_arm`)."""
    done = [trial for trial in status.trials if trial.state == "COMPLETE" and trial.value is not None]
    if status.kind != "sweep" or not done:
        return None
    return max(done, key=lambda trial: _sign(status) * (trial.value or 0.0))


def best_arm(status: StudyStatus, arms: Sequence[ArmStanding]) -> ArmStanding | None:
    """The arm with the best mean objective among those whose runs have all finished."""
    done = [arm for arm in arms if arm.value is not None and arm.done == arm.wanted]
    return max(done, key=lambda arm: _sign(status) * (arm.value or 0.0), default=None)


def arm_standings(status: StudyStatus, facts: Mapping[str, Any], home: Home) -> list[ArmStanding]:
    """The arms of an ablation in the order of its design; none of a search.

    Args:
        status: of the study.
        facts: its study.json.
        home: of its runs.
    """
    if status.kind != "ablation":
        return []
    arms = list(facts.get("arms") or ())
    run = sum(not arm.get("not_run") for arm in arms)
    found = []
    for arm in arms:
        trials = [trial for trial in status.trials if trial.params.get("arm") == arm["name"]]
        done = [trial for trial in trials if trial.state == "COMPLETE"]
        values = [trial.value for trial in done if trial.value is not None]
        wanted = 0 if arm.get("not_run") else status.target // max(run, 1)
        found.append(
            ArmStanding(
                arm["name"],
                arm.get("label"),
                len(done),
                wanted,
                float(np.mean(values)) if values else None,
                tests_of([run.run_id for trial in done for run in trial.runs], home),
                arm.get("not_run"),
            )
        )
    return found


def tests_of(run_ids: Sequence[str], home: Home) -> dict[str, float]:
    """Scores on the locked test, means over the runs; empty unless each of them has read it."""
    listed = []
    for run_id in run_ids:
        folder = RunFolder(home.runs / run_id)
        if not (folder.path / "record.json").is_file():
            return {}
        listed.append(locked_scores(folder, folder.read()))
    if not listed or not all(listed):
        return {}
    return {
        name: float(np.mean([each[name] for each in listed])) for name in listed[0] if all(name in x for x in listed)
    }


def counts(status: StudyStatus) -> dict[str, float]:
    """Trials by state; `trials/wanted` are those of the whole study."""
    named = {"wanted": status.target, "complete": status.done, "pruned": status.pruned, "failed": status.failed}
    return {f"trials/{name}": float(count) for name, count in named.items()}


def _sign(status: StudyStatus) -> float:
    return -1.0 if status.direction == "minimize" else 1.0
