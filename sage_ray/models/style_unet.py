"""Style U-Net generator: mask to image, each decoder level styled by a latent code and fed with noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sage_ray.models.blocks import Encoder, level_widths, pad_to_multiple
from sage_ray.models.init import he_normal, normal

STYLES = ("adain", "modulated")
NOISES = ("spatial", "mean", "none")
_ENCODER_SLOPE = 0.01
_STYLE_SLOPE = 0.2

Style = Literal["adain", "modulated"]
Noise = Literal["spatial", "mean", "none"]


class ScaledLinear(nn.Module):
    """Linear layer whose weight and bias are multiplied by `scale` at run time (equalised learning rate)."""

    def __init__(self, in_features: int, out_features: int, scale: float = 0.1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        self.scale = scale

    def forward(self, features: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        return F.linear(features, self.weight * self.scale, self.bias * self.scale)

    def initialise_own(self, generator_for: Callable[[str], torch.Generator]) -> None:
        """Standard normal weight, zero bias."""
        normal(self.weight, generator_for("weight"), 1.0)
        nn.init.zeros_(self.bias)


class StyleMapper(nn.Module):
    """Maps latent codes z to styles w: normalised to unit length, then three times [scaled linear, leaky relu 0.2]."""

    def __init__(self, style_dim: int = 128, layers: int = 3) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ScaledLinear(style_dim, style_dim) for _ in range(layers))

    def forward(self, latents: Tensor) -> Tensor:
        """(..., style_dim) to (..., style_dim); a zero code stays zero before the first layer."""
        styles = F.normalize(latents, dim=-1, eps=1e-12)
        for layer in self.layers:
            styles = F.leaky_relu(layer(styles), _STYLE_SLOPE)
        return styles


def modulated_conv(features: Tensor, weight: Tensor, style: Tensor, demodulate: bool = True) -> Tensor:
    """3x3 convolution whose kernel is scaled, per sample, by 1 + style over its input channels.

    Scaling the input by the style and the output by the demodulation equals scaling the kernel of each sample, and lets
    the whole batch share one convolution. Demodulation divides by sqrt(sum of the squared scaled kernel + 1e-8).

    Args:
        features: (N,C,H,W).
        weight: (out,C,kh,kw), odd kernel; zero padding keeps H and W.
        style: (N,C).
        demodulate: whether each output channel is divided by the norm of its kernel.

    Returns:
        (N,out,H,W).

    Source: Karras et al. 2020 (StyleGAN2), equations 1 and 3.
    """
    scale = 1 + style
    output = F.conv2d(features * scale[:, :, None, None].to(features.dtype), weight, padding=weight.shape[-1] // 2)
    if not demodulate:
        return output
    # Products and sums, no matrix product: autocast would round the squares to bf16.
    squares = scale.square()[:, None, :] * weight.square().sum((2, 3))[None]
    return output * torch.rsqrt(squares.sum(2) + 1e-8)[:, :, None, None].to(output.dtype)


def adaptive_instance_norm(features: Tensor, scale: Tensor, shift: Tensor, eps: float = 1e-5) -> Tensor:
    """Each sample's channels normalised over space, then times 1 + scale plus shift.

    Args: features (N,C,H,W); scale and shift (N,C). Source: Huang and Belongie 2017; Karras et al. 2019.
    """
    variance, mean = torch.var_mean(features, dim=(2, 3), correction=0, keepdim=True)
    gain = ((1 + scale)[:, :, None, None] * torch.rsqrt(variance + eps)).to(features.dtype)
    # One pass over the features, which are all that backward has to keep.
    return torch.addcmul(shift[:, :, None, None].to(features.dtype) - mean * gain, features, gain)


class ModulatedConv(nn.Module):
    """3x3 modulated and demodulated convolution; its style is a linear function of w. No bias of its own."""

    def __init__(self, channels: int, out_channels: int, style_dim: int) -> None:
        super().__init__()
        self.affine = nn.Linear(style_dim, channels)
        self.weight = nn.Parameter(torch.empty(out_channels, channels, 3, 3))
        nn.init.kaiming_normal_(self.weight, mode="fan_in")

    def forward(self, features: Tensor, style: Tensor) -> Tensor:
        """(N,C,H,W) and w (N,style_dim) to (N,out_channels,H,W)."""
        return modulated_conv(features, self.weight, self.affine(style))

    def initialise_own(self, generator_for: Callable[[str], torch.Generator]) -> None:
        """He normal kernel, fan-in (the affine layer is initialised by itself)."""
        he_normal(self.weight, generator_for("weight"), "fan_in")


class NoiseTerm(nn.Module):
    """Adds gain * noise + bias per channel; the bias is the convolution's too."""

    def __init__(self, channels: int, noise: Noise) -> None:
        super().__init__()
        self.affine = nn.Linear(1, channels) if noise != "none" else None
        self.bias = nn.Parameter(torch.zeros(channels)) if noise == "none" else None

    def forward(self, features: Tensor, noise: Tensor | None) -> Tensor:
        """features (N,C,H,W) plus the term; noise (N,1,H,W) or (N,1,1,1), None when the generator has no noise."""
        if self.affine is None or noise is None:
            assert self.bias is not None, "a generator with noise was given none"
            return features + self.bias.view(1, -1, 1, 1).to(features.dtype)
        parts = (self.affine.bias.view(1, -1, 1, 1), noise, self.affine.weight.view(1, -1, 1, 1))
        return features + torch.addcmul(*(part.to(features.dtype) for part in parts))

    def initialise_own(self, _generator_for: Callable[[str], torch.Generator]) -> None:
        """Zero bias (the affine layer is initialised by itself)."""
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class ModulatedLayer(nn.Module):
    """Modulated convolution, noise term, leaky relu 0.2: the published code's order (DISCREPANCIES row 22)."""

    def __init__(self, channels: int, out_channels: int, style_dim: int, noise: Noise) -> None:
        super().__init__()
        self.conv = ModulatedConv(channels, out_channels, style_dim)
        self.noise = NoiseTerm(out_channels, noise)

    def forward(self, features: Tensor, style: Tensor, noise: Tensor | None) -> Tensor:
        """(N,C,H,W), w (N,style_dim), noise to (N,out_channels,H,W)."""
        return F.leaky_relu(self.noise(self.conv(features, style), noise), _STYLE_SLOPE)


class AdaInLayer(nn.Module):
    """3x3 convolution, noise term, leaky relu 0.2, adaptive instance norm: the order of StyleGAN (Karras et al. 2019).

    The norm comes last, so that no constant (bias, or noise replaced by its mean) is normalised away unseen.
    """

    def __init__(self, channels: int, out_channels: int, style_dim: int, noise: Noise) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, 3, padding=1, bias=False)
        self.noise = NoiseTerm(out_channels, noise)
        self.affine = nn.Linear(style_dim, 2 * out_channels)

    def forward(self, features: Tensor, style: Tensor, noise: Tensor | None) -> Tensor:
        """(N,C,H,W), w (N,style_dim), noise to (N,out_channels,H,W)."""
        features = F.leaky_relu(self.noise(self.conv(features), noise), _STYLE_SLOPE)
        scale, shift = self.affine(style).chunk(2, dim=1)
        return adaptive_instance_norm(features, scale, shift)


class StyleDecoderLevel(nn.Module):
    """Transposed 2x2 convolution, concatenation with the skip (decoder first), two styled layers."""

    def __init__(self, width: int, style_dim: int, style: Style, noise: Noise) -> None:
        super().__init__()
        layer = AdaInLayer if style == "adain" else ModulatedLayer
        self.upsample = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.layer_a = layer(2 * width, width, style_dim, noise)
        self.layer_b = layer(width, width, style_dim, noise)

    def forward(self, features: Tensor, skip: Tensor, style: Tensor, noise: Tensor | None) -> Tensor:
        """(N,2 width,h,w), skip (N,width,2h,2w), w (N,style_dim), noise to (N,width,2h,2w)."""
        features = torch.cat([self.upsample(features), skip], dim=1)
        styled: Tensor = self.layer_b(self.layer_a(features, style, noise), style, noise)
        return styled


class StyleUNet(nn.Module):
    """Generator of images from masks: a U-Net whose decoder is styled level by level.

    Attributes:
        levels: number of decoder levels, one latent code each, deepest first.
        style_dim: length of a latent code.
    """

    def __init__(
        self,
        *,
        in_channels: int = 1,
        out_channels: int = 1,
        width: int = 64,
        depth: int = 4,
        style: Style = "adain",
        style_dim: int = 128,
        noise: Noise = "spatial",
        norm: str = "batch",
    ) -> None:
        """Make the network.

        Args:
            in_channels: channels of the mask.
            out_channels: channels of the image.
            width: channels of the first level; they double at each level.
            depth: number of down-sampling levels.
            style: adain (paper) or modulated (public code); DISCREPANCIES row 22.
            style_dim: length of latent codes and styles.
            noise: spatial (per pixel, paper), mean (its mean at every pixel, public code) or none; row 23.
            norm: batch, group or frozen, of the encoder.

        Raises:
            ValueError: an unknown style, noise or norm, or a number out of range.
        """
        super().__init__()
        if style not in STYLES:
            raise ValueError(f"unknown style {style!r}: use one of {', '.join(STYLES)}")
        if noise not in NOISES:
            raise ValueError(f"unknown noise {noise!r}: use one of {', '.join(NOISES)}")
        self.levels, self.style_dim, self.noise = depth, style_dim, noise
        self.style_mapper = StyleMapper(style_dim)
        self.encoder = Encoder(in_channels, width, depth, norm=norm, slope=_ENCODER_SLOPE)
        self.decoder = nn.ModuleList(
            StyleDecoderLevel(level, style_dim, style, noise) for level in reversed(level_widths(width, depth))
        )
        self.head = nn.Conv2d(width, out_channels, 1)

    def forward(self, mask: Tensor, latents: Tensor, noise: Tensor) -> Tensor:
        """Generated image (N,out_channels,H,W), no output activation, of about [-1,1] once trained.

        Args:
            mask: (N,1,H,W), any H, W >= 16.
            latents: (N,levels,style_dim) latent codes z, one a decoder level, deepest first (see `mix_latents`).
            noise: (N,1,H,W) uniform in [0,1]; not looked at when the generator has no noise.

        Raises:
            ValueError: latents of another shape.
        """
        height, width = mask.shape[-2:]
        if latents.shape != (mask.shape[0], self.levels, self.style_dim):
            wanted = (mask.shape[0], self.levels, self.style_dim)
            raise ValueError(f"latents have shape {tuple(latents.shape)}, this generator needs {wanted}")
        # All codes in one product: a dozen rows cost less than finding out which of them are equal.
        styles = self.style_mapper(latents)
        features, skips = self.encoder(pad_to_multiple(mask, 2**self.levels))
        for index, (level, skip) in enumerate(zip(self.decoder, reversed(skips), strict=True)):
            at_level = self._noise_at(noise, 2 ** (self.levels - 1 - index))
            features = level(features, skip, styles[:, index], at_level)
        image: Tensor = self.head(features)
        return image[..., :height, :width]

    def _noise_at(self, noise: Tensor, factor: int) -> Tensor | None:
        if self.noise == "none":
            return None
        if self.noise == "mean":
            return noise.mean((1, 2, 3), keepdim=True)
        # Every factor-th pixel, not an average: the noise keeps its variance at the coarse levels.
        return pad_to_multiple(noise, 2**self.levels)[..., ::factor, ::factor]


def mix_latents(codes: Sequence[Tensor], counts: Sequence[int], levels: int) -> Tensor:
    """Latents (N,levels,style_dim) for `StyleUNet`: code i for counts[i] levels from the deepest on.

    Args:
        codes: latent codes (N,style_dim).
        counts: levels that each code is used for, 0 or more; entries past `levels` are unused, as in the public code.
        levels: decoder levels of the generator.

    Raises:
        ValueError: not one count a code, a negative count, or fewer than `levels` in all.
    """
    if len(codes) != len(counts) or any(count < 0 for count in counts) or sum(counts) < levels:
        raise ValueError(f"counts {list(counts)}: need one for each of {len(codes)} codes, none < 0, sum >= {levels}")
    entries = [code for code, count in zip(codes, counts, strict=True) for _ in range(count)]
    return torch.stack(entries[:levels], dim=1)
