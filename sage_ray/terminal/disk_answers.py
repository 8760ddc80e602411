"""What `plan` says about disk, and what `gc` and `forget` say about their findings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sage_ray.terminal.shell import Answer, Session, plain

if TYPE_CHECKING:
    from sage_ray.search.plan import Plan
    from sage_ray.search.study_status import StudyStatus
    from sage_ray.upkeep.forget import ForgetReport
    from sage_ray.upkeep.garbage import GarbageReport

SHOWN = 12
"""Rows for each reason; --json has them all."""
TOLD_GB = 0.01
"""Least that is told of what a finished study frees by itself."""
MORE = {"ends": "ends of finished runs' stages", "cache": "decoded data and downloads"}


def disk_line(plan: Plan) -> str:
    """How much disk a study will take, of what, and how much there is."""
    parts = ", ".join(f"{part} {size_text(size)}" for part, size in plan.disk_parts.items())
    known = plan.disk_free_gb is not None
    free = f"{plan.disk_free_gb:.1f} GB free" if known else "an object store, free space unknown"
    short = plan.disk_free_gb is not None and plan.disk_free_gb < plan.disk_gb
    tail = ": NOT ENOUGH, see `sage-ray gc`, --home and runtime.stage_store" if short else ""
    return f"disk: at most {size_text(plan.disk_gb)} ({parts}); {free}{tail}"


def collected(found: GarbageReport, words: str, session: Session) -> Answer:
    """Answer of `gc`: a table of what can go and why, the total, and what options would free beside it.

    Args:
        found: by it.
        words: the options of this call, to be repeated with --yes.
        session: of the verb.
    """
    lines: list[str] = []
    for why in dict.fromkeys(item.why for item in found.items):
        items = [item for item in found.items if item.why == why]
        lines.append(f"{size_text(sum(item.gb for item in items)):>9}  {why}")
        lines += [f"{'':>9}  {size_text(item.gb):>9}  {item.what}" for item in items[:SHOWN]]
        if len(items) > SHOWN:
            rest = sum(item.gb for item in items[SHOWN:])
            lines.append(f"{'':>9}  {size_text(rest):>9}  {len(items) - SHOWN} smaller ones (--json names them)")
    lines += [f"kept: {reason}" for reason in found.kept]
    if found.dry_run:
        lines.append(f"{size_text(found.gb)} can go; nothing was removed" if found.items else "nothing to free")
    else:
        lines.append(f"{size_text(found.freed_gb)} freed")
    lines += [f"--{option} would free {size_text(gb)} more: {MORE[option]}" for option, gb in found.more.items()]
    follow = [session.command(f"gc{words} --yes")] if found.dry_run and found.items else []
    return Answer(lines, plain(found), {"home": session.home_name}, follow)


def tidied(found: StudyStatus, session: Session) -> StudyStatus:
    """The status of a study that was run, after what a finished one does not need any more has gone."""
    from sage_ray.upkeep.finished_study import tidy_finished

    freed = tidy_finished(session.home, found.study)
    if freed >= TOLD_GB:
        session.watch.line(f"{size_text(freed)} freed: snapshots between the ends of the study's stages")
    return found


def forgotten(found: ForgetReport, session: Session) -> Answer:
    """Answer of `forget`: what goes, what stays and why, and how to do it."""
    what = {"study": "study", "final": "final training", "run": "run"}[found.kind]
    lines = [f"{what} {found.name}: {'would go' if found.dry_run else 'gone'}"]
    lines += [f"{size_text(item.gb):>9}  {item.what}" for item in found.items]
    lines += [f"kept: {reason}" for reason in found.kept]
    if found.dry_run:
        lines.append(f"{size_text(found.gb)} would be freed; nothing was removed")
    else:
        lines.append(f"{size_text(found.freed_gb)} freed")
    follow = [session.command(f"forget {found.name} --yes")] if found.dry_run else [session.command("list")]
    return Answer(lines, plain(found), {"home": session.home_name}, follow)


def size_text(gb: float) -> str:
    """A size with a unit that leaves digits to see: 1.08 GB, 12.3 MB, 4 kB."""
    if gb >= 0.1:
        return f"{gb:.2f} GB"
    return f"{gb * 1e3:.1f} MB" if gb >= 1e-4 else f"{gb * 1e6:.0f} kB"
