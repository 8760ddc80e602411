"""Scores of predicted masks; each carries its definition."""

from __future__ import annotations

from sage_ray.metrics.definitions import COUNTS, IMAGE_SCORES, POOLED_SCORES, definition
from sage_ray.metrics.image_scores import score_image, summarise
from sage_ray.metrics.objects import label_objects, score_objects
from sage_ray.metrics.threshold import otsu

__all__ = [
    "COUNTS",
    "IMAGE_SCORES",
    "POOLED_SCORES",
    "definition",
    "label_objects",
    "otsu",
    "score_image",
    "score_objects",
    "summarise",
]
