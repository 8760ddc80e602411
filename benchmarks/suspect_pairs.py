"""Counts false alarms of `data check` on a data folder, and which made-up faults it sees there; prints one JSON line.

Run: python benchmarks/suspect_pairs.py FOLDER. Each fault is put into every pair whose masks are taken to be right.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable

import numpy as np
from PIL import Image
from scipy.ndimage import binary_erosion

from sage_ray.data.images import read_image
from sage_ray.data.pair_masks import read_pair_mask
from sage_ray.data.pairs import load_folder
from sage_ray.data.preprocess import stretch
from sage_ray.data.suspects import look_at, same_pictures

Arrays = tuple[np.ndarray, np.ndarray]


def shifted(share: float) -> Callable[[np.ndarray, np.ndarray], Arrays]:
    """The mask moved down and right by a share of the sides."""
    return lambda image, mask: (image, np.roll(mask, [round(share * side) for side in mask.shape], (0, 1)))


def with_bar(image: np.ndarray, mask: np.ndarray) -> Arrays:
    """A black bar with white letters, a twelfth of the height, which a threshold took into the mask."""
    image, mask, rows = image.copy(), mask.copy(), max(len(image) // 12, 12)
    image[-rows:], image[3 - rows : -3, 10 : image.shape[1] // 3 : 2] = 0, 255
    mask[-rows:] = image[-rows:] > 127
    return image, mask


def encoded_again(image: np.ndarray) -> np.ndarray:
    """The picture as a JPEG of low quality at half the size."""
    stored = io.BytesIO()
    Image.fromarray(image).resize((image.shape[1] // 2, image.shape[0] // 2)).save(stored, "JPEG", quality=30)
    return np.asarray(Image.open(stored))


FAULTS: dict[str, Callable[[np.ndarray, np.ndarray], Arrays]] = {
    "inverted": lambda image, mask: (image, ~mask),
    "outline": lambda image, mask: (image, mask & ~binary_erosion(mask)),
    "equal": lambda image, mask: (mask.astype(np.uint8) * 255, mask),
    "shifted": shifted(0.03),
    "turned": lambda image, mask: (image, mask[::-1, ::-1]),
    "bar": with_bar,
}


def main(folder: str) -> dict[str, object]:
    """Pairs, false alarms among them, and the share of pairs in which each fault is seen under its own name."""
    pairs = load_folder(folder)
    images = [stretch(read_image(pair.image)) for pair in pairs]
    masks = [read_pair_mask(pair, image.shape).foreground for pair, image in zip(pairs, images, strict=True)]
    looks = [look_at(*arrays) for arrays in zip(images, masks, strict=True)]
    thumbs = [look.thumb for look in looks]
    seen = {}
    for kind, fault in FAULTS.items():
        found = [look_at(*fault(*arrays)).doubts for arrays in zip(images, masks, strict=True)]
        seen[kind] = round(sum(any(d.kind == kind for d in doubts) for doubts in found) / len(pairs), 3)
    for name, change in (("rotated", np.rot90), ("encoded again", encoded_again)):
        copies = [look_at(change(image), change(image) > 127).thumb for image in images]
        same = same_pictures([*thumbs, *copies])
        own = [same.get(len(pairs) + place, (None, ""))[0] == place for place in range(len(pairs))]
        seen[f"duplicate, {name}"] = round(sum(own) / len(pairs), 3)
    alarms = sum(bool(look.doubts) for look in looks) + len(same_pictures(thumbs))
    return {"pairs": len(pairs), "false_alarms": alarms, "seen": seen}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
