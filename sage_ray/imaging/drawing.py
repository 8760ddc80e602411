"""Pictures of results: overlays, sheets, learning curves, attention maps. Arrays (H,W,3) uint8 in, PNG files out.

Predictions are orange, truths blue: apart from each other and from grey for all common kinds of colour vision, and
in print.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageDraw, ImageFont

from sage_ray.metrics.boundary import boundary, within

PREDICTION = (255, 150, 0)
TRUTH = (30, 144, 255)
BOTH = (230, 0, 190)
INK = (30, 30, 30)
PAPER = (255, 255, 255)
SHORT_SIDE = 384
"""Small pictures are enlarged by a whole number until their shorter side has about this many pixels."""
_SCORE_STYLES = {
    "val/dice": ("Dice", "#d55e00", "-"),
    "val/f1_object_50": ("object F1, IoU > 0.5", "#0072b2", "-"),
    "val/f1_object_75": ("object F1, IoU > 0.75", "#56b4e9", "--"),
    "val/boundary_f1": ("boundary F1", "#009e73", ":"),
}
_LOSS_COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999", "#000000")


def as_rgb(image: np.ndarray) -> np.ndarray:
    """Picture (H,W,3) uint8 of a grey image (H,W), min-max stretched unless uint8 or bool, or of (H,W,3) as it is."""
    if image.ndim == 3:
        return image.astype(np.uint8, copy=False)
    if image.dtype == bool:
        image = image.astype(np.uint8) * 255
    if image.dtype != np.uint8:
        low, high = float(image.min()), float(image.max())
        image = ((image.astype(np.float64) - low) * (255 / ((high - low) or 1.0))).astype(np.uint8)
    return np.repeat(image[..., None], 3, axis=2)


def overlay(
    image: np.ndarray, mask: np.ndarray, truth: np.ndarray | None = None, *, scale: int | None = None
) -> np.ndarray:
    """The image with the outline of the predicted mask in orange and that of the truth, if given, in blue.

    Where both outlines run together they are magenta. Outlines lie just inside the particles.

    Args:
        image: grey (H,W), any dtype, or (H,W,3).
        mask, truth: (H,W), non-zero is particle.
        scale: whole number by which the picture is enlarged; None: until its shorter side has about 384 pixels.

    Returns:
        (scale H, scale W, 3) uint8.
    """
    scale = scale or enlargement(image.shape[:2])
    picture = _enlarged(as_rgb(image), scale)
    thickness = max(1.0, round(min(picture.shape[:2]) / 320))
    predicted = _outline(mask, scale, thickness)
    if truth is None:
        picture[predicted] = PREDICTION
        return picture
    true = _outline(truth, scale, thickness)
    picture[true] = TRUTH
    picture[predicted] = PREDICTION
    picture[predicted & true] = BOTH
    return picture


def enlargement(shape: Sequence[int]) -> int:
    """Whole number >= 1 by which a picture of this shape is enlarged to be looked at."""
    return max(1, round(SHORT_SIDE / min(shape)))


def attention_overlay(
    image: np.ndarray, coefficients: np.ndarray, limits: tuple[float, float] | None = (0.0, 1.0)
) -> np.ndarray:
    """The image in grey under the attention coefficients in colour, dark violet (low) to yellow (high).

    Args:
        image: grey (H,W) or (H,W,3).
        coefficients: (h,w) in [0,1], of any decoder level; resized to the image (bilinear).
        limits: coefficients that take the lowest and the highest colour; None: their own range, which shows
            structure but
            must not be compared between pictures.

    Returns:
        (H,W,3) uint8, enlarged as in `overlay`.
    """
    picture = _enlarged(as_rgb(image), enlargement(image.shape[:2]))
    low, high = limits or (float(coefficients.min()), float(coefficients.max()))
    shares = np.clip((coefficients.astype(np.float32) - low) / max(high - low, 1e-12), 0, 1)
    size = (picture.shape[1], picture.shape[0])
    smooth = np.asarray(Image.fromarray(shares).resize(size, Image.Resampling.BILINEAR))
    colours = matplotlib.colormaps["plasma"](smooth)[..., :3]
    mixed: np.ndarray = (0.55 * 255 * colours + 0.45 * picture).astype(np.uint8)
    return mixed


def contact_sheet(
    pictures: Sequence[np.ndarray],
    captions: Sequence[str] | None = None,
    *,
    columns: int | None = None,
    cell: int = 300,
    title: str | None = None,
    key: bool = False,
) -> np.ndarray:
    """Pictures side by side on white, each fitted into a cell of `cell` pixels, with captions under them.

    Args:
        pictures: grey (H,W) or (H,W,3), sizes may differ.
        captions: one per picture, or None.
        columns: None: as many as make the sheet about as high as wide.
        cell: longer side of a cell in pixels.
        title: a line above.
        key: whether to explain the colours of `overlay`.

    Raises:
        ValueError: no picture, or captions of another number.
    """
    if not pictures or (captions is not None and len(captions) != len(pictures)):
        raise ValueError(f"{len(pictures)} pictures and {len(captions or ())} captions; give one caption a picture")
    columns = min(columns or math.ceil(math.sqrt(len(pictures))), len(pictures))
    fitted = [_fitted(as_rgb(picture), cell) for picture in pictures]
    high, wide = max(picture.height for picture in fitted), max(picture.width for picture in fitted)
    gap, font = max(6, cell // 40), text_font(max(11, cell // 20))
    line = round(font.size * 1.5)
    below, head = (line if captions else 0) + gap, (line if title or key else 0) + gap
    sheet = Image.new(
        "RGB", (gap + columns * (wide + gap), head + math.ceil(len(fitted) / columns) * (high + below)), PAPER
    )
    draw = ImageDraw.Draw(sheet)
    x = gap
    if title:
        draw.text((x, gap), title, INK, font)
        x += round(draw.textlength(title, font) + 2 * font.size)
    if key:
        _draw_key(draw, x, gap, font)
    for place, picture in enumerate(fitted):
        left, top = gap + place % columns * (wide + gap), head + place // columns * (high + below)
        sheet.paste(picture, (left + (wide - picture.width) // 2, top + (high - picture.height) // 2))
        if captions:
            text = _shortened(draw, captions[place], font, wide)
            draw.text((left + wide / 2, top + high + 2), text, INK, font, anchor="ma")
    return np.asarray(sheet)


def prediction_sheet(
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    truths: Sequence[np.ndarray] | None = None,
    captions: Sequence[str] | None = None,
    *,
    columns: int | None = None,
    title: str | None = None,
) -> np.ndarray:
    """Overlays of several predictions on one sheet (H,W,3) uint8, with the key of their colours if truths are given."""
    given = truths if truths is not None else [None] * len(images)
    drawn = [overlay(*parts) for parts in zip(images, masks, given, strict=True)]
    return contact_sheet(drawn, captions, columns=columns, title=title, key=truths is not None)


def generated_pairs(
    masks: Sequence[np.ndarray],
    generated: Sequence[np.ndarray],
    real: Sequence[np.ndarray] | None = None,
    *,
    cell: int = 220,
) -> np.ndarray:
    """Sheet (H,W,3) uint8 of synthetic pairs: masks in the first row, their generated images below, real ones last."""
    rows: list[tuple[str, Sequence[np.ndarray]]] = [("mask", [np.asarray(mask) > 0 for mask in masks])]
    rows.append(("generated", generated))
    if real is not None:
        rows.append(("real", real))
    pictures = [picture for _, row in rows for picture in row]
    captions = [f"{name} {place + 1}" for name, row in rows for place in range(len(row))]
    return contact_sheet(pictures, captions, columns=len(masks), cell=cell)


def learning_curves(
    history: Sequence[Mapping[str, Any]], path: Path, *, selected_epoch: int | None = None, title: str | None = None
) -> Path:
    """Write a PNG of validation scores (above) and training losses (below, logarithmic) against the epoch.

    The adversarial phase is shaded; the epoch whose weights were kept is marked.

    Args:
        history: reports of a run, one per epoch, with `epoch`, `phase` and keys `val/...` and `train/...`.
        path: file to write.
        selected_epoch: of the run's record.

    Raises:
        ValueError: no report.
    """
    if not history:
        raise ValueError("no epoch was reported; there are no curves to draw")
    figure = Figure(figsize=(8, 6.2), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1.1, 1))
    epochs = [int(report["epoch"]) for report in history]
    for name, (label, colour, dashes) in _SCORE_STYLES.items():
        _draw_line(above, epochs, history, name, {"label": label, "color": colour, "linestyle": dashes})
    above.set(ylabel="validation score", ylim=(-0.02, 1.02))
    losses = sorted({name for report in history for name in report if name.startswith("train/")})
    for place, name in enumerate(losses):
        style = {
            "label": name.removeprefix("train/").removeprefix("loss_"),
            "color": _LOSS_COLOURS[place % len(_LOSS_COLOURS)],
            "linestyle": ("-", "--", ":")[place // len(_LOSS_COLOURS) % 3],
        }
        _draw_line(below, epochs, history, name, style)
    below.set(xlabel="epoch", ylabel="training loss", yscale="log")
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    adversarial = [epoch for epoch, report in zip(epochs, history, strict=True) if report.get("phase") == "adversarial"]
    for axes in (above, below):
        axes.grid(color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
        if adversarial:
            axes.axvspan(min(adversarial) - 0.5, max(adversarial) + 0.5, color="0.5", alpha=0.09, linewidth=0)
        if selected_epoch is not None:
            axes.axvline(selected_epoch, color="0.35", linewidth=1, linestyle="-.", label="kept weights")
        if axes.get_legend_handles_labels()[1]:
            axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, frameon=False)
    if adversarial:
        above.annotate(
            "adversarial phase", (min(adversarial) - 0.5, 1.0), xycoords=("data", "axes fraction"),
            xytext=(4, -10), textcoords="offset points", fontsize=8, color="0.35",
        )  # fmt: skip
    above.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
    if title:
        figure.suptitle(title, fontsize=10)
    figure.savefig(path)
    return path


def save(picture: np.ndarray, path: Path) -> Path:
    """Write a picture (H,W) or (H,W,3) uint8, or a mask (H,W) bool as 0 and 255, in the format of the file's suffix."""
    array = np.asarray(picture)
    Image.fromarray(array.astype(np.uint8) * 255 if array.dtype == bool else array).save(path)
    return path


def _draw_line(
    axes: Any, epochs: Sequence[int], history: Sequence[Mapping[str, Any]], name: str, style: Mapping[str, Any]
) -> None:
    # A term that is absent in a phase leaves a gap, and one that is 0 has no place on a logarithmic axis.
    values = [report.get(name) for report in history]
    points = np.array([math.nan if value is None else float(value) for value in values])
    if axes.get_yscale() == "log" or name.startswith("train/"):
        points[points <= 0] = math.nan
    if np.isfinite(points).any():
        marker = "o" if np.isfinite(points).sum() < 12 else None
        axes.plot(epochs, points, linewidth=1.4, marker=marker, markersize=3, **style)


def _enlarged(picture: np.ndarray, scale: int) -> np.ndarray:
    if scale == 1:
        return picture.copy()
    size = (picture.shape[1] * scale, picture.shape[0] * scale)
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC)).copy()


def _outline(mask: np.ndarray, scale: int, thickness: float) -> np.ndarray:
    large = np.repeat(np.repeat(np.asarray(mask) > 0, scale, axis=0), scale, axis=1)
    edge = boundary(large)
    return within(edge, thickness - 1) & large if thickness > 1 else edge


def _fitted(picture: np.ndarray, cell: int) -> Image.Image:
    image = Image.fromarray(picture)
    factor = cell / max(image.size)
    resample = Image.Resampling.LANCZOS if factor < 1 else Image.Resampling.BICUBIC
    return image.resize((max(round(image.width * factor), 1), max(round(image.height * factor), 1)), resample)


def text_font(height: int) -> ImageFont.FreeTypeFont:
    """The font of all text in pictures, `height` pixels high: DejaVu Sans, which has the letters of many languages."""
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), height)


def _shortened(draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    text = " ".join(text.split())  # a file's name may have several lines
    if draw.textlength(text, font) <= width:
        return text
    while text and draw.textlength(text + "...", font) > width:
        text = text[:-1]
    return text + "..."


def _draw_key(draw: ImageDraw.ImageDraw, x: int, y: int, font: ImageFont.FreeTypeFont) -> None:
    side = round(font.size * 0.9)
    for colour, text in ((PREDICTION, "prediction"), (TRUTH, "truth"), (BOTH, "both")):
        draw.rectangle((x, y + 2, x + side, y + 2 + side), fill=colour, outline=INK)
        draw.text((x + side + 5, y), text, INK, font)
        x += round(side + 5 + draw.textlength(text, font) + font.size)
