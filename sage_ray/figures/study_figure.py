"""One figure of a study with the words that go with it, and the line below it that says what it was made from."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace

from matplotlib.figure import Figure

import sage_ray
from sage_ray.analysis.figure_style import TINY, PaperFigure
from sage_ray.analysis.tables import Provenance
from sage_ray.figures.study_records import StudyRecords


@dataclass(frozen=True)
class StudyFigure:
    """A figure of a study.

    Attributes:
        name: by which it is asked for, and the stem of its files.
        title: what it shows, in a few words.
        caption: what must be known to read it, as sentences.
        alt: what is seen, for those who do not see it.
        figure: with its provenance below the picture and in `facts`.
        finding: what it shows, as sentences; "" if that is for the reader to see.
    """

    name: str
    title: str
    caption: str
    alt: str
    figure: Figure
    finding: str = ""


def finished(
    records: StudyRecords,
    name: str,
    title: str,
    caption: Sequence[str],
    alt: str,
    figure: PaperFigure,
    source: Provenance | None = None,
    *,
    finding: str = "",
) -> StudyFigure:
    """The figure with its line of provenance, and with what its files say of themselves.

    Args:
        records: that it was drawn from.
        name, title, alt: as `StudyFigure` has them.
        caption: sentences; empty ones are left out.
        figure: drawn.
        source: of the runs that it shows, if these are not those of `records`.
        finding: as `StudyFigure` has it.
    """
    made = signed_figure(records.name, name, title, caption, alt, figure, source or records.provenance)
    return replace(made, finding=finding)


def signed_figure(
    of: str, name: str, title: str, caption: Sequence[str], alt: str, figure: PaperFigure, source: Provenance
) -> StudyFigure:
    """The same of whatever is called `of`."""
    text = " ".join(sentence for sentence in caption if sentence)
    line = " · ".join(
        [
            f"{of}: {source.runs} run{'' if source.runs == 1 else 's'}",
            f"data {_few(source.fingerprints)}",
            f"trained at {_few(source.commits)}{' (changed)' if source.uncommitted else ''}"
            if source.commits
            else "commit not recorded",
            f"sage_ray {sage_ray.__version__}",
        ]
    )
    wide = int(figure.get_figwidth() * 27)
    figure.supxlabel("\n".join(textwrap.wrap(line, wide)), fontsize=TINY, color="0.4", x=0.005, ha="left")
    facts = [f"study: {of}", f"data: {', '.join(source.fingerprints)}", f"split: {', '.join(source.splits)}"]
    facts += [f"seeds: {', '.join(source.seeds)}", f"commit: {', '.join(source.commits)}"]
    facts += ["trained with uncommitted changes"] * source.uncommitted
    facts += [f"sage_ray: {sage_ray.__version__}"]
    figure.facts = {"title": f"{title} ({of})", "description": "\n".join([text, *facts])}
    return StudyFigure(name, title, text, alt, figure)


def _few(texts: Sequence[str]) -> str:
    """The text that there is, or how many different ones."""
    if not texts:
        return "not recorded"
    return texts[0] if len(texts) == 1 else f"{len(texts)} different, {texts[0]} first"
