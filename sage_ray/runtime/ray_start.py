"""Ray starts whole or not at all, and a Ray of our own without the processes that have nothing to do there."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from sage_ray.termination import postponed

_IDLE_PARTS = {"no_monitor": True, "include_log_monitor": False}
"""Ray's names of parts that a Ray of our own does not need: no autoscaler adds machines, and no log is printed."""


def start_ray(**settings: Any) -> None:
    """`ray.init`, which no signal ends halfway: where one did, the process could hang in Ray for ever.

    Args:
        settings: of `ray.init`; address="local" starts a Ray of our own.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM came meanwhile; this process is not connected then.
    """
    import ray

    try:
        with postponed(), _as_needed(settings.get("address") == "local"):
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **settings)
    except KeyboardInterrupt:
        if ray.is_initialized():
            ray.shutdown()
        raise


@contextmanager
def _as_needed(alone: bool) -> Iterator[None]:
    """In the body, Ray leaves SIGTERM to us and, if `alone`, starts no `_IDLE_PARTS`.

    Its own handler of SIGTERM raises SystemExit wherever the process is just then. The parts are two processes that
    would import for a second each; `ray start` has options for them, `ray.init` has none. Where a later Ray keeps
    either elsewhere, it starts as usual; tests/ray/test_idle_processes.py tells.
    """
    parameter: Any = import_module("ray._private.parameter")
    utils: Any = import_module("ray._private.utils")
    handler, whole = getattr(utils, "set_sigterm_handler", None), getattr(parameter, "RayParams", None)
    try:
        if handler is not None:
            utils.set_sigterm_handler = lambda handle: None
        if alone and whole is not None:
            known = inspect.signature(whole).parameters
            parts = {name: value for name, value in _IDLE_PARTS.items() if name in known}
            parameter.RayParams = functools.partial(whole, **parts)
        yield
    finally:
        if handler is not None:
            utils.set_sigterm_handler = handler
        if whole is not None:
            parameter.RayParams = whole
