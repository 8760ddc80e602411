"""Sheets of image/mask pairs for a person to look at, the most suspect pairs first, each with the reasons."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sage_ray.data.check import SuspectPair
from sage_ray.data.images import BadFile, read_image
from sage_ray.data.pair_masks import is_annotated, read_pair_mask
from sage_ray.data.preprocess import stretch
from sage_ray.errors import UserError
from sage_ray.imaging.drawing import INK, PAPER, as_rgb, overlay, text_font

PAIRS_PER_SHEET, MAX_SHEETS = 24, 25
PANEL, _GAP, _COLUMNS = 230, 10, 2
_REASON, _FINE, _MISSING = (190, 30, 30), (110, 110, 110), (235, 235, 235)
_PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")


def write_pair_sheets(suspects: Sequence[SuspectPair], out: Path, foreground: str = "") -> tuple[list[Path], int]:
    """Draw pairs, in their order, and return the files written and how many pairs stand on them.

    Args:
        suspects: pairs and the doubts about them.
        out: a picture file, which gets the first 24 pairs, or a folder for sheet-001.png and so on, at most 25 of them.
        foreground: `data.foreground`, by which masks are read.

    Raises:
        UserError: no pairs, or `out` cannot be written.
    """
    if not suspects:
        raise UserError("no pairs to draw", out, "leave --sheet out until the folder has pairs")
    single = out.suffix.lower() in _PICTURES
    count = min(len(suspects), PAIRS_PER_SHEET * (1 if single else MAX_SHEETS))
    written = []
    try:
        (out.parent if single else out).mkdir(parents=True, exist_ok=True)
        for number, start in enumerate(range(0, count, PAIRS_PER_SHEET), start=1):
            path = out if single else out / f"sheet-{number:03d}.png"
            shown = suspects[start : min(start + PAIRS_PER_SHEET, count)]
            Image.fromarray(pair_sheet(shown, start + 1, foreground)).save(path)
            written.append(path)
    except OSError as error:
        raise UserError(f"sheet cannot be written ({error.strerror or error})", out, "choose another place") from None
    return written, count


def pair_sheet(suspects: Sequence[SuspectPair], first: int = 1, foreground: str = "") -> np.ndarray:
    """One sheet (H,W,3) uint8: for each pair its image, its mask and both, under its number, name and doubts."""
    blocks = [_block(suspect, number, foreground) for number, suspect in enumerate(suspects, start=first)]
    columns = min(_COLUMNS, len(blocks))
    wide = blocks[0].width
    rows = [blocks[start : start + columns] for start in range(0, len(blocks), columns)]
    heights = [max(block.height for block in row) for row in rows]
    size = (2 * _GAP + columns * (wide + 2 * _GAP), 2 * _GAP + sum(heights) + 2 * _GAP * len(rows))
    sheet = Image.new("RGB", size, PAPER)
    top = _GAP
    for row, height in zip(rows, heights, strict=True):
        for place, block in enumerate(row):
            sheet.paste(block, (2 * _GAP + place * (wide + 2 * _GAP), top))
        top += height + 2 * _GAP
    return np.asarray(sheet)


def _block(suspect: SuspectPair, number: int, foreground: str) -> Image.Image:
    panels = _panels(suspect, foreground)
    wide = 3 * PANEL + 2 * _GAP
    font, small = text_font(16), text_font(14)
    reasons = [(doubt.text, _REASON) for doubt in suspect.doubts] or [("nothing suspect", _FINE)]
    lines = [(f"{number}  {' '.join(suspect.pair.stem.split())}", INK, font)]
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    for text, colour in reasons[:3]:
        lines += [(part, colour, small) for part in _folded_lines(measure, text, small, wide)[:2]]
    high = max(panel.height for panel in panels)
    block = Image.new("RGB", (wide, 23 * len(lines) + high + 4), PAPER)
    draw = ImageDraw.Draw(block)
    for place, (text, colour, face) in enumerate(lines):
        draw.text((0, 23 * place), text, colour, face)
    for place, panel in enumerate(panels):
        left = place * (PANEL + _GAP) + (PANEL - panel.width) // 2
        block.paste(panel, (left, 23 * len(lines) + 2))
    return block


def _folded_lines(draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont, wide: int) -> list[str]:
    """The text in lines that are at most `wide` pixels long."""
    lines, line = [], ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and draw.textlength(longer, font) > wide:
            lines.append(line)
            longer = word
        line = longer
    return [*lines, line]


def _panels(suspect: SuspectPair, foreground: str) -> list[Image.Image]:
    """Image, mask, and the mask's outline on the image; grey where one cannot be read."""
    pair = suspect.pair
    image = mask = None
    with suppress(BadFile):
        image = stretch(read_image(pair.image))
    with suppress(BadFile):
        if image is not None or not is_annotated(pair):
            mask = read_pair_mask(pair, (0, 0) if image is None else image.shape, foreground).foreground
    panels = [_panel(image), _panel(mask if mask is not None else _as_picture(suspect))]
    if image is None or mask is None or mask.shape != image.shape:
        return [*panels, _panel(None)]
    small = panels[0].size
    fitted = np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize(small, Image.Resampling.BOX)) > 127
    return [*panels, Image.fromarray(overlay(np.asarray(panels[0]), fitted, scale=1))]


def _as_picture(suspect: SuspectPair) -> np.ndarray | None:
    """The mask file as a grey picture, where it is no mask."""
    if is_annotated(suspect.pair):
        return None
    try:
        return stretch(read_image(suspect.pair.mask))
    except BadFile:
        return None


def _panel(picture: np.ndarray | None) -> Image.Image:
    if picture is None:
        return Image.new("RGB", (PANEL, PANEL // 2), _MISSING)
    image = Image.fromarray(as_rgb(picture))
    factor = PANEL / max(image.size)
    size = (max(round(image.width * factor), 1), max(round(image.height * factor), 1))
    resample = Image.Resampling.BOX if factor < 1 else Image.Resampling.NEAREST
    return image.resize(size, resample)
