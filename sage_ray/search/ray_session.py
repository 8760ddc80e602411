"""The Ray that a sweep runs on, its settings, and its machines."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray
import torch

from sage_ray.errors import UserError
from sage_ray.runtime.devices import Machines, ray_machines, this_machine
from sage_ray.runtime.ray_cluster import connect, disconnect, self_started

ENVIRONMENT = {
    # The older output is the one that verbose=0 silences.
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # A stopped trial writes its record before its actor takes the next one.
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "150",
    # The storage is the truth; Tune's own snapshots would only cost time.
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # The searcher holds trials back; without its limiter Tune would keep one of those that may start waiting.
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",
}


@contextmanager
def environment() -> Iterator[None]:
    """Tune's settings in the environment, for the driver and the actors it starts; what the user has set is kept."""
    added = {key: value for key, value in ENVIRONMENT.items() if key not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for key in added:
            os.environ.pop(key, None)


@contextmanager
def ray_session() -> Iterator[None]:
    """A connected Ray for the body; one that was connected before is used and left alone.

    Raises:
        UserError: `RAY_ADDRESS` cannot be reached, or is that of a Ray client (ray://).
    """
    address = os.environ.get("RAY_ADDRESS", "")
    if address.startswith("ray://"):
        where = f"RAY_ADDRESS={address}"
        raise UserError("a sweep cannot run through a Ray client", where, "give host:port of the head node")
    mine = not ray.is_initialized()
    try:
        connect(num_gpus=None if address else torch.cuda.device_count())
        # Tune's own messages speak of its own files and commands, which are none of the user's.
        logging.getLogger("ray").setLevel(logging.ERROR)
        yield
    finally:
        if mine:
            disconnect()


@contextmanager
def seen_machines() -> Iterator[Machines]:
    """The machines that a study runs on.

    They are those of the cluster of `RAY_ADDRESS`, or of a Ray that is connected, which stays connected for the body;
    else this machine, without a Ray.

    Raises:
        UserError: `RAY_ADDRESS` cannot be reached, or is that of a Ray client (ray://).
    """
    if not os.environ.get("RAY_ADDRESS") and not ray.is_initialized():
        yield this_machine()
        return
    with environment(), ray_session():
        yield ray_machines(grows=not self_started())
