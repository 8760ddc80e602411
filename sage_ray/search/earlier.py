"""What a new study takes from earlier ones: their trials into its sampler, their best as its first points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from optuna.trial import FrozenTrial, TrialState, create_trial

from sage_ray.config import ExperimentConfig, flatten, stable_hash
from sage_ray.errors import UserError
from sage_ray.record.home import Home
from sage_ray.search.sampling import distribution, stored_params
from sage_ray.search.storage import DIVERGED, TrialRow, is_divergence
from sage_ray.search.study_folder import StudyFolder
from sage_ray.search.study_status import study_rows
from sage_ray.study.dimension import Sample
from sage_ray.study.space import Space
from sage_ray.study.spec import StudySpec

BEST = 3
"""Most configurations of each earlier study that are offered as points."""


def begun_from(spec: StudySpec, names: Sequence[str], home: Home, fingerprint: str) -> StudySpec:
    """A new study with what it takes from earlier ones, named here or under `from` in its file.

    Raises:
        UserError: an ablation, or as `with_earlier`.
    """
    if not isinstance(spec, Space):
        if names:
            mend = "it shares stages with earlier studies anyway; leave --from out"
            raise UserError("an ablation draws nothing", f"--from {names[0]}", mend)
        return spec
    wanted = tuple(dict.fromkeys(names or spec.file.earlier))
    return with_earlier(spec, wanted, home, fingerprint) if wanted else spec


def with_earlier(space: Space, names: Sequence[str], home: Home, fingerprint: str) -> Space:
    """The space of a new study that knows the trials of earlier ones, their best among its points.

    Args:
        space: of the new study.
        names: of studies of this home.
        home: where they are.
        fingerprint: of the new study's data.

    Raises:
        UserError: no such study, or its scores cannot be compared with those of the new one.
    """
    points = list(space.file.points)
    offered = {stable_hash(sample.params) for sample in space.fixed}
    for name in names:
        known = _fitting(space, name, home, fingerprint)
        ranked = sorted(
            (pair for pair in known if pair[0].state == "COMPLETE"),
            key=lambda pair: float(pair[0].value or 0.0),
            reverse=space.objective.maximize,
        )
        for _, sample in ranked[:BEST]:
            if stable_hash(sample.params) not in offered:
                offered.add(stable_hash(sample.params))
                free = [d.path for d in space.dimensions if d.kind != "tie" and d.path in sample.drawn]
                points.append({path: sample.drawn[path] for path in free})
    if space.file.trials is not None:
        points = points[: max(space.file.trials, len(space.file.points))]
    file = space.file.model_copy(update={"points": tuple(points), "earlier": tuple(names)})
    return replace(space, file=file)


def earlier_trials(space: StudySpec, home: Home, fingerprint: str, say: Callable[[str], None]) -> list[FrozenTrial]:
    """Trials of the studies that a space names, as its sampler shall know them; a study that is gone is said."""
    if not isinstance(space, Space):
        return []
    found: list[FrozenTrial] = []
    for name in space.file.earlier:
        try:
            fitting = _fitting(space, name, home, fingerprint)
        except UserError as error:
            say(f"warning: the sampler does not know the trials of {name} ({error})")
            continue
        found += [_frozen(space, row, sample) for row, sample in fitting]
        say(f"the sampler knows {len(fitting)} trials of {name}")
    return found


def _fitting(space: Space, name: str, home: Home, fingerprint: str) -> list[tuple[TrialRow, Sample]]:
    """Ended trials of a study that are configurations of the space, with what they are there."""
    folder = StudyFolder.open(home, name)
    spec = folder.spec()
    judged = [(part.metric, part.reduce, part.direction) for part in space.objectives]
    theirs = [(part.metric, part.reduce, part.direction) for part in spec.objectives]
    if theirs != judged:
        what = f"study {name} is judged by {_told(theirs)}, the new one by {_told(judged)}"
        raise UserError(what, f"--from {name}", "set the same objective")
    if folder.meta()["data_fingerprint"] != fingerprint:
        raise UserError(f"study {name} is on other data", f"--from {name}", "take a study on the same images")
    found = []
    for row in study_rows(folder, spec):
        if row.values is None or row.state == "RUNNING" or (row.state == "FAIL" and not is_divergence(row.error or "")):
            continue
        sample = _sample(space, spec.config(row.values))
        if sample is not None:
            found.append((row, sample))
    return found


def _told(objectives: Sequence[tuple[str, str, str | None]]) -> str:
    return " and ".join(f"{metric} ({reduce}, {direction})" for metric, reduce, direction in objectives)


def _sample(space: Space, config: ExperimentConfig) -> Sample | None:
    """A config as a configuration of the space; None if it differs from the base in what is no dimension."""
    sample = space.sample(lambda dimension: config.get(dimension.path))
    if any(d.path in sample.params and d.path not in sample.drawn for d in space.dimensions if d.kind != "tie"):
        return None
    mine, wanted = (flatten(c.identity()) for c in (config, space.config(sample.values)))
    left_out = {"seed", "data.split.fold"}
    differing = {path for path in {**mine, **wanted} if mine.get(path) != wanted.get(path)} - left_out
    return None if differing else sample


def _frozen(space: Space, row: TrialRow, sample: Sample) -> FrozenTrial:
    stored = stored_params(space, sample)
    constraints = space.missed_constraints(sample.values)
    diverged = row.state == "FAIL"
    return create_trial(
        state=TrialState.PRUNED if diverged else TrialState[row.state],
        values=list(row.objectives) or None,
        params=stored,
        distributions={d.path: distribution(d) for d in space.dimensions if d.path in stored},
        intermediate_values={} if diverged else dict(row.reports),
        constraints={**constraints, **({DIVERGED: 1.0} if diverged else {})} or None,
    )
