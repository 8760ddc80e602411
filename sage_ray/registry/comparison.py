"""Versions of a model side by side: the scores, differences and verdicts of each, as a frame and as a page."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from sage_ray.evaluation.locked_test_table import HEADLINE, locked_test_markdown
from sage_ray.evaluation.score_tables import PRIMARY, ScoreLine
from sage_ray.evaluation.shared_reads import Readings
from sage_ray.markdown_texts import markdown_cell, markdown_text
from sage_ray.metrics.definitions import label
from sage_ray.notebook_view import NotebookView
from sage_ray.registry.card import score_text


@dataclass(frozen=True)
class Difference:
    """Paired difference to the reference, over the images and the seeds that both have."""

    mean: float
    low: float | None
    high: float | None
    level: float | None
    over: str
    p_value: float | None
    """None, as the interval, where there is one image or micrograph."""


@dataclass(frozen=True)
class VersionScores:
    """One version and what it scored on the locked test."""

    version: int
    uri: str
    aliases: tuple[str, ...]
    run_id: str | None
    source: str | None
    study: str | None
    trial: int | None
    choice: str | None
    seeds: tuple[int, ...]
    registered_seed: int | None
    weights_sha: str | None
    scores: dict[str, ScoreLine]
    by_seed: dict[str, dict[str, ScoreLine]] = field(default_factory=dict)
    """Scores of each seed alone, by the seed; intervals over images."""
    is_reference: bool = False
    reference: int | None = None
    """Version that it is compared with; None for the reference itself."""
    differences: dict[str, Difference] | None = None
    verdict: str | None = None
    """Verdict on the claim "better Dice than the reference": supported, refuted or undecided."""
    p_value: float | None = None
    """Holm-adjusted over the versions compared."""

    @property
    def origin(self) -> str:
        """What it was made from: "first, best (trial 8)", or "first, trial 3" where the trial was named."""
        if not self.study:
            return self.source or ""
        if self.trial is None:
            return f"{self.study}, {self.choice}"
        if self.choice == str(self.trial):
            return f"{self.study}, trial {self.trial}"
        return f"{self.study}, {self.choice} (trial {self.trial})"


@dataclass(frozen=True)
class Comparison(NotebookView):
    """Versions of one model on one test set."""

    model_name: str
    test_set: str
    fingerprint: str | None
    split_id: str | None
    images: int
    reference: int
    reference_is: str
    """Why this version is the reference."""
    rule: str
    versions: list[VersionScores]
    test_reads: int
    """Reads of this test set in this home, by all models."""
    readings: Readings
    """Reads of this test set over all homes of the stores that the home shares."""
    report: Path | None
    """Markdown table."""
    notes: list[str] = field(default_factory=list)
    """What to keep in mind: versions that were trained on different models of GPU or versions of torch, or that do not
    know the same micrographs."""

    def frame(self) -> pd.DataFrame:
        """One row per version: version, alias, from, choice, seeds, scores with bounds, difference, p_value, verdict.

        The difference in Dice to the reference is paired over images and common seeds; `p_value` is Holm-adjusted.
        """
        return pd.DataFrame([_row(version) for version in self.versions])

    def headline(self) -> str:
        """Which versions of which model are compared, on how many images, with which reference."""
        images = f"{self.images} locked test image{'' if self.images == 1 else 's'}"
        return f"{self.model_name} on {images}; reference: version {self.reference} ({self.reference_is})"

    def remarks(self) -> list[str]:
        """The rule of the verdicts, and what to keep in mind."""
        return [self.rule, self.readings.sentence, *self.notes]


def _row(version: VersionScores) -> dict[str, Any]:
    row: dict[str, Any] = {
        "version": version.version,
        "alias": ", ".join(version.aliases),
        "from": version.study or version.source or "",
        "choice": version.choice or "",
        "seeds": ", ".join(map(str, version.seeds)),
    }
    for name in HEADLINE:
        line = version.scores[name]
        row[name] = line.mean
        row |= {f"{name}_low": line.low, f"{name}_high": line.high} if line.low is not None else {}
    gain = version.differences[PRIMARY] if version.differences else None
    low_high = (None, None) if gain is None else (gain.low, gain.high)
    row |= {"difference": None if gain is None else gain.mean, "difference_low": low_high[0]}
    verdict = "reference" if version.is_reference else version.verdict or ""
    return row | {"difference_high": low_high[1], "p_value": version.p_value, "verdict": verdict}


def difference_text(gain: Difference) -> str:
    """Such as "+0.0120 [-0.0030, +0.0270]", or the mean alone where there is no interval."""
    if gain.low is None or gain.high is None:
        return f"{gain.mean:+.4f}"
    return f"{gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]"


def comparison_markdown(comparison: Comparison) -> str:
    """The comparison as a Markdown table with its definitions below."""
    lines = [
        f"# {comparison.model_name}: versions on the locked test set",
        "",
        f"{comparison.images} test image{'' if comparison.images == 1 else 's'} (test set `{comparison.test_set}`, "
        f"data fingerprint `{comparison.fingerprint}`). {comparison.readings.sentence} "
        f"Reference: version {comparison.reference} ({comparison.reference_is}).",
        "",
        f"| version | alias | from | seeds | {' | '.join(map(label, HEADLINE))} | {label(PRIMARY)} minus reference | "
        "verdict |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in comparison.versions:
        difference = "reference"
        if row.differences:
            difference = difference_text(row.differences[PRIMARY])
        shown = (score_text(row.scores[name]) for name in HEADLINE)
        cells = (
            row.version, ", ".join(row.aliases), row.origin, ", ".join(map(str, row.seeds)), *shown, difference,
            row.verdict or "",
        )  # fmt: skip
        lines.append("| " + " | ".join(markdown_cell(str(cell)) for cell in cells) + " |")
    primary = comparison.versions[0].scores[PRIMARY]
    basis = f"Intervals: {primary.level:.0%}, over {primary.over}." if primary.level else f"{primary.over}."
    lines += ["", f"{basis} Verdict on Dice. {comparison.rule}", ""]
    lines += [line for note in comparison.notes for line in (f"Note: {markdown_text(note)}.", "")]
    for row in comparison.versions:
        lines += [f"## Version {row.version}, seed by seed", "", *locked_test_markdown(row.by_seed, row.scores), ""]
    lines += ["Intervals of a single seed are over its images alone.", ""]
    lines += ["Definitions:"]
    lines += [f"- {name}: {line.definition}" for name, line in comparison.versions[0].scores.items()]
    return "\n".join(lines) + "\n"
