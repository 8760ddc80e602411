"""What makes a pair suspect: each fault is named, right pairs are left alone, and sheets show them in order."""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_erosion

from sage_ray.data.check import check
from sage_ray.data.images import read_image
from sage_ray.data.information_bar import bar_rows
from sage_ray.data.masks import read_mask
from sage_ray.data.pairs import load_folder
from sage_ray.data.preprocess import stretch
from sage_ray.data.suspects import look_at, same_pictures, thumb
from sage_ray.data.synth import DrawnSource, write_dataset
from sage_ray.errors import UserError
from sage_ray.imaging.pair_sheets import PAIRS_PER_SHEET, pair_sheet, write_pair_sheets

Arrays = tuple[np.ndarray, np.ndarray]
DRAWN = DrawnSource.parse("synthetic://ordered?num=8&size=160&seed=4")


@functools.cache
def drawn(index: int = 0) -> Arrays:
    pair = DRAWN.draw(index)
    return pair.image, pair.mask > 0


def barred(image: np.ndarray, mask: np.ndarray, inside: bool = True) -> Arrays:
    image, mask = image.copy(), mask.copy()
    image[-24:], image[-20:-6, 8:60:2] = 0, 255
    mask[-24:] = (image[-24:] > 127) & inside
    return image, mask


FAULTS: dict[str, list[Callable[[np.ndarray, np.ndarray], Arrays]]] = {
    "constant": [
        lambda i, m: (i, m & False),
        lambda i, m: (i, m | True),
        lambda i, m: (i * 0 + 7, m),
    ],
    "equal": [
        lambda i, m: (m.astype(np.uint8) * 255, m),
        lambda i, m: (255 - m.astype(np.uint8) * 200, m),
        lambda i, m: (m.astype(np.uint16) * 3000 + 17, m),
    ],
    "inverted": [
        lambda i, m: (i, ~m),
        lambda i, m: (255 - i, ~m),
        lambda i, m: (np.kron(i, np.ones((2, 2), np.uint8)), np.kron(~m, np.ones((2, 2), bool))),
    ],
    "turned": [
        lambda i, m: (i, m[::-1]),
        lambda i, m: (i, m[::-1, ::-1]),
        lambda i, m: (i, np.rot90(m)),
    ],
    "shifted": [
        lambda i, m: (i, np.roll(m, 7, 0)),
        lambda i, m: (i, np.roll(m, (-5, 6), (0, 1))),
        lambda i, m: (255 - i, np.roll(m, 8, 1)),
    ],
    "outline": [
        lambda i, m: (i, m & ~binary_erosion(m)),
        lambda i, m: (i, m & ~binary_erosion(m, np.ones((3, 3)))),
        lambda i, m: (255 - i, m & ~binary_erosion(m)),
    ],
    "bar": [
        barred,
        lambda i, m: tuple(np.kron(a, np.ones((2, 2), a.dtype)) for a in barred(i, m)),
        lambda i, m: (np.uint16(40) * barred(i, m)[0] + np.uint16(9), barred(i, m)[1]),
    ],
}


@pytest.mark.parametrize(("kind", "variant"), [(kind, n) for kind in FAULTS for n in range(len(FAULTS[kind]))])
def test_a_fault_is_named(kind: str, variant: int) -> None:
    image, mask = discs()
    assert not look_at(image, mask).doubts
    doubts = look_at(*FAULTS[kind][variant](image, mask)).doubts
    assert kind in {doubt.kind for doubt in doubts}, doubts
    assert all("\n" not in doubt.text for doubt in doubts)


def discs() -> Arrays:
    """Five discs apart from each other: on a lattice a shift by its period would not be seen."""
    rng = np.random.default_rng(5)
    rows, columns = np.mgrid[:192, :192]
    mask = np.zeros((192, 192), bool)
    for row, column, radius in ((40, 50, 17), (60, 120, 24), (130, 60, 21), (120, 140, 14), (160, 160, 12)):
        mask |= (rows - row) ** 2 + (columns - column) ** 2 < radius**2
    grey = rng.normal(90, 9, mask.shape) + 70 * mask + 0.1 * columns
    return grey.clip(0, 255).astype(np.uint8), mask


def test_a_shift_is_told_in_pixels_of_the_original() -> None:
    image, mask = discs()
    large = np.kron(image, np.ones((3, 3), np.uint8)), np.kron(np.roll(mask, (-8, 6), (0, 1)), np.ones((3, 3), bool))
    (doubt,) = look_at(*large).doubts
    assert re.fullmatch("shifted: its edges fit better about 2[2-6] rows down and 1[6-9] columns left", doubt.text)


@pytest.mark.parametrize("index", range(8))
def test_drawn_pairs_raise_no_alarm(index: int) -> None:
    assert not look_at(*drawn(index)).doubts


def test_a_bar_is_seen_and_alarms_only_inside_the_mask() -> None:
    image, mask = barred(*drawn(1), inside=False)
    assert bar_rows(image) == 24 and not look_at(image, mask).doubts
    assert bar_rows(drawn(1)[0]) == 0 and bar_rows(np.zeros((64, 64), np.uint8)) == 0


@pytest.mark.real
def test_real_micrographs_raise_no_alarm_and_their_faults_are_seen(emps: Path) -> None:
    """At most a few per cent; none of the dozen (0 of the 140, see benchmarks/suspect_pairs.py)."""
    pairs = load_folder(emps)
    arrays = [(stretch(read_image(pair.image)), read_mask(pair.mask).foreground) for pair in pairs]
    looks = [look_at(*both) for both in arrays]
    alarms = sum(bool(look.doubts) for look in looks) + len(same_pictures([look.thumb for look in looks]))
    assert alarms <= 0.03 * len(pairs)
    shifted = [look_at(image, np.roll(mask, 20, 0)).doubts for image, mask in arrays]
    assert sum(any(d.kind == "shifted" for d in doubts) for doubts in shifted) >= 0.8 * len(pairs)


def jpeg(image: np.ndarray) -> np.ndarray:
    stored = io.BytesIO()
    Image.fromarray(image).save(stored, "JPEG", quality=40)
    return np.asarray(Image.open(stored))


@pytest.mark.parametrize(
    ("change", "how"),
    [
        (np.rot90, "turned by 90 degrees"),
        (lambda image: image[:, ::-1], "mirrored"),
        (lambda image: np.rot90(image, 2), "turned by 180 degrees"),
        (jpeg, ""),
        (lambda image: np.asarray(Image.fromarray(image).resize((120, 120))), ""),
        (lambda image: (image * 0.5 + 20).astype(np.uint8), ""),
        (lambda image: jpeg(np.ascontiguousarray(np.rot90(image[::-1]))), "mirrored"),
    ],
)
def test_a_copy_of_a_picture_is_found(change: Callable[[np.ndarray], np.ndarray], how: str) -> None:
    images = [drawn(index)[0] for index in range(8)]
    copy = np.ascontiguousarray(change(images[3]))
    found = same_pictures([thumb(image) for image in [*images, copy]])
    assert list(found) == [8] and found[8][0] == 3 and how in found[8][1]


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    """Ten pairs: number 2 is inverted, 5 is shifted, 7 shows 1 turned, 8 is a copy of its image."""
    root = write_dataset(tmp_path / "data", num=10, size=128, seed=4)
    image, mask = discs()
    for index, (picture, truth) in {
        2: (image, ~mask),
        5: (np.ascontiguousarray(image[::-1]), np.roll(mask[::-1], 9, 0)),
    }.items():
        Image.fromarray(picture).save(root / "images" / f"ordered_{index:05d}.png")
        Image.fromarray(truth.astype(np.uint8) * 255).save(root / "masks" / f"ordered_{index:05d}.png")
    for folder in ("images", "masks"):
        turned = Image.open(root / folder / "ordered_00001.png").rotate(90)
        turned.save(root / folder / "ordered_00007.png")
    (root / "masks" / "ordered_00008.png").write_bytes((root / "images" / "ordered_00008.png").read_bytes())
    return root


def test_the_most_suspect_pairs_come_first(faulty: Path) -> None:
    report = check(faulty)
    first = [(int(suspect.pair.stem[-2:]), {doubt.kind for doubt in suspect.doubts}) for suspect in report.suspects]
    assert first[0] == (8, {"equal", "unusable"}) and first[1] == (2, {"inverted"})
    assert first[2][0] == 5 and "shifted" in first[2][1] and len(first) == 10
    assert {kind for _, kinds in first[4:] for kind in kinds} <= {"duplicate"}
    text = "\n".join(report.as_dict()["warnings"])
    assert "suspect: ordered_00008: mask and image are the same picture" in text
    assert "shows the same as ordered_00001, turned by" in text or "shows the same as ordered_00007, turned by" in text
    assert [problem.where for problem in report.problems] == [str(faulty / "masks" / "ordered_00008.png")]


def test_sheets_are_a_file_or_a_folder(faulty: Path, tmp_path: Path) -> None:
    suspects = check(faulty).suspects
    files, count = write_pair_sheets(suspects, tmp_path / "deep" / "sheet.png")
    assert files == [tmp_path / "deep" / "sheet.png"] and count == 10
    with Image.open(files[0]) as sheet:
        assert sheet.width < 1600 and sheet.height < 1600
    many = suspects * 3
    files, count = write_pair_sheets(many, tmp_path / "sheets")
    assert count == 30 and [file.name for file in files] == ["sheet-001.png", "sheet-002.png"]
    assert len(write_pair_sheets(many, tmp_path / "one.png")[0]) == 1
    red = (pair_sheet(suspects[:2]) == (190, 30, 30)).all(axis=-1).sum()
    quiet = (pair_sheet(suspects[-2:]) == (190, 30, 30)).all(axis=-1).sum()
    assert red > 50 and quiet == 0 and PAIRS_PER_SHEET == 24


def test_sheets_that_cannot_be_written(faulty: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="^sheet cannot be written"):
        write_pair_sheets(check(faulty).suspects, tmp_path / "file" / "sheets")
    with pytest.raises(UserError, match="^no pairs to draw"):
        write_pair_sheets((), tmp_path / "sheet.png")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("shape", [(1, 300), (300, 3), (9, 9), (1, 1)])
def test_pictures_of_few_rows_are_not_doubted(shape: tuple[int, int]) -> None:
    draws = np.random.default_rng(0)
    look = look_at(draws.integers(0, 256, shape).astype(np.uint8), np.arange(np.prod(shape)).reshape(shape) % 2 == 0)
    assert {doubt.kind for doubt in look.doubts} <= {"constant"} and look.thumb.shape == (32, 32)
