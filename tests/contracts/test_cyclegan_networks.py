"""CycleGAN's networks in numbers and equalities that can be checked by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sage_ray.models import GENERATORS, SEGMENTERS
from sage_ray.models.init import initialise
from sage_ray.models.norm import InstanceNorm, make_norm
from sage_ray.models.plain_generator import PlainUNetGenerator
from sage_ray.models.resnet_generator import ResNetGenerator, ResNetSegmenter, blocks_for, mirrored
from sage_ray.models.unet import UNet


def picture(height: int = 32, width: int = 48) -> torch.Tensor:
    return torch.rand(2, 1, height, width, generator=torch.Generator().manual_seed(height)) * 2 - 1


NOTHING = torch.zeros(2, 1, 1)


@pytest.mark.parametrize(("blocks", "expected"), [(6, 7_837_699 - 2 * 6_272 - 2), (9, 11_378_179 - 2 * 6_272 - 2)])
def test_parameters_at_full_width(blocks: int, expected: int) -> None:
    # The published counts are of three channels in and out: two of each less, of 7 x 7 x 64 weights and, out, a bias.
    with torch.device("meta"):
        network = ResNetGenerator(blocks=blocks)
    assert sum(p.numel() for p in network.parameters()) == expected


def test_blocks_follow_the_size_of_the_images() -> None:
    assert [blocks_for(*size) for size in ((128, 128), (255, 700), (256, 256), (512, 768))] == [6, 6, 9, 9]


def test_mirrored_is_the_reflection_pad() -> None:
    features = torch.arange(2 * 3 * 5 * 7.0).view(2, 3, 5, 7)
    assert torch.equal(mirrored(features, 3), F.pad(features, (3, 3, 3, 3), mode="reflect"))


def test_instance_norm_is_torch_s_and_takes_a_single_pixel() -> None:
    features = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(make_norm("instance", 4)(features), nn.InstanceNorm2d(4)(features))
    plain, affine = InstanceNorm(4, affine=False), make_norm("instance_affine", 4)
    assert not list(plain.parameters()) and not plain.state_dict() and len(list(affine.parameters())) == 2
    torch.testing.assert_close(affine(features), nn.InstanceNorm2d(4, affine=True)(features))
    assert torch.equal(plain(torch.ones(1, 4, 1, 1)), torch.zeros(1, 4, 1, 1))


def test_the_segmenter_s_probability_is_the_sigmoid_of_the_network() -> None:
    network = initialise(ResNetSegmenter(width=4, blocks=1, norm="instance"), 0)
    logits = network(picture())
    output = torch.sigmoid(network.mapper(picture()))
    torch.testing.assert_close(logits.softmax(1)[:, 1:], output)
    assert torch.equal(logits.argmax(1).bool(), output[:, 0] > 0.5)


@pytest.mark.parametrize("name", ["resnet", "unet"])
def test_generators_without_style_take_latents_and_noise_and_ignore_them(name: str) -> None:
    network = initialise(GENERATORS[name](width=4), 0).eval()
    mask = (picture() > 0).float()
    image = network(mask, NOTHING, torch.zeros_like(mask))
    assert torch.equal(image, network(mask, NOTHING + 1, torch.ones_like(mask)))
    assert image.shape == mask.shape and image.abs().max() <= 1
    assert (network.levels, network.style_dim) == (1, 1)


def test_the_plain_generator_is_the_u_net_and_tanh() -> None:
    plain = initialise(PlainUNetGenerator(width=4, depth=2), 0).eval()
    unet = UNet(width=4, depth=2, classes=1).eval()
    unet.load_state_dict(plain.state_dict())
    assert torch.equal(plain(picture(), NOTHING, picture()), torch.tanh(unet(picture())))


def test_bad_numbers_are_refused() -> None:
    for network in (GENERATORS["resnet"], SEGMENTERS["resnet"]):
        with pytest.raises(ValueError, match="blocks 0 must be at least 1"):
            network(width=4, blocks=0)


def test_first_weights_with_a_standard_deviation() -> None:
    network = initialise(ResNetGenerator(width=16, blocks=1), 0, std=0.02)
    weights = torch.cat([p.flatten() for name, p in network.named_parameters() if name.endswith("weight")])
    assert weights.std().item() == pytest.approx(0.02, rel=0.02) and abs(weights.mean().item()) < 1e-3
    assert all(not p.any() for name, p in network.named_parameters() if name.endswith("bias"))
