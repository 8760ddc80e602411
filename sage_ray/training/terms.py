"""Which terms of phase 2's objective a step has, and which networks each can train: known by construction.

A term is live in a step if its gradient can reach a network that is being updated, else dead. The trainer computes dead
terms only now and then, for the curves; `sage-ray doctor --gradients` measures the same pairs on one batch.

Source: docs/method/METHOD.md section 1, table of the generator-and-segmenter objective; DISCREPANCIES rows 1 to 4.
"""

from __future__ import annotations

from dataclasses import dataclass

from sage_ray.sections import AdversarialConfig

OBJECTIVE: dict[str, tuple[str, ...]] = {
    "rec_mask": ("generator", "segmenter"),
    "id_mask": ("segmenter",),
    "adv_image": ("generator",),
    "adv_mask": ("segmenter",),
    "rec_image_l1": ("generator", "segmenter"),
    "rec_image_vgg": ("generator", "segmenter"),
    "id_image_l1": ("generator",),
    "id_image_vgg": ("generator",),
}
"""Each term and the networks that its formula contains, so that it should train: G and S of G(m, z), S(G(m, z)), S(x)
and G(S(x), z'). The order is that of the sum."""

CYCLE_TERMS = ("rec_mask", "rec_image_l1", "rec_image_vgg")
"""The terms that `lambda_cycle` scales."""

PERCEPTUAL_TERMS = ("rec_image_vgg", "id_image_vgg")

FAKE_TERMS = ("rec_mask", "adv_image", "id_image_l1", "id_image_vgg")
"""The terms that see fake_image = G(m, z)."""

CYCLE_IMAGE_TERMS = ("rec_image_l1", "rec_image_vgg")
"""The terms that see rec_image = G(S(x), z')."""

MASK_PATH_TERMS = ("adv_mask", *CYCLE_IMAGE_TERMS)
"""The terms that see the segmenter's prediction as a mask, through `mask_path`."""


def term_weights(settings: AdversarialConfig) -> dict[str, float]:
    """Weight of each term in the sum, `lambda_cycle` included; 0 is a term that is switched off."""
    scale = {term: settings.lambda_cycle for term in CYCLE_TERMS}
    return {term: scale.get(term, 1.0) * getattr(settings.weights, term) for term in OBJECTIVE}


def step_terms(settings: AdversarialConfig, *, frozen: bool, synthetic: bool) -> tuple[str, ...]:
    """The terms of a step: weight above 0, and `rec_mask` only where it trains the segmenter (a synthetic step) or, as
    `generator_feedback: every_step` has it, the generator."""
    feedback = settings.generator_feedback == "every_step" and not frozen
    absent = set() if synthetic or feedback else {"rec_mask"}
    return tuple(term for term, weight in term_weights(settings).items() if weight and term not in absent)


def trained_networks(settings: AdversarialConfig, *, frozen: bool, synthetic: bool) -> dict[str, frozenset[str]]:
    """Each term of a step with the networks that its gradient reaches and that the step updates; empty if it is dead.

    Args:
        settings: weights, mask path, feedback.
        frozen: the generator is not updated (row 4).
        synthetic: the segmenter also learns from the generated image.
    """
    reached: dict[str, frozenset[str]] = {}
    for term in step_terms(settings, frozen=frozen, synthetic=synthetic):
        blocked = {
            network
            for network in OBJECTIVE[term]
            if why_untrained(term, network, settings, frozen=frozen, synthetic=synthetic)
        }
        reached[term] = frozenset(OBJECTIVE[term]) - blocked
    return reached


def why_untrained(term: str, network: str, settings: AdversarialConfig, *, frozen: bool, synthetic: bool) -> str | None:
    """Why a term of a step gives a network of its formula nothing; None if it trains it."""
    if network == "generator" and frozen:
        return f"the generator is frozen up to epoch {settings.freeze_epochs} of phase 2"
    if network == "segmenter" and term in MASK_PATH_TERMS and settings.mask_path == "argmax":
        return "a hard arg-max cuts the mask path (adversarial.mask_path=argmax)"
    if network == "segmenter" and term in CYCLE_IMAGE_TERMS and frozen and not settings.cycle_image_while_frozen:
        return "it waits until the generator learns (adversarial.cycle_image_while_frozen=false)"
    if network == "segmenter" and term == "rec_mask" and not synthetic:
        return "on steps without synthetic images this term is feedback for the generator alone"
    return None


@dataclass(frozen=True)
class StepPlan:
    """What one step computes.

    Attributes:
        frozen, synthetic: the kind of step, as in `trained_networks`.
        trains: its terms, each with the networks that it trains.
        computed: the terms that are computed, for the update or for the curves; every live one is among them.
        skip_dead: whether dead terms are left out of the update; false keeps their gradient, which is zero.
    """

    frozen: bool
    synthetic: bool
    trains: dict[str, frozenset[str]]
    computed: frozenset[str]
    skip_dead: bool

    def is_live(self, term: str) -> bool:
        """Whether the term trains a network in this step."""
        return bool(self.trains.get(term))

    def computes(self, *terms: str) -> bool:
        """Whether one of the terms is computed."""
        return not self.computed.isdisjoint(terms)

    def in_update(self, term: str) -> bool:
        """Whether the term is part of the sum whose gradient updates the networks."""
        return self.is_live(term) or not self.skip_dead

    @property
    def fake_trains_generator(self) -> bool:
        """Whether a gradient returns to the generator through fake_image."""
        return any("generator" in self.trains.get(term, ()) for term in FAKE_TERMS)

    @property
    def cycle_image_trains_segmenter(self) -> bool:
        """Whether a gradient returns to the segmenter through rec_image."""
        return any("segmenter" in self.trains.get(term, ()) for term in CYCLE_IMAGE_TERMS)


def plan_step(
    settings: AdversarialConfig,
    *,
    frozen: bool,
    synthetic: bool,
    has_perceptual: bool,
    skip_dead: bool = True,
    log_dead: bool = False,
) -> StepPlan:
    """What a step computes: the live terms, and the dead ones too if they are logged in it or nothing is skipped.

    Args:
        settings, frozen, synthetic: as in `trained_networks`.
        has_perceptual: whether there is a perceptual network; without one its terms are left out.
        skip_dead: leave dead terms out of the update.
        log_dead: compute dead terms in this step, for the curves.
    """
    trains = trained_networks(settings, frozen=frozen, synthetic=synthetic)
    if not has_perceptual:
        trains = {term: networks for term, networks in trains.items() if term not in PERCEPTUAL_TERMS}
    everything = log_dead or not skip_dead
    computed = frozenset(term for term, networks in trains.items() if networks or everything)
    return StepPlan(frozen, synthetic, trains, computed, skip_dead)
