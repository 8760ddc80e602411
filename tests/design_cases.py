"""Two ablation designs of the tiny preset, and ways to change and load them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

from sage_ray.study.design import Design, load_design

NO_MIXING = {"adversarial.mix_start": 0, "adversarial.mix_step": 0, "adversarial.mix_max": 0}
DICE = {"segmentation_loss.w_ce": 0, "segmentation_loss.w_focal_tversky": 0, "segmentation_loss.w_dice": 1}

ARMS: dict[str, Any] = {
    "name": "good",
    "base": {"preset": "tiny_sage_gan"},
    "reference": "full",
    "arms": {"full": {}, "no_mixing": {"set": NO_MIXING}, "dice": {"set": DICE}},
    "seeds": [0, 1],
}
FACTORS: dict[str, Any] = {
    "name": "crossed",
    "base": {"preset": "tiny_sage_gan"},
    "kind": "factorial",
    "reference": "full",
    "factors": {
        "gates": {"on": {}, "off": {"set": {"segmenter.attention": False}}},
        "mixing": {"on": {}, "off": {"set": NO_MIXING}},
        "loss": {"hybrid": {}, "dice": {"set": DICE}},
    },
}


def changed(tree: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A copy with keys replaced; a key may be nested with `__`, None removes it."""
    tree = copy.deepcopy(tree)
    for key, value in changes.items():
        *parents, leaf = key.split("__")
        place = tree
        for part in parents:
            place = place.setdefault(part, {})
        if value is None:
            place.pop(leaf, None)
        else:
            place[leaf] = value
    return tree


def load(tree: dict[str, Any], folder: Path, **kwargs: Any) -> Design:
    path = folder / "design.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return load_design(path, **kwargs)
