"""A watch for tests that keeps what it is told."""

from __future__ import annotations

from sage_ray.watch import SilentWatch


class Heard(SilentWatch):
    """Keeps the lines that it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)
