"""Networks: one file per architecture. A new one is one file and one line in a table below.

Tables map a name in the config to a class that is built from plain keyword arguments; forward signatures are the same
within a table. SEGMENTERS: image (N,1,H,W) in [-1,1] to logits (N,2,H,W). GENERATORS: mask (N,1,H,W), latents
(N,levels,style_dim), noise (N,1,H,W) to image (N,1,H,W). DISCRIMINATORS: image (N,1,H,W) to patch scores (N,1,h,w).

Segmenters take the keywords of `segmenter.Layout`. One that can be deeply supervised takes the keyword
`deep_supervision` too, keeps it as an attribute, and has `forward_deep(image)`: the logits of all its heads.
"""

from __future__ import annotations

from torch import nn

from sage_ray.models.attention_unet import AttentionUNet
from sage_ray.models.dc_unet import DCUNet
from sage_ray.models.half_unet import HalfUNet
from sage_ray.models.patch_gan import PatchGAN
from sage_ray.models.style_unet import StyleUNet
from sage_ray.models.unet import UNet
from sage_ray.models.unet_plus_plus import UNetPlusPlus

SEGMENTERS: dict[str, type[nn.Module]] = {
    "attention_unet": AttentionUNet,
    "dc_unet": DCUNet,
    "half_unet": HalfUNet,
    "unet": UNet,
    "unet_plus_plus": UNetPlusPlus,
}
GENERATORS: dict[str, type[nn.Module]] = {
    "style_unet": StyleUNet,
}
DISCRIMINATORS: dict[str, type[nn.Module]] = {
    "patch_gan": PatchGAN,
}
