"""Files of microscopes' programs: read where RosettaSciIO is installed, named for what they are where it is not."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from sage_ray.data import microscope_file
from sage_ray.data.images import BadFile, open_image, read_image
from sage_ray.data.microscope_file import can_read_microscope_files
from sage_ray.data.pixel_size import pixel_size
from sage_ray.imaging.rasters import FileRows

IMAGE = np.random.default_rng(0).integers(0, 5000, (40, 56)).astype(np.int16)
installed = pytest.mark.skipif(not can_read_microscope_files(), reason="needs the extra `microscopes`")


def write_mrc(path: Path, stack: np.ndarray, angstroms: float = 1.0) -> None:
    """MRC2014: a header of 1024 bytes, of which the reader needs sizes, kind and machine stamp; then the sections."""
    sections, rows, columns = stack.shape
    header = bytearray(1024)
    struct.pack_into("<4i", header, 0, columns, rows, sections, 1)
    struct.pack_into("<3i", header, 28, columns, rows, sections)
    cell = (side * angstroms for side in (columns, rows, sections))
    struct.pack_into("<6f", header, 40, *cell, 90, 90, 90)
    struct.pack_into("<3i", header, 64, 1, 2, 3)
    header[208:216] = b"MAP " + b"\x44\x44\0\0"
    path.write_bytes(bytes(header) + stack.astype("<i2").tobytes())


def tag(name: str, content: bytes, kind: int = 21) -> bytes:
    return struct.pack(">BH", kind, len(name)) + name.encode() + content


def group(name: str, *tags: bytes) -> bytes:
    return tag(name, struct.pack(">BBI", 0, 0, len(tags)) + b"".join(tags), 20)


def value(name: str, number: int) -> bytes:
    return tag(name, b"%%%%" + struct.pack(">II", 1, 5) + struct.pack("<I", number))


def write_dm3(path: Path, image: np.ndarray) -> None:
    """Gatan DM3, version 3, little-endian: the tags of one image of signed 16 bits."""
    pixels = tag("Data", b"%%%%" + struct.pack(">IIII", 3, 20, 2, image.size) + image.astype("<i2").tobytes())
    data = group(
        "ImageData",
        group("Calibrations", group("Dimension")),
        pixels,
        value("DataType", 1),
        group("Dimensions", value("", image.shape[1]), value("", image.shape[0])),
        value("PixelDepth", 2),
    )
    name = tag("Name", b"%%%%" + struct.pack(">IIII", 3, 20, 4, 0))
    listed = group("ImageList", group("", data, group("ImageTags"), name))
    root = struct.pack(">BBI", 0, 0, 1) + listed
    path.write_bytes(struct.pack(">III", 3, len(root), 1) + root + bytes(8))


@installed
def test_mrc_files_are_read(tmp_path: Path) -> None:
    write_mrc(tmp_path / "a.mrc", IMAGE[None])
    np.testing.assert_array_equal(read_image(tmp_path / "a.mrc"), IMAGE)
    np.testing.assert_array_equal(np.concatenate(list(FileRows(open_image(tmp_path / "a.mrc")).bands())), IMAGE)


@installed
def test_gatan_files_are_read(tmp_path: Path) -> None:
    write_dm3(tmp_path / "a.dm3", IMAGE)
    np.testing.assert_array_equal(read_image(tmp_path / "a.dm3"), IMAGE)


@installed
def test_emd_files_are_read(tmp_path: Path) -> None:
    emd = pytest.importorskip("rsciio.emd")
    axes = [
        {"name": name, "size": size, "offset": 0, "scale": 1, "units": "nm", "navigate": False}
        for name, size in zip("yx", IMAGE.shape, strict=True)
    ]
    signal = {
        "data": IMAGE,
        "axes": axes,
        "metadata": {"General": {"title": "a"}, "Signal": {}},
        "original_metadata": {},
    }
    emd.file_writer(str(tmp_path / "a.emd"), signal)
    np.testing.assert_array_equal(read_image(tmp_path / "a.emd"), IMAGE)
    size = pixel_size(tmp_path / "a.emd")
    assert size is not None and size.nm == (1, 1) and size.origin == "EMD metadata"


@installed
def test_the_axes_of_microscope_files_are_their_scale(tmp_path: Path) -> None:
    write_mrc(tmp_path / "a.mrc", IMAGE[None], angstroms=2.5)
    size = pixel_size(tmp_path / "a.mrc")
    assert size is not None and size.nm == pytest.approx((0.25, 0.25)) and size.origin == "MRC metadata"
    write_mrc(tmp_path / "b.mrc", IMAGE[None])  # 1 angstrom, as programs write it that do not know the scale
    write_dm3(tmp_path / "c.dm3", IMAGE)
    (tmp_path / "d.dm4").write_bytes(b"\0" * 64)
    assert [pixel_size(tmp_path / name) for name in ("b.mrc", "c.dm3", "d.dm4")] == [None] * 3


@installed
def test_stacks_and_damaged_files_are_named(tmp_path: Path) -> None:
    write_mrc(tmp_path / "a.mrc", np.stack([IMAGE, IMAGE, IMAGE]))
    with pytest.raises(BadFile, match="file with 3 pages"):
        read_image(tmp_path / "a.mrc")
    for suffix in ("dm3", "dm4", "emd", "ser", "mrc"):
        (tmp_path / f"b.{suffix}").write_bytes(b"\0" * 64)
        with pytest.raises(BadFile, match=f"unreadable .* file: .*b.{suffix}") as caught:
            read_image(tmp_path / f"b.{suffix}")
        assert "\n" not in str(caught.value)


def test_without_the_extra_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(microscope_file, "can_read_microscope_files", lambda: False)
    (tmp_path / "a.dm4").write_bytes(b"\0" * 64)
    with pytest.raises(BadFile, match=r'Gatan file, which .*a.dm4: run pip install "sage-ray\[microscopes\]"'):
        read_image(tmp_path / "a.dm4")
