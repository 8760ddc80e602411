"""Where the tests of storages keep the trials of their studies."""

from __future__ import annotations

import pytest
from postgres_cases import PostgresServer


@pytest.fixture(scope="module")
def addresses(postgres: PostgresServer) -> dict[str, str]:
    """What a study's file says for each storage."""
    return {"sqlite": "auto", "journal": "journal", "postgres": postgres.database("optuna")}
