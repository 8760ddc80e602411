"""Networks: one file per architecture. A new one is one file and one line in a table below.

Tables map a name in the config to a class that is built from plain keyword arguments; forward signatures are the same
within a table. SEGMENTERS: image (N,1,H,W) in [-1,1] to logits (N,2,H,W). GENERATORS: mask (N,1,H,W), latents
(N,levels,style_dim), noise (N,1,H,W) to image (N,1,H,W). DISCRIMINATORS: image (N,1,H,W) to patch scores (N,1,h,w).

A generator takes those of the settings under `generator` that its constructor names; one without style looks at neither
latents nor noise. Segmenters take the keywords of `segmenter.Layout`. One that can be deeply supervised takes the
keyword `deep_supervision` too, keeps it as an attribute, and has `forward_deep(image)`: the logits of all its heads,
those of the image's size last; a coarser head's have ceil(H/s) rows and ceil(W/s) columns, s a power of two. One whose
encoder has published weights has `published()`, which says what it takes of which file, and `take_published(weights)`.
"""

from __future__ import annotations

from torch import nn

from sage_ray.models.attention_unet import AttentionUNet
from sage_ray.models.dc_unet import DCUNet
from sage_ray.models.half_unet import HalfUNet
from sage_ray.models.patch_gan import PatchGAN
from sage_ray.models.plain_generator import PlainUNetGenerator
from sage_ray.models.residual_unet import ResidualUNet
from sage_ray.models.resnet34_unet import ResNet34UNet
from sage_ray.models.resnet_generator import ResNetGenerator, ResNetSegmenter
from sage_ray.models.style_unet import StyleUNet
from sage_ray.models.unet import UNet
from sage_ray.models.unet_plus_plus import UNetPlusPlus

SEGMENTERS: dict[str, type[nn.Module]] = {
    "attention_unet": AttentionUNet,
    "dc_unet": DCUNet,
    "half_unet": HalfUNet,
    "residual_unet": ResidualUNet,
    "resnet": ResNetSegmenter,
    "resnet34_unet": ResNet34UNet,
    "unet": UNet,
    "unet_plus_plus": UNetPlusPlus,
}
GENERATORS: dict[str, type[nn.Module]] = {
    "resnet": ResNetGenerator,
    "style_unet": StyleUNet,
    "unet": PlainUNetGenerator,
}
DISCRIMINATORS: dict[str, type[nn.Module]] = {
    "patch_gan": PatchGAN,
}
