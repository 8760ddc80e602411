"""Parity of networks and their parts with the published modules, in float32 and, tighter, in float64."""

from __future__ import annotations

from typing import Any

import network_checks
import pytest
import torch
from network_checks import UNET_VARIANTS
from neutral_names import our_name
from parity import Handled, Parity
from placing import Place
from torch import nn

from sage_ray.models.attention import LinearAttention
from sage_ray.models.style_unet import StyleMapper

_STYLES = r"(mixed\d+_cross\d+|single\d+|no_style_no_noise)"
HANDLES = {
    "attention_gate": Handled(
        (r"decoder|encoder", r"(eval|train)/(gated|coefficients)", r"train/updated_running_stats"), ("weights",)
    ),
    "attention_unet": Handled(
        (
            r"image|probe|dropout_mask\d+_packed",
            UNET_VARIANTS + r"/(logits|coef\d+|grad_image|param_grads)",
            r"train_no_dropout/running_stats_l2",
        ),
        ("weights",),
    ),
    "modulated_conv": Handled(
        (r"features|style|weight|probe", r"(demod|no_demod)/(output|grad_(features|style|weight))")
    ),
    "style_mapper": Handled((r"z|w",), ("weights",)),
    "style_generator": Handled(
        (r"mask|z1|z2|noise|probe", _STYLES + r"/(eval|train)/(image|param_grads)"), ("weights",)
    ),
    "linear_attention": Handled((r"features|output",), ("weights", "heads", "head_dim")),
    "discriminator": Handled((r"image", r"(eval|train)/(score|grad_image|param_grads)"), ("weights",)),
}
OBSERVED = {"attention_unet", "style_generator", "discriminator"}

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


@DTYPES
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_attention_gate(parity: Parity, mode: str, dtype: torch.dtype) -> None:
    network_checks.check_attention_gate(parity, Place(dtype), mode)


@DTYPES
def test_attention_unet(parity: Parity, dtype: torch.dtype) -> None:
    network_checks.check_attention_unet(parity, Place(dtype))


@DTYPES
def test_modulated_conv(parity: Parity, dtype: torch.dtype) -> None:
    network_checks.check_modulated_conv(parity, Place(dtype))


@DTYPES
def test_style_mapper(parity: Parity, dtype: torch.dtype) -> None:
    network_checks.check_style_mapper(parity, Place(dtype))


@DTYPES
def test_style_generator(parity: Parity, dtype: torch.dtype) -> None:
    network_checks.check_style_generator(parity, Place(dtype))


@DTYPES
def test_linear_attention(parity: Parity, dtype: torch.dtype) -> None:
    network_checks.check_linear_attention(parity, Place(dtype))


@pytest.mark.parametrize("mode", ["eval", "train"])
@DTYPES
def test_discriminator(parity: Parity, mode: str, dtype: torch.dtype) -> None:
    network_checks.check_discriminator(parity, Place(dtype), mode)


@pytest.mark.parametrize(
    ("fact", "build"),
    [
        ("attention_unet_2_classes", {"table": "SEGMENTERS", "name": "attention_unet"}),
        ("plain_unet_2_classes", {"table": "SEGMENTERS", "name": "unet"}),
        ("style_generator", {"table": "GENERATORS", "name": "style_unet", "style": "modulated", "noise": "mean"}),
        ("discriminator_1_channel", {"table": "DISCRIMINATORS", "name": "patch_gan"}),
    ],
)
def test_parameter_counts(parity: Parity, fact: str, build: dict[str, Any]) -> None:
    network = _default_network(**build)
    assert count(network.parameters()) == parity.facts["parameter_counts"][fact]
    statistics = {key: value for key, value in parity.facts["running_statistic_elements"].items() if key in fact}
    assert list(statistics.values()) == [count(network.buffers())]


def test_parameter_counts_of_parts(parity: Parity) -> None:
    counts = parity.facts["parameter_counts"]
    assert count(StyleMapper().parameters()) == counts["style_mapper_part"]
    assert count(LinearAttention(64).parameters()) == counts["discriminator_attention_block"]


def test_patch_score_shape(parity: Parity) -> None:
    height, width = parity.facts["schedule"]["image_size"]
    network = _default_network("DISCRIMINATORS", "patch_gan", width=4, heads=1, head_dim=8).eval()
    scores = network(torch.zeros(1, 1, height, width))
    assert list(scores.shape) == [1, 1, *parity.facts["patch_score_shape_for_512x768"]]


def test_names_are_mapped_one_to_one(parity: Parity) -> None:
    for group in parity.manifest["weights"]:
        names = [our_name(name) for _, name in parity.rows(group)]
        assert len(set(names)) == len(names), group


def count(tensors: Any) -> int:
    return sum(tensor.numel() for tensor in tensors)


def _default_network(table: str, name: str, **keywords: Any) -> nn.Module:
    import sage_ray.models

    return getattr(sage_ray.models, table)[name](**keywords)
