"""The systems of phase 2: which networks each has, and which settings each knows.

A setting that a system cannot follow and that would change what is asked for is refused with the remedy. One that has
no part in the system's objective (SAGE-GAN's ramp in a CycleGAN) is not looked at, and does not split its stages.

Source: docs/systems.md.
"""

from __future__ import annotations

from typing import Any

from sage_ray.section_base import SystemName
from sage_ray.sections import (
    AdversarialConfig,
    EvaluationConfig,
    GeneratorConfig,
    PretrainConfig,
    SegmenterConfig,
)

NETWORKS: dict[SystemName, tuple[str, ...]] = {
    "sage_gan": ("segmenter", "generator", "disc_image", "disc_mask"),
    "f_ancgan": ("segmenter", "generator", "disc_image", "disc_mask"),
    "cyclegan": ("segmenter", "generator", "disc_image", "disc_mask"),
    "gan": ("generator", "disc_image"),
}
"""The networks that each system builds and trains in phase 2. `segmenter` is the one from image to mask, by whatever
name the papers call it: CycleGAN's image-to-mask generator has its place."""

INITIAL_STD: dict[SystemName, float] = {"cyclegan": 0.02, "gan": 0.02}
"""Standard deviation of the first weights of convolutions, where a system has not the rules of `models.init`: with
He's rule a discriminator's one output begins at several times the targets 0 and 1. Source: arXiv 1703.10593, 7.1."""

NEEDS_PAIRS: tuple[SystemName, ...] = ("sage_gan", "f_ancgan")

_RAMP = {"freeze_epochs", "mix_while_frozen", "cycle_image_while_frozen", "mix_start", "mix_step", "mix_max"}
_NOT_LOOKED_AT: dict[SystemName, set[str]] = {
    "sage_gan": set(),
    "f_ancgan": {*_RAMP, "generator_feedback"},
    "cyclegan": {*_RAMP, "generator_feedback", "mask_path", "perceptual_weights"},
    "gan": {
        *(*_RAMP, "generator_feedback", "mask_path", "perceptual_weights"),
        *("lambda_cycle", "synthetic_statistics"),
    },
}
_STYLE = {"style", "style_dim", "noise", "style_mixing", "mixing_points"}
_NOT_IN_GENERATOR = {"style_unet": {"blocks"}, "unet": {*_STYLE, "blocks"}, "resnet": {*_STYLE, "depth"}}
"""Settings under `adversarial` and `generator` that a system's objective, or a network, does not have."""


def networks_of(system: SystemName, phase: str) -> tuple[str, ...]:
    """Names of the networks of a phase, in the order in which they are built."""
    return ("segmenter",) if phase == "pretrain" else NETWORKS[system]


def has_segmenter(adversarial: AdversarialConfig) -> bool:
    """Whether a run's product has a network from image to mask."""
    return not adversarial.num_epochs or "segmenter" in NETWORKS[adversarial.system]


def adversarial_that_matters(tree: dict[str, Any], system: SystemName) -> dict[str, Any]:
    """The settings under `adversarial`, as plain data, that have a part in a system's objective."""
    kept = {name: value for name, value in tree.items() if name not in _NOT_LOOKED_AT[system]}
    if system == "gan":
        kept["weights"] = {"adv_image": kept["weights"]["adv_image"]}
    return kept


def generator_that_matters(tree: dict[str, Any]) -> dict[str, Any]:
    """The settings under `generator`, as plain data, that its network has."""
    return {name: value for name, value in tree.items() if name not in _NOT_IN_GENERATOR.get(tree["name"], set())}


def discriminators_that_matter(tree: dict[str, Any], system: SystemName) -> dict[str, Any]:
    """The settings under `discriminators`, as plain data, that a network of the system has."""
    both_alike = not tree["attention"] or "disc_mask" not in NETWORKS[system]
    return {name: value for name, value in tree.items() if name != "mask_attention" or not both_alike}


def check_system(
    segmenter: SegmenterConfig,
    generator: GeneratorConfig,
    pretrain: PretrainConfig,
    adversarial: AdversarialConfig,
    evaluation: EvaluationConfig,
) -> None:
    """What is asked for is something that the system and its networks can do."""
    _check_pairs(pretrain, adversarial)
    for section, network in (("segmenter", segmenter), ("generator", generator)):
        if network.blocks and network.name != "resnet":
            raise ValueError(f"{section}.blocks={network.blocks} needs {section}.name resnet, not {network.name}")
    if not adversarial.num_epochs or adversarial.system == "sage_gan":
        return
    system = adversarial.system
    if adversarial.freeze_epochs:
        raise ValueError(f"system {system} freezes no network: set adversarial.freeze_epochs to 0")
    if system == "f_ancgan":
        return
    if adversarial.perceptual != "none":
        raise ValueError(f"system {system} has no perceptual term: set adversarial.perceptual to none")
    if system == "cyclegan":
        return
    _check_without_segmenter(pretrain, adversarial, evaluation)


def _check_pairs(pretrain: PretrainConfig, adversarial: AdversarialConfig) -> None:
    system = adversarial.system
    if adversarial.replay_pool and system != "cyclegan":
        raise ValueError(f"system {system} has no replay pool: set adversarial.replay_pool to 0, or system to cyclegan")
    if adversarial.pairing == "paired":
        return
    needs = None
    if system in NEEDS_PAIRS:
        needs = f"system {system} compares each image with its own mask"
        mend = "set adversarial.pairing to paired, or adversarial.system to cyclegan or gan"
    elif pretrain.num_epochs:
        needs = "phase 1 learns from pairs"
        mend = "set pretrain.epochs to 0 (pretrain.steps too), or adversarial.pairing to paired"
    if needs:
        raise ValueError(f"unpaired data where pairs are needed (adversarial.pairing=unpaired, {needs}): {mend}")


def _check_without_segmenter(
    pretrain: PretrainConfig, adversarial: AdversarialConfig, evaluation: EvaluationConfig
) -> None:
    if pretrain.num_epochs or pretrain.checkpoint:
        raise ValueError(
            "system gan has no segmenter that phase 1 could train: set pretrain.epochs to 0 (pretrain.steps too), "
            "no checkpoint"
        )
    if evaluation.ema_decay:
        raise ValueError("system gan has no segmenter to average: set evaluation.ema_decay to 0")
    if evaluation.select != "last":
        raise ValueError("system gan has no segmenter whose score could choose an epoch: set evaluation.select to last")
    if not adversarial.weights.adv_image:
        raise ValueError("system gan minimises adv_image alone: set adversarial.weights.adv_image above 0")
    schedule = adversarial.schedule
    for path, metric in (("evaluation.metric", evaluation.metric), ("adversarial.schedule.metric", schedule.metric)):
        used = path.startswith("evaluation") or schedule.rule == "plateau"
        if used and metric != "val/loss":
            raise ValueError(f"system gan has no segmenter and one validation score: set {path} to val/loss")
