"""What an image file, or a text file beside it, says of how the image was taken: size of a pixel, size of the scan.

Source: the vendors' files themselves. Lengths: FEI/Thermo and Tescan give metres, Hitachi and TVIPS nanometres, Zeiss
and JEOL name their unit, TIFF gives pixels per centimetre, inch or (ImageJ) the unit of its description.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import tifffile
from PIL import Image

from sage_ray.data.length_units import nm_in, read_length, read_number
from sage_ray.data.tiff_file import SIGNATURES

LARGEST_PRINTED = 1e3
"""Resolutions of plain pictures (72, 300, 4800 dpi) are printers' and scanners': none over 1 µm a pixel is a scale."""
_TEXT_BYTES = 1 << 20


@dataclass(frozen=True)
class Acquisition:
    """What one source says of an image."""

    origin: str
    nm: tuple[float, float] | None = None
    """(height, width) of a pixel in nanometres."""
    scanned: tuple[int, int] | None = None
    """(rows, columns) that the microscope scanned, without its information bar."""


Source = Callable[[Any], Acquisition | None]


def acquisitions(path: Path) -> list[Acquisition]:
    """All that a file's own tags and the text files beside it say, the source to be believed first; [] for nothing.

    Damaged tags say nothing. The axes are those of the samples as stored.
    """
    found = list(_of_tags(path))
    plain = [record for record in found if record.origin == PLAIN]
    return [*(record for record in found if record.origin != PLAIN), *_of_texts(path), *plain]


PLAIN = "resolution of the picture"


def _of_tags(path: Path) -> Iterator[Acquisition]:
    try:
        with path.open("rb") as file:
            head = file.read(4)
        if head not in SIGNATURES:
            yield from _attempts((_of_picture,), path)
            return
        with _silent_tifffile(), tifffile.TiffFile(path) as tiff:
            found = list(_attempts(_TIFF_SOURCES, tiff.pages.first))
        yield from found
    except Exception:  # whatever a damaged file leads tifffile to: reading its pixels names the fault
        return


@contextmanager
def _silent_tifffile() -> Iterator[None]:
    """tifffile logs each damaged tag, which on a terminal looks like a fault of the verb."""
    logger = logging.getLogger("tifffile")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _attempts(sources: tuple[Source, ...], where: Any) -> Iterator[Acquisition]:
    for source in sources:
        try:
            record = source(where)
        except Exception:  # damaged tags of any kind are no scale
            continue
        if record is not None:
            yield record


def _text_of(page: Any, code: int) -> str:
    """The content of a tag as text, of whichever type it is; "" without it."""
    tag = page.tags.get(code)
    if tag is None:
        return ""
    handle = page.parent.filehandle
    handle.seek(tag.valueoffset)
    return _decoded(handle.read(min(tag.valuebytecount, _TEXT_BYTES)))


def _decoded(data: bytes) -> str:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", "replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def _settings(text: str) -> dict[str, dict[str, str]]:
    """{section: {key: value}} of a text of `key=value` lines, in lower case; "" is the section before any."""
    sections: dict[str, dict[str, str]] = {"": {}}
    here = sections[""]
    for line in text.replace("\0", "\n").splitlines():
        stripped = line.strip()
        if stripped.startswith("[") and stripped.endswith("]"):
            here = sections.setdefault(stripped[1:-1].strip().lower(), {})
        elif "=" in stripped:
            key, _, value = stripped.partition("=")
            here.setdefault(key.strip().lower(), value.strip())
    return sections


def _size(text: str) -> tuple[int, int] | None:
    """(rows, columns) of a text such as "1280x960" or "1024 * 768", which names columns first."""
    found = re.search(r"(\d+)\s*[xX*, ]\s*(\d+)", text)
    return (int(found.group(2)), int(found.group(1))) if found else None


def _sides(height: float | None, width: float | None) -> tuple[float, float] | None:
    """(height, width) where both are known, or one stands for both."""
    one, other = height or width, width or height
    return (one, other) if one and other else None


def _metres(text: str | None) -> float | None:
    number = read_number(text or "")
    return None if number is None else number * 1e9


def _of_fei(page: Any) -> Acquisition | None:
    text = _text_of(page, 34682) or _text_of(page, 34680)
    if not text:
        return None
    sections = _settings(text)
    scans = [sections[name] for name in ("scan", "escan", "iscan") if name in sections]
    scans += [values for name, values in sections.items() if "pixelwidth" in values and values not in scans]
    found = [_sides(_metres(scan.get("pixelheight")), _metres(scan.get("pixelwidth"))) for scan in scans]
    image = sections.get("image", {})
    columns, rows = (read_number(image.get(f"resolution{axis}", "")) for axis in "xy")
    if columns:
        fields = [_metres(scan.get("horfieldsize")) for scan in scans or [sections.get("scan", {})]]
        found += [_sides(field / columns, field / columns) for field in fields if field]
    scanned = (int(rows), int(columns)) if rows and columns else None
    return Acquisition("FEI metadata", next((sides for sides in found if sides), None), scanned)


def _of_zeiss(page: Any) -> Acquisition | None:
    text = _text_of(page, 34118)
    if not text:
        return None
    named: dict[str, str] = {}
    for line in text.replace("\0", "\n").splitlines():
        name, sign, value = line.partition("=")
        if sign:
            named.setdefault(" ".join(name.lower().split()), value.strip())
    sides = [read_length(named.get(name, "")) for name in ("image pixel size", "pixel size")]
    side = next((side for side in sides if side), None)
    if side is None:
        # The first lines are numbers without a name; the fourth is the width of a pixel in metres.
        numbers = [line.strip() for line in text.splitlines()[:4]]
        side = _metres(numbers[3]) if len(numbers) == 4 else None
    return Acquisition("Zeiss metadata", _sides(side, side), _size(named.get("store resolution", "")))


def _of_tescan(page: Any) -> Acquisition | None:
    text = _text_of(page, 50431)
    return _tescan(text) if text else None


def _tescan(text: str) -> Acquisition | None:
    # The tag begins with binary fields, so that the first line may not look like one.
    sides = [re.search(rf"PixelSize{axis}\s*=\s*([-+.,\deE]+)", text) for axis in "YX"]
    nm = _sides(*(_metres(side.group(1)) if side else None for side in sides))
    return Acquisition("Tescan metadata", nm) if nm else None


def _of_tvips(page: Any) -> Acquisition | None:
    values = page.parent.tvips_metadata
    return Acquisition("TVIPS metadata", _sides(values["PixelSizeY"], values["PixelSizeX"])) if values else None


def _of_olympus(page: Any) -> Acquisition | None:
    values = page.parent.sis_metadata
    if not values:
        return None
    height, width = (float(values.get(f"pixelsize{axis}", 0)) * 1e9 for axis in "yx")
    return Acquisition("Olympus SIS metadata", _sides(height, width))


def _of_gatan(page: Any) -> Acquisition | None:
    sides: list[float | None] = []
    for unit, scale in ((65004, 65010), (65003, 65009)):
        factor = nm_in(str(page.tags[unit].value)) if unit in page.tags else None
        sides.append(factor * float(page.tags[scale].value) if factor and scale in page.tags else None)
    nm = _sides(*sides)
    return Acquisition("Gatan metadata", nm) if nm else None


def _of_imagej(page: Any) -> Acquisition | None:
    text = _text_of(page, 270)
    if not text.startswith("ImageJ="):
        return None
    values = _settings(text)[""]
    factors = [nm_in(values.get(f"{axis}unit") or values.get("unit", "")) for axis in "yx"]
    per_unit = [_ratio(page, code) for code in (283, 282)]
    if not all(factors) or not all(per_unit):
        return None
    height, width = (factor / pixels for factor, pixels in zip(factors, per_unit, strict=True) if factor and pixels)
    if any(factor in (nm_in("inch"), nm_in("cm")) for factor in factors) and max(height, width) > LARGEST_PRINTED:
        return None  # ImageJ hands on the resolution that a printer left
    return Acquisition("ImageJ", (height, width))


def _of_ome(page: Any) -> Acquisition | None:
    text = _text_of(page, 270).rstrip("\0").strip()
    if "<OME" not in text[:2000] and ":OME" not in text[:2000]:
        return None
    pixels = next(e for e in ElementTree.fromstring(text).iter() if e.tag.rpartition("}")[2] == "Pixels")
    sides = [
        read_length(pixels.get(f"PhysicalSize{axis}", ""), pixels.get(f"PhysicalSize{axis}Unit", "µm")) for axis in "YX"
    ]
    nm = _sides(*sides)
    return Acquisition("OME metadata", nm) if nm else None


def _of_resolution(page: Any) -> Acquisition | None:
    tag = page.tags.get(296)
    factor = {2: 25.4e6, 3: 1e7}.get(int(tag.value) if tag is not None else 2)
    height, width = (_ratio(page, code) for code in (283, 282))
    if factor is None or not height or not width:
        return None
    return _printed(factor / height, factor / width)


def _ratio(page: Any, code: int) -> float | None:
    tag = page.tags.get(code)
    if tag is None:
        return None
    numerator, denominator = tag.value
    if max(numerator, denominator) == 0xFFFFFFFF:  # what is written where the value is too large to be written
        return None
    return float(numerator / denominator)


def _printed(height: float, width: float) -> Acquisition | None:
    return Acquisition(PLAIN, (height, width)) if max(height, width) <= LARGEST_PRINTED else None


def _of_picture(path: Path) -> Acquisition | None:
    with Image.open(path) as picture:
        dpi = picture.info.get("dpi")
    return _printed(25.4e6 / dpi[1], 25.4e6 / dpi[0]) if dpi else None


def _of_texts(path: Path) -> Iterator[Acquisition]:
    """What the files say that Hitachi's, JEOL's and Tescan's programs write beside an image."""
    ending = path.suffix.removeprefix(".")
    names = [f"{path.stem}.txt", f"{path.stem}.TXT", f"{path.name}.txt"]
    for name in (*names, f"{path.stem}-{ending}.hdr", f"{path.stem}.hdr"):
        try:
            with path.with_name(name).open("rb") as file:
                text = _decoded(file.read(_TEXT_BYTES))
        except OSError:
            continue
        record = next(_attempts(_TEXT_SOURCES, text), None)
        if record is not None:
            yield record
            return


def _of_hitachi(text: str) -> Acquisition | None:
    values = {key: value for section in _settings(text).values() for key, value in section.items()}
    if "pixelsize" not in values:
        return None
    side = read_length(values["pixelsize"], "nm")
    return Acquisition("Hitachi text file", _sides(side, side), _size(values.get("datasize", "")))


def _of_jeol(text: str) -> Acquisition | None:
    values: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.strip().lstrip("$").partition(" ")
        if line.lstrip().startswith("$"):
            values.setdefault(key.upper(), value.strip())
    length, pixels = read_length(values.get("SM_MICRON_MARKER", "")), read_number(values.get("SM_MICRON_BAR", ""))
    side = length / pixels if length and pixels else None
    scanned = _size(values.get("CM_FULL_SIZE", ""))
    return Acquisition("JEOL text file", _sides(side, side), scanned) if side or scanned else None


_TIFF_SOURCES: tuple[Source, ...] = (
    *(_of_fei, _of_zeiss, _of_tescan, _of_tvips, _of_olympus, _of_gatan),
    *(_of_imagej, _of_ome, _of_resolution),
)
_TEXT_SOURCES: tuple[Source, ...] = (_of_hitachi, _of_jeol, _tescan)
