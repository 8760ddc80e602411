"""The model that a user names, ready for use: on the best device of this machine, in full precision."""

from __future__ import annotations

from pathlib import Path

from sage_ray.imaging.model import Model
from sage_ray.record.home import Home
from sage_ray.record.model_reference import ModelRef, resolve_model
from sage_ray.training.context import choose_device
from sage_ray.training.precision import use_precision


def load_for_use(model: str | Path, home: Home) -> tuple[ModelRef, Model]:
    """Where a model comes from, and its networks on the device that they are used on.

    Args:
        model: run id, folder or `models:/` URI.
        home: where runs and the registry are looked up.

    Raises:
        UserError: no such model, or pickled or damaged weights.
    """
    ref = resolve_model(model, home)
    device = choose_device("auto")
    use_precision("fp32", device)
    return ref, ref.load().to(device)
