"""The verbs of `sage-ray`: each a thin shell over one public function; heavy imports happen inside the verbs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sage_ray import __version__
from sage_ray.errors import UserError
from sage_ray.terminal.shell import Answer, Session, UsageError, perform, plain, verb

if TYPE_CHECKING:
    from sage_ray.config import Resolved

app = typer.Typer(
    name="sage-ray",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
config_app = typer.Typer(help="Look at resolved configs.", no_args_is_help=True, rich_markup_mode=None)
data_app = typer.Typer(help="Draw, check or fetch data.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(config_app, name="config")
app.add_typer(data_app, name="data")


def _tell_version(wanted: bool) -> None:
    if wanted:
        print(f"sage-ray {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Search, ablation and final training of SAGE-GAN on scarce micrographs, on one laptop or a cluster."""


Preset = Annotated[str | None, typer.Option("--preset", help="Name of a shipped preset, such as sage_gan_paper.")]
ConfigFile = Annotated[Path | None, typer.Option("-c", "--config", help="A YAML file; it may say `extends: PRESET`.")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override, as a.b=value; may be repeated.")
]
StudyName = Annotated[str | None, typer.Option("--name", help="Name of the study [default: the file's].")]
SpaceFile = Annotated[str, typer.Argument(metavar="SPACE", help="A search space: YAML file or shipped name.")]
DesignFile = Annotated[str, typer.Argument(metavar="DESIGN", help="An ablation design: YAML file or shipped name.")]
StudyFile = Annotated[str, typer.Argument(metavar="FILE", help="A search space or ablation design: YAML file or name.")]
ModelName = Annotated[str, typer.Option("--model-name", help="Name in the model registry.")]
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="Run id, model folder or models:/ URI.")]
OutFolder = Annotated[Path, typer.Option("-o", "--out", help="Folder to write to.")]
DEFAULT_MODEL = "sage-gan"


def main(args: Sequence[str] | None = None) -> None:
    """Run one command line and exit with 0 done, 1 failed, 2 bad input, or 130 interrupted."""
    sys.exit(call(list(sys.argv[1:] if args is None else args)))


def call(args: list[str]) -> int:
    """Exit code of one command line."""
    mistake: BaseException
    try:
        return int(app(args, prog_name="sage-ray", standalone_mode=False) or 0)
    except (UsageError, KeyboardInterrupt) as error:
        mistake = error
    if type(mistake).__name__ == "NoArgsIsHelpError":
        print(str(getattr(mistake, "message", "")))
        return 0
    return perform(Session("sage-ray", None, quiet=False), partial(_raise, mistake), as_json="--json" in args)


def _raise(error: BaseException) -> Answer:
    raise error


def _resolved(preset: str | None, file: Path | None, sets: list[str] | None) -> Resolved:
    from sage_ray.config import resolve

    return resolve(preset, file, sets or [])


@verb(app, "doctor")
def doctor(
    session: Session,
    gradients: Annotated[
        str | None,
        typer.Option("--gradients", metavar="PRESET", help="Measure what its loss terms train; or a YAML file's."),
    ] = None,
    sets: Sets = None,
) -> Answer:
    """Report versions, cores, GPUs, disk, home, Ray, MLflow and VGG weights; exit 1 if something needed is broken.

    With --gradients: the gradient that each loss term gives each network, on one small batch, and the pairs that are
    dead.
    """
    from sage_ray.terminal.doctor import examine, gradients_of

    if gradients is not None:
        return gradients_of(gradients, sets or [], session)
    if sets:
        raise UserError("nothing to set", "doctor --set", "it changes the config that --gradients PRESET measures")
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
def config_show(session: Session, preset: Preset = None, config: ConfigFile = None, sets: Sets = None) -> Answer:
    """Print the resolved config as YAML, each value with its origin; the output is itself a config file."""
    from sage_ray.terminal.show_config import annotated_yaml

    resolved = _resolved(preset, config, sets)
    values = resolved.config.model_dump(mode="json")
    chosen = f"--preset {preset}" if preset else f"-c {config}" if config else "--preset sage_gan_paper"
    tail = "".join(f" --set '{text}'" for text in sets or [])
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
        session.command(f"data check {out}"),
        session.command(f"train --preset tiny_sage_gan --set data.path={out}"),
    ]
    return Answer(
        [f"{num} pairs of {size}x{size} pixels"], {"num": num, "size": size, "seed": seed}, {"data": out}, follow
    )


@verb(data_app, "check", "data check")
def data_check(
    session: Session,
    path: Annotated[str, typer.Argument(metavar="PATH", help="Folder with images/ and masks/, or synthetic://.")],
    crop_bottom: Annotated[int, typer.Option("--crop-bottom", min=0, help="Rows of an information bar.")] = 0,
) -> Answer:
    """Report every problem of a data folder at once; exit 2 if there is one."""
    from sage_ray.data.check import check
    from sage_ray.terminal.verb_answers import checked

    return checked(check(path, crop_bottom), path, session)


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
    from sage_ray.terminal.verb_answers import fetched

    return fetched(source, out, sha256, origin, session)


@verb(app, "train")
def train(
    session: Session,
    preset: Preset = None,
    config: ConfigFile = None,
    sets: Sets = None,
    run_id: Annotated[str | None, typer.Option("--run-id", help="Name of the run [default: from its config].")] = None,
) -> Answer:
    """Train one config through both phases; an interrupted run goes on where it was."""
    resolved = _resolved(preset, config, sets)
    from sage_ray.terminal.verb_answers import train_and_watch

    return train_and_watch(resolved.config, session, run_id, name=preset)


@verb(app, "plan")
def plan(session: Session, space: StudyFile, sets: Sets = None, name: StudyName = None) -> Answer:
    """Count runs, distinct stages and epochs of a search or an ablation, with and without reuse; trains nothing."""
    from sage_ray.search.plan import plan as count
    from sage_ray.study.design import load_spec
    from sage_ray.terminal.verb_answers import planned

    return planned(count(load_spec(space, sets or []), session.home), space, sets or [], name, session)


@verb(app, "sweep")
def sweep(session: Session, space: SpaceFile, sets: Sets = None, name: StudyName = None) -> Answer:
    """Run a search; after an interruption `sage-ray resume NAME` goes on with nothing lost."""
    from sage_ray.study.space import load_space
    from sage_ray.terminal.verb_answers import swept

    loaded = load_space(space, sets or [])
    session.resumable = name or loaded.name
    from sage_ray.search.driver import sweep as search

    return swept(search(loaded, session.home, name, watch=session.watch), session)


@verb(app, "ablate")
def ablate(session: Session, design: DesignFile, sets: Sets = None, name: StudyName = None) -> Answer:
    """Train every arm of an ablation with the same seeds, then score each run once on the locked test."""
    from sage_ray.study.design import load_design
    from sage_ray.terminal.verb_answers import ablated

    loaded = load_design(design, sets or [])
    session.resumable = name or loaded.name
    from sage_ray.search.ablate import ablate as run_design

    return ablated(run_design(loaded, session.home, name, watch=session.watch), session)


@verb(app, "resume")
def resume(
    session: Session, name: Annotated[str, typer.Argument(metavar="NAME", help="Study, run or final.")]
) -> Answer:
    """Go on with an interrupted study, run or final training."""
    from sage_ray.terminal.verb_answers import resumed

    session.resumable = name
    return resumed(name, session)


@verb(app, "stop")
def stop(session: Session, name: Annotated[str, typer.Argument(metavar="NAME", help="Name of a study.")]) -> Answer:
    """Ask a running study to end cleanly, from another terminal."""
    from sage_ray.search.study_folder import stop as ask

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

    words = (" --ends" if ends else "") + (" --cache" if cache else "") + (f" --store {store}" if store else "")
    found = collect_garbage(session.home, store=store, ends=ends, cache=cache, remove=yes)
    return collected(found, words, session)


@verb(app, "sync")
def sync(session: Session) -> Answer:
    """Replay to MLflow whatever it has not seen yet."""
    from sage_ray.record.mlflow_mirror import sync as replay
    from sage_ray.terminal.verb_answers import synced

    return synced(replay(session.home, say=session.watch.line), session)


@verb(app, "best")
def best(session: Session, name: Annotated[str, typer.Argument(metavar="STUDY", help="Name of a study.")]) -> Answer:
    """Choose the best configuration of a study by the stated rule."""
    from sage_ray.search.best import best as choose
    from sage_ray.terminal.verb_answers import chosen

    return chosen(choose(name, session.home), session)


@verb(app, "final")
def final(
    session: Session,
    source: Annotated[str | None, typer.Argument(metavar="STUDY", help="Study to take the configuration from.")] = None,
    preset: Preset = None,
    config: ConfigFile = None,
    sets: Sets = None,
    trial: Annotated[str, typer.Option("--trial", help="best, base, or a trial's number.")] = "best",
    seeds: Annotated[str, typer.Option("--seeds", help="Seeds with commas; the first is registered.")] = "0,1,2",
    model_name: ModelName = DEFAULT_MODEL,
) -> Answer:
    """Retrain a configuration on train + validation, score each seed once on the locked test, register the first."""
    from sage_ray.terminal.model_answers import finished
    from sage_ray.terminal.verb_answers import parse_seeds, parse_trial

    given = bool(preset or config)
    if (source is None) != given or (source is not None and sets):
        raise UserError("ambiguous source", "final", "give a study, or --preset NAME | -c FILE with --set")
    start: Any = _resolved(preset, config, sets).config if given else source
    options: Any = {"trial": parse_trial(trial), "seeds": parse_seeds(seeds), "model_name": model_name}
    from sage_ray.registry.final import final as retrain

    declared = partial(setattr, session, "resumable")
    outcome = retrain(start, session.home, watch=session.watch, declared=declared, **options)
    return finished(outcome, session)


@verb(app, "compare")
def compare(
    session: Session,
    versions: Annotated[list[str] | None, typer.Argument(help="Registry versions [default: all].")] = None,
    model_name: ModelName = DEFAULT_MODEL,
) -> Answer:
    """Put registry versions side by side on the same locked test set, with paired intervals and verdicts."""
    from sage_ray.registry.compare import compare as side_by_side
    from sage_ray.terminal.model_answers import compared

    return compared(side_by_side(session.home, versions or None, model_name=model_name), session)


@verb(app, "promote")
def promote(
    session: Session,
    version: Annotated[str | None, typer.Argument(help="Registry version [default: the newest].")] = None,
    force: Annotated[bool, typer.Option("--force", help="Make it champion whatever the comparison says.")] = False,
    model_name: ModelName = DEFAULT_MODEL,
) -> Answer:
    """Make a version champion if the comparison supports it; else it stays challenger."""
    from sage_ray.registry.promote import promote as decide
    from sage_ray.terminal.model_answers import promoted

    return promoted(decide(session.home, version, force=force, model_name=model_name), session)


@verb(app, "evaluate")
def evaluate(
    session: Session,
    model: ModelArgument,
    data: Annotated[str, typer.Argument(metavar="DATA", help="Folder, synthetic:// source, or `test`.")] = "test",
) -> Answer:
    """Score a model on data, with intervals and each score's definition."""
    from sage_ray.evaluation.locked_test import evaluate as score
    from sage_ray.terminal.model_answers import evaluated

    answers: list[Answer] = []
    # The answer is whole before its reading is counted, and counted before it is shown.
    score(model, data, session.home, tell=lambda result: answers.append(evaluated(result, model, session)))
    return answers[0]


@verb(app, "generate")
def generate(
    session: Session,
    model: ModelArgument,
    masks: Annotated[Path, typer.Argument(metavar="MASKS", help="Folder of masks, or one mask.")],
    out: OutFolder,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Same seed, same pictures.")] = 0,
    count: Annotated[int, typer.Option("--count", min=1, help="Images drawn for each mask.")] = 1,
) -> Answer:
    """Draw synthetic image/mask pairs from masks."""
    from sage_ray.apply.generate import generate as draw
    from sage_ray.terminal.model_answers import wrote

    return wrote(
        draw(model, masks, out, home=session.home, seed=seed, count=count), out, [session.command(f"data check {out}")]
    )


@verb(app, "predict")
def predict(
    session: Session,
    model: ModelArgument,
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="Folder of images, or one image.")],
    out: OutFolder,
    nm_per_pixel: Annotated[float | None, typer.Option("--nm-per-pixel", help="Scale, for columns in nm.")] = None,
) -> Answer:
    """Write masks, overlays and a particle table for images of any size."""
    from sage_ray.apply.predict import predict as segment
    from sage_ray.terminal.model_answers import wrote

    return wrote(segment(model, images, out, home=session.home, nm_per_pixel=nm_per_pixel), out, [])


@verb(app, "report")
def report(session: Session, name: Annotated[str, typer.Argument(metavar="STUDY", help="Name of a study.")]) -> Answer:
    """Write a summary of a study as markdown, from what is recorded."""
    from sage_ray.terminal.study_report import write_report

    path = write_report(name, session.home)
    return Answer(
        path.read_text(encoding="utf-8").splitlines(),
        {"study": name},
        {"report": path},
        [session.command(f"final {name}")],
        verbatim=True,
    )


if __name__ == "__main__":
    main()
