"""What Ray holds for workers that died as they started is given back: Ray Train 2.60 itself forgets it.

A placement group ends with its controller and the whole job, whichever is later. Ray Train removes it with the workers'
group; but if a worker dies after the group counts as started and before the training function runs (while torch's
process group is made, say), the controller never gets hold of that group. Its own cleaner does not know it either. The
CPUs and GPUs would then stay taken until the study ends, and what comes next would wait for them for ever.
"""

from __future__ import annotations

import contextlib
from typing import Any

from ray.train.torch import TorchTrainer
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback


class HeldPlaces(WorkerGroupCallback, ControllerCallback):
    """Keeps, in Ray Train's controller, the placement group of the workers until it is known to be removed."""

    def __init__(self) -> None:
        self._held: Any = None

    def before_worker_group_start(self, worker_group_context: Any) -> None:
        """Remove that of an attempt that broke off: the next one asks for a group of its own."""
        self._free()

    def after_worker_group_start(self, worker_group: Any) -> None:
        """Keep the group's places; to be called before other callbacks, any of which may meet a dead worker."""
        self._held = worker_group.get_worker_group_state().placement_group_handle

    def after_worker_group_shutdown(self, worker_group_context: Any) -> None:
        """Forget them: Ray Train has removed them."""
        self._held = None

    def after_worker_group_abort(self, worker_group_context: Any) -> None:
        """Forget them: Ray Train has removed them."""
        self._held = None

    async def before_controller_shutdown(self) -> None:
        """Remove what is left."""
        self._free()

    def _free(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            with contextlib.suppress(Exception):  # it has gone in the meantime
                held.shutdown()


class GivingTrainer(TorchTrainer):
    """Ray Train's trainer with `HeldPlaces` as the first of its callbacks, which RunConfig cannot do."""

    def _create_default_callbacks(self) -> list[Any]:
        return [HeldPlaces(), *super()._create_default_callbacks()]  # type: ignore[misc]  # of Ray Train V2
