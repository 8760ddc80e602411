"""The scatter behind a mean: Dice of each seed, of arms, final trainings and versions, as it was recorded."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from statistics import mean, stdev

from sage_ray.analysis.ablation import Judged
from sage_ray.evaluation.score_tables import PRIMARY, seed_table
from sage_ray.figures.tested_finals import Tested, names_apart
from sage_ray.metrics.definitions import label
from sage_ray.registry.comparison import VersionScores
from sage_ray.reports.page_parts import Grid, Part
from sage_ray.statistics.verdict_sentences import FEW_SEEDS, counted, score_digits, signed, upper_first

LONG = 12
"""Rows or seeds from which on the table is folded."""
ONE_SEED = re.compile(r"seed \d+")
"""What a repeat is called that is one seed and nothing else."""
WHOSE = {
    "test": "the locked test, as recorded when it was read",
    "val": "the validation images",
    "generated": "the generated images",
}


def finals_by_seed(tested: Sequence[Tested]) -> list[Part]:
    """Of each seed of final trainings its mean on the locked test; [] where none has two seeds."""
    rows, images = {}, 0
    for each, name in zip(tested, names_apart(tested), strict=True):
        table = seed_table(each.frame, PRIMARY, each.final_id)
        images = len(table.images)
        means = map(float, table.values.mean(axis=0))
        rows[upper_first(name)] = dict(zip(map("seed {}".format, table.seeds), means, strict=True))
    return seed_grid("final training", rows, f"{counted(images, 'image')} of {WHOSE['test']}")


def versions_by_seed(versions: Sequence[VersionScores], images: int) -> list[Part]:
    """Of each seed that a registered version has been trained with its mean on the locked test."""
    rows = {
        f"Version {row.version}": {f"seed {seed}": lines[PRIMARY].mean for seed, lines in row.by_seed.items()}
        for row in versions
    }
    return seed_grid("version", rows, f"{counted(images, 'image')} of {WHOSE['test']}")


def arms_by_seed(judged: Judged) -> list[Part]:
    """Of each seed of the arms of an ablation its mean on the images that the verdicts are about."""
    frame, called = judged.results[PRIMARY].scores.frame, judged.runs.facts.called
    means = frame.groupby(["arm", "seed"], sort=False)["value"].mean()
    rows: dict[str, dict[str, float]] = {}
    for arm in judged.runs.arms:
        name = called(arm) if called(arm) not in rows else f"{called(arm)} (`{arm}`)"
        rows[name] = {str(seed): float(value) for seed, value in means[arm].items()}
    images = f"{counted(frame['image'].nunique(), 'image')} of {WHOSE[judged.part]}"
    if judged.part == "val" and judged.runs.has_folds:
        images = "the validation images of its fold"
    return seed_grid("arm", rows, images)


def seed_grid(what: str, rows: Mapping[str, Mapping[str, float]], images: str) -> list[Part]:
    """A table with a row for each, a column for each seed, and their mean and standard deviation.

    Args:
        what: the rows are, for the head.
        rows: by name the mean over images of each seed, which is called such as "seed 0" or "seed 0, fold 1".
        images: that each mean is over, in words.
    """
    if max((len(row) for row in rows.values()), default=0) < 2:
        return []
    seeds = sorted({seed for row in rows.values() for seed in row}, key=_by_number)
    columns = [[row[seed] for row in rows.values() if seed in row] for seed in seeds]
    means = {name: mean(row.values()) for name, row in rows.items() if row}
    digits = max(score_digits(column) for column in (*columns, means.values()))
    cells = []
    for name, row in rows.items():
        shown = [f"{row[seed]:.{digits}f}" if seed in row else "" for seed in seeds]
        over = [f"{means[name]:.{digits}f}" if row else "", f"{stdev(row.values()):.{digits}f}" if len(row) > 1 else ""]
        cells.append([name, *shown, *over])
    if len(rows) == 2:
        first, second = rows.values()
        apart = {seed: second[seed] - first[seed] for seed in seeds if seed in first and seed in second}
        if apart:
            shown = [signed(apart.get(seed), digits) if seed in apart else "" for seed in seeds]
            spread = f"{stdev(apart.values()):.{digits}f}" if len(apart) > 1 else ""
            cells.append(["difference, second minus first", *shown, signed(mean(apart.values()), digits), spread])
    repeats = "seeds" if all(ONE_SEED.fullmatch(seed) for seed in seeds) else "repeats"
    caption = f"{label(PRIMARY)} of each {repeats[:-1]}: its mean over {images}. Standard deviation: over {repeats}"
    least = min(len(row) for row in rows.values() if len(row) > 1)
    caption += f"; of {counted(least, repeats[:-1])} it is known badly." if least < FEW_SEEDS else "."
    head = [what, *seeds, "mean", "standard deviation"]
    return [Grid(head, cells, frozenset({0}), caption, folded=len(cells) > LONG or len(seeds) > LONG)]


def _by_number(seed: str) -> list[tuple[int, str]]:
    """Order in which "seed 10" follows "seed 9"."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", seed) if part]
