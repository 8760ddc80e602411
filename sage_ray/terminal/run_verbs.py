"""The verbs that look around, train and search: thin shells over public functions, imported inside them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sage_ray.errors import UserError
from sage_ray.terminal.apps import app, config_app, data_app
from sage_ray.terminal.options import (
    ConfigFile,
    DesignFile,
    Earlier,
    Preset,
    Sets,
    SpaceFile,
    StudyFile,
    StudyName,
    resolved_config,
)
from sage_ray.terminal.shell import Answer, Session, assignment, plain, quoted, verb


@verb(app, "doctor")
def doctor(
    session: Session,
    gradients: Annotated[
        str | None,
        typer.Option("--gradients", metavar="PRESET", help="Measure what its loss terms train; or a YAML file's."),
    ] = None,
    sets: Sets = None,
    cluster: Annotated[
        bool, typer.Option("--cluster", help="Look at each node of the Ray cluster (RAY_ADDRESS, else a local Ray).")
    ] = False,
) -> Answer:
    """Report versions, cores, GPUs, disk, home, Ray, MLflow, VGG weights, renderer; exit 1 if what is needed is broken.

    With --gradients: the gradient that each loss term gives each network, on one small batch, and the pairs that are
    dead. With --cluster: whether each node has the home, this version, MLflow, its GPUs and the time of day; with
    --set data.path=DIR also whether it has these data.
    """
    from sage_ray.terminal.doctor import examine, gradients_of

    if cluster:
        from sage_ray.terminal.cluster_answers import nodes_of

        return nodes_of(sets or [], session)
    if gradients is not None:
        return gradients_of(gradients, sets or [], session)
    if sets:
        raise UserError("nothing to set", "doctor --set", "it changes what --gradients PRESET or --cluster looks at")
    report = examine(session.home)
    lines = [
        f"{'ok  ' if check.ok else 'FAIL' if check.needed else 'note'} {check.name}: {check.text}" for check in report
    ]
    broken = [check.name for check in report if check.needed and not check.ok]
    fields = {"checks": plain(report), "broken": broken}
    if broken:
        return Answer(lines, fields, exit_code=1, error=f"broken: {', '.join(broken)}: see the lines above")
    return Answer(lines, fields, next=["make demo", session.command("data check FOLDER")])


@verb(config_app, "show", "config show")
def config_show(
    session: Session,
    preset: Preset = None,
    config: ConfigFile = None,
    sets: Sets = None,
    explain: Annotated[
        str | None, typer.Option("--explain", metavar="PATH", help="Say what a setting, or each of a section, is.")
    ] = None,
) -> Answer:
    """Print the resolved config as YAML, each value with its origin; the output is itself a config file.

    With --explain: type, range, default and meaning of a setting such as adversarial.lambda_cycle, of all settings of a
    section such as adversarial, or of a key of a study's file such as objective.metric.
    """
    from sage_ray.terminal.show_config import annotated_yaml, explanation

    if explain is not None:
        return explanation(explain, resolved_config(preset, config, sets))
    resolved = resolved_config(preset, config, sets)
    values = resolved.config.model_dump(mode="json")
    chosen = f"--preset {preset}" if preset else f"-c {quoted(config)}" if config else "--preset sage_gan_paper"
    tail = "".join(f" --set {quoted(text)}" for text in sets or [])
    command = session.command(f"train {chosen}{tail}")
    lines = [*annotated_yaml(values, resolved.origins), f"# config_hash: {resolved.config.config_hash()}"]
    fields = {"config": values, "origins": resolved.origins, "config_hash": resolved.config.config_hash()}
    # As a comment: the output can be kept as a file and given to -c.
    return Answer([*lines, f"# next: {command}"], fields | {"next": [command]}, verbatim=True)


@verb(data_app, "synth", "data synth")
def data_synth(
    session: Session,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make, with images/ and masks/.")],
    num: Annotated[int, typer.Option("--num", min=1, help="Number of image/mask pairs.")] = 64,
    size: Annotated[int, typer.Option("--size", min=16, help="Side in pixels.")] = 128,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Same seed, same pictures.")] = 0,
) -> Answer:
    """Draw micrographs of ordered particles with exact masks."""
    from sage_ray.data.synth import write_dataset

    write_dataset(out, num, size, seed)
    follow = [
        session.command(f"data check {quoted(out)}"),
        session.command(f"train --preset tiny_sage_gan {assignment('data.path', out)}"),
    ]
    return Answer(
        [f"{num} pairs of {size}x{size} pixels"], {"num": num, "size": size, "seed": seed}, {"data": out}, follow
    )


@verb(data_app, "check", "data check")
def data_check(
    session: Session,
    path: Annotated[str, typer.Argument(metavar="PATH", help="Folder with images and masks, or synthetic://.")],
    crop_bottom: Annotated[int, typer.Option("--crop-bottom", min=0, help="Rows of an information bar.")] = 0,
    masks: Annotated[
        str, typer.Option("--masks", metavar="PATTERN", help="Where masks lie, as data.masks: masks/*_m.tif.")
    ] = "",
    foreground: Annotated[
        str, typer.Option("--foreground", metavar="RULE", help="Which mask values are particles, as data.foreground.")
    ] = "",
    sheet: Annotated[
        Path | None,
        typer.Option("--sheet", metavar="OUT", help="Draw pairs, most suspect first: a .png file, or a folder."),
    ] = None,
) -> Answer:
    """Report every problem of a data folder at once; exit 2 if there is one.

    How masks were found, which files were passed over and which pairs look wrong is said beside; --sheet draws them.
    """
    from sage_ray.data.check import check
    from sage_ray.terminal.data_answers import Looked, checked

    report = check(path, crop_bottom, masks, foreground)
    return checked(report, Looked(path, crop_bottom, masks, sheet, foreground), session)


@verb(data_app, "fetch", "data fetch")
def data_fetch(
    session: Session,
    source: Annotated[
        str, typer.Argument(metavar="NAME|URL", help="A public set (emps, emps-140), or the address of a zip archive.")
    ],
    out: Annotated[
        Path | None, typer.Argument(metavar="OUT", help="Folder to make [default: ./NAME; a URL needs one].")
    ] = None,
    sha256: Annotated[
        str | None, typer.Option("--sha256", help="Check sum of the archive at a URL, 64 hex digits.")
    ] = None,
    origin: Annotated[
        str | None,
        typer.Option("--from", metavar="URL|FILE", help="Another place of a public set's archive, such as a mirror."),
    ] = None,
) -> Answer:
    """Fetch a public data set by name, or any zip archive by address and check sum; what arrives is checked."""
    from sage_ray.terminal.data_answers import fetched

    return fetched(source, out, sha256, origin, session)


@verb(app, "train")
def train(
    session: Session,
    preset: Preset = None,
    config: ConfigFile = None,
    sets: Sets = None,
    run_id: Annotated[str | None, typer.Option("--run-id", help="Name of the run [default: from its config].")] = None,
) -> Answer:
    """Train one config through all its stages; an interrupted run goes on where it was."""
    resolved = resolved_config(preset, config, sets)
    from sage_ray.terminal.verb_answers import train_and_watch

    return train_and_watch(resolved.config, session, run_id, name=preset)


@verb(app, "plan")
def plan(
    session: Session,
    space: StudyFile,
    sets: Sets = None,
    name: StudyName = None,
    price: Annotated[
        float | None, typer.Option("--price", min=0, help="Of a GPU for an hour; on a CPU, of a worker.")
    ] = None,
    pilot: Annotated[
        bool, typer.Option("--pilot", help="Take a few steps of each phase to measure what an epoch takes.")
    ] = False,
    budget: Annotated[
        float | None,
        typer.Option("--budget-gpu-hours", min=0, help="Trim the study to these hours; on a CPU, of workers."),
    ] = None,
    svg: Annotated[
        Path | None, typer.Option("--svg", metavar="FILE", help="Draw the tree of stages into this file.")
    ] = None,
    earlier: Earlier = None,
) -> Answer:
    """Say what a search or an ablation will cost: epochs with and without reuse, hours, price and disk.

    Hours come from epochs that runs of this home have recorded, or from a pilot. Where trials compute on a GPU, a
    pilot also measures 1, 2 and 3 of them side by side on one. Nothing is trained without --pilot, and nothing of a
    pilot is kept.
    """
    from sage_ray.search.plan import plan as count
    from sage_ray.study.design import load_spec
    from sage_ray.terminal.plan_answers import Asked, planned

    spec = load_spec(space, sets or [])
    say = session.watch.line if pilot else lambda line: None
    found = count(spec, session.home, price=price, pilot=pilot, budget_hours=budget, earlier=earlier or (), say=say)
    return planned(found, Asked(space, sets or [], name, price, svg, earlier or []), session)


@verb(app, "sweep")
def sweep(
    session: Session,
    space: SpaceFile,
    sets: Sets = None,
    name: StudyName = None,
    earlier: Earlier = None,
) -> Answer:
    """Run a search; after an interruption `sage-ray resume NAME` goes on with nothing lost."""
    from sage_ray.study.space import load_space
    from sage_ray.terminal.study_answers import ended, swept

    loaded = load_space(space, sets or [])
    session.resumable = name or loaded.name
    from sage_ray.search.driver import sweep as search

    found = search(loaded, session.home, name, watch=session.watch, earlier=earlier or ())
    return ended(swept(found, session), found, session)


@verb(app, "ablate")
def ablate(session: Session, design: DesignFile, sets: Sets = None, name: StudyName = None) -> Answer:
    """Train every arm of an ablation with the same seeds, then score each run once on the locked test."""
    from sage_ray.study.design import load_design
    from sage_ray.terminal.study_answers import ablated, ended

    loaded = load_design(design, sets or [])
    session.resumable = name or loaded.name
    from sage_ray.search.ablate import ablate as run_design

    result = run_design(loaded, session.home, name, watch=session.watch)
    return ended(ablated(result, session), result.status, session)


@verb(app, "resume")
def resume(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Study, run or final.")],
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change the study's file, such as trials=64; repeatable."),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try again what crashed or hung, but not what diverged.")
    ] = False,
    retry: Annotated[
        list[int] | None, typer.Option("--retry", metavar="TRIAL", help="Try a failed trial again; repeatable.")
    ] = None,
) -> Answer:
    """Go on with an interrupted study, run or final training, or with more of a study."""
    from sage_ray.terminal.verb_answers import resumed

    session.resumable = name
    return resumed(name, session, sets or [], retry_failed, retry or [])


@verb(app, "stop")
def stop(session: Session, name: Annotated[str, typer.Argument(metavar="NAME", help="Name of a study.")]) -> Answer:
    """Ask a running study to end cleanly, from another terminal."""
    from sage_ray.search.study_status import stop as ask

    ask(name, session.home)
    follow = [session.command(f"status {name}"), session.command(f"resume {name}")]
    return Answer([f"{name} was asked to stop; running trials end at their next epoch"], {"study": name}, next=follow)


@verb(app, "list")
def list_all(session: Session) -> Answer:
    """List the studies and single runs of this home."""
    from sage_ray.terminal.verb_answers import listed

    return listed(session)


@verb(app, "status")
def status(session: Session, name: Annotated[str, typer.Argument(metavar="NAME", help="A study or a run.")]) -> Answer:
    """Show a study's trials with their states and scores, or one run's record."""
    from sage_ray.terminal.verb_answers import status_of

    return status_of(name, session)


@verb(app, "export")
def export(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="STUDY", help="Name of a study.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="File to write: .csv or .parquet.")],
    runs: Annotated[bool, typer.Option("--runs", help="One row per run instead of one per trial.")] = False,
) -> Answer:
    """Write a study's trials as a table: number, state, value, parameters, epochs, seconds, error, weights."""
    from sage_ray.search.study_tables import export as write

    path = write(name, out, session.home, runs=runs)
    rows = "runs" if runs else "trials"
    return Answer([f"{rows} of {name}, one per row"], {"study": name, "rows": rows}, {"table": path})


@verb(app, "gc")
def gc(
    session: Session,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; without, only show what would go.")] = False,
    ends: Annotated[bool, typer.Option("--ends", help="Also ends of finished runs' stages.")] = False,
    cache: Annotated[bool, typer.Option("--cache", help="Also decoded data and downloads.")] = False,
    store: Annotated[
        str | None, typer.Option("--store", metavar="STORE", help="Another stage store: folder or URI.")
    ] = None,
) -> Answer:
    """Show what no study, run or registered version needs, and free it with --yes."""
    from sage_ray.terminal.disk_answers import collected
    from sage_ray.upkeep.garbage import collect_garbage

    words = (" --ends" if ends else "") + (" --cache" if cache else "") + (f" --store {quoted(store)}" if store else "")
    found = collect_garbage(session.home, store=store, ends=ends, cache=cache, remove=yes)
    return collected(found, words, session)


@verb(app, "forget")
def forget(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="STUDY|RUN", help="A study, a final training or a run.")],
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; without, only show what would go.")] = False,
) -> Answer:
    """Show what a study or run alone owns, and with --yes remove it; what a registered version is made of stays."""
    from sage_ray.terminal.disk_answers import forgotten
    from sage_ray.upkeep.forget import forget as remove

    return forgotten(remove(name, session.home, remove=yes), session)


@verb(app, "sync")
def sync(session: Session) -> Answer:
    """Send to MLflow whatever it lacks of runs, studies and final trainings, also what was purged or deleted there."""
    from sage_ray.terminal.verb_answers import synced
    from sage_ray.upkeep.mlflow_sync import sync as replay

    return synced(replay(session.home), session)
