"""Schema of a study's file: what may stand in it, before anything is looked up in a config; here of a search space."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from sage_ray.addresses import AUTO, StoreAddress, store_address
from sage_ray.errors import UserError, did_you_mean
from sage_ray.identity import later, widened
from sage_ray.metrics.definitions import DEVICE_SECONDS, STUDY_SCORES, is_lower_better
from sage_ray.sections import word_or_number

STUDY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
SAMPLERS = ("tpe", "random", "gp", "qmc", "grid", "nsga2")
SCHEDULERS = ("asha", "fifo")
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Part(BaseModel):
    """A part of a study's file; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, use_attribute_docstrings=True)


class BasePart(Part):
    """The config that a study starts from: one preset or one file, then assignments."""

    preset: str | None = None
    """Name of a shipped preset."""
    file: str | None = None
    """YAML file of an experiment, relative to the space's file."""
    set: dict[str, Any] = {}
    """Settings that differ from it, as `a.b: value`."""

    @model_validator(mode="after")
    def _one_source(self) -> BasePart:
        if self.preset is not None and self.file is not None:
            raise ValueError("give either preset or file")
        return self


class ObjectivePart(Part):
    """What a trial is judged by."""

    metric: str = "val/dice"
    """A validation score, or gpu_seconds: what training took as if nothing had been reused, what made the extra pairs
    included (on a CPU, seconds)."""
    reduce: Literal["plateau", "last", "best"] = "plateau"
    """How the epochs of the last phase become one number. plateau: the median of its last ceil(0.2 n) epochs; last: its
    last epoch; best: its best one. Seconds are summed whatever it says."""
    direction: Literal["maximize", "minimize"] | None = None
    """Whether higher or lower is better. None: minimize a loss and seconds, maximize a score."""

    @field_validator("metric")
    @classmethod
    def _known(cls, metric: str) -> str:
        return nearest(metric, (*STUDY_SCORES, DEVICE_SECONDS), "score")

    @property
    def maximize(self) -> bool:
        """Whether a higher value is better; where the file does not say, the score decides."""
        if self.direction is None:
            return not is_lower_better(self.metric)
        return self.direction == "maximize"

    @property
    def against(self) -> bool:
        """Whether the direction that the file states is not that of the score."""
        return self.direction is not None and self.maximize == is_lower_better(self.metric)


class SamplerPart(Part):
    """How configurations are drawn: the name of a sampler, its seed, and how many draws come before it learns."""

    name: str = "tpe"
    """tpe and gp learn from earlier trials; random and qmc do not; grid tries every combination; nsga2 is for two
    objectives."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the draws: trial n is the same again for the same seed."""
    startup: Annotated[int, Field(ge=1)] | None = None
    """Random trials before the model is used (tpe, gp); None: 10."""

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        return nearest(name, SAMPLERS, "sampler")


class SchedulerPart(Part):
    """Whether trials are stopped early: the name of a scheduler and its settings."""

    name: str = "fifo"
    """fifo: every trial runs to its end; asha: trials that are behind at certain epochs are stopped."""
    grace_epochs: Annotated[int, Field(ge=1)] = 4
    """No trial is stopped before this epoch; epochs count over all stages, and none of rendering is judged."""
    reduction_factor: Annotated[float, Field(gt=1, allow_inf_nan=False)] = 3
    """Of the trials that reach a point of decision about one in so many goes on, and the next point is so many times
    later."""

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        return nearest(name, SCHEDULERS, "scheduler")


class ResourcesPart(Part):
    """What one worker of a trial gets, and how many workers a trial has."""

    cpu: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1
    """CPUs of each worker."""
    gpu: Literal["auto", "share"] | Annotated[float, Field(ge=0, allow_inf_nan=False)] = widened(
        "auto", hashed_as={"auto": 0.0, "share": 0.0}
    )
    """auto: one GPU per worker where Ray has any, else the CPU; share: several trials on each GPU, as many as
    `concurrency` spreads over them, or with `concurrency: auto` as many as the CPUs allow, at most 4. 0 is the CPU."""
    workers: Annotated[int, Field(ge=1)] = 1
    """Processes that train one run together."""

    @field_validator("gpu", mode="before")
    @classmethod
    def _word_or_number(cls, value: Any) -> Any:
        return word_or_number(value, ("auto", "share"))

    @model_validator(mode="after")
    def _fraction(self) -> ResourcesPart:
        if not isinstance(self.gpu, str) and self.gpu > 1 and self.gpu != int(self.gpu):
            raise ValueError(f"gpu {self.gpu} is no share of one GPU and no whole number; use 0 to 1, or 2, 3, ...")
        return self


class DimensionPart(Part):
    """One dimension as written: exactly one of float, int, categorical, tie."""

    float_range: tuple[Finite, Finite] | None = Field(None, alias="float")
    """Lowest and highest value of a number."""
    int_range: tuple[int, int] | None = Field(None, alias="int")
    """Lowest and highest value of a whole number, both included."""
    categorical: tuple[Any, ...] | None = None
    """The values to choose from."""
    tie: str | None = None
    """A formula of other settings that gives the value, such as `1 - segmentation_loss.alpha`."""
    log: bool = False
    """Draw on a logarithmic scale, for what spans powers of ten."""
    step: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Distance between the values that can be drawn."""
    when: dict[str, Any] = {}
    """Config path to the value or list of values at which this dimension exists; else the base's value holds."""

    @model_validator(mode="after")
    def _one_kind(self) -> DimensionPart:
        kinds = (self.float_range, self.int_range, self.categorical, self.tie)
        if sum(kind is not None for kind in kinds) != 1:
            raise ValueError("give exactly one of float, int, categorical, tie")
        limits = self.float_range or self.int_range
        if limits is None and (self.log or self.step is not None):
            raise ValueError("log and step belong to float and int")
        if limits is not None:
            self._check_range(*limits)
        if self.categorical is not None and not self.categorical:
            raise ValueError("empty range: categorical has no choice")
        return self

    def _check_range(self, low: float, high: float) -> None:
        if low >= high:
            raise ValueError(f"empty range: low {low} must be below high {high}")
        if self.log and low <= 0:
            raise ValueError(f"a log range cannot reach 0 or below: low {low} must be positive")
        if self.log and self.step is not None:
            raise ValueError("log and step exclude each other")
        if self.int_range is not None and self.step is not None and self.step != int(self.step):
            raise ValueError(f"step {self.step} of an int must be whole")
        if self.step is not None and self.step > high - low:
            raise ValueError(f"step {self.step} is larger than the range")


class StudyFile(Part):
    """What the file of a search and the file of an ablation have in common."""

    PARTS: ClassVar[dict[str, type[Part]]] = {
        "base": BasePart,
        "objective": ObjectivePart,
        "resources": ResourcesPart,
    }
    """The part that stands under a key, for the names in an error."""

    name: str
    """Name of the study: letters, digits, `_ . -`, at most 100."""
    base: BasePart = BasePart()
    """The config that all of the study starts from."""
    objective: ObjectivePart = ObjectivePart()
    """What a trial is judged by."""
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = (0,)
    """Every configuration is trained once with each of these seeds."""
    folds: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """With a base that has `data.split.folds`: every configuration is run on each of these folds; () takes the base's
    fold."""
    max_hours: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Wall time of one start or `resume`; running trials are then left resumable."""
    max_gpu_hours: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = later(None)
    """GPU-hours of the whole study, over all its starts; running trials are then left resumable. On a CPU the hours of
    the workers count. What is trained first for extra pairs counts where it is trained."""
    max_failures_in_a_row: Annotated[int, Field(ge=1)] | None = later(10)
    """After so many failed trials one after another the study stops, resumable; null: never."""
    concurrency: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """Trials at a time, at most as many as fit the CPUs and GPUs that Ray has by then; auto: as many as fit. On a
    cluster that grows on demand give a number: Ray's autoscaler is asked for room for so many."""
    resources: ResourcesPart = ResourcesPart()
    """What one worker of a trial gets."""
    storage: str = later(AUTO)
    """Where the trials are kept: sqlite or journal (a file in the study's folder; journal for NFS), or
    postgresql://USER@HOST/DATABASE, whose password is kept nowhere; auto: what `SAGE_OPTUNA_URL` says, else sqlite."""

    @property
    def store(self) -> StoreAddress:
        """`storage`, with the secrets that the file has and nothing else keeps."""
        return self.storage if isinstance(self.storage, StoreAddress) else store_address(self.storage)

    @field_validator("storage")
    @classmethod
    def _address(cls, text: str) -> str:
        return store_address(text)

    @field_validator("concurrency", mode="before")
    @classmethod
    def _word_or_number(cls, value: Any) -> Any:
        if isinstance(value, float) and not value.is_integer():
            raise ValueError("give auto or a whole number of at least 1")
        return "auto" if value is None else word_or_number(value, ("auto",), least=1)

    @model_validator(mode="after")
    def _runs(self) -> StudyFile:
        check_study_name(self.name)
        for label, values in (("seeds", self.seeds), ("folds", self.folds)):
            if len(set(values)) != len(values):
                raise ValueError(f"{label} repeats a value")
        if not self.seeds:
            raise ValueError("seeds is empty; give at least one, such as [0]")
        if self.objective.metric == DEVICE_SECONDS:
            raise ValueError(f"{DEVICE_SECONDS} is no objective by itself; list it second, after a validation score")
        return self


class SpaceFile(StudyFile):
    """A search-space file (CONTRACT, "Search space")."""

    PARTS: ClassVar[dict[str, type[Part]]] = {
        **StudyFile.PARTS,
        "sampler": SamplerPart,
        "scheduler": SchedulerPart,
        "space": DimensionPart,
    }

    space: dict[str, DimensionPart]
    """The settings that are searched, each by its dotted path."""
    points: tuple[dict[str, Any], ...] = ({},)
    """Evaluated first; {} is the untuned base, a partial point takes the rest from the base."""
    sampler: SamplerPart = SamplerPart()
    """How configurations are drawn."""
    scheduler: SchedulerPart = SchedulerPart()
    """Whether trials are stopped early."""
    trials: Annotated[int, Field(ge=1)] | None = None
    """All trials, points included; a grid may leave it out."""
    constraints: tuple[str, ...] = later(())
    """Comparisons of config paths, such as "segmentation_loss.w_ce + segmentation_loss.w_dice > 0". What violates one
    is never drawn."""
    second_objective: ObjectivePart | None = later(None)
    """The second entry of an `objective` that is a list of two."""
    earlier: tuple[str, ...] = later((), alias="from")
    """Studies of the same home whose trials the sampler knows from the start."""

    @model_validator(mode="before")
    @classmethod
    def _two_objectives(cls, tree: Any) -> Any:
        if not isinstance(tree, Mapping) or not isinstance(tree.get("objective"), list | tuple):
            return tree
        listed = list(tree["objective"])
        if len(listed) not in (1, 2):
            raise ValueError(f"objective lists {len(listed)} entries; give one or two")
        second = {"second_objective": listed[1]} if len(listed) == 2 else {}
        return {**tree, "objective": listed[0], **second}

    @model_validator(mode="after")
    def _whole(self) -> SpaceFile:
        if not self.space:
            raise ValueError("space has no dimension")
        second = self.second_objective
        if second is not None and second.metric == self.objective.metric:
            raise ValueError(f"objective names {second.metric} twice; give two different ones, or one")
        if second is not None and self.scheduler.name != "fifo":
            raise ValueError("a scheduler judges by one number: with two objectives use scheduler {name: fifo}")
        if self.trials is None and self.sampler.name != "grid":
            raise ValueError("trials is missing; say how many (only a grid has a natural end)")
        return self


File = TypeVar("File", bound=StudyFile)


def check_study_name(name: str) -> str:
    """`name` itself. Raises ValueError unless it can name a folder: letters, digits, `_ . -`, at most 100."""
    if not STUDY_NAME.fullmatch(name):
        raise ValueError(f"name {name!r} must be letters, digits, _ . - and start with a letter or digit")
    return name


def parse_file(model: type[File], tree: Mapping[str, Any], where: str) -> File:
    """The validated file of a search (`SpaceFile`) or of an ablation.

    Raises:
        UserError: one line naming the first refused key and the remedy.
    """
    try:
        return model.model_validate(dict(tree))
    except ValidationError as error:
        raise _as_user_error(error, where, model) from None


def _as_user_error(error: ValidationError, where: str, model: type[StudyFile]) -> UserError:
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    label = f"{where}, {path}" if path else where
    if first["type"] == "extra_forbidden":
        known = _keys_at(first["loc"][:-1], model)
        mend = did_you_mean(str(first["loc"][-1]), known, f"known: {', '.join(known)}")
        return UserError("unknown key", label, mend)
    if first["type"] == "missing":
        return UserError("missing key", label, "add it")
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "tuple_type":
        message = (
            "give a list in brackets, such as [0, 1]"
            if path in ("seeds", "folds", "subsets")
            else "give a list in brackets"
        )
    if first["type"] != "value_error":
        message = f"{message} (got {first['input']!r})"
    return UserError("bad value", label, message)


def _keys_at(location: tuple[int | str, ...], model: type[StudyFile]) -> list[str]:
    part = model.PARTS.get(str(location[0]), model) if location else model
    return [info.alias or name for name, info in part.model_fields.items()]


def nearest(name: str, known: tuple[str, ...], kind: str) -> str:
    """`name` itself. Raises ValueError, with the nearest known name, unless it is among `known`."""
    if name in known:
        return name
    raise ValueError(f"unknown {kind} {name}; {did_you_mean(name, known, 'use ' + ', '.join(known))}")


def is_finite_number(value: Any) -> bool:
    """Whether `value` is an int or float (no bool) and neither NaN nor infinite."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
