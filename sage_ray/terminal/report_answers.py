"""What the verb `report` says: the verdicts, and where the pages are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sage_ray.terminal.model_answers import named_model
from sage_ray.terminal.shell import Answer, Session, quoted

if TYPE_CHECKING:
    from sage_ray.reports.study_reports import ReportFiles


def reported(files: ReportFiles, session: Session) -> Answer:
    """Answer of `report`: a line for each verdict; `report` is the newest markdown, `html` the page of this state."""
    lines = [line.replace("`", "") for line in files.said]
    lines += files.notes
    if not files.is_new:
        lines.append("nothing has changed since this report was written")
    fields = {"study": files.name, "kind": files.kind, "verdicts": list(files.said), "new": files.is_new}
    paths = {"report": files.latest_markdown, "html": files.html, "markdown": files.markdown}
    return Answer(lines, fields, paths, [_next(files, session)])


def _next(files: ReportFiles, session: Session) -> str:
    """What comes after this report: the fair test of a search, the comparison of what was tested, the champion."""
    if files.kind == "model":
        return named_model("promote", files.name, session)
    if files.model:
        return named_model("compare", files.model, session)
    if not files.has_best:
        return session.command(f"status {quoted(files.name)}")
    return session.command(f"final {quoted(files.name)}{' --trial base' if files.lacks_base else ''}")
