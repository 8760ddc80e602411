"""Reports on disk: one HTML file and its markdown twin for every state of a study; what was written once stays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from sage_ray.errors import UserError
from sage_ray.files import write_text
from sage_ray.notebook_view import NotebookView
from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder
from sage_ray.registry.final_plan import read_plan
from sage_ray.reports.evidence import finals_of, read_study, state_mark
from sage_ray.reports.html_page import html
from sage_ray.reports.inline_svg import standalone, svg_of
from sage_ray.reports.known_images import KnownImages, known_images
from sage_ray.reports.markdown_page import markdown
from sage_ray.reports.named_places import without_places
from sage_ray.reports.page_parts import Chapter, DrawnFigure, Page, Paragraph, Verdicts

if TYPE_CHECKING:
    import pandas as pd

    from sage_ray.figures.study_figure import StudyFigure
    from sage_ray.figures.study_records import StudyRecords
    from sage_ray.registry.comparison import Comparison
    from sage_ray.statistics.verdict_sentences import Said

Draw = Callable[[dict[str, str]], dict[str, DrawnFigure]]
"""Draws the figures of a page; it is given a dict that it tells why it cannot draw some."""
FORMAT = 4
"""Of the page; another one gives the same state another file."""
MISSED = {
    "curves": "curves of the training",
    "examples": "the worst, median and best image",
    "generated": "generated pairs",
    "particles": "sizes of particles",
    "importance": "importance of the settings",
    "cost": "cost of each run",
}
"""Figures that every reader looks for: a page that lacks one says why."""


@dataclass(frozen=True)
class ReportFiles(NotebookView):
    """A report, what it found, and where it is.

    Attributes:
        name: of the study, final training or model.
        kind: study, final or model.
        html: the page, a file for this state alone.
        markdown: the same words, with its figures in a folder beside it.
        latest: a page that leads to the newest report, written anew each time.
        latest_markdown: a copy of the newest markdown.
        is_new: whether this state had no report before.
        verdicts: what it found.
        has_best: whether a final training of its best trial can be asked for.
        model: registered model that its final trainings are versions of, once they can be compared; "" before.
        lacks_base: whether something of the search was tested, and its untuned base was not.
        notes: what could not be done beside it.
    """

    name: str
    kind: str
    html: Path
    markdown: Path
    latest: Path
    latest_markdown: Path
    is_new: bool
    verdicts: tuple[Said, ...]
    has_best: bool
    model: str = ""
    lacks_base: bool = False
    notes: tuple[str, ...] = ()

    @property
    def said(self) -> tuple[str, ...]:
        """The verdicts, one line each."""
        return tuple(verdict.line for verdict in self.verdicts)

    def frame(self) -> pd.DataFrame:
        """One row per verdict: verdict (better, worse, same, open, proposed or result), finding, numbers, cautions."""
        import pandas as pd

        told = [(each.tone, each.headline, each.numbers, " ".join(each.cautions)) for each in self.verdicts]
        return pd.DataFrame(told, columns=["verdict", "finding", "numbers", "cautions"])

    def headline(self) -> str:
        """What was reported on, and where the page is."""
        return f"report of {self.kind} {self.name}: {self.html}"

    def remarks(self) -> tuple[str, ...]:
        """What could not be done beside it."""
        return self.notes


def report(study: str, home: Home) -> ReportFiles:
    """Write the report of a study as HTML and markdown, unless this state of it has one already.

    Args:
        study: name of a search or an ablation, of a final training, or of a registered model, whose versions are then
            compared.
        home: that holds it; the report is in its folder reports/.

    Raises:
        UserError: nothing of that name, no finished run, a damaged record, or runs on several data sets.
    """
    comparison = None if study in {*home.study_names(), *home.final_ids()} else _comparison(study, home)
    home.check_writable()
    if comparison is not None:
        return _of_versions(comparison, study, home)
    if study in home.study_names():
        evidence = read_study(study, home)
        from sage_ray.reports.study_page import study_page

        folders = [RunFolder(home.runs / record.run_id) for record in evidence.all_records]
        page, choice = study_page(evidence), evidence.choice
        models = [final.plan.model_name for final in evidence.finals if final.finished]

        def records() -> StudyRecords:
            from sage_ray.figures.study_records import StudyRecords

            return StudyRecords.known(home, study, evidence.status, choice)

        base = evidence.base_trial
        own = base is not None and base.number in [final.plan.trial for final in evidence.finals]
        lacks_base = len(models) == 1 and evidence.is_search and not own
        model = models[-1] if len(models) > 1 or (models and own) else ""
        files = _written("study", study, page, home, folders, evidence.images, _of_study(home, study, records))
        return replace(files, has_best=choice is not None, model=model, lacks_base=lacks_base)
    from sage_ray.reports.model_page import final_page

    plan, folders = read_plan(home, study), _folders_of_final(study, home)
    images = known_images(home, plan.run_ids[0])
    files = _written("final", study, final_page(study, home, images), home, folders, images, _of_study(home, study))
    return replace(files, model=plan.model_name)


def _of_versions(comparison: Comparison, name: str, home: Home) -> ReportFiles:
    from sage_ray.reports.model_page import model_page

    return _written("model", name, model_page(comparison), home, [], None, lambda _: _of_model(comparison))


def _folders_of_final(final_id: str, home: Home) -> list[RunFolder]:
    plan = read_plan(home, final_id)
    ids = plan.run_ids + [
        r.run_id for each in (finals_of(plan.study, home) if plan.study else []) for r in each.records
    ]
    return [RunFolder(home.runs / run_id) for run_id in sorted(set(ids))]


def _of_study(home: Home, name: str, records: Callable[[], StudyRecords] | None = None) -> Draw:
    return lambda left_out: draw(home, name, left_out, None if records is None else records())


def _of_model(comparison: Comparison) -> dict[str, DrawnFigure]:
    from sage_ray.figures.versions_forest import versions

    made = versions(comparison, 2)
    return {made.name: drawn_figure(made)}


def _comparison(name: str, home: Home) -> Comparison:
    """The versions of a registered model; of an unknown name the error that names the nearest study."""
    from sage_ray.search.study_folder import StudyFolder

    try:
        StudyFolder.open(home, name)
    except UserError as error:
        missing = error
    if home.database is not None and not home.database.is_file():
        raise missing
    from sage_ray.record.model_versions import list_versions
    from sage_ray.registry.compare import compare_versions, reference_of

    versions = list_versions(home, name)
    if not versions:
        raise missing
    return compare_versions(home, versions, reference_of(home, versions))


def _written(
    kind: str,
    name: str,
    page: Page,
    home: Home,
    folders: Sequence[RunFolder],
    images: KnownImages | None,
    drawing: Draw,
) -> ReportFiles:
    import sage_ray

    page = without_places(page, home)
    mark = state_mark(f"{FORMAT} {sage_ray.__version__}\n{markdown(page)}", folders, images)
    page = replace(page, foot=page.foot.format(name=name, version=sage_ray.__version__, mark=mark))
    place = home.path / "reports"
    place.mkdir(exist_ok=True)
    # The names of final trainings begin with their kind.
    stem = name if name.startswith("final-") and kind == "final" else f"{kind}-{name}"
    files = ReportFiles(
        name=name,
        kind=kind,
        html=place / f"{stem}-{mark}.html",
        markdown=place / f"{stem}-{mark}.md",
        latest=place / f"{stem}.html",
        latest_markdown=place / f"{stem}.md",
        is_new=not (place / f"{stem}-{mark}.html").is_file(),
        verdicts=tuple(said_of(page)),
        has_best=False,
    )
    notes: list[str] = []
    if files.is_new or not files.markdown.is_file():
        left_out: dict[str, str] = {}
        drawn = drawing(left_out)
        page = without_places(_with_figures(page, drawn, left_out), home)
        _write_state(files, page, {figure: without_places(each, home) for figure, each in drawn.items()})
    write_text(files.latest, _pointer(files))
    write_text(files.latest_markdown, files.markdown.read_text(encoding="utf-8"))
    if files.is_new and kind != "model":
        from sage_ray.record.mlflow_reports import attach

        attach(home, name, [files.html, files.markdown], say=notes.append)
    return replace(files, notes=tuple(notes))


def said_of(page: Page) -> list[Said]:
    """The verdicts of a page's first chapter."""
    return [said for part in page.chapters[0].parts if isinstance(part, Verdicts) for said in part.said]


def draw(
    home: Home, name: str, left_out: dict[str, str], records: StudyRecords | None = None
) -> dict[str, DrawnFigure]:
    """The figures of a study by name.

    Args:
        home: that holds it.
        name: of the study or final training.
        left_out: is told why a figure cannot be drawn, by its name.
        records: what of the study was read already.
    """
    from sage_ray.figures.catalog import study_figures

    found: dict[str, DrawnFigure] = {}
    for made in study_figures(home, name, records=records, left_out=left_out):
        found[made.name] = drawn_figure(made)
    return found


def drawn_figure(made: StudyFigure) -> DrawnFigure:
    """A figure as a page has it; its drawing is given up."""
    svg = svg_of(made.figure, made.name, made.alt)
    made.figure.clear()
    return DrawnFigure(made.name, made.title, made.caption, made.alt, svg, made.finding)


def _with_figures(page: Page, drawn: dict[str, DrawnFigure], left_out: Mapping[str, str]) -> Page:
    """The page with chapters that have something to show, and one for figures that no chapter has asked for.

    What a chapter has asked for in vain is told there, with the reason.
    """
    asked = {name for chapter in page.chapters for name in chapter.figures}
    others = tuple(name for name in drawn if name not in asked)
    shown = []
    for chapter in page.chapters:
        lacking = {name: left_out[name] for name in chapter.figures if name in left_out and name in MISSED}
        # A sentence that leads to a picture says nothing without it.
        parts = [part for part in chapter.parts if not isinstance(part, Paragraph) or part.of_figure in ("", *drawn)]
        by_reason: dict[str, list[str]] = {}
        for name, reason in lacking.items():
            by_reason.setdefault(reason, []).append(MISSED[name])
        for reason, names in by_reason.items():
            parts.append(Paragraph(f"Not drawn: {', '.join(names)}. Why: {reason}.", "note"))
        if parts or any(name in drawn for name in chapter.figures):
            shown.append(replace(chapter, parts=parts))
    if others:
        shown.insert(len(shown) - 3, Chapter("further", "Further figures", [], others))
    return replace(page, chapters=shown)


def _write_state(files: ReportFiles, page: Page, drawn: dict[str, DrawnFigure]) -> None:
    """The files of one state; the HTML comes last, so that a kill in between is mended by the next call."""
    folder = files.html.with_suffix("")
    if drawn:
        folder.mkdir(exist_ok=True)
    for figure in drawn.values():
        write_text(folder / f"{figure.name}.svg", standalone(figure.svg), durable=False)
    write_text(files.markdown, markdown(page, drawn, folder.name))
    write_text(files.html, html(page, drawn), only_if_absent=True)


def _pointer(files: ReportFiles) -> str:
    """A page that leads to the newest report."""
    target, title = escape(files.html.name), escape(files.name)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="color-scheme" content="light dark"><meta http-equiv="refresh" content="0; url={target}"></head>\n'
        f'<body><p>The newest report of {title} is <a href="{target}">{target}</a>.</p></body></html>\n'
    )
