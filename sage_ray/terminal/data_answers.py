"""What the verbs about data say: `data check` and `data fetch`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage_ray.errors import UserError
from sage_ray.terminal.shell import EXIT_BAD_INPUT, Answer, Session, assignment, plain, quoted

if TYPE_CHECKING:
    from sage_ray.data.check import CheckReport


@dataclass(frozen=True)
class Looked:
    """What `data check` was asked to look at."""

    path: str
    crop_bottom: int = 0
    masks: str = ""
    sheet: Path | None = None
    foreground: str = ""

    @property
    def sets(self) -> str:
        """The `--set` words with which another verb reads the same data."""
        words = [assignment("data.path", self.path)]
        words += [assignment("data.masks", self.masks)] if self.masks else []
        words += [assignment("data.foreground", self.foreground)] if self.foreground else []
        words += [assignment("data.crop_bottom", self.crop_bottom)] if self.crop_bottom else []
        return " ".join(words)


def checked(report: CheckReport, looked: Looked, session: Session) -> Answer:
    """Answer of `data check`: every problem, one per line, and the sheets that were drawn."""
    fields = {**plain(report.as_dict()), "path": looked.path}
    lines = report.lines()
    paths: dict[str, Any] = {}
    if looked.sheet is not None:
        drawn, paths = _drawn_sheets(report, looked.sheet, looked.foreground)
        lines.append(drawn)
    proposed = 0 if looked.crop_bottom else report.taken.proposed
    if not report.ok:
        error = f"{len(report.problems)} problem(s): {looked.path}: each is named on stdout"
        words = f"data check {quoted(looked.path)} --crop-bottom {proposed}"
        words += f" --masks {quoted(looked.masks)}" if looked.masks else ""
        follow = [session.command(words)] if report.taken.lacking and proposed else []
        lines += [f"next: {command}" for command in follow]  # an answer with an error shows no commands
        return Answer(lines, fields, paths, follow, exit_code=EXIT_BAD_INPUT, error=error)
    looked = replace(looked, crop_bottom=looked.crop_bottom or proposed)
    follow = [session.command(f"train --preset tiny_sage_gan {looked.sets}")]
    follow.append(session.command(f"plan search_full {looked.sets}"))
    return Answer(lines, fields, paths, follow)


def _drawn_sheets(report: CheckReport, out: Path, foreground: str) -> tuple[str, dict[str, Any]]:
    from sage_ray.imaging.pair_sheets import write_pair_sheets

    if report.path.startswith("synthetic://"):
        raise UserError("no files to draw", report.path, "--sheet shows pairs of a folder: write one with `data synth`")
    files, count = write_pair_sheets(report.suspects, out, foreground)
    doubtful = sum(bool(suspect.doubts) for suspect in report.suspects)
    sheets = "1 sheet" if len(files) == 1 else f"{len(files)} sheets"
    told = f"the {doubtful} suspect ones come first" if doubtful else "none is suspect"
    line = f"{sheets} with {count} of {len(report.suspects)} pairs, {told}: {out}"
    return line, {"sheet": files[0] if len(files) == 1 else out}


def fetched(source: str, out: Path | None, sha256: str | None, origin: str | None, session: Session) -> Answer:
    """Fetch a public set by name, or an archive by address, and tell what is there now."""
    from sage_ray.data.fetch import fetch_archive, fetch_public
    from sage_ray.data.public import public_set

    if "://" in source:
        if origin is not None:
            raise UserError("two addresses", f"--from {origin}", "--from goes with the name of a public set")
        if out is None or sha256 is None:
            lacking = "folder" if out is None else "check sum"
            raise UserError(f"no {lacking}", source, "give `sage-ray data fetch URL OUT --sha256 SUM`")
        files = fetch_archive(source, out, sha256, say=session.watch.line)
        return Answer(
            [f"{files} files"], {"files": files}, {"data": out}, [session.command(f"data check {quoted(out)}")]
        )
    entry = public_set(source)
    if sha256 is not None:
        mend = "leave --sha256 out; its contents are checked by their fingerprint"
        raise UserError("a public set needs no check sum", source, mend)
    place = out or Path(entry.name)
    fetch_public(entry, place, origin=origin, say=session.watch.line)
    lines = [
        f"{entry.title}: {entry.pairs} pairs, data fingerprint {entry.fingerprint}, as published",
        f"licence {entry.licence}; please cite {entry.citation}",
    ]
    follow = [f"data check {quoted(place)}", f"train --preset tiny_sage_gan {assignment('data.path', place)}"]
    follow.append(f"plan search_full {assignment('data.path', place)}")
    fields = {name: value for name, value in plain(entry).items() if name not in ("stems", "limit_bytes")}
    return Answer(lines, fields, {"data": place}, [session.command(text) for text in follow])
