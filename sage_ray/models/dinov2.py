"""DINOv2 ViT-S/14: features of images from a network that was trained without labels.

Source: Oquab et al., arXiv 2304.07193; names of the tensors and the rule by which positions are interpolated are those
of the weights that the authors publish.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sage_ray.published_weights import WITHOUT_FEATURES, PublishedWeights, published_shapes

URL = "https://dl.fbaipublicfiles.com/dinov2/dinov2_vits14/dinov2_vits14_pretrain.pth"
SHA256 = "b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9"
SIDE = 224
"""Pixels that images are resized to: 16 x 16 patches."""
PATCH = 14
WIDTH, DEPTH, HEADS = 384, 12, 6
GRID = 37
"""Patches a side in training (518 pixels), for which positions are stored."""
_OFFSET = 0.1
"""Added to the number of patches when positions are interpolated, as the published network does."""
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        count, length, _ = tokens.shape
        query, key, value = self.qkv(tokens).reshape(count, length, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        projected: Tensor = self.proj(mixed.transpose(1, 2).reshape(count, length, WIDTH))
        return projected


class _Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(WIDTH))

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens * self.gamma


class _Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(WIDTH, 4 * WIDTH)
        self.fc2 = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        mixed: Tensor = self.fc2(F.gelu(self.fc1(tokens)))
        return mixed


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, eps=1e-6), nn.LayerNorm(WIDTH, eps=1e-6)
        self.attn, self.mlp = _Attention(), _Mlp()
        self.ls1, self.ls2 = _Scale(), _Scale()

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.ls1(self.attn(self.norm1(tokens)))
        mixed: Tensor = tokens + self.ls2(self.mlp(self.norm2(tokens)))
        return mixed


class _Patches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, WIDTH, PATCH, stride=PATCH)

    def forward(self, image: Tensor) -> Tensor:
        patches: Tensor = self.proj(image)
        return patches.flatten(2).transpose(1, 2)


class DinoV2(nn.Module):
    """Class token (N,384) of grey images."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.zeros(1, GRID**2 + 1, WIDTH))
        self.patch_embed = _Patches()
        self.blocks = nn.ModuleList(_Block() for _ in range(DEPTH))
        self.norm = nn.LayerNorm(WIDTH, eps=1e-6)
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Features (N,384) of `image` (N,1,H,W) in [0,1]: the class token after the last norm."""
        resized = F.interpolate(
            image.expand(-1, 3, -1, -1), size=(SIDE, SIDE), mode="bicubic", align_corners=False, antialias=True
        )
        tokens = self.patch_embed((resized.clamp(0, 1) - self.mean) / self.std)
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], 1) + self._positions(SIDE // PATCH)
        for block in self.blocks:
            tokens = block(tokens)
        normed: Tensor = self.norm(tokens)
        return normed[:, 0]

    def _positions(self, side: int) -> Tensor:
        of_class, of_patches = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        grid = of_patches.reshape(1, GRID, GRID, WIDTH).permute(0, 3, 1, 2)
        factor = (side + _OFFSET) / GRID
        grid = F.interpolate(grid, scale_factor=(factor, factor), mode="bicubic")
        return torch.cat([of_class, grid.permute(0, 2, 3, 1).reshape(1, side * side, WIDTH)], 1)


def dinov2_weights() -> PublishedWeights:
    """Where the weights are published, and which tensors of theirs are wanted (88 MB)."""
    with torch.device("meta"):
        tensors = DinoV2().state_dict()
    return PublishedWeights(
        label="DINOv2 ViT-S/14",
        stem="dinov2-vits14",
        url=URL,
        sha256=SHA256,
        shapes=published_shapes(tensors),
        how_to_go_on=WITHOUT_FEATURES,
    )


def load_dinov2(tensors: Mapping[str, Tensor]) -> DinoV2:
    """The network in eval mode with the tensors of `dinov2_weights`."""
    network = DinoV2()
    network.load_state_dict(dict(tensors))
    return network.eval().requires_grad_(False)
