"""Pictures of masks whose images the judge reads worst, or the generator's own segmenter suspiciously well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

SHOWN = 6
CELL = 220


def draw_pictures(
    folder: Path,
    table: Mapping[str, np.ndarray],
    masks: np.ndarray,
    generated: np.ndarray,
    real: np.ndarray | None,
    found: Mapping[str, np.ndarray],
    stems: Sequence[str],
) -> dict[str, Path]:
    """Write worst.png and, where there is an own segmenter, colluding.png; returns their paths by name.

    Each row is one draw of one mask, of a mask its most extreme: the mask, the generated image as the judge reads it
    (orange) beside the mask (blue), the same as the own segmenter reads it, and the real image, if there is one, as
    both read it.

    Args:
        folder: exists.
        table: scores (n,k) of `cycle_scores`.
        masks: (n,H,W) bool.
        generated: (n,k,H,W) uint8.
        real: (n,H,W) uint8; None: the images have no real partners.
        found: the segmenters' masks, by the names of `cycle_scores`' arguments.
        stems: names of the masks.
    """
    # Here and not above: matplotlib is slow to import, and what only checks a task needs none of it.
    from sage_ray.imaging import drawing

    wanted = {"worst": -table["fidelity"]} | ({"colluding": table["collusion"]} if "collusion" in table else {})
    paths = {}
    for name, extremes in wanted.items():
        draws = extremes.argmax(1)
        order = np.argsort(-extremes.max(1), kind="stable")[:SHOWN]
        pictures: list[np.ndarray] = []
        captions: list[str] = []
        for n in order:
            draw = int(draws[n])
            image, truth = generated[n, draw], masks[n]
            pictures += [truth, drawing.overlay(image, found["judge_generated"][n, draw], truth)]
            captions += [str(stems[n]), f"judge {table['fidelity'][n, draw]:.2f}"]
            if "own_generated" in found:
                pictures.append(drawing.overlay(image, found["own_generated"][n, draw], truth))
                captions.append(f"own, collusion {table['collusion'][n, draw]:+.2f}")
            if real is not None:
                pictures.append(drawing.overlay(real[n], found["judge_real"][n], truth))
                captions.append(f"real, judge {table['ceiling'][n, draw]:.2f}")
            if real is not None and "own_real" in found:
                pictures.append(drawing.overlay(real[n], found["own_real"][n], truth))
                captions.append("real, own")
        columns = len(pictures) // len(order)
        title = {"worst": "lowest fidelity", "colluding": "highest collusion"}[name]
        sheet = drawing.contact_sheet(pictures, captions, columns=columns, cell=CELL, title=title, key=True)
        paths[name] = drawing.save(sheet, folder / f"{name}.png")
    return paths
