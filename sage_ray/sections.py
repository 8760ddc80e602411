"""The sections of an ExperimentConfig: every setting with its type, range, default and meaning.

Here are those of losses, phases and scores; data, networks and runtime have a file each (`data_sections.py`,
`network_sections.py`, `runtime_section.py`), whose sections are had from here too.

Where the paper and its public code differ (docs/method/DISCREPANCIES.md), the row number stands in the field's
description and both values can be chosen. A setting that came after the first release is declared with `later`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sage_ray.data_sections import LATER_OPERATIONS as LATER_OPERATIONS
from sage_ray.data_sections import AugmentConfig as AugmentConfig
from sage_ray.data_sections import DataConfig as DataConfig
from sage_ray.data_sections import SplitConfig as SplitConfig
from sage_ray.identity import later as later  # sections of later releases are written with it
from sage_ray.network_sections import DiscriminatorsConfig as DiscriminatorsConfig
from sage_ray.network_sections import GeneratorConfig as GeneratorConfig
from sage_ray.network_sections import SegmenterConfig as SegmenterConfig
from sage_ray.runtime_section import RuntimeConfig as RuntimeConfig
from sage_ray.section_base import PHASES as PHASES
from sage_ray.section_base import Count as Count
from sage_ray.section_base import NonNegative, PhaseBudget, Positive, PositiveInt, Probability
from sage_ray.section_base import NormName as NormName
from sage_ray.section_base import PhaseName as PhaseName
from sage_ray.section_base import Section as Section
from sage_ray.section_base import SystemName as SystemName
from sage_ray.section_base import word_or_number as word_or_number


class SegmentationLossConfig(Section):
    """L_seg = w_ce CE + w_focal focal + w_dice Dice + w_tversky (1 - TI) + w_focal_tversky (1 - TI)^gamma (row 16)."""

    w_ce: NonNegative = 1.0
    """Weight of the cross entropy, which counts every pixel alike; 0 leaves the term out."""
    w_focal: NonNegative = 0.0
    """Weight of the focal cross entropy, which counts pixels more that are badly predicted; 0 leaves it out."""
    w_dice: NonNegative = 0.0
    """Weight of 1 - Dice, the share of particle pixels that do not overlap; 0 leaves it out."""
    w_tversky: NonNegative = 0.0
    """Weight of 1 - Tversky index: Dice with a weight for each kind of error, `alpha` and `beta`; 0 leaves it out."""
    w_focal_tversky: NonNegative = 1.0
    """Weight of (1 - Tversky index) to the power `gamma`; 0 leaves it out."""
    alpha: NonNegative = 0.4
    """Weight of false positives in the Tversky index (row 17)."""
    beta: NonNegative = 0.6
    """Weight of false negatives in the Tversky index (row 17)."""
    gamma: Positive = 1.5
    """Power of the focal Tversky term, (1 - TI)^gamma; the paper's 1/delta (row 18: Abraham and Khan use .75)."""
    focal_alpha: NonNegative = 0.5
    """Weight of particle pixels in the focal cross entropy, background pixels having 1 - focal_alpha (form `pixel`);
    form `batch` multiplies the whole term by it."""
    focal_gamma: NonNegative = 2.0
    """Power of the focal cross entropy: the higher, the less pixels count that are predicted well. 0: all count
    alike."""
    focal_form: Literal["pixel", "batch"] = "pixel"
    """Row 19: focal weight per pixel (paper) or one from the batch-mean cross entropy (public code)."""
    reduction: Literal["batch", "image"] = "batch"
    """Row 20: Dice and Tversky ratios over the whole batch (public code) or one per image, then averaged."""

    @model_validator(mode="after")
    def _some_term(self) -> SegmentationLossConfig:
        weights = (self.w_ce, self.w_focal, self.w_dice, self.w_tversky, self.w_focal_tversky)
        if sum(weights) == 0:
            raise ValueError(
                "all weights are 0; give at least one of w_ce, w_focal, w_dice, w_tversky, w_focal_tversky"
            )
        if self.w_tversky + self.w_focal_tversky > 0 and self.alpha + self.beta == 0:
            raise ValueError("alpha and beta are both 0; the Tversky index needs one of them positive")
        return self


class ScheduleConfig(Section):
    """Learning-rate rule; none depends on the epochs of the run, so that stages can be shared and extended.

    `poly` has a total of its own, which is part of the stage's key: a shorter run is the beginning of a longer one.
    """

    rule: Literal["constant", "plateau", "drops", "poly"] = "constant"
    """How the learning rate changes: not at all, after `patience` epochs without a better score (plateau), after given
    epochs (drops), or smoothly down to 0 at `total_epochs` (poly)."""
    factor: Annotated[float, Field(gt=0, le=1)] = 0.9
    """The learning rate is multiplied by it at each drop."""
    patience: Count = 80
    """Epochs without improvement before a drop; rule `plateau`."""
    mode: Literal["max", "min"] = "max"
    """Row 8: whether rule `plateau` waits for a higher score (max) or a lower one (min). The public code has min on a
    score where higher is better, so that the rate drops after a fixed time."""
    metric: str = "val/f1_object_50"
    """Validation score that rule `plateau` looks at."""
    drops: tuple[PositiveInt, ...] = ()
    """Epochs of the phase, from 1, after which the rate drops; rule `drops`."""
    total_epochs: Count = later(0)
    """Epochs of the phase after which the rate would be 0; rule `poly`, which needs it. A search that varies the epochs
    shares stages while this stays as it is; tied to the epochs, each budget is a stage of its own."""
    power: Positive = later(0.9)
    """Rule `poly`: after e epochs the rate is lr (1 - e / total_epochs)^power."""


class PretrainConfig(PhaseBudget):
    """Phase 1: the segmenter learns from real pairs, and from extra ones where a share of each batch is theirs."""

    epochs: Count = 200
    """Times that phase 1 goes through the training images; 0 with `steps`, or to leave phase 1 out."""
    lr: Positive = 1e-4
    """Learning rate of phase 1 at its start."""
    batch_size: PositiveInt = 2
    """Images of one optimizer step in phase 1, over all workers together."""
    checkpoint: str | None = None
    """Start phase 2 from this segmenter (safetensors, run id or models:/ URI) instead of phase 1."""
    handoff: Literal["best", "last"] = "best"
    """Which phase-1 weights phase 2 starts from."""
    synthetic_share: Probability = later(0.0)
    """Share of each batch that comes from `data.extra_pairs`, in the place of real pairs; 1: extra pairs alone."""
    schedule: ScheduleConfig = ScheduleConfig()


class TermWeights(Section):
    """Weights of the generator-and-segmenter objective (docs/method/METHOD.md section 1; rows 6 and 7)."""

    adv_image: NonNegative = 1.0
    """Weight of the adversarial term of images: generated images shall look real to the image discriminator."""
    adv_mask: NonNegative = 1.0
    """Weight of the adversarial term of masks: predicted masks shall look like real ones to the mask discriminator."""
    rec_mask: NonNegative = 200.0
    """Weight of the cycle from mask to image and back: the segmenter shall find in a generated image the mask that it
    was made from."""
    rec_image_l1: NonNegative = 50.0
    """Weight of the cycle from image to mask and back, by the mean difference of grey values."""
    rec_image_vgg: NonNegative = 100.0
    """Weight of the same cycle, by the features of a VGG19 network (`adversarial.perceptual`)."""
    id_mask: NonNegative = 100.0
    """Weight of the supervised term: the segmenter shall find the true mask of a real image."""
    id_image_l1: NonNegative = 25.0
    """Weight of the paired term of the generator: its image of a true mask shall be the real one, by the mean
    difference of grey values."""
    id_image_vgg: NonNegative = 50.0
    """Weight of the same term, by the features of a VGG19 network (`adversarial.perceptual`)."""


class AdversarialConfig(PhaseBudget):
    """Phase 2: the networks of a system learn together, the segmenter from generated images too (docs/systems.md)."""

    epochs: Count = 500
    """Times that phase 2 goes through the training images; 0 with `steps`, or to leave phase 2 out."""
    lr: Positive = 1e-4
    """Learning rate of all networks of phase 2 at its start."""
    batch_size: PositiveInt = 2
    """Images of one optimizer step in phase 2, over all workers together."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """Adam betas of all four networks in phase 2 (row 13)."""
    lambda_cycle: NonNegative = 1.0
    """Scales the three cycle terms together: rec_mask, rec_image_l1, rec_image_vgg."""
    weights: TermWeights = TermWeights()
    mask_path: Literal["argmax", "soft", "straight_through"] = "straight_through"
    """Rows 1 and 2: how a predicted mask enters generator and mask discriminator; argmax gives no gradient."""
    freeze_epochs: Count = 30
    """Row 4: the generator is frozen for the first epochs of phase 2."""
    mix_while_frozen: bool = True
    """Row 4: whether synthetic images are mixed in while the generator is still frozen."""
    cycle_image_while_frozen: bool = later(True)
    """Row 4: whether rec_image_l1 and rec_image_vgg train the segmenter while the generator is still frozen, and so
    reconstructs images as it was initialised; false leaves them out of the segmenter's update until it learns."""
    mix_start: Probability = 0.0
    """Mixing probability in the first epoch of phase 2 (row 5: .005 in the public code)."""
    mix_step: NonNegative = 0.005
    """Growth of the mixing probability per epoch."""
    mix_max: Probability = 0.6
    """Largest mixing probability, at which its growth by `mix_step` ends."""
    generator_feedback: Literal["every_step", "synthetic_steps"] = "every_step"
    """Row 3: whether L_seg(S(G(m)), m) trains the generator at every step or on synthetic steps only."""
    synthetic_statistics: Literal["hold", "update"] = "hold"
    """Row 14: whether generated images update the segmenter's running batch-norm statistics (public code: update, which
    makes validation collapse for as long as generated images look unlike real ones)."""
    disc_augment: Probability = 0.2
    """Probability of differentiable augmentation on the image discriminator's inputs."""
    disc_augment_shared: bool = True
    """Row 15: one draw for real and fake images, or (public code) one each."""
    perceptual: Literal["none", "vgg19"] = "vgg19"
    """Network whose features compare images in the terms `rec_image_vgg` and `id_image_vgg`; none leaves both terms
    out."""
    perceptual_weights: str | None = None
    """A local VGG19 file (safetensors, or torch checkpoint loaded with weights_only); None downloads by URL."""
    perceptual_normalise: bool = False
    """Row 21: ImageNet normalisation of the VGG input (the public code has none)."""
    schedule: ScheduleConfig = ScheduleConfig()
    system: SystemName = later("sage_gan")
    """Which networks phase 2 has and what they minimise; docs/systems.md says which settings each system knows."""
    pairing: Literal["paired", "unpaired"] = later("paired")
    """unpaired: the images and the masks of a step are drawn, and augmented, independently of each other."""
    replay_pool: Count = later(0)
    """Generated images, and as many masks, that CycleGAN's discriminators are shown again (50 there); 0: none."""

    def mix_probability(self, epoch: int) -> float:
        """Probability in [0, 1] that a step of phase-2 epoch `epoch` (from 0) also trains on synthetic images."""
        if self.system != "sage_gan":
            return 1.0  # every step of the other systems does
        if epoch < self.freeze_epochs and not self.mix_while_frozen:
            return 0.0
        return min(self.mix_start + self.mix_step * epoch, self.mix_max)


class EvaluationConfig(Section):
    """How a run is scored, and which of its weights are kept."""

    select: Literal["best", "last", "ema"] = "best"
    """Which weights a run keeps as its result (row 9)."""
    metric: str = "val/dice"
    """Score that decides which epoch is best."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Exponential moving average of the segmenter's weights, per step; 0 switches it off. When on, the averaged
    segmenter is the one that is scored, handed to phase 2 and kept; `select: ema` is the last epoch of it. Its batch
    statistics are estimated anew at the end of each epoch, on up to 20 of the epoch's training batches."""
    min_object_pixels: Count = 15
    """Objects with fewer pixels are removed from truth and prediction before objects are matched (row 28)."""
    boundary_tolerance: Positive = 2.0
    """Boundary F1: distance in pixels within which boundaries match."""
    batch_size: PositiveInt = 4
    """Images that are scored at a time; of no consequence for scores."""

    @model_validator(mode="after")
    def _ema(self) -> EvaluationConfig:
        if self.select == "ema" and self.ema_decay == 0:
            raise ValueError("select: ema needs evaluation.ema_decay > 0, such as 0.99")
        return self
