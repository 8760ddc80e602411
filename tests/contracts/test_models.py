"""What every registered network must do, and what its parts promise."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from sage_ray.models import DISCRIMINATORS, GENERATORS, SEGMENTERS
from sage_ray.models.blocks import pad_to_multiple
from sage_ray.models.dropout import KeyedDropout
from sage_ray.models.init import initialise
from sage_ray.models.style_unet import StyleUNet, adaptive_instance_norm, mix_latents, modulated_conv

SIZES = [(16, 16), (17, 23), (32, 48), (45, 30)]
STYLE_DIM = 8


def build_small(table: str, name: str, **keywords: Any) -> nn.Module:
    small: dict[str, Any] = {"width": 8}
    if table == "segmenter":
        blocks = {"blocks": 2} if name == "resnet" else {}
        return initialise(SEGMENTERS[name](**small | {"depth": 3} | blocks | keywords), 0)
    if table == "generator":
        own = {"style_unet": {"depth": 3, "style_dim": STYLE_DIM}, "unet": {"depth": 3}, "resnet": {"blocks": 2}}
        return initialise(GENERATORS[name](**small | own[name] | keywords), 0)
    return initialise(DISCRIMINATORS[name](**small | {"heads": 2, "head_dim": 4} | keywords), 0)


def call(network: nn.Module, image: Tensor) -> Tensor:
    """Output on `image` (N,1,H,W), with fixed latents and noise for a generator."""
    if type(network) not in GENERATORS.values():
        output: Tensor = network(image)
        return output
    given: Any = network
    generator = torch.Generator().manual_seed(5)
    latents = torch.randn(len(image), given.levels, given.style_dim, generator=generator)
    noise = torch.rand(len(image), 1, *image.shape[2:], generator=generator)
    styled: Tensor = network(image, latents.to(image.dtype), noise.to(image.dtype))
    return styled


def picture(height: int, width: int, batch: int = 2) -> Tensor:
    return torch.rand(batch, 1, height, width, generator=torch.Generator().manual_seed(height * width)) * 2 - 1


NETWORKS = [
    *(("segmenter", name, {}) for name in SEGMENTERS),
    ("segmenter", "attention_unet", {"attention": False}),
    ("segmenter", "unet_plus_plus", {"deep_supervision": True}),
    *(
        ("generator", name, {"style": style, "noise": noise})
        for name in ("style_unet",)
        for style in ("adain", "modulated")
        for noise in ("spatial", "mean", "none")
    ),
    *(("generator", name, {}) for name in GENERATORS if name != "style_unet"),
    *(("discriminator", name, {"attention": attention}) for name in DISCRIMINATORS for attention in (True, False)),
]
NETWORK = pytest.mark.parametrize(
    ("table", "name", "keywords"), NETWORKS, ids=["-".join([n[1], *map(str, n[2].values())]) for n in NETWORKS]
)
NORM = pytest.mark.parametrize("norm", ["batch", "group", "frozen", "instance"])


@NETWORK
@NORM
def test_shape_and_backward_on_any_size(table: str, name: str, keywords: dict[str, Any], norm: str) -> None:
    network = build_small(table, name, norm=norm, **keywords).train()
    for height, width in SIZES:
        output = call(network, picture(height, width))
        channels = 2 if table == "segmenter" else 1
        if table == "discriminator":
            assert output.shape[:2] == (2, 1) and output.shape[2] >= 1 and output.shape[3] >= 1
        else:
            assert output.shape == (2, channels, height, width)
        assert output.isfinite().all()
        output.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@NETWORK
def test_every_parameter_gets_a_gradient(table: str, name: str, keywords: dict[str, Any]) -> None:
    # With running statistics no bias before a norm is cancelled, so that a zero gradient means a dead parameter.
    network = build_small(table, name, norm="frozen", **keywords)
    dead = {name for name, _ in network.named_parameters()}
    # A narrow layer's relus may all be off by chance, so that one draw of the weights proves nothing against it.
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.3, generator=generator)
            parameter.grad = None
        call(network, picture(32, 48)).square().mean().backward()
        dead -= {name for name, p in network.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
        if not dead:
            break
    assert not dead, f"no gradient reaches {sorted(dead)}"


@NETWORK
def test_state_round_trip(table: str, name: str, keywords: dict[str, Any], tmp_path: Path) -> None:
    network = build_small(table, name, **keywords).train()
    call(network, picture(32, 32))
    safetensors.torch.save_file(network.state_dict(), tmp_path / "weights.safetensors")
    again = initialise(build_small(table, name, **keywords), 1)
    again.load_state_dict(safetensors.torch.load_file(tmp_path / "weights.safetensors"))
    image = picture(33, 17)
    torch.testing.assert_close(call(again.eval(), image), call(network.eval(), image), rtol=0, atol=0)


@NETWORK
def test_channels_last_and_bfloat16(table: str, name: str, keywords: dict[str, Any]) -> None:
    network = build_small(table, name, **keywords).train()
    for layer in network.modules():
        if isinstance(layer, KeyedDropout):
            layer.p = 0.0  # its masks would differ between the passes
    image = picture(32, 48)
    plain = call(copy.deepcopy(network), image)
    # In float64, as several norms in a row multiply float32's rounding, which the order of memory changes.
    exact = call(copy.deepcopy(network).double(), image.double())
    network.to(memory_format=torch.channels_last)
    last = call(copy.deepcopy(network).double(), image.double().contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(last, exact, rtol=1e-9, atol=1e-9)
    with torch.autocast("cpu", torch.bfloat16):
        half = call(network, image.contiguous(memory_format=torch.channels_last))
    half.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    error = (half.float() - plain).norm() / plain.norm()
    assert error < 0.2, f"bf16 differs by {error:.3f} in relative L2"


@NETWORK
def test_initialisation_is_reproducible(table: str, name: str, keywords: dict[str, Any]) -> None:
    first = build_small(table, name, **keywords).state_dict()
    torch.rand(100)  # another state of the global generator
    second = build_small(table, name, **keywords).state_dict()
    other = initialise(build_small(table, name, **keywords), 1).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    weights = [key for key, value in first.items() if value.ndim == 4 and "attention_norm" not in key]
    assert weights and not any(torch.equal(first[key], other[key]) for key in weights)


@pytest.mark.parametrize("name", SEGMENTERS)
def test_odd_sizes_are_reflected_and_cropped(name: str) -> None:
    network = build_small("segmenter", name).eval()
    image = picture(29, 37)
    padded = torch.nn.functional.pad(image, (0, 3, 0, 3), mode="reflect")
    torch.testing.assert_close(network(image), network(padded)[..., :29, :37], rtol=0, atol=0)


def test_padding_is_none_where_the_size_fits_and_repeats_where_it_is_too_small() -> None:
    image = picture(32, 48)
    assert pad_to_multiple(image, 16) is image
    small = picture(16, 20)
    padded = pad_to_multiple(small, 64)
    assert padded.shape[-2:] == (64, 64)
    assert torch.equal(padded[..., :16, :20], small)
    assert torch.equal(padded[..., 63, :20], small[..., 15, :])
    assert build_small("segmenter", "unet", depth=6, width=2)(small).shape == (2, 2, 16, 20)


def test_attention_maps() -> None:
    network = build_small("segmenter", "attention_unet").eval()
    maps = network.attention_maps(picture(30, 45))
    assert [tuple(m.shape) for m in maps] == [(2, 1, 8, 12), (2, 1, 15, 23), (2, 1, 30, 45)]
    assert all(((m > 0) & (m < 1)).all() and not m.requires_grad for m in maps)
    assert len({float(m.std() > 0) for m in maps}) == 1, "a map is constant"


def test_gates_that_pass_everything() -> None:
    """Without attention the gates have no parameters, and the network is a plain U-Net with equal other weights."""
    gated = build_small("segmenter", "attention_unet")
    open_gates = build_small("segmenter", "attention_unet", attention=False).eval()
    plain = build_small("segmenter", "unet").eval()
    image = picture(32, 32)
    assert torch.equal(open_gates(image), plain(image))
    assert open_gates.attention_maps(image) == [] == plain.attention_maps(image)
    shared = open_gates.state_dict()
    assert {key for key in gated.state_dict() if "gate" not in key} == set(shared)
    assert all(torch.equal(gated.state_dict()[key], shared[key]) for key in shared)


def test_discriminator_attention_is_a_residual() -> None:
    with_attention = build_small("discriminator", "patch_gan").eval()
    without = build_small("discriminator", "patch_gan", attention=False).eval()
    image = picture(48, 48)
    assert not torch.allclose(with_attention(image), without(image))
    for parameter in with_attention.attention.out.parameters():
        torch.nn.init.zeros_(parameter)
    assert torch.equal(with_attention(image), without(image))
    assert not any("attention" in key for key in without.state_dict())


class TestStyleUNet:
    IMAGE = picture(32, 48)

    def generate(self, network: StyleUNet, latents: Tensor, noise: Tensor) -> Tensor:
        image: Tensor = network((self.IMAGE > 0).float(), latents, noise)
        return image

    def inputs(self, network: StyleUNet) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(1)
        latents = torch.randn(2, network.levels, STYLE_DIM, generator=generator)
        return latents, torch.rand(2, 1, 32, 48, generator=generator)

    @pytest.mark.parametrize("style", ["adain", "modulated"])
    def test_noise(self, style: str) -> None:
        """none: noise is not looked at; mean: only its mean counts; spatial: its pixels do."""
        moves = {}
        for kind in ("none", "mean", "spatial"):
            network = build_small("generator", "style_unet", style=style, noise=kind).eval()
            latents, noise = self.inputs(network)
            image = self.generate(network, latents, noise)
            flipped = self.generate(network, latents, noise.flip(2, 3))
            brighter = self.generate(network, latents, noise + 1)
            moves[kind] = [bool(((other - image).abs() > 1e-4).any()) for other in (flipped, brighter)]
        assert moves == {"none": [False, False], "mean": [False, True], "spatial": [True, True]}

    def test_spatial_noise_keeps_its_variance_at_every_level(self) -> None:
        network = build_small("generator", "style_unet", noise="spatial")
        noise = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
        for factor in (1, 2, 4):
            at_level = network._noise_at(noise, factor)
            assert at_level.shape[-1] == 64 // factor
            assert float(at_level.var()) == pytest.approx(1 / 12, rel=0.2)

    @pytest.mark.parametrize("style", ["adain", "modulated"])
    def test_every_level_has_its_latent(self, style: str) -> None:
        network = build_small("generator", "style_unet", style=style).eval()
        latents, noise = self.inputs(network)
        latents.requires_grad_()
        self.generate(network, latents, noise).square().mean().backward()
        assert latents.grad is not None
        assert (latents.grad.abs().sum((0, 2)) > 0).all()

    def test_latents_of_another_shape_are_refused(self) -> None:
        network = build_small("generator", "style_unet")
        latents, noise = self.inputs(network)
        with pytest.raises(ValueError, match=r"latents have shape \(2, 2, 8\), this generator needs \(2, 3, 8\)"):
            self.generate(network, latents[:, :2], noise)

    def test_mix_latents(self) -> None:
        a, b = torch.zeros(2, 4), torch.ones(2, 4)
        assert mix_latents([a, b], [1, 2], 3)[0, :, 0].tolist() == [0, 1, 1]
        assert mix_latents([a, b], [0, 5], 3)[0, :, 0].tolist() == [1, 1, 1]
        assert mix_latents([a, b], [4, 1], 3)[0, :, 0].tolist() == [0, 0, 0]
        for counts in ([1, 1], [3], [-1, 4]):
            with pytest.raises(ValueError, match="counts"):
                mix_latents([a, b], counts, 3)

    def test_adaptive_instance_norm_sets_mean_and_deviation(self) -> None:
        features = torch.randn(2, 3, 20, 30, generator=torch.Generator().manual_seed(0)) * 5 + 7
        scale, shift = torch.randn(2, 3), torch.randn(2, 3)
        output = adaptive_instance_norm(features, scale, shift)
        torch.testing.assert_close(output.mean((2, 3)), shift, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(output.std((2, 3), correction=0), (1 + scale).abs(), rtol=1e-4, atol=1e-4)

    def test_modulated_conv_equals_a_kernel_for_each_sample(self) -> None:
        features, style = torch.randn(3, 4, 6, 7).double(), torch.randn(3, 4).double()
        weight = torch.randn(5, 4, 3, 3).double()
        kernels = weight[None] * (1 + style)[:, None, :, None, None]
        kernels = kernels / (kernels.square().sum((2, 3, 4), keepdim=True) + 1e-8).sqrt()
        grouped = nn.functional.conv2d(features.reshape(1, 12, 6, 7), kernels.reshape(15, 4, 3, 3), padding=1, groups=3)
        torch.testing.assert_close(modulated_conv(features, weight, style), grouped.reshape(3, 5, 6, 7))


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: GENERATORS["style_unet"](width=4, style="spade"), "style 'spade'"),
        (lambda: GENERATORS["style_unet"](width=4, noise="pink"), "noise 'pink'"),
        (lambda: SEGMENTERS["unet"](width=4, norm="layer"), "norm 'layer'"),
        (lambda: SEGMENTERS["unet"](width=0), "width 0"),
        (lambda: SEGMENTERS["unet"](width=4, dropout=1.0), "dropout 1.0"),
    ],
)
def test_bad_values_are_named(build: Callable[[], nn.Module], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        build()


class TestInitialise:
    def test_spread_of_each_kind_of_layer(self) -> None:
        """Standard deviations as facts.json says: He fan-out, Xavier, standard normal mapper, He fan-in kernels."""
        network = initialise(StyleUNet(width=32, depth=2, style="modulated", noise="mean", style_dim=64), 3)
        expected = {
            "encoder.levels.1.conv_b.weight": (2 / (64 * 9)) ** 0.5,
            "decoder.0.layer_a.conv.weight": (2 / (128 * 9)) ** 0.5,
            "decoder.0.layer_a.conv.affine.weight": (2 / (128 + 64)) ** 0.5,
            "style_mapper.layers.0.weight": 1.0,
            "decoder.0.upsample.weight": (1 / (64 * 4)) ** 0.5 / 3**0.5,
        }
        state = network.state_dict()
        for name, std in expected.items():
            assert float(state[name].std()) == pytest.approx(std, rel=0.05), name
            assert abs(float(state[name].mean())) < 0.05 * std + 3 * std / state[name].numel() ** 0.5, name
        zero = [name for name in state if name.endswith("bias") and "upsample" not in name]
        assert zero and not any(state[name].any() for name in zero)

    def test_overwrites_statistics(self) -> None:
        network = build_small("segmenter", "unet").train()
        network(picture(32, 32))
        initialise(network, 0)
        fresh = build_small("segmenter", "unet").state_dict()
        assert all(torch.equal(value, fresh[name]) for name, value in network.state_dict().items())

    def test_a_layer_without_a_rule_is_named(self) -> None:
        with pytest.raises(ValueError, match=r"1\.weight.*initialise_own"):
            initialise(nn.Sequential(nn.Conv2d(1, 1, 1), nn.PReLU()), 0)
