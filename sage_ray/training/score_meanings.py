"""What the scores of a config mean: apart from their computation, so that verbs which only read need no torch."""

from __future__ import annotations

from sage_ray.config import ExperimentConfig
from sage_ray.metrics.definitions import definitions


def score_definitions(config: ExperimentConfig) -> dict[str, str]:
    """What each score of a config is, by name; equal texts may be compared."""
    return definitions(
        min_object_pixels=config.evaluation.min_object_pixels,
        boundary_tolerance=config.evaluation.boundary_tolerance,
        mask_erosion=config.data.mask_erosion,
        min_truth_pixels=config.data.min_object_pixels,
        image_size=config.data.image_size,
        foreground=config.data.foreground,
    )
