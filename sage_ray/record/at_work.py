"""Whether a process is at work on a run, and what is shown of one that no process works on any more."""

from __future__ import annotations

from pathlib import Path

from sage_ray.locks import is_locked

ROLES = ("driver", "writer")
"""Who holds a run: whoever starts it, and whoever trains it."""


def is_at_work(folder: Path) -> bool:
    """Whether a live process is at work on the run in this folder."""
    return any(is_locked(folder / f".{role}.lock") for role in ROLES)


def shown_state(folder: Path, state: str) -> str:
    """The state that a run's record tells, or INTERRUPTED where its process died and the record says RUNNING."""
    return "INTERRUPTED" if state == "RUNNING" and not is_at_work(folder) else state
