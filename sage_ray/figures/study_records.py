"""What figures of a study are drawn from: its facts, runs, trials and winner, each read when it is first asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from sage_ray.analysis.study_facts import StudyFacts, study_facts, study_runs
from sage_ray.analysis.tables import Provenance, provenance_of
from sage_ray.analysis.tidy import Tidy, collect
from sage_ray.errors import UserError
from sage_ray.figures.shown_model import ShownModel, load_shown
from sage_ray.figures.tested_finals import plans_of
from sage_ray.metrics.definitions import label, name_of
from sage_ray.record.home import Home
from sage_ray.record.run_record import FINISHED
from sage_ray.registry.final_plan import FinalPlan, read_plan
from sage_ray.search.best import BestChoice, best
from sage_ray.search.study_folder import StudyFolder
from sage_ray.search.study_status import StudyStatus, TrialStatus, status_of, study_rows
from sage_ray.study.dimension import Dimension
from sage_ray.study.file_schema import ObjectivePart
from sage_ray.upkeep.belongings import unknown


@dataclass(frozen=True)
class Winner:
    """The run whose model is shown: `called` names it for people, `why` says in a sentence what it is."""

    run_id: str
    called: str
    why: str


class StudyRecords:
    """The records of a search, an ablation or a final training of a home.

    Args:
        home: that holds it.
        name: of the study or final training.

    Raises:
        UserError: nothing of that name; the nearest one is given.
    """

    def __init__(self, home: Home, name: str) -> None:
        self.home, self.name = home, name
        self._plan: FinalPlan | None = None
        if name in home.final_ids():
            self._plan = read_plan(home, name)
        elif name not in home.study_names():
            raise unknown(name, home)

    @classmethod
    def known(cls, home: Home, name: str, status: StudyStatus, choice: BestChoice | None) -> StudyRecords:
        """The records of a search or ablation whose status and choice have been read already."""
        records = cls(home, name)
        records.status, records.choice = status, choice
        return records

    @property
    def kind(self) -> str:
        """sweep, ablation or final."""
        return "final" if self._plan is not None else self.facts.kind

    @cached_property
    def tidy(self) -> Tidy:
        """The tidy table of the home, brought up to date."""
        return collect(self.home)

    @cached_property
    def facts(self) -> StudyFacts:
        """The facts of the study; of a final training, its name and seeds."""
        if self._plan is not None:
            return StudyFacts(name=self.name, kind="final", seeds=self._plan.seeds)
        return study_facts(self.tidy, self.name)

    @cached_property
    def runs(self) -> pd.DataFrame:
        """Rows of `Tidy.runs`, final trainings of a study left out."""
        if self._plan is None:
            return study_runs(self.tidy, self.name)
        runs = self.tidy.runs()
        return runs[runs["run_id"].isin(self._plan.run_ids)].reset_index(drop=True)

    @property
    def finished(self) -> pd.DataFrame:
        """The runs that are complete."""
        return self.runs[self.runs["state"] == FINISHED]

    @cached_property
    def final_plans(self) -> list[FinalPlan]:
        """The final trainings of the study; of a final training, those of its study, itself among them."""
        study = self.name if self._plan is None else self._plan.study
        own = [] if self._plan is None or self._plan.study else [self._plan]
        return own or (plans_of(study, self.home) if study else [])

    @property
    def provenance(self) -> Provenance:
        """Of all runs."""
        return provenance_of(self.name, self.runs)

    @cached_property
    def _folder(self) -> StudyFolder:
        return StudyFolder.open(self.home, self.name)

    @cached_property
    def _spec(self) -> Any:
        return self._folder.spec()

    @cached_property
    def status(self) -> StudyStatus:
        """The study as it stands; of a final training there is none."""
        return status_of(self._folder, self._spec, study_rows(self._folder, self._spec))

    @cached_property
    def searched(self) -> tuple[Dimension, ...]:
        """What a search looks for, as its file has it; ties left out."""
        return tuple(d for d in self._spec.dimensions if d.kind != "tie")

    @property
    def trials(self) -> Sequence[TrialStatus]:
        """The trials of a search, in the order of their numbers.

        Raises:
            UserError: it is no search, or has no trial yet.
        """
        if self.kind != "sweep":
            raise self.without("it is no search")
        if not self.status.trials:
            raise self.without("no trial has begun")
        return self.status.trials

    @cached_property
    def choice(self) -> BestChoice | None:
        """What `sage-ray best` says; None while it can say nothing, or of a final training."""
        if self.kind == "final":
            return None
        try:
            return best(self.name, self.home)
        except UserError:
            return None

    @cached_property
    def winner(self) -> Winner:
        """The run whose model is shown: the first one of the best trial or arm, or of a final training.

        Raises:
            UserError: there is none.
        """
        done = set(self.finished["run_id"])
        if self._plan is not None:
            ids, called = [run_id for run_id in self._plan.run_ids if run_id in done], self.name
        elif self.choice is not None:
            ids = [run_id for run_id in self.choice.run_ids if run_id in done]
            arm = self.choice.params.get("arm")
            called = f"trial {self.choice.trial}" if arm is None else self.facts.called(str(arm))
        else:
            raise self.without("no best trial is known yet")
        if not ids:
            raise self.without("no run of the best trial is complete")
        seed = int(self.finished.set_index("run_id")["seed"][ids[0]])
        return Winner(ids[0], called, f"Model: {called}, seed {seed} (run {ids[0]}).")

    @cached_property
    def shown(self) -> ShownModel:
        """The winner's model with its validation images. Raises UserError where one of them is not to be had."""
        return load_shown(self.home, self.winner.run_id)

    @property
    def objective(self) -> ObjectivePart | None:
        """What trials are judged by first; None of a final training."""
        objective: ObjectivePart | None = None if self.kind == "final" else self._spec.objective
        return objective

    @property
    def score(self) -> str:
        """What trials are judged by, for an axis, such as "validation Dice"."""
        return f"validation {label(name_of(self.facts.metric))}".replace("validation validation", "validation")

    @property
    def sign(self) -> float:
        """1 where higher scores are better, else -1."""
        return 1.0 if self.facts.maximize else -1.0

    def is_base(self, trial: TrialStatus) -> bool:
        """Whether a trial of a search is the untuned base."""
        return trial.number == self.base

    @cached_property
    def base(self) -> int | None:
        """Number of the trial that is the untuned base; None where a search evaluates none."""
        number = self._spec.untuned_trial()
        return next((trial.number for trial in self.trials if trial.number == number), None)

    def without(self, why: str) -> UserError:
        """The error that says why a figure cannot be drawn."""
        return UserError(why, f"study {self.name}", "resume it, or choose another figure")
