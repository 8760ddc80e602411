"""Who is told of a run while it goes on, and who may end it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sage_ray.training.context import Report


@dataclass(frozen=True)
class RunHooks:
    """The hooks of one run; `runtime.launch.run` says when each is called."""

    on_report: Callable[[Report], None] | None = None
    should_stop: Callable[[], bool] | None = None
    on_waiting: Callable[[], None] | None = None
    pause_path: Path | None = None
    stage_patience_s: float | None = None
    on_maker: Callable[[Report], None] | None = None
