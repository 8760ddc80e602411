"""The Ray that a sweep runs on, its settings, and whether the trials of a space fit it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray
import torch

from sage_ray.errors import UserError
from sage_ray.runtime.cluster import connect, disconnect
from sage_ray.search.schema import ResourcesPart
from sage_ray.training.context import available_cpus

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


def check_local_resources(resources: ResourcesPart) -> None:
    """Raise UserError if a trial wants more than this machine has; a cluster is checked once it is connected."""
    if not os.environ.get("RAY_ADDRESS") and not ray.is_initialized():
        _check(resources, available_cpus(), torch.cuda.device_count(), "this machine")


def trials_at_once(resources: ResourcesPart, wanted: int | None) -> int:
    """How many trials to run at a time on the connected Ray.

    Raises:
        UserError: not even one fits.
    """
    total = ray.cluster_resources()  # type: ignore[no-untyped-call]
    cpus, gpus = total.get("CPU", 0.0), total.get("GPU", 0.0)
    _check(resources, cpus, gpus, "the Ray cluster")
    if wanted is not None:
        return wanted
    fits = int(cpus // (resources.cpu * resources.workers))
    if resources.gpu:
        fits = min(fits, int(gpus / (resources.gpu * resources.workers) + 1e-9))
    return max(fits, 1)


def _check(resources: ResourcesPart, cpus: float, gpus: float, where: str) -> None:
    workers = resources.workers
    if resources.gpu and not gpus:
        mend = "set resources.gpu to 0, or use a machine with a GPU"
        raise UserError("no GPU", f"resources.gpu={resources.gpu:g} on {where}", mend)
    if resources.gpu * workers > gpus + 1e-9:
        mend = f"{where} has {gpus:g}: lower resources.gpu or resources.workers"
        raise UserError("too few GPUs", f"{workers} workers of {resources.gpu:g} GPUs", mend)
    if resources.cpu * workers > cpus + 1e-9:
        mend = f"{where} has {cpus:g}: lower resources.cpu or resources.workers"
        raise UserError("too few CPUs", f"{workers} workers of {resources.cpu:g} CPUs", mend)
