"""The range of grey values in networks, and of those in pictures."""

from __future__ import annotations

import torch

from sage_ray.models.value_range import to_network_range, to_picture_range


def test_there_and_back() -> None:
    grey = torch.arange(256).float() / 255
    image = to_network_range(grey)
    assert image.min() == -1 and image.max() == 1 and image[51] == 2 * grey[51] - 1
    assert torch.equal((255 * to_picture_range(image)).round(), torch.arange(256).float())
    assert to_picture_range(torch.tensor([-3.0, 3.0])).tolist() == [-1.0, 2.0]
