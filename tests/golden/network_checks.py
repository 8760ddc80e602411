"""Checks of networks and their parts against the published modules, on any device; pytest is not needed.

`test_networks.py` runs them on the CPU, `tests/gpu` and `benchmarks/gpu.py` on a GPU.
"""

from __future__ import annotations

import re

import numpy as np
import torch
from neutral_names import (
    attention_unet,
    discriminator,
    gradient_rows,
    load_weights,
    running_statistics,
    style_generator,
)
from parity import Case, Parity
from placing import Place, assert_relative, to_numpy
from torch import Tensor

from sage_ray.losses.lsgan import lsgan_loss
from sage_ray.models.attention import AttentionGate, LinearAttention
from sage_ray.models.dropout import keyed_dropout
from sage_ray.models.style_unet import StyleMapper, StyleUNet, mix_latents, modulated_conv

UNET_VARIANTS = r"(eval|train_no_dropout|train_given_dropout)"
# Our rounding may differ from the reference's, in order of summation at most: the same size, not the same value.
_OBSERVED_FACTOR, _ROUNDING, _SPREAD = 20, 1e-6, 5e-3


class GivenMasks:
    """Draws that inject keep masks: 1 is above every dropout probability, 0 is not kept."""

    def __init__(self, masks: list[Tensor]) -> None:
        self.masks = masks

    def uniform(self, name: str, shape: tuple[int, ...]) -> Tensor:
        mask = self.masks[int(name.removeprefix("given/dropout"))]
        assert mask.shape[1:] == shape
        return mask


def check_attention_gate(parity: Parity, place: Place, mode: str) -> None:
    case = parity.case("attention_gate")
    inner, channels = parity.weights(case.spec["weights"])["from_decoder.conv.weight"].shape[:2]
    gate = place.network(load_weights(AttentionGate(channels, inner), parity.weights(case.spec["weights"])))
    gate.train(mode == "train")
    gated, coefficients = gate(place.tensor(case, "decoder"), place.tensor(case, "encoder"))
    place.assert_matches(case, f"{mode}/gated", gated)
    place.assert_matches(case, f"{mode}/coefficients", coefficients)
    if mode == "train":
        statistics = np.concatenate(running_statistics(gate, parity.rows(case.spec["weights"])))
        case.assert_matches("train/updated_running_stats", statistics, double=place.double)


def check_attention_unet(parity: Parity, place: Place) -> None:
    case = parity.case("attention_unet")
    results: dict[str, Tensor] = {}
    stated_dropout = float(case.stated(r"dropout (\d*\.\d+)")[0])
    for variant in case.groups(UNET_VARIANTS + "/logits"):
        dropout = stated_dropout if variant == "train_given_dropout" else 0.0
        network = place.network(attention_unet(parity, case.spec["weights"], dropout)).train(variant != "eval")
        image = place.tensor(case, "image", grad=True)
        with keyed_dropout(GivenMasks(_keep_masks(case, place.device)), "given"):
            logits, maps = network.forward_with_maps(image)
        (logits * place.tensor(case, "probe")).mean().backward()
        place.assert_matches(case, f"{variant}/logits", logits)
        for name in case.names(variant + r"/coef\d+"):
            place.assert_matches(case, name, maps[int(name.rsplit("coef", 1)[1]) - 1])
        assert len(maps) == len(case.names(variant + r"/coef\d+"))
        assert image.grad is not None
        place.assert_matches(case, f"{variant}/grad_image", image.grad)
        rows = parity.rows(case.spec["weights"])
        case.assert_matches(f"{variant}/param_grads", gradient_rows(network, rows), double=place.double)
        if f"{variant}/running_stats_l2" in case:
            norms = np.array([np.linalg.norm(values) for values in running_statistics(network, rows)])
            case.assert_matches(f"{variant}/running_stats_l2", norms, kind="logits", double=place.double)
        results[variant] = logits.detach()
    for variant, what, deviation, _, std in parity.observed("attention_unet"):
        assert what == "logits maxabs"
        check_observed(case[f"{variant}/logits"], results[variant], deviation, std, place)


def _keep_masks(case: Case, device: torch.device) -> list[Tensor]:
    """Keep masks (N,C,h,w) float32 in {0,1}, deepest level first; the shape follows from the coefficients' size."""
    names = case.names(r"dropout_mask\d+_packed")
    masks = []
    for index, name in enumerate(names, 1):
        n, _, height, width = case[f"eval/coef{index}"].shape
        bits = np.unpackbits(case[name], bitorder="big")
        masks.append(torch.from_numpy(bits.reshape(n, -1, height, width)).float().to(device))
    return masks


def check_modulated_conv(parity: Parity, place: Place) -> None:
    case = parity.case("modulated_conv")
    variants = case.groups(r"(demod|no_demod)/output")
    assert variants
    for variant in variants:
        inputs = {name: place.tensor(case, name, grad=True) for name in ("features", "weight", "style")}
        output = modulated_conv(**inputs, demodulate=variant == "demod")
        (output * place.tensor(case, "probe")).mean().backward()
        place.assert_matches(case, f"{variant}/output", output)
        for name, value in inputs.items():
            assert value.grad is not None
            place.assert_matches(case, f"{variant}/grad_{name}", value.grad)


def check_style_mapper(parity: Parity, place: Place) -> None:
    case = parity.case("style_mapper")
    weights = parity.weights(case.spec["weights"])
    layers = len([name for name in weights if name.endswith("weight")])
    mapper = place.network(load_weights(StyleMapper(case["z"].shape[1], layers), weights, "style_mapper."))
    place.assert_matches(case, "w", mapper(place.tensor(case, "z")))


def check_style_generator(parity: Parity, place: Place) -> None:
    case = parity.case("style_generator")
    variants = case.groups(r"(.+/(?:eval|train))/image")
    assert variants
    network = place.network(style_generator(parity, case.spec["weights"]))
    start = {name: value.clone() for name, value in network.state_dict().items()}
    results: dict[str, Tensor] = {}
    for variant in variants:
        style, mode = variant.split("/")
        network.load_state_dict(start)
        network.train(mode == "train").zero_grad()
        image = _generate(case, network, style, place)
        (image * place.tensor(case, "probe")).mean().backward()
        place.assert_matches(case, f"{variant}/image", image)
        rows = gradient_rows(network, parity.rows(case.spec["weights"]))
        case.assert_matches(f"{variant}/param_grads", rows, double=place.double)
        results[variant] = image.detach()
    for style, mode, deviation, _, std in parity.observed("generator"):
        check_observed(case[f"{style}/{mode}/image"], results[f"{style}/{mode}"], deviation, std, place)


def _generate(case: Case, network: StyleUNet, style: str, place: Place) -> Tensor:
    z1, z2 = place.tensor(case, "z1"), place.tensor(case, "z2")
    noise = place.tensor(case, "noise").permute(0, 3, 1, 2)
    if match := re.fullmatch(r"mixed(\d+)_cross(\d+)", style):
        total, cross = int(match[1]), int(match[2])
        latents = mix_latents([z1, z2], [cross, total - cross], network.levels)
    elif match := re.fullmatch(r"single(\d+)", style):
        latents = mix_latents([z1], [int(match[1])], network.levels)
    else:
        assert style == "no_style_no_noise", f"unknown style list {style}"
        latents, noise = mix_latents([torch.zeros_like(z1)], [network.levels], network.levels), torch.zeros_like(noise)
    image: Tensor = network(place.tensor(case, "mask"), latents, noise)
    return image


def check_linear_attention(parity: Parity, place: Place) -> None:
    case = parity.case("linear_attention")
    attention = LinearAttention(case["features"].shape[1], case.spec["heads"], case.spec["head_dim"])
    load_weights(attention, parity.weights(case.spec["weights"]))
    place.assert_matches(case, "output", place.network(attention)(place.tensor(case, "features")))


def check_discriminator(parity: Parity, place: Place, mode: str) -> None:
    case = parity.case("discriminator")
    network = place.network(discriminator(parity, case.spec["weights"])).train(mode == "train")
    image = place.tensor(case, "image", grad=True)
    score = network(image)
    lsgan_loss(score, 1.0).backward()
    place.assert_matches(case, f"{mode}/score", score)
    assert image.grad is not None
    place.assert_matches(case, f"{mode}/grad_image", image.grad)
    rows = gradient_rows(network, parity.rows(case.spec["weights"]))
    case.assert_matches(f"{mode}/param_grads", rows, double=place.double)
    for observed_mode, _, deviation, _, std in parity.observed("discriminator"):
        if observed_mode == mode:
            check_observed(case[f"{mode}/score"], score.detach(), deviation, std, place)


def check_observed(expected: np.ndarray, actual: Tensor, deviation: float, std: float, place: Place) -> None:
    """The stored spread is as listed, and our deviation is of the size of the reference's own in float32.

    On a GPU, which convolves otherwise, the tolerances of the manifest hold alone.
    """
    assert_relative(float(expected.std()), std, _SPREAD, "stored spread")
    if place.device.type == "cpu":
        limit = _OBSERVED_FACTOR * deviation + _ROUNDING * np.abs(expected).max()
        error = np.abs(to_numpy(actual) - expected).max()
        assert error <= limit, f"largest deviation {error:.3g} is above {limit:.3g}, {_OBSERVED_FACTOR} times the usual"
