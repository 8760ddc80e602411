"""The folder of parity vectors that golden tests read, and the mark `golden` on every test here."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from parity import Parity, parity_folder  # noqa: E402  (beside this file, whatever pytest's import mode)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark every test of this folder; tests/conftest.py sees to it that none of them skips."""
    item.add_marker("golden")


@pytest.fixture(scope="session")
def parity() -> Parity:
    """The parity vectors; their absence fails, as nothing else shows that the formulas are right."""
    folder = parity_folder()
    if not (folder / "manifest.json").is_file():
        pytest.fail(f"no parity vectors at {folder}: set SAGE_PARITY_DIR to the folder with manifest.json")
    return Parity(folder)
