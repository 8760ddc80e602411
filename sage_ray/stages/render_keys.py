"""Keys of a stage of rendering: what can influence its materials, and what its pairs.

The shader's samples per pixel, the lights of an engine that has none, and the spread of sizes that are fitted cannot
matter, and are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sage_ray.config import ExperimentConfig, stable_hash
from sage_ray.files import sha256_of
from sage_ray.identity import identity_tree
from sage_ray.sections import SplitConfig
from sage_ray.system_rules import discriminators_that_matter

RENDER_CODE_VERSION = 1
"""Raised when the same settings learn other materials or render other pairs."""
_NO_INFLUENCE = ("epochs", "pairs", "train_on_pairs")
_OF_MITSUBA = ("samples", "path_depth", "light_above")


def render_stage_key(
    config: ExperimentConfig, data_fingerprint: str, split_id: str, numerics: Mapping[str, Any]
) -> str:
    """Key (16 hex digits) of the stage in which the materials learn; its epochs are not in it.

    Args: as `keys.stage_keys`.
    """
    settings = identity_tree(config.render, exclude=_NO_INFLUENCE)
    if not config.render.histogram_weight:
        settings.pop("histogram", None)
    settings["free"] = list(config.render.learnt)
    if config.render.engine == "shader":
        settings = {k: v for k, v in settings.items() if k not in _OF_MITSUBA}
    if config.render.sizes == "fitted":
        settings = {k: v for k, v in settings.items() if k not in ("diameter", "spread")}
    if config.render.sizes != "bimodal":
        settings = {k: v for k, v in settings.items() if not k.startswith("second_")}
    table = settings.pop("sizes_table")
    if table is not None and config.render.sizes == "fitted":
        # What is not there has no contents: `render_parts.check_can_render` says so before anything is trained.
        settings["sizes_table"] = sha256_of(Path(table)) if Path(table).is_file() else f"no file {table}"
    data = identity_tree(config.data, exclude=("path", "split", "augment", "extra_pairs"))
    split: object = split_id
    if config.data.split.unlabelled == "disc_image":
        data["unlabelled"] = seen_without_label(config.data.split)
        split = _all_training_images(config) or split_id
    return stable_hash(
        {
            "stage": "render",
            "version": RENDER_CODE_VERSION,
            "data": data,
            "fingerprint": data_fingerprint,
            "split": split,
            "seed": config.seed,
            # No gradient is averaged over workers here: each of them does the same.
            "numerics": {k: v for k, v in numerics.items() if k != "workers"},
            # The adversary is an image discriminator, the one of a system without another.
            "discriminators": discriminators_that_matter(identity_tree(config.discriminators), "gan"),
            "render": settings,
        }
    )


def seen_without_label(split: SplitConfig) -> str | list[str]:
    """What tells which images without labels a discriminator sees: it follows from data, `split_id` and this.

    All images outside the held-out parts are seen, or those of a third, which parts with equal contents do not tell.
    """
    return split.unlabelled if split.part == "all" else [split.unlabelled, split.part]


def _all_training_images(config: ExperimentConfig) -> dict[str, Any] | None:
    """The settings that, with the data, say which images are for training, labelled or not; None if labels matter too.

    Labels matter where sizes are fitted to the training masks. Groups are told by file names, which no key has.
    """
    split, render = config.data.split, config.render
    if split.group is not None or (render.sizes == "fitted" and render.sizes_table is None):
        return None
    return split.model_dump(mode="json", include={"test", "validation", "folds", "fold", "seed", "part"})


def rendered_pairs_key(config: ExperimentConfig, render_key: str) -> str:
    """Key of the pairs that are rendered at the end of the stage `render_key`."""
    return stable_hash({"stage": "rendered pairs", "of": render_key, "epochs": config.render.epochs,
                        "pairs": config.render.pairs})  # fmt: skip
