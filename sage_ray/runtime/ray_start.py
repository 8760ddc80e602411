"""Ray starts whole or not at all, whatever signal comes meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from sage_ray.termination import postponed


def start_ray(**settings: Any) -> None:
    """`ray.init`, which no signal ends halfway: where one did, the process could hang in Ray for ever.

    Args:
        settings: of `ray.init`.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM came meanwhile; this process is not connected then.
    """
    import ray

    try:
        with postponed(), _our_own_sigterm():
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **settings)
    except KeyboardInterrupt:
        if ray.is_initialized():
            ray.shutdown()
        raise


@contextmanager
def _our_own_sigterm() -> Iterator[None]:
    """In the body, Ray sets no handler of SIGTERM: its own raises SystemExit wherever the process is just then.

    Where a later Ray sets it elsewhere, it is set as usual; tests/ray/test_told_while_ray_starts.py tells.
    """
    utils: Any = import_module("ray._private.utils")
    handler = getattr(utils, "set_sigterm_handler", None)
    if handler is None:
        yield
        return
    utils.set_sigterm_handler = lambda handle: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = handler
