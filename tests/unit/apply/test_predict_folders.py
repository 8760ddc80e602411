"""predict on folders as users have them: bad files in a batch, used result folders, names that collide, other files."""

from __future__ import annotations

import errno
import json
import os
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from model_cases import make_folder
from PIL import Image

from sage_ray.apply import input_pictures
from sage_ray.apply.input_pictures import find_images, result_names
from sage_ray.apply.predict import NothingSegmented, Prediction, predict
from sage_ray.apply.result_folder import ResultFolder
from sage_ray.errors import CannotWrite, UserError
from sage_ray.record.home import Home
from sage_ray.terminal.model_answers import nothing_segmented, segmented


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "m"
    return make_folder(folder, (32, 32), generator=False, native_size=(32, 32), crop_bottom=8)


def picture(path: Path, seed: int = 0, shape: tuple[int, int] = (40, 36)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(path)
    return path


def five(folder: Path) -> Path:
    for seed in range(5):
        picture(folder / f"a{seed}.png", seed)
    return folder


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def results(*names: str) -> set[str]:
    kinds = ("masks/{}.png", "labels/{}.tif", "overlays/{}.png")
    tables = {"particles.csv", "particles.json", "images.csv", "overview.png", "prediction.json"}
    return tables | {kind.format(name) for name in names for kind in kinds}


def test_one_bad_image_does_not_end_the_batch(model: Path, tmp_path: Path, home: Home) -> None:
    """Cut in half, empty, lower than the bar, not finite, several pages, a folder of that name: each is named."""
    folder = five(tmp_path / "in")
    half = folder / "a2.png"
    half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])
    (folder / "b_empty.png").write_bytes(b"")
    picture(folder / "c_low.png", shape=(8, 40))
    tifffile.imwrite(folder / "d_nan.tif", np.full((40, 40), np.nan, np.float32))
    tifffile.imwrite(folder / "e_pages.tif", np.zeros((2, 40, 40), np.uint8), photometric="minisblack")
    (folder / "f.png").mkdir()
    result = predict(model, folder, tmp_path / "out", home=home)
    bad = {failed.image: failed.error for failed in result.failed}
    assert list(bad) == ["a2.png", "b_empty.png", "c_low.png", "d_nan.tif", "e_pages.tif"]
    for (name, error), what in zip(
        bad.items(), ("truncated", "empty file", "lower than its information bar", "finite", "2 pages"), strict=True
    ):
        assert what in error and name in error and "\n" not in error
    assert result.images == 4 and files(tmp_path / "out") == results("a0", "a1", "a3", "a4")
    assert set(pd.read_csv(tmp_path / "out" / "images.csv")["image"]) == {"a0.png", "a1.png", "a3.png", "a4.png"}
    facts = json.loads((tmp_path / "out" / "prediction.json").read_text())
    assert facts["failed"] == [{"image": image, "error": error} for image, error in bad.items()]
    answer = segmented(result, tmp_path / "out")
    assert answer.exit_code == 1 and [entry["image"] for entry in answer.fields["failed"]] == list(bad)
    told = answer.lines[-6:]
    assert told[0] == "5 of 9 images could not be segmented:"
    assert [line.strip() for line in told[1:]] == list(bad.values())


def test_a_good_twin_ends_with_exit_code_0_and_all_bad_with_2(model: Path, tmp_path: Path, home: Home) -> None:
    good = predict(model, five(tmp_path / "good"), tmp_path / "out", home=home)
    assert segmented(good, tmp_path / "out").exit_code == 0 and not good.failed
    before = {name: (tmp_path / "out" / name).read_bytes() for name in files(tmp_path / "out")}
    bad = tmp_path / "bad"
    bad.mkdir()
    for name in ("a.png", "b.png"):
        (bad / name).write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(NothingSegmented, match="none of 2 images could be segmented") as caught:
        predict(model, bad, tmp_path / "out", home=home)
    answer = nothing_segmented(caught.value)
    assert answer.exit_code == 2 and len(answer.lines) == len(answer.fields["failed"]) == 2
    # Nothing could be written, so nothing was removed.
    assert {name: (tmp_path / "out" / name).read_bytes() for name in files(tmp_path / "out")} == before


def test_a_full_disk_ends_the_batch(model: Path, tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = five(tmp_path / "in")
    saves: list[Path] = []
    save = Image.Image.save

    def full(self: Image.Image, path: Any, *arguments: Any, **options: Any) -> None:
        saves.append(path)
        if len(saves) > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(self, path, *arguments, **options)

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(CannotWrite, match="cannot write: .*a1.png: free space .*No space left"):
        predict(model, folder, tmp_path / "out", home=home)
    monkeypatch.setattr(Image.Image, "save", save)
    # What the broken call left is known, and the next one replaces it.
    (tmp_path / "out" / "masks" / ".a1.png.0123456789ab.tmp").write_bytes(b"half")
    (tmp_path / "out" / "masks" / ".a1.png.notes.tmp").write_bytes(b"mine")
    picture(tmp_path / "one" / "a0.png")
    predict(model, tmp_path / "one", tmp_path / "out", home=home)
    assert files(tmp_path / "out") == results("a0") | {"masks/.a1.png.notes.tmp"}


def test_results_beside_the_images(model: Path, tmp_path: Path, home: Home) -> None:
    """predict OUT -o OUT again and again: the images alone are segmented, results of one that is gone go."""
    out = tmp_path / "data"
    for seed in range(3):
        picture(out / f"a{seed}.png", seed)
    (out / "masks").mkdir()
    (out / "masks" / "mine.png").write_bytes(b"mine")
    own = {"a0.png", "a1.png", "a2.png", "masks/mine.png"}
    for _ in range(2):
        assert predict(model, out, out, home=home).images == 3
        assert files(out) == results("a0", "a1", "a2") | own
    (out / "a1.png").unlink()
    assert predict(model, out, out, home=home).images == 2
    assert files(out) == (results("a0", "a2") | own) - {"a1.png"}
    # An image that cannot be read any more has no result either, and a folder elsewhere does not matter here.
    (out / "a2.png").write_bytes(b"")
    assert predict(model, out, out, home=home).images == 1
    assert files(out) == (results("a0") | own) - {"a1.png"}
    again = predict(model, out, tmp_path / "elsewhere", home=home)
    assert again.images == 1 and "overview" not in again.passed_over


def test_results_of_the_release_before_are_known_by_its_tables(model: Path, tmp_path: Path, home: Home) -> None:
    out = tmp_path / "data"
    predict(model, five(out), out, home=home)
    facts = json.loads((out / "prediction.json").read_text())
    del facts["written"]
    (out / "prediction.json").write_text(json.dumps(facts))
    (out / "a4.png").unlink()
    assert predict(model, out, out, home=home).images == 4
    assert "masks/a4.png" not in files(out)


@pytest.mark.parametrize("name", ["masks/a.png", "overview.png", "particles.csv", "prediction.json"])
def test_a_file_that_predict_did_not_write_is_never_replaced(
    model: Path, tmp_path: Path, home: Home, name: str
) -> None:
    picture(tmp_path / "images" / "a.png")
    out = tmp_path / "out"
    mine = picture(out / name) if name.endswith(".png") else out / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_bytes(b"{}")
    with pytest.raises(UserError, match=f"did not write: .*{name}: choose another folder"):
        predict(model, tmp_path / "images", out, home=home)
    assert files(out) == {name} and mine.read_bytes() == b"{}"


def test_an_input_is_never_replaced_or_removed(model: Path, tmp_path: Path, home: Home) -> None:
    out = tmp_path / "out"
    predict(model, five(tmp_path / "in"), out, home=home)
    before = files(out)
    for images in (out / "masks", out / "masks" / "a0.png"):
        with pytest.raises(UserError, match="image would be replaced by a result"):
            predict(model, images, out, home=home)
    link = tmp_path / "link"
    link.symlink_to(out)
    with pytest.raises(UserError, match="image would be replaced by a result"):
        predict(model, link / "masks", out, home=home)
    assert files(out) == before


def test_a_list_that_points_elsewhere_removes_nothing_there(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "masks").mkdir(parents=True)
    elsewhere = tmp_path / "elsewhere.txt"
    elsewhere.write_text("mine")
    facts = {"format_version": 1, "written": ["../elsewhere.txt", str(elsewhere), "masks", "masks/a.png"]}
    (out / "prediction.json").write_text(json.dumps(facts))
    (out / "masks" / "a.png").write_text("ours")
    ResultFolder(out, ["masks/b.png"], []).begin()
    assert elsewhere.exists() and files(out) == {"prediction.json"}
    known = json.loads((out / "prediction.json").read_text())
    assert known["finished"] is False and known["written"] == ["masks", "masks/a.png", "masks/b.png"]


def test_names_never_collide() -> None:
    accent = unicodedata.normalize("NFD", "é")
    given = ["a.png", "a.tif", "A.png", "a_png.bmp", "b.png", "é.png", f"{accent}.tif", "x" * 240 + ".png"]
    names = result_names([Path(name) for name in given])
    folded = {unicodedata.normalize("NFC", name).casefold() for name in names}
    assert len(folded) == len(given) and names[4] == "b" and names[3] == "a_png"
    assert max(len(name.encode()) for name in names) <= 210
    assert result_names([Path("a.png"), Path("a.tif")]) == ["a_png", "a_tif"]


def test_names_that_differ_in_case_alone_have_results_of_their_own(model: Path, tmp_path: Path, home: Home) -> None:
    for seed, name in enumerate(("a.png", "A.png", "a.tif", "long" * 58 + ".png")):
        picture(tmp_path / "in" / name, seed)
    result = predict(model, tmp_path / "in", tmp_path / "out", home=home)
    table = pd.read_csv(tmp_path / "out" / "images.csv")
    assert result.images == 4 and table["mask"].str.lower().nunique() == 4
    assert all((tmp_path / "out" / mask).is_file() for mask in table["mask"])


def passed(folder: Path) -> str:
    return find_images(folder).passed_over


def test_files_not_looked_at_are_counted_and_named(
    model: Path, tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "in"
    picture(folder / "a.png")
    assert passed(folder) == ""
    picture(folder / "day2" / "c.png")
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(folder / "b.webp")
    (folder / "d.dm4").write_bytes(b"\0" * 64)
    (folder / "notes").write_text("x")
    monkeypatch.setattr(input_pictures, "can_read_microscope_files", lambda: False)
    result: Prediction = predict(model, folder, tmp_path / "out", home=home)
    for part in ("4 files not looked at", "1 .dm4 (d.dm4)", "1 .webp (b.webp)", "1 in day2/ (day2/c.png)"):
        assert part in result.passed_over
    assert 'pip install "sage-ray[microscopes]" lets .dm4 be read' in result.passed_over
    assert result.images == 1 and f"note: {result.passed_over}" in result.notes
    # With the extra a file of a microscope is an image like others, and a damaged one is named like others.
    monkeypatch.setattr(input_pictures, "can_read_microscope_files", lambda: True)
    assert [path.name for path in find_images(folder).paths] == ["a.png", "d.dm4"]
    both = predict(model, folder, tmp_path / "out", home=home)
    assert [failed.image for failed in both.failed] == ["d.dm4"] and ".dm4" not in both.passed_over
    assert find_images(folder / "a.png").passed_over == ""
    picture(tmp_path / "data" / "images" / "a.png")
    picture(tmp_path / "data" / "masks" / "a.png")
    assert passed(tmp_path / "data") == "1 file not looked at: 1 in masks/ (masks/a.png)"
    with pytest.raises(UserError, match=r"no images in folder: .*1 file not looked at: 1 in x/y/ \(x/y/a.png\)"):
        find_images(picture(tmp_path / "deep" / "x" / "y" / "a.png").parents[2])
