"""Which figures a study has: each is made when it is asked for, and left out where its data are not there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from sage_ray.analysis.figure_style import FORMATS, WIDTHS_MM, paper_style, save_figure, settle
from sage_ray.errors import UserError, did_you_mean
from sage_ray.figures.cost_bars import cost
from sage_ray.figures.finals_forest import finals
from sage_ray.figures.forest_plot import forest
from sage_ray.figures.importance_bars import setting_importance
from sage_ray.figures.parallel_coordinates import parallel
from sage_ray.figures.particle_sizes_drawn import particles
from sage_ray.figures.phase_curves import curves
from sage_ray.figures.search_history import history
from sage_ray.figures.setting_slices import slices
from sage_ray.figures.study_figure import StudyFigure
from sage_ray.figures.study_records import StudyRecords
from sage_ray.figures.winner_images import examples, generated
from sage_ray.record.home import Home

__all__ = ["FIGURES", "StudyFigure", "study_figure", "study_figures", "write_figures"]

logger = logging.getLogger(__name__)

FIGURES: Mapping[str, Callable[[StudyRecords, int], StudyFigure]] = {
    "finals": finals,
    "forest": forest,
    "parallel": parallel,
    "slices": slices,
    "importance": setting_importance,
    "history": history,
    "curves": curves,
    "examples": examples,
    "generated": generated,
    "particles": particles,
    "cost": cost,
}
"""What draws each figure, in reading order."""


def study_figures(
    home: Home,
    study: str,
    columns: int = 2,
    records: StudyRecords | None = None,
    left_out: dict[str, str] | None = None,
) -> Iterator[StudyFigure]:
    """The figures that make sense for a study, each made when it is asked for, in reading order.

    Args:
        home: that holds it.
        study: name of a search, an ablation or a final training.
        columns: 1 or 2: how wide they are on a page of a journal.
        records: of the study, where the caller has read some of them already.
        left_out: is told why a figure cannot be drawn, by its name.

    Raises:
        UserError: nothing of that name, or another width.
    """
    _check_columns(columns)
    records = records or StudyRecords(home, study)
    for name in FIGURES:
        try:
            yield _drawn(name, records, columns)
        except UserError as error:
            logger.info("no figure %s of %s: %s", name, study, error)
            if left_out is not None:
                left_out[name] = _reason(error)


def study_figure(home: Home, study: str, name: str, columns: int = 1) -> StudyFigure:
    """One figure of a study.

    Args:
        home: that holds it.
        study: name of a search, an ablation or a final training.
        name: of the figure, see `FIGURES`.
        columns: 1 or 2: how wide it is on a page of a journal.

    Raises:
        UserError: nothing of that name, another width, or no such figure; it says why, and which ones the study has.
    """
    _check_columns(columns)
    records = StudyRecords(home, study)
    if name not in FIGURES:
        there = f"{study} has {_there(records, columns)}"
        near = did_you_mean(name, FIGURES, "")
        raise UserError("no such figure", repr(name), f"{near}; {there}" if near else there)
    try:
        return _drawn(name, records, columns)
    except UserError as error:
        what = f"no figure {name} of this study: {_reason(error)}"
        raise UserError(what, f"study {study}", f"it has {_there(records, columns)}") from None


def write_figures(
    home: Home, study: str, folder: str | Path, formats: Sequence[str] = FORMATS, columns: int = 2
) -> list[Path]:
    """Write all figures of a study into a folder, NAME.pdf and so on, with captions.md; files there are replaced.

    Args:
        home: that holds it.
        study: name of a search, an ablation or a final training.
        folder: is made.
        formats: of pdf, svg and png.
        columns: 1 or 2: how wide they are on a page of a journal.

    Raises:
        UserError: nothing of that name, no figure, another width or format, or a place that cannot be written.
    """
    place = Path(folder).expanduser()
    paths: list[Path] = []
    lines = [f"# Figures of {study}", ""]
    for found in study_figures(home, study, columns):
        paths += save_figure(found.figure, place / found.name, formats)
        finding = f"{found.finding.replace('**', '')} " if found.finding else ""
        lines += [f"**{found.name}.** {found.title}. {finding}{found.caption}", ""]
    if not paths:
        raise UserError("study has no figure", study, f"`sage-ray resume {study}` until a run is finished")
    paths.append(place / "captions.md")
    paths[-1].write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    return paths


def _reason(error: UserError) -> str:
    """Why a figure cannot be drawn; with the place, if that is another one than the study."""
    where = str(error.where)
    return error.what if where.startswith(("study ", "run ")) else f"{error.what}, {where}"


def _drawn(name: str, records: StudyRecords, columns: int) -> StudyFigure:
    with paper_style():
        found = FIGURES[name](records, columns)
        # Marks that are made while a figure is laid out take their look from the style that holds then.
        settle(found.figure)
    return found


def _there(records: StudyRecords, columns: int) -> str:
    names = []
    for name in FIGURES:
        try:
            _drawn(name, records, columns)
        except UserError:
            continue
        names.append(name)
    return ", ".join(names) or "none yet"


def _check_columns(columns: int) -> None:
    if columns not in WIDTHS_MM:
        raise UserError("no such width", f"columns={columns}", "a figure takes 1 or 2 columns of a page")
