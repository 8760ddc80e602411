"""On which device and in which precision a check computes; the checks need torch and numpy, no pytest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from parity import Case
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Place:
    """A device and a floating-point type.

    Attributes:
        dtype: float32, or float64, for which the manifest's tighter tolerances hold.
        device: where networks and tensors lie.
    """

    dtype: torch.dtype
    device: torch.device = torch.device("cpu")

    @property
    def double(self) -> bool:
        """Whether the float64 tolerances hold."""
        return self.dtype == torch.float64

    def tensor(self, case: Case, name: str, grad: bool = False) -> Tensor:
        """A stored array in this precision, here."""
        return torch.from_numpy(case[name]).to(self.device, self.dtype).requires_grad_(grad)

    def network(self, network: Network) -> Network:
        """The network in this precision, here."""
        return network.to(self.device, self.dtype)

    def assert_matches(self, case: Case, name: str, value: Tensor, kind: str | None = None) -> None:
        """Assert that our value meets the stored array of that name, by the tolerance of this precision."""
        case.assert_matches(name, to_numpy(value), kind=kind, double=self.double)


def to_numpy(value: Tensor) -> np.ndarray:
    """The tensor's values on the host, without its graph."""
    array: np.ndarray = value.detach().cpu().numpy()
    return array


def assert_relative(actual: float, expected: float, rtol: float, label: str) -> None:
    """Assert |actual - expected| <= rtol |expected|."""
    assert abs(actual - expected) <= rtol * abs(expected), f"{label}: {actual}, not {expected} within {rtol:g}"
