"""What an epoch of a config costs: seconds of each kind of epoch, as they were measured on what is most alike.

An epoch of phase 2 costs less while the generator is frozen, so there are three kinds of epochs, and a fourth one of
rendering. Which measurement is taken for a config is a rule (`nearest`); seconds are never carried over from another
device.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sage_ray.config import ExperimentConfig
from sage_ray.search.network_flops import network_flops
from sage_ray.training.build import needs_perceptual, network_kwargs, network_parts
from sage_ray.training.terms import term_weights

KINDS = ("pretrain", "frozen", "adversarial")
"""Kinds of epochs: phase 1, phase 2 with a frozen generator, the rest of phase 2."""
RENDER = "render"
"""Kind of an epoch of a stage of rendering, which another engine, size or setting tells nothing of."""
RENDERING = ("engine", "samples", "path_depth", "particles", "agglomerates", "shapes", "regressor_width")
"""Settings of `render` that its steps' seconds depend on."""
PHASE_OF = {"pretrain": "pretrain", "frozen": "adversarial", "adversarial": "adversarial"}
FLOPS = frozenset({"networks", "image size"})
"""Aspects by which the FLOPs of an image differ."""
MAX_SCALE = 4.0
"""Largest factor in the work of an epoch over which measured seconds are scaled; beyond it they say nothing."""


@dataclass(frozen=True)
class Images:
    """How many images an epoch trains on, and how many it scores."""

    train: int
    validation: int


@dataclass(frozen=True)
class Likeness:
    """What the seconds of an epoch depend on.

    Attributes:
        place: device, model of the GPU, precision, threads and the like; measurements elsewhere are not looked at.
        aspects: by name, what may differ, so that the nearest measurement is the one that differs in the fewest.
        config: the whole, from which the work of an epoch is counted.
        images: of an epoch.
    """

    place: Mapping[str, Any]
    aspects: Mapping[str, Any]
    config: ExperimentConfig = field(compare=False)
    images: Images


@dataclass(frozen=True)
class Measured:
    """Seconds of an epoch of one kind, measured.

    Attributes:
        kind: of `KINDS`, or `RENDER`.
        seconds: of one epoch, a mean that outliers do not move.
        epochs: that were measured; 0 for a pilot, which takes steps.
        source: the run, or "a pilot".
        likeness: of what was measured.
        rest_s: seconds that a whole run takes beside its epochs; None: not known from it.
    """

    kind: str
    seconds: float
    epochs: int
    source: str
    likeness: Likeness
    rest_s: float | None = None


@dataclass(frozen=True)
class EpochSeconds:
    """Seconds of each kind of epoch of a config, and of a run beside its epochs; `notes` say what was scaled.

    `missing` says which epochs have no seconds, as nothing like them was measured.
    """

    kinds: Mapping[str, float]
    rest_s: float
    frozen_epochs: int
    sources: tuple[Measured, ...]
    notes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    def between(self, phase: str, start: int, end: int) -> float:
        """Seconds of the epochs after `start` up to `end` of a phase."""
        if phase in (RENDER, "pretrain"):
            return (end - start) * self.kinds.get(phase, 0.0)
        frozen = max(min(end, self.frozen_epochs) - start, 0)
        return frozen * self.kinds.get("frozen", 0.0) + (end - start - frozen) * self.kinds.get("adversarial", 0.0)


def epochs_of_kinds(config: ExperimentConfig) -> dict[str, int]:
    """How many epochs of each of `KINDS` a run of a config has."""
    epochs = config.adversarial.num_epochs
    frozen = min(config.adversarial.freeze_epochs, epochs)
    return {"pretrain": config.pretrain.num_epochs, "frozen": frozen, "adversarial": epochs - frozen}


def kinds_of(config: ExperimentConfig) -> tuple[str, ...]:
    """The kinds of epochs that a config has."""
    return tuple(kind for kind, epochs in epochs_of_kinds(config).items() if epochs > 0)


def kinds_to_time(config: ExperimentConfig, *, for_pairs: bool = False) -> tuple[str, ...]:
    """The kinds of epochs of a config, that of rendering first; `for_pairs`: those that make another run's pairs."""
    if not config.render.train_on_pairs:
        return kinds_of(config)
    return (RENDER,) if for_pairs else (RENDER, *kinds_of(config))


def kind_of(config: ExperimentConfig, phase: str, phase_epoch: int) -> str:
    """The kind of an epoch of a phase, counted from 1."""
    if phase in (RENDER, "pretrain"):
        return phase
    return "frozen" if phase_epoch <= config.adversarial.freeze_epochs else "adversarial"


def likeness(config: ExperimentConfig, phase: str, images: Images, place: Mapping[str, Any]) -> Likeness:
    """What the seconds of an epoch of a phase of a config depend on, at a place."""
    settings = config.phase(phase)
    if config.render.train_on_pairs:  # an epoch goes through rendered pairs, in the place of the training part
        images = Images(config.render.pairs, images.validation)
    if settings.steps:  # an epoch is so many steps, however few images they are taken from
        images = Images(settings.epoch_steps * settings.batch_size, images.validation)
    # Dropout costs next to nothing: networks that differ in it alone are alike.
    networks: dict[str, Any] = {
        name: (network.__name__, {**keywords, "dropout": 0.0})
        for name, (network, keywords) in network_parts(config, phase).items()
    }
    losses: Any = None
    if phase == "adversarial":
        networks["system"] = config.adversarial.system
        weights = term_weights(config.adversarial, has_perceptual=needs_perceptual(config))
        losses = [term for term, weight in weights.items() if weight]
    aspects = {
        "networks": networks,
        "image size": tuple(config.data.image_size),
        "batch size": settings.batch_size,
        "number of images": images,
        "loss terms": losses,
        "averaged weights": config.evaluation.ema_decay > 0,
        "augmentation": config.data.augment.probability > 0,
    }
    return Likeness(place, aspects, config, images)


def likeness_of(config: ExperimentConfig, kind: str, images: Images, place: Mapping[str, Any]) -> Likeness:
    """What the seconds of an epoch of a kind of a config depend on, at a place."""
    if kind != RENDER:
        return likeness(config, PHASE_OF[kind], images, place)
    settings = config.render
    aspects = {
        "rendering": [getattr(settings, name) for name in RENDERING],
        "discriminator": network_kwargs(config)["discriminators"],
        "size": tuple(config.data.image_size),
        "number of images": images.train,
    }
    return Likeness(place, aspects, config, images)


def differing(one: Likeness, other: Likeness) -> list[str]:
    """Names of the aspects in which two differ."""
    return [name for name, value in one.aspects.items() if value != other.aspects[name]]


def nearest(kind: str, wanted: Likeness, measured: Iterable[Measured], *, count_flops: bool = True) -> list[Measured]:
    """The measurements of a kind of epoch that a config's seconds are taken from; [] if none will do.

    They are made at the same place: device, model of GPU, precision, threads. Those win that differ from the config in
    the fewest of: networks, image size, batch size, number of images, loss terms, averaged weights, augmentation; of
    several the one with the nearest work per epoch (FLOPs times images), then the first given. All measurements that
    are alike in everything count together. Where the work differs by more than a factor of `MAX_SCALE`, none will do.

    Args:
        kind: of `KINDS`, or `RENDER`.
        wanted: what the seconds are asked for.
        measured: all there is.
        count_flops: false leaves out what has other networks or another image size: counting takes up to a second.
    """
    here = [m for m in measured if m.kind == kind and m.likeness.place == wanted.place]
    if kind == RENDER:
        return [m for m in here if set(differing(m.likeness, wanted)) <= {"number of images"}][:1]
    here = [m for m in here if count_flops or not FLOPS & set(differing(m.likeness, wanted))]
    exact = [m for m in here if not differing(m.likeness, wanted)]
    if exact or not here:
        return exact
    fewest = min(len(differing(m.likeness, wanted)) for m in here)
    near = [m for m in here if len(differing(m.likeness, wanted)) == fewest]
    best = min(near, key=lambda m: abs(math.log(scale(kind, m.likeness, wanted))))
    return [best] if 1 / MAX_SCALE <= scale(kind, best.likeness, wanted) <= MAX_SCALE else []


def scale(kind: str, measured: Likeness, wanted: Likeness) -> float:
    """How many times as much an epoch has to compute as the measured one: FLOPs of the networks times images."""
    if kind == RENDER:
        return wanted.images.train / measured.images.train
    images = _shown(wanted.images) / _shown(measured.images)
    if not FLOPS & set(differing(measured, wanted)):
        return images
    return images * _flops_of(kind, wanted) / _flops_of(kind, measured)


def seconds_of(
    config: ExperimentConfig,
    images: Images,
    place: Mapping[str, Any],
    measured: Iterable[Measured],
    *,
    count_flops: bool = True,
    for_pairs: bool = False,
) -> EpochSeconds | None:
    """Seconds of each kind of epoch of a config; None if nothing near enough was measured for one of them.

    Of rendering alone it may miss: then the rest is known, and `missing` says what is not.

    Args: as `nearest` and `kinds_to_time`.
    """
    known = list(measured)
    kinds: dict[str, float] = {}
    sources: list[Measured] = []
    notes: list[str] = []
    missing: list[str] = []
    for kind in kinds_to_time(config, for_pairs=for_pairs):
        wanted = likeness_of(config, kind, images, place)
        found = nearest(kind, wanted, known, count_flops=count_flops)
        if not found and kind == RENDER:
            rows, columns = config.data.image_size
            missing.append(f"rendering by {config.render.engine} at {rows}x{columns}, {config.render.epochs} epochs")
            continue
        if not found:
            return None
        factor = scale(kind, found[0].likeness, wanted)
        kinds[kind] = factor * sum(m.seconds * max(m.epochs, 1) for m in found) / sum(max(m.epochs, 1) for m in found)
        sources += found
        unlike = differing(found[0].likeness, wanted)
        if unlike:
            by = "FLOPs and images" if FLOPS & set(unlike) else "images"
            how = f"scaled by {by}, x {factor:.2f}" if factor != 1 else "taken as it is"
            notes.append(f"some are not alike: {found[0].source} differs in {', '.join(unlike)}, {how}")
    rests = sorted(m.rest_s for m in sources if m.rest_s is not None)
    rest = rests[len(rests) // 2] if rests else 0.0
    freeze = config.adversarial.freeze_epochs
    return EpochSeconds(kinds, rest, freeze, tuple(sources), tuple(dict.fromkeys(notes)), tuple(missing))


def steady_mean(seconds: Iterable[float]) -> float:
    """The mean of the middle half: epochs during which the machine slept or was busy do not move it."""
    ordered = sorted(seconds)
    cut = len(ordered) // 4
    middle = ordered[cut : len(ordered) - cut]
    return sum(middle) / len(middle)


def _shown(images: Images) -> float:
    return images.train + images.validation / 3  # a scored image is passed forward alone


def _flops_of(kind: str, of: Likeness) -> float:
    return float(_flops(_networks_alone(of.config, PHASE_OF[kind])))


def _networks_alone(config: ExperimentConfig, phase: str) -> ExperimentConfig:
    """A config of the same networks and image size, and of nothing else that differs, so that it is counted once."""
    plain = ExperimentConfig()
    return plain.with_sections(
        segmenter=config.segmenter.model_copy(update={"dropout": 0.0}),
        generator=config.generator,
        discriminators=config.discriminators,
        data=plain.data.model_copy(update={"image_size": config.data.image_size}),
        adversarial=plain.adversarial.model_copy(update={"epochs": int(phase == "adversarial")}),
    )


_flops = functools.lru_cache(maxsize=64)(network_flops)
