"""The winner's model in pictures: its worst, median and best images, and the images that it generates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch
from PIL import Image

from sage_ray.analysis.figure_style import AMBER, BLUE, MM, SMALL, paper_figure
from sage_ray.evaluation.run_pairs import pairs_of_run
from sage_ray.figures.figure_words import wrapped
from sage_ray.figures.shown_model import ShownModel, with_segmenter
from sage_ray.figures.study_figure import StudyFigure, finished
from sage_ray.figures.study_records import StudyRecords
from sage_ray.record.model_reference import resolve_model

MOST_SIDE = 256
"""Longest side of a picture in pixels; larger ones are made smaller, or the files would be large."""
NUM_PAIRS = 4
_KINDS = ("black", BLUE, AMBER, "white")
"""Background, missed, false and found pixels: in grey print from dark to light."""


def examples(records: StudyRecords, columns: int) -> StudyFigure:
    """Image, truth and prediction of the winner's worst, median and best validation image.

    Raises:
        UserError: there is no winner, or what it was trained on is gone.
    """
    shown = with_segmenter(records.shown)
    rows = np.array([row for row in shown.rows if shown.data.shas[row] in shown.dice])
    if not len(rows):
        raise records.without("no validation image has a score of its own")
    order = sorted(rows, key=lambda row: shown.dice[shown.data.shas[row]])
    named = {"worst": order[0], "median": order[len(order) // 2], "best": order[-1]}
    picked = {name: int(row) for name, row in named.items()} if len(order) > 2 else {"image": int(order[0])}
    high, wide = shown.data.images.shape[1:]
    cell = min((54.0 if columns == 2 else 26.0) * high / wide, 44.0)
    figure = paper_figure(columns, 18 + len(picked) * (cell + 4))
    figure.set_layout_engine("compressed", w_pad=1.4 * MM, h_pad=0.8 * MM)
    grid = figure.subplots(len(picked), 3, squeeze=False)
    masks = shown.predict(np.array(list(picked.values())))
    for axes, (name, row), mask in zip(grid, picked.items(), masks, strict=True):
        truth = shown.data.masks[row] > 0
        _show_grey(axes[0], shown.data.images[row])
        _show_kinds(axes[1], 3 * truth.astype(int))
        _show_kinds(axes[2], truth.astype(int) + 2 * mask.astype(int))
        axes[0].set_ylabel(f"{name}\nDice {shown.dice[shown.data.shas[row]]:.3f}")
        axes[1].set_xlabel(wrapped(shown.data.stems[row], 30, 1), fontsize=SMALL - 1, color="0.35", labelpad=1)
    for axes, title in zip(grid[0], ("image", "truth", "prediction"), strict=True):
        axes.set_title(title)
    looks = zip(_KINDS[1:], ("missed", "false", "found"), strict=True)
    figure.legend(handles=[Patch(facecolor=colour, edgecolor="black", linewidth=0.4, label=text)
                           for colour, text in looks],
                  loc="outside upper right", ncols=3, frameon=False, handlelength=1.2)  # fmt: skip
    caption = [
        f"Of {len(rows)} validation images, which also chose the epoch; the locked test is not shown."
        if len(picked) > 1 else f"One of {len(rows)} validation images; the locked test is not shown.",
        f"The worst is {shown.data.stems[order[0]]}." if len(picked) > 1 else "",
        records.winner.why,
    ]  # fmt: skip
    told = ", ".join(f"{name} Dice {shown.dice[shown.data.shas[row]]:.3f}" for name, row in picked.items())
    alt = f"Image, true mask and prediction of {len(picked)} validation images: {told}."
    return finished(records, "examples", "Worst, median and best image", caption, alt, figure)


def generated(records: StudyRecords, columns: int) -> StudyFigure:
    """Masks, the images that the winner's generator makes of them, and the real ones; or the pairs made for it.

    Raises:
        UserError: there is no winner, or it generates nothing and no pairs were made for it.
    """
    shown = records.shown
    rows = shown.rows[:NUM_PAIRS]
    lines: dict[str, Sequence[np.ndarray]]
    if shown.model.generator is not None:
        masks = [shown.data.masks[row] > 0 for row in rows]
        fakes = [shown.model.generate(mask.astype(np.uint8), place) for place, mask in enumerate(masks)]
        lines = {"mask": masks, "generated": fakes, "real": [shown.data.images[row] for row in rows]}
        what = "Images that the generator makes of the masks of validation images, beside the real ones."
    else:
        lines, what = _made_pairs(records, shown)
    high, wide = lines["mask"][0].shape
    count = len(lines["mask"])
    cell = (180.0 if columns == 2 else 88.0) * 0.92 / NUM_PAIRS * high / wide
    figure = paper_figure(columns, min(8 + len(lines) * (cell + 1.5), 225))
    grid = figure.subplots(len(lines), max(count, NUM_PAIRS), squeeze=False)
    for axes, (name, pictures) in zip(grid, lines.items(), strict=True):
        for each, picture in zip(axes, pictures, strict=False):
            (_show_kinds if name == "mask" else _show_grey)(
                each, 3 * picture.astype(int) if name == "mask" else picture
            )
        for each in axes[count:]:
            each.set_visible(False)
        axes[0].set_ylabel(name)
    alt = f"{count} masks with the images that were generated for them."
    return finished(records, "generated", "Generated pairs", [what, records.winner.why], alt, figure)


def _made_pairs(records: StudyRecords, shown: ShownModel) -> tuple[dict[str, Sequence[np.ndarray]], str]:
    ref = resolve_model(records.winner.run_id, records.home)
    pairs = pairs_of_run(ref, shown.config, records.home)
    if pairs is None:
        raise records.without("its model generates no images, and no pairs were made for it")
    some = slice(0, NUM_PAIRS)
    return {"mask": list(pairs.masks[some]), "generated": list(pairs.images[some])}, f"The first of {pairs.text}."


def _show_grey(axes: Any, picture: np.ndarray) -> None:
    smaller = np.asarray(_fitted(picture, Image.Resampling.LANCZOS))
    axes.imshow(smaller, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    _frame(axes)


def _show_kinds(axes: Any, kinds: np.ndarray) -> None:
    smaller = np.asarray(_fitted(kinds.astype(np.uint8), Image.Resampling.NEAREST))
    axes.imshow(smaller, cmap=ListedColormap(_KINDS), vmin=0, vmax=3, interpolation="nearest")
    _frame(axes)


def _frame(axes: Any) -> None:
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_linewidth(0.4)


def _fitted(picture: np.ndarray, how: Image.Resampling) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(picture))
    factor = MOST_SIDE / max(image.size)
    if factor >= 1:
        return image
    return image.resize((max(round(image.width * factor), 1), max(round(image.height * factor), 1)), how)
