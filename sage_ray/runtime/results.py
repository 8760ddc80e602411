"""What a finished run leaves under artifacts/: the model folder and pictures."""

from __future__ import annotations

import numpy as np

from sage_ray.config import ExperimentConfig
from sage_ray.data.prepare import PreparedData
from sage_ray.registry.predictor import model_spec, save_model_folder
from sage_ray.runtime.record import RunFolder
from sage_ray.training.build import network_kwargs
from sage_ray.training.loop import TrainResult


def write_results(folder: RunFolder, config: ExperimentConfig, data: PreparedData, result: TrainResult) -> None:
    """Write per_image.parquet, artifacts/model/ and, if wanted, artifacts/pictures/."""
    folder.write_per_image(result.per_image)
    save_model_folder(folder.model, result.segmenter, result.generator, _spec(folder, config, data, result))


def _spec(folder: RunFolder, config: ExperimentConfig, data: PreparedData, result: TrainResult) -> dict[str, object]:
    kwargs = network_kwargs(config)
    generator = (config.generator.name, kwargs["generator"]) if result.generator is not None else None
    sizes = np.array([(fact.rows - config.data.crop_bottom, fact.columns) for fact in data.facts])
    return model_spec(
        (config.segmenter.name, kwargs["segmenter"]),
        generator,
        image_size=config.data.image_size,
        crop_bottom=config.data.crop_bottom,
        native_size=np.median(sizes, axis=0).round().astype(int).tolist(),
        run_id=folder.run_id,
        config_hash=folder.read().config_hash,
        data_fingerprint=data.fingerprint,
        split_id=data.split.split_id,
        weights_sha=result.weights_sha,
        selected_epoch=result.selected_epoch,
    )
