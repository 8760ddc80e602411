"""The size of pixels: each vendor's tags, text files beside images, and what must not be taken for a scale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from sage_ray.data.length_units import nm_in, read_length
from sage_ray.data.pixel_size import PixelSize, pixel_size

GREY = np.arange(48, dtype=np.uint8).reshape(6, 8)
FEI = (
    "[User]\r\nDate=01/02/2024\r\n[Beam]\r\nScan=EScan\r\n[Scan]\r\nPixelWidth=2.5e-9\r\nPixelHeight={height}\r\n"
    "[Image]\r\nResolutionX={columns}\r\nResolutionY=6\r\n[PrivateFei]\r\nDatabarHeight=0\r\n"
)
ZEISS = (
    "0\r\n0\r\n0\r\n4.4e-009\r\nDP_IMAGE_STORE\r\nStore resolution = 8 * 6\r\nAP_PIXEL_SIZE\r\nPixel Size = 9.9 nm\r\n"
    "AP_IMAGE_PIXEL_SIZE\r\nImage Pixel Size = {size}\r\n"
)
HITACHI = "[SemImageFile]\r\nInstructName=S-4800\r\nImageName=old.tif\r\nDataSize={size}\r\nPixelSize={nm}\r\n"
JEOL = "$SEM_DATA_VERSION 1\r\n$CM_FULL_SIZE 8 6\r\n$$SM_MICRON_BAR 40\r\n$$SM_MICRON_MARKER {marker}\r\n"
OME = (
    '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
    '<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="8" SizeY="6" SizeC="1" SizeZ="1" SizeT="1" {}/>'
    "</Image></OME>"
)


def tiff(path: Path, tags: dict[int, str | bytes] | None = None, **options: Any) -> Path:
    """A small TIFF with private tags: ASCII if they are text, bytes if they are bytes."""
    extra = [
        (code, 2 if isinstance(text, str) else 1, len(text) + isinstance(text, str), text, True)
        for code, text in (tags or {}).items()
    ]
    tifffile.imwrite(path, options.pop("image", GREY), extratags=extra, **options)
    return path


def found(path: Path) -> PixelSize:
    size = pixel_size(path)
    assert size is not None
    return size


@pytest.mark.parametrize(
    ("unit", "nm"),
    [
        *(("nm", 0.5), ("NM", 0.5), ("µm", 500), ("\\u00B5m", 500), ("um", 500), ("microns", 500), ("μm", 500)),
        *(("mm", 500_000), ("A", 0.05), ("Å", 0.05), ("angstroms", 0.05), ("\\u00c5", 0.05), ("pm", 0.0005)),
    ],
)
def test_imagej_counts_pixels_per_unit(tmp_path: Path, unit: str, nm: float) -> None:
    per_unit = 2.0
    text = f"ImageJ=1.53t\nunit={unit}\n".encode("utf-8" if "μ" in unit else "cp1252")
    path = tiff(tmp_path / "a.tif", description=text, resolution=(per_unit, per_unit))
    size = pixel_size(path)
    if nm > 1e5:
        assert size is None  # half a millimetre a pixel is no micrograph
    else:
        assert size is not None and size.nm == pytest.approx((nm, nm)) and size.origin == "ImageJ" and not size.note


@pytest.mark.parametrize("per_nm", [1.0, 5.0])
def test_imagej_files_of_tifffile(tmp_path: Path, per_nm: float) -> None:
    tifffile.imwrite(tmp_path / "a.tif", GREY, imagej=True, resolution=(per_nm, per_nm), metadata={"unit": "nm"})
    assert found(tmp_path / "a.tif").nm == pytest.approx((1 / per_nm, 1 / per_nm))


def test_imagej_with_a_unit_for_each_axis_and_pixels_that_are_no_squares(tmp_path: Path) -> None:
    text = "ImageJ=1.53t\nunit=nm\nyunit=um\n"
    path = tiff(tmp_path / "a.tif", description=text, resolution=(2.0, 1000.0))
    assert found(path).nm == pytest.approx((1.0, 0.5))


def test_a_picture_on_its_side_has_its_height_where_its_width_was(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tif", description="ImageJ=1\nunit=nm\n", resolution=(1.0, 0.25))
    assert found(path).nm == pytest.approx((4.0, 1.0))
    turned = [(274, 3, 1, 6, True)]
    tifffile.imwrite(path, GREY, description="ImageJ=1\nunit=nm\n", resolution=(1.0, 0.25), extratags=turned)
    assert found(path).nm == pytest.approx((1.0, 4.0))


@pytest.mark.parametrize(
    ("unit", "resolution"),
    [
        *((2, 72.0), (2, 96.0), (2, 150.0), (2, 300.0), (2, 1200.0), (2, 4800.0), (3, 28.35), (3, 118.11)),
        *((1, 1.0), (1, 300.0), (2, 1.0), (3, 1.0), (2, 0.0), (2, 4294967295.0)),
    ],
)
def test_what_printers_and_scanners_leave_is_no_scale(tmp_path: Path, unit: int, resolution: float) -> None:
    path = tiff(tmp_path / "a.tif", resolution=(resolution, resolution), resolutionunit=unit)
    assert pixel_size(path) is None
    text = f"ImageJ=1.53t\nunit={('pixel', 'inch', 'cm')[unit - 1]}\n"
    assert pixel_size(tiff(path, resolution=(resolution, resolution), resolutionunit=unit, description=text)) is None


def test_a_plain_resolution_that_no_printer_has_is_a_scale(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tif", resolution=(1e7, 1e7), resolutionunit=3)
    size = found(path)
    assert size.nm == pytest.approx((1, 1)) and size.origin == "resolution of the picture"
    Image.fromarray(GREY).save(tmp_path / "b.png", dpi=(2_540_000, 1_270_000))
    assert found(tmp_path / "b.png").nm == pytest.approx((20, 10))
    Image.fromarray(GREY).save(tmp_path / "c.png", dpi=(300, 300))
    Image.fromarray(GREY).save(tmp_path / "d.jpg", dpi=(96, 96))
    Image.fromarray(GREY).save(tmp_path / "e.bmp")
    assert [pixel_size(tmp_path / name) for name in ("c.png", "d.jpg", "e.bmp")] == [None] * 3


@pytest.mark.parametrize("code", [34680, 34682])
@pytest.mark.parametrize("as_bytes", [False, True])
def test_fei_gives_metres(tmp_path: Path, code: int, as_bytes: bool) -> None:
    text = FEI.format(height="2.5e-9", columns=8)
    size = found(tiff(tmp_path / "a.tif", {code: text.encode() if as_bytes else text}))
    assert size == PixelSize(size.nm, "FEI metadata") and size.nm == pytest.approx((2.5, 2.5))
    tilted = found(tiff(tmp_path / "b.tif", {code: FEI.format(height="3.5e-9", columns=8)}))
    assert tilted.nm == pytest.approx((3.5, 2.5))


def test_fei_with_the_width_of_its_field_only(tmp_path: Path) -> None:
    text = "[EScan]\nHorFieldsize=1.6e-8\n[Image]\nResolutionX=8\nResolutionY=6\n"
    assert found(tiff(tmp_path / "a.tif", {34680: text})).nm == pytest.approx((2, 2))


@pytest.mark.parametrize(
    ("said", "nm"),
    [("1.117 nm", 1.117), ("1,117 nm", 1.117), ("2.5 µm", 2500), ("0.25 um", 250), ("850.0 pm", 0.85), ("1.1nm", 1.1)],
)
def test_zeiss_names_its_unit(tmp_path: Path, said: str, nm: float) -> None:
    data = ZEISS.format(size=said).encode("cp1252")
    size = found(tiff(tmp_path / "a.tif", {34118: data}))
    assert size.nm == pytest.approx((nm, nm)) and size.origin == "Zeiss metadata" and not size.note


def test_zeiss_without_the_named_size_has_it_in_the_fourth_line(tmp_path: Path) -> None:
    assert found(tiff(tmp_path / "a.tif", {34118: ZEISS.partition("AP_PIXEL")[0]})).nm == pytest.approx((4.4, 4.4))
    broken = ZEISS.format(size="nonsense").replace("9.9 nm", "----")
    assert found(tiff(tmp_path / "b.tif", {34118: broken})).nm == pytest.approx((4.4, 4.4))


def test_tescan_in_its_tag_and_in_the_file_beside_the_image(tmp_path: Path) -> None:
    text = "[MAIN]\r\nMag=5000\r\nPixelSizeX=1.5e-8\r\nPixelSizeY=1.4e-8\r\n"
    assert found(tiff(tmp_path / "a.tif", {50431: b"\1\0\7\0" + text.encode()})).nm == pytest.approx((14, 15))
    Image.fromarray(GREY).save(tmp_path / "b.png")
    (tmp_path / "b-png.hdr").write_text(text)
    assert found(tmp_path / "b.png").origin == "Tescan metadata"


def test_gatan_tags(tmp_path: Path) -> None:
    extra = [(65003, 2, 3, "nm", True), (65004, 2, 3, "nm", True)]
    extra += [(65009, 12, 1, 0.25, True), (65010, 12, 1, 0.5, True)]
    tifffile.imwrite(tmp_path / "a.tif", GREY, extratags=extra)
    assert found(tmp_path / "a.tif").nm == pytest.approx((0.5, 0.25))


@pytest.mark.parametrize(
    ("sizes", "nm"),
    [
        ('PhysicalSizeX="0.5" PhysicalSizeXUnit="nm" PhysicalSizeY="0.75" PhysicalSizeYUnit="nm"', (0.75, 0.5)),
        ('PhysicalSizeX="0.002" PhysicalSizeY="0.002"', (2, 2)),
        ('PhysicalSizeX="7" PhysicalSizeXUnit="Å"', (0.7, 0.7)),
        ('PhysicalSizeX="7" PhysicalSizeXUnit="pixel" PhysicalSizeY="7" PhysicalSizeYUnit="pixel"', None),
        ("", None),
    ],
)
def test_ome(tmp_path: Path, sizes: str, nm: tuple[float, float] | None) -> None:
    path = tiff(tmp_path / "a.ome.tif", description=OME.format(sizes).encode(), metadata=None)
    size = pixel_size(path)
    assert (size and size.nm) == (pytest.approx(nm) if nm else None)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp1252", "utf-8-sig"])
@pytest.mark.parametrize("ending", ["tif", "bmp", "jpg"])
def test_hitachi_text_beside_the_image(tmp_path: Path, encoding: str, ending: str) -> None:
    Image.fromarray(GREY).save(tmp_path / f"a.{ending}")
    (tmp_path / "a.txt").write_text(HITACHI.format(size="8x6", nm="9.921875"), encoding=encoding)
    size = found(tmp_path / f"a.{ending}")
    assert size.nm == pytest.approx((9.921875,) * 2) and size.origin == "Hitachi text file"


@pytest.mark.parametrize(("marker", "nm"), [("100nm", 2.5), ("1um", 25), ("1 µm", 25), ("0.1\u03bcm", 2.5)])
def test_jeol_text_beside_the_image(tmp_path: Path, marker: str, nm: float) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.bmp")
    (tmp_path / "a.txt").write_text(JEOL.format(marker=marker), encoding="utf-8")
    size = found(tmp_path / "a.bmp")
    assert size.nm == pytest.approx((nm, nm)) and size.origin == "JEOL text file"


def test_other_texts_beside_an_image_are_no_scale(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.png")
    for text in (
        "my notes: PixelSize unknown",
        "",
        "PixelSize=-3",
        "PixelSize=abc",
        "$$SM_MICRON_BAR 0\n$$SM_MICRON_MARKER 1um",
    ):
        (tmp_path / "a.txt").write_text(text)
        assert pixel_size(tmp_path / "a.png") is None, text
    (tmp_path / "a.txt").write_bytes(bytes(range(256)))
    assert pixel_size(tmp_path / "a.png") is None


@pytest.mark.parametrize(
    "tags",
    [
        {34682: "[Scan]\nPixelWidth=\nPixelHeight=\n"},
        {34682: "[Scan]\nPixelWidth=-1e-9\nPixelHeight=-1e-9\n"},
        {34682: "[Scan]\nPixelWidth=nan\nPixelHeight=inf\n"},
        {34682: "[Scan]\nPixelWidth=0\n"},
        {34682: "[Scan]\nPixelWidth=1e40\n"},
        {34682: b"\0\xff\xfe[Scan"},
        {34118: ""},
        {34118: b"\xff" * 40},
        {34118: "AP_IMAGE_PIXEL_SIZE\nImage Pixel Size = 1.1 pixels\n"},
        {270: "ImageJ=1.53\nunit=\n"},
        {270: "<OME><Image><Pixels PhysicalSizeX='1'"},
        {37706: b"\1\2\3"},
        {33560: b"\1\2\3\4"},
        {65003: "nm"},
    ],
)
def test_damaged_tags_are_no_scale(
    tmp_path: Path, tags: dict[int, str | bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    assert pixel_size(tiff(tmp_path / "a.tif", tags, metadata=None)) is None
    assert capfd.readouterr().err == ""


def test_files_that_are_no_pictures_have_no_scale(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"II*\0" + b"\xff" * 20)
    (tmp_path / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "c.tif").write_bytes(b"")
    assert [pixel_size(tmp_path / name) for name in ("a.tif", "b.png", "c.tif", "none.tif")] == [None] * 4


def test_a_file_that_says_two_sizes_tells_which_was_taken(tmp_path: Path) -> None:
    text = FEI.format(height="2.5e-9", columns=8)
    options = {"description": "ImageJ=1\nunit=nm\n", "resolution": (1.0, 1.0)}
    size = found(tiff(tmp_path / "a.tif", {34682: text}, **options))
    assert size.nm == pytest.approx((2.5, 2.5))
    assert size.note == "two sizes of a pixel: FEI metadata says 2.5 nm and was taken, ImageJ says 1 nm"
    rounded = found(tiff(tmp_path / "b.tif", {34682: text}, description="ImageJ=1\nunit=nm\n", resolution=(0.401, 0.4)))
    assert rounded.nm == pytest.approx((2.5, 2.5)) and not rounded.note


def test_a_picture_resampled_or_cut_out_after_it_was_taken(tmp_path: Path) -> None:
    half = found(tiff(tmp_path / "a.tif", {34682: FEI.format(height="2.5e-9", columns=8)}, image=GREY[::2, ::2]))
    assert half.nm == pytest.approx((5, 5)) and "resampled from 8 to 4 columns" in half.note
    cut = found(tiff(tmp_path / "b.tif", {34682: FEI.format(height="2.5e-9", columns=8)}, image=GREY[:, :4]))
    assert cut.nm == pytest.approx((2.5, 2.5)) and "8 columns, and 4 are left" in cut.note


def test_lengths_and_units() -> None:
    assert read_length("1.234,5 nm") == pytest.approx(1234.5) and read_length("1,234.5 nm") == pytest.approx(1234.5)
    assert read_length("5", "nm") == 5 and read_length("nm") is None and read_length("5 apples") is None
    assert nm_in("1/nm") is None and nm_in("pixels") is None and nm_in("") is None and nm_in("a") is None
