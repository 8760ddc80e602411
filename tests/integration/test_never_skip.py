"""Tests marked golden or real fail where they would skip: what tests/conftest.py adds to pytest."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]


def outcome(folder: Path, source: str, where: str = "test_case.py", **environment: str) -> tuple[int, str]:
    """Exit code and output of pytest on one module under this repository's conftest."""
    (folder / "conftest.py").write_text((REPO / "tests" / "conftest.py").read_text())
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n    golden: g\n    real: r\n    slow: s\n")
    module = folder / where
    module.parent.mkdir(exist_ok=True)
    module.write_text(source)
    words = [sys.executable, "-m", "pytest", "-q", "-ra", "--strict-markers", "-p", "no:cacheprovider", str(folder)]
    done = subprocess.run(words, cwd=folder, env=os.environ | environment, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout


@pytest.mark.parametrize("mark", ["golden", "real"])
@pytest.mark.parametrize(
    "body",
    [
        "def test_it():\n    pytest.skip('nothing here')",
        "@pytest.mark.skipif(True, reason='nothing here')\ndef test_it(): pass",
        "@pytest.fixture\ndef data(): pytest.skip('nothing here')\ndef test_it(data): pass",
    ],
    ids=["in the test", "by a mark", "in a fixture"],
)
def test_a_skip_fails(mark: str, body: str, tmp_path: Path) -> None:
    marked = body.replace("def test_it", f"@pytest.mark.{mark}\ndef test_it")
    code, said = outcome(tmp_path, f"import pytest\n{marked}\n")
    assert code == 1 and f"marked {mark} never skips" in said and "nothing here" in said, said
    code, said = outcome(tmp_path, f"import pytest\n{body}\n")
    assert code == 0 and "1 skipped" in said, said


def test_a_parametrisation_over_nothing_fails(tmp_path: Path) -> None:
    source = "import pytest\n@pytest.mark.golden\n@pytest.mark.parametrize('case', [])\ndef test_it(case): pass\n"
    code, said = outcome(tmp_path, source)
    assert code == 1 and "never skips" in said, said


def test_a_module_that_skips_as_a_whole_fails(tmp_path: Path) -> None:
    whole = "import pytest\npytest.skip('no data', allow_module_level=True)\n"
    for number, (source, where) in enumerate(
        [(f"{whole}@pytest.mark.real\ndef test_it(): pass\n", "test_case.py"), (whole, "golden/test_case.py")]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        code, said = outcome(folder, source, where)
        assert code not in (0, 5) and "never skip" in said and "no data" in said, said
    folder = tmp_path / "good"
    folder.mkdir()
    code, said = outcome(folder, whole)
    assert code in (0, 5) and "1 skipped" in said, said


def test_an_expected_failure_is_no_skip(tmp_path: Path) -> None:
    source = "import pytest\n@pytest.mark.golden\n@pytest.mark.xfail\ndef test_it(): assert False\n"
    code, said = outcome(tmp_path, source)
    assert code == 0 and "1 xfailed" in said, said


def test_without_vectors_golden_tests_fail(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "pytest", "-q", "-ra", "-p", "no:cacheprovider", "tests/golden/test_coverage.py"]
    environment = os.environ | {"SAGE_PARITY_DIR": str(tmp_path)}
    done = subprocess.run(words, cwd=REPO, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "skipped" not in done.stdout.splitlines()[-1], done.stdout
    assert "no parity vectors at" in done.stdout


def test_without_micrographs_real_tests_fail(tmp_path: Path) -> None:
    source = "import pytest\n@pytest.mark.real\ndef test_it(emps): pass\n"
    code, said = outcome(tmp_path, source, SAGE_EMPS_DIR=str(tmp_path / "none"))
    assert code == 1 and "no real micrographs at" in said, said
