"""What every section of an ExperimentConfig is made of: the base class and the ranges of its numbers."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo

from sage_ray.identity import later

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
PositiveInt = Annotated[int, Field(ge=1)]
NormName = Literal["batch", "group", "frozen", "instance", "instance_affine"]
PhaseName = Literal["pretrain", "adversarial"]
SystemName = Literal["sage_gan", "f_ancgan", "cyclegan", "gan"]
PHASES: tuple[PhaseName, ...] = ("pretrain", "adversarial")
"""The phases of a run in order; each has a section of its name (`ExperimentConfig.phase`)."""


ABOUT_ROWS = re.compile(r"^Rows? (\d+(?:(?:, | and )\d+)*): ")
"""How a meaning begins that tells what the sources disagree about: rows of docs/method/DISCREPANCIES.md."""


def meaning_of(info: FieldInfo) -> tuple[str, str]:
    """What a setting does, as its docstring says it, and the rows of DISCREPANCIES.md that it is about ("" if none)."""
    meaning = " ".join((info.description or "").split())
    about = ABOUT_ROWS.match(meaning)
    if about is not None:
        meaning = meaning[about.end() :]
        meaning = meaning[:1].upper() + meaning[1:]
    return re.sub(r"\bNone\b", "null", meaning), about[1] if about else ""


def word_or_number(value: Any, words: tuple[str, ...], least: float = 0) -> Any:
    """`value` itself if it is one of the words or a number of at least `least`, else ValueError.

    Used where pydantic's own message about a union would name its types.
    """
    is_word = isinstance(value, str) and value in words
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and least <= value < float("inf")
    if not is_word and not is_number:
        raise ValueError(f"give {', '.join(words)} or a number of at least {least:g}")
    return value


class Section(BaseModel):
    """A part of the config: frozen, and refusing keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class PhaseBudget(Section):
    """How long a phase trains: so many epochs, each once over the training images, or so many steps.

    Under a budget of steps an epoch is `epoch_steps` steps, which take their images from one keyed pass over the
    training images after another. What goes by epochs (scores, freeze, ramp, schedules, snapshots) then comes after as
    many steps however many training images there are, and a longer budget goes on with the stage of a shorter one.
    """

    epochs: Count = 0
    """Times that the phase goes through the training images; 0 with `steps`, or where the phase is left out."""
    steps: Count = later(0)
    """Optimizer steps of the phase, a multiple of `epoch_steps`, instead of `epochs`; 0: `epochs` decide."""
    epoch_steps: PositiveInt = later(50)
    """Steps of what counts as one epoch where `steps` decide."""

    @property
    def num_epochs(self) -> int:
        """Epochs of the phase, by whichever budget decides; 0: the phase is left out."""
        return self.steps // self.epoch_steps if self.steps else self.epochs

    @model_validator(mode="after")
    def _one_budget(self) -> PhaseBudget:
        if self.steps and self.epochs:
            raise ValueError(f"epochs {self.epochs} and steps {self.steps} are both given: set one of them to 0")
        if self.steps % self.epoch_steps:
            low = self.steps - self.steps % self.epoch_steps
            near = f"{low} or {low + self.epoch_steps}" if low else f"{self.epoch_steps}"
            raise ValueError(
                f"steps {self.steps} is no multiple of epoch_steps {self.epoch_steps}: set steps to {near}"
            )
        return self
