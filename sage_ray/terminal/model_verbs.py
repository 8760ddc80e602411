"""The verbs that choose, train, compare and use models: thin shells over public functions, imported inside them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from sage_ray.errors import UserError
from sage_ray.terminal.apps import app
from sage_ray.terminal.options import (
    DEFAULT_MODEL,
    ConfigFile,
    ModelArgument,
    ModelName,
    OutFolder,
    Preset,
    Sets,
    resolved_config,
)
from sage_ray.terminal.shell import Answer, Session, quoted, verb


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
    start: Any = resolved_config(preset, config, sets).config if given else source
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
    foreground: Annotated[
        str | None, typer.Option("--foreground", metavar="RULE", help="Particles of DATA's masks, as data.foreground.")
    ] = None,
) -> Answer:
    """Score a model on data, with intervals and each score's definition."""
    from sage_ray.evaluation.locked_test import evaluate as score
    from sage_ray.terminal.model_answers import evaluated

    answers: list[Answer] = []
    # The answer is whole before its reading is counted, and counted before it is shown.
    tell = lambda result: answers.append(evaluated(result, model, session))  # noqa: E731
    score(model, data, session.home, foreground=foreground, tell=tell)
    return answers[0]


@verb(app, "fidelity")
def fidelity(
    session: Session,
    model: ModelArgument,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="DATA", help="Real pairs that it has not learned from."),
    ] = None,
    draws: Annotated[
        int, typer.Option("--draws", min=1, help="Images generated from each mask; made pairs for each real image.")
    ] = 4,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Same seed, same images.")] = 0,
    features: Annotated[
        str, typer.Option("--features", help="Of MMD and Frechet distances: judge, inception or dinov2.")
    ] = "judge",
    feature_weights: Annotated[
        Path | None,
        typer.Option("--feature-weights", metavar="FILE", help="Their weights [default: download]."),
    ] = None,
    lpips: Annotated[
        str | None, typer.Option("--lpips", metavar="FILE", help="VGG19 weights for LPIPS, or `download`.")
    ] = None,
    judge: Annotated[
        str | None, typer.Option("--judge", metavar="MODEL", help="The segmenter that judges; else one is trained.")
    ] = None,
    judge_epochs: Annotated[
        int | None, typer.Option("--judge-epochs", min=1, help="Of the judge's training [default: 1000 steps].")
    ] = None,
    allow_seen: Annotated[
        bool, typer.Option("--allow-seen", help="Score a model on images that it has learned from; definitions say so.")
    ] = False,
) -> Answer:
    """Judge whether generated images show their masks and look real, by a segmenter that has seen none of them."""
    from sage_ray.evaluation.fidelity import fidelity as judge_images
    from sage_ray.terminal.fidelity_answers import judged

    options: Any = {
        "data": data, "draws": draws, "seed": seed, "features": features, "feature_weights": feature_weights,
        "lpips": lpips, "judge": judge, "judge_epochs": judge_epochs, "allow_seen": allow_seen,
    }  # fmt: skip
    return judged(judge_images(model, session.home, watch=session.watch, **options), model, session)


@verb(app, "generate")
def generate(
    session: Session,
    model: ModelArgument,
    masks: Annotated[Path, typer.Argument(metavar="MASKS", help="Folder of masks, or one mask.")],
    out: OutFolder,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Same seed, same pictures.")] = 0,
    count: Annotated[int, typer.Option("--count", min=1, help="Images drawn for each mask.")] = 1,
    foreground: Annotated[
        str | None, typer.Option("--foreground", metavar="RULE", help="Particles of the masks, as data.foreground.")
    ] = None,
) -> Answer:
    """Draw synthetic image/mask pairs from masks."""
    from sage_ray.apply.generate import generate as draw
    from sage_ray.terminal.model_answers import wrote

    return wrote(
        draw(model, masks, out, home=session.home, seed=seed, count=count, foreground=foreground),
        out,
        [session.command(f"data check {quoted(out)}")],
    )


@verb(app, "predict")
def predict(
    session: Session,
    model: ModelArgument,
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="Folder of images, or one image.")],
    out: OutFolder,
    nm_per_pixel: Annotated[
        str | None,
        typer.Option(
            "--nm-per-pixel",
            metavar="NM",
            help="Scale of all images: a number, HEIGHT,WIDTH, or file (refuse images that say none).",
        ),
    ] = None,
    crop_bottom: Annotated[
        str | None,
        typer.Option("--crop-bottom", metavar="ROWS", help="Rows of an information bar, or auto; else as in training."),
    ] = None,
    split: Annotated[
        str, typer.Option("--split", help="How touching particles are told apart: watershed or none.")
    ] = "watershed",
    export: Annotated[
        str, typer.Option("--export", help="For other programs: imagej, coco, or both with a comma.")
    ] = "",
    seeds: Annotated[
        str | None, typer.Option("--seeds", help="all: the seeds of a final training vote, images are ranked by doubt.")
    ] = None,
) -> Answer:
    """Write masks, label images, overlays, a particle table, size distribution and order for images of any size."""
    from sage_ray.apply.picture_frame import read_crop, read_scale
    from sage_ray.apply.predict import NothingSegmented
    from sage_ray.apply.predict import predict as segment
    from sage_ray.terminal.model_answers import nothing_segmented, segmented

    scale, crop = read_scale(nm_per_pixel), read_crop(crop_bottom)
    options: Any = {"nm_per_pixel": scale, "crop_bottom": crop, "split": split, "export": export, "seeds": seeds}
    try:
        return segmented(segment(model, images, out, home=session.home, **options), out)
    except NothingSegmented as error:
        return nothing_segmented(error)


@verb(app, "report")
def report(
    session: Session,
    name: Annotated[
        str, typer.Argument(metavar="STUDY", help="Name of a study, a final training or a registered model.")
    ],
    figures: Annotated[
        Path | None, typer.Option("--figures", metavar="FOLDER", help="Write its figures there: PDF, SVG and PNG.")
    ] = None,
    columns: Annotated[int, typer.Option("--columns", min=1, max=2, help="Width of the figures on a page.")] = 2,
) -> Answer:
    """Write what a study found as one HTML page and as markdown: verdicts, figures, cost, how to repeat it."""
    from sage_ray.reports.study_reports import report as write
    from sage_ray.terminal.report_answers import reported

    files = write(name, session.home)
    answer = reported(files, session)
    if figures is not None:
        if files.kind == "model":
            mend = f"leave out --figures, or name a study or a final training (the page is written: {files.html})"
            raise UserError("a registered model has no figures of its own", name, mend)
        from sage_ray.figures.catalog import write_figures

        answer.paths["figures"] = write_figures(session.home, name, figures, columns=columns)[0].parent
    return answer
