"""Which stages the work of a home needs: what is unfinished goes on from them, what is finished could be extended."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sage_ray.config import ExperimentConfig
from sage_ray.errors import NonFiniteLoss, UserError
from sage_ray.object_store import store_place
from sage_ray.record.home import Home
from sage_ray.record.model_reference import located_pairs
from sage_ray.record.run_folder import RunFolder
from sage_ray.record.run_record import RunRecord
from sage_ray.search.planned_runs import StudyData
from sage_ray.search.study_budgets import MAX_KNOWN
from sage_ray.search.study_folder import StudyFolder
from sage_ray.search.study_status import status
from sage_ray.stages.keys import stage_keys
from sage_ray.stages.made_pairs import WHOLE
from sage_ray.stages.pair_keys import source_of
from sage_ray.stages.pair_stages import ends_of
from sage_ray.stages.render_keys import rendered_pairs_key
from sage_ray.stages.store import StageStore
from sage_ray.training.context import available_cpus, numerics


@dataclass
class StageNeed:
    """Who needs a stage.

    `going_on` and `finished` hold a name for each epoch at which work ends that is unfinished or finished. `outdated`
    is true if this release would give the stage of the finished work another key.
    """

    going_on: dict[int, str] = field(default_factory=dict)
    finished: dict[int, str] = field(default_factory=dict)
    outdated: bool = False


@dataclass
class Needs:
    """What a home needs of one stage store.

    Attributes:
        stages: by key.
        unclear: work whose stages cannot be told, with the reason: no stage may then be taken for needed by nobody.
        elsewhere: other stage stores that work of this home names.
        unfinished: ids of the runs that may go on.
        checkpoints: what unfinished work starts phase 2 from (`pretrain.checkpoint`) or makes pairs by
            (`data.extra_pairs`), each with a name of that work.
    """

    stages: dict[str, StageNeed] = field(default_factory=dict)
    unclear: list[str] = field(default_factory=list)
    elsewhere: set[str] = field(default_factory=set)
    unfinished: set[str] = field(default_factory=set)
    checkpoints: dict[str, str] = field(default_factory=dict)

    def add(self, key: str, epochs: int, who: str, *, finished: bool) -> StageNeed:
        """Note that the stage `key` of `who` ends at `epochs`."""
        need = self.stages.setdefault(key, StageNeed())
        (need.finished if finished else need.going_on).setdefault(epochs, who)
        return need


def needs_of(home: Home, store: StageStore, *, but: Collection[str] = (), keys: Collection[str] | None = None) -> Needs:
    """What the runs and studies of a home need of a store; changes nothing.

    Args:
        home: whose work is asked.
        store: where the stages are.
        but: studies and runs that do not count.
        keys: the only stages that are asked for; finished runs that name none of them are then passed over quickly.

    A run needs its stages until it is finished: while it is running or interrupted, and when it failed of something
    that a repetition may mend, or was stopped outside a study. An open study needs the stages of all its runs and those
    that its known trials will begin with. What is finished needs nothing for itself; the ends of its stages would serve
    an extension. A registered version needs no stage: its package lies in MLflow's artifacts.
    """
    needs = Needs()
    open_studies = set()
    for name in home.study_names():
        if name in but:
            continue
        try:
            if status(name, home).state != "finished" or StudyFolder(home, name).driver_alive():
                open_studies.add(name)
                _add_study(needs, home, store, name)
        except UserError as error:
            open_studies.add(name)
            needs.unclear.append(f"study {name}: {error}")
    for run_id in home.run_ids():
        folder = RunFolder(home.runs / run_id)
        if run_id in but:
            continue
        try:
            record = folder.read()
            named = {*record.stage_keys.values(), *record.pair_stages.values()}
            if keys is not None and record.stage_keys and not named & set(keys):
                continue
            config = folder.config()
        except UserError as error:
            needs.unclear.append(f"run {run_id}: {error}")
            continue
        if _here(config, home, store, needs):
            _add_run(needs, store, folder, record, config, open_studies, home)
    return needs


def _add_study(needs: Needs, home: Home, store: StageStore, name: str) -> None:
    """The stages of configurations that an open study knows beforehand, whoever computed them."""
    spec = StudyFolder(home, name).spec()
    if not _here(spec.base, home, store, needs):
        return
    data = StudyData(home)
    values = [{}, *(sample.values for sample in spec.fixed[:MAX_KNOWN])]
    for config in (spec.config(v, seed, fold) for v in values for seed, fold in spec.seeds_and_folds()):
        for model in _models_of(config):
            needs.checkpoints.setdefault(model, f"study {name}")
        for phase, key in data.keys(config).items():
            needs.add(key, config.epochs_of(phase), f"study {name}", finished=False)
            if phase == "render":
                needs.add(rendered_pairs_key(config, key), WHOLE, f"study {name}", finished=False)
        for key, end in ends_of(config, data.pair_stages(config).keys()).values():
            needs.add(key, end, f"study {name}", finished=False)


def _add_run(
    needs: Needs,
    store: StageStore,
    folder: RunFolder,
    record: RunRecord,
    config: ExperimentConfig,
    open_studies: set[str],
    home: Home,
) -> None:
    unfinished = folder.alive() or _may_go_on(record)
    if unfinished:
        needs.unfinished.add(record.run_id)
        for model in _models_of(config):
            needs.checkpoints.setdefault(model, f"run {record.run_id}")
    keys = record.stage_keys
    try:
        now = _keys_now(record, located_pairs(config, home))
    except (OSError, UserError):  # its checkpoint, pairs or data are gone
        now = {}
    if not keys and record.epoch:
        # A record of the first release, which noted the keys at the end of a run.
        keys = now
        if not any(store.epochs(key) for key in keys.values()):
            needs.unclear.append(f"run {record.run_id}: its record names no stages; resume it, or remove its folder")
    going_on = unfinished or record.study in open_studies
    for phase, key in keys.items():
        if not going_on and not record.finished:  # pruned or diverged
            needs.stages.setdefault(key, StageNeed())
            continue
        need = needs.add(key, config.epochs_of(phase), f"run {record.run_id}", finished=not going_on)
        if phase == "render":
            needs.add(rendered_pairs_key(config, key), WHOLE, f"run {record.run_id}", finished=not going_on)
        need.outdated |= now.get(phase, key) != key
    for key, end in ends_of(config, record.pair_stages).values():
        if going_on or record.finished:
            needs.add(key, end, f"run {record.run_id}", finished=not going_on)
        else:
            needs.stages.setdefault(key, StageNeed())


def _models_of(config: ExperimentConfig) -> list[str]:
    """The models that a run of the config begins with."""
    source = source_of(config)
    models = [config.pretrain.checkpoint, source.name if source and source.kind in ("place", "model") else None]
    return [model for model in models if model is not None]


def _may_go_on(record: RunRecord) -> bool:
    """Whether a run that nobody computes may be taken up again. What diverged would diverge again."""
    if record.state == "FAIL":
        return not NonFiniteLoss.is_told_by(record.error)
    if record.state == "PRUNED":
        return record.study is None or record.parent != record.study  # by itself, or of a final training
    return record.state in ("RUNNING", "INTERRUPTED")


def _keys_now(record: RunRecord, config: ExperimentConfig) -> dict[str, str]:
    """The keys that this release gives the stages of a run on the same data and numerics."""
    if record.data_fingerprint is None or record.split_id is None:
        return {}
    return stage_keys(config, record.data_fingerprint, record.split_id, record.numerics or _numerics_here(config))


def _numerics_here(config: ExperimentConfig) -> dict[str, Any]:
    """The numerics of a run on this machine, for records of the first release, which do not tell before the end."""
    runtime = config.runtime
    name = runtime.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    numbers = numerics(runtime, torch.device(name), runtime.workers)
    return numbers | ({"threads": runtime.threads or available_cpus()} if name == "cpu" else {})


def _here(config: ExperimentConfig, home: Home, store: StageStore, needs: Needs) -> bool:
    """Whether a config keeps its stages in `store`; another store is noted."""
    named = config.runtime.stage_store
    try:
        place = store_place(named or home.stage_store)
    except UserError as error:
        needs.unclear.append(str(error))
        return False
    if place == store_place(store.root):
        return True
    if "://" not in place and not Path(place).is_dir():
        needs.unclear.append(f"stage store {named} is gone, which work of this home names: was it moved?")
    else:
        needs.elsewhere.add(named if named and "://" in place else place)
    return False
