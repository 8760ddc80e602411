"""What a finished run leaves behind: scores per image, the model folder, and pictures to judge it by."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sage_ray.config import ExperimentConfig
from sage_ray.data.prepare import PreparedData
from sage_ray.data.training_scale import training_nm_per_pixel
from sage_ray.files import write_text
from sage_ray.imaging.model import Model, model_spec, save_model_folder
from sage_ray.models.value_range import to_network_range
from sage_ray.record.run_folder import RunFolder
from sage_ray.training.build import network_kwargs
from sage_ray.training.loop import TrainResult

NUM_SHOWN = 6
PICTURE_SEED = 0


def write_products(
    folder: RunFolder, config: ExperimentConfig, data: PreparedData, result: TrainResult, device: torch.device
) -> None:
    """Write per_image.parquet, artifacts/model/ and, if the config wants them, artifacts/pictures/.

    Args:
        folder: of the run.
        config: of the run.
        data: that it was trained on; the test part is not looked at.
        result: of the training; its networks are on the CPU afterwards as before.
        device: where predictions for the pictures are computed.
    """
    folder.write_per_image(result.per_image)
    spec = _spec(folder, config, data, result)
    save_model_folder(folder.model, result.segmenter, result.generator, spec)
    if not config.runtime.pictures:
        return
    pictures = folder.artifacts / "pictures"
    pictures.mkdir(exist_ok=True)
    try:
        _draw(pictures, Model(result.segmenter, result.generator, spec), data, result, device)
    except Exception:  # hours of training are not lost for a picture; what went wrong stands beside the others
        write_text(pictures / "error.txt", traceback.format_exc())


def _spec(folder: RunFolder, config: ExperimentConfig, data: PreparedData, result: TrainResult) -> dict[str, object]:
    kwargs = network_kwargs(config)
    segmenter = (config.segmenter.name, kwargs["segmenter"]) if result.segmenter is not None else None
    generator = (config.generator.name, kwargs["generator"]) if result.generator is not None else None
    sizes = np.array([(fact.rows - config.data.crop_bottom, fact.columns) for fact in data.facts])
    return model_spec(
        segmenter,
        generator,
        image_size=config.data.image_size,
        crop_bottom=config.data.crop_bottom,
        stretch=config.data.stretch,
        native_size=np.median(sizes, axis=0).round().astype(int).tolist(),
        nm_per_pixel=training_nm_per_pixel(config.data, data),
        run_id=folder.run_id,
        config_hash=folder.read().config_hash,
        data_fingerprint=data.fingerprint,
        split_id=data.split.split_id,
        weights_sha=result.weights_sha,
        selected_epoch=result.selected_epoch,
    )


def _draw(folder: Path, model: Model, data: PreparedData, result: TrainResult, device: torch.device) -> None:
    # Here and not above: matplotlib is slow to import, and runs without pictures need none of it.
    from sage_ray.imaging import drawing

    part, name = (data.split.validation, "val") if len(data.split.validation) else (data.split.train, "train")
    rows = part[:NUM_SHOWN]
    images, masks = np.array(data.images[rows]), np.array(data.masks[rows])
    stems = [data.stems[row] for row in rows]
    dice = {row["image_sha"]: row["value"] for row in result.per_image if row["score"] == "dice"}
    captions = [
        f"{stem}  Dice {dice[data.shas[row]]:.3f}" if data.shas[row] in dice else f"{stem}  ({name})"
        for stem, row in zip(stems, rows, strict=True)
    ]
    drawing.learning_curves(result.history, folder / "curves.png", selected_epoch=result.selected_epoch)
    with _on(device, result.segmenter, result.generator):
        if result.segmenter is not None:
            _draw_masks(folder, model, images, masks, stems, captions, f"epoch {result.selected_epoch}, {name} images")
        if model.generator is not None:
            fakes = [model.generate(mask, PICTURE_SEED + i) for i, mask in enumerate(masks)]
            sheet = drawing.generated_pairs(list(masks), fakes, list(images))
            drawing.save(sheet, folder / "generated.png")


def _draw_masks(
    folder: Path,
    model: Model,
    images: np.ndarray,
    masks: np.ndarray,
    stems: list[str],
    captions: list[str],
    title: str,
) -> None:
    """predictions.png and, if the segmenter has gates, attention.png of images and masks (N,H,W)."""
    from sage_ray.imaging import drawing

    predicted = model.probabilities(images) > 0.5
    sheet = drawing.prediction_sheet(list(images), list(predicted), list(masks), captions, title=title)
    drawing.save(sheet, folder / "predictions.png")
    levels = _attention(model.segmenting(), images, model.device)
    if levels:
        drawn = [drawing.attention_overlay(images[i], level[i, 0]) for level in levels for i in range(len(images))]
        texts = [f"{stem}  gate {k + 1}" for k in range(len(levels)) for stem in stems]
        sheet = drawing.contact_sheet(drawn, texts, columns=len(images), cell=200, title="attention, deepest first")
        drawing.save(sheet, folder / "attention.png")


@torch.no_grad()
def _attention(segmenter: nn.Module, images: np.ndarray, device: torch.device) -> list[np.ndarray]:
    """Attention coefficients (N,1,h,w) of each gate, deepest first; empty for a segmenter without gates."""
    maps = getattr(segmenter, "attention_maps", None)
    if maps is None:
        return []
    grey = torch.from_numpy(images).to(device)[:, None].float() / 255
    found: list[Tensor] = maps(to_network_range(grey))
    return [level.float().cpu().numpy() for level in found]


@contextmanager
def _on(device: torch.device, *networks: nn.Module | None) -> Iterator[None]:
    given = [network for network in networks if network is not None]
    for network in given:
        network.to(device)
    try:
        yield
    finally:
        for network in given:
            network.cpu()
