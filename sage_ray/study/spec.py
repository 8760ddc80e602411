"""What one driver runs, be it the space of a search or the design of an ablation: trials, their configs and runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypeVar

from sage_ray.config import DEFAULT_PRESET, ExperimentConfig
from sage_ray.errors import UserError
from sage_ray.sections import RuntimeConfig
from sage_ray.study.dimension import Dimension, Sample
from sage_ray.study.file_schema import ObjectivePart, SamplerPart, SchedulerPart, StudyFile

Kind = Literal["sweep", "ablation"]
Spec = TypeVar("Spec", bound="StudySpec")


@dataclass(frozen=True)
class RunPlace:
    """One run of a trial: its name, and where it stands in the study.

    `fold` is None where the study has one split, `subset` where it has one choice of labelled images.
    """

    run_id: str
    seed: int
    fold: int | None = None
    arm: str | None = None
    subset: int | None = None

    @property
    def repeat(self) -> tuple[int, int | None, int | None]:
        """Seed, fold and subset: runs of two arms that have them in common are compared with one another."""
        return self.seed, self.fold, self.subset


@dataclass(frozen=True, kw_only=True)
class StudySpec(ABC):
    """A checked study file.

    Attributes:
        file: the file as it was written.
        base: the config that its trials start from, resources filled in.
        source: names the file in errors.
        dimensions: what a sampler draws; () if every configuration is known beforehand.
        notes: lines for the user about what was made of the file.
    """

    kind: ClassVar[Kind]
    noun: ClassVar[str]
    """What the file is called in a message."""
    file_name: ClassVar[str]
    """Name of the study's file inside its folder."""
    verb: ClassVar[str]

    file: StudyFile
    base: ExperimentConfig
    source: str
    dimensions: tuple[Dimension, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name of the study."""
        return self.file.name

    def renamed(self: Spec, name: str) -> Spec:
        """The same study under another name."""
        return replace(self, file=self.file.model_copy(update={"name": name}))

    def on(self: Spec, runtime: RuntimeConfig) -> Spec:
        """The same study with this runtime for all its runs."""
        return replace(self, base=self.base.with_sections(runtime=runtime))

    @property
    def objective(self) -> ObjectivePart:
        """What a trial is judged by, the direction filled in."""
        part = self.file.objective
        return part.model_copy(update={"direction": "maximize" if part.maximize else "minimize"})

    @property
    def objectives(self) -> tuple[ObjectivePart, ...]:
        """All that a trial is judged by, directions filled in; the first is the one that `objective` has."""
        return (self.objective,)

    @property
    @abstractmethod
    def hash(self) -> str:
        """16 hex digits over what makes two studies the same; hours and concurrency may change."""

    @property
    @abstractmethod
    def trials(self) -> int:
        """Number of trials of the whole study."""

    @property
    @abstractmethod
    def fixed(self) -> tuple[Sample, ...]:
        """Configurations known beforehand, in the order of their trials."""

    @property
    @abstractmethod
    def untuned(self) -> ExperimentConfig:
        """The config that `final --trial base` takes."""

    @property
    def sampler(self) -> SamplerPart:
        """How configurations are drawn: one after another, where all are known."""
        return SamplerPart(name="grid")

    @property
    def scheduler(self) -> SchedulerPart:
        """Whether trials are stopped early: none is, unless a search says so."""
        return SchedulerPart(name="fifo")

    def sample(self, choose: Callable[[Dimension], Any]) -> Sample:
        """A configuration that is not known beforehand: `choose` gives the value of each active dimension."""
        raise AssertionError(f"every configuration of {self.noun} {self.name} is known beforehand")

    def refusal(self, sample: Sample) -> str | None:
        """Why a configuration can be no trial, in words; None if it can."""
        try:
            self.config(sample.values)
        except UserError as error:
            return str(error)
        return None

    def missed_constraints(self, values: Mapping[str, Any]) -> dict[str, float]:
        """Each constraint of the file with the amount by which `values` miss it, at most 0 where it is kept."""
        return {}

    def config(self, values: Mapping[str, Any], seed: int | None = None, fold: int | None = None) -> ExperimentConfig:
        """The config of `values` (a Sample's), with the run's seed and fold. Raises UserError if it is refused."""
        changed: dict[str, Any] = dict(values)
        if seed is not None:
            changed["seed"] = seed
        if fold is not None:
            changed["data.split.fold"] = fold
        return self.base.with_values(changed)

    def run_configs(self, number: int, values: Mapping[str, Any]) -> tuple[ExperimentConfig, ...]:
        """The configs of the runs of trial `number`, in the order of `run_grid`: built here, and handed on to the step.

        Raises:
            UserError: the values cannot be combined.
        """
        return tuple(self.config(values, place.seed, place.fold) for place in self.run_grid(number))

    def is_untuned(self, number: int) -> bool:
        """Whether trial `number` is the untuned base (in an ablation: the reference), whatever its seed and split."""
        fixed = self.fixed
        return 0 <= number < len(fixed) and self._is_base(number, fixed[number])

    def untuned_trial(self) -> int | None:
        """The first trial that is the untuned base; None where no trial is known beforehand to be it."""
        return next((number for number, sample in enumerate(self.fixed) if self._is_base(number, sample)), None)

    def _is_base(self, number: int, sample: Sample) -> bool:
        base = self.untuned
        own = {"seed": base.seed, **{f"data.split.{k}": getattr(base.data.split, k) for k in ("fold", "subset")}}
        config = self.run_configs(number, sample.values)[0]
        return config.with_values(own).config_hash() == base.config_hash()

    @abstractmethod
    def run_grid(self, number: int) -> list[RunPlace]:
        """The runs of trial `number`, the first being the one that a scheduler judges."""

    @abstractmethod
    def max_epochs(self, number: int | None = None) -> int:
        """Largest number of epochs, all stages together, of trial `number`, or of any (an upper bound)."""

    @abstractmethod
    def to_yaml(self, base_file: str) -> str:
        """The file as YAML with `base_file` as its base, so that a study does not depend on a preset that changes."""

    def facts(self) -> dict[str, Any]:
        """What study.json says of the file, beside its hash.

        `presets` is there where the file names them; a study's own copy of it does not.
        """
        begun = self._presets()
        return {"kind": self.kind, "trials": self.trials} | ({"presets": begun} if begun else {})

    def _presets(self) -> dict[str, Any]:
        """The shipped preset that the base was begun from, and those of arms that have another; {} if not known."""
        base = self.file.base
        return {"base": base.preset or DEFAULT_PRESET} if base.file is None else {}

    def not_run(self) -> dict[str, str]:
        """Arms that are declared but not trained, with the reason."""
        return {}

    def labels(self) -> dict[str, str]:
        """What tables and figures call an arm, by its name, where the design gives a label."""
        return {}

    def details(self) -> list[str]:
        """Lines for `plan`, beside the numbers."""
        return []

    @property
    def runs_of_arm(self) -> int:
        """Number of runs of one configuration: seeds times folds."""
        return len(self.seeds_and_folds())

    def seeds_and_folds(self) -> list[tuple[int, int | None]]:
        """What every configuration is trained with; a fold of None is the base's one split."""
        folds: Sequence[int | None] = self.file.folds or (None,)
        return [(seed, fold) for seed in self.file.seeds for fold in folds]
