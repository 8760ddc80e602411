"""Connection to Ray: a local one started here, or the cluster of `RAY_ADDRESS`; bounded in time."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from urllib.parse import urlsplit

from sage_ray.errors import UserError
from sage_ray.sections import RuntimeConfig
from sage_ray.training.context import available_cpus

PROBE_TIMEOUT_S = 3.0
CONNECT_TIMEOUT_S = 45.0
OBJECT_STORE_BYTES = 256 * 2**20

_SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # the default of 2 s is most of what a short run takes
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative data paths keep their meaning
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
# Connecting for real is the only proof that a port speaks Ray of this version; Ray itself retries for minutes.
_CONNECT = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR'); ray.shutdown()"


def connect(*, num_cpus: int | None = None, num_gpus: int | None = None) -> None:
    """Connect this process to Ray; nothing happens if it is connected.

    Without `RAY_ADDRESS` a Ray of this machine alone is started; it ends with this process. `address="local"` keeps a
    stale cluster file of somebody else out of it.

    Args:
        num_cpus: logical CPUs of a local Ray; None: those that this process may use.
        num_gpus: logical GPUs of a local Ray; None: those that Ray finds.

    Raises:
        UserError: the cluster of `RAY_ADDRESS` does not answer, or a local Ray does not start.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS")
    if address and address != "local":
        _check_address(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        return
    try:
        ray.init(
            address="local",
            num_cpus=num_cpus or available_cpus(),
            num_gpus=num_gpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=OBJECT_STORE_BYTES,
        )
    except (RuntimeError, OSError, TimeoutError, ValueError) as error:
        raise UserError("Ray does not start", "this machine", f"`sage-ray doctor` looks closer ({error})") from None


def disconnect() -> None:
    """Leave Ray, ending what this process runs there; a local Ray ends. Nothing happens if there is none."""
    import ray

    if ray.is_initialized():
        ray.shutdown()


def check_resources(runtime: RuntimeConfig, gpus_per_worker: float) -> None:
    """Refuse what the connected Ray can never give; it would wait for ever.

    Raises:
        UserError: more CPUs or GPUs asked for than all nodes have together.
    """
    import ray

    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    wanted = {"CPU": runtime.cpus_per_worker, "GPU": gpus_per_worker}
    keys = {"CPU": "runtime.cpus_per_worker", "GPU": "runtime.gpus_per_worker"}
    for kind, share in wanted.items():
        need, have = share * runtime.workers, total.get(kind, 0.0)
        if need > have + 1e-6:
            where = f"runtime.workers={runtime.workers} x {keys[kind]}={share:g}"
            mend = f"Ray has {have:g} {kind}s here: lower runtime.workers or {keys[kind]}"
            raise UserError(f"needs {need:g} {kind}s", where, mend)


def _check_address(address: str) -> None:
    mend = "start the cluster, mend RAY_ADDRESS, or unset it to use this machine alone"
    where = f"RAY_ADDRESS={address}"
    if address != "auto":
        parts = urlsplit(address if "://" in address else f"ray-gcs://{address}")
        try:
            with socket.create_connection((parts.hostname or "", parts.port or 6379), timeout=PROBE_TIMEOUT_S):
                pass
        except (OSError, ValueError) as error:
            raise UserError(f"Ray cluster does not answer ({error})", where, mend) from None
    try:
        command = [sys.executable, "-c", _CONNECT, address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=CONNECT_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise UserError(f"Ray cluster does not answer within {CONNECT_TIMEOUT_S:g} s", where, mend) from None
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise UserError(f"Ray cluster refuses ({(lines or ['no message'])[-1][:200]})", where, mend)
