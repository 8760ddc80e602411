"""docs/reference/home.md against real homes: every file and every column that one has stands on the page."""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from sage_ray.config import resolve
from sage_ray.evaluation.locked_test import evaluate
from sage_ray.record.home import Home
from sage_ray.record.run_record import RunLabels, RunRecord
from sage_ray.runtime.launch import run

REPO = Path(__file__).resolve().parents[2]
PAGE = (REPO / "docs" / "reference" / "home.md").read_text(encoding="utf-8")
TINY = "data.path=synthetic://ordered?num=16&size=32&seed=0 data.image_size=[32,32] segmenter.width=2 segmenter.depth=2"
TINY += " generator.width=2 generator.depth=2 generator.style_dim=4 discriminators.width=2 discriminators.heads=1"
TINY += " discriminators.head_dim=4 pretrain.epochs=1 adversarial.epochs=1 adversarial.freeze_epochs=0"
TINY += " adversarial.mix_start=1 adversarial.mix_max=1 adversarial.perceptual=none runtime.attention_every=1"
TINY += " runtime.pictures=false"


def first_cells(title: str) -> set[str]:
    """Code spans in the first column of the table below a title or a line that begins with it."""
    below = PAGE.split(title, 1)[1]
    rows = re.search(r"(?:^\|.*\n?)+", below, re.M)
    assert rows, title
    return {span for row in rows[0].splitlines() for span in re.findall(r"`([^`]+)`", row.split("|")[1])}


FILES = {file for title in ("## The home itself", "## A study", "## A run") for file in first_cells(title)}
FILES -= {"studies/NAME/", "runs/ID/"}  # their files have tables of their own
NAME = re.compile(r"(?<![A-Za-z])[A-Z]+(?![A-Za-z])")


def is_told(path: str) -> bool:
    """Whether the page names a file of a home, itself or by a folder; words in capitals fit any name."""
    if any(part.startswith(".") for part in path.split("/")) or path.endswith(".lock"):
        return True  # locks and signs, as the page says
    patterns = [NAME.sub("[^/]+", re.escape(file)) for file in FILES]
    return any(re.fullmatch(f"{pattern}.*" if pattern.endswith("/") else pattern, path) for pattern in patterns)


def untold(home: Path) -> list[str]:
    paths = [path.relative_to(home).as_posix() for path in sorted(home.rglob("*")) if path.is_file()]
    assert len(paths) > 10
    return [path for path in paths if not is_told(path)]


def lacking(columns: set[str], title: str) -> set[str]:
    """Columns that the table of the page does not name; TERM and SCORE fit any name."""
    patterns = [NAME.sub(".+", re.escape(name)) for name in first_cells(title)]
    return {name for name in columns if not any(re.fullmatch(pattern, name) for pattern in patterns)}


def columns_of(path: Path) -> set[str]:
    return set(pq.read_schema(path).names)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a run of both phases whose locked test has been read."""
    home = tmp_path_factory.mktemp("told") / "home"
    config = resolve("tiny_sage_gan", sets=TINY.split()).config
    run(config, Home(home), "told", labels=RunLabels(), mirror=False, launcher="inline")
    evaluate("told", None, Home(home), baseline=False)
    return home


def test_every_file_of_a_run_is_told(home: Path) -> None:
    assert not untold(home)


def test_every_file_of_studies_and_final_trainings_is_told(tmp_path: Path) -> None:
    with tarfile.open(REPO / "tests" / "data" / "home-b73245d.tar.xz") as tar:
        tar.extractall(tmp_path, filter="data")
    assert not untold(tmp_path / "home")


def test_every_field_of_a_record_is_told_and_none_is_invented() -> None:
    assert first_cells("## Fields of `record.json`") == set(RunRecord.model_fields)


def test_every_column_is_told(home: Path) -> None:
    folder = home / "runs" / "told"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert not lacking({name for line in lines for name in line}, "`metrics.jsonl`, one line")
    assert not lacking(columns_of(folder / "per_image.parquet"), "`per_image.parquet`, one row")
    assert not lacking(columns_of(folder / "particle_sizes.parquet"), "`particle_sizes.parquet`, one row")
    assert not lacking(columns_of(folder / "artifacts" / "manifest.parquet"), "`artifacts/manifest.parquet`, one row")
    reads = [json.loads(line) for line in (home / "test_reads.jsonl").read_text().splitlines()]
    assert reads and not lacking({name for line in reads for name in line}, "`test_reads.jsonl`, one line")


def test_no_column_of_a_table_is_invented(home: Path) -> None:
    folder = home / "runs" / "told"
    for title, path in [
        ("`per_image.parquet`, one row", folder / "per_image.parquet"),
        ("`artifacts/manifest.parquet`, one row", folder / "artifacts" / "manifest.parquet"),
    ]:
        assert first_cells(title) == columns_of(path)


@pytest.mark.parametrize("path", ["notes.txt", "runs/x/extra.bin", "studies/a/other.yaml"])
def test_a_file_that_is_not_told_is_seen(path: str) -> None:
    assert not is_told(path)
