"""Keys of pairs that a stage makes for `data.extra_pairs`, and the config of the run that their maker comes from."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sage_ray.config import ExperimentConfig, build_config, parse_set, preset_tree, set_path, stable_hash
from sage_ray.errors import UserError
from sage_ray.files import read_json
from sage_ray.pair_source import PairSource
from sage_ray.stages.render_keys import rendered_pairs_key

VERSION = 1
"""Raised when the same maker makes other pairs."""
WHOLE = 1
"""The epoch of a stage of pairs when all of them are there."""
RENDER = "render"
"""The stage of a run that ends in a set of pairs itself; any other run makes pairs by its generator."""
MODEL_FILE = "model.json"

KeysOf = Callable[[ExperimentConfig], Mapping[str, str]]
"""`stage_keys` on the data, split and numerics of a run."""


def source_of(config: ExperimentConfig) -> PairSource | None:
    """The source of a run's extra pairs; None if it trains on none."""
    return PairSource.parse(config.data.extra_pairs) if config.pretrain.synthetic_share else None


def origin_config(config: ExperimentConfig) -> ExperimentConfig | None:
    """The config of the run that trains the maker of a run's extra pairs; None if nothing is trained for them.

    It is the preset that `data.extra_pairs` names, with its settings, on the run's data, split, seed and runtime.

    Raises:
        UserError: no such preset or setting, values that do not go together, or a preset that makes no images.
    """
    source = source_of(config)
    if source is None or source.kind != "preset":
        return None
    data = config.data.model_copy(update={"extra_pairs": ""})
    return _origin(source, data.model_dump_json(), config.seed, config.runtime.model_dump_json())


def pairs_key(config: ExperimentConfig, keys_of: KeysOf, masks: object, numerics: Mapping[str, Any]) -> str | None:
    """16 hex digits of what a run's extra pairs are; None if it trains on none.

    Of pairs that a stage makes it is the key under which they lie in the stage store.

    Args:
        config: the run.
        keys_of: stage keys of another config on the run's data and numerics.
        masks: identifies the masks of the run's training part.
        numerics: of the run.

    Raises:
        UserError: no such folder or preset, or what lies there is no source of pairs.
    """
    source = source_of(config)
    if source is None:
        return None
    from sage_ray.data.extra_folder import drawn_content, folder_content  # reads pictures: only who has pairs waits

    data = config.data
    if source.kind == "stage":
        return source.name
    if source.kind == "drawn":
        return _key({"drawn": drawn_content(source.name, data)})
    if source.kind == "preset":
        origin = origin_config(config)
        assert origin is not None
        return _key_of_preset(source, origin, keys_of(origin))
    if source.kind == "model" or (Path(source.name) / MODEL_FILE).is_file():
        cleaning = [data.image_size, data.crop_bottom, data.mask_erosion, data.min_object_pixels]
        where = {name: numerics[name] for name in ("device", "precision") if name in numerics}
        made = {"masks": masks, "cleaning": cleaning, "pairs": source.pairs, **where}
        return _key({"weights": generator_sha(Path(source.name)), **made})
    if Path(source.name).expanduser().is_dir():
        return _key({"folder": folder_content(source.name, data)})
    # A run of a home, or a registered version, that was not looked up yet.
    return _key({"named": str(source)})


def generator_sha(folder: Path) -> str:
    """sha256 of a model's generator.

    Raises:
        UserError: no model in the folder, or one without a generator.
    """
    where = f"data.extra_pairs={folder}"
    try:
        told = read_json(folder / MODEL_FILE)["sha256"]
    except (OSError, ValueError, TypeError, KeyError):
        raise UserError("no model in folder", where, "give a run id, a model folder or models:/NAME@ALIAS") from None
    if "generator.safetensors" not in told:
        raise UserError("model without generator", where, "name one that was trained with adversarial.epochs above 0")
    return str(told["generator.safetensors"])


def _key_of_preset(source: PairSource, origin: ExperimentConfig, keys: Mapping[str, str]) -> str:
    if RENDER in keys:
        return rendered_pairs_key(origin, keys[RENDER])
    if not origin.adversarial.num_epochs:
        mend = "name one that trains a generator (adversarial.epochs above 0) or a renderer, such as tiny_sage_gan"
        raise UserError("a preset without generator or renderer", f"data.extra_pairs={source}", mend)
    ends = {name: origin.epochs_of(name) for name in keys}
    chosen = [origin.evaluation.select, origin.data.image_size, source.pairs]
    return _key({"origin": dict(keys), "ends": ends, "chosen": chosen})


def _key(what: Mapping[str, Any]) -> str:
    return stable_hash({"stage": "pairs", "version": VERSION, **what})


@functools.lru_cache(maxsize=256)
def _origin(source: PairSource, data_json: str, seed: int, runtime_json: str) -> ExperimentConfig:
    where = f"data.extra_pairs={source}"
    data = json.loads(data_json)
    try:
        values, _ = preset_tree(source.name)
        for path, value in map(parse_set, source.sets):
            set_path(values, path, value, where)
            if path.startswith("data.augment."):
                data["augment"][path.rsplit(".", 1)[1]] = value
    except UserError as error:
        raise UserError(error.what, where if error.where == where else f"{where}, {error.where}", error.mend) from None
    values |= {"data": data, "seed": seed, "runtime": json.loads(runtime_json)}
    pretrain, evaluation = values.setdefault("pretrain", {}), values.setdefault("evaluation", {})
    pretrain["synthetic_share"] = 0.0
    if source.pairs is not None and values.get(RENDER, {}).get("train_on_pairs"):
        values[RENDER]["pairs"] = source.pairs
    if not (data["split"]["validation"] or data["split"]["folds"]):
        # As for the run itself, nothing can be chosen without a validation part.
        pretrain["handoff"] = "last"
        if evaluation.get("select", "best") == "best":
            evaluation["select"] = "last"
    return build_config(values, where)
