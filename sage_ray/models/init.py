"""Reproducible initialisation of any network of this package."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

GeneratorFor = Callable[[str], torch.Generator]


def initialise(module: nn.Module, seed: int, *, std: float | None = None) -> nn.Module:
    """Set every parameter and running statistic of `module` in place, and return it.

    Each parameter has its own generator, keyed by the seed and its dotted name: two networks that differ in some layers
    (with and without attention gates) start equal in all the others, on any device. Rules: convolutions He normal,
    fan-out, gain sqrt(2), zero bias; linear layers Xavier normal, zero bias; norms gain 1, shift 0; transposed
    convolutions as torch's default (uniform); a layer with a method `initialise_own(generator_for)` sets itself. With
    `std` all other convolutions, transposed ones too, are normal with this standard deviation, with zero bias.

    Raises:
        ValueError: a layer with parameters that no rule covers.

    Source: facts.json, "initialisation".
    """
    covered: set[int] = set()
    for path, layer in module.named_modules():
        _initialise_layer(layer, _keyed(seed, path), std)
        if _has_rule(layer):
            covered |= {id(parameter) for parameter in layer.parameters(recurse=False)}
    missed = [name for name, parameter in module.named_parameters() if id(parameter) not in covered]
    if missed:
        raise ValueError(f"no initialisation rule for {', '.join(missed)}: give the layer a method initialise_own")
    return module


def he_normal(weight: Tensor, generator: torch.Generator, mode: str) -> None:
    """Fill `weight` with a normal of standard deviation sqrt(2 / fan); drawn on the CPU. `mode`: fan_in or fan_out."""
    fan = weight[0].numel() if mode == "fan_in" else weight.shape[0] * weight[0, 0].numel()
    normal(weight, generator, math.sqrt(2.0 / fan))


def normal(weight: Tensor, generator: torch.Generator, std: float) -> None:
    """Fill `weight` with a normal of mean 0; drawn on the CPU so that every device gets the same."""
    with torch.no_grad():
        weight.copy_(torch.randn(weight.shape, generator=generator) * std)


def _uniform(weight: Tensor, generator: torch.Generator, bound: float) -> None:
    with torch.no_grad():
        weight.copy_((torch.rand(weight.shape, generator=generator) * 2 - 1) * bound)


def _keyed(seed: int, path: str) -> GeneratorFor:
    def generator_for(parameter: str) -> torch.Generator:
        digest = hashlib.sha256(f"{seed}:{path}.{parameter}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))

    return generator_for


_RULED = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.BatchNorm2d, nn.GroupNorm)


def _has_rule(layer: nn.Module) -> bool:
    return isinstance(layer, _RULED) or hasattr(layer, "initialise_own")


def _initialise_layer(layer: nn.Module, generator_for: GeneratorFor, std: float | None) -> None:
    own = getattr(layer, "initialise_own", None)
    if callable(own):
        own(generator_for)
    elif std is not None and isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        normal(layer.weight, generator_for("weight"), std)
        _zero(layer.bias)
    elif isinstance(layer, nn.ConvTranspose2d):
        bound = 1 / math.sqrt(layer.weight[0].numel())
        _uniform(layer.weight, generator_for("weight"), bound)
        if layer.bias is not None:
            _uniform(layer.bias, generator_for("bias"), bound)
    elif isinstance(layer, nn.Conv2d):
        he_normal(layer.weight, generator_for("weight"), "fan_out")
        _zero(layer.bias)
    elif isinstance(layer, nn.Linear):
        normal(layer.weight, generator_for("weight"), math.sqrt(2.0 / sum(layer.weight.shape)))
        _zero(layer.bias)
    elif isinstance(layer, nn.BatchNorm2d | nn.GroupNorm):
        layer.reset_parameters()


def _zero(bias: Tensor | None) -> None:
    if bias is not None:
        nn.init.zeros_(bias)
