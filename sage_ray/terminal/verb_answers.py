"""What each verb says about its outcome: text for a person, fields for a script, where things lie, what to run next."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from sage_ray.errors import UserError
from sage_ray.reports.study_words import objective_text, score_text, tally
from sage_ray.terminal.display import params_text, shown_params
from sage_ray.terminal.model_answers import finished, named_model
from sage_ray.terminal.shell import EXIT_FAILED, EXIT_INTERRUPTED, Answer, Session, plain
from sage_ray.terminal.study_answers import ablated, ended, swept
from sage_ray.watch import tell_maker

if TYPE_CHECKING:
    from sage_ray.config import ExperimentConfig
    from sage_ray.record.overview import ListedStudy
    from sage_ray.record.run_record import RunRecord
    from sage_ray.search.best import BestChoice
    from sage_ray.upkeep.mlflow_sync import SyncReport


def train_and_watch(config: ExperimentConfig, session: Session, run_id: str | None, name: str | None = None) -> Answer:
    """Train one config, showing each epoch, and tell how it ended; `name` begins a run id that is made from it."""
    from sage_ray.runtime.launch import default_run_id, train

    session.resumable = run_id or default_run_id(config, name)
    total = config.num_epochs
    watch = session.watch
    record = train(
        config,
        session.home,
        session.resumable,
        on_report=lambda report: watch.epoch(report, total),
        on_maker=partial(tell_maker, watch),
        say=watch.line,
    )
    return trained(record, session)


def trained(record: RunRecord, session: Session) -> Answer:
    """Answer about a run: its state, and its scores at the selected epoch."""
    from sage_ray.record.run_log import LOG_FILE

    folder = session.home.runs / record.run_id
    scores = record.selected_metrics or record.metrics
    shown = {name: value for name, value in scores.items() if name.startswith("val/")}
    fields = {
        "run_id": record.run_id,
        "state": record.state,
        "epoch": record.epoch,
        "selected_epoch": record.selected_epoch,
        "metrics": plain(record.metrics),
        "selected_metrics": plain(record.selected_metrics),
        "synthetic_steps": record.synthetic_steps,
        "generator_updates": record.generator_updates,
        "reused_epochs": record.reused_epochs,
        "weights_sha": record.weights_sha,
    }
    paths: dict[str, Any] = {"run": folder}
    again = session.command(f"resume {record.run_id}")
    if record.state == "INTERRUPTED":
        error = f"interrupted at epoch {record.epoch}; go on with: {again}"
        return Answer([], fields, paths, [again], EXIT_INTERRUPTED, error)
    if record.state == "FAIL":
        trace, log = folder / "error.txt", folder / LOG_FILE
        error = f"run {record.run_id} failed: {record.error} (trace: {trace}, log: {log})"
        return Answer([], fields, paths | {"trace": trace, "log": log}, [], EXIT_FAILED, error)
    at = f", selected epoch {record.selected_epoch}" if record.selected_epoch else ""
    lines = [
        f"{record.run_id} {record.state}: {record.epoch} epochs ({record.reused_epochs} from the stage store){at}, "
        f"{record.seconds:.1f} s",
        "  ".join(f"{name} {value:.4f}" for name, value in shown.items()),
        f"generator updates {record.generator_updates}, synthetic steps {record.synthetic_steps}",
    ]
    model = folder / "artifacts" / "model"
    if record.state != "COMPLETE" or not model.is_dir():
        return Answer(lines, fields, paths, [again])
    follow = [session.command(f"predict {record.run_id} IMAGES -o OUT"), session.command(f"final {record.run_id}")]
    if record.parameters and "segmenter" not in record.parameters:  # a system that only generates
        follow = [session.command(f"generate {record.run_id} MASKS -o OUT")]
    return Answer(lines, fields, paths | {"model": model}, follow)


def resumed(name: str, session: Session, sets: list[str], retry_failed: bool, retry: list[int]) -> Answer:
    """Go on with whatever `name` is: a study, which may change by it, a final training, or a run."""
    from sage_ray.registry.final import is_final, resume_final
    from sage_ray.search.ablate import resume_ablation
    from sage_ray.search.study_folder import is_ablation
    from sage_ray.upkeep.belongings import unknown

    wishes: Any = {"sets": sets, "retry_failed": retry_failed, "retry": retry}
    if is_ablation(name, session.home):
        result = resume_ablation(name, session.home, watch=session.watch, **wishes)
        return ended(ablated(result, session), result.status, session)
    if (session.home.studies / name / "study.json").is_file():
        from sage_ray.search.driver import resume

        found = resume(name, session.home, watch=session.watch, **wishes)
        return ended(swept(found, session), found, session)
    if any(wishes.values()) and name in (*session.home.final_ids(), *session.home.run_ids()):
        mend = "--set, --retry-failed and --retry change a study; leave them out"
        raise UserError("no study, but a run or a final training", name, mend)
    if is_final(name, session.home):
        return finished(resume_final(name, session.home, watch=session.watch), session)
    if name in session.home.run_ids():
        return _resume_run(name, session)
    raise unknown(name, session.home)


def _resume_run(name: str, session: Session) -> Answer:
    from sage_ray.record.run_folder import RunFolder

    folder = RunFolder.open(session.home.runs, name)
    record = folder.read()
    if record.parent or record.study:
        owner = record.parent or record.study
        raise UserError("run of a study", name, f"go on with the whole of it: `{session.command(f'resume {owner}')}`")
    return train_and_watch(folder.config(), session, name)


def status_of(name: str, session: Session) -> Answer:
    """Answer of `status`: a study, a final training, or one run's record."""
    if name in session.home.study_names():
        from sage_ray.search.study_folder import is_ablation
        from sage_ray.search.study_status import status

        if is_ablation(name, session.home):
            from sage_ray.search.ablate import read_ablation

            return ablated(read_ablation(name, session.home), session)
        return swept(status(name, session.home), session)
    if name in session.home.final_ids():
        return _status_of_final(name, session)
    if name in session.home.run_ids():
        return _status_of_run(name, session)
    from sage_ray.upkeep.belongings import unknown

    raise unknown(name, session.home)


def _status_of_final(name: str, session: Session) -> Answer:
    from sage_ray.evaluation.locked_test_table import basis, locked_test_lines
    from sage_ray.record.at_work import shown_state
    from sage_ray.record.run_folder import RunFolder
    from sage_ray.registry.final import locked_scores
    from sage_ray.registry.final_plan import read_plan

    plan = read_plan(session.home, name)
    records = {seed: RunFolder(session.home.runs / plan.run_id(seed)) for seed in plan.seeds}
    states = {
        seed: shown_state(run.path, run.read().state) if run.path.is_dir() else "not begun"
        for seed, run in records.items()
    }
    lines = [f"{name} of {plan.source}: {plan.rule}"]
    lines += [f"  seed {seed}: {state}" for seed, state in states.items()]
    scored = locked_scores(plan, session.home)
    if scored is not None:
        by_seed, whole = scored
        lines += ["locked test:", *(f"  {line}" for line in locked_test_lines(by_seed, whole)), basis(whole["dice"])]
    # Registration may still be due when all seeds are complete; `resume` then does that alone.
    registered = (session.home.finals / name / "package").is_dir()
    follow = [named_model("compare", plan.model_name, session) if registered else session.command(f"resume {name}")]
    fields = {"final_id": name, "source": plan.source, "seeds": plan.seeds, "states": states}
    fields |= {} if scored is None else {"by_seed": scored[0], "scores": scored[1]}
    return Answer(lines, plain(fields), {"runs": session.home.runs}, follow)


def _status_of_run(name: str, session: Session) -> Answer:
    from sage_ray.record.at_work import shown_state
    from sage_ray.record.run_folder import RunFolder

    folder = RunFolder.open(session.home.runs, name)
    record = folder.read()
    if shown_state(folder.path, record.state) != record.state:
        record = record.model_copy(
            update={"state": "INTERRUPTED", "error": f"its process died at epoch {record.epoch}"}
        )
    scores = "  ".join(f"{key} {value:.4f}" for key, value in record.metrics.items() if key.startswith("val/"))
    lines = [f"{name} {record.state}: epoch {record.epoch}, attempt {record.attempt}, {record.seconds:.1f} s"]
    lines += [line for line in (scores, record.error) if line]
    owner = record.parent or record.study
    if record.finished and "segmenter" not in (record.parameters or {"segmenter": 0}):  # a system that only generates
        verbs = [f"generate {name} MASKS -o OUT"]
    elif record.finished:
        verbs = [f"predict {name} IMAGES -o OUT"]
        verbs += [f"evaluate {name}"] if folder.config().data.split.test else []
    elif owner:  # it goes on with the whole of its study
        verbs = [f"status {owner}"]
    else:
        verbs = [f"status {name}" if folder.alive() else f"resume {name}"]
    paths = {"run": folder.path} | ({"log": folder.log.path} if folder.log.path.is_file() else {})
    return Answer(lines, plain(record), paths, [session.command(verb) for verb in verbs])


def listed(session: Session) -> Answer:
    """Answer of `list`: studies, final trainings, and runs that belong to neither."""
    from sage_ray.record.overview import overview

    found = overview(session.home)
    lines = [f"{'study' if s.kind == 'sweep' else s.kind} {s.study}: {_state(s, session)}" for s in found.studies]
    lines += [f"final {name}" for name in found.finals]
    lines += [f"run   {run.run_id}: {run.state}, epoch {run.epoch}" for run in found.runs]
    named = [*(study.study for study in found.studies), *found.finals, *(run.run_id for run in found.runs)]
    follow = [session.command(f"status {named[0]}" if named else "sweep search_tiny")]
    return Answer(lines or ["nothing yet"], plain(found), {"home": session.home_name}, follow)


def _state(study: ListedStudy, session: Session) -> str:
    if study.state == "damaged":
        return f"storage lost or damaged, `{session.command(f'resume {study.study}')}` makes it anew from the runs"
    died = f" (its session died; `{session.command(f'resume {study.study}')}` goes on)" if study.died else ""
    return f"{study.state}{died}, {tally(study)}"


def synced(report: SyncReport, session: Session) -> Answer:
    """Answer of `sync`: what was sent, and what could not be."""
    from sage_ray.record.store_uris import is_http, redacted, without_user

    text = f"{len(report.sent)} runs sent, {len(report.up_to_date)} up to date, {len(report.orphans)} orphans closed"
    lines = [text]
    if report.parents:
        lines.append(f"studies and final trainings put right: {', '.join(report.parents)}")
    uri = session.home.mlflow_uri
    shown = redacted(uri)
    show = f"open {without_user(uri)}" if is_http(uri) else session.command("ui")
    answer = Answer(lines, plain(report), {"mlflow": shown}, [show])
    if report.failed:
        lines += [f"not sent: {name}: {reason}" for name, reason in report.failed.items()]
        answer.exit_code, answer.error = EXIT_FAILED, f"{len(report.failed)} not sent: {', '.join(report.failed)}"
    return answer


def chosen(choice: BestChoice, session: Session) -> Answer:
    """Answer of `best`: the chosen trial, why, and who came next."""
    lines = [
        f"trial {choice.trial}: {score_text(choice.value)}  {params_text(shown_params(choice, choice))}",
        f"rule: {choice.rule}",
    ]
    for row in choice.runner_ups[:5]:
        near = "within" if row.within else "beyond"
        lines.append(
            f"  trial {row.trial}: {score_text(row.value)} ({near} one standard error {row.standard_error:.4f})  "
            f"{params_text(shown_params(choice, row))}"
        )
    for stopped in choice.stopped_higher[:3]:
        lines.append(
            f"  trial {stopped.trial} stood better, {score_text(stopped.value)}, when it was stopped early at epoch "
            f"{stopped.epoch}; a stopped trial is not chosen among"
        )
    if choice.front:
        lines.append("Pareto front: no other trial beats one of these in one objective and equals it in the other")
        for entry in choice.front:
            values = "  ".join(
                f"{metric} {objective_text(metric, value)}" for metric, value in entry.objectives.items()
            )
            mark = "*" if entry.trial == choice.trial else " "
            lines.append(f"  {mark}trial {entry.trial}: {values}  {params_text(shown_params(choice, entry))}")
    fields = plain(choice)
    return Answer(
        lines, fields, {"study": session.home.studies / choice.study}, [session.command(f"final {choice.study}")]
    )


def parse_seeds(text: str) -> tuple[int, ...]:
    """Seeds of "0,1,2". Raises UserError if that is what it is not."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UserError(
            "no list of seeds", f"--seeds {text}", "give whole numbers with commas, such as 0,1,2"
        ) from None


def parse_trial(text: str) -> str | int:
    """best, base, or a trial's number. Raises UserError for anything else."""
    if text in ("best", "base"):
        return text
    try:
        return int(text)
    except ValueError:
        raise UserError("no such choice", f"--trial {text}", "give best, base, or a trial's number") from None
