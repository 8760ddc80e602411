"""The independent judge of generated images: a segmenter of another architecture, trained on real pairs of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sage_ray.config import ExperimentConfig
from sage_ray.data.prepare import prepare
from sage_ray.errors import UserError
from sage_ray.evaluation.seen_images import seen_by
from sage_ray.imaging.model import Model
from sage_ray.record.home import Home
from sage_ray.record.model_reference import ModelRef, resolve_model
from sage_ray.record.run_folder import RunFolder
from sage_ray.runtime.launch import default_run_id, run
from sage_ray.sections import (
    AdversarialConfig,
    DataConfig,
    EvaluationConfig,
    PretrainConfig,
    RuntimeConfig,
    ScheduleConfig,
    SegmenterConfig,
    SplitConfig,
)
from sage_ray.system_rules import has_segmenter
from sage_ray.training.context import choose_device

if TYPE_CHECKING:
    from sage_ray.watch import Watch

SEED = 7001
"""Seed of every judge, so that all models of one data set are judged by the same one."""
STEPS = 1000
"""Steps that a judge is trained for: a bad judge sees nothing in any image."""
BATCH, LR, DROPOUT, NORM, DEPTH = 4, 1e-3, 0.1, "instance_affine", 4
"""Instance norm, as judges learn from few images: of 13 drawn pairs of 64x64, Dice on 27 others was .80 after 250
steps, with batch norm .65. The depth is less where an image is so small that nothing would be left of it."""
WIDTHS = (8, 32)
"""Fewest and most channels of its first level; between them an eighth of the image's shorter side."""
NAME = "residual_unet"
"""Architecture of the judge: that of no system's own segmenter, so that one judge serves all arms of a study."""
OTHER = {NAME: "unet"}
"""Architecture of the judge where the generator's own segmenter is of that kind."""


@dataclass(frozen=True, eq=False)
class Judge:
    """A trained judge.

    Attributes:
        ref: where it is.
        model: its networks, on the device that they are used on.
        text: architecture, data and check sum of its weights, as definitions say it.
        seen: sha256 of each image that it was trained or chosen on.
        training_images: (N,H,W) uint8, those that it was trained on.
        notes: what has to be known of it.
    """

    ref: ModelRef
    model: Model
    text: str
    seen: frozenset[str]
    training_images: np.ndarray
    notes: tuple[str, ...] = ()


def real_data(data: DataConfig, part: str) -> DataConfig:
    """The settings that read the same real pairs in the same way, one `data.split.part` of them."""
    split = SplitConfig(test=data.split.test, group=data.split.group, part=part)
    names = ("path", "masks", "foreground", "image_size", "crop_bottom", "stretch", "mask_erosion", "min_object_pixels")
    return DataConfig(split=split, **{name: getattr(data, name) for name in names})


def own_architecture(judged: ExperimentConfig) -> str | None:
    """Name of the segmenter that a generator was trained beside; None where none was, or nothing was generated."""
    adversarial = judged.adversarial
    return judged.segmenter.name if adversarial.num_epochs and has_segmenter(adversarial) else None


def judge_config(
    judged: ExperimentConfig, data: DataConfig, num_images: int, *, epochs: int | None = None
) -> ExperimentConfig:
    """The run that trains the judge of a generator.

    It follows from the data, their size and how they are read alone: models of any system, widths, budgets and seeds
    share one judge, whose scores may stand in one table. Only a generator whose own segmenter is a NAME has another.

    Args:
        judged: the generator's config.
        data: `real_data` of the judge's part.
        num_images: that it is trained on.
        epochs: None: STEPS steps.
    """
    name = OTHER.get(own_architecture(judged) or "", NAME)
    batch_size = min(BATCH, num_images)
    steps = 0 if epochs else STEPS
    budget = PretrainConfig(epochs=epochs or 0, steps=steps)
    schedule = ScheduleConfig(rule="poly", total_epochs=budget.num_epochs)
    side = min(data.image_size)
    return ExperimentConfig(
        data=data,
        segmenter=SegmenterConfig(
            name=name,
            width=min(max(side // 8, WIDTHS[0]), WIDTHS[1]),
            depth=min(DEPTH, side.bit_length() - 2),
            dropout=DROPOUT,
            norm=NORM,
        ),
        pretrain=budget.model_copy(update={"lr": LR, "batch_size": batch_size, "schedule": schedule}),
        adversarial=AdversarialConfig(epochs=0, perceptual="none", batch_size=batch_size),
        evaluation=EvaluationConfig(),
        seed=SEED if judged.seed != SEED else SEED + 1,
        runtime=RuntimeConfig(stage_store=judged.runtime.stage_store, threads=judged.runtime.threads),
    )


def trained_judge(
    judged: ExperimentConfig,
    data: DataConfig,
    home: Home,
    *,
    epochs: int | None = None,
    mirror: bool = True,
    watch: Watch | None = None,
) -> Judge:
    """The judge, trained as a run of the home, or read back where it has been trained.

    Raises:
        UserError: bad data, or a training that failed.
    """
    prepared = prepare(data, home.cache)
    config = judge_config(judged, data, len(prepared.split.train), epochs=epochs)
    run_id = default_run_id(config, "judge")
    told: dict[str, Any] = {}
    if watch is not None:
        seen, total = watch, config.num_epochs
        told = {"on_report": lambda report: seen.epoch(report, total, run_id), "say": seen.line}
        budget = f"{config.pretrain.steps} steps" if config.pretrain.steps else f"{total} epochs"
        seen.line(f"judge {run_id}: {config.segmenter.name}, part {data.split.part} of {data.path}, {budget}")
    record = run(config, home, run_id, mirror=mirror, launcher="inline", **told)
    if not record.finished:
        why = record.error or record.state
        raise UserError(f"judge could not be trained ({why})", run_id, f"`sage-ray resume {run_id}` goes on with it")
    return named_judge(run_id, judged, home)


def named_judge(named: str | Path, judged: ExperimentConfig, home: Home) -> Judge:
    """The judge that a run id, folder or `models:/` URI names.

    Raises:
        UserError: no such model, one of unknown training images, of the architecture of the generator's own segmenter
            (so that no stage is shared), or one that was trained on generated images.
    """
    ref = resolve_model(named, home)
    config = ref.config(home)
    seen, _, unknown = seen_by(ref, home)
    if config is None or unknown is not None:
        raise UserError("judge's training images are not known", ref.text, "name a run of this home")
    if config.segmenter.name == own_architecture(judged):
        mend = "name one of another architecture, or none: it is trained then"
        raise UserError(f"judge of the generator's own architecture ({config.segmenter.name})", ref.text, mend)
    model = ref.load().to(choose_device("auto"))
    if model.generator is not None or config.pretrain.synthetic_share or config.render.train_on_pairs:
        mend = "name one that was trained on real pairs alone (adversarial.epochs=0, pretrain.synthetic_share=0)"
        raise UserError("judge was trained on generated images", ref.text, mend)
    prepared = prepare(config.data, home.cache)
    sha = str(ref.identity()["weights_sha"])[:16]
    trained_on = f"{len(prepared.split.train)} real pairs"
    part = config.data.split.part
    trained_on += "" if part == "all" else f" of part {part}"
    text = f"{config.segmenter.name} trained on {trained_on} ({prepared.split.split_id}), weights {sha}"
    images = np.array(prepared.images[prepared.split.train])
    return Judge(ref, model, text, frozenset(seen), images, _notes(ref, home))


def _notes(ref: ModelRef, home: Home) -> tuple[str, ...]:
    """How good the judge is, where its run says so."""
    if ref.run_id is None or ref.run_id not in home.run_ids():
        return ()
    rows = [row for row in RunFolder.open(home.runs, ref.run_id).per_image() if row["part"] == "val"]
    dice = [row["value"] for row in rows if row["score"] == "dice"]
    if not dice:
        return ()
    return (f"judge {ref.run_id}: Dice {np.mean(dice):.3f} on its {len(dice)} validation images",)
