"""What distinguishes the baseline segmenters, in numbers and equalities that can be checked by hand."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sage_ray.models import SEGMENTERS
from sage_ray.models.blocks import DoubleConv
from sage_ray.models.dc_unet import DCUNet, DualChannelBlock, ResidualStep, block_widths
from sage_ray.models.dropout import KeyedDropout
from sage_ray.models.half_unet import GhostModule, HalfUNet
from sage_ray.models.init import initialise
from sage_ray.models.unet import UNet
from sage_ray.models.unet_plus_plus import NestedNode, UNetPlusPlus


def picture(height: int, width: int) -> Tensor:
    return torch.rand(2, 1, height, width, generator=torch.Generator().manual_seed(height * width)) * 2 - 1


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("name", "keywords", "expected"),
    [
        ("attention_unet", {}, 31_393_966),
        ("unet", {}, 31_042_434),
        ("unet_plus_plus", {}, 36_171_458),
        ("unet_plus_plus", {"deep_supervision": True}, 36_171_458 + 3 * (64 * 2 + 2)),
        ("half_unet", {}, 208_162),
        ("dc_unet", {}, 40_276_460),
        ("dc_unet", {"width": 32}, 10_046_834),
        ("residual_unet", {"width": 32, "depth": 5, "deep_supervision": True}, 53_321_832),
        ("resnet34_unet", {"depth": 5}, 24_446_434),
    ],
)
def test_parameters_at_full_width(name: str, keywords: dict[str, Any], expected: int) -> None:
    with torch.device("meta"):
        assert count(SEGMENTERS[name](**keywords)) == expected


def test_the_zoo_is_registered_once_each() -> None:
    assert set(SEGMENTERS) >= {"attention_unet", "unet", "unet_plus_plus", "half_unet", "dc_unet"}
    assert len(set(SEGMENTERS.values())) == len(SEGMENTERS)


@pytest.mark.parametrize("name", ["unet_plus_plus", "half_unet", "dc_unet"])
def test_the_attention_keyword_changes_nothing(name: str) -> None:
    on, off = (initialise(SEGMENTERS[name](width=4, depth=2, attention=flag), 0).eval() for flag in (True, False))
    assert torch.equal(on(picture(32, 32)), off(picture(32, 32)))


@pytest.mark.parametrize(("name", "places"), [("unet_plus_plus", 6), ("half_unet", 1), ("dc_unet", 3)])
def test_dropout_stands_in_the_decoder_alone(name: str, places: int) -> None:
    network = SEGMENTERS[name](width=4, depth=3, dropout=0.25)
    active = [path for path, layer in network.named_modules() if isinstance(layer, KeyedDropout) and layer.p == 0.25]
    assert len(active) == places
    assert all(path.startswith(("columns.", "decoder")) for path in active)


class TestUNetPlusPlus:
    @pytest.mark.parametrize("depth", [1, 2, 4])
    def test_nodes_and_heads(self, depth: int) -> None:
        network = UNetPlusPlus(width=4, depth=depth, deep_supervision=True)
        nodes = [layer for layer in network.modules() if isinstance(layer, NestedNode)]
        assert len(nodes) == depth * (depth + 1) // 2
        assert len(network.heads) == depth and len(UNetPlusPlus(width=4, depth=depth).heads) == 1
        for column, at_column in enumerate(network.columns, start=1):
            for level, node in enumerate(at_column):
                assert node.block.conv_a.in_channels == (column + 1) * 4 * 2**level

    def test_the_authors_size(self) -> None:
        """9,041,601 parameters stand in the authors' first code, which has no normalisation and one class."""
        with torch.device("meta"):
            network = UNetPlusPlus(width=32, classes=1)
        norms = sum(count(layer) for layer in network.modules() if isinstance(layer, nn.BatchNorm2d))
        assert count(network) - norms == 9_041_601

    def test_of_depth_one_it_is_a_unet(self) -> None:
        nested = initialise(UNetPlusPlus(width=4, depth=1), 0).eval()
        names = (("columns.0.0.", "decoder.0."), ("heads.0.", "head."))
        weights = nested.state_dict()
        for ours, theirs in names:
            weights = {key.replace(ours, theirs): value for key, value in weights.items()}
        unet = UNet(width=4, depth=1).eval()
        unet.load_state_dict(weights)
        assert torch.equal(nested(picture(30, 33)), unet(picture(30, 33)))

    def test_output_is_the_mean_over_the_heads(self) -> None:
        network = initialise(UNetPlusPlus(width=4, depth=3, deep_supervision=True), 0).eval()
        heads = network.forward_deep(picture(29, 37))
        assert [tuple(logits.shape) for logits in heads] == [(2, 2, 29, 37)] * 3
        torch.testing.assert_close(network(picture(29, 37)), (heads[0] + heads[1] + heads[2]) / 3)
        single = initialise(UNetPlusPlus(width=4, depth=3), 0).eval()
        (only,) = single.forward_deep(picture(29, 37))
        assert torch.equal(single(picture(29, 37)), only)

    def test_each_head_reads_one_level_more(self) -> None:
        """Head j closes a U-Net of depth j: no gradient from it reaches encoder levels below j."""
        network = initialise(UNetPlusPlus(width=4, depth=3, deep_supervision=True), 0).eval()
        blocks = [*network.encoder.levels, network.encoder.middle]
        for index, logits in enumerate(network.forward_deep(picture(32, 32)), start=1):
            first = [block.conv_a.weight for block in blocks]
            grads = torch.autograd.grad(logits.square().sum(), first, allow_unused=True, retain_graph=True)
            assert [grad is not None and bool(grad.any()) for grad in grads] == [level <= index for level in range(4)]

    def test_nodes_read_all_earlier_nodes_of_their_level(self) -> None:
        network = initialise(UNetPlusPlus(width=4, depth=3), 0).eval()
        seen: dict[int, list[Tensor]] = {}
        for index, column in enumerate(network.columns, start=1):
            column[0].register_forward_hook(lambda _, args, out, index=index: seen.update({index: [*args[0], out]}))
        network(picture(16, 16))
        assert [len(seen[index]) - 1 for index in (1, 2, 3)] == [1, 2, 3]
        # X[0,1] and X[0,2] themselves, not copies, are inputs of X[0,3].
        assert seen[3][1] is seen[1][-1] and seen[3][2] is seen[2][-1]


class TestHalfUNet:
    def test_all_levels_have_equal_channels_and_are_added(self) -> None:
        network = initialise(HalfUNet(width=6, depth=3), 0).eval()
        outputs: list[Tensor] = []
        fused: list[Tensor] = []
        for level in network.levels:
            level.register_forward_hook(lambda _module, _args, output: outputs.append(output))
        network.decoder.register_forward_pre_hook(lambda _module, args: fused.append(args[0]))
        network(picture(32, 48))
        sizes = [(2, 6, 32, 48), (2, 6, 16, 24), (2, 6, 8, 12), (2, 6, 4, 6)]
        assert [tuple(output.shape) for output in outputs] == sizes
        full = [
            nn.functional.interpolate(output, size=(32, 48), mode="bilinear", align_corners=False) for output in outputs
        ]
        torch.testing.assert_close(fused[0], sum(full))

    def test_a_ghost_reads_one_channel(self) -> None:
        """Channels: 3 plain, then 2 ghosts; ghost c changes with the weights of plain channel c alone."""
        module = initialise(GhostModule(2, 5, norm="frozen"), 0)
        features = torch.randn(1, 2, 8, 8, generator=torch.Generator().manual_seed(0))
        before = module(features)
        assert before.shape == (1, 5, 8, 8)
        changed = copy.deepcopy(module)
        with torch.no_grad():
            changed.primary.conv.weight[1] += 0.5
        moved = (changed(features) - before).abs().amax((0, 2, 3)) > 1e-6
        assert moved.tolist() == [False, True, False, False, True]

    def test_halves_cost_as_said(self) -> None:
        """64 to 64 channels: 64*32*9 plain weights, 32*9 of ghosts, gain and shift of 64 channels."""
        assert count(GhostModule(64, 64, norm="batch")) == 64 * 32 * 9 + 32 * 9 + 2 * 64

    def test_one_channel_cannot_be_halved(self) -> None:
        with pytest.raises(ValueError, match="width 1 must be at least 2"):
            HalfUNet(width=1)


class TestDCUNet:
    def test_widths_of_a_block(self) -> None:
        # 1.67 * 64 = 106.88; times .167, .333 and .5: 17.8, 35.6, 53.4, cut to whole channels.
        assert block_widths(64) == (17, 35, 53)
        assert block_widths(1) == (1, 1, 1)

    def test_skips_shorten_with_depth(self) -> None:
        network = DCUNet(width=4, depth=4)
        lengths = [sum(isinstance(layer, ResidualStep) for layer in skip) for skip in network.skips]
        assert lengths == [4, 3, 2, 1]

    def test_the_two_channels_are_alike_and_there_is_no_third(self) -> None:
        block = initialise(DualChannelBlock(3, 8, norm="batch"), 0).eval()
        features = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))
        swapped = copy.deepcopy(block)
        swapped.sequence_a, swapped.sequence_b = swapped.sequence_b, swapped.sequence_a
        assert torch.equal(block(features), swapped(features))
        both = block.sequence_a(features) + block.sequence_b(features)
        torch.testing.assert_close(block(features), block.norm(both.relu()))
        assert not torch.allclose(block.sequence_a(features), block.sequence_b(features))

    def test_a_sequence_sees_three_five_and_seven_pixels(self) -> None:
        sequence = initialise(DualChannelBlock(1, 8, norm="frozen"), 0).sequence_a
        for parameter in sequence.parameters():
            nn.init.constant_(parameter, 0.1)
        dark, dot = torch.zeros(1, 1, 11, 11), torch.zeros(1, 1, 11, 11)
        dot[..., 5, 5] = 1
        moved = (sequence(dot) - sequence(dark)).abs() > 1e-9
        ends = torch.tensor(block_widths(8)).cumsum(0) - 1
        assert [int(moved[0, end].any(0).sum()) for end in ends] == [3, 5, 7]


def test_the_encoders_of_the_unets_are_the_same() -> None:
    """A U-Net++ and a U-Net of one seed start from equal encoders: a comparison differs in the skips alone."""
    unet = initialise(UNet(width=4, depth=2), 0).state_dict()
    nested = initialise(UNetPlusPlus(width=4, depth=2), 0).state_dict()
    encoder = [key for key in unet if key.startswith("encoder.")]
    assert encoder and all(torch.equal(unet[key], nested[key]) for key in encoder)
    assert sum(isinstance(layer, DoubleConv) for layer in UNet(width=4, depth=2).encoder.modules()) == 3
