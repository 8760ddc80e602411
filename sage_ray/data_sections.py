"""The sections of an ExperimentConfig that say which images and masks a run has, how they are split and augmented."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sage_ray.foreground_rule import ForegroundText
from sage_ray.identity import later
from sage_ray.section_base import Count, NonNegative, Positive, PositiveInt, Probability, Section


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
    labels: Count = later(0)
    """Training images that keep their masks, chosen by content and `subset`, a larger number holding a smaller; 0: all.
    Crops of one micrograph stay together: whole micrographs are taken for as long as all their images fit."""
    subset: Count = later(0)
    """Which of several choices of so many labelled images; nothing without `labels`."""
    unlabelled: Literal["drop", "disc_image"] = later("drop")
    """What the other training images are for, whose masks nothing sees: nothing, or `disc_image`, whose real images are
    then drawn from all training images."""
    group: str | None = None
    """Regular expression whose first group (or match) in the file stem names the micrograph that a crop comes from;
    crops of one micrograph never straddle a split."""
    part: Literal["all", "A", "B", "C"] = later("all")
    """all, or one of three disjoint thirds of the images outside the test set: a generator learns from A, its
    independent judge (`sage-ray fidelity`) from B, and the generator's images are scored against those of C."""

    @model_validator(mode="after")
    def _fractions(self) -> SplitConfig:
        if self.test + self.validation >= 1:
            raise ValueError("test + validation must leave training images (their sum must be below 1)")
        if self.folds == 1:
            raise ValueError("folds must be 0 (hold-out) or at least 2")
        if self.folds and self.fold >= self.folds:
            raise ValueError(f"fold {self.fold} does not exist with folds={self.folds}; use 0 to {self.folds - 1}")
        return self


LATER_OPERATIONS: dict[str, tuple[str, ...]] = {
    "rotate": ("rotate_degrees",),
    "scale": ("scale_range",),
    "elastic": ("elastic_spacing", "elastic_std"),
    "gamma": ("gamma_range",),
    "low_resolution": ("low_resolution_range",),
}
"""Operations of `AugmentConfig` that came after the first release, and the settings that count where one is on."""
_RANGES = (
    *("jitter_range", "blur_sigma", "noise_std"),
    *("scale_range", "elastic_std", "gamma_range", "low_resolution_range"),
)


class AugmentConfig(Section):
    """Training augmentation; the block is applied with `probability`, each operation inside with its own (row 30)."""

    probability: Probability = 0.5
    """Probability that an image is augmented at all (paper: 0.2 to 0.5)."""
    hflip: Probability = 0.5
    """Probability that image and mask are mirrored left to right."""
    vflip: Probability = 0.5
    """Probability that image and mask are mirrored top to bottom."""
    jitter: Probability = 0.5
    """Probability that brightness and contrast change, each by a factor in `jitter_range`."""
    jitter_range: tuple[Positive, Positive] = (0.67, 1.33)
    """Smallest and largest factor of `jitter`."""
    blur: Probability = 0.5
    """Probability of a Gaussian blur, 5x5, sigma in `blur_sigma` pixels."""
    blur_sigma: tuple[Positive, Positive] = (0.1, 1.0)
    """Smallest and largest standard deviation of `blur`, in pixels."""
    noise: Probability = 0.5
    """Probability of added Gaussian noise, its strength drawn from `noise_std`."""
    noise_std: tuple[NonNegative, NonNegative] = (0.005, 0.01)
    """Standard deviation of Gaussian noise, as a share of the full grey scale."""
    noise_overflow: Literal["clip", "wrap"] = "clip"
    """Row 30: what becomes of grey values below 0: black (clip), or white as in the public code (wrap)."""
    clahe: Probability = 0.5
    """Probability of contrast-limited adaptive histogram equalisation (CLAHE), which evens out the contrast tile by
    tile."""
    clahe_clip: Positive = 1.0
    """Limit of the contrast that `clahe` may add: a grey value counts for at most so many times the mean of its tile's
    histogram."""
    clahe_tiles: PositiveInt = 3
    """Tiles of `clahe` along each side of the image; at least 4 pixels each."""
    sharpen: Probability = 0.5
    """Probability that the image is sharpened by `sharpen_factor`."""
    sharpen_factor: NonNegative = 2.0
    """Strength of `sharpen`: 1 leaves the image as it is, 0 blurs it, above 1 sharpens it."""
    crop: Probability = 0.5
    """Probability that a random window of `crop_scale` is cut out."""
    crop_scale: Annotated[float, Field(gt=0, le=1)] = 0.85
    """Share of each side that a random crop keeps; the crop is resized back."""
    rotate: Probability = later(0.0)
    """Probability of a rotation by any angle up to `rotate_degrees` either way; what comes in at the corners is the
    image, reflected."""
    rotate_degrees: Annotated[float, Field(ge=0, le=180)] = later(180.0)
    """Largest angle of `rotate`, in degrees."""
    scale: Probability = later(0.0)
    """Probability of a magnification by a factor in `scale_range`, log-uniform; below 1 the image is shrunk and
    reflected around."""
    scale_range: tuple[Positive, Positive] = later((0.7, 1.4))
    """Smallest and largest factor of `scale`."""
    elastic: Probability = later(0.0)
    """Probability of an elastic deformation: random shifts of points `elastic_spacing` pixels apart, smooth in
    between."""
    elastic_spacing: Annotated[int, Field(ge=4)] = later(32)
    """Distance of the points that `elastic` shifts, in pixels."""
    elastic_std: tuple[NonNegative, NonNegative] = later((1.0, 4.0))
    """Standard deviation of the shifts in pixels, drawn for each image."""
    gamma: Probability = later(0.0)
    """Probability that grey values are raised to a power in `gamma_range`, log-uniform."""
    gamma_range: tuple[Positive, Positive] = later((0.7, 1.5))
    """Smallest and largest power of `gamma`; below 1 brightens."""
    low_resolution: Probability = later(0.0)
    """Probability that the image is shrunk by a factor in `low_resolution_range` and magnified back; masks stay
    sharp."""
    low_resolution_range: tuple[Annotated[float, Field(ge=0.1, le=1)], Annotated[float, Field(ge=0.1, le=1)]] = later(
        (0.5, 1.0)
    )
    """Smallest and largest factor of `low_resolution`; 1 leaves the image as it is."""

    @model_validator(mode="after")
    def _ranges(self) -> AugmentConfig:
        for name in _RANGES:
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
    extra_pairs: str = later("")
    """Further training pairs of phase 1 (`pretrain.synthetic_share`): a folder,
    `synthetic://ordered?num=N&size=S&seed=K`, `stage:KEY`, a MODEL with a generator (`MODEL?pairs=N`), or
    `preset:NAME?pairs=N&a.b=value`, trained first."""
    split: SplitConfig = SplitConfig()
    augment: AugmentConfig = AugmentConfig()

    @model_validator(mode="after")
    def _tiles(self) -> DataConfig:
        if self.augment.clahe_tiles > min(self.image_size) // 4:
            tiles, size = self.augment.clahe_tiles, list(self.image_size)
            raise ValueError(f"augment.clahe_tiles={tiles} leaves tiles under 4 pixels at image_size {size}: lower it")
        return self
