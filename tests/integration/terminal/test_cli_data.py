"""`data check` as a person meets it: what it says of pairs, sheets, commands for a shell, one-line errors."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sage_ray.data.synth import write_dataset
from sage_ray.terminal.cli import call

NAMES = ("sample #1", "[old] data", "2024-01-31", "null", "1e3", "a=b, c: d", "it's", "true")


def data(path: Path, num: int = 3) -> Path:
    return write_dataset(path, num=num, size=48, seed=2)


def answered(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str], str]:
    code = call(words)
    said = capsys.readouterr()
    return code, said.out.splitlines(), said.err


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_of_any_name_goes_from_check_to_config(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    data(tmp_path / name)
    code, lines, _ = answered(["data", "check", name], capsys)
    assert code == 0
    follow = [line.split(": ", 1)[1] for line in lines if line.startswith(("next: ", "  or: "))]
    words = [shlex.split(command) for command in follow]
    assert len(words) == 2 and all(command[0] == "sage-ray" for command in words)
    assert words[0][1:] == ["train", "--preset", "tiny_sage_gan", "--set", f"data.path={name}"]
    code, lines, _ = answered(["config", "show", *words[0][2:], "--json"], capsys)
    shown = json.loads(lines[-1])
    assert code == 0 and shown["config"]["data"]["path"] == name
    assert shlex.split(shown["next"][0])[2:] == words[0][2:]


def test_the_commands_that_follow_are_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    root = data(tmp_path / "my data")
    (root / "masks").rename(root / "outlined")
    asked = [
        "data",
        "check",
        "my data",
        "--masks",
        "outlined/*",
        "--crop-bottom",
        "4",
        "--home",
        "other home",
        "--json",
    ]
    code, lines, _ = answered(asked, capsys)
    told = json.loads(lines[-1])
    assert code == 0 and told["pairing"] == "all 3 masks are named outlined/*"
    words = ["--set", "data.path=my data", "--set", "data.masks=outlined/*", "--set", "data.crop_bottom=4"]
    for command, start in zip(
        told["next"], (["train", "--preset", "tiny_sage_gan"], ["plan", "search_full"]), strict=True
    ):
        assert shlex.split(command) == ["sage-ray", *start, *words, "--home", "other home"]


def test_json_keeps_its_keys_and_gains_warnings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = data(tmp_path / "data", 4)
    mask = root / "masks" / "ordered_00001.png"
    Image.fromarray(np.zeros_like(np.asarray(Image.open(mask)))).save(mask)
    (root / "notes.txt").touch()
    code, lines, _ = answered(["data", "check", str(root), "--json"], capsys)
    told = json.loads(lines[-1])
    assert code == 0 and set(told["coverage"]) == {"min", "median", "max"} and told["coverage"]["min"] == 0
    assert set(told["objects"]) == {"total", "min", "median", "max"} and told["problems"] == []
    assert {"path", "pairs", "sizes", "empty_masks"} <= set(told) and told["empty_masks"] == 1
    assert told["warnings"] == [
        "suspect: ordered_00001: the mask is empty",
        "1 file passed over: 1 .txt (notes.txt)",
    ]
    assert all(warning in lines for warning in told["warnings"])


def test_sheets_are_drawn_beside_problems_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = data(tmp_path / "data")
    out = tmp_path / "sheets" / "first.png"
    code, lines, _ = answered(["data", "check", str(root), "--sheet", str(out)], capsys)
    assert code == 0 and out.is_file()
    assert f"1 sheet with 3 of 3 pairs, none is suspect: {out}" in lines
    (root / "masks" / "ordered_00000.png").write_bytes(b"no picture")
    code, lines, error = answered(["data", "check", str(root), "--sheet", str(tmp_path / "all")], capsys)
    assert code == 2 and (tmp_path / "all" / "sheet-001.png").is_file() and error.count("\n") == 1
    assert any(line.startswith("unreadable image file") for line in lines)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--masks", "nowhere/*"], "data.masks fits no file: nowhere/*: "),
        (["--masks", "masks/a.png"], "bad pattern of data.masks: masks/a.png: "),
        (["--sheet", "/proc/nothing/here.png"], "sheet cannot be written"),
    ],
)
def test_bad_input_is_one_clear_line(
    words: list[str], what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, error = answered(["data", "check", str(data(tmp_path / "data")), *words], capsys)
    assert code == 2 and error.startswith(what) and error.count("\n") == 1


def test_sheets_of_drawn_data_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, error = answered(["data", "check", "synthetic://ordered?num=2&size=32", "--sheet", "x.png"], capsys)
    assert code == 2 and error.startswith("no files to draw: synthetic://")
