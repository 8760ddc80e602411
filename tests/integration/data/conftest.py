"""A server on loopback for what is fetched."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fetch_cases import Server

from sage_ray.data import download


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "WAITS_S", (0.0, 0.0))
    running = Server()
    yield running
    running.close()
