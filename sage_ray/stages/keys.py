"""Stage keys: what can influence a stage, and nothing else, hashed.

A stage's own number of epochs is not in its key, so a longer trial extends a shorter one; the total of a polynomial
learning rate is, as it decides on every epoch. Settings that cannot matter
(the powers of a loss term of weight 0, the patience of a constant schedule) are left out, so that they do not split
stages.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sage_ray.config import ExperimentConfig, stable_hash
from sage_ray.files import sha256_of
from sage_ray.pair_source import PairSource
from sage_ray.published_weights import RESNET34_SHA256
from sage_ray.section_base import PhaseBudget
from sage_ray.sections import LATER_OPERATIONS, AdversarialConfig, AugmentConfig, PhaseName
from sage_ray.stages.pair_keys import pairs_key
from sage_ray.stages.render_keys import render_stage_key, rendered_pairs_key, seen_without_label
from sage_ray.system_rules import (
    adversarial_that_matters,
    discriminators_that_matter,
    generator_that_matters,
    has_segmenter,
)

Numerics = Mapping[str, Any]


def _drops_often(config: ExperimentConfig, phase: PhaseName) -> bool:
    """Whether a phase is long enough for its plateau schedule to drop a 27th time."""
    settings = config.phase(phase)
    return settings.schedule.rule == "plateau" and settings.num_epochs >= 27 * (settings.schedule.patience + 1)


@dataclass(frozen=True)
class CodeChange:
    """A change of the code that changes what some stages compute.

    Attributes:
        version: stage code version of the stages that it touches, larger than that of the change before.
        what: what is computed otherwise, in one line.
        touches: whether it changes a phase of a config under given numerics. Phase 2 need not repeat what touches phase
            1: the key of the stage before is part of its own.
    """

    version: int
    what: str
    touches: Callable[[ExperimentConfig, PhaseName, Numerics], bool]


FIRST_CODE_VERSION = 2
"""Code version of the first release, and of every stage that no later change touches.

2: passes that can train nothing no longer move running statistics of generator and discriminators.
"""

CODE_CHANGES: tuple[CodeChange, ...] = (
    CodeChange(
        3,
        "averaged weights get batch statistics of their own, not those of the trained weights",
        # Other norms have no statistics that move, so that nothing is estimated there.
        lambda config, phase, numerics: config.evaluation.ema_decay > 0 and config.segmenter.norm == "batch",
    ),
    CodeChange(
        4,
        "validation images are scored in fp32, whatever training computes in",
        lambda config, phase, numerics: numerics.get("precision") == "bf16",
    ),
    CodeChange(
        5,
        "Adam is the fused one on a GPU; a plateau schedule goes on after its 26th drop",
        lambda config, phase, numerics: numerics.get("device") == "cuda" or _drops_often(config, phase),
    ),
    CodeChange(
        6,
        "a compiled segmenter with dropout is one graph, which rounds otherwise than the many of before",
        lambda config, phase, numerics: bool(numerics.get("compile")) and config.segmenter.dropout > 0,
    ),
)
"""In the order of their versions. Stages that a change does not touch keep their keys, so that a release takes up the
stages of the one before; tests/golden/test_five_steps.py fails when training changes without an entry here."""

OWN_BUDGET = ("epochs", "steps", "epoch_steps")
"""What says how long a phase is. None of it is in the phase's own key, but for the steps of an epoch where these, and
not the number of training images, say how long an epoch is."""

LATER_NUMERICS: dict[str, Any] = {"tf32": "unasked", "deterministic": False}
"""Entries of `numerics` that came after the first release, each with the value that reproduces the release before; with
that value an entry is left out of the keys. `tf32` is "unasked" for no run of today: the first release left cuDNN its
TF32 convolutions on every GPU, so that its stages on a GPU are none of ours. A CPU has neither entry."""


def stage_keys(config: ExperimentConfig, data_fingerprint: str, split_id: str, numerics: Numerics) -> dict[str, str]:
    """Key (16 hex digits) of each stage that `config` trains, in order: "render", "pretrain", "adversarial".

    Args:
        config: the run; its data path counts through `data_fingerprint` and its split through `split_id`.
        data_fingerprint: of the prepared data.
        split_id: of the split in use.
        numerics: device type, precision, workers, threads and the like.
    """
    counted = {k: v for k, v in numerics.items() if k not in LATER_NUMERICS or v != LATER_NUMERICS[k]}
    tree = config.identity()
    common = {"fingerprint": data_fingerprint, "split": split_id, "numerics": counted, **_common(config, tree)}

    def key_of(phase: PhaseName, parts: Mapping[str, Any]) -> str:
        version = stage_code_version(config, phase, numerics)
        return stable_hash({"stage": phase, "version": version, **common, **parts})

    keys: dict[str, str] = {}
    if config.render.train_on_pairs:
        keys["render"] = render_stage_key(config, data_fingerprint, split_id, counted)
        common["train pairs"] = rendered_pairs_key(config, keys["render"])
    origin: dict[str, Any] = {"start": "initialised"}
    if config.pretrain.num_epochs:
        phase = _phase_that_matters(tree["pretrain"], config.pretrain, drop=("handoff", "checkpoint"))
        pairs = extra_pairs_key(config, data_fingerprint, split_id, numerics)
        if pairs is not None:
            phase["pairs"] = [pairs, PairSource.parse(config.data.extra_pairs).pairs]
        keys["pretrain"] = key_of("pretrain", {"pretrain": phase})
        origin = {"start": keys["pretrain"], "epoch": config.pretrain.num_epochs, "handoff": config.pretrain.handoff}
    elif config.pretrain.checkpoint:
        origin = {"start": sha256_of(Path(config.pretrain.checkpoint))}
    if config.adversarial.num_epochs:
        keys["adversarial"] = key_of("adversarial", {"origin": origin, **_adversarial_parts(config, tree)})
    return keys


def _common(config: ExperimentConfig, tree: Mapping[str, Any]) -> dict[str, Any]:
    """What of a config can influence both phases."""
    data = {k: v for k, v in tree["data"].items() if k not in ("path", "split", "extra_pairs")}
    data["augment"] = _augmentation_that_matters(config.data.augment, data["augment"])
    evaluation = {k: v for k, v in tree["evaluation"].items() if k not in ("batch_size", "select")}
    common = {"data": data, "seed": config.seed, "evaluation": evaluation}
    if has_segmenter(config.adversarial):
        common["segmenter"] = _segmenter_that_matters(config, tree["segmenter"])
        common["loss"] = _loss_that_matters(tree["segmentation_loss"])
    return common


def _adversarial_parts(config: ExperimentConfig, tree: Mapping[str, Any]) -> dict[str, Any]:
    """What of a config can influence phase 2 alone."""
    settings, split = config.adversarial, config.data.split
    phase = _phase_that_matters(adversarial_that_matters(tree["adversarial"], settings.system), settings)
    if settings.perceptual == "none":
        phase["perceptual_normalise"] = None
        phase["weights"] = {k: v for k, v in phase["weights"].items() if not k.endswith("_vgg")}
    if split.labels and split.unlabelled == "disc_image" and settings.weights.adv_image:
        phase["unlabelled"] = seen_without_label(split)
    if not _cycle_image_while_frozen_matters(settings):
        phase.pop("cycle_image_while_frozen", None)
    return {
        "generator": generator_that_matters(tree["generator"]),
        "discriminators": discriminators_that_matter(tree["discriminators"], settings.system),
        "adversarial": phase,
    }


def extra_pairs_key(config: ExperimentConfig, data_fingerprint: str, split_id: str, numerics: Numerics) -> str | None:
    """What the extra pairs of a run are (`pair_keys.pairs_key`), arguments as of `stage_keys`; None if it has none."""

    def keys_of(origin: ExperimentConfig) -> dict[str, str]:
        return stage_keys(origin, data_fingerprint, split_id, numerics)

    return pairs_key(config, keys_of, [data_fingerprint, split_id], numerics)


def stage_code_version(config: ExperimentConfig, phase: PhaseName, numerics: Numerics) -> int:
    """The stage code version of one phase of a config: that of the newest change which touches it."""
    touching = (change.version for change in CODE_CHANGES if change.touches(config, phase, numerics))
    return max(touching, default=FIRST_CODE_VERSION)


def _segmenter_that_matters(config: ExperimentConfig, segmenter: dict[str, Any]) -> dict[str, Any]:
    """The segmenter's settings, published weights by what is in them; a checkpoint takes the place of all weights."""
    chosen = segmenter.get("encoder_weights")
    if chosen is None or config.pretrain.checkpoint:
        return {k: v for k, v in segmenter.items() if k != "encoder_weights"}
    return {**segmenter, "encoder_weights": RESNET34_SHA256 if chosen == "imagenet" else _identity_of(Path(chosen))}


def _identity_of(weights: Path) -> str:
    """sha256 of a file of weights; of one that is the published file, the digits by which that one goes.

    A file that is not there has none: a run that needs it says so, and what is known of others can still be shown.
    """
    try:
        seen = weights.stat()
    except OSError:
        return f"no file {weights}"
    found = _hashed(weights, seen.st_mtime_ns, seen.st_size)
    return RESNET34_SHA256 if found.startswith(RESNET34_SHA256) else found


@functools.lru_cache(maxsize=32)
def _hashed(path: Path, _mtime_ns: int, _size: int) -> str:
    return sha256_of(path)


def _augmentation_that_matters(settings: AugmentConfig, augment: dict[str, Any]) -> dict[str, Any]:
    """Without the ranges of operations that no image draws, among those that came after the first release."""
    unused = {
        name for operation, names in LATER_OPERATIONS.items() if not getattr(settings, operation) for name in names
    }
    return {k: v for k, v in augment.items() if k not in unused}


def _loss_that_matters(loss: dict[str, Any]) -> dict[str, Any]:
    unused: set[str] = set()
    if not loss["w_focal"]:
        unused |= {"focal_alpha", "focal_gamma", "focal_form"}
    if not loss["w_focal_tversky"]:
        unused.add("gamma")
        if not loss["w_tversky"]:
            unused |= {"alpha", "beta"}
    return {k: v for k, v in loss.items() if k not in unused}


def _cycle_image_while_frozen_matters(settings: AdversarialConfig) -> bool:
    """Whether frozen steps have a cycle-image term that could train the segmenter."""
    weights = settings.weights
    perceptual = weights.rec_image_vgg if settings.perceptual != "none" else 0.0
    scale = settings.lambda_cycle * (weights.rec_image_l1 + perceptual)
    return bool(settings.freeze_epochs and scale and settings.mask_path != "argmax")


def _phase_that_matters(phase: dict[str, Any], budget: PhaseBudget, drop: tuple[str, ...] = ()) -> dict[str, Any]:
    kept = {k: v for k, v in phase.items() if k not in (*OWN_BUDGET, *drop)}
    if budget.steps:
        kept["epoch_steps"] = budget.epoch_steps
    schedule = kept["schedule"]
    used = {
        "constant": ("rule",),
        "drops": ("rule", "factor", "drops"),
        "poly": ("rule", "total_epochs", "power"),
        "plateau": ("rule", "factor", "patience", "mode", "metric", "drops"),
    }[schedule["rule"]]
    kept["schedule"] = {k: schedule[k] for k in used if k in schedule}
    return kept
