"""Connection to Ray: a local one started here, or the cluster of `RAY_ADDRESS`; bounded in time."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urlsplit

from sage_ray.errors import RunFailed, UserError
from sage_ray.runtime.devices import Machines, Node, ray_nodes
from sage_ray.runtime.ray_start import start_ray
from sage_ray.runtime.room import WAIT_VARIABLE, await_room
from sage_ray.runtime.surroundings import settings_of_processes
from sage_ray.sections import RuntimeConfig
from sage_ray.training.context import available_cpus

PROBE_TIMEOUT_S = 3.0
CONNECT_TIMEOUT_S = 45.0
ADD_A_NODE = f"add a node that is big enough, or wait for one with {WAIT_VARIABLE}=MINUTES"
OBJECT_STORE_BYTES = 256 * 2**20

_SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # the default of 2 s is most of what a short run takes
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative data paths keep their meaning
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
_TOKEN = re.compile(r"auth\w*[ _-]?token|AUTH_MODE|unauthenticated|AuthenticationError", re.IGNORECASE)
_OWN: list[int] = []
"""The process that has started a local Ray, while that lives; a process that Ray starts is another one."""
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
        RunFailed: it broke off while it was starting.
        KeyboardInterrupt: Ctrl-C or SIGTERM came meanwhile; this process is not connected then.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS")
    if address and address != "local":
        _check_address(address)
        env_vars = settings_of_processes(_SETTINGS)
        start_ray(address=address, runtime_env={"env_vars": env_vars})
        return
    try:
        start_ray(
            address="local",
            num_cpus=num_cpus or available_cpus(),
            num_gpus=num_gpus,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
        )
    except (RuntimeError, OSError, TimeoutError, ValueError) as error:
        raise UserError("Ray does not start", "this machine", f"`sage-ray doctor` looks closer ({error})") from None
    except Exception as error:  # Ray has no class of its own for a part of it that ended, or that took too long
        if type(error) is not Exception:
            raise
        raise RunFailed(f"Ray did not start; start the command again ({error})") from None
    _OWN[:] = [os.getpid()]


def self_started() -> bool:
    """Whether the connected Ray is one of this machine alone that this process has started."""
    return [os.getpid()] == _OWN


def disconnect() -> None:
    """Leave Ray, ending what this process runs there; a local Ray ends. Nothing happens if there is none."""
    import ray

    if ray.is_initialized():
        ray.shutdown()
    _OWN.clear()


def check_resources(
    runtime: RuntimeConfig, gpus_per_worker: float, say: Callable[[str], None] = lambda line: None
) -> None:
    """Refuse what the connected Ray can never give; it would wait for ever.

    What fits on no node now, but may later (`room.await_room`), is said.

    Raises:
        UserError: the workers do not fit, each on one node, and nothing can be waited for.
    """
    machines = Machines(ray_nodes())
    cpu = runtime.cpus_per_worker
    if machines.fit(cpu, gpus_per_worker, runtime.workers):
        return
    bundle = {"CPU": float(cpu), **({"GPU": gpus_per_worker} if gpus_per_worker else {})}
    awaited = None if self_started() else await_room(bundle, runtime.workers)
    if awaited is not None:
        say(awaited.line)
        return
    total = {"CPU": machines.cpus, "GPU": machines.gpus}
    wanted = {"CPU": runtime.cpus_per_worker, "GPU": gpus_per_worker}
    keys = {"CPU": "runtime.cpus_per_worker", "GPU": "runtime.gpus_per_worker"}
    for kind, share in wanted.items():
        need, have = share * runtime.workers, total.get(kind, 0.0)
        if need > have + 1e-6:
            where = f"runtime.workers={runtime.workers} x {keys[kind]}={share:g}"
            mend = f"Ray has {have:g} {kind}s here: lower runtime.workers or {keys[kind]}"
            raise UserError(f"needs {need:g} {kind}s", where, mend)
    where = f"runtime.cpus_per_worker={cpu:g}, runtime.gpus_per_worker={gpus_per_worker:g}"
    raise UserError(too_big_for_a_node("worker", bundle, machines.nodes), where, f"lower them, {ADD_A_NODE}")


def too_big_for_a_node(what: str, bundle: Mapping[str, float], nodes: Sequence[Node]) -> str:
    """ "2-CPU trial on 1-CPU nodes": what is asked for, and the biggest node that there is."""
    most = {"CPU": max((node.cpus for node in nodes), default=0.0), "GPU": max((n.gpus for n in nodes), default=0.0)}
    asked = " and ".join(f"{amount:g}-{kind}" for kind, amount in bundle.items() if amount)
    have = " and ".join(f"{most[kind]:g}-{kind}" for kind, amount in bundle.items() if amount)
    return f"{asked} {what} on {have} nodes"


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
    except subprocess.TimeoutExpired as slow:
        said = slow.stderr or b""
        _refuse_token(said.decode(errors="replace") if isinstance(said, bytes) else said, where)
        raise UserError(f"Ray cluster does not answer within {CONNECT_TIMEOUT_S:g} s", where, mend) from None
    if done.returncode:
        _refuse_token(done.stderr, where)
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise UserError(f"Ray cluster refuses ({(lines or ['no message'])[-1][:200]})", where, mend)


def _refuse_token(said: str, where: str) -> None:
    """Raise UserError if it was for want of the right token that the cluster let nobody in."""
    if not _TOKEN.search(said):
        return
    mode = os.environ.get("RAY_AUTH_MODE") or "not set"
    mend = (
        "set RAY_AUTH_MODE=token here and on every node, and give the cluster's token in RAY_AUTH_TOKEN, in the file "
        "of RAY_AUTH_TOKEN_PATH or in ~/.ray/auth_token"
    )
    raise UserError(f"Ray cluster wants a token that this process does not have (RAY_AUTH_MODE is {mode})", where, mend)
