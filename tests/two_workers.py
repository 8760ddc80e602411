"""Two workers in one process: threads that meet at every reduction, inside one autograd graph."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")
TIMEOUT_S = 30.0


def run_two_workers(work: Callable[[int, Callable[[Tensor], Tensor]], Result]) -> list[Result]:
    """Results of `work(rank, reduce)` on two threads; `reduce` sums a tensor over both and is differentiable.

    The sum is of live tensors, so that the backward of the two losses' sum carries each worker's gradient to the other:
    the semantics of a differentiable all-reduce whose backward sums.
    """
    barrier = threading.Barrier(2, timeout=TIMEOUT_S)
    shared: list[Tensor | None] = [None, None]
    results: list[Result | BaseException | None] = [None, None]

    def reduce_of(rank: int) -> Callable[[Tensor], Tensor]:
        def reduce(tensor: Tensor) -> Tensor:
            shared[rank] = tensor
            barrier.wait()
            first, second = shared
            assert first is not None and second is not None
            barrier.wait()
            return first + second

        return reduce

    def target(rank: int) -> None:
        try:
            with torch.enable_grad():
                results[rank] = work(rank, reduce_of(rank))
        except BaseException as error:  # noqa: BLE001  (re-raised by the caller)
            results[rank] = error
            barrier.abort()

    threads = [threading.Thread(target=target, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results  # type: ignore[return-value]
