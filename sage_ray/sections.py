"""The sections of an ExperimentConfig: every setting with its type, range, default and meaning.

Where the paper and its public code differ (docs/method/DISCREPANCIES.md), the row number stands in the field's
description and both values can be chosen. A setting that came after the first release is declared with `later`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from sage_ray.foreground_rule import ForegroundText
from sage_ray.identity import later as later  # sections of later releases are written with it

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
PositiveInt = Annotated[int, Field(ge=1)]
NormName = Literal["batch", "group", "frozen"]
PhaseName = Literal["pretrain", "adversarial"]
PHASES: tuple[PhaseName, ...] = ("pretrain", "adversarial")
"""The phases of a run in order; each has a section of its name (`ExperimentConfig.phase`)."""


def word_or_number(value: Any, words: tuple[str, ...], least: float = 0) -> Any:
    """`value` itself if it is one of the words or a number of at least `least`, else ValueError.

    Used where pydantic's own message about a union would name its types.
    """
    is_word = isinstance(value, str) and value in words
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and least <= value < float("inf")
    if not is_word and not is_number:
        raise ValueError(f"give {', '.join(words)} or a number of at least {least:g}")
    return value


class Section(BaseModel):
    """A part of the config: frozen, and refusing keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class SplitConfig(Section):
    """Which images are locked away as test set, which choose epochs and configurations, and which are trained on."""

    test: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of all images locked away as test set (row 9: the published code has none)."""
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.15
    """Share of all images used to choose epochs and configurations; 0 trains on them (final training)."""
    folds: Count = 0
    """0: hold-out; k >= 2: the images outside the test set form k folds, one is the validation part."""
    fold: Count = 0
    """Which fold is the validation part, from 0; only with `folds`."""
    seed: Count = 0
    """Seed of the validation choice; test membership depends on the data and the fractions alone."""
    group: str | None = None
    """Regular expression whose first group (or match) in the file stem names the micrograph that a crop comes from;
    crops of one micrograph never straddle a split."""

    @model_validator(mode="after")
    def _fractions(self) -> SplitConfig:
        if self.test + self.validation >= 1:
            raise ValueError("test + validation must leave training images (their sum must be below 1)")
        if self.folds == 1:
            raise ValueError("folds must be 0 (hold-out) or at least 2")
        if self.folds and self.fold >= self.folds:
            raise ValueError(f"fold {self.fold} does not exist with folds={self.folds}; use 0 to {self.folds - 1}")
        return self


class AugmentConfig(Section):
    """Training augmentation; the block is applied with `probability`, each operation inside with its own (row 30)."""

    probability: Probability = 0.5
    """Probability that an image is augmented at all (paper: 0.2 to 0.5)."""
    hflip: Probability = 0.5
    vflip: Probability = 0.5
    jitter: Probability = 0.5
    """Brightness and contrast, each by a factor in `jitter_range`."""
    jitter_range: tuple[Positive, Positive] = (0.67, 1.33)
    blur: Probability = 0.5
    """Gaussian blur, 5x5, sigma in `blur_sigma` pixels."""
    blur_sigma: tuple[Positive, Positive] = (0.1, 1.0)
    noise: Probability = 0.5
    noise_std: tuple[NonNegative, NonNegative] = (0.005, 0.01)
    """Standard deviation of Gaussian noise, as a share of the full grey scale."""
    noise_overflow: Literal["clip", "wrap"] = "clip"
    """Row 30: the public code wraps negative grey values round to white (`wrap`)."""
    clahe: Probability = 0.5
    clahe_clip: Positive = 1.0
    clahe_tiles: PositiveInt = 3
    sharpen: Probability = 0.5
    sharpen_factor: NonNegative = 2.0
    crop: Probability = 0.5
    crop_scale: Annotated[float, Field(gt=0, le=1)] = 0.85
    """Share of each side that a random crop keeps; the crop is resized back."""

    @model_validator(mode="after")
    def _ranges(self) -> AugmentConfig:
        for name in ("jitter_range", "blur_sigma", "noise_std"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} must be [low, high] with low <= high, not [{low}, {high}]")
        return self


class DataConfig(Section):
    """The images and masks of a run, and what is done to them before they are split."""

    path: str = "synthetic://ordered?num=64&size=128&seed=0"
    """Folder with micrographs and their masks; or `synthetic://ordered?num=N&size=S&seed=K`, drawn particles."""
    masks: str = later("")
    """Where masks lie in it, such as `masks/*_m.tif`, `*` being the image's name; `|` between several. Empty: found."""
    foreground: ForegroundText = later("")
    """Which mask values are particles and which ignored: `1,2`, `>127`, `#ff0000`, `1 ignore 255`. Empty: all but 0."""
    image_size: tuple[Annotated[int, Field(ge=16)], Annotated[int, Field(ge=16)]] = (512, 768)
    """Network input, [rows, columns] in pixels; need not be multiples of 16."""
    crop_bottom: Count = 0
    """Rows of an information bar cut off at the bottom of each original image, in pixels."""
    stretch: Literal["minmax", "percentile"] = later("minmax")
    """Which grey values become black and white: the smallest and largest, or the percentiles 0.1 and 99.9."""
    mask_erosion: Count = 0
    """Row 27: side in pixels of the element that erodes every mask (public code: 2); 0 keeps the truth."""
    min_object_pixels: Count = 0
    """Row 27: objects of the truth with fewer pixels are dropped (public code: 15)."""
    split: SplitConfig = SplitConfig()
    augment: AugmentConfig = AugmentConfig()

    @model_validator(mode="after")
    def _tiles(self) -> DataConfig:
        if self.augment.clahe_tiles > min(self.image_size) // 4:
            tiles, size = self.augment.clahe_tiles, list(self.image_size)
            raise ValueError(f"augment.clahe_tiles={tiles} leaves tiles under 4 pixels at image_size {size}: lower it")
        return self


class SegmenterConfig(Section):
    """The network from image to mask, which both phases train and which a run is judged by."""

    name: str = "attention_unet"
    """A name from `sage_ray.models.SEGMENTERS`."""
    width: PositiveInt = 64
    """Channels of the first level; they double at each level."""
    depth: Annotated[int, Field(ge=1, le=6)] = 4
    """Number of down-sampling levels."""
    attention: bool = True
    """Row 25: attention gates on the skips; false makes the gates pass everything (attention_unet only)."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Row 24: dropout inside each decoder level."""
    norm: NormName = "batch"
    """batch (synchronised over workers), group, or frozen (running statistics only)."""
    deep_supervision: bool = False
    """A head and a supervised loss on every nested output, averaged (unet_plus_plus only)."""


class GeneratorConfig(Section):
    """The network from mask to image of phase 2."""

    name: str = "style_unet"
    width: PositiveInt = 64
    depth: Annotated[int, Field(ge=1, le=6)] = 4
    style: Literal["adain", "modulated"] = "adain"
    """Row 22: AdaIN (paper) or modulated and demodulated convolution (public code)."""
    style_dim: PositiveInt = 128
    noise: Literal["spatial", "mean", "none"] = "spatial"
    """Row 23: noise per pixel (paper) or replaced by its mean, a bias (public code)."""
    style_mixing: Probability = 0.9
    """Probability that two latent codes share the decoder levels."""
    mixing_points: Literal["levels", "public"] = "levels"
    """Row 26: the crossover falls between used levels, or may fall outside them as in the public code."""
    norm: NormName = "batch"


class DiscriminatorsConfig(Section):
    """The two networks of phase 2 that tell real images and masks from made ones; both are built alike."""

    name: str = "patch_gan"
    width: PositiveInt = 64
    attention: bool = True
    """Residual linear attention in the first block."""
    heads: PositiveInt = 8
    head_dim: PositiveInt = 64
    norm: NormName = "batch"


class SegmentationLossConfig(Section):
    """L_seg = w_ce CE + w_focal focal + w_dice Dice + w_tversky (1 - TI) + w_focal_tversky (1 - TI)^gamma (row 16)."""

    w_ce: NonNegative = 1.0
    w_focal: NonNegative = 0.0
    w_dice: NonNegative = 0.0
    w_tversky: NonNegative = 0.0
    w_focal_tversky: NonNegative = 1.0
    alpha: NonNegative = 0.4
    """Weight of false positives in the Tversky index (row 17)."""
    beta: NonNegative = 0.6
    """Weight of false negatives in the Tversky index (row 17)."""
    gamma: Positive = 1.5
    """Power of the focal Tversky term, (1 - TI)^gamma; the paper's 1/delta (row 18: Abraham and Khan use .75)."""
    focal_alpha: NonNegative = 0.5
    focal_gamma: NonNegative = 2.0
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
    """Learning-rate rule; none depends on the total number of epochs, so that stages can be shared and extended."""

    rule: Literal["constant", "plateau", "drops"] = "constant"
    factor: Annotated[float, Field(gt=0, le=1)] = 0.9
    """The learning rate is multiplied by it at each drop."""
    patience: Count = 80
    """Epochs without improvement before a drop; rule `plateau`."""
    mode: Literal["max", "min"] = "max"
    """Row 8: `min` on a score where higher is better is what the public code does: a clock."""
    metric: str = "val/f1_object_50"
    drops: tuple[PositiveInt, ...] = ()
    """Epochs of the phase, from 1, after which the rate drops; rule `drops`."""


class PretrainConfig(Section):
    """Phase 1: the segmenter learns from real pairs alone."""

    epochs: Count = 200
    lr: Positive = 1e-4
    batch_size: PositiveInt = 2
    checkpoint: str | None = None
    """Start phase 2 from this segmenter (safetensors, run id or models:/ URI) instead of phase 1."""
    handoff: Literal["best", "last"] = "best"
    """Which phase-1 weights phase 2 starts from."""
    schedule: ScheduleConfig = ScheduleConfig()


class TermWeights(Section):
    """Weights of the generator-and-segmenter objective (docs/method/METHOD.md section 1; rows 6 and 7)."""

    adv_image: NonNegative = 1.0
    adv_mask: NonNegative = 1.0
    rec_mask: NonNegative = 200.0
    rec_image_l1: NonNegative = 50.0
    rec_image_vgg: NonNegative = 100.0
    id_mask: NonNegative = 100.0
    id_image_l1: NonNegative = 25.0
    id_image_vgg: NonNegative = 50.0


class AdversarialConfig(Section):
    """Phase 2: all four networks learn, the segmenter from generated images too."""

    epochs: Count = 500
    lr: Positive = 1e-4
    batch_size: PositiveInt = 2
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
    perceptual_weights: str | None = None
    """A local VGG19 file (safetensors, or torch checkpoint loaded with weights_only); None downloads by URL."""
    perceptual_normalise: bool = False
    """Row 21: ImageNet normalisation of the VGG input (the public code has none)."""
    schedule: ScheduleConfig = ScheduleConfig()

    def mix_probability(self, epoch: int) -> float:
        """Probability in [0, 1] that a step of phase-2 epoch `epoch` (from 0) also trains on synthetic images."""
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

    @model_validator(mode="after")
    def _ema(self) -> EvaluationConfig:
        if self.select == "ema" and self.ema_decay == 0:
            raise ValueError("select: ema needs evaluation.ema_decay > 0, such as 0.99")
        return self


class RuntimeConfig(Section):
    """How and where a run computes; no part of its identity. `numerics` (part of stage keys) is read from here."""

    workers: PositiveInt = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "tf32", "bf16"] = "auto"
    """auto: bf16 where the GPU computes in it natively, else fp32; resolved when a run or study begins, and stored.
    tf32 is fp32 with TF32 in convolutions and matrix products (GPUs alone); it is used only when named here."""
    deterministic: bool = False
    """On a GPU, kernels that add up in a fixed order: the same bits on the same model of GPU and version of torch,
    slower. A CPU does so anyway."""
    channels_last: bool = True
    compile: bool = False
    threads: Count = 0
    """CPU threads per worker; 0 follows the CPUs that the worker was given."""
    cpus_per_worker: Positive = 1
    gpus_per_worker: Literal["auto"] | NonNegative = "auto"
    """auto: one where there is any; else 0 to 1, or a whole number. 0 is the CPU, unless `device` is cuda by name."""
    snapshot_seconds: NonNegative = 60.0
    """Least time between two snapshots of a stage; 0: one per epoch. One is also taken at the end of a stage
    and at a stop. Kept are the newest two, ends of stages, and epochs that the budgets of an open study name."""
    stage_store: str | None = None
    """Folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX of the stage store; None: `stages/` under the home."""
    max_retries: Count = 2
    """Restarts of a run whose worker was killed."""
    silence_minutes: Positive | None = None
    """A trial that reports no epoch for so long (5 minutes at its start) is ended and tried again; None: 20 times the
    study's longest epoch, at least 10 minutes, and an hour before the first epoch is known."""
    pictures: bool = True
    """Write curves, predictions, overlays and generated images when a run ends."""
    attention_every: Count = 0
    """Epochs between looks at the attention gates (maps of a few validation images, share of attention at boundaries);
    0: never. Epochs taken from another run's stage are not looked at again."""

    @field_validator("gpus_per_worker", mode="before")
    @classmethod
    def _word_or_number(cls, value: Any) -> Any:
        return word_or_number(value, ("auto",))

    @model_validator(mode="after")
    def _fraction(self) -> RuntimeConfig:
        gpus = self.gpus_per_worker
        if gpus != "auto" and gpus > 1 and gpus != int(gpus):
            raise ValueError(
                f"gpus_per_worker={gpus} is no share of one GPU and no whole number; use 0 to 1, or 2, 3, ..."
            )
        return self
