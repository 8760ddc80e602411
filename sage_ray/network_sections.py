"""The sections of an ExperimentConfig that say which networks a run has."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sage_ray.identity import later
from sage_ray.section_base import Count, NormName, PositiveInt, Probability, Section


class SegmenterConfig(Section):
    """The network from image to mask, which both phases train and which a run is judged by."""

    name: str = "attention_unet"
    """Which network: attention_unet, dc_unet, half_unet, residual_unet, resnet, resnet34_unet, unet or
    unet_plus_plus."""
    width: PositiveInt = 64
    """Channels of the first level; they double at each level."""
    depth: Annotated[int, Field(ge=1, le=6)] = 4
    """Number of down-sampling levels."""
    attention: bool = True
    """Row 25: attention gates on the skips; false makes the gates pass everything (attention_unet only)."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Row 24: dropout inside each decoder level."""
    norm: NormName = "batch"
    """batch (synchronised over workers), group, frozen (running statistics only), instance (each channel of each image
    alone), or instance_affine (that, with a learned gain and shift)."""
    deep_supervision: bool = False
    """Several heads, each with a supervised loss: on every nested output (unet_plus_plus), or on the decoder's coarser
    levels, weighing half at half the resolution (residual_unet)."""
    encoder_weights: str = later("none")
    """What the encoder starts from: none (drawn), imagenet (published, fetched once and kept), or a file of tensors
    with torchvision's names (resnet34_unet only)."""
    blocks: Count = later(0)
    """Residual blocks (resnet only); 0: 6 where an image's shorter side is below 256 pixels, else 9."""


class GeneratorConfig(Section):
    """The network from mask to image of phase 2."""

    name: str = "style_unet"
    """Which network: style_unet, resnet or unet; the last two are CycleGAN's, without style and noise."""
    width: PositiveInt = 64
    """Channels of the first level; they double at each level."""
    depth: Annotated[int, Field(ge=1, le=6)] = 4
    """Number of down-sampling levels."""
    style: Literal["adain", "modulated"] = "adain"
    """Row 22: how a style enters the generator: by AdaIN (paper), or by modulated convolution (public code)."""
    style_dim: PositiveInt = 128
    """Length of the random code that a style is made from."""
    noise: Literal["spatial", "mean", "none"] = "spatial"
    """Row 23: noise that the generator adds: per pixel (paper), its mean alone, a bias (public code), or none."""
    style_mixing: Probability = 0.9
    """Probability that two latent codes share the decoder levels."""
    mixing_points: Literal["levels", "public"] = "levels"
    """Row 26: the crossover falls between used levels, or may fall outside them as in the public code."""
    norm: NormName = "batch"
    """Normalisation of the encoder, as `segmenter.norm`."""
    blocks: Count = later(0)
    """Residual blocks (resnet only); 0: 6 where an image's shorter side is below 256 pixels, else 9."""


class DiscriminatorsConfig(Section):
    """The two networks of phase 2 that tell real images and masks from made ones; both are built alike."""

    name: str = "patch_gan"
    """Which network: patch_gan, which judges overlapping patches of a picture one by one."""
    width: PositiveInt = 64
    """Channels of the first block; they double three times."""
    attention: bool = True
    """Residual linear attention in the first block."""
    mask_attention: bool = later(True)
    """Whether the mask discriminator has that attention too; false leaves it to the image discriminator alone."""
    heads: PositiveInt = 8
    """Heads of the attention, each of which looks at the picture in a way of its own."""
    head_dim: PositiveInt = 64
    """Channels of each head."""
    norm: NormName = "batch"
    """Normalisation after the convolutions, as `segmenter.norm`."""
