"""From the neutral tensor names of the parity weights to the names in our networks, and networks made to fit them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from parity import Parity
from torch import Tensor, nn

from sage_ray.losses.perceptual import VGG19Loss
from sage_ray.models.attention_unet import AttentionUNet
from sage_ray.models.patch_gan import PatchGAN
from sage_ray.models.style_unet import StyleUNet

_NORM_PARTS = {"gain": "weight", "shift": "bias", "run_mean": "running_mean", "run_var": "running_var"}
_RULES = (
    (r"enc(\d+)\.", lambda m: f"encoder.levels.{int(m[1]) - 1}."),
    (r"mid\.", lambda _: "encoder.middle."),
    (r"dec(\d+)\.(?=conv_|norm_)", lambda m: f"decoder.{int(m[1]) - 1}.block."),
    (r"dec(\d+)\.style_affine_([ab])\.", lambda m: f"decoder.{int(m[1]) - 1}.layer_{m[2]}.conv.affine."),
    (r"dec(\d+)\.noise_affine_([ab])\.", lambda m: f"decoder.{int(m[1]) - 1}.layer_{m[2]}.noise.affine."),
    (r"dec(\d+)\.modconv_([ab])\.", lambda m: f"decoder.{int(m[1]) - 1}.layer_{m[2]}.conv."),
    (r"dec(\d+)\.(?=upsample|gate)", lambda m: f"decoder.{int(m[1]) - 1}."),
    (r"style_mapper\.fc(\d+)\.", lambda m: f"style_mapper.layers.{int(m[1]) - 1}."),
    (r"attn\.", lambda _: "attention."),
    (r"attn_norm\.", lambda _: "attention_norm."),
)
_OUR_KEYWORD = {"fp_weight": "alpha", "fn_weight": "beta", "focal_scale": "focal_alpha", "focal_power": "focal_gamma"}
# Convolutions of VGG19 by torchvision's index among its `features`.
_VGG_INDEX = {
    **{"conv1_1": 0, "conv1_2": 2, "conv2_1": 5, "conv2_2": 7, "conv3_1": 10, "conv3_2": 12, "conv3_3": 14},
    **{"conv3_4": 16, "conv4_1": 19, "conv4_2": 21, "conv4_3": 23, "conv4_4": 25, "conv5_1": 28},
}


def our_name(neutral: str) -> str:
    """Name in a state dict of ours for a neutral tensor name."""
    for pattern, replacement in _RULES:
        match = re.match(pattern, neutral)
        if match:
            neutral = replacement(match) + neutral[match.end() :]
            break
    head, _, part = neutral.rpartition(".")
    if re.fullmatch(r"(.*\.)?norm(_[ab]|\d)?", head):
        return f"{head}.{_NORM_PARTS[part]}"
    return neutral


def load_weights(network: nn.Module, weights: Mapping[str, np.ndarray], prefix: str = "") -> nn.Module:
    """Load all tensors into `network`, and assert that they are all that it has but counters of batches.

    `prefix`: part of our names to cut off, when `network` is a part of the network that the group describes.
    """
    state = {our_name(name).removeprefix(prefix): torch.from_numpy(array) for name, array in weights.items()}
    counters = {name for name in network.state_dict() if name.endswith("num_batches_tracked")}
    missing, unexpected = network.load_state_dict(state, strict=False)
    assert set(missing) <= counters, f"no weights for {sorted(set(missing) - counters)}"
    assert not unexpected, f"weights that the network lacks: {unexpected}"
    return network


def attention_unet(parity: Parity, group: str, dropout: float = 0.0) -> AttentionUNet:
    """Attention U-Net of the width and depth of a weight group, with its weights."""
    weights = parity.weights(group)
    classes, width = weights["head.weight"].shape[:2]
    network = AttentionUNet(classes=classes, width=width, depth=_depth(weights), dropout=dropout)
    load_weights(network, weights)
    return network


def style_generator(parity: Parity, group: str) -> StyleUNet:
    """Style U-Net as in the public code, of the width and depth of a weight group, with its weights."""
    weights = parity.weights(group)
    width, style_dim = weights["head.weight"].shape[1], weights["style_mapper.fc1.weight"].shape[1]
    network = StyleUNet(width=width, depth=_depth(weights), style="modulated", noise="mean", style_dim=style_dim)
    load_weights(network, weights)
    return network


def discriminator(parity: Parity, group: str) -> PatchGAN:
    """PatchGAN of the width of a weight group, with its weights; heads as the manifest's text says."""
    weights = parity.weights(group)
    heads, head_dim = map(int, parity.case("discriminator").stated(r"with (\d+) heads of (\d+)"))
    network = PatchGAN(width=weights["conv1.weight"].shape[0], heads=heads, head_dim=head_dim)
    load_weights(network, weights)
    return network


def vgg19_loss(parity: Parity, group: str) -> VGG19Loss:
    """Perceptual loss with the weights of a group."""
    state: dict[str, Tensor] = {}
    for name, array in parity.tensors(group):
        conv, part = name.split(".")
        state[f"features.{_VGG_INDEX[conv]}.{part}"] = torch.from_numpy(array)
    return VGG19Loss(state)


def our_loss_keywords(config: Mapping[str, float]) -> dict[str, Any]:
    """Keywords of `segmentation_loss` for a loss config of the manifest; gamma is 1 / delta."""
    keywords = {_OUR_KEYWORD.get(name, name): value for name, value in config.items() if name != "delta"}
    return keywords | {"gamma": 1 / config["delta"], "focal_form": "batch", "reduction": "batch"}


def gradient_rows(network: nn.Module, rows: list[tuple[int, str]]) -> np.ndarray:
    """Rows [tensor index, L2 norm, sum] of the gradients, float64, in the weight list's order."""
    parameters = dict(network.named_parameters())
    found = [(index, parameters.get(our_name(name))) for index, name in rows]
    values = [(index, p.grad.double()) for index, p in found if p is not None and p.grad is not None]
    assert len(values) == len(parameters), "a parameter has no gradient"
    return np.array([[index, float(grad.norm()), float(grad.sum())] for index, grad in values])


def running_statistics(network: nn.Module, rows: list[tuple[int, str]]) -> list[np.ndarray]:
    """All running means and variances in the weight list's order, float64."""
    buffers = dict(network.named_buffers())
    names = [our_name(name) for _, name in rows]
    return [buffers[name].double().cpu().numpy() for name in names if name in buffers]


def _depth(weights: Mapping[str, np.ndarray]) -> int:
    return len({name.split(".")[0] for name in weights if re.match(r"enc\d+\.", name)})
