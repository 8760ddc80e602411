"""What the verbs of a study say about it: trials of a search, arms of an ablation, and how it ended."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage_ray.reports.study_words import objectives_text, score_text, tally
from sage_ray.terminal.disk_answers import tidied
from sage_ray.terminal.display import trial_table
from sage_ray.terminal.progress import width_of
from sage_ray.terminal.shell import EXIT_FAILED, EXIT_INTERRUPTED, Answer, Session, plain

if TYPE_CHECKING:
    from sage_ray.search.ablate import AblationResult, ArmSummary
    from sage_ray.search.study_status import StudyStatus, TrialStatus


MOST_CUT_OFF = 8
"""Of so many trials it is told at which epoch they were cut off."""


def study_lines(status: StudyStatus) -> list[str]:
    """A study as a plain table, cut at the width of a terminal, and why trials failed."""
    lines = [f"{status.study} {status.state}: {tally(status)}; {objectives_text(status)}"]
    if status.trials:
        table = trial_table(status, status.trials, width_of())
        lines += [table.header, *table.rows]
    if status.front:
        lines.append("* on the Pareto front: no other trial beats it in one objective and equals it in the other")
    lines += session_lines(status)
    if status.state == "running":
        running = [trial for trial in status.trials if trial.state == "RUNNING"]
        lines += [f"trial {trial.number} {trial.first or _last_report(trial.silent_s)}" for trial in running]
    failed = [trial for trial in status.trials if trial.error]
    return lines + [f"trial {trial.number} failed: {trial.error}{_log_of(trial)}" for trial in failed]


def session_lines(status: StudyStatus) -> list[str]:
    """What is to be said of whoever runs a study: no sign of life came for a while, or none will come any more."""
    if status.silent_s is not None:
        limit = f"; after {status.dead_after_s:.0f} s it counts as dead" if status.dead_after_s else ""
        return [f"no sign of life came from its session for {status.silent_s:.0f} s{limit}"]
    if not status.died:
        return []
    cut = [trial for trial in status.trials if trial.state == "INTERRUPTED"]
    at = [f"trial {trial.number} {f'at epoch {trial.epoch}' if trial.epoch else 'before an epoch'}" for trial in cut]
    more = len(at) - MOST_CUT_OFF
    told = ", ".join(at[:MOST_CUT_OFF]) + (f" and {more} more" if more > 0 else "")
    counted = f"; {len(cut)} {'trial was' if len(cut) == 1 else 'trials were'} cut off: {told}" if cut else ""
    return [f"the session that ran it died{counted}"]


def _log_of(trial: TrialStatus) -> str:
    """Where the log of the run is that a trial failed of."""
    failed = [run.run_id for run in trial.runs if run.state == "FAIL"]
    return f" (log: runs/{failed[0]}/log.txt)" if failed else ""


def _last_report(silent_s: float | None) -> str:
    if silent_s is None:
        return "has reported no epoch yet"
    ago = f"{silent_s:.0f} s" if silent_s < 120 else f"{silent_s / 60:.0f} minutes"
    return f"reported its last epoch {ago} ago"


def swept(status: StudyStatus, session: Session) -> Answer:
    """Answer of `sweep`, `resume` and `status`: the study as it stands."""
    paths: dict[str, Any] = {"study": Path(status.path)}
    if status.state == "finished":
        verbs = ("best", "report") if status.done else ("status",)
    elif status.state == "running":
        verbs = ("status", "stop")
    else:
        verbs = ("resume",)
    follow = [session.command(f"{v} {status.study}") for v in verbs]
    told, fields = against_plan(status, session)
    return Answer([*study_lines(status), *told], plain(status) | fields, paths, follow, replaces_picture=True)


def against_plan(status: StudyStatus, session: Session) -> tuple[list[str], dict[str, Any]]:
    """Of a finished study, what it was planned to take beside what it took: a line, and the same as a field."""
    from sage_ray.search.planned_taken import planned_and_taken

    found = planned_and_taken(status.study, session.home) if status.state == "finished" else None
    return ([], {}) if found is None else ([found.line()], {"planned": plain(found)})


def ended(answer: Answer, status: StudyStatus, session: Session) -> Answer:
    """The answer of a verb that has run a study, with the exit code of how it ended; a finished one is tidied.

    1 if not a single trial has a score, 130 if it ended before its last trial: by Ctrl-C, `stop` or a limit of hours.
    """
    tidied(status, session)
    if status.state == "interrupted":
        again = session.command(f"resume {status.study}")
        answer.exit_code, answer.error = EXIT_INTERRUPTED, f"interrupted; go on with: {again}"
    elif status.failed and not status.done and not status.pruned:
        why = next((trial.error for trial in status.trials if trial.error), "see the trials")
        answer.exit_code, answer.error = EXIT_FAILED, f"every trial of {status.study} failed, the first: {why}"
    return answer


def ablated(result: AblationResult, session: Session) -> Answer:
    """Answer of `ablate` (also `resume` and `status`): one line per arm, failures, and what to run next."""
    found = result.status
    fields = {**plain(found), **{name: value for name, value in plain(result).items() if name != "status"}}
    paths: dict[str, Any] = {"study": Path(found.path), "runs": session.home.runs}
    if found.state == "finished":
        follow = [session.make("tables"), session.command(f"report {found.study}")]
    else:
        verbs = ("status", "stop") if found.state == "running" else ("resume",)
        follow = [session.command(f"{verb} {found.study}") for verb in verbs]
    told, planned = against_plan(found, session)
    return Answer([*arm_lines(result), *told], fields | planned, paths, follow)


def arm_lines(result: AblationResult) -> list[str]:
    """An ablation as a plain table: means over finished runs of the objective and of the locked test's score."""
    found = result.status
    wide = max(len(arm.arm) for arm in result.arms) + 2
    common = next(arm.definitions for arm in result.arms if arm.is_reference)
    others = [arm.called for arm in result.arms if arm.definitions != common and arm.not_run is None]
    score, test = f"{found.metric} ({result.reduce})", f"test {result.test_score}"
    over = "seeds and subsets" if len({run.subset for run in result.runs}) > 1 else "seeds"
    lines = [f"{found.study} {found.state}: {tally(found)}; means over {over}, * the reference"]
    called = "  called" if any(arm.label for arm in result.arms) else ""
    lines.append(f"{'arm':<{wide}}  {'done':>6}  {'failed':>6}  {score}  {test}{called}")
    marks = {arm.arm: " *" if arm.is_reference else " °" if arm.called in others else "" for arm in result.arms}
    lines += [_arm_line(arm, marks[arm.arm], wide, len(score), len(test)) for arm in result.arms]
    lines += session_lines(found)
    lines += [f"{run.run_id} failed: {run.error}" for run in result.runs if run.state == "FAIL"]
    lines += [f"{run.run_id} {run.first}" for trial in found.trials if trial.first for run in trial.runs if run.first]
    if others:
        lines.append(f"° scored by another definition than the reference, not to be compared: {', '.join(others)}")
    return [*lines, *(found.text for found in result.readings), *result.notes]


def _arm_line(arm: ArmSummary, mark: str, wide: int, score: int, test: int) -> str:
    name = f"{arm.arm}{mark}"
    if arm.not_run is not None:
        return f"{name:<{wide}}  not run: {arm.not_run}" + (f" (called {arm.label})" if arm.label else "")
    called = f"  {arm.label}" if arm.label else ""
    done = f"{arm.done}/{arm.wanted}"
    scores = f"{score_text(arm.value):>{score}}  {score_text(arm.test):>{test}}"
    return f"{name:<{wide}}  {done:>6}  {arm.failed:>6}  {scores}{called}"
