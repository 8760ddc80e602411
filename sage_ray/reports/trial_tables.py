"""What was searched or compared: settings, trials and arms as tables, and the choice with its reasons."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from sage_ray.figures.figure_words import short_names
from sage_ray.files import read_json
from sage_ray.reports.evidence import StudyEvidence
from sage_ray.reports.page_parts import Bullets, Grid, Paragraph, Part
from sage_ray.reports.setting_meanings import meanings
from sage_ray.reports.study_words import further_objectives, objective_text, score_text
from sage_ray.search.parent_note import value_text
from sage_ray.search.study_status import StudyStatus, TrialStatus
from sage_ray.statistics.verdict_sentences import counted, upper_first

if TYPE_CHECKING:
    from sage_ray.search.best import BestChoice

ENDINGS = {
    "COMPLETE": "complete",
    "PRUNED": "stopped early",
    "FAIL": "failed",
    "RUNNING": "running",
    "PENDING": "waits",
    "INTERRUPTED": "cut off",
}
MOST_ROWS = 400


def params_text(params: Mapping[str, Any]) -> str:
    """Parameters in a sentence: "`lr` 0.001, ...", or "the untuned base"."""
    named = zip(short_names(list(params)).values(), params.values(), strict=True)
    return ", ".join(f"`{name}` {value_text(value)}" for name, value in named) or "the untuned base"


def trial_order(study: StudyStatus) -> list[TrialStatus]:
    """Complete trials first, the best on top; then the others."""
    sign = -1 if study.direction == "maximize" else 1
    return sorted(
        study.trials,
        key=lambda t: (t.state != "COMPLETE", sign * t.value if t.value is not None else float("inf"), t.number),
    )


def trial_grid(study: StudyStatus, chosen: int | None) -> Grid:
    """All trials, the best first, with their settings."""
    names = sorted({path for trial in study.trials for path in trial.params})
    others = further_objectives(study)
    head = [
        "trial",
        "ended",
        "epochs",
        "score",
        *others,
        *(f"`{name}`" for name in short_names(names).values()),
        "seconds",
    ]
    rows, numbers = [], []
    for trial in trial_order(study)[:MOST_ROWS]:
        values = [value_text(trial.params[name]) if name in trial.params else "base" for name in names]
        seconds = f"{trial.seconds:.0f}" if trial.seconds is not None else "-"
        scores = [score_text(trial.value), *(objective_text(name, trial.objectives.get(name)) for name in others)]
        ended = ENDINGS.get(trial.state, trial.state)
        rows.append([str(trial.number), ended, str(trial.epoch), *scores, *values, seconds])
        numbers.append(trial.number)
    marked = frozenset(place for place, number in enumerate(numbers) if number == chosen)
    better = "higher" if study.direction == "maximize" else "lower"
    caption = f"Score: {study.metric}, {better} is better; of a trial that was stopped early, where it stood then. "
    caption += "Complete trials come first. Seconds: from its start to its end, waiting for others included."
    return Grid(head, rows, frozenset({1}), caption, trials=tuple(numbers), sortable=True, marked=marked)


def front_grid(study: StudyStatus) -> list[Part]:
    """The Pareto front of a study with two objectives, best in the first one first; [] of any other."""
    if not study.front:
        return []
    names = list(study.objectives)
    sign = -1 if study.direction == "maximize" else 1
    front = [trial for trial in study.trials if trial.number in study.front]
    front.sort(key=lambda trial: sign * trial.objectives[names[0]])
    rows = [
        [
            str(trial.number),
            *(objective_text(name, trial.objectives[name]) for name in names),
            params_text(trial.params),
        ]
        for trial in front
    ]
    told = "Pareto front: no other trial beats one of these in one objective and equals it in the other."
    head = ["trial", *names, "parameters"]
    return [Grid(head, rows, frozenset({len(head) - 1}), told, trials=tuple(trial.number for trial in front))]


def failures(study: StudyStatus) -> list[Part]:
    """Which trials failed, and of what; each fault once."""
    by_error: dict[str, list[int]] = {}
    for trial in study.trials:
        if trial.error:
            by_error.setdefault(trial.error, []).append(trial.number)
    lines = [
        f"Trial{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}: {error}"
        for error, numbers in by_error.items()
    ]
    return [Bullets(lines)] if lines else []


def space_grid(evidence: StudyEvidence) -> list[Part]:
    """What a search was free to choose, with the base's and the chosen trial's values."""
    file = yaml.safe_load(evidence.runs_file) or {}
    chosen = evidence.choice.params if evidence.choice else {}
    base = evidence.base_trial
    head = ["setting", "searched", *(["untuned base"] if base else []), "chosen"]
    rows = []
    for path, given in (file.get("space") or {}).items():
        at_base = [value_text(base.params.get(path, "as the base"))] if base else []
        rows.append([f"`{path}`", range_text(given), *at_base, value_text(chosen.get(path, "as the base"))])
    if not rows:
        return []
    sampler, scheduler = file.get("sampler") or {}, file.get("scheduler") or {}
    how = [f"sampler {sampler.get('name', 'tpe')}", f"scheduler {scheduler.get('name', 'fifo')}"]
    seeds = [str(seed) for seed in file.get("seeds") or [0]]
    how += [f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)} of each trial"]
    told = f"What the search was free to choose: {', '.join(how)}.{_stopping(scheduler)}"
    return [Grid(head, rows, frozenset(range(len(head))), told), *meanings(file.get("space") or {})]


def _stopping(scheduler: Mapping[str, Any]) -> str:
    """When trials are stopped early, in words; "" where they are not."""
    grace, factor = scheduler.get("grace_epochs"), scheduler.get("reduction_factor")
    if scheduler.get("name") != "asha" or not grace or not factor:
        return ""
    return (
        f" A trial is stopped early if, after {grace} epochs and each time that these have grown {factor}-fold, it is "
        f"not among the best 1 in {factor} of the trials that had got as far by then."
    )


def range_text(given: Any) -> str:
    """A dimension of a space in words."""
    if not isinstance(given, Mapping):
        return f"fixed: {value_text(given)}"
    text = ""
    for kind in ("float", "int"):
        if kind in given:
            low, high = given[kind][:2]
            text = f"{value_text(low)} to {value_text(high)}" + (", log scale" if given.get("log") else "")
            text += ", whole numbers" if kind == "int" else ""
    if "categorical" in given:
        text = " or ".join(map(value_text, given["categorical"]))
    if "tie" in given:
        text = f"tied: {given['tie']}"
    when = given.get("when")
    return text + (f" (only when {'; '.join(f'{k} is {v}' for k, v in when.items())})" if when else "") or str(given)


def choice_parts(evidence: StudyEvidence) -> list[Part]:
    """What `best` chose and why, who came next, and who stood higher when it was stopped."""
    choice, study = evidence.choice, evidence.status
    if choice is None:
        return [Paragraph(f"None: {evidence.no_choice}.", "note")]
    noun = "Trial" if evidence.is_search else "Arm"
    name = str(choice.trial) if evidence.is_search else _arm(choice, choice.params, choice.trial)
    base = evidence.base_trial
    text = f"{noun} {name}{' (the untuned base)' if base and base.number == choice.trial else ''}"
    text += f" with {study.metric} {score_text(choice.value)}"
    text += f": {params_text(choice.params)}." if evidence.is_search else "."
    parts: list[Part] = [
        Paragraph(f"{text} {_why_chosen(evidence, choice)}"),
        Paragraph(f"Rule: {choice.rule}", "note"),
    ]
    for stopped in choice.stopped_higher[:3]:
        parts.append(
            Paragraph(
                f"Trial {stopped.trial} stood higher, {score_text(stopped.value)}, when it was stopped early at epoch "
                f"{stopped.epoch}: {params_text(stopped.params)}. A stopped trial has no final score, so it cannot be "
                "chosen. It may be worth training to its end: put its settings among the `points` of a further search.",
                "caution",
            )
        )
    if choice.runner_ups:
        parts.append(_standings(evidence))
    return [*parts, *front_grid(study)]


def _why_chosen(evidence: StudyEvidence, choice: BestChoice) -> str:
    """Why the rule takes this trial, and what it says of those that scored higher."""
    noun = "trial" if evidence.is_search else "arm"
    near = sum(row.within for row in choice.runner_ups)
    top = next((row for row in choice.runner_ups if row.trial == choice.top_trial), None)
    rule = "The rule stands in the program, looks at validation scores alone, and cannot know the locked test."
    if top is None:
        told = "It has the best score of all that were trained to the end."
        if near:
            told += (
                f" {counted(near, f'other {noun}')} lie{'s' if near == 1 else ''} within one standard error of it, too "
                f"close to tell apart; of these and it {_taken(choice)}, which is this one."
            )
        return f"{told} {rule}"
    name = str(top.trial) if evidence.is_search else _arm(choice, top.params, top.trial)
    return (
        f"{upper_first(noun)} {name} scored better ({score_text(top.value)}), but by no more than one standard error "
        f"of the difference ({choice.standard_error:.4f}), too close to tell the two apart; where that is so, "
        f"{_taken(choice)}. {rule}"
    )


def _taken(choice: BestChoice) -> str:
    """By which part of the rule one of several trials that cannot be told apart is taken."""
    if choice.front:
        return "the one that is best in the second objective is taken"
    near = [row for row in choice.runner_ups if row.within]
    if any(row.epochs > choice.config.num_epochs for row in near):
        return "the one with the fewest epochs is taken"
    if len({row.network_flops for row in near}) > 1 or any(row.network_flops is not None for row in near):
        return "the one with the smallest network is taken, or the first of equal ones"
    return "the first is taken, as all cost the same"


def _arm(choice: BestChoice, params: Mapping[str, Any], trial: int) -> str:
    """What people call the arm of a trial of an ablation."""
    arm = str(params.get("arm", trial))
    return choice.labels.get(arm, arm)


def _standings(evidence: StudyEvidence) -> Grid:
    choice = evidence.choice
    assert choice is not None
    of_search = evidence.is_search
    rows = [
        [
            str(row.trial) if of_search else _arm(choice, row.params, row.trial),
            score_text(row.value),
            f"{row.behind:.4f}",
            f"{row.standard_error:.4f}",
            "yes" if row.within else "no",
            str(row.epochs),
            *([params_text(row.params)] if of_search else []),
        ]
        for row in choice.runner_ups[:5]
    ]
    first, last = ("trial", ["settings"]) if of_search else ("arm", [])
    head = [first, "score", "behind the top", "standard error", "within one standard error", "epochs", *last]
    trials = tuple(row.trial for row in choice.runner_ups[:5])
    texts = frozenset({4, 6}) if of_search else frozenset({0, 4})
    told = "Who came next. Within one standard error of the best score it is open whether the two differ."
    return Grid(head, rows, texts, told, trials=trials if of_search else ())


def arm_grid(evidence: StudyEvidence) -> list[Part]:
    """The arms of an ablation: what each changes, how many of its runs are done, and what it scored."""
    from sage_ray.search.ablate import read_ablation

    result = read_ablation(evidence.name, evidence.home)
    changed = _changed_by(evidence)
    changes = {
        arm: ", ".join(f"`{path}` {value_text(value)}" for path, value in values.items())
        for arm, values in changed.items()
    }
    score, test = f"{evidence.status.metric} ({result.reduce})", f"test {result.test_score}"
    rows: list[list[str]] = []
    marked: set[int] = set()
    for place, arm in enumerate(result.arms):
        name = f"{arm.label} (`{arm.arm}`)" if arm.label else arm.arm
        if arm.is_reference:
            name = f"{name} (reference)"
            marked.add(place)
        shown = [f"{arm.done} of {arm.wanted}", str(arm.failed), score_text(arm.value), score_text(arm.test)]
        if arm.not_run is not None:
            shown = [f"not run: {arm.not_run}", "", "", ""]
        rows.append([name, changes.get(arm.arm, ""), *shown])
    head = ["arm", "differs by", "done", "failed", score, test]
    caption = "Means over finished runs; intervals and verdicts are above."
    grid = Grid(head, rows, frozenset({0, 1, 2}), caption, marked=frozenset(marked))
    defined: dict[str, list[str]] = {}
    for arm in result.arms:
        text = "; ".join(f"{name}: {meaning}" for name, meaning in arm.definitions.items())
        defined.setdefault(text, []).append(arm.label or arm.arm)
    lines = [f"{', '.join(arms) if len(defined) > 1 else 'Scores'}: {text}." for text, arms in defined.items()]
    details = [f"{line[:1].upper()}{line[1:]}" for line in result.details[1:]]
    return [grid, Bullets([*lines, *details]), *meanings(path for values in changed.values() for path in values)]


def _changed_by(evidence: StudyEvidence) -> dict[str, dict[str, Any]]:
    """By arm, what it sets; as study.json lists it."""
    arms = read_json(evidence.folder / "study.json").get("arms") or []
    return {
        str(arm["name"]): {path: value for path, value in (arm.get("values") or {}).items() if path != "arm"}
        for arm in arms
    }


def changes_of_file(folder: Path) -> list[str]:
    """What of the study's file was changed since it began, and when."""
    changes = read_json(folder / "study.json").get("changes", [])
    return [
        f"changed {change['time']}: "
        + "; ".join(f"`{key}` {_said(old)} to {_said(new)}" for key, (old, new) in change["keys"].items())
        for change in changes
        if change["keys"]
    ]


def _said(value: Any) -> str:
    return "absent" if value is None else value_text(value)
