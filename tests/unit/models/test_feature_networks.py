"""Networks of published features: names, shapes and counts as published, and outputs of the right shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sage_ray.errors import UserError
from sage_ray.models.dinov2 import DinoV2, dinov2_weights, load_dinov2
from sage_ray.models.inception import InceptionV3, inception_weights, load_inception


def count(shapes: dict[str, tuple[int, ...]], *without: str) -> int:
    return sum(int(np.prod(shape)) for name, shape in shapes.items() if not name.endswith(without))


def test_the_wanted_tensors_are_those_of_the_published_files() -> None:
    inception = dict(inception_weights().shapes)
    # 23,834,568 parameters with 1,000 classes and without the auxiliary head; the FID network has 1,008 classes.
    assert count(inception, "running_mean", "running_var") == 23_834_568 + 8 * 2049
    assert inception["Mixed_6c.branch7x7dbl_4.conv.weight"] == (160, 160, 7, 1)
    assert inception["Mixed_7c.branch3x3dbl_3b.bn.running_var"] == (384,) and inception["fc.bias"] == (1008,)
    assert inception["Conv2d_4a_3x3.conv.weight"] == (192, 80, 3, 3)
    dino = dict(dinov2_weights().shapes)
    # 22,056,576 parameters, of which the mask token (384) serves training alone.
    assert count(dino) == 22_056_576 - 384
    assert dino["pos_embed"] == (1, 1370, 384) and dino["blocks.11.attn.qkv.weight"] == (1152, 384)
    assert dino["blocks.0.ls2.gamma"] == (384,) and dino["patch_embed.proj.weight"] == (384, 3, 14, 14)


def test_features_have_their_shapes_and_depend_on_the_image() -> None:
    torch.manual_seed(0)
    images = torch.rand(2, 1, 64, 48)
    for network, width in ((InceptionV3(), 2048), (DinoV2(), 384)):
        state = {name: t for name, t in network.state_dict().items() if not name.endswith("num_batches_tracked")}
        load = load_inception if width == 2048 else load_dinov2
        with torch.no_grad():
            found = load(state)(images)
        assert found.shape == (2, width) and torch.isfinite(found).all() and (found[0] != found[1]).any()


def test_without_weights_the_message_says_how_to_go_on(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such file of DINOv2 .* weights: .*nothing.pth: .*judge's features"):
        dinov2_weights().load(tmp_path / "nothing.pth", tmp_path)
    torch.save({"fc.bias": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"not usable as Inception weights: .*is missing.*--feature-weights"):
        inception_weights().load(tmp_path / "other.pth", tmp_path)
