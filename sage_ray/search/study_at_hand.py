"""Whether all that the trials of a study need beside their data is at hand, asked once before the first begins."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from sage_ray.config import ExperimentConfig
from sage_ray.errors import UserError
from sage_ray.record.home import Home
from sage_ray.runtime.at_hand import check_pairs, computes_here, needs
from sage_ray.search.planned_runs import StudyData
from sage_ray.sections import PHASES
from sage_ray.study.design import Arm, Design
from sage_ray.study.space import Space
from sage_ray.study.spec import StudySpec
from sage_ray.training.batches import steps_in_epoch


def check_study(spec: StudySpec, home: Home) -> None:
    """Raise UserError if an arm of an ablation, or every trial of a search, needs what cannot be had here.

    That is what `runtime.at_hand.needs` lists, what `data.extra_pairs` names, and images enough for each arm. Of a
    search the base is looked at, and nothing that a dimension decides on: a trial that draws what is not there fails by
    itself.
    """
    seen: set[str] = set()
    data = StudyData(home)
    if isinstance(spec, Design):
        for arm in spec.arms:
            if arm.not_run is None:
                _check_arm(arm, spec, home, data, seen)
    elif isinstance(spec, Space):
        looks = _looks(spec.base, spec, home)
        for config in spec.ends():
            looks = {name: look for name, look in looks.items() if name in _looks(config, spec, home)}
        for look in looks.values():
            look()


def _check_arm(arm: Arm, spec: StudySpec, home: Home, data: StudyData, seen: set[str]) -> None:
    try:
        _check_images(arm.config, data)
        for need, look in _looks(arm.config, spec, home).items():
            if need not in seen:
                look()
                seen.add(need)
    except UserError as error:
        key = "factors.FACTOR.LEVEL" if arm.levels else f"arms.{arm.name}"
        mend = f"{error.mend}; or say why the arm is not run: --set '{key}.not_run=REASON'"
        raise UserError(error.what, f"arm {arm.name}, {error.where}", mend) from None


def _check_images(config: ExperimentConfig, data: StudyData) -> None:
    """Raise UserError if a run would find fewer training images than it asks for."""
    images = data.images(config)
    for phase in PHASES:
        if config.phase(phase).num_epochs:
            steps_in_epoch(config.phase(phase), config.render.pairs if config.render.train_on_pairs else images.train)


def _looks(config: ExperimentConfig, spec: StudySpec, home: Home) -> dict[str, Callable[[], None]]:
    found = dict(needs(config, home, here=computes_here()))
    if config.pretrain.synthetic_share:
        for fold, folded in _folds(config, spec):
            name = f"pairs {config.data.extra_pairs} at {config.data.image_size}, fold {fold}"
            found[name] = partial(check_pairs, folded, home)
    return found


def _folds(config: ExperimentConfig, spec: StudySpec) -> Iterator[tuple[int | None, ExperimentConfig]]:
    """The config with each fold of the study, whose validation part differs."""
    for fold in dict.fromkeys(fold for _, fold in spec.seeds_and_folds()):
        yield fold, config if fold is None else config.with_values({"data.split.fold": fold})
