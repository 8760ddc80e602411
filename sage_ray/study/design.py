"""Ablation design: a YAML file as checked arms, each a config of its own, times seeds and folds; a trial is one run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations as pairs_of
from pathlib import Path
from typing import Any

import yaml

from sage_ray.config import ExperimentConfig, flatten, read_yaml, stable_hash
from sage_ray.errors import UserError
from sage_ray.identity import identity_tree
from sage_ray.sections import RuntimeConfig
from sage_ray.study.arm import Arm as Arm
from sage_ray.study.arm import arms_as_listed, extras_of, in_arm, make_arm, own_values
from sage_ray.study.arm_budgets import budget_line, budget_values
from sage_ray.study.base_config import (
    Sets,
    absolute,
    base_config,
    check_parts,
    find_file,
    hashed_device,
    read_tree,
    with_resources,
)
from sage_ray.study.design_schema import DEFAULT_REFERENCE, DesignFile
from sage_ray.study.dimension import Sample
from sage_ray.study.factors import Fraction, combinations
from sage_ray.study.file_schema import parse_file
from sage_ray.study.space import Space, load_space
from sage_ray.study.spec import RunPlace, StudySpec

OWN_KEYS = frozenset(DesignFile.model_fields) - {"base"}
MAX_RUN_ID = 200
LAST = 1000
"""Rank of runs that can begin only when another one has ended."""


@dataclass(frozen=True, kw_only=True)
class Design(StudySpec):
    """A checked ablation design.

    Attributes:
        fraction: structure of a fractional one.
        settled: epochs of the runs, by run id, whose budget in GPU-seconds is known by now.
    """

    kind = "ablation"
    noun = "design"
    file_name = "design.yaml"
    verb = "ablate"

    file: DesignFile
    arms: tuple[Arm, ...]
    fraction: Fraction | None = None
    settled: Mapping[str, int] = field(default_factory=dict)

    def on(self, runtime: RuntimeConfig) -> Design:
        """The same design with this runtime for all its arms."""
        arms = [replace(a, config=a.config.with_sections(runtime=runtime)) for a in self.arms]
        return replace(super().on(runtime), arms=tuple(arms))

    @property
    def reference(self) -> Arm:
        """The arm that all others are compared with."""
        name = self.file.reference or DEFAULT_REFERENCE
        return next(arm for arm in self.arms if arm.name == name)

    @cached_property
    def hash(self) -> str:
        """16 hex digits over base, arms and what else makes two ablations the same."""
        left_out = {"name", "base", "arms", "factors", "generators", "max_hours", "concurrency", "test", "storage"}
        tree = identity_tree(self.file, exclude=left_out)
        arms = [[arm.name, arm.values, arm.not_run, *([arm.follows] if arm.follows else [])] for arm in self.arms]
        return stable_hash(
            {"base": self.base.identity(), "device": hashed_device(self.base, self.file), "arms": arms, **tree}
        )

    @property
    def repeats(self) -> list[tuple[int, int | None, int | None]]:
        """Seed, fold and subset of labelled images of each run of an arm; None where the study has one."""
        subsets: tuple[int | None, ...] = self.file.subsets or (None,)
        return [(seed, fold, subset) for seed, fold in self.seeds_and_folds() for subset in subsets]

    @property
    def runs_of_arm(self) -> int:
        """Number of runs of one arm: seeds times folds times subsets."""
        return len(self.repeats)

    @cached_property
    def cells(self) -> tuple[tuple[Arm, RunPlace], ...]:
        """Arm and place of every trial, in order: who computes a stage comes before those who will take it over.

        Within that, all arms of one seed come before those of the next, so that an early end leaves whole seeds.
        """
        order = []
        for rank, position, arm in self._ranked():
            for index, (seed, fold, subset) in enumerate(self.repeats):
                run_id = f"{self.name}-{arm.name}-s{seed}" + ("" if fold is None else f"-f{fold}")
                run_id += "" if subset is None else f"-u{subset}"
                if len(run_id) > MAX_RUN_ID:
                    mend = "shorten the names of study, factors and levels"
                    raise UserError("name of a run is too long", run_id, f"at most {MAX_RUN_ID} characters: {mend}")
                order.append(((rank, index, position), arm, RunPlace(run_id, seed, fold, arm.name, subset)))
        return tuple((arm, place) for _, arm, place in sorted(order, key=lambda cell: cell[0]))

    def _ranked(self) -> Iterator[tuple[int, int, Arm]]:
        """(how many leading stages an earlier arm computes, position, arm) of the arms that are trained.

        Those that wait for the run of another one come after all others.
        """
        computed: set[str] = set()
        for position, arm in enumerate(self.arms):
            if arm.not_run is None:
                rank = sum(key in computed for key in arm.chain)
                yield rank if arm.follows is None else LAST, position, arm
                computed |= set(arm.chain)

    @property
    def trials(self) -> int:
        """Number of runs: arms that are trained, times seeds, times folds."""
        return len(self.cells)

    def phase_one_like(self, arm: Arm) -> Arm | None:
        """An arm that has the same phase 1 as `arm` and epochs that are known beforehand; best the one it follows."""
        known = [a for a in self.arms if a.not_run is None and a.follows is None]
        same = [a for a in known if a.phase_one is not None and a.phase_one == arm.phase_one]
        return next((a for a in same if a.name == arm.follows), same[0] if same else None)

    @cached_property
    def fixed(self) -> tuple[Sample, ...]:
        """All runs, in the order of their trials."""
        return tuple(_sample(arm, place, self.settled.get(place.run_id)) for arm, place in self.cells)

    @property
    def untuned(self) -> ExperimentConfig:
        """The config of the reference arm."""
        return self.reference.config

    def run_grid(self, number: int) -> list[RunPlace]:
        """The one run of a trial."""
        return [self.cells[number][1]]

    def max_epochs(self, number: int | None = None) -> int:
        """Number of epochs, all stages together, of trial `number`, or the largest of any."""
        if number is not None:
            arm, place = self.cells[number]
            return self.settled.get(place.run_id, arm.epochs)
        return max(arm.epochs for arm in self.arms if arm.not_run is None)

    def to_yaml(self, base_file: str) -> str:
        """The design as YAML with `base_file` as its base."""
        tree = self.file.model_dump(mode="json", exclude_defaults=True, exclude={"name", "base", "arms", "factors"})
        if self.file.kind == "arms":
            tree["arms"] = {arm.name: _written(own_values(arm), arm.not_run) | extras_of(arm) for arm in self.arms}
        else:
            tree["factors"] = {
                factor: {name: _written(absolute(flatten(level.set)), level.not_run) for name, level in levels.items()}
                for factor, levels in self.file.factors.items()
            }
        tree = {"name": self.name, "base": {"file": base_file}, **tree}
        return yaml.safe_dump(tree, sort_keys=False, width=120)

    def facts(self) -> dict[str, Any]:
        """What study.json says of the design: its kind, reference and arms."""
        arms = [
            {"name": a.name, "not_run": a.not_run, "levels": a.levels, "values": a.values, **extras_of(a)}
            for a in self.arms
        ]
        facts = {"design": self.file.kind, "reference": self.reference.name, "test": self.file.test, "arms": arms}
        structure = {"fraction": self.fraction.lines()} if self.fraction else {}
        return super().facts() | facts | structure

    def _presets(self) -> dict[str, Any]:
        own = {name: part.preset for name, part in self.file.arms.items() if part.preset}
        return super()._presets() | ({"arms": own} if own else {})

    def not_run(self) -> dict[str, str]:
        """Arms that are declared but not trained, with the reason."""
        return {arm.name: arm.not_run for arm in self.arms if arm.not_run is not None}

    def labels(self) -> dict[str, str]:
        """What tables and figures call an arm, by its name, where the design gives a label."""
        return {arm.name: arm.label for arm in self.arms if arm.label}

    def details(self) -> list[str]:
        """Lines for `plan`: arms, and for a fraction its structure."""
        between = "; " if self.labels() else ", "  # labels have commas of their own
        trained = [arm.full_name for arm in self.arms if arm.not_run is None]
        lines = [f"{len(trained)} arms, compared with {self.reference.full_name}: {between.join(trained)}"]
        lines += [f"not run: {arm.full_name} ({arm.not_run})" for arm in self.arms if arm.not_run is not None]
        lines += [budget_line(arm.name, arm.budget, arm.config) for arm in self.arms if arm.budget and not arm.not_run]
        return lines + (self.fraction.lines() if self.fraction else [])


def load_design(path_or_name: str | Path, sets: Sets = (), *, stored: bool = False) -> Design:
    """The design in a YAML file, or a shipped one by name.

    A set whose first part is a key of the file (seeds, arms.NAME.not_run, ...) changes the file; every other one is a
    config path and changes the base, before the arms' own sets. A `stored` file is one of a study, as in `load_space`.

    Raises:
        UserError: one line for the first thing that is wrong.
    """
    path = find_file(path_or_name, "design")
    tree, pairs = read_tree(path, sets, OWN_KEYS)
    if "space" in tree:
        raise UserError("a search space, no ablation design", path, "run it with `sage-ray sweep`")
    return build_design(parse_file(DesignFile, tree, str(path)), str(path), path.parent, pairs, stored=stored)


def load_spec(path_or_name: str | Path, sets: Sets = (), *, stored: bool = False) -> Space | Design:
    """The design or the space in a file, or shipped under a name: a file with arms or factors is a design."""
    path = find_file(path_or_name, "study")
    is_design = {"arms", "factors"} & set(read_yaml(path))
    return load_design(path, sets, stored=stored) if is_design else load_space(path, sets, stored=stored)


def build_design(
    file: DesignFile, source: str, folder: Path, sets: Mapping[str, Any], *, stored: bool = False
) -> Design:
    """The checked design of a parsed file. Args: source names it in errors; folder is what base.file is relative to."""
    base = with_resources(base_config(file.base, folder, sets), file, source)
    check_parts(base, file, source)
    if file.test and base.data.split.test == 0:
        raise UserError("no locked test part", f"{source}, data.split.test=0", "set it above 0, or set test: false")
    structure = None
    if file.kind == "arms":
        arms = arms_as_listed(file, base, source, folder, sets)
    else:
        arms, structure = _crossed_arms(file, base, source)
    design = Design(file=file, base=base, source=source, arms=arms, fraction=structure)
    _check_arms(design)
    if not stored:
        _check_scores(design)
    return design


def _crossed_arms(file: DesignFile, base: ExperimentConfig, source: str) -> tuple[tuple[Arm, ...], Fraction | None]:
    _check_overlap(file, source)
    try:
        levels = {factor: list(named) for factor, named in file.factors.items()}
        rows, structure = combinations(file.kind, levels, file.generators)
    except ValueError as error:
        key = "generators" if file.generators else "factors"
        raise UserError("bad design", f"{source}, {key}", f"change the {key}: {error}") from None
    arms = []
    for row in rows:
        off_reference = [f"{factor}={level}" for factor, level in row.items() if level != levels[factor][0]]
        name = "+".join(off_reference) or file.reference or DEFAULT_REFERENCE
        parts = [file.factors[factor][level] for factor, level in row.items()]
        values: dict[str, Any] = {}
        for part in parts:
            values |= flatten(part.set)
        reason = next((part.not_run for part in parts if part.not_run), None)
        arms.append(make_arm(name, base, values, f"{source}, arm {name}", base, row, reason))
    if rows[0] != {factor: named[0] for factor, named in levels.items()}:
        mend = "drop the minus of a generator, so that the fraction holds the arm of all first levels"
        raise UserError("the reference is no arm of the fraction", f"{source}, generators", mend)
    return tuple(arms), structure


def _check_overlap(file: DesignFile, source: str) -> None:
    owner: dict[str, str] = {}
    for factor, levels in file.factors.items():
        for path in {path for level in levels.values() for path in flatten(level.set)}:
            if owner.setdefault(path, factor) != factor:
                what = f"factors {owner[path]} and {factor} both set {path}"
                raise UserError(what, f"{source}, factors", "give each setting to one factor")


def _check_scores(design: Design) -> None:
    """Raise UserError for an arm that names a score or a network that is not there."""
    from sage_ray.training.scoring import check_scores

    for arm in design.arms:
        try:
            check_scores(arm.config)
        except UserError as error:
            raise in_arm(error, _place_of(design, arm)) from None


def _place_of(design: Design, arm: Arm) -> str:
    """Where an arm stands in the file, for an error."""
    return f"{design.source}, {'arms.' if design.file.kind == 'arms' else 'arm '}{arm.name}"


def _check_arms(design: Design) -> None:
    """Raise UserError unless there are two arms to train, one the reference, no two of them the same."""
    trained = [arm for arm in design.arms if arm.not_run is None]
    if design.reference.not_run is not None:
        mend = f"name another reference, or run it ({design.reference.not_run})"
        raise UserError("the reference is not run", f"{design.source}, {design.reference.name}", mend)
    if len(trained) < 2:
        raise UserError("one arm only", design.source, f"nothing to compare {design.reference.name} with; add another")
    for arm in trained:
        try:
            arm.chain  # noqa: B018  what it names is looked at here, kept for later
        except UserError as error:
            raise in_arm(error, _place_of(design, arm)) from None
        if arm.follows is not None and design.phase_one_like(arm) is None:
            mend = "give its budget in epochs or steps, or add an arm with the same phase 1 and epochs of its own"
            where = f"{design.source}, arms.{arm.name}.budget"
            raise UserError("no run would tell what an epoch of the arm takes", where, mend)
    for first, second in pairs_of(trained, 2):
        if first.outcome == second.outcome:
            mend = "what they set has no effect on the results, or is the same: change or drop one, or mark it not_run"
            raise UserError("two arms are the same", f"{design.source}, {first.name} and {second.name}", mend)


def _sample(arm: Arm, place: RunPlace, epochs: int | None) -> Sample:
    params: dict[str, Any] = {"arm": arm.name, "seed": place.seed}
    values = {**arm.values, "seed": place.seed}
    if epochs is not None:
        values |= budget_values(arm.config, epochs)
    if place.fold is not None:
        params["fold"] = values["data.split.fold"] = place.fold
    if place.subset is not None:
        params["subset"] = values["data.split.subset"] = place.subset
    return Sample(params, values, {})


def _written(values: Mapping[str, Any], not_run: str | None) -> dict[str, Any]:
    return {"set": dict(values)} | ({"not_run": not_run} if not_run else {})
