"""Host copies of tensors that go on being trained, taken without waiting for the device, in memory used again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor


class HostCopy:
    """Copies of named tensors in host memory, one buffer a name, kept from one copy to the next.

    From a CUDA device the buffers are pinned and the copy runs on a stream of its own: it begins when the work that was
    launched before it is done, and work that is launched after it waits for it on the device, so that no later step
    changes what is being copied. The host waits for nothing. From the CPU it is a plain copy.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}
        self._streams: dict[torch.device, torch.cuda.Stream] = {}

    def take(self, tensors: Mapping[str, Tensor], unchanged: Collection[str] = ()) -> Callable[[], dict[str, Tensor]]:
        """Begin to copy; the call that is returned waits until the copies are whole and gives them, in any thread.

        They hold until the next `take`, which the caller must not call before it is done with them. Buffers of names
        that are not given are let go.

        Args:
            tensors: by name; nobody may change them but by work on their device's current stream.
            unchanged: names whose tensors are what they were at the last `take`: their buffers are left as they are.
        """
        before, self._buffers = self._buffers, {}
        copied: dict[torch.device, list[tuple[Tensor, Tensor]]] = {}
        for name, tensor in tensors.items():
            held = before.get(name)
            fits = held is not None and held.shape == tensor.shape and held.dtype == tensor.dtype
            buffer = held if fits and held is not None else _buffer(tensor)
            self._buffers[name] = buffer
            if not (fits and name in unchanged):
                copied.setdefault(tensor.device, []).append((buffer, tensor.detach()))
        events = [self._copy(device, pairs) for device, pairs in copied.items()]
        whole = dict(self._buffers)

        def wait() -> dict[str, Tensor]:
            for event in events:
                if event is not None:
                    event.synchronize()
            return whole

        return wait

    def _copy(self, device: torch.device, pairs: list[tuple[Tensor, Tensor]]) -> torch.cuda.Event | None:
        if device.type != "cuda":
            for buffer, tensor in pairs:
                buffer.copy_(tensor)
            return None
        current = torch.cuda.current_stream(device)
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        side = self._streams[device]
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for buffer, tensor in pairs:
                buffer.copy_(tensor, non_blocking=True)
            event: torch.cuda.Event = side.record_event()
        current.wait_event(event)
        return event


def _buffer(tensor: Tensor) -> Tensor:
    """Host memory for a tensor, in its memory layout: the device then copies without rearranging."""
    return torch.empty_like(tensor, device="cpu", pin_memory=tensor.device.type == "cuda")
