"""Ablation design: a YAML file as checked arms, each a config of its own, times seeds and folds; a trial is one run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations as pairs_of
from pathlib import Path
from typing import Any

import yaml

from sage_ray.config import ExperimentConfig, check_path, flatten, read_yaml, stable_hash
from sage_ray.errors import UserError
from sage_ray.identity import identity_tree
from sage_ray.sections import RuntimeConfig
from sage_ray.stages.keys import stage_keys
from sage_ray.study.base_config import (
    Sets,
    absolute,
    base_config,
    check_parts,
    find_file,
    hashed_device,
    located,
    read_tree,
    with_resources,
)
from sage_ray.study.design_schema import DEFAULT_REFERENCE, DesignFile
from sage_ray.study.dimension import Sample
from sage_ray.study.factors import Combination, Fraction, combinations
from sage_ray.study.file_schema import parse_file
from sage_ray.study.space import Space, load_space
from sage_ray.study.spec import RunPlace, StudySpec

OWN_KEYS = frozenset(DesignFile.model_fields) - {"base"}
MAX_RUN_ID = 200
NOT_IN_AN_ARM = {
    "runtime.": "arms are compared under the same numerics; set it under base.set",
    "seed": "every arm has the same seeds; list them under seeds",
}
PAIRED = ("data.path", "data.image_size", "data.crop_bottom", "data.split.")
"""What every arm must have in common, so that its scores are on the same pixels of the same images."""


@dataclass(frozen=True)
class Arm:
    """One variant of an ablation.

    Attributes:
        name: as in tables and run ids.
        config: at the base's seed and fold.
        values: where the config differs from the design's base, by path.
        levels: level of each factor; {} for a listed arm.
        not_run: why it is not trained; None if it is.
    """

    name: str
    config: ExperimentConfig
    values: dict[str, Any]
    levels: Combination
    not_run: str | None

    @property
    def epochs(self) -> int:
        """Number of epochs of both phases."""
        return self.config.pretrain.epochs + self.config.adversarial.epochs

    @cached_property
    def chain(self) -> tuple[str, ...]:
        """Keys of its stages, alike in two arms that can share the stage; they hold for one seed, fold and data set."""
        pretrain = self.config.pretrain.model_copy(update={"checkpoint": None})
        return tuple(stage_keys(self.config.with_sections(pretrain=pretrain), "", "", {}).values())

    @property
    def outcome(self) -> tuple[Any, ...]:
        """All that a run's result depends on, beside seed, fold and data: equal ones would train the same twice."""
        config = self.config
        return (self.chain, self.epochs, config.pretrain.epochs, config.pretrain.checkpoint, config.evaluation.select)


@dataclass(frozen=True, kw_only=True)
class Design(StudySpec):
    """A checked ablation design; `fraction` is the structure of a fractional one."""

    kind = "ablation"
    noun = "design"
    file_name = "design.yaml"
    verb = "ablate"

    file: DesignFile
    arms: tuple[Arm, ...]
    fraction: Fraction | None = None

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
        arms = [[arm.name, arm.values, arm.not_run] for arm in self.arms]
        return stable_hash(
            {"base": self.base.identity(), "device": hashed_device(self.base, self.file), "arms": arms, **tree}
        )

    @cached_property
    def cells(self) -> tuple[tuple[Arm, RunPlace], ...]:
        """Arm and place of every trial, in order: who computes a stage comes before those who will take it over.

        Within that, all arms of one seed come before those of the next, so that an early end leaves whole seeds.
        """
        order = []
        for rank, position, arm in self._ranked():
            for index, (seed, fold) in enumerate(self.seeds_and_folds()):
                run_id = f"{self.name}-{arm.name}-s{seed}" + ("" if fold is None else f"-f{fold}")
                if len(run_id) > MAX_RUN_ID:
                    mend = "shorten the names of study, factors and levels"
                    raise UserError("name of a run is too long", run_id, f"at most {MAX_RUN_ID} characters: {mend}")
                order.append(((rank, index, position), arm, RunPlace(run_id, seed, fold, arm.name)))
        return tuple((arm, place) for _, arm, place in sorted(order, key=lambda cell: cell[0]))

    def _ranked(self) -> Iterator[tuple[int, int, Arm]]:
        """(how many leading stages an earlier arm computes, position, arm) of the arms that are trained."""
        computed: set[str] = set()
        for position, arm in enumerate(self.arms):
            if arm.not_run is None:
                yield sum(key in computed for key in arm.chain), position, arm
                computed |= set(arm.chain)

    @property
    def trials(self) -> int:
        """Number of runs: arms that are trained, times seeds, times folds."""
        return len(self.cells)

    @cached_property
    def fixed(self) -> tuple[Sample, ...]:
        """All runs, in the order of their trials."""
        return tuple(_sample(arm, place) for arm, place in self.cells)

    @property
    def untuned(self) -> ExperimentConfig:
        """The config of the reference arm."""
        return self.reference.config

    def run_grid(self, number: int) -> list[RunPlace]:
        """The one run of a trial."""
        return [self.cells[number][1]]

    def max_epochs(self, number: int | None = None) -> int:
        """Number of epochs, both phases together, of trial `number`, or the largest of any."""
        if number is not None:
            return self.cells[number][0].epochs
        return max(arm.epochs for arm in self.arms if arm.not_run is None)

    def to_yaml(self, base_file: str) -> str:
        """The design as YAML with `base_file` as its base."""
        tree = self.file.model_dump(mode="json", exclude_defaults=True, exclude={"name", "base", "arms", "factors"})
        if self.file.kind == "arms":
            tree["arms"] = {arm.name: _written(arm.values, arm.not_run) for arm in self.arms}
        else:
            tree["factors"] = {
                factor: {name: _written(absolute(flatten(level.set)), level.not_run) for name, level in levels.items()}
                for factor, levels in self.file.factors.items()
            }
        tree = {"name": self.name, "base": {"file": base_file}, **tree}
        return yaml.safe_dump(tree, sort_keys=False, width=120)

    def facts(self) -> dict[str, Any]:
        """What study.json says of the design: its kind, reference and arms."""
        arms = [{"name": a.name, "not_run": a.not_run, "levels": a.levels, "values": a.values} for a in self.arms]
        facts = {"design": self.file.kind, "reference": self.reference.name, "test": self.file.test, "arms": arms}
        structure = {"fraction": self.fraction.lines()} if self.fraction else {}
        return super().facts() | facts | structure

    def not_run(self) -> dict[str, str]:
        """Arms that are declared but not trained, with the reason."""
        return {arm.name: arm.not_run for arm in self.arms if arm.not_run is not None}

    def details(self) -> list[str]:
        """Lines for `plan`: arms, and for a fraction its structure."""
        trained = [arm.name for arm in self.arms if arm.not_run is None]
        lines = [f"{len(trained)} arms, compared with {self.reference.name}: {', '.join(trained)}"]
        lines += [f"not run: {name} ({reason})" for name, reason in self.not_run().items()]
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
        arms = _listed_arms(file, base, source, folder, sets)
    else:
        arms, structure = _crossed_arms(file, base, source)
    design = Design(file=file, base=base, source=source, arms=arms, fraction=structure)
    _check_arms(design)
    if not stored:
        _check_scores(design)
    return design


def _listed_arms(
    file: DesignFile, base: ExperimentConfig, source: str, folder: Path, sets: Mapping[str, Any]
) -> tuple[Arm, ...]:
    arms = []
    for name, part in file.arms.items():
        root = base
        if part.preset is not None:
            own = base_config(file.base, folder, sets, preset=part.preset)
            root = own.model_copy(update={"runtime": base.runtime})
        arms.append(_arm(name, root, flatten(part.set), f"{source}, arms.{name}", base, {}, part.not_run))
    return tuple(arms)


def _crossed_arms(file: DesignFile, base: ExperimentConfig, source: str) -> tuple[tuple[Arm, ...], Fraction | None]:
    _check_overlap(file, source)
    try:
        levels = {factor: list(named) for factor, named in file.factors.items()}
        rows, structure = combinations(file.kind, levels, file.generators)
    except ValueError as error:
        key = "generators" if file.generators else "factors"
        raise UserError("bad design", f"{source}, {key}", str(error)) from None
    arms = []
    for row in rows:
        off_reference = [f"{factor}={level}" for factor, level in row.items() if level != levels[factor][0]]
        name = "+".join(off_reference) or file.reference or DEFAULT_REFERENCE
        parts = [file.factors[factor][level] for factor, level in row.items()]
        values: dict[str, Any] = {}
        for part in parts:
            values |= flatten(part.set)
        reason = next((part.not_run for part in parts if part.not_run), None)
        arms.append(_arm(name, base, values, f"{source}, arm {name}", base, row, reason))
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


def _arm(
    name: str,
    root: ExperimentConfig,
    values: Mapping[str, Any],
    where: str,
    base: ExperimentConfig,
    levels: Combination,
    not_run: str | None,
) -> Arm:
    """The arm that `values` make of `root`; raises UserError naming the arm and the key."""
    for path in values:
        check_path(path, where)
        for prefix, reason in NOT_IN_AN_ARM.items():
            if path == prefix or (prefix.endswith(".") and path.startswith(prefix)):
                raise UserError(f"{path} cannot differ between arms", where, reason)
    try:
        config = located(root.with_values(values))
    except UserError as error:
        raise _in_arm(error, where) from None
    mine, its = flatten(config.model_dump(mode="json")), flatten(base.model_dump(mode="json"))
    differing = {path: value for path, value in mine.items() if value != its[path]}
    for path in differing:
        if path.startswith(PAIRED):
            mend = f"set it under base.set, for all arms (here {mine[path]!r}, in the base {its[path]!r})"
            raise UserError(f"arms with different {path} do not compare", where, mend)
    return Arm(name, config, differing, levels, not_run)


def _in_arm(error: UserError, where: str) -> UserError:
    key = error.where.removeprefix("override").removeprefix(", ")
    return UserError(error.what, f"{where}, {key}" if key else where, error.mend)


def _check_scores(design: Design) -> None:
    """Raise UserError for an arm that names a score or a network that is not there."""
    from sage_ray.training.scoring import check_scores

    for arm in design.arms:
        try:
            check_scores(arm.config)
        except UserError as error:
            raise _in_arm(
                error, f"{design.source}, {'arms.' if design.file.kind == 'arms' else 'arm '}{arm.name}"
            ) from None


def _check_arms(design: Design) -> None:
    """Raise UserError unless there are two arms to train, one the reference, no two of them the same."""
    trained = [arm for arm in design.arms if arm.not_run is None]
    if design.reference.not_run is not None:
        mend = f"name another reference, or run it ({design.reference.not_run})"
        raise UserError("the reference is not run", f"{design.source}, {design.reference.name}", mend)
    if len(trained) < 2:
        raise UserError("one arm only", design.source, f"nothing to compare {design.reference.name} with; add another")
    for first, second in pairs_of(trained, 2):
        if first.outcome == second.outcome:
            mend = "what they set has no effect on the results, or is the same: change or drop one, or mark it not_run"
            raise UserError("two arms are the same", f"{design.source}, {first.name} and {second.name}", mend)


def _sample(arm: Arm, place: RunPlace) -> Sample:
    params: dict[str, Any] = {"arm": arm.name, "seed": place.seed}
    values = {**arm.values, "seed": place.seed}
    if place.fold is not None:
        params["fold"] = values["data.split.fold"] = place.fold
    return Sample(params, values, {})


def _written(values: Mapping[str, Any], not_run: str | None) -> dict[str, Any]:
    return {"set": dict(values)} | ({"not_run": not_run} if not_run else {})
