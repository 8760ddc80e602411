"""Parity of networks and their parts with the published modules, in float32 and, tighter, in float64."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from neutral_names import (
    attention_unet,
    discriminator,
    gradient_rows,
    load_weights,
    our_name,
    running_statistics,
    style_generator,
)
from parity import Case, Handled, Parity
from torch import Tensor, nn

from sage_ray.losses.adversarial import lsgan_loss
from sage_ray.models.attention import AttentionGate, LinearAttention
from sage_ray.models.dropout import keyed_dropout
from sage_ray.models.style_unet import StyleMapper, StyleUNet, mix_latents, modulated_conv

_UNET_VARIANTS = r"(eval|train_no_dropout|train_given_dropout)"
_STYLES = r"(mixed\d+_cross\d+|single\d+|no_style_no_noise)"
HANDLES = {
    "attention_gate": Handled(
        (r"decoder|encoder", r"(eval|train)/(gated|coefficients)", r"train/updated_running_stats"), ("weights",)
    ),
    "attention_unet": Handled(
        (
            r"image|probe|dropout_mask\d+_packed",
            _UNET_VARIANTS + r"/(logits|coef\d+|grad_image|param_grads)",
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
# Our rounding may differ from the reference's, in order of summation at most: the same size, not the same value.
_OBSERVED_FACTOR, _ROUNDING = 20, 1e-6

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


class GivenMasks:
    """Draws that inject keep masks: 1 is above every dropout probability, 0 is not kept."""

    def __init__(self, masks: list[Tensor]) -> None:
        self.masks = masks

    def uniform(self, name: str, shape: tuple[int, ...]) -> Tensor:
        mask = self.masks[int(name.removeprefix("given/dropout"))]
        assert mask.shape[1:] == shape
        return mask


def tensor(case: Case, name: str, dtype: torch.dtype, grad: bool = False) -> Tensor:
    return torch.from_numpy(case[name]).to(dtype).requires_grad_(grad)


def assert_matches(case: Case, name: str, value: Tensor, kind: str | None = None) -> None:
    case.assert_matches(name, value.detach().numpy(), kind=kind, double=value.dtype == torch.float64)


@DTYPES
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_attention_gate(parity: Parity, mode: str, dtype: torch.dtype) -> None:
    case = parity.case("attention_gate")
    inner, channels = parity.weights(case.spec["weights"])["from_decoder.conv.weight"].shape[:2]
    gate = load_weights(AttentionGate(channels, inner), parity.weights(case.spec["weights"])).to(dtype)
    gate.train(mode == "train")
    gated, coefficients = gate(tensor(case, "decoder", dtype), tensor(case, "encoder", dtype))
    assert_matches(case, f"{mode}/gated", gated)
    assert_matches(case, f"{mode}/coefficients", coefficients)
    if mode == "train":
        statistics = np.concatenate(running_statistics(gate, parity.rows(case.spec["weights"])))
        case.assert_matches("train/updated_running_stats", statistics, double=dtype == torch.float64)


@pytest.fixture(scope="module")
def unet_case(parity: Parity) -> Case:
    return parity.case("attention_unet")


@DTYPES
def test_attention_unet(parity: Parity, unet_case: Case, dtype: torch.dtype) -> None:
    results: dict[str, Tensor] = {}
    stated_dropout = float(unet_case.stated(r"dropout (\d*\.\d+)")[0])
    for variant in unet_case.groups(_UNET_VARIANTS + "/logits"):
        dropout = stated_dropout if variant == "train_given_dropout" else 0.0
        network = attention_unet(parity, unet_case.spec["weights"], dropout).to(dtype).train(variant != "eval")
        image = tensor(unet_case, "image", dtype, grad=True)
        with keyed_dropout(GivenMasks(_keep_masks(unet_case)), "given"):
            logits, maps = network.forward_with_maps(image)
        (logits * tensor(unet_case, "probe", dtype)).mean().backward()
        assert_matches(unet_case, f"{variant}/logits", logits)
        for name in unet_case.names(variant + r"/coef\d+"):
            assert_matches(unet_case, name, maps[int(name.rsplit("coef", 1)[1]) - 1])
        assert len(maps) == len(unet_case.names(variant + r"/coef\d+"))
        assert image.grad is not None
        assert_matches(unet_case, f"{variant}/grad_image", image.grad)
        rows = parity.rows(unet_case.spec["weights"])
        unet_case.assert_matches(f"{variant}/param_grads", gradient_rows(network, rows), double=dtype == torch.float64)
        if f"{variant}/running_stats_l2" in unet_case:
            norms = np.array([np.linalg.norm(values) for values in running_statistics(network, rows)])
            unet_case.assert_matches(f"{variant}/running_stats_l2", norms, kind="logits", double=dtype == torch.float64)
        results[variant] = logits.detach()
    for variant, what, deviation, _, std in parity.observed("attention_unet"):
        assert what == "logits maxabs"
        check_observed(unet_case[f"{variant}/logits"], results[variant], deviation, std)


def _keep_masks(case: Case) -> list[Tensor]:
    """Keep masks (N,C,h,w) float32 in {0,1}, deepest level first; the shape follows from the coefficients' size."""
    names = case.names(r"dropout_mask\d+_packed")
    masks = []
    for index, name in enumerate(names, 1):
        n, _, height, width = case[f"eval/coef{index}"].shape
        bits = np.unpackbits(case[name], bitorder="big")
        masks.append(torch.from_numpy(bits.reshape(n, -1, height, width)).float())
    return masks


@DTYPES
def test_modulated_conv(parity: Parity, dtype: torch.dtype) -> None:
    case = parity.case("modulated_conv")
    variants = case.groups(r"(demod|no_demod)/output")
    assert variants
    for variant in variants:
        inputs = {name: tensor(case, name, dtype, grad=True) for name in ("features", "weight", "style")}
        output = modulated_conv(**inputs, demodulate=variant == "demod")
        (output * tensor(case, "probe", dtype)).mean().backward()
        assert_matches(case, f"{variant}/output", output)
        for name, value in inputs.items():
            assert value.grad is not None
            assert_matches(case, f"{variant}/grad_{name}", value.grad)


@DTYPES
def test_style_mapper(parity: Parity, dtype: torch.dtype) -> None:
    case = parity.case("style_mapper")
    weights = parity.weights(case.spec["weights"])
    layers = len([name for name in weights if name.endswith("weight")])
    mapper = load_weights(StyleMapper(case["z"].shape[1], layers), weights, "style_mapper.").to(dtype)
    assert_matches(case, "w", mapper(tensor(case, "z", dtype)))


@DTYPES
def test_style_generator(parity: Parity, dtype: torch.dtype) -> None:
    case = parity.case("style_generator")
    variants = case.groups(r"(.+/(?:eval|train))/image")
    assert variants
    network = style_generator(parity, case.spec["weights"]).to(dtype)
    start = {name: value.clone() for name, value in network.state_dict().items()}
    results: dict[str, Tensor] = {}
    for variant in variants:
        style, mode = variant.split("/")
        network.load_state_dict(start)
        network.train(mode == "train").zero_grad()
        image = _generate(case, network, style, dtype)
        (image * tensor(case, "probe", dtype)).mean().backward()
        assert_matches(case, f"{variant}/image", image)
        rows = gradient_rows(network, parity.rows(case.spec["weights"]))
        case.assert_matches(f"{variant}/param_grads", rows, double=dtype == torch.float64)
        results[variant] = image.detach()
    for style, mode, deviation, _, std in parity.observed("generator"):
        check_observed(case[f"{style}/{mode}/image"], results[f"{style}/{mode}"], deviation, std)


def _generate(case: Case, network: StyleUNet, style: str, dtype: torch.dtype) -> Tensor:
    z1, z2 = tensor(case, "z1", dtype), tensor(case, "z2", dtype)
    noise = tensor(case, "noise", dtype).permute(0, 3, 1, 2)
    if match := re.fullmatch(r"mixed(\d+)_cross(\d+)", style):
        total, cross = int(match[1]), int(match[2])
        latents = mix_latents([z1, z2], [cross, total - cross], network.levels)
    elif match := re.fullmatch(r"single(\d+)", style):
        latents = mix_latents([z1], [int(match[1])], network.levels)
    else:
        assert style == "no_style_no_noise", f"unknown style list {style}"
        latents, noise = mix_latents([torch.zeros_like(z1)], [network.levels], network.levels), torch.zeros_like(noise)
    image: Tensor = network(tensor(case, "mask", dtype), latents, noise)
    return image


@DTYPES
def test_linear_attention(parity: Parity, dtype: torch.dtype) -> None:
    case = parity.case("linear_attention")
    attention = LinearAttention(case["features"].shape[1], case.spec["heads"], case.spec["head_dim"])
    load_weights(attention, parity.weights(case.spec["weights"]))
    assert_matches(case, "output", attention.to(dtype)(tensor(case, "features", dtype)))


@pytest.mark.parametrize("mode", ["eval", "train"])
@DTYPES
def test_discriminator(parity: Parity, mode: str, dtype: torch.dtype) -> None:
    case = parity.case("discriminator")
    network = discriminator(parity, case.spec["weights"]).to(dtype).train(mode == "train")
    image = tensor(case, "image", dtype, grad=True)
    score = network(image)
    lsgan_loss(score, 1.0).backward()
    assert_matches(case, f"{mode}/score", score)
    assert image.grad is not None
    assert_matches(case, f"{mode}/grad_image", image.grad)
    rows = gradient_rows(network, parity.rows(case.spec["weights"]))
    case.assert_matches(f"{mode}/param_grads", rows, double=dtype == torch.float64)
    for observed_mode, _, deviation, _, std in parity.observed("discriminator"):
        if observed_mode == mode:
            check_observed(case[f"{mode}/score"], score.detach(), deviation, std)


def check_observed(expected: np.ndarray, actual: Tensor, deviation: float, std: float) -> None:
    """The stored spread is as listed, and our float32 deviation is of the size of the reference's own."""
    assert expected.std() == pytest.approx(std, rel=5e-3)
    limit = _OBSERVED_FACTOR * deviation + _ROUNDING * np.abs(expected).max()
    assert np.abs(actual.numpy() - expected).max() <= limit


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
