"""ExperimentConfig: the one frozen, validated object that describes a run, and the way from YAML to it.

Flow: preset or YAML file, then `--set a.b=value` or a trial's sample, then one validated object. `runtime` is no part
of a run's identity; all else is. Where the paper and its public code differ (parity/DISCREPANCIES.md), the row number
stands in the field's description and both values can be chosen; presets `sage_gan_paper` and `sage_gan_public` do so.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sage_ray.errors import UserError

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
PositiveInt = Annotated[int, Field(ge=1)]
NormName = Literal["batch", "group", "frozen"]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class SplitConfig(Section):
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
    path: str = "synthetic://ordered?num=64&size=128&seed=0"
    """Folder with images/ and masks/ or segmaps/; or `synthetic://ordered?num=N&size=S&seed=K`, drawn particles."""
    image_size: tuple[Annotated[int, Field(ge=16)], Annotated[int, Field(ge=16)]] = (512, 768)
    """Network input, [rows, columns] in pixels; need not be multiples of 16."""
    crop_bottom: Count = 0
    """Rows of an information bar cut off at the bottom of each original image, in pixels."""
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
            raise ValueError(
                f"augment.clahe_tiles={tiles} leaves tiles under 4 pixels at image_size {size}: lower it"
            )
        return self


class SegmenterConfig(Section):
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


class GeneratorConfig(Section):
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
    """Row 20: Dice and Tversky ratios over the whole batch (public code) or one an image, then averaged."""

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
    epochs: Count = 200
    lr: Positive = 1e-4
    batch_size: PositiveInt = 2
    checkpoint: str | None = None
    """Start phase 2 from this segmenter (safetensors, run id or models:/ URI) instead of phase 1."""
    handoff: Literal["best", "last"] = "best"
    """Which phase-1 weights phase 2 starts from."""
    schedule: ScheduleConfig = ScheduleConfig()


class TermWeights(Section):
    """Weights of the generator-and-segmenter objective (METHOD.md section 1; rows 6 and 7)."""

    adv_image: NonNegative = 1.0
    adv_mask: NonNegative = 1.0
    rec_mask: NonNegative = 200.0
    rec_image_l1: NonNegative = 50.0
    rec_image_vgg: NonNegative = 100.0
    id_mask: NonNegative = 100.0
    id_image_l1: NonNegative = 25.0
    id_image_vgg: NonNegative = 50.0


class AdversarialConfig(Section):
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
    mix_start: Probability = 0.0
    """Mixing probability in the first epoch of phase 2 (row 5: .005 in the public code)."""
    mix_step: NonNegative = 0.005
    """Growth of the mixing probability an epoch."""
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
    select: Literal["best", "last", "ema"] = "best"
    """Which weights a run keeps as its result (row 9)."""
    metric: str = "val/dice"
    """Score that decides which epoch is best."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Exponential moving average of the segmenter's weights, per step; 0 switches it off. When on, the averaged
    segmenter is the one that is scored, handed to phase 2 and kept; `select: ema` is the last epoch of it."""
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
    precision: Literal["fp32", "bf16"] = "fp32"
    channels_last: bool = True
    compile: bool = False
    threads: Count = 0
    """CPU threads a worker; 0 follows the CPUs it was given."""
    cpus_per_worker: Positive = 1
    gpus_per_worker: NonNegative = 0
    """0 to 1, or a whole number."""
    snapshot_every: PositiveInt = 1
    """Epochs between snapshots of a stage."""
    keep_every: PositiveInt = 10
    """Snapshots at multiples of it, at the end of a stage, and the newest two are kept."""
    stage_store: str | None = None
    """pyarrow filesystem URI or folder of the stage store; None: `stages/` under the home."""
    max_retries: Count = 2
    """Restarts of a run whose worker was killed."""
    pictures: bool = True
    """Write curves, predictions, overlays and generated images when a run ends."""

    @model_validator(mode="after")
    def _fraction(self) -> RuntimeConfig:
        gpus = self.gpus_per_worker
        if gpus > 1 and gpus != int(gpus):
            raise ValueError(
                f"gpus_per_worker={gpus} is no share of one GPU and no whole number; use 0 to 1, or 2, 3, ..."
            )
        return self


class ExperimentConfig(Section):
    """All that describes one run. Immutable; use `with_values` for a changed copy."""

    data: DataConfig = DataConfig()
    segmenter: SegmenterConfig = SegmenterConfig()
    generator: GeneratorConfig = GeneratorConfig()
    discriminators: DiscriminatorsConfig = DiscriminatorsConfig()
    segmentation_loss: SegmentationLossConfig = SegmentationLossConfig()
    pretrain: PretrainConfig = PretrainConfig()
    adversarial: AdversarialConfig = AdversarialConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    seed: Count = 0
    runtime: RuntimeConfig = RuntimeConfig()

    @model_validator(mode="after")
    def _phases(self) -> ExperimentConfig:
        if self.pretrain.epochs + self.adversarial.epochs == 0:
            raise ValueError("pretrain.epochs and adversarial.epochs are both 0; nothing would be trained")
        if self.pretrain.checkpoint and self.pretrain.epochs:
            raise ValueError("pretrain.checkpoint replaces phase 1: set pretrain.epochs to 0 beside it")
        for phase in ("pretrain", "adversarial"):
            size = getattr(self, phase).batch_size
            if size % self.runtime.workers:
                raise ValueError(
                    f"{phase}.batch_size {size} is global and must be a multiple of "
                    f"runtime.workers {self.runtime.workers}"
                )
        if self.data.split.validation == 0 and self.data.split.folds == 0:
            if self.evaluation.select == "best":
                raise ValueError(
                    "without a validation part no epoch can be chosen: set evaluation.select to last or ema"
                )
            if self.pretrain.epochs and self.adversarial.epochs and self.pretrain.handoff == "best":
                raise ValueError(
                    "without a validation part there is no best phase-1 epoch: set pretrain.handoff to last"
                )
            if "plateau" in (self.pretrain.schedule.rule, self.adversarial.schedule.rule):
                raise ValueError("without a validation part rule plateau has no score: use constant or drops")
        return self

    def identity(self) -> dict[str, Any]:
        """Everything but `runtime`, as plain data: what makes two runs the same experiment."""
        return self.model_dump(mode="json", exclude={"runtime"})

    def config_hash(self) -> str:
        """16 hex digits over `identity()`."""
        return stable_hash(self.identity())

    def with_values(self, values: Mapping[str, Any]) -> ExperimentConfig:
        """A validated copy with dotted paths replaced, such as {"adversarial.lambda_cycle": 2.0}.

        Raises:
            UserError: a path does not exist or a value is refused.
        """
        tree = self.model_dump(mode="json")
        for path, value in values.items():
            set_path(tree, path, value, "override")
        return build_config(tree, "override")

    def get(self, path: str) -> Any:
        """Value at a dotted path. Raises UserError with the nearest valid name if there is none."""
        check_path(path, "config")
        value: Any = self
        for part in path.split("."):
            value = getattr(value, part)
        return value


@dataclass(frozen=True)
class Resolved:
    """A validated config and, for each dotted path, where its value came from."""

    config: ExperimentConfig
    origins: dict[str, str]


def stable_hash(value: Any) -> str:
    """16 hex digits of a sha256 over canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def known_paths(model: type[BaseModel] = ExperimentConfig, prefix: str = "") -> dict[str, Any]:
    """All leaf paths of the config with their pydantic FieldInfo."""
    paths: dict[str, Any] = {}
    for name, info in model.model_fields.items():
        annotation = info.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            paths.update(known_paths(annotation, f"{prefix}{name}."))
        else:
            paths[f"{prefix}{name}"] = info
    return paths


def check_path(path: str, where: str) -> None:
    """Raise UserError, naming the nearest valid path, unless `path` is a leaf of the config."""
    known = known_paths()
    if path in known:
        return
    near = difflib.get_close_matches(path, known, n=1, cutoff=0.5)
    tail = [p for p in known if p.rsplit(".", 1)[-1] == path.rsplit(".", 1)[-1]]
    hint = near[0] if near else (tail[0] if tail else None)
    mend = f"did you mean {hint}?" if hint else "`sage-ray config show` lists every key"
    raise UserError(f"unknown key {path}", where, mend)


def set_path(tree: dict[str, Any], path: str, value: Any, where: str) -> None:
    """Set a dotted path in a nested dict, checking that the config has it."""
    check_path(path, where)
    *parents, leaf = path.split(".")
    for part in parents:
        tree = tree.setdefault(part, {})
    tree[leaf] = value


def build_config(tree: Mapping[str, Any], where: str) -> ExperimentConfig:
    """The validated config of a nested dict.

    Raises:
        UserError: naming the first refused key, its value and the remedy.
    """
    for path in flatten(tree):
        check_path(path, where)
    try:
        return ExperimentConfig.model_validate(dict(tree))
    except ValidationError as error:
        raise _as_user_error(error, where) from None


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _as_user_error(error: ValidationError, where: str) -> UserError:
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if path.endswith("schedule.rule"):
        message = "a rule must not depend on the total number of epochs; use constant, plateau or drops"
    elif not isinstance(first["input"], Mapping | BaseModel):
        message = f"{message} (got {first['input']!r})"
    label = f"{where}, {path}" if path else where
    return UserError("bad value", label, message)


def shipped(kind: Literal["preset", "space"], name: str | None = None) -> dict[str, Path]:
    """Shipped YAML files by name: presets (search_spaces/base) or search spaces and ablation designs."""
    root = Path(str(files("sage_ray"))) / "search_spaces"
    if not root.is_dir():
        root = Path(str(files("sage_ray"))).parent / "search_spaces"
    folder = root / "base" if kind == "preset" else root
    found = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    if name is not None and name not in found:
        near = difflib.get_close_matches(name, found, n=1, cutoff=0.4)
        mend = f"did you mean {near[0]}?" if near else "choose one of " + ", ".join(found)
        raise UserError(f"unknown {kind}", name, mend)
    return found


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises UserError if it is missing, unreadable, or no mapping."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError("no such file", path, "give the path of a YAML file") from None
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        detail = str(error).replace("\n", " ")
        raise UserError("unreadable YAML", path, detail) from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError("not a mapping", path, "the top level must be keys and values")
    return tree


def preset_tree(name: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Nested values of a preset, with what it extends, and the origin of each path."""
    tree = read_yaml(shipped("preset", name)[name])
    parent = tree.pop("extends", None)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    if parent is not None:
        values, origins = preset_tree(parent)
    for path, value in flatten(tree).items():
        set_path(values, path, value, f"preset {name}")
        origins[path] = f"preset {name}"
    return values, origins


def parse_set(text: str) -> tuple[str, Any]:
    """("a.b", value) of "a.b=value"; the value is read as YAML, also 1e-4. Raises UserError if there is no "="."""
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise UserError("not an assignment", f"--set {text}", "write --set section.key=value")
    parsed = yaml.safe_load(value) if value.strip() else None
    return path.strip(), _numbers(parsed)


def _numbers(value: Any) -> Any:
    # YAML 1.1 reads 1e-4 as text.
    if isinstance(value, str):
        try:
            return float(value) if value.lower() not in ("nan", "inf", "-inf", "infinity") else math.nan
        except ValueError:
            return value
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return value


def resolve(
    preset: str | None = None,
    file: str | Path | None = None,
    sets: Iterable[str] | Mapping[str, Any] = (),
) -> Resolved:
    """One validated config from a preset or a YAML file, then overrides ("a.b=value" texts or a mapping).

    A file may say `extends: PRESET`. Without preset and file the base is `sage_gan_paper`.

    Raises:
        UserError: unknown preset, key or value; both preset and file given.
    """
    if preset is not None and file is not None:
        raise UserError(
            "both --preset and -c given", f"{preset}, {file}", "give one (a file may say `extends: PRESET`)"
        )
    where = f"preset {preset}"
    if file is not None:
        where = str(file)
        tree = read_yaml(Path(file))
        parent = tree.pop("extends", None)
        values, origins = preset_tree(parent) if parent else ({}, {})
        for path, value in flatten(tree).items():
            set_path(values, path, _numbers(value), where)
            origins[path] = where
    else:
        values, origins = preset_tree(preset or "sage_gan_paper")
    pairs = sets.items() if isinstance(sets, Mapping) else [parse_set(text) for text in sets]
    for path, value in pairs:
        set_path(values, path, value, f"--set {path}")
        origins[path] = "--set"
        where = f"--set {path}"
    config = build_config(values, where)
    return Resolved(config, {path: origins.get(path, "default") for path in known_paths()})


def dump(config: ExperimentConfig) -> str:
    """The config as YAML that `resolve(file=...)` reads back to an equal object."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, width=120)
