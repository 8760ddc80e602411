"""Studies and tables as the tests of table scripts compare them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from sage_ray.record.home import Home

ONLY_DICE = {"segmentation_loss.w_ce": 0, "segmentation_loss.w_focal_tversky": 0, "segmentation_loss.w_dice": 1}
SYSTEMS = {"unet": 0.68, "attention_unet": 0.74, "sage_gan": 0.76}


def copy_of(home: Home, place: Path) -> Home:
    shutil.copytree(home.path, place)
    shutil.rmtree(place / "tables", ignore_errors=True)
    return Home(place)


def rows_of(text: str, number: int = 0) -> dict[str, list[str]]:
    """Cells of the markdown table `number` by its first column."""
    tables = re.findall(r"(?:^\|.*\n)+", text, re.M)
    lines = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in tables[number].splitlines()]
    return {cells[0]: cells[1:] for cells in lines[2:]}
