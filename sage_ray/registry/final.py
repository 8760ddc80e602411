"""Final training: the chosen configuration on train + validation, some seeds, each scored once on the locked test."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from sage_ray.config import ExperimentConfig
from sage_ray.data.prepare import headline, prepare
from sage_ray.errors import RunFailed, UserError
from sage_ray.evaluation.locked_test import score_locked_test, stored_test_rows
from sage_ray.evaluation.locked_test_table import basis, locked_test_frame
from sage_ray.evaluation.particle_scores import particle_lines, sizes_of_runs
from sage_ray.evaluation.score_tables import PRIMARY, ScoreLine, summary
from sage_ray.evaluation.shared_reads import Readings, readings_of
from sage_ray.locks import locked
from sage_ray.notebook_view import NotebookView
from sage_ray.record.home import Home
from sage_ray.record.model_versions import MODEL_NAME, Version
from sage_ray.record.run_folder import RunFolder
from sage_ray.record.run_record import RunLabels
from sage_ray.registry.compare import compare_with_reference
from sage_ray.registry.comparison import VersionScores
from sage_ray.registry.final_plan import FinalPlan, declare, make_plan, read_plan
from sage_ray.registry.register import register
from sage_ray.runtime.at_hand import check_pairs, check_run, computes_here
from sage_ray.runtime.near_gpus import near_gpus
from sage_ray.runtime.side_by_side import Job, run_side_by_side
from sage_ray.study.design_schema import FINAL_ARM
from sage_ray.training.context import Report
from sage_ray.watch import tell_maker

if TYPE_CHECKING:
    from sage_ray.watch import Watch

NamedScores = dict[str, ScoreLine]
"""Scores by name."""


@dataclass(frozen=True)
class FinalRun:
    """One seed of a final training."""

    run_id: str
    seed: int
    state: str
    weights_sha: str | None
    synthetic_steps: int
    generator_updates: int
    test_reads: int
    scores: dict[str, ScoreLine]
    """On the locked test; intervals over images alone."""


@dataclass(frozen=True)
class FinalResult(NotebookView):
    """A finished final training and the version that it registered."""

    final_id: str
    source: str
    study: str | None
    trial: int | None
    choice: str
    rule: str
    model_name: str
    version: int
    uri: str
    seeds: tuple[int, ...]
    registered_seed: int
    runs: list[FinalRun]
    scores: dict[str, ScoreLine]
    """On the locked test, over images crossed with seeds."""
    versions: list[VersionScores]
    """The new version, and the one it is compared with, if any shares its test set."""
    readings: Readings
    """Reads of the locked test over all homes of the stores that the home shares."""
    verdict: str
    """Verdict of the comparison: supported, refuted, undecided, or `first version` without anything to compare."""

    def frame(self) -> pd.DataFrame:
        """The locked-test table: one row per seed, and one of all seeds with the interval over images and seeds.

        Columns: seed, images, and for Dice, object F1 and pooled pixel F1 the mean and, where there are any, the bounds
        NAME_low and NAME_high of its interval; of one seed these are over images alone.
        """
        return locked_test_frame({str(run.seed): run.scores for run in self.runs}, self.scores)

    def headline(self) -> str:
        """Which version was registered, of what, and the verdict."""
        return f"{self.final_id}: registered {self.uri} (seed {self.registered_seed}); {self.verdict}"

    def remarks(self) -> list[str]:
        """What the intervals are over, how the configuration was chosen, and how often the test was read."""
        return [basis(self.scores[PRIMARY]), f"Rule: {self.rule}", self.readings.sentence, *self.readings.notes]


def final(
    source: str | ExperimentConfig,
    home: Home,
    *,
    trial: str | int = "best",
    seeds: Sequence[int] = (0, 1, 2),
    model_name: str = MODEL_NAME,
    watch: Watch | None = None,
    declared: Callable[[str], None] | None = None,
) -> FinalResult:
    """Train, score and register; a repeated call goes on where the one before ended, and doubles nothing.

    Args:
        source: name of a study, id of a finished run, or a config.
        home: where all of it is kept.
        trial: of a study: "best", "base", or a number.
        seeds: trained under Ray Train, as many at a time as fit; the first is registered, whatever the scores.
        model_name: of the registered model.
        watch: told each epoch and each step of the way.
        declared: told the id of the final training as soon as `resume_final` can go on with it.

    Raises:
        UserError: as `make_plan`, or the registry cannot be reached. RunFailed: a seed's run did not finish.
    """
    plan = make_plan(source, home, trial=trial, seeds=tuple(int(seed) for seed in seeds), model_name=model_name)
    home.check_writable()
    _check_at_hand(plan, home)
    plan = declare(plan, home)
    if declared is not None:
        declared(plan.final_id)
    return _carry_out(plan, home, watch)


def resume_final(final_id: str, home: Home, watch: Watch | None = None) -> FinalResult:
    """Go on with a declared final training. Raises as `final`."""
    home.refuse_missing()
    home.check_writable()
    return _carry_out(read_plan(home, final_id), home, watch)


def is_final(name: str, home: Home) -> bool:
    """Whether a final training of that id was declared in the home."""
    return name in home.final_ids()


def locked_scores(plan: FinalPlan, home: Home) -> tuple[dict[str, NamedScores], NamedScores] | None:
    """Scores of each seed by its name, and of all seeds, as they are stored; None unless every seed was scored.

    `evaluation.locked_test_table` makes tables of them. Nothing is scored, so that no reading is counted.
    """
    runs = [RunFolder(home.runs / run_id) for run_id in plan.run_ids]
    frames = [stored_test_rows(run) for run in runs if run.path.is_dir()]
    if len(frames) < len(runs) or any(frame.empty for frame in frames):
        return None
    named = zip(plan.seeds, frames, strict=True)
    whole = pd.concat(frames, ignore_index=True)
    return {str(seed): summary(rows, plan.final_id) for seed, rows in named}, summary(whole, plan.final_id)


def _check_at_hand(plan: FinalPlan, home: Home) -> None:
    """Raise UserError if a seed that has not been trained needs what cannot be had; the first tells for all."""
    if all((home.runs / run_id / "record.json").is_file() for run_id in plan.run_ids):
        return
    config = plan.run_config(plan.seeds[0])
    check_run(config, home, here=computes_here())
    check_pairs(config, home)


def _carry_out(plan: FinalPlan, home: Home, watch: Watch | None) -> FinalResult:
    say = _once(watch)
    with locked(home.finals / f".{plan.final_id}.lock", timeout_s=1, say=say) as held:
        if not held:
            raise UserError("final training is running", plan.final_id, "wait for the other process, or stop it first")
        data = plan.run_config(plan.seeds[0]).data
        say(headline(prepare(data, home.cache), data))
        _train(plan, home, watch, say)
        frames = _score(plan, home, say)
        scores = pd.concat(frames, ignore_index=True)
        _say(watch, f"{plan.final_id}: {len(plan.seeds)} seeds scored on the locked test, once each")
        version = register(plan, home, scores)
        _say(watch, f"registered as {version.uri}")
    return _result(plan, home, version, scores)


def _train(plan: FinalPlan, home: Home, watch: Watch | None, say: Callable[[str], None]) -> None:
    """Train all seeds; raises RunFailed for the first that did not finish."""
    labels = RunLabels(study=plan.study, trial=plan.trial, arm=FINAL_ARM, parent=plan.final_id)
    jobs = [Job(plan.run_id(seed), plan.run_config(seed), labels) for seed in plan.seeds]
    total = jobs[0].config.num_epochs
    say(f"{plan.final_id}: {_seeds_text(plan.seeds)}, {total} epochs on train + validation")

    def name(job: Job) -> str:
        return f"s{job.config.seed}" if len(jobs) > 1 else ""

    def on_report(job: Job, report: Report) -> None:
        if watch is not None:
            watch.epoch(report, total, name(job))

    def on_maker(job: Job, progress: Report) -> None:
        if watch is not None:
            tell_maker(watch, progress, name(job))

    for record in run_side_by_side(jobs, home, on_report=on_report, on_maker=on_maker, say=say):
        if not record.finished:
            raise RunFailed(
                f"run {record.run_id} ended as {record.state} ({record.error or 'no error noted'}); "
                f"`sage-ray resume {plan.final_id}` goes on"
            )


def _once(watch: Watch | None) -> Callable[[str], None]:
    """Tells the watch each line once: what the run of every seed says of data and device is the same."""
    told: set[str] = set()
    lock = threading.Lock()

    def say(line: str) -> None:
        with lock:
            if line not in told:
                told.add(line)
                _say(watch, line)

    return say


def _score(plan: FinalPlan, home: Home, say: Callable[[str], None]) -> list[pd.DataFrame]:
    """Locked-test rows of each seed, scored where it was trained."""
    runs = [RunFolder.open(home.runs, run_id) for run_id in plan.run_ids]
    unread = any(not run.read().test_reads for run in runs)
    with near_gpus(runs[0].config() if unread else None, home, say) as near:
        purpose = f"final {plan.final_id}"
        return [near.call(score_locked_test, run_id, home, purpose=purpose) for run_id in plan.run_ids]


def _seeds_text(seeds: Sequence[int]) -> str:
    """ "seed 0", or "seeds 0, 1, 2"."""
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _say(watch: Watch | None, text: str) -> None:
    if watch is not None:
        watch.line(text)


def _result(plan: FinalPlan, home: Home, version: Version, scores: pd.DataFrame) -> FinalResult:
    versions, verdict = compare_with_reference(home, version)
    return FinalResult(
        final_id=plan.final_id,
        source=plan.source,
        study=plan.study,
        trial=plan.trial,
        choice=plan.choice,
        rule=plan.rule,
        model_name=plan.model_name,
        version=version.version,
        uri=version.uri,
        seeds=plan.seeds,
        registered_seed=plan.seeds[0],
        runs=[_final_run(plan, seed, home, scores) for seed in plan.seeds],
        scores=summary(scores, plan.final_id) | _particles(plan, home, scores),
        versions=versions,
        readings=readings_of(home, version.tags["sage.test_set"], write=True),
        verdict=verdict,
    )


def _particles(plan: FinalPlan, home: Home, scores: pd.DataFrame) -> dict[str, ScoreLine]:
    """Scores of particles over all seeds."""
    sizes = sizes_of_runs([RunFolder.open(home.runs, run_id) for run_id in plan.run_ids])
    return particle_lines(pd.concat([scores, sizes], ignore_index=True), plan.final_id)


def _final_run(plan: FinalPlan, seed: int, home: Home, scores: pd.DataFrame) -> FinalRun:
    record = RunFolder.open(home.runs, plan.run_id(seed)).read()
    return FinalRun(
        run_id=record.run_id,
        seed=seed,
        state=record.state,
        weights_sha=record.weights_sha,
        synthetic_steps=record.synthetic_steps,
        generator_updates=record.generator_updates,
        test_reads=record.test_reads,
        scores=summary(scores[scores["seed"] == seed], record.run_id),
    )
