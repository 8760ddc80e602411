"""The terms of phase 2's objective: which of them a step has, which networks each trains, and why not the others.

What is said here follows from the settings alone. `sage-ray doctor --gradients` and the tests measure the same pairs of
term and network with the trainer's own step.

Source: docs/method/METHOD.md section 1, table of the generator-and-segmenter objective; DISCREPANCIES rows 1 to 4.
"""

from __future__ import annotations

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

ABSENT_TERMS: dict[str, tuple[str, ...]] = {
    "sage_gan": (),
    "f_ancgan": (),
    "cyclegan": PERCEPTUAL_TERMS,
    "gan": tuple(term for term in OBJECTIVE if term != "adv_image"),
}
"""The terms that a system's objective does not have, whatever their weights are. What a term is made of differs between
systems (CycleGAN's rec_mask is no L_seg); which networks it trains does not."""

CYCLE_IMAGE_TERMS = ("rec_image_l1", "rec_image_vgg")
"""The terms that see rec_image = G(S(x), z')."""

MASK_PATH_TERMS = ("adv_mask", *CYCLE_IMAGE_TERMS)
"""The terms that see the segmenter's prediction as a mask, through `mask_path`."""


def term_weights(settings: AdversarialConfig, *, has_perceptual: bool = True) -> dict[str, float]:
    """Weight of each term in the sum, `lambda_cycle` included; 0 for a term that is switched off.

    Args:
        settings: weights and `lambda_cycle`.
        has_perceptual: whether there is a perceptual network; without one its terms are off.
    """
    scale = {term: settings.lambda_cycle for term in CYCLE_TERMS} | dict.fromkeys(ABSENT_TERMS[settings.system], 0.0)
    if not has_perceptual:
        scale |= dict.fromkeys(PERCEPTUAL_TERMS, 0.0)
    return {term: scale.get(term, 1.0) * getattr(settings.weights, term) for term in OBJECTIVE}


def objective_terms(settings: AdversarialConfig, *, frozen: bool, synthetic: bool) -> tuple[str, ...]:
    """The terms that the objective has in a kind of step: those of a weight above 0.

    `rec_mask` is among them where it trains the segmenter (a step with synthetic images) or, as
    `generator_feedback: every_step` has it, a generator that learns.
    """
    feedback = settings.generator_feedback == "every_step" and not frozen
    absent = set() if synthetic or feedback else {"rec_mask"}
    return tuple(term for term, weight in term_weights(settings).items() if weight and term not in absent)


def left_out_terms(settings: AdversarialConfig, *, frozen: bool) -> tuple[str, ...]:
    """The terms that a step does not compute although the objective has them: only a frozen generator would learn.

    The terms of the reconstructed image are computed all the same if the segmenter learns from them.
    """
    if not frozen:
        return ()
    no_cycle_image = settings.mask_path == "argmax" or not settings.cycle_image_while_frozen
    return ("adv_image", *(CYCLE_IMAGE_TERMS if no_cycle_image else ()), "id_image_l1", "id_image_vgg")


def trained_networks(settings: AdversarialConfig, *, frozen: bool, synthetic: bool) -> dict[str, frozenset[str]]:
    """Each term of the objective with the networks that it trains in a kind of step; empty if it trains none.

    Args:
        settings: weights, mask path, feedback.
        frozen: the generator is not updated (row 4).
        synthetic: the segmenter also learns from the generated image.
    """
    reached: dict[str, frozenset[str]] = {}
    for term in objective_terms(settings, frozen=frozen, synthetic=synthetic):
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
    mask_path = "soft" if settings.system == "cyclegan" else settings.mask_path
    if network == "segmenter" and term in MASK_PATH_TERMS and mask_path == "argmax":
        return "a hard arg-max cuts the mask path (adversarial.mask_path=argmax)"
    if network == "segmenter" and term in CYCLE_IMAGE_TERMS and frozen and not settings.cycle_image_while_frozen:
        return "it waits until the generator learns (adversarial.cycle_image_while_frozen=false)"
    if network == "segmenter" and term == "rec_mask" and not synthetic:
        return "on steps without synthetic images this term is feedback for the generator alone"
    return None
