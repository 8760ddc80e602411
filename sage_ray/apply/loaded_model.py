"""The model that a user names, ready for use: on the best device of this machine, in full precision."""

from __future__ import annotations

from pathlib import Path

import torch

from sage_ray.errors import UserError
from sage_ray.imaging.model import Model
from sage_ray.imaging.seed_votes import SeedVotes, load_seed_votes
from sage_ray.record.home import Home
from sage_ray.record.model_reference import ModelRef, resolve_model
from sage_ray.record.run_folder import RunFolder
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
    return ref, ref.load().to(_device())


def load_votes_for_use(model: str | Path, home: Home) -> tuple[ModelRef, SeedVotes]:
    """Where a model comes from, and the networks of all its seeds on the device that they are used on.

    Args:
        model: id or folder of a final training, or `models:/` URI.
        home: where runs and the registry are looked up.

    Raises:
        UserError: no such model, one of a single seed, or pickled or damaged weights.
    """
    ref = resolve_model(model, home)
    if ref.kind == "run":
        parent = RunFolder.open(home.runs, str(ref.run_id)).read().parent
        whole = parent if parent in home.final_ids() else None
        mend = "leave --seeds out, or name a model that `sage-ray final` made of several seeds"
        if whole is not None:
            mend = f"give {whole} or its models:/NAME@ALIAS, which hold all seeds"
        raise UserError("run of one seed has nobody to vote", ref.text, mend)
    return ref, load_seed_votes(ref.folder, ref.text).to(_device())


def _device() -> torch.device:
    device = choose_device("auto")
    use_precision("fp32", device)
    return device
