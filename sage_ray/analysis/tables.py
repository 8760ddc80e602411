"""Tables as markdown, LaTeX and CSV, each with what it was made from: study, data, split, seeds, commits, command."""

from __future__ import annotations

import json
import math
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from sage_ray.files import write_text
from sage_ray.markdown_texts import markdown_cell, markdown_text
from sage_ray.record.run_record import unknown_pairs
from sage_ray.record.store_uris import redacted

ROOT = Path(__file__).resolve().parents[2]
NONE = "-"
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$",
    "`": r"\textasciigrave{}", "|": r"\textbar{}",
}  # fmt: skip


@dataclass(frozen=True)
class Provenance:
    """What stands behind a table or figure."""

    study: str
    fingerprints: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    seeds: tuple[str, ...] = ()
    commits: tuple[str, ...] = ()
    uncommitted: bool = False
    """Whether a run was trained with uncommitted changes."""
    numerics: tuple[str, ...] = ()
    unknown_pairs: tuple[str, ...] = ()
    """What is said of extra pairs that runs were trained on and nobody tells the lineage of."""
    runs: int = 0
    """0: it was made from a file named `study` and no run of ours."""
    subject: str = "Study"
    """What `study` names."""

    def lines(self) -> list[str]:
        """Short sentences, one per fact."""
        made = f"Made by `{made_by()}` at commit {commit()}"
        if not self.runs:
            return [f"{self.study}, {_joined(self.fingerprints)}", made]
        dirty = " (with uncommitted changes)" if self.uncommitted else ""
        facts = [
            f"{self.subject} {self.study}: {self.runs} runs, seeds {_joined(self.seeds)}",
            f"Data {_joined(self.fingerprints)}, split {_joined(_few(self.splits))}",
            f"Trained at commit {_joined(self.commits)}{dirty}"
            + (f" on {_joined(self.numerics)}" if self.numerics else ""),
            *(f"{line[:1].upper()}{line[1:]}" for line in self.unknown_pairs),
            made,
        ]
        return facts


@dataclass(frozen=True)
class TextTable:
    """One table as texts.

    Attributes:
        title: a line above it.
        columns: heads, the first column being left-aligned and all others right-aligned.
        rows: texts, one list per row.
        notes: sentences below it.
        partial: why it is not whole; () if it is.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    partial: Sequence[str] = field(default=())

    @property
    def heading(self) -> str:
        """The title, with a warning before it if something is missing."""
        return f"PARTIAL: {self.title}" if self.partial else self.title


def provenance_of(study: str, runs: pd.DataFrame) -> Provenance:
    """The provenance of a table that was made from these runs (rows of `Tidy.runs`)."""
    seeds = sorted({int(seed) for seed in runs["seed"] if seed is not None})
    dirty = "dirty" in runs and any(value == 1 for value in runs["dirty"] if value is not None)
    return Provenance(
        study=study,
        fingerprints=_distinct(runs, "data_fingerprint"),
        splits=_distinct(runs, "split_id"),
        seeds=tuple(str(seed) for seed in seeds),
        commits=tuple(text[:10] for text in _distinct(runs, "commit")),
        uncommitted=bool(dirty),
        numerics=_numerics(runs),
        unknown_pairs=_unknown_pairs(runs),
        runs=len(runs),
    )


def _unknown_pairs(runs: pd.DataFrame) -> tuple[str, ...]:
    texts = _distinct(runs, "extra_pairs") if "extra_pairs" in runs else ()
    return tuple(sorted({line for text in texts if (line := unknown_pairs(json.loads(text)))}))


def write_tables(
    folder: Path, stem: str, tables: Sequence[TextTable], frame: pd.DataFrame, source: Provenance
) -> list[Path]:
    """Write STEM.md, STEM.tex and STEM.csv into a folder; returns their paths.

    Args:
        folder: exists.
        stem: of the file names.
        tables: one below the other in .md and .tex.
        frame: the numbers behind them, unrounded, for the CSV.
        source: footer of each file.
    """
    paths = [folder / f"{stem}.{ending}" for ending in ("md", "tex", "csv")]
    write_text(paths[0], markdown_of(tables, source))
    write_text(paths[1], latex_of(tables, source))
    # One line each, or a reader of the CSV would take the rest of a comment for a row.
    head = [line for table in tables for line in [table.heading, *table.partial]] + source.lines()
    comment = "".join(f"# {' '.join(line.split())}\n" for line in head)
    write_text(paths[2], comment + frame.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    return paths


def markdown_of(tables: Sequence[TextTable], source: Provenance) -> str:
    """The tables as markdown with their notes, and the footer once."""
    lines: list[str] = []
    for place, table in enumerate(tables):
        lines += [f"{'#' if place == 0 else '##'} {markdown_text(table.heading)}", ""]
        cells = [list(table.columns), ["---", *["---:"] * (len(table.columns) - 1)], *map(list, table.rows)]
        lines += [f"| {' | '.join(markdown_cell(cell) for cell in row)} |" for row in cells]
        notes = [*(f"PARTIAL: {text}" for text in table.partial), *table.notes]
        lines += ["", *(f"- {markdown_text(note)}" for note in notes), ""]
    return "\n".join([*lines, "---", "", *(f"{markdown_text(line)}.  " for line in source.lines())]).rstrip() + "\n"


def latex_of(tables: Sequence[TextTable], source: Provenance) -> str:
    """The tables as plain tabulars, which need no package, with notes below them and the footer as comments."""
    lines = [f"% {line}" for line in source.lines()]
    for table in tables:
        lines += ["", r"\begin{center}", rf"\textbf{{{escape(table.heading)}}}\par\smallskip"]
        lines += [rf"\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}", r"\hline"]
        lines += [_row(table.columns), r"\hline", *(_row(row) for row in table.rows), r"\hline", r"\end{tabular}"]
        lines += [r"\end{center}"]
        texts = [*(f"PARTIAL: {text}" for text in table.partial), *table.notes]
        if texts:
            lines += [r"{\footnotesize\noindent", *(rf"{escape(text)}\par" for text in texts), "}"]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """The text with LaTeX's special characters escaped; of `code` its words, without the backticks around them."""
    return "".join(_LATEX.get(character, character) for character in re.sub(r"`([^`]+)`", r"\1", text))


def number(value: Any, *, signed: bool = False, digits: int = 3) -> str:
    """A number to three decimals; "-" for none."""
    if value is None or not math.isfinite(float(value)):
        return NONE
    return f"{float(value):{'+' if signed else ''}.{digits}f}"


def interval(value: Any, low: Any, high: Any, *, signed: bool = False, digits: int = 3) -> str:
    """A number with its interval in brackets, or alone where it has none."""
    text = number(value, signed=signed, digits=digits)
    if text == NONE or any(bound is None or not math.isfinite(float(bound)) for bound in (low, high)):
        return text
    bounds = (number(bound, signed=signed, digits=digits) for bound in (low, high))
    return f"{text} [{', '.join(bounds)}]"


def percent(share: float) -> str:
    """A share as whole percents, such as "95 %"."""
    return f"{100 * share:.0f} %"


def p_value(value: Any) -> str:
    """A p-value to three decimals, "< .001" below."""
    if value is None or not math.isfinite(float(value)):
        return NONE
    return "< .001" if float(value) < 0.001 else f"{float(value):.3f}"


def made_by() -> str:
    """The command of this process, the script relative to the repository."""
    script = Path(sys.argv[0]).resolve()
    name = script.relative_to(ROOT).as_posix() if script.is_relative_to(ROOT) else script.name
    return redacted(" ".join(["python", shlex.quote(name), *map(shlex.quote, sys.argv[1:])]))


def commit() -> str:
    """Short commit of the scripts, "unknown" outside a checkout."""
    words = ["git", "-C", str(ROOT), "rev-parse", "--short=10", "HEAD"]
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _row(cells: Sequence[str]) -> str:
    # A cell that begins with a bracket would be read as an option of the line break before it.
    return " & ".join(re.sub(r"^\[", "{[}", escape(cell)) for cell in cells) + r" \\"


def _distinct(runs: pd.DataFrame, name: str) -> tuple[str, ...]:
    return tuple(sorted({str(value) for value in runs[name] if value is not None})) if name in runs else ()


def _numerics(runs: pd.DataFrame) -> tuple[str, ...]:
    found = _distinct(runs, "numerics")
    return tuple(re.sub(r'[{}"]', "", text) for text in found if text != "{}")


def _few(texts: Sequence[str]) -> list[str]:
    """All of a few texts; of many the first ones, and how many more there are (labelled subsets have a split each)."""
    return list(texts) if len(texts) <= 4 else [*texts[:3], f"and {len(texts) - 3} more"]


def _joined(values: Iterable[str]) -> str:
    return ", ".join(values) or "not recorded"
