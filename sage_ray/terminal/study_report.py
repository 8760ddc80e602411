"""A study as one markdown page, made from what is recorded: trials, choice, cost, final trainings, provenance."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage_ray.errors import UserError
from sage_ray.terminal.display import further_objectives, objective_text, objectives_text, score_text, tally

if TYPE_CHECKING:
    from sage_ray.record.home import Home
    from sage_ray.record.run_record import RunRecord
    from sage_ray.search.study_status import StudyStatus


def write_report(name: str, home: Home) -> Path:
    """Path of reports/study-NAME.md under the home, written anew.

    Raises:
        UserError: no such study.
    """
    from sage_ray.files import write_text
    from sage_ray.search.study_status import status

    found = status(name, home)
    home.check_writable()
    path = home.path / "reports" / f"study-{name}.md"
    path.parent.mkdir(exist_ok=True)
    write_text(path, "\n".join(markdown(found, home)) + "\n")
    return path


def markdown(study: StudyStatus, home: Home) -> list[str]:
    """The lines of the page."""
    from sage_ray.record.run_folder import RunFolder

    ids = [run.run_id for trial in study.trials for run in trial.runs]
    records = [RunFolder.open(home.runs, run_id).read() for run_id in ids if run_id in set(home.run_ids())]
    noun = "space" if study.kind == "sweep" else "design"
    file = (Path(study.path) / f"{noun}.yaml").read_text(encoding="utf-8").rstrip()
    return [
        f"# {'Study' if study.kind == 'sweep' else 'Ablation'} {study.study}",
        "",
        f"{study.state}: {tally(study)}. Judged by: {objectives_text(study)}, as the {noun} says.",
        "",
        *(_arms(study, home) if study.kind == "ablation" else []),
        *_choice(study, home),
        *_front(study),
        "## Trials",
        "",
        *_trials(study),
        "",
        *_finals(study, home),
        "## Cost",
        "",
        *_cost(records),
        *_readings(records, home),
        *_planned(study, home),
        "",
        "## Provenance",
        "",
        *_provenance(records),
        *_changes(study),
        "",
        f"## {noun.capitalize()}",
        "",
        "```yaml",
        file,
        "```",
    ]


def _arms(study: StudyStatus, home: Home) -> list[str]:
    from sage_ray.search.ablate import read_ablation

    result = read_ablation(study.study, home)
    score, test = f"{study.metric} ({result.reduce})", f"test {result.test_score}"
    rows = [["arm", "done", "failed", score, test], [":---", *["---:"] * 4]]
    for arm in result.arms:
        name = f"{arm.arm} (reference)" if arm.is_reference else arm.arm
        shown = [f"{arm.done} of {arm.wanted}", str(arm.failed), score_text(arm.value), score_text(arm.test)]
        rows.append([name, *(shown if arm.not_run is None else [f"not run: {_cell(arm.not_run)}", "", "", ""])])
    meanings: dict[str, list[str]] = {}
    for arm in result.arms:
        text = "; ".join(f"{name}: {meaning}" for name, meaning in arm.definitions.items())
        meanings.setdefault(text, []).append(arm.arm)
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines += ["", "Means over finished runs; intervals and verdicts are what `make tables` makes.", ""]
    lines += [f"- {', '.join(arms) if len(meanings) > 1 else 'scores'}: {text}" for text, arms in meanings.items()]
    return ["## Arms", "", *lines, *[f"- {line}" for line in result.details[1:]], ""]


def _choice(study: StudyStatus, home: Home) -> list[str]:
    from sage_ray.search.best import best

    lines = ["## Best", ""]
    try:
        choice = best(study.study, home)
    except UserError as error:
        return [*lines, f"None: {error.what}.", ""]
    lines += [
        f"Trial {choice.trial}, {score_text(choice.value)}: {_params(choice.params)}.",
        "",
        f"Rule: {choice.rule}",
        "",
    ]
    return lines


def _front(study: StudyStatus) -> list[str]:
    """The Pareto front of a study with two objectives, best in the first one first."""
    if not study.front:
        return []
    names = list(study.objectives)
    sign = -1 if study.direction == "maximize" else 1
    front = [trial for trial in study.trials if trial.number in study.front]
    front.sort(key=lambda trial: sign * trial.objectives[names[0]])
    rows = [["trial", *names, "parameters"], ["---:", *["---:"] * len(names), ":---"]]
    for trial in front:
        values = [objective_text(name, trial.objectives[name]) for name in names]
        rows.append([str(trial.number), *values, _params(trial.params)])
    told = "No other trial beats one of these in one objective and equals it in the other."
    return ["## Pareto front", "", told, "", *(f"| {' | '.join(row)} |" for row in rows), ""]


def _trials(study: StudyStatus) -> list[str]:
    names = sorted({path for trial in study.trials for path in trial.params})
    others = further_objectives(study)
    head = ["trial", "state", "epoch", "score", *others, *(f"`{name}`" for name in names), "s"]
    sign = -1 if study.direction == "maximize" else 1
    order = sorted(
        study.trials,
        key=lambda t: (t.state != "COMPLETE", sign * t.value if t.value is not None else float("inf"), t.number),
    )
    rows = [head, ["---:"] * len(head)]
    for trial in order:
        values = [_cell(trial.params[name]) if name in trial.params else "base" for name in names]
        seconds = f"{trial.seconds:.0f}" if trial.seconds is not None else "-"
        scores = [score_text(trial.value), *(objective_text(name, trial.objectives.get(name)) for name in others)]
        rows.append([str(trial.number), trial.state, str(trial.epoch), *scores, *values, seconds])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    failed = [f"- trial {t.number}: {t.error}" for t in study.trials if t.error]
    return lines + (["", *failed] if failed else [])


def _finals(study: StudyStatus, home: Home) -> list[str]:
    from sage_ray.record.run_folder import RunFolder
    from sage_ray.registry.final_plan import read_plan

    lines = []
    for final_id in home.final_ids():
        plan = read_plan(home, final_id)
        if plan.study != study.study:
            continue
        started = [run_id for run_id in plan.run_ids if run_id in set(home.run_ids())]
        states = [f"seed {(r := RunFolder.open(home.runs, i).read()).seed} {r.state}" for i in started]
        lines.append(f"- `{final_id}` ({plan.choice}, trial {plan.trial}): {', '.join(states) or 'not started'}")
    return ["## Final trainings", "", *lines, ""] if lines else []


def _cost(records: list[RunRecord]) -> list[str]:
    epochs = sum(record.epoch for record in records)
    reused = sum(record.reused_epochs for record in records)
    return [
        f"{len(records)} runs, {epochs} epochs, {reused} of them taken from the stage store; "
        f"{sum(r.seconds for r in records):.0f} s of computing, {sum(r.gpu_seconds for r in records):.0f} GPU seconds.",
        f"Generator updates {sum(r.generator_updates for r in records)}, "
        f"synthetic steps {sum(r.synthetic_steps for r in records)}; "
        f"test reads {sum(r.test_reads for r in records)} (no training ever sees the test set).",
    ]


def _readings(records: list[RunRecord], home: Home) -> list[str]:
    """How often the locked test sets have been read that runs of the study have read, over all homes of the store."""
    from sage_ray.evaluation.shared_reads import readings_by

    read = [record.run_id for record in records if record.test_reads]
    found = readings_by(home, read) if read else []
    return [line for each in found for line in (each.sentence, *(f"Note: {note}." for note in each.notes))]


def _planned(study: StudyStatus, home: Home) -> list[str]:
    from sage_ray.search.planned_taken import planned_line

    line = planned_line(study.study, home) if study.state == "finished" else None
    return ["", f"{line[:1].upper()}{line[1:]}."] if line else []


def _provenance(records: list[RunRecord]) -> list[str]:
    def distinct(name: str) -> str:
        # A run that was stopped before its end has not recorded everything.
        values = sorted({str(value) for record in records if (value := getattr(record, name)) not in (None, {})})
        return ", ".join(values) or "-"

    dirty = " (with uncommitted changes)" if any(record.dirty for record in records) else ""
    return [
        f"- commit {distinct('commit')}{dirty}",
        f"- data {distinct('data_fingerprint')}, split {distinct('split_id')}",
        f"- numerics {distinct('numerics')}",
        f"- computed on {', '.join(sorted({p for r in records for p in r.computed_on})) or '-'}",
        f"- seeds {distinct('seed')}",
    ]


def _changes(study: StudyStatus) -> list[str]:
    """What of the study's file was changed since it began, and when."""
    from sage_ray.files import read_json

    changes = read_json(Path(study.path) / "study.json").get("changes", [])
    return [
        f"- changed {change['time']}: " + "; ".join(f"`{key}` {_said(old)} to {_said(new)}" for key, (old, new) in keys)
        for change in changes
        if (keys := list(change["keys"].items()))
    ]


def _said(value: Any) -> str:
    return "absent" if value is None else _cell(value)


def _params(params: dict[str, Any]) -> str:
    return ", ".join(f"`{name}` {_cell(value)}" for name, value in params.items()) or "the untuned base"


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "\\|")
