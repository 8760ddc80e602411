"""Files as electron microscopes write them (dm3, dm4, emd, ser, mrc), read by RosettaSciIO where it is installed."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sage_ray.data.length_units import nm_in
from sage_ray.data.problems import bad_file
from sage_ray.data.stored_picture import StoredPicture

READERS = {
    ".dm3": ("Gatan file", "rsciio.digitalmicrograph"),
    ".dm4": ("Gatan file", "rsciio.digitalmicrograph"),
    ".emd": ("EMD file", "rsciio.emd"),
    ".ser": ("TIA file", "rsciio.tia"),
    ".mrc": ("MRC file", "rsciio.mrc"),
}
EXTRA = 'pip install "sage-ray[microscopes]"'


def can_read_microscope_files() -> bool:
    """Whether RosettaSciIO is installed, the optional extra `microscopes`."""
    return importlib.util.find_spec("rsciio") is not None


def open_microscope_file(path: Path) -> StoredPicture:
    """The image in a microscope's file, (rows, columns) as the microscope's program shows it.

    Raises:
        BadFile: RosettaSciIO is not installed, a damaged file, no image in it, or several.
    """
    name, module = READERS[path.suffix.lower()]
    if not can_read_microscope_files():
        raise bad_file(f"{name}, which the optional extra reads", path, f"run {EXTRA}, or save it as TIFF")
    try:
        found = importlib.import_module(module).file_reader(str(path), lazy=False)
    except ImportError as error:
        raise bad_file(f"{name}, which the optional extra reads", path, f"run {EXTRA} ({error})") from None
    except Exception as error:  # readers raise whatever a damaged header leads to
        detail = " ".join(str(error).split())[:120] or type(error).__name__
        raise bad_file(f"unreadable {name}", path, f"save it again, or as TIFF ({detail})") from None
    arrays = [_plain(entry["data"]) for entry in found]
    images = [array for array in arrays if array is not None]
    if not images:
        shapes = ", ".join(str(np.shape(entry["data"])) for entry in found) or "nothing"
        raise bad_file(f"{name} without an image (it holds {shapes})", path, "save the image as TIFF")
    pages = sum(len(image) for image in images)
    stack = images[0]

    def read(page: int) -> Iterator[np.ndarray]:
        yield stack[page]

    return StoredPicture(path, name, (stack.shape[1], stack.shape[2]), stack.dtype, 1, read, pages=pages)


def microscope_scale(path: Path) -> tuple[float, float] | None:
    """(height, width) of a pixel in nanometres by the axes of a microscope's file; None if they do not say it."""
    name, module = READERS[path.suffix.lower()]
    if not can_read_microscope_files():
        return None
    try:
        found = importlib.import_module(module).file_reader(str(path), lazy=False)
        axes = next(entry["axes"] for entry in found if _plain(entry["data"]) is not None)[-2:]
    except Exception:  # reading its pixels names the fault
        return None
    sides = [_side(axis) for axis in axes]
    if len(sides) < 2 or sides[0] is None or sides[1] is None:
        return None
    if name == "MRC file" and all(abs(side - 0.1) < 1e-9 for side in sides if side):
        return None  # 1 angstrom is what programs write that do not know the scale
    return sides[0], sides[1]


def _side(axis: Any) -> float | None:
    factor = nm_in(str(axis.get("units") or ""))
    return None if factor is None else abs(float(axis.get("scale") or 0)) * factor


def _plain(data: Any) -> np.ndarray | None:
    """(pages, rows, columns) of a grey image or stack in native byte order; None for spectra and colours."""
    array = np.asarray(data)
    if array.dtype.kind not in "buif" or array.ndim < 2 or min(array.shape[-2:]) < 2:
        return None
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    return native.reshape(-1, *array.shape[-2:])
