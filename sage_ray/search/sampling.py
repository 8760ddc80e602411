"""What a trial's configuration is drawn by: a sampler of Optuna's under a key, whole configurations at a time.

A draw is keyed by (seed of the study, number of the trial): whatever happened to the driver before, trial n is drawn as
it would have been. Random, quasi-random and grid draws need nothing else; a sampler that learns sees in addition the
trials that have ended by then, which with one trial at a time are the same whatever happened. A configuration is drawn
as a whole and looked at before it is a trial: what violates a constraint, or what the config refuses, is drawn anew,
and so is a configuration of a discrete space that was tried before, as long as there are others.
"""

from __future__ import annotations

import hashlib
import logging
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from sage_ray.config import ExperimentConfig, stable_hash
from sage_ray.errors import UserError
from sage_ray.study.dimension import Dimension, Sample
from sage_ray.study.space import Space
from sage_ray.study.spec import StudySpec

DEFAULT_STARTUP = 10
LEARNED_TRIES = 10
"""Draws by a sampler that learns before others are looked for: it proposes what it likes best again and again."""
TRIES = 2000
"""Draws without any possible configuration, after which the constraints are said to leave none."""
LEARNING = ("tpe", "gp", "nsga2")
"""Samplers that look at scores."""
POINT = "point"
"""User attribute of a trial that was known beforehand: its place among the study's fixed configurations."""

logger = logging.getLogger(__name__)
optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def drawn_blindly(spec: StudySpec, number: int) -> bool:
    """Whether results have no say in the configuration of trial `number`: it is fixed, or its sampler never looks."""
    return number < len(spec.fixed) or spec.sampler.name not in LEARNING


class KeyedSampler(BaseSampler):
    """Draws whole configurations of a study, each under its own key.

    Args:
        spec: the study.
        earlier: ended trials of earlier studies that the sampler knows beside the study's own.
    """

    def __init__(self, spec: StudySpec, earlier: Sequence[FrozenTrial] = ()) -> None:
        self._spec, self._earlier = spec, tuple(earlier)
        self._free = {d.path: d for d in spec.dimensions if d.kind != "tie"}
        self._distributions = {path: distribution(d) for path, d in self._free.items()}
        self._discrete = all(d.kind != "float" or d.step is not None for d in self._free.values())
        self._seen: dict[int, str] = {}
        self._built: tuple[dict[str, Any], tuple[ExperimentConfig, ...]] = ({}, ())

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All dimensions: which of them a configuration has is decided while it is drawn."""
        return {} if POINT in trial.user_attrs else dict(self._distributions)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The stored values of the configuration of trial `trial.number`.

        Raises:
            UserError: no possible configuration was found.
        """
        if POINT in trial.user_attrs:
            return {}
        return stored_params(self._spec, self._possible(study, trial))

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A random value under the trial's key, for a point that leaves a dimension open."""
        random_draw = optuna.samplers.RandomSampler(seed=key(self._spec.sampler.seed, trial.number))
        return random_draw.sample_independent(study, trial, param_name, param_distribution)

    def _possible(self, study: Study, trial: FrozenTrial) -> Sample:
        """The first draw of the trial that is new and possible; one that was tried, if all possible ones were."""
        tried = self._tried(study, trial)
        repeat: Sample | None = None
        for sample in self._draws(study, trial):
            again = stable_hash(sample.drawn) in tried
            if (again and repeat is not None) or not self._is_possible(trial.number, sample):
                continue
            if not again:
                return sample
            repeat = sample
        if repeat is None:
            mend = "loosen the constraints or widen the ranges"
            raise UserError(f"no possible configuration in {TRIES} draws", f"study {self._spec.name}", mend)
        return repeat

    def _is_possible(self, number: int, sample: Sample) -> bool:
        """Whether a draw keeps the constraints and the config takes it; what is built for it is kept for `configs`."""
        if any(amount > 0 for amount in self._spec.missed_constraints(sample.values).values()):
            return False
        try:
            self._built = (sample.values, self._spec.run_configs(number, sample.values))
        except UserError:
            return False
        return True

    def configs(self, number: int, sample: Sample) -> tuple[ExperimentConfig, ...]:
        """The config of each run of a trial: those that were built to look at its draw, where they are these.

        Raises:
            UserError: the values cannot be combined.
        """
        values, configs = self._built
        if configs and values == sample.values and len(configs) == len(self._spec.run_grid(number)):
            self._built = ({}, ())
            return configs
        return self._spec.run_configs(number, sample.values)

    def _tried(self, study: Study, trial: FrozenTrial) -> set[str]:
        """Configurations of earlier studies, and of trials before this one where a space is discrete.

        Without steps only the former come again: under the same sampler and seed, trial n is drawn as theirs was.
        """
        if not self._discrete:
            return set(map(self._hash, self._earlier))
        for before in study.get_trials(deepcopy=False):
            if before.number < trial.number and before.number not in self._seen:
                self._seen[before.number] = self._hash(before)
        return {*map(self._hash, self._earlier), *self._seen.values()}

    def _hash(self, trial: FrozenTrial) -> str:
        return stable_hash({p: self._free[p].decode(value) for p, value in trial.params.items() if p in self._free})

    def _draws(self, study: Study, trial: FrozenTrial) -> Iterator[Sample]:
        """Candidates for the trial: by the study's sampler, at random, each cell of a discrete space, and at random."""
        part = self._spec.sampler
        inner = make_inner(self._spec, trial.number)
        view, seen = _with_earlier(study, trial, self._earlier) if self._earlier else (study, trial)
        for _ in range(LEARNED_TRIES if part.name in LEARNING else 1):
            yield self._draw(inner, view, seen)
        for attempt in range(1, TRIES):
            if attempt == LEARNED_TRIES and self._cells:
                cells = list(self._cells)
                random.Random(key(part.seed, trial.number)).shuffle(cells)
                yield from cells
                return
            yield self._draw(optuna.samplers.RandomSampler(seed=key(part.seed, trial.number, attempt)), study, trial)

    @cached_property
    def _cells(self) -> tuple[Sample, ...]:
        """All configurations of a discrete space; none if it is not discrete, or has too many to list."""
        if not self._discrete or not isinstance(self._spec, Space):
            return ()
        try:
            return tuple(self._spec.cells())
        except UserError:
            return ()

    def _draw(self, inner: BaseSampler, study: Study, trial: FrozenTrial) -> Sample:
        """One configuration by `inner`: what it draws together, and one by one what it does not."""
        together = inner.infer_relative_search_space(study, trial)
        known = {path: d for path, d in together.items() if self._distributions.get(path) == d}
        values = inner.sample_relative(study, trial, known) if known else {}

        def choose(dimension: Dimension) -> Any:
            path = dimension.path
            if path in values:
                return dimension.decode(values[path])
            return dimension.decode(inner.sample_independent(study, trial, path, self._distributions[path]))

        return self._spec.sample(choose)


class _Sobol(optuna.samplers.QMCSampler):
    """A scrambled Sobol sequence whose point is chosen by the trial's number, not by a counter in the storage."""

    def __init__(self, seed: int, position: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            super().__init__(scramble=True, seed=seed, warn_independent_sampling=False)
        self._position = position

    def _find_sample_id(self, study: Study, search_space: Mapping[str, BaseDistribution]) -> int:
        return self._position


class _WholeSobol(BaseSampler):
    """Numbers of a configuration from a Sobol sequence, choices at random under the same key."""

    def __init__(self, spec: StudySpec, number: int) -> None:
        self._numbers = {d.path: distribution(d) for d in spec.dimensions if d.kind in ("float", "int")}
        position = max(number - len(spec.fixed), 0)
        self._sobol = _Sobol(spec.sampler.seed, position)
        self._random = optuna.samplers.RandomSampler(seed=key(spec.sampler.seed, number))

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(self._numbers)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._sobol.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._random.sample_independent(study, trial, param_name, param_distribution)


def make_inner(spec: StudySpec, number: int) -> BaseSampler:
    """Optuna's sampler of the study, fresh and under the key of trial `number`."""
    part = spec.sampler
    seed = key(part.seed, number)
    startup = part.startup or DEFAULT_STARTUP
    match part.name:
        case "tpe":
            return optuna.samplers.TPESampler(
                seed=seed,
                multivariate=True,
                group=any(dimension.when for dimension in spec.dimensions),
                constant_liar=spec.file.concurrency != 1,
                n_startup_trials=startup,
            )
        case "gp":
            return optuna.samplers.GPSampler(seed=seed, warn_independent_sampling=False, n_startup_trials=startup)
        case "qmc":
            return _WholeSobol(spec, number)
        case "nsga2":
            return optuna.samplers.NSGAIISampler(seed=seed)
    return optuna.samplers.RandomSampler(seed=seed)


def key(seed: int, number: int, attempt: int = 0) -> int:
    """A seed of 32 bits for draw `attempt` of trial `number` in a study of that seed."""
    text = f"{seed}/{number}/{attempt}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def distribution(dimension: Dimension) -> BaseDistribution:
    """Optuna's distribution of a free dimension."""
    if dimension.kind == "categorical":
        return CategoricalDistribution([dimension.encode(choice) for choice in dimension.choices])
    if dimension.kind == "int":
        step = 1 if dimension.log else int(dimension.step or 1)
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log, step=step)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log, step=dimension.step)


def directions_of(spec: StudySpec) -> list[StudyDirection]:
    """Optuna's direction of each objective."""
    return [StudyDirection.MAXIMIZE if part.maximize else StudyDirection.MINIMIZE for part in spec.objectives]


def simulate(spec: StudySpec, count: int, earlier: Sequence[FrozenTrial] = ()) -> list[Sample]:
    """`count` configurations as the study may draw them: fixed ones first, then draws that know no scores.

    Exact for a grid, for points, and for random and qmc; for samplers that learn it is a draw from the prior with the
    same seed.

    Args:
        spec: the study.
        count: of configurations.
        earlier: ended trials of earlier studies, which are not drawn again.

    Raises:
        UserError: no possible configuration was found.
    """
    fixed = list(spec.fixed[:count])
    if len(fixed) == count:
        return fixed
    prior = spec.drawn_at_random() if isinstance(spec, Space) and spec.sampler.name in LEARNING else spec
    study = optuna.create_study(sampler=KeyedSampler(prior, earlier), directions=directions_of(prior))
    for index, sample in enumerate(fixed):
        queue(study, sample, index, prior)
    samples = []
    for _ in range(count):
        trial = study.ask()
        samples.append(draw_sample(trial, prior))
        study.tell(trial, [0.0] * len(study.directions))
    return samples


def queue(study: Study, sample: Sample, index: int, spec: StudySpec) -> None:
    """Queue the fixed configuration of a place as the next trial."""
    study.enqueue_trial(stored_params(spec, sample), user_attrs={POINT: index})


def stored_params(spec: StudySpec, sample: Sample) -> dict[str, Any]:
    """A configuration as Optuna stores it: the free dimensions that it lies in, choices encoded."""
    free = [d for d in spec.dimensions if d.kind != "tie" and d.path in sample.drawn]
    return {d.path: d.encode(sample.drawn[d.path]) for d in free}


def draw_sample(trial: Trial, spec: StudySpec) -> Sample:
    """The configuration of a trial: the fixed one that it was queued for, or one that is drawn."""
    index = trial.user_attrs.get(POINT)
    if index is None:
        return spec.sample(lambda dimension: _suggest(trial, dimension))
    sample: Sample = spec.fixed[index]
    for dimension in spec.dimensions:
        if dimension.path in sample.drawn and dimension.kind != "tie":
            _suggest(trial, dimension)
    return sample


def _suggest(trial: Trial, dimension: Dimension) -> Any:
    match distribution(dimension):
        case CategoricalDistribution() as choices:
            return dimension.decode(trial.suggest_categorical(dimension.path, choices.choices))
        case IntDistribution() as whole:
            return trial.suggest_int(dimension.path, whole.low, whole.high, step=whole.step, log=whole.log)
        case FloatDistribution() as real:
            return trial.suggest_float(dimension.path, real.low, real.high, step=real.step, log=real.log)
    raise AssertionError(f"{dimension.path} has no distribution")


def _with_earlier(study: Study, trial: FrozenTrial, earlier: Sequence[FrozenTrial]) -> tuple[Study, FrozenTrial]:
    """The study as a sampler sees it that knows the trials of earlier studies too, a copy in memory; and its trial."""
    view = optuna.create_study(directions=study.directions)
    own = [known for known in study.get_trials(deepcopy=False) if known.state != TrialState.WAITING]
    view.add_trials([*earlier, *own])
    position = next(place for place, known in enumerate(own) if known.number == trial.number)
    return view, view.get_trials(deepcopy=False)[len(earlier) + position]
