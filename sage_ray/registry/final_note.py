"""What MLflow says of a final training as a whole: its settings, its scores on the locked test, and how to go on."""

from __future__ import annotations

import time
from collections.abc import Mapping

import pandas as pd

from sage_ray.errors import UserError
from sage_ray.evaluation.locked_test import stored_test_rows
from sage_ray.evaluation.score_tables import PRIMARY, ScoreLine, line_in_words, summary
from sage_ray.metrics.definitions import label
from sage_ray.record.home import Home
from sage_ray.record.mlflow_calls import SIGNED
from sage_ray.record.mlflow_inputs import data_title
from sage_ray.record.mlflow_params import NEAREST, preset_words
from sage_ray.record.mlflow_rows import Point
from sage_ray.record.run_folder import RunFolder
from sage_ray.record.run_record import State
from sage_ray.registry.final_plan import FinalPlan
from sage_ray.search.parent_scores import tests_of
from sage_ray.statistics.verdict_sentences import cautions, counted

SHOWN = ("dice", "iou", "f1_object_50", "boundary_f1", "f1_pixel")
MAX_SETTINGS = 12


def final_points(plan: FinalPlan, home: Home) -> tuple[Point, ...]:
    """Means over the seeds of each score on the locked test; none before all of them have read it."""
    now_ms = int(time.time() * 1000)
    return tuple((name, value, now_ms, len(plan.seeds)) for name, value in tests_of(plan.run_ids, home).items())


def final_note(plan: FinalPlan, home: Home, state: State, shown: Mapping[str, str]) -> str:
    """The description of a final training, in markdown.

    Args:
        plan: of the final training.
        home: of its runs.
        state: how far it is.
        shown: params of its run: system, preset and what differs from the preset.
    """
    word = {"COMPLETE": "finished", "RUNNING": "running"}.get(state, "interrupted")
    seeds = f"seed{'s' if len(plan.seeds) > 1 else ''} {', '.join(map(str, plan.seeds))}"
    source = f"trial {plan.trial} of `{plan.source}`" if plan.trial is not None else f"`{plan.source}`"
    own = [
        f"`{name}` {_short(value)}"
        for name, value in shown.items()
        if name not in ("system", "preset", NEAREST, "data.path")
    ]
    more = f" and {len(own) - MAX_SETTINGS} more" if len(own) > MAX_SETTINGS else ""
    headline, table = _scores(plan, home)
    words = preset_words(shown)
    lines = [
        f"{headline}; {word}.",
        "",
        f"Final training of {source} on train + validation, {seeds}. Seed {plan.seeds[0]} is registered as "
        f"`{plan.model_name}`, whatever the scores.",
        "",
        f"Why this one: {plan.rule.rstrip('.')}.",
        "",
        f"{words[:1].upper()}{words[1:]}, data `{data_title(shown.get('data.path', ''))}`"
        + (f", with {', '.join(own[:MAX_SETTINGS])}{more}." if own else "."),
        "",
        *table,
        "",
    ]
    if state == "COMPLETE":
        lines.append(f"Go on: `sage-ray compare`, `sage-ray predict {plan.run_ids[0]} IMAGES -o OUT`.")
    else:
        lines.append(f"Go on: `sage-ray resume {plan.final_id}`.")
    return "\n".join([*lines, "", SIGNED])


def _scores(plan: FinalPlan, home: Home) -> tuple[str, list[str]]:
    """The main score in words, and a table of scores with their intervals; a sentence where there are none."""
    runs = [RunFolder(home.runs / run_id) for run_id in plan.run_ids]
    if not all((run.path / "record.json").is_file() and run.read().test_reads for run in runs):
        return f"Locked test not read yet, {counted(len(plan.seeds), 'seed')}", []
    try:
        lines = summary(pd.concat([stored_test_rows(run) for run in runs], ignore_index=True), plan.final_id)
    except UserError as error:  # scores of an earlier definition
        return f"No test score ({error.what}), {counted(len(plan.seeds), 'seed')}", []
    main = lines[PRIMARY]
    beware = cautions(main.images, main.micrographs, main.seeds, decided=False)
    return line_in_words(main), [*_table(lines), *(["", " ".join(beware)] if beware else [])]


def _table(lines: Mapping[str, ScoreLine]) -> list[str]:
    rows = [f"| locked test, {counted(lines[PRIMARY].images, 'image')} | mean | 95 % interval |"]
    rows.append("| :--- | ---: | ---: |")
    for name in SHOWN:
        line = lines[name]
        between = "-" if line.low is None else f"{line.low:.3f} to {line.high:.3f}"
        rows.append(f"| {label(name)} | {line.mean:.3f} | {between} |")
    return rows


def _short(value: str) -> str:
    """A param in few digits."""
    try:
        return f"{float(value):.4g}" if "." in value or "e" in value else value
    except ValueError:
        return value
