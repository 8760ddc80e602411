"""Tensors as the bytes of a safetensors file, in one copy: the library's own `save` holds two at its peak."""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch
from safetensors.torch import save

_NAMES = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Types of states, in the order of their tensors in a file: wide ones first, so that each is aligned."""


def state_bytes(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """The file that `safetensors.torch.save` would make of these tensors, byte for byte.

    Args:
        tensors: by name, on the CPU; others are left to the library.
    """
    whole = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    if any(tensor.dtype not in _NAMES or tensor.device.type != "cpu" for tensor in whole.values()):
        return save(whole)
    types = list(_NAMES)
    order = sorted(whole, key=lambda name: (types.index(whole[name].dtype), name))
    header, end = {}, 0
    for name in order:
        tensor = whole[name]
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    pieces = (whole[name].reshape(-1).view(torch.uint8).numpy().data for name in order)
    return b"".join([len(text).to_bytes(8, "little"), text, *pieces])
