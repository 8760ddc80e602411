"""What a study cost, where its numbers come from, and the commands that make them again."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import yaml

from sage_ray.durations import hours_text
from sage_ray.files import read_json
from sage_ray.record.run_folder import RunFolder
from sage_ray.record.run_record import RunRecord
from sage_ray.reports.evidence import FinalEvidence, StudyEvidence
from sage_ray.reports.page_parts import Bullets, Code, Grid, Paragraph, Part
from sage_ray.reports.trial_tables import ENDINGS, changes_of_file, params_text
from sage_ray.statistics.verdict_sentences import counted, upper_first

ORDERED_SAMPLERS = ("tpe", "gp", "nsga2")
"""Samplers whose draws depend on the scores of the trials before."""
SHOWN_PACKAGES = ("torch", "ray", "optuna", "mlflow", "numpy", "scipy", "scikit-image", "kornia", "pandas")
SAME_CODE = "# in the repository of sage_ray:\ngit checkout {commit}\nmake setup"


def cost_parts(evidence: StudyEvidence) -> list[Part]:
    """Runs, epochs, hours and GPU hours of the study and of its final trainings, and what reuse saved."""
    finals = [record for final in evidence.finals for record in final.records]
    rows = [_cost_row("the study", evidence.records, evidence)]
    if finals:
        rows.append(_cost_row("final trainings", finals, evidence))
        rows.append(_cost_row("together", evidence.all_records, evidence))
    head = ["", "runs", "epochs", "of them reused", "time of computing", "time of GPUs"]
    parts: list[Part] = [Grid(head, rows)]
    lines = [_planned(evidence) or reuse_line(evidence), _extra_pairs(evidence)]
    records = evidence.all_records
    lines.append(
        f"Generator updates {sum(r.generator_updates for r in records)}, synthetic steps "
        f"{sum(r.synthetic_steps for r in records)}; test reads {sum(r.test_reads for r in records)} "
        "(no training ever sees the test set)."
    )
    return [*parts, Bullets([line for line in [*lines, *readings(evidence)] if line])]


def _cost_row(name: str, records: Sequence[RunRecord], evidence: StudyEvidence) -> list[str]:
    # What a record counts as reused is known at its end alone: a trial that was stopped early would have none.
    epochs, reused = sum(r.epoch for r in records), sum(evidence.folder_of(r.run_id).count_replayed() for r in records)
    hours, gpu = sum(r.seconds for r in records) / 3600, sum(r.gpu_seconds for r in records) / 3600
    return [name, str(len(records)), str(epochs), str(reused), hours_text(hours), hours_text(gpu) if gpu else "0"]


def reused_epochs(evidence: StudyEvidence) -> tuple[int, int]:
    """Epochs of the study's runs that were not trained again, and all epochs that they needed."""
    from sage_ray.search.planned_taken import planned_and_taken

    found = planned_and_taken(evidence.name, evidence.home) if evidence.status.state == "finished" else None
    if found is not None:
        return found.saved_epochs, found.needed_epochs
    records = evidence.records
    return sum(evidence.folder_of(r.run_id).count_replayed() for r in records), sum(r.epoch for r in records)


def reuse_line(evidence: StudyEvidence) -> str:
    """Which share of the study's epochs was taken from the stage store instead of being trained again; "" if none."""
    reused, epochs = reused_epochs(evidence)
    if not reused:
        return ""
    return (
        f"Reuse: {reused} of {epochs} epochs ({100 * reused / epochs:.0f} %) were not trained again, as another run "
        "had trained the same ones before."
    )


def _planned(evidence: StudyEvidence) -> str:
    from sage_ray.search.planned_taken import planned_line

    line = planned_line(evidence.name, evidence.home) if evidence.status.state == "finished" else None
    told = "That time is from the study's start to its end; computing adds up runs that went side by side."
    return f"{line[:1].upper()}{line[1:]}. {told}" if line else ""


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


def hours_fact(records: Sequence[RunRecord]) -> str:
    """Computing time of runs, and that of GPUs if any was used."""
    hours, gpu = sum(r.seconds for r in records) / 3600, sum(r.gpu_seconds for r in records) / 3600
    return hours_text(hours) + (f", {gpu:.1f} GPU hours" if gpu else " on CPUs")


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


def finals_list(evidence: StudyEvidence) -> list[Part]:
    """Which final trainings there are, and how far each seed is; [] without any."""
    lines = []
    params = {trial.number: trial.params for trial in evidence.status.trials}
    for final in evidence.finals:
        seeds = ", ".join(f"seed {record.seed} {ENDINGS.get(record.state, record.state)}" for record in final.records)
        known = final.plan.trial in params and evidence.is_search
        settings = f" with {params_text(params[final.plan.trial])}" if known and final.plan.trial is not None else ""
        lines.append(f"{upper_first(final.called)}{settings}: {seeds or 'not started'} (`{final.plan.final_id}`).")
    title = f"{counted(len(lines), 'final training')} of this study:"
    return [Paragraph(title), Bullets(lines)] if lines else []
