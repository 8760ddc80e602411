"""What `fidelity` says: the judge's Dice beside its ceiling and null, distances beside those of real halves."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from sage_ray.metrics.definitions import CYCLE_SCORES, PAIR_SCORES, SET_LABELS, label
from sage_ray.terminal.shell import Answer, Session, plain

if TYPE_CHECKING:
    from sage_ray.evaluation.fidelity import CycleFidelity


DIFFERENCES = {"below_ceiling": "ceiling minus fidelity", "above_null": "fidelity minus null"}


def judged(result: CycleFidelity, model: str, session: Session) -> Answer:
    """Answer of `fidelity`: table, notes, and where the pictures lie."""
    size = f"at {result.size[0]}x{result.size[1]}"
    real = f"part {result.part} of {result.data}"
    made = f"{result.images} masks of {real}, {result.draws} draws of each"
    if not result.paired:
        made = f"{result.images} made pairs beside {result.real_images} real images of {real}"
    lines = [
        f"{model}: {made}, {size}",
        f"judge: {result.judge['text']}",
    ]
    rows = [(label(name), _cell(result.scores[name])) for name in CYCLE_SCORES if name in result.scores]
    rows += [(DIFFERENCES[name], _cell(line, signed=True)) for name, line in result.differences.items()]
    rows += [(label(name), _cell(result.scores[name])) for name in PAIR_SCORES if name in result.scores]
    lines += _table(rows)
    lines.append(result.scores["fidelity"].over)
    lines += _distances(result.distances)
    lines += result.notes
    paths: dict[str, Any] = {"per_mask": result.per_mask, **result.pictures}
    # The four of the contract stand at the top too; a system without a segmenter has no collusion: null.
    fields = plain(result) | {name: plain(result.scores.get(name)) for name in CYCLE_SCORES}
    after = f"generate {model} MASKS -o OUT" if result.paired else f"evaluate {model}"
    return Answer(lines, fields, paths, [session.command(after)])


def _table(rows: list[tuple[str, str]]) -> list[str]:
    width = max(len(name) for name, _ in rows)
    return [f"  {name:<{width}} {cell}" for name, cell in rows]


def _cell(line: Any, *, signed: bool = False) -> str:
    number = "{:+.3f}" if signed or (line.low is not None and line.low < 0) else "{:.3f}"
    text = number.format(line.mean)
    if line.low is None:
        return text
    return f"{text} [{number.format(line.low)}, {number.format(line.high)}]"


def _distances(found: Any) -> list[str]:
    mmd, halves, frechet = found.mmd, found.real_halves, found.frechet
    rows = [
        ("MMD, generated to real", _mmd(mmd)),
        ("MMD, two real halves", _mmd(halves)),
        ("MMD, Gaussian kernel", _mmd(found.mmd_gaussian)),
        ("Frechet, generated to real", f"{frechet.generated:.4g}  ({frechet.images} images per side; decides nothing)"),
        ("Frechet, two real halves", f"{frechet.real:.4g}"),
        ("published formula (row 32)", f"{frechet.generated_published:.4g}, halves {frechet.real_published:.4g}"),
    ]
    lines = [f"sets of images, {found.features}:", *_table(rows)]
    lines.append("sets of images, without features (beside two real halves):")
    return lines + _table(
        [
            (SET_LABELS[name], f"{value:.3g}  ({found.summaries_of_halves[name]:.3g})")
            for name, value in found.summaries.items()
        ]
    )


def _mmd(found: Any) -> str:
    ends = f"[{found.low:.4g}, {found.high:.4g}]" if math.isfinite(found.low) else "(too few micrographs: no interval)"
    return f"{found.value:.4g} {ends}, p = {found.p_value:.4f}"
