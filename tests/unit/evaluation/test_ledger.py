"""Ledgers: a row is appended once, and never beside another process that holds the ledger."""

from __future__ import annotations

from pathlib import Path

import pytest

from sage_ray.errors import UserError
from sage_ray.evaluation import ledger
from sage_ray.locks import locked


def test_nothing_is_appended_beside_another_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / ledger.TEST_READS
    monkeypatch.setattr(ledger, "LOCK_TIMEOUT_S", 0.05)
    with locked(path.with_name(f"{path.name}.lock"), timeout_s=1) as held:
        assert held
        with pytest.raises(UserError, match="ledger is locked by another process"):
            ledger.append_once(path, {"reader": "a"}, key=("reader",))
        assert ledger.read(path) == []
    assert ledger.append_once(path, {"reader": "a"}, key=("reader",))
    assert not ledger.append_once(path, {"reader": "a"}, key=("reader",))
    assert [row["reader"] for row in ledger.read(path)] == ["a"]
