"""The script that audits a training log, run as a command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from analysis_cases import REPO, run_script
from PIL import Image


@pytest.fixture(scope="session")
def published_log() -> Path:
    """The published training log, whose numbers these tests hold; `SAGE_PARITY_DIR` may point to another."""
    return REPO / "tests" / "golden" / "vectors" / "published_training_log.csv"


def test_the_script_writes_the_audit_of_the_log(published_log: Path, tmp_path: Path) -> None:
    done = run_script("selection_audit", "--csv", published_log, "--out", tmp_path / "audit")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "audit" / "selection_audit.md").read_text()
    assert "| phase 2, dice | 438 | 0.933 | 418 | 0.888 | +0.045 |" in text
    assert "best scores fall on different epochs" in text and "sha256" in text and "selection_audit.py --csv" in text
    numbers = pd.read_csv(tmp_path / "audit" / "selection_audit.csv", comment="#")
    assert len(numbers) == 4 and numbers["plateau"].round(3).tolist() == [0.887, 0.821, 0.888, 0.828]
    with Image.open(tmp_path / "audit" / "selection_audit.png") as picture:
        assert "Log published_training_log.csv" in picture.info["Description"] and min(picture.size) > 500


def test_a_reader_that_has_gone_ends_no_script(published_log: Path, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    script = [sys.executable, str(REPO / "analysis" / "selection_audit.py"), "--csv", str(published_log)]
    try:
        done = subprocess.run(
            [*script, "--out", str(tmp_path)], cwd=REPO, stdout=writer, stderr=subprocess.PIPE, timeout=120, check=False
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "selection_audit.png").is_file()
