"""The description of a study in MLflow, in markdown: what was asked, what came out, how to go on. Short."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sage_ray.markdown_texts import markdown_cell, markdown_text
from sage_ray.metrics.definitions import label
from sage_ray.record.mlflow_calls import SIGNED
from sage_ray.record.mlflow_inputs import data_title
from sage_ray.record.mlflow_params import preset_words
from sage_ray.search.parent_scores import PRIMARY, ArmStanding, best_arm, best_trial
from sage_ray.search.study_status import StudyStatus, TrialStatus

MAX_ARMS, MAX_SETTINGS = 24, 12


def study_description(
    status: StudyStatus,
    tree: Mapping[str, Any],
    shown: Mapping[str, str],
    arms: Sequence[ArmStanding],
    verdicts: Sequence[str],
    tests: Mapping[str, float],
) -> str:
    """The description of a search or an ablation.

    Args:
        status: of the study.
        tree: the study's own file.
        shown: params of its run: system, preset (or the nearest) and what the base sets.
        arms: of an ablation.
        verdicts: lines about its arms; none before it has ended.
        tests: of the best trial of a search, where its runs have read the locked test.
    """
    asked = _searched(status, tree) if status.kind == "sweep" else _compared(arms)
    found = [_best_trial(status, tests)] if status.kind == "sweep" else [verdicts, _arms(status, arms)]
    on = shown.get("data.path")
    base = f"Base: {preset_words(shown)}" + (f", data `{data_title(on)}`." if on else ".") if shown else ""
    # MLflow shows the first lines, and the rest when asked.
    about = [line for line in (_judged(status), base) if line]
    parts = [[_headline(status, arms)], *found, about, asked, [_go_on(status)], [SIGNED]]
    return "\n\n".join("\n".join(part) for part in parts if part)


def _headline(status: StudyStatus, arms: Sequence[ArmStanding]) -> str:
    """What came out, on one line that MLflow's list shows the beginning of."""
    noun = "trials" if status.kind == "sweep" else "runs"
    top, best = best_arm(status, arms), best_trial(status)
    if top is not None:
        end = "Lowest" if status.direction == "minimize" else "Highest"  # which arm is better, the verdicts say
        found = f"{end} {status.metric} {_score(top.value)}, arm {markdown_text(top.label or top.name)}"
    elif best is not None:
        found = f"Best {status.metric} {_score(best.value)}, trial {best.number}"
    else:
        found = "No arm is complete yet" if status.kind == "ablation" else "No trial is complete yet"
    beside = [f"{count} {word}" for count, word in ((status.pruned, "pruned"), (status.failed, "failed")) if count]
    counted = ", ".join([f"{status.done} of {status.target} {noun} complete", *beside])
    return f"{found}; {counted}; {status.state}."


def _judged(status: StudyStatus) -> str:
    kind = "Search" if status.kind == "sweep" else "Ablation"
    better = "lower" if status.direction == "minimize" else "higher"
    return f"{kind}, judged by `{status.metric}` on validation images ({better} is better)."


def _searched(status: StudyStatus, tree: Mapping[str, Any]) -> list[str]:
    dimensions = dict(tree.get("space") or {})
    lines = [f"- `{path}`: {_range(given)}" for path, given in list(dimensions.items())[:MAX_SETTINGS]]
    more = len(dimensions) - len(lines)
    sampler = (tree.get("sampler") or {}).get("name", "tpe")
    scheduler = (tree.get("scheduler") or {}).get("name", "fifo")
    early = "no trial is stopped early" if scheduler == "fifo" else f"`{scheduler}` stops trials early"
    each = f"; {status.runs_of_trial} runs for each trial" if status.runs_of_trial > 1 else ""
    tail = [f"- and {more} more"] if more > 0 else []
    return [f"Searched (sampler `{sampler}`, {early}{each}):", *lines, *tail]


def _range(given: Any) -> str:
    if not isinstance(given, Mapping):
        return f"`{given}`"
    for kind in ("float", "int"):
        if kind in given:
            low, high = given[kind][:2]
            return f"{value_text(low)} to {value_text(high)}" + (", on a log scale" if given.get("log") else "")
    if "categorical" in given:
        return ", ".join(f"`{value}`" for value in given["categorical"])
    return f"follows `{given['tie']}`" if "tie" in given else str(dict(given))


def _best_trial(status: StudyStatus, tests: Mapping[str, float]) -> list[str]:
    best = best_trial(status)
    if best is None:
        return []
    lines = [f"**Trial {best.number}** scored best: {_settings(best)}."]
    if PRIMARY in tests:
        lines.append(f"Its locked test: {label('dice')} {_score(tests[PRIMARY])}.")
    if status.front:
        lines.append(f"Pareto front: trials {', '.join(str(number) for number in status.front)}.")
    return lines


def _settings(trial: TrialStatus) -> str:
    listed = [f"`{path}` {value_text(value)}" for path, value in list(trial.params.items())[:MAX_SETTINGS]]
    return ", ".join(listed) or "the settings of the base"


def _compared(arms: Sequence[ArmStanding]) -> list[str]:
    trained = [arm for arm in arms if arm.not_run is None]
    lines = [f"Compared: {len(trained)} arms."]
    told = [(arm.called, arm.not_run) for arm in arms if arm.not_run is not None]
    return lines + [f"Not run: {markdown_text(f'{name} ({why})')}." for name, why in told]


def _arms(status: StudyStatus, arms: Sequence[ArmStanding]) -> list[str]:
    best = best_arm(status, arms)
    tested = any(PRIMARY in arm.tests for arm in arms)
    rows = [f"| arm | runs | {status.metric} |" + (f" test {label('dice')} |" if tested else "")]
    rows.append("| :--- | ---: | ---: |" + (" ---: |" if tested else ""))
    trained = [arm for arm in arms if arm.not_run is None]
    for arm in trained[:MAX_ARMS]:
        name = markdown_cell(arm.called)
        marked = f"**{name}**" if best is not None and arm.name == best.name else name
        cells = [marked, f"{arm.done} of {arm.wanted}", _score(arm.value)]
        cells += [_score(arm.tests.get(PRIMARY))] if tested else []
        rows.append(f"| {' | '.join(cells)} |")
    return rows + ([f"and {len(trained) - MAX_ARMS} more arms"] if len(trained) > MAX_ARMS else [])


def _go_on(status: StudyStatus) -> str:
    name = status.study
    if status.state != "finished":
        return f"Go on: `sage-ray status {name}` shows it, `sage-ray resume {name}` goes on after an end."
    if status.kind == "ablation":
        return f"Go on: `sage-ray report {name}` shows every score with its interval."
    return (
        f"Go on: `sage-ray best {name}` (takes the cheapest trial within one standard error of the top), "
        f"`sage-ray final {name}` trains it for the locked test, `sage-ray report {name}`."
    )


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def value_text(value: Any) -> str:
    """A setting's value in few digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
