"""Stage keys: what can influence a stage, and nothing else, hashed.

A stage's own number of epochs is not in its key, so a longer trial extends a shorter one. Settings that cannot matter
(the powers of a loss term of weight 0, the patience of a constant schedule) are left out, so that they do not split
stages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sage_ray.config import ExperimentConfig, stable_hash
from sage_ray.files import sha256_of
from sage_ray.sections import AdversarialConfig, PhaseName

Numerics = Mapping[str, Any]


def _drops_often(config: ExperimentConfig, phase: PhaseName) -> bool:
    """Whether a phase is long enough for its plateau schedule to drop a 27th time."""
    settings = config.phase(phase)
    return settings.schedule.rule == "plateau" and settings.epochs >= 27 * (settings.schedule.patience + 1)


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

LATER_NUMERICS: dict[str, Any] = {"tf32": "unasked", "deterministic": False}
"""Entries of `numerics` that came after the first release, each with the value that reproduces the release before; with
that value an entry is left out of the keys. `tf32` is "unasked" for no run of today: the first release left cuDNN its
TF32 convolutions on every GPU, so that its stages on a GPU are none of ours. A CPU has neither entry."""


def stage_keys(config: ExperimentConfig, data_fingerprint: str, split_id: str, numerics: Numerics) -> dict[str, str]:
    """Key (16 hex digits) of each phase that `config` trains, in order: "pretrain", "adversarial".

    Args:
        config: the run; its data path counts through `data_fingerprint` and its split through `split_id`.
        data_fingerprint: of the prepared data.
        split_id: of the split in use.
        numerics: device type, precision, workers, threads and the like.
    """
    counted = {k: v for k, v in numerics.items() if k not in LATER_NUMERICS or v != LATER_NUMERICS[k]}
    tree = config.identity()
    data = {k: v for k, v in tree["data"].items() if k not in ("path", "split")}
    evaluation = {k: v for k, v in tree["evaluation"].items() if k not in ("batch_size", "select")}
    common = {
        "data": data,
        "fingerprint": data_fingerprint,
        "split": split_id,
        "seed": config.seed,
        "numerics": counted,
        "segmenter": tree["segmenter"],
        "loss": _loss_that_matters(tree["segmentation_loss"]),
        "evaluation": evaluation,
    }

    def version_of(phase: PhaseName) -> int:
        return stage_code_version(config, phase, numerics)

    keys: dict[str, str] = {}
    origin: dict[str, Any] = {"start": "initialised"}
    if config.pretrain.epochs:
        phase = _phase_that_matters(tree["pretrain"], drop=("epochs", "handoff", "checkpoint"))
        keys["pretrain"] = stable_hash(
            {"stage": "pretrain", "version": version_of("pretrain"), **common, "pretrain": phase}
        )
        origin = {"start": keys["pretrain"], "epoch": config.pretrain.epochs, "handoff": config.pretrain.handoff}
    elif config.pretrain.checkpoint:
        origin = {"start": sha256_of(Path(config.pretrain.checkpoint))}
    if config.adversarial.epochs:
        phase = _phase_that_matters(tree["adversarial"], drop=("epochs",))
        if config.adversarial.perceptual == "none":
            phase["perceptual_normalise"] = None
            phase["weights"] = {k: v for k, v in phase["weights"].items() if not k.endswith("_vgg")}
        if not _cycle_image_while_frozen_matters(config.adversarial):
            phase.pop("cycle_image_while_frozen", None)
        keys["adversarial"] = stable_hash(
            {
                "stage": "adversarial",
                "version": version_of("adversarial"),
                **common,
                "origin": origin,
                "generator": tree["generator"],
                "discriminators": tree["discriminators"],
                "adversarial": phase,
            }
        )
    return keys


def stage_code_version(config: ExperimentConfig, phase: PhaseName, numerics: Numerics) -> int:
    """The stage code version of one phase of a config: that of the newest change which touches it."""
    touching = (change.version for change in CODE_CHANGES if change.touches(config, phase, numerics))
    return max(touching, default=FIRST_CODE_VERSION)


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


def _phase_that_matters(phase: dict[str, Any], drop: tuple[str, ...]) -> dict[str, Any]:
    kept = {k: v for k, v in phase.items() if k not in drop}
    schedule = kept["schedule"]
    used = {"constant": ("rule",), "drops": ("rule", "factor", "drops")}.get(schedule["rule"])
    if used:
        kept["schedule"] = {k: schedule[k] for k in used}
    return kept
