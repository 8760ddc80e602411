"""What the verbs of trained models say about their outcome: final, compare, promote, evaluate, predict, generate."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage_ray.terminal.display import score_lines, score_pairs
from sage_ray.terminal.particle_answers import particle_score_lines, pixel_scores
from sage_ray.terminal.shell import EXIT_BAD_INPUT, EXIT_DONE, EXIT_FAILED, Answer, Session, one_line, plain, quoted

if TYPE_CHECKING:
    from sage_ray.apply.generate import Generation
    from sage_ray.apply.predict import FailedImage, NothingSegmented, Prediction
    from sage_ray.evaluation.locked_test import Evaluation, Gain
    from sage_ray.evaluation.score_tables import ScoreLine
    from sage_ray.registry.comparison import Comparison, Difference, VersionScores
    from sage_ray.registry.final import FinalResult
    from sage_ray.registry.promote import Promotion

CHAMPION = "models:/{}@champion"

WIDEST = 10.0
"""An interval of sizes whose ends differ by more than this factor says nothing, and is not printed."""


def finished(result: FinalResult, session: Session) -> Answer:
    """Answer of `final`: scores on the locked test, seed by seed and all together, and the registered version."""
    from sage_ray.evaluation.locked_test_table import HEADLINE, locked_test_lines

    lines = [f"{result.final_id}: {result.rule}"]
    for run in result.runs:
        updates = f"generator updates {run.generator_updates}, synthetic steps {run.synthetic_steps}"
        lines.append(f"  seed {run.seed}: {run.state}; {updates}")
    one = result.scores["dice"]
    lines.append(f"locked test ({_images(one.images)}, {one.seeds} seeds; {_basis(one)}):")
    lines += [f"  {line}" for line in locked_test_lines({str(r.seed): r.scores for r in result.runs}, result.scores)]
    shown = pixel_scores(result.scores)
    lines += score_pairs({name: line for name, line in shown.items() if name not in HEADLINE})
    lines += particle_score_lines(result.scores)
    lines.append("definitions: in the report of `compare`, and with --json")
    lines += [result.readings.text, *result.readings.notes]
    lines.append(f"registered {result.uri} (seed {result.registered_seed}); verdict: {result.verdict}")
    follow = [named_model(verb, result.model_name, session) for verb in ("compare", "promote")]
    paths = {"runs": session.home.runs, "model": result.uri}
    return Answer(lines, plain(result), paths, follow)


def named_model(verb: str, model_name: str, session: Session) -> str:
    """The command `sage-ray VERB` for a model of the registry."""
    return session.command(verb if model_name == "sage-gan" else f"{verb} --model-name {model_name}")


def version_line(row: VersionScores) -> str:
    """One version of a comparison: Dice with its interval, the difference to the reference, and the verdict."""
    dice = row.scores["dice"]
    label = f"version {row.version}" + (f" ({', '.join(row.aliases)})" if row.aliases else "")
    choice = f"trial {row.choice}" if row.choice and row.choice.isdigit() else row.choice or ""
    text = f"  {label}: {choice} test dice {dice.mean:.4f}"
    if dice.low is not None and dice.high is not None:
        text += f" [{dice.low:.4f}, {dice.high:.4f}]"
    if row.differences is None:
        return f"{text}, the reference"
    gain = row.differences["dice"]
    return f"{text}, difference {_with_interval(gain)} ({gain.over}): {row.verdict}"


def _with_interval(gain: Difference | Gain) -> str:
    interval = "" if gain.low is None or gain.high is None else f" [{gain.low:+.4f}, {gain.high:+.4f}]"
    return f"{gain.mean:+.4f}{interval}"


def _images(count: int, noun: str = "image") -> str:
    return f"{count} {noun}{_s(count)}"


def _s(count: int) -> str:
    return "" if count == 1 else "s"


def _basis(line: ScoreLine) -> str:
    """What intervals are over, or why there are none."""
    return line.over if line.level is None else f"{line.level:.0%} intervals over {line.over}"


def compared(comparison: Comparison, session: Session) -> Answer:
    """Answer of `compare`: versions side by side."""
    lines = [
        f"{comparison.model_name} on {_images(comparison.images, 'locked test image')}, "
        f"reference version {comparison.reference} ({comparison.reference_is})",
        *(version_line(row) for row in comparison.versions),
        comparison.rule,
        *comparison.notes,
        comparison.readings.text,
    ]
    paths = {"report": comparison.report} if comparison.report else {}
    follow = [session.command(f"report {quoted(comparison.model_name)}")]
    follow.append(named_model("promote", comparison.model_name, session))
    return Answer(lines, plain(comparison), paths, follow)


def promoted(outcome: Promotion, session: Session) -> Answer:
    """Answer of `promote`: which version is champion now, and why."""
    lines = [f"version {outcome.version} is {outcome.alias}: {outcome.reason}"]
    if outcome.difference:
        lines.append(f"Dice against the champion before: {outcome.difference}")
    if str(outcome.champion) != str(outcome.version):
        lines.append(f"champion: version {outcome.champion}")
    uri = CHAMPION.format(outcome.model_name)
    follow = [session.command(f"predict {uri} IMAGES -o OUT"), session.command(f"generate {uri} MASKS -o OUT")]
    return Answer(lines, plain(outcome), {"champion": uri}, follow)


def evaluated(result: Evaluation, model: str, session: Session) -> Answer:
    """Answer of `evaluate`: scores with definitions, beside Otsu thresholding of the same images."""
    against = ", beside Otsu thresholding" if result.baseline else ""
    lines = [f"{model} on {_images(result.images)} ({result.part} of {result.data}){against}:"]
    lines += score_lines(pixel_scores(result.scores), result.baseline or None)
    lines += particle_score_lines(result.scores, result.baseline)
    if result.gain is not None:
        lines.append(f"Dice, model minus Otsu: {_with_interval(result.gain)}")
    lines.append(f"{_basis(result.scores['dice'])}; scored in {result.scoring}")
    if result.readings is not None:
        lines.append(f"this model has read this test set {result.test_reads} time{_s(result.test_reads)} in this home")
        lines.append(result.readings.text)
    lines += result.notes
    follow = [session.command(f"predict {quoted(model)} IMAGES -o OUT")]
    return Answer(lines, plain(result), {"per_image": result.per_image}, follow)


def wrote(outcome: Prediction | Generation, out: Path, follow: list[str]) -> Answer:
    """Answer of `predict` and `generate`: how much was made, and what lies where in the folder."""
    fields = plain(outcome)
    counts = {name: value for name, value in fields.items() if isinstance(value, int | float)}
    lines = [", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in counts.items())]
    lines.append(f"  {', '.join(_folded(outcome.files.values()))}")
    lines += getattr(outcome, "notes", ())
    return Answer(lines, fields, {"out": out}, follow)


def _folded(names: Iterable[str]) -> list[str]:
    """Names of files, those of one stem together: sizes.{pdf,svg}."""
    endings: dict[str, list[str]] = {}
    for name in names:
        stem, _, ending = name.rpartition(".")
        endings.setdefault(stem or name, []).extend([ending] if stem else [])
    each = {stem: found[0] if len(found) == 1 else f"{{{','.join(found)}}}" for stem, found in endings.items() if found}
    return [f"{stem}.{each[stem]}" if stem in each else stem for stem in endings]


def _size_lines(sizes: dict[str, Any]) -> list[str]:
    """The size distribution in one line, and what has to be known of it."""
    values, unit = sizes.get("values", {}), {"px": "pixels"}.get(sizes.get("unit", ""), sizes.get("unit", ""))
    if not values:
        return []
    d10, d50, d90 = (f"{values[name]['value']:.4g}" for name in ("d10", "d50", "d90"))
    limits = values["d50"]
    between = "" if limits["low"] is None else f" [{limits['low']:.4g}, {limits['high']:.4g}]"
    if limits["low"] is not None and limits["high"] > WIDEST * limits["low"]:
        between, unit = "", f"{unit} (images too few or too unlike for an interval)"
    whole = _images(sizes["particles"], "whole particle")
    line = f"diameters of {whole}: median {d50}{between} {unit}, D10 {d10}, D90 {d90}"
    return [line, *(f"  {note}" for note in sizes["notes"])]


def segmented(outcome: Prediction, out: Path) -> Answer:
    """Answer of `predict`: as `wrote`, then the images that could not be segmented, each in one line."""
    answer = wrote(outcome, out, [])
    answer.lines[1:1] = _size_lines(outcome.sizes)
    answer.lines += _vote_lines(outcome)
    if outcome.failed:
        total = outcome.images + len(outcome.failed)
        answer.lines.append(f"{len(outcome.failed)} of {total} images could not be segmented:")
        answer.lines += _failed_lines(outcome.failed)
    answer.exit_code = EXIT_FAILED if outcome.failed else EXIT_DONE
    return answer


def _vote_lines(outcome: Prediction) -> list[str]:
    """How the seeds voted, and the images that a person should look at first."""
    from sage_ray.apply.predict import MOST_DOUBTFUL
    from sage_ray.imaging.seed_votes import DOUBT, RULE

    if not outcome.seeds:
        return []
    first, named = outcome.seeds[0], ", ".join(map(str, outcome.seeds))
    lines = [
        f"vote of seeds {named}: {RULE}. The vote has no score: all scores of this model are those of single seeds,"
        f" and without --seeds it is seed {first}"
    ]
    doubtful = [one for one in outcome.doubtful if one.doubt > 0]
    if not doubtful:
        return [*lines, "the seeds give the same mask of each image"]
    shown = ", ".join(f"{one.image} ({one.doubt:.2f})" for one in doubtful[:MOST_DOUBTFUL])
    return [*lines, f"most doubtful: {shown}; doubt is {DOUBT}"]


def nothing_segmented(error: NothingSegmented) -> Answer:
    """Answer of `predict` where no image could be segmented."""
    lines = _failed_lines(error.failed) if len(error.failed) > 1 else []
    fields = {"images": 0, "failed": plain(error.failed)}
    return Answer(lines, fields, exit_code=EXIT_BAD_INPUT, error=one_line(str(error)))


def _failed_lines(failed: Sequence[FailedImage]) -> list[str]:
    return [f"  {one_line(one.error)}" for one in failed]
