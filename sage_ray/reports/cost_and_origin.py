"""What a study cost, where its numbers come from, and the commands that make them again."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import yaml

from sage_ray.durations import hours_text, number_text
from sage_ray.files import read_json
from sage_ray.record.run_folder import RunFolder
from sage_ray.record.run_record import RunRecord
from sage_ray.reports.evidence import FinalEvidence, StudyEvidence
from sage_ray.reports.page_parts import Bullets, Code, Grid, Paragraph, Part
from sage_ray.reports.trial_tables import changes_of_file
from sage_ray.statistics.verdict_sentences import counted

if TYPE_CHECKING:
    from sage_ray.search.planned_taken import PlannedAndTaken

ORDERED_SAMPLERS = ("tpe", "gp", "nsga2")
"""Samplers whose draws depend on the scores of the trials before."""
SHOWN_PACKAGES = ("torch", "ray", "optuna", "mlflow", "numpy", "scipy", "scikit-image", "kornia", "pandas")
SAME_CODE = "# in the repository of sage_ray:\ngit checkout {commit}\nmake setup"


def cost_parts(evidence: StudyEvidence) -> list[Part]:
    """One paragraph that says what was spent on what, a table of the same numbers, and what was read and updated."""
    finals = [record for final in evidence.finals for record in final.records]
    noun = "search" if evidence.is_search else "ablation"
    rows = [_cost_row(f"the {noun}", evidence.records, evidence)]
    if finals:
        rows.append(_cost_row("final trainings", finals, evidence))
        rows.append(_cost_row("together", evidence.all_records, evidence))
    head = ["", "runs", "epochs", "of them reused", "time of computing", "time of GPUs"]
    records, taken = evidence.all_records, _taken(evidence)
    lines = [
        _planned(taken, noun),
        _extra_pairs(evidence),
        f"Generator updates {sum(r.generator_updates for r in records)}, synthetic steps "
        f"{sum(r.synthetic_steps for r in records)}; test reads {sum(r.test_reads for r in records)} "
        "(no training ever sees the test set).",
    ]
    table = Grid(head, rows, caption="The same numbers as a table.")
    told = _cost_told(evidence, finals, taken.hours if taken is not None else 0.0)
    return [Paragraph(told), table, Bullets([each for each in [*lines, *readings(evidence)] if each])]


def _cost_told(evidence: StudyEvidence, finals: Sequence[RunRecord], wall: float) -> str:
    """What was spent on the study, on its final trainings, on both, and on one trial."""
    noun = "search" if evidence.is_search else "ablation"
    one, runs = ("trial" if evidence.is_search else "arm"), evidence.records
    told = f"**The {noun}** is {counted(len(runs), 'run')}: {_spent(runs, evidence)}. "
    told += f"From its start to its end it took {hours_text(wall)}, as runs go side by side. " if wall else ""
    if finals:
        both = hours_text(sum(record.seconds for record in evidence.all_records) / 3600)
        told += f"**The final trainings** are {counted(len(finals), 'more run')}: {_spent(finals, evidence)}. "
        told += f"**Both together** are {both} of computing. "
    whole = [record for record in evidence.finished_records if record.seconds > 0]
    if whole:
        times = sorted({hours_text(r.seconds / 3600): r.seconds for r in whole}.items(), key=lambda pair: pair[1])
        epochs = sorted({record.epoch for record in whole})
        span = times[0][0] if len(times) == 1 else f"{times[0][0]} to {times[-1][0]}"
        count = str(epochs[0]) if len(epochs) == 1 else f"{epochs[0]} to {epochs[-1]}"
        told += (
            f"**One run** of the {noun} that was trained to its end (one {one}, one seed) has {count} epochs and took "
            f"{span} of computing, less where it reused more. "
        )
    return told + (
        "Reused epochs are those that another run had trained before in the same way: they are taken from the store. "
        "Computing adds up the time of all runs, without waiting."
    )


def reused_epochs(records: Sequence[RunRecord], evidence: StudyEvidence) -> tuple[int, int]:
    """Epochs of runs that they took from the store, and all epochs that they have."""
    # What a record counts as reused is known at its end alone: a trial that was stopped early would have none.
    return sum(evidence.folder_of(r.run_id).count_replayed() for r in records), sum(r.epoch for r in records)


def _spent(records: Sequence[RunRecord], evidence: StudyEvidence) -> str:
    """Such as "180 epochs, of them 90 reused (50 %) and 90 trained, 3 min of computing on CPUs"."""
    reused, epochs = reused_epochs(records, evidence)
    share = f" ({100 * reused / epochs:.0f} %)" if reused and epochs else ""
    how = f"of them {reused} reused{share} and {epochs - reused} trained" if reused else "all of them trained"
    return f"{epochs} epochs, {how}, {hours_fact(records, 'of computing')}"


def _cost_row(name: str, records: Sequence[RunRecord], evidence: StudyEvidence) -> list[str]:
    reused, epochs = reused_epochs(records, evidence)
    hours, gpu = sum(r.seconds for r in records) / 3600, sum(r.gpu_seconds for r in records) / 3600
    return [name, str(len(records)), str(epochs), str(reused), hours_text(hours), hours_text(gpu) if gpu else "0"]


def _planned(found: PlannedAndTaken | None, noun: str) -> str:
    """What `plan` had forecast; "" where nothing was planned or the study still goes on."""
    if found is None:
        return ""
    hours = "" if found.planned_hours is None else f" in {hours_text(found.planned_hours)} from start to end"
    bound = "at most " if found.upper_bound else ""
    return f"Before it began, `plan` expected that the {noun} would train {bound}{found.planned_epochs} epochs{hours}."


def _taken(evidence: StudyEvidence) -> PlannedAndTaken | None:
    from sage_ray.search.planned_taken import planned_and_taken

    return planned_and_taken(evidence.name, evidence.home) if evidence.status.state == "finished" else None


def _extra_pairs(evidence: StudyEvidence) -> str:
    with_pairs = [record.run_id for record in evidence.records if record.extra_pairs is not None]
    pairs = sum(RunFolder(evidence.home.runs / run_id).epochs_for_pairs() for run_id in with_pairs)
    return f"Beside these, {pairs} epochs were trained for extra pairs." if pairs else ""


def readings(evidence: StudyEvidence) -> list[str]:
    """How often the locked test sets have been read that runs of the study have read, over all homes of the store."""
    from sage_ray.evaluation.shared_reads import readings_by

    read = [record.run_id for record in evidence.all_records if record.test_reads]
    found = readings_by(evidence.home, read) if read else []
    return [line for each in found for line in (each.sentence, *(f"Note: {note}." for note in each.notes))]


def hours_fact(records: Sequence[RunRecord], of: str = "") -> str:
    """Computing time of runs, and that of GPUs if any was used; `of` stands behind the first."""
    hours, gpu = sum(r.seconds for r in records) / 3600, sum(r.gpu_seconds for r in records) / 3600
    told = f"{hours_text(hours)} {of}".rstrip()
    return told + (f", {number_text(gpu)} GPU-hours" if gpu else " on CPUs")


def origin_parts(evidence: StudyEvidence) -> list[Part]:
    """Commit, data, split, numerics, machines, versions and seeds."""
    records = evidence.all_records
    dirty = " (with uncommitted changes)" if any(record.dirty for record in records) else ""
    parts = next((record.parts for record in records if record.finished and record.parts), {})
    split = ", ".join(f"{count} {name}" for name, count in parts.items() if count)
    lines = [
        f"Commit {distinct(records, 'commit')}{dirty}.",
        f"Data `{_data_name(evidence)}` ({distinct(evidence.records, 'data_fingerprint')}), "
        f"split {distinct(evidence.records, 'split_id')}" + (f": {split} images." if split else "."),
        f"Numerics {distinct(records, 'numerics')}.",
        f"Computed on {', '.join(sorted({place for record in records for place in record.computed_on})) or '-'}.",
        f"Versions: {versions(evidence)}.",
        f"Seeds {distinct(records, 'seed')}.",
        *sorted({f"{record.unknown_pairs}." for record in records if record.unknown_pairs}),
        *(f"Study's file {line}." for line in changes_of_file(evidence.folder)),
    ]
    noun = "Search space" if evidence.is_search else "Design"
    return [Bullets(lines), Code(evidence.runs_file, f"{noun} as it was run", folded=True, language="yaml")]


def _data_name(evidence: StudyEvidence) -> str:
    """What the images are called: the name of their folder without its place on this machine, or of what draws them."""
    path = str(evidence.folder_of(evidence.finished_records[0].run_id).config().data.path)
    return path if "://" in path else PurePath(path).name


def distinct(records: Sequence[RunRecord], name: str) -> str:
    """The values of a field over all runs, each once; a run that was stopped before its end has not all of them."""
    found = {_text(value) for record in records if (value := getattr(record, name)) not in (None, {})}
    listed = sorted(found, key=lambda text: (len(text), text))
    return ", ".join(listed if len(listed) <= 6 else [*listed[:5], f"and {len(listed) - 5} more"]) or "-"


def _text(value: Any) -> str:
    return " ".join(f"{key} {each}" for key, each in value.items()) if isinstance(value, dict) else str(value)


def versions(evidence: StudyEvidence) -> str:
    """sage_ray, Python and the packages that results depend on, as the first finished run noted them."""
    for record in evidence.finished_records:
        try:
            noted = read_json(evidence.home.runs / record.run_id / record.environment)
        except (OSError, ValueError):
            continue
        packages = noted.get("packages") or {}
        named = [f"{name} {packages[name]}" for name in SHOWN_PACKAGES if name in packages]
        return ", ".join([f"sage_ray {noted.get('sage_ray')}", f"Python {noted.get('python')}", *named])
    return "not recorded"


def repeat_parts(evidence: StudyEvidence) -> list[Part]:
    """The commands that make the study and its final trainings again, and one run of it."""
    name = shlex.quote(evidence.name)
    verb, file = ("sweep", "space.yaml") if evidence.is_search else ("ablate", "design.yaml")
    commits = {record.commit for record in evidence.finished_records if record.commit}
    lines = [SAME_CODE.format(commit=next(iter(commits)))] if len(commits) == 1 else []
    lines += [f"sage-ray {verb} HOME/studies/{name}/{file} --name {name}-again"]
    lines += [_final_command(final, f"{name}-again") for final in evidence.finals]
    if len(evidence.finals) > 1:
        lines.append("sage-ray compare")
    lines.append(f"sage-ray report {name}-again")
    shown = evidence.choice.run_ids[0] if evidence.choice else evidence.finished_records[0].run_id
    told = (
        "HOME is the home that holds this study, see `--home`. A run of the same commit, data, settings and numerics "
        "gives the same numbers to the last bit on the same machine; elsewhere expect small differences."
    )
    told += _other_draws(evidence)
    one = [
        f"sage-ray train -c HOME/runs/{shlex.quote(shown)}/config.yaml",
        f"sage-ray export {name} -o trials.csv",
        f"sage-ray report {name}",
    ]
    return [
        Paragraph(told),
        Code("\n".join(lines), "The whole of it", language="bash"),
        Code("\n".join(one), "One run alone, the table of trials, and this page anew", language="bash"),
    ]


def _other_draws(evidence: StudyEvidence) -> str:
    """What a search that is run again may do differently, in a sentence; "" if nothing."""
    if not evidence.is_search:
        return ""
    file = yaml.safe_load(evidence.runs_file) or {}
    sampler = (file.get("sampler") or {}).get("name", "tpe")
    scheduler = (file.get("scheduler") or {}).get("name", "fifo")
    if sampler not in ORDERED_SAMPLERS and scheduler == "fifo":
        return ""
    numbered = any(final.plan.choice not in ("base", "best") for final in evidence.finals)
    told = (
        f" The search again ({sampler}, {scheduler}) may try or stop other settings where trials run side by side, as "
        "that depends on which of them ends first"
    )
    return told + ("; trial numbers of the final trainings are those of this search." if numbered else ".")


def _final_command(final: FinalEvidence, study: str) -> str:
    seeds = ",".join(str(seed) for seed in final.plan.seeds)
    return f"sage-ray final {study} --trial {final.plan.choice} --seeds {seeds}"
