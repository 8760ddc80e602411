"""How a mask's name follows from its image's: words before or after the name, folders, endings, case, Unicode form."""

from __future__ import annotations

import re
import unicodedata
from pathlib import PurePath

from sage_ray.data.images import SUFFIXES

FIRST_FOLDERS = ("masks", "segmaps")
"""The mask folders of the usual layout, beside images/; where both are there the first one is taken."""
_DOUBLE_ENDINGS = SUFFIXES | {".ome", ".tiff", ".jp2", ".webp", ".gif", ".dm3", ".dm4", ".raw"}

# Words that stand with a sign between them and the name, and longer ones that also stand without.
_SHORT = ("m", "gt", "seg", "segm", "lbl", "bw", "ann", "cp", "roi", "rois", "truth", "target", "binary", "instances")
_LONG = (
    *("masks", "mask", "labels", "label", "segmaps", "segmap", "simple segmentation", "segmentation", "segmented"),
    *("ground truth", "ground_truth", "ground-truth", "groundtruth", "annotations", "annotation", "roiset"),
)
_IMAGE = ("image", "img", "im", "raw", "sem", "tem", "original", "orig", "input", "micrograph", "0000")
_SIGN = r"[ _.\-]+"
_MASK_SUFFIX = re.compile(rf"(?:{_SIGN}(?:{'|'.join((*_LONG, *_SHORT))})|(?:{'|'.join(_LONG)}))$")
_MASK_PREFIX = re.compile(rf"^(?:(?:{'|'.join((*_LONG, *_SHORT))}){_SIGN}|(?:{'|'.join(_LONG)})(?=\d))")
_IMAGE_SUFFIX = re.compile(rf"{_SIGN}(?:{'|'.join(_IMAGE)})$")
_IMAGE_PREFIX = re.compile(rf"^(?:{'|'.join(_IMAGE)})(?:{_SIGN}|(?=\d))")

_MASK_FOLDER = re.compile(
    r"masks?|segmaps?|segs?|segmentations?|segmented|labels?|labell?ed|gt|groundtruths?|truths?|annotations?|annots?"
    r"|targets?|rois?|roisets?|segmentationclass|segmentationobject"
)
_IMAGE_FOLDER = re.compile(
    r"images?|imgs?|jpegimages|micrographs?|raw|originals?|inputs?|pictures?|photos?|sem|tem|frames?"
)


def folded(text: str) -> str:
    """The text without what file systems and people treat alike: letter case and the Unicode form of accents."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def bare(name: str) -> str:
    """Folded name of a file without any of its endings: "a.ome.tif" and "A.TIF.png" are "a"."""
    left = folded(name)
    path = PurePath(left)
    while path.suffix and (path.suffix in _DOUBLE_ENDINGS or path.name == left) and path.stem:
        path = PurePath(path.stem)
    return path.name


def mask_readings(stem: str) -> list[dict[str, str]]:
    """Names of images that a mask of this folded stem may belong to, with how the mask is named after each.

    One mapping for each number of words taken off, from 1 to 3: {"a": "NAME_mask"} for "a_mask".
    """
    depths: list[dict[str, str]] = []
    layer = {stem: "NAME"}
    for _ in range(3):
        following: dict[str, str] = {}
        for text, rule in layer.items():
            for pattern in (_MASK_SUFFIX, _MASK_PREFIX):
                found = pattern.search(text)
                rest = text[: found.start()] + text[found.end() :] if found else ""
                if found and rest:
                    affix = found.group()
                    inner = f"NAME{affix}" if pattern is _MASK_SUFFIX else f"{affix}NAME"
                    following.setdefault(bare(f"{rest}.png"), rule.replace("NAME", inner))
        depths.append(following)
        layer = following
    return depths


def image_readings(stem: str) -> dict[str, str]:
    """What an image of this folded stem may be named after, such as {"7": "img_NAME"} for "img_7"."""
    found: dict[str, str] = {}
    for pattern in (_IMAGE_SUFFIX, _IMAGE_PREFIX):
        part = pattern.search(stem)
        rest = stem[: part.start()] + stem[part.end() :] if part else ""
        if part and rest:
            found[rest] = f"NAME{part.group()}" if pattern is _IMAGE_SUFFIX else f"{part.group()}NAME"
    return found


def holds_masks(folder: str) -> bool:
    """Whether a folder is named after masks: "labels", "TiO2_masks", "SegmentationClass"."""
    return any(_MASK_FOLDER.fullmatch(word) for word in _words(folder))


def holds_images(folder: str) -> bool:
    """Whether a folder is named after images: "images", "raw", "imagesTr"."""
    return not holds_masks(folder) and any(_IMAGE_FOLDER.fullmatch(word) for word in _words(folder))


def place(folders: tuple[str, ...]) -> str:
    """What the folders of a file say beside images or masks: "day1" of both day1/images and day1/masks."""
    kept = []
    for folder in folders:
        words = [w for w in _words(folder) if not _MASK_FOLDER.fullmatch(w) and not _IMAGE_FOLDER.fullmatch(w)]
        kept += ["".join(words)] if words else []
    return "/".join(kept)


def _words(folder: str) -> list[str]:
    text = unicodedata.normalize("NFC", folder)
    whole = folded(text)
    if _MASK_FOLDER.fullmatch(whole) or _IMAGE_FOLDER.fullmatch(whole):
        return [whole]
    return [folded(word) for word in re.split(r"[ _.\-]+|(?<=[a-z0-9])(?=[A-Z])", text) if word]
