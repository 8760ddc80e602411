"""The registered model as plain MLflow loads it: model-from-code, safetensors weights beside it, nothing unpickled.

MLflow runs this file inside whatever environment loads the model. It has the package's needed modules in `code/` and
the model folder among its artifacts; neither ray nor the trainer is there.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import numpy as np
from mlflow.pyfunc.model import PythonModel

if TYPE_CHECKING:
    from sage_ray.imaging.seed_votes import SeedVotes

TASKS = ("probability", "mask", "generate", "disagreement")
REGISTERED, ALL = "registered", "all"


class SegmenterAndGenerator:
    """Segmenter (image to mask) and generator (mask to image) behind `predict`."""

    def load_context(self, context: Any) -> None:
        """Load the networks from the model folder among the artifacts. Raises if a weight file is damaged."""
        from sage_ray.imaging.model import load_model_folder

        self.folder = Path(context.artifacts["model"])
        self.model = load_model_folder(self.folder)
        self.votes: SeedVotes | None = None

    # MLflow would read a hint on `model_input` as a schema, which cannot say "tensor of any height and width".
    def predict(self, context: Any, model_input, params: dict[str, Any] | None = None) -> np.ndarray:  # type: ignore
        """Result for a stack of images, at their own size.

        Args:
            model_input: (N,H,W) uint8; grey images of any size >= 16 pixels a side, or masks (0: background) for
                task `generate`.
            params: `task`: `probability` (default): foreground probability, float32 in [0,1]; `mask`: uint8 in
                {0,1}, probability > 0.5; `disagreement`: standard deviation over the seeds of that probability,
                float32 in [0,0.5]; `generate`: synthetic images, uint8. `seed`: of the generated images;
                image n of the stack uses seed + n. `seeds`: `registered` (default) or `all`: probability and mask are
                those of the registered seed, or of the mean probability over all seeds of the final training.

        Returns:
            (N,H,W) array.

        Raises:
            ValueError: unknown task or seeds, wrong number of dimensions, a model without generator asked to generate,
                or a model of one seed asked for a vote.
        """
        given = {"task": "probability", "seed": 0, "seeds": REGISTERED, **(params or {})}
        task, seed, seeds = str(given["task"]), int(given["seed"]), str(given["seeds"])
        stack = np.asarray(model_input)
        if task not in TASKS:
            raise ValueError(f"unknown task {task!r}: choose one of {', '.join(TASKS)}")
        if seeds not in (REGISTERED, ALL):
            raise ValueError(f"unknown seeds {seeds!r}: choose {REGISTERED} or {ALL}")
        if stack.ndim != 3:
            raise ValueError(f"input of shape {stack.shape}: give a stack of grey images (N, rows, columns)")
        return np.stack([self._one(image, task, seed + n, vote=seeds == ALL) for n, image in enumerate(stack)])

    def _one(self, image: np.ndarray, task: str, seed: int, *, vote: bool) -> np.ndarray:
        if task == "generate":
            return self.model.generate(image > 0, seed)
        if vote or task == "disagreement":
            return self._vote(image, task)
        probability, mask = self.model.predict_mask(image)
        return probability if task == "probability" else mask.astype(np.uint8)

    def _vote(self, image: np.ndarray, task: str) -> np.ndarray:
        from sage_ray.imaging.seed_votes import load_seed_votes

        if self.votes is None:  # the weights of all seeds are read when they are first asked for
            self.votes = load_seed_votes(self.folder)
        vote = self.votes.on_image(image)
        if task == "disagreement":
            return vote.disagreement
        return vote.probability if task == "probability" else vote.mask.astype(np.uint8)


# `predict` comes from a plain class: MLflow would warn of its missing hint at every load if it stood here.
class SageGan(SegmenterAndGenerator, PythonModel):
    """What MLflow calls."""


mlflow.models.set_model(SageGan())
