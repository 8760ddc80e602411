"""What a trial's configuration is drawn by: the sampler of a study, and draws before it runs."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import optuna
from optuna.trial import Trial

from sage_ray.errors import UserError
from sage_ray.study.dimension import Dimension, Sample
from sage_ray.study.spec import StudySpec

DEFAULT_STARTUP = 10

logger = logging.getLogger(__name__)
optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def make_sampler(spec: StudySpec, done: int) -> optuna.samplers.BaseSampler:
    """The study's sampler; its seed moves with the trials done, so that a restart does not repeat its draws."""
    part = spec.sampler
    seed = part.seed + done
    startup = part.startup or DEFAULT_STARTUP
    match part.name:
        case "tpe":
            conditional = any(dimension.when for dimension in spec.dimensions)
            return optuna.samplers.TPESampler(
                seed=seed,
                multivariate=True,
                group=conditional,
                constant_liar=spec.file.concurrency != 1,
                n_startup_trials=startup,
            )
        case "gp":
            return optuna.samplers.GPSampler(seed=seed, warn_independent_sampling=False, n_startup_trials=startup)
        case "qmc":
            # The sequence goes on by itself: its position is the number of trials in the storage.
            return optuna.samplers.QMCSampler(scramble=True, seed=part.seed, warn_independent_sampling=False)
        case "nsga2":
            return optuna.samplers.NSGAIISampler(seed=seed)
    return optuna.samplers.RandomSampler(seed=seed)


def simulate(spec: StudySpec, count: int) -> list[Sample]:
    """`count` configurations as the study may draw them: fixed ones first, then draws that know no scores.

    Exact for a grid and for points, and for random and qmc in a study of one attempt; for samplers that learn it is a
    draw from the prior with the same seed.
    """
    fixed = list(spec.fixed[:count])
    learns = spec.sampler.name in ("tpe", "gp", "nsga2")
    sampler = optuna.samplers.RandomSampler(seed=spec.sampler.seed) if learns else make_sampler(spec, 0)
    study = optuna.create_study(sampler=sampler)
    for _ in range(10 * count):
        if len(fixed) >= count:
            break
        trial = study.ask()
        try:
            sample = draw_sample(trial, spec)
            spec.config(sample.values)
            fixed.append(sample)
        except UserError:
            logger.debug("a draw of the simulation cannot be combined")
        study.tell(trial, 0.0)
    return fixed


def draw_sample(trial: Trial, spec: StudySpec) -> Sample:
    """The configuration of a trial: the fixed one that it was queued for, or one that Optuna suggests."""
    index = trial.user_attrs.get("point")
    if index is None:
        return spec.sample(lambda dimension: _suggest(trial, dimension))
    sample: Sample = spec.fixed[index]
    for dimension in spec.dimensions:
        if dimension.path in sample.drawn and dimension.kind != "tie":
            _suggest(trial, dimension)
    return sample


def _suggest(trial: Trial, dimension: Dimension) -> Any:
    path = dimension.path
    if dimension.kind == "categorical":
        choices = [dimension.encode(choice) for choice in dimension.choices]
        return dimension.decode(trial.suggest_categorical(path, choices))
    if dimension.kind == "int":
        step = int(dimension.step or 1)
        return trial.suggest_int(path, int(dimension.low), int(dimension.high), step=step, log=dimension.log)
    return trial.suggest_float(path, dimension.low, dimension.high, step=dimension.step, log=dimension.log)
