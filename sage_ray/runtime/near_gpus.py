"""Work that belongs where the GPUs are, for a driver that may have none itself, such as one on a cluster's head."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

from sage_ray.config import ExperimentConfig
from sage_ray.errors import NodeUnfit
from sage_ray.record.home import Home
from sage_ray.runtime.devices import gpus_of_worker
from sage_ray.runtime.home_signs import CheckedNodes, sign_missing
from sage_ray.runtime.surroundings import Surroundings, surroundings_of

P = ParamSpec("P")
R = TypeVar("R")
TRIES = 2
"""Times that a task is tried again whose machine went away."""


class Near:
    """Calls functions here, or as tasks of Ray with a GPU; see `near_gpus`."""

    def __init__(self, options: dict[str, Any] | None, home: Home, sign: str | None, surroundings: Any) -> None:
        self._options, self._home, self._sign, self._surroundings = options, home, sign, surroundings

    def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """What `function` returns, or raises; there it must be importable, and its arguments be pickled."""
        if self._options is None:
            return function(*args, **kwargs)
        import ray

        task: Any = ray.remote(_work)
        answer = task.options(**self._options).remote(
            function, args, kwargs, self._home.address, self._sign, self._surroundings
        )
        try:
            found: R = ray.get(answer)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except KeyboardInterrupt:
            ray.cancel(answer, force=True)
            raise
        return found


@contextmanager
def near_gpus(
    config: ExperimentConfig | None, home: Home, say: Callable[[str], None] = lambda line: None
) -> Iterator[Near]:
    """Who calls functions where runs of this config compute.

    That is here, unless the runs compute on GPUs and this process has none: then each call is a task on a node of Ray
    that has the run's share of a GPU free. Ray is connected meanwhile, and left if it was not connected before.

    Args:
        config: of a run, its runtime resolved; None: nothing needs a GPU, and all is called here.
        home: what the functions read and write.
        say: told lines for the user.

    Raises:
        UserError: no Ray, or a node is not as it should be.
    """
    import torch

    if config is None or config.runtime.device != "cuda" or torch.cuda.is_available():
        yield Near(None, home, None, None)
        return
    import ray

    from sage_ray.runtime.node_watch import selector_without
    from sage_ray.runtime.ray_cluster import connect, disconnect, self_started
    from sage_ray.runtime.ray_train import checked_nodes

    mine = not ray.is_initialized()
    connect()
    runtime = config.runtime
    options = {"num_cpus": runtime.cpus_per_worker, "num_gpus": gpus_of_worker(runtime), "max_retries": TRIES}
    try:
        if self_started():
            yield Near(options, home, None, None)
            return
        with checked_nodes(config, home, say) as checked:
            yield Near({**options, **_without(checked, selector_without)}, home, checked.sign, _travelling(home))
    finally:
        if mine:
            disconnect()


def _without(checked: CheckedNodes, selector: Callable[[tuple[str, ...]], dict[str, str]]) -> dict[str, Any]:
    return {"label_selector": selector(checked.avoid)} if checked.avoid else {}


def _travelling(home: Home) -> Any:
    import ray

    return [ray.put(surroundings_of(home))]  # in a list, so that the worker is given the reference


def _work(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    home: str,
    sign: str | None,
    surroundings: list[Any] | None,
) -> Any:
    import ray

    if surroundings is not None:
        found: Surroundings = ray.get(surroundings[0])
        found.take_on()
    missing = None if sign is None else sign_missing(home, sign)
    if missing is not None:
        node_id = str(ray.get_runtime_context().get_node_id())
        raise NodeUnfit(f"home {missing}", f"node {socket.gethostname()}", "mount the driver's home there", node_id)
    return function(*args, **kwargs)
