"""Which settings of a search decide its score: PED-ANOVA or fANOVA on the study's storage, intervals over trials.

A pruned trial was stopped before it had its final score. PED-ANOVA counts it as one that is not among the best; fANOVA,
which needs scores, leaves it out. A failed trial has no score, so both leave it out, and the table counts it.

    python analysis/importance.py [--study NAME ...] [--method ped_anova|fanova] [--resamples 200]
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState

from sage_ray.analysis.command import each_study, run_command, script_parser
from sage_ray.analysis.figure_style import new_figure, save_script_figure, tidy_axes
from sage_ray.analysis.study_facts import StudyFacts, study_runs
from sage_ray.analysis.tables import Provenance, TextTable, interval, percent, provenance_of, write_tables
from sage_ray.analysis.tidy import Tidy
from sage_ray.errors import UserError
from sage_ray.record.home import Home
from sage_ray.record.optuna_store import store_of_study

TOP = 0.25
"""PED-ANOVA asks what makes a trial one of this share of the best."""
LEAST_TOP = 2
LEAST_TRIALS = 8
TREES = 32
LEVEL = 0.95
RESAMPLES = {"ped_anova": 200, "fanova": 40}


@dataclass(frozen=True)
class Importance:
    """Shares of importance of a study's settings.

    Attributes:
        table: setting, importance, low, high, sorted; the importances add up to 1.
        complete, pruned, failed: trials by their end.
        used: trials that the importances were computed from.
        note: what an importance is.
    """

    table: pd.DataFrame
    complete: int
    pruned: int
    failed: int
    used: int
    note: str


def applies(tidy: Tidy, facts: StudyFacts) -> str | None:
    """None if the study is a search with a storage, else why not."""
    if facts.kind != "sweep":
        return "not a search"
    store = store_of_study(tidy.home, facts.name)
    return None if store.is_server or store.file.is_file() else "the storage of the study is not here"


def too_short(tidy: Tidy, facts: StudyFacts) -> str | None:
    """None if enough trials of the search are complete for importances, else how many are."""
    trials, _ = stored_trials(tidy.home, facts.name)
    complete = sum(trial.state == TrialState.COMPLETE for trial in trials)
    return None if complete >= LEAST_TRIALS else f"{complete} complete trials, at least {LEAST_TRIALS} are needed"


def stored_trials(home: Home, name: str) -> tuple[list[FrozenTrial], bool]:
    """The ended trials of a study, and whether higher values are better.

    Raises:
        UserError: the storage is damaged, holds no such study, or its server cannot be used.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    store = store_of_study(home, name)
    try:
        with store.opened() as storage:
            study = optuna.load_study(study_name=store.study_name, storage=storage)
            trials = study.get_trials(deepcopy=False)
    except UserError:
        raise
    except KeyError:
        raise UserError("no trials yet", f"study {name}", f"`sage-ray resume {name}`") from None
    except Exception as error:  # SQLAlchemy has errors of its own for a damaged file
        reason = " ".join(str(error).split())[:160]
        raise UserError("damaged storage", store.folder / store.where, f"restore it ({reason})") from None
    return [trial for trial in trials if trial.state.is_finished()], study.direction.name == "MAXIMIZE"


def importance(
    trials: Sequence[FrozenTrial], *, maximize: bool, method: str, resamples: int, seed: int = 0, where: str = "study"
) -> Importance:
    """Importances of all settings that differ between trials, with percentile intervals from resampled trials.

    Args:
        trials: ended ones.
        maximize: whether higher values are better.
        method: ped_anova or fanova.
        resamples: sets of trials drawn with replacement.
        seed: of the resampling, and of the forest.
        where: names the study in errors.

    Raises:
        UserError: too few trials, or no setting that varies.
    """
    by_state = {state: [trial for trial in trials if trial.state == state] for state in TrialState}
    complete, pruned = by_state[TrialState.COMPLETE], by_state[TrialState.PRUNED]
    used = [
        *_with_loss(complete, maximize),
        *(_ranked_last(complete, pruned, maximize) if method == "ped_anova" else []),
    ]
    if len(complete) < LEAST_TRIALS:
        what = f"too few complete trials ({len(complete)})"
        raise UserError(what, where, f"importances need at least {LEAST_TRIALS}; resume the study with more trials")
    names = _names(used, shared=method == "fanova")
    if not names:
        raise UserError("no setting varies", where, "importances need a search over two values or more")
    draws = np.random.default_rng(seed)
    found = _importances(used, names, method, len(complete), seed)
    drawn: list[dict[str, float]] = []
    while len(drawn) < resamples:
        sample = [used[place] for place in draws.integers(len(used), size=len(used))]
        num_complete = sum(trial.user_attrs["complete"] for trial in sample)
        if num_complete >= LEAST_TOP:
            drawn.append(_importances(sample, names, method, num_complete, seed))
    spread = np.array([[shares.get(name, 0.0) for name in names] for shares in drawn])
    low, high = np.quantile(spread, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    shares = [found.get(name, 0.0) for name in names]
    table = pd.DataFrame({"setting": names, "importance": shares, "low": low, "high": high})
    return Importance(
        table=table.sort_values("importance", ascending=False, kind="stable", ignore_index=True),
        complete=len(complete),
        pruned=len(pruned),
        failed=len(by_state[TrialState.FAIL]),
        used=len(used),
        note=_note(method, len(used), len(complete)),
    )


def _with_loss(trials: Sequence[FrozenTrial], maximize: bool) -> list[FrozenTrial]:
    return [
        _copy(trial, -float(trial.value or 0.0) if maximize else float(trial.value or 0.0), True) for trial in trials
    ]


def _ranked_last(complete: Sequence[FrozenTrial], pruned: Sequence[FrozenTrial], maximize: bool) -> list[FrozenTrial]:
    """The pruned trials, each with a loss worse than that of every complete trial.

    The scheduler stopped them because they did badly; what they scored before that is not comparable, and is not used.
    """
    worst = max((trial.value for trial in _with_loss(complete, maximize) if trial.value is not None), default=0.0)
    return [_copy(trial, worst + 1.0, False) for trial in pruned]


def _copy(trial: FrozenTrial, loss: float, complete: bool) -> FrozenTrial:
    return optuna.trial.create_trial(
        params=trial.params, distributions=trial.distributions, value=loss, user_attrs={"complete": complete}
    )


def _names(trials: Sequence[FrozenTrial], *, shared: bool) -> list[str]:
    """Names of the settings that have two values or more.

    Args:
        trials: that have them.
        shared: leave out settings that some trial does not have.
    """
    names = dict.fromkeys(name for trial in trials for name in trial.params)
    return [
        name
        for name in names
        if len({repr(trial.params[name]) for trial in trials if name in trial.params}) > 1
        and (not shared or all(name in trial.params for trial in trials))
    ]


def _importances(
    trials: Sequence[FrozenTrial], names: Sequence[str], method: str, num_complete: int, seed: int
) -> dict[str, float]:
    study = optuna.create_study(direction="minimize")
    study.add_trials(trials)
    present = [name for name in names if any(name in trial.params for trial in trials)]
    evaluator: PedAnovaImportanceEvaluator | FanovaImportanceEvaluator
    if method == "fanova":
        evaluator = FanovaImportanceEvaluator(n_trees=TREES, seed=seed)
    else:
        evaluator = PedAnovaImportanceEvaluator(target_quantile=_quantile(len(trials), num_complete))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return optuna.importance.get_param_importances(study, evaluator=evaluator, params=present)


def _quantile(num_trials: int, num_complete: int) -> float:
    """The share of trials that count as the best: `TOP`, but at least two trials, and complete ones only."""
    return min(max(TOP, LEAST_TOP / num_trials), num_complete / num_trials, 0.99)


def _note(method: str, num_used: int, num_complete: int) -> str:
    if method == "fanova":
        return (
            "Importance: share of the variance of the score that a setting alone explains in a random forest "
            f"({TREES} trees) fitted to the complete trials (fANOVA, Hutter et al. 2014), over the settings that all "
            "of them have."
        )
    top = percent(_quantile(num_used, num_complete))
    return (
        f"Importance: how far the distribution of a setting among the best {top} of trials departs from that among all "
        "(PED-ANOVA, Watanabe et al. 2023), as a share of the sum over settings. Pruned trials count as not among the "
        "best, whatever they scored before they were stopped."
    )


def table_of(facts: StudyFacts, found: Importance, resamples: int) -> TextTable:
    """The importances as a table of texts."""
    rows = [[str(row.setting), interval(row.importance, row.low, row.high)] for row in found.table.itertuples()]
    return TextTable(
        title=f"What decides {facts.metric} in {facts.name}",
        columns=["setting", f"importance [{percent(LEVEL)}]"],
        rows=rows,
        notes=[
            found.note,
            f"{found.complete} complete, {found.pruned} pruned, {found.failed} failed trials; {found.used} used. "
            "Failed trials have no score and are left out.",
            f"Intervals: {percent(LEVEL)} percentiles over {resamples} sets of trials drawn with replacement. Chance "
            "alone gives every setting a share above 0: compare settings with each other, not with 0.",
        ],
    )


def draw(found: Importance, path: Path, title: str, source: Provenance) -> Path:
    """Draw bars with intervals, the most important setting on top."""
    table = found.table.iloc[::-1]
    figure = new_figure(6.8, 1.7 + 0.32 * len(table))
    axes = figure.subplots()
    places = np.arange(len(table))
    axes.barh(places, table["importance"], color="0.8", edgecolor="black", hatch="///", linewidth=0.8, height=0.65)
    axes.hlines(places, table["low"], table["high"], color="black", linewidth=1.6)
    axes.set_yticks(places, table["setting"])
    axes.set(xlabel="share of importance", xlim=(0, 1))
    axes.set_title(title, fontsize=10)
    tidy_axes(axes)
    states = f"{found.complete} complete, {found.pruned} pruned, {found.failed} failed trials."
    return save_script_figure(
        figure, path, source, [f"{found.note} {states} Lines: {percent(LEVEL)} intervals over trials."]
    )


def make(tidy: Tidy, facts: StudyFacts, out: Path, options: argparse.Namespace) -> Sequence[Path]:
    """Write importance.{md,tex,csv,png} of a study."""
    trials, maximize = stored_trials(tidy.home, facts.name)
    found = importance(
        trials, maximize=maximize, method=options.method, resamples=options.resamples, where=f"study {facts.name}"
    )
    source = provenance_of(facts.name, study_runs(tidy, facts.name))
    table = table_of(facts, found, options.resamples)
    paths = write_tables(out, "importance", [table], found.table.assign(method=options.method), source)
    return [*paths, draw(found, out / "importance.png", table.title, source)]


def main() -> int:
    """Write importance of each search; the exit code."""
    parser = script_parser("importance", __doc__)
    parser.add_argument("--method", choices=("ped_anova", "fanova"), default="ped_anova")
    parser.add_argument(
        "--resamples", type=int, help="sets of trials for the intervals [default: 200, or 40 of fanova]"
    )

    def work(options: argparse.Namespace) -> int:
        if options.resamples is None:
            options.resamples = RESAMPLES[options.method]
        if options.resamples < 1:
            raise UserError("no resamples", f"--resamples {options.resamples}", "give at least 1, such as 200")

        def fits(tidy: Tidy, facts: StudyFacts) -> str | None:
            # A short search is no error of `make tables`; who asks for it by name is told.
            return applies(tidy, facts) or (None if options.study else too_short(tidy, facts))

        return each_study(options, fits, lambda tidy, facts, out: make(tidy, facts, out, options))

    return run_command(parser, work)
