"""Schema of an ablation design's file: arms, or factors whose levels are crossed, times seeds, times folds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from sage_ray.identity import later
from sage_ray.study.file_schema import Part, StudyFile, nearest

KINDS = ("arms", "one_factor", "leave_one_out", "factorial", "fractional")
TWO_LEVEL = ("leave_one_out", "fractional")
ARM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=-]{0,79}")
# No + and no =: arms are named after them, as in gates=off+ema=on.
FACTOR_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
FINAL_ARM = "final"
"""Label of the runs of a final training: they belong to a study, but are no arm of it."""
DEFAULT_REFERENCE = "reference"


class BudgetPart(Part):
    """A budget of phase 1 that follows another arm's, whatever the base's budgets are set to."""

    of: str
    """The arm that is followed."""
    unit: Literal["epochs", "steps", "gpu_seconds"] = Field(alias="in")
    """epochs of both its phases; steps: batches that its segmenter learns from; gpu_seconds: of its run of the same
    seed, fold and subset, once that has ended, what made its extra pairs included."""


class ArmPart(Part):
    """One arm as written: assignments to the base, or to another preset with the base's `set` on top."""

    preset: str | None = None
    """Another preset than the base's for this arm."""
    set: dict[str, Any] = {}
    """Settings of this arm, as `a.b: value`."""
    not_run: str | None = None
    """Why the arm is declared but not trained here; it is listed with this reason."""

    label: str | None = later(None)
    """The arm's name in tables and figures."""
    budget: BudgetPart | None = later(None)
    """Epochs of phase 1 that follow another arm; the arm has phase 1 alone."""

    @field_validator("label")
    @classmethod
    def _one_line(cls, label: str | None) -> str | None:
        return label and re.sub(r"[\x00-\x1f\x7f-\x9f\s]+", " ", label).strip()

    @field_validator("not_run")
    @classmethod
    def _reason(cls, reason: str | None) -> str | None:
        if reason is not None and not reason.strip():
            raise ValueError("give the reason in words, or leave not_run out")
        return reason and " ".join(reason.split())


class LevelPart(Part):
    """One level of a factor as written."""

    set: dict[str, Any] = {}
    """Settings of this level, as `a.b: value`."""
    not_run: str | None = None
    """Why no arm with this level is trained here."""


class DesignFile(StudyFile):
    """An ablation design's file (CONTRACT, "Ablation design")."""

    PARTS: ClassVar[dict[str, type[Part]]] = {**StudyFile.PARTS, "arms": ArmPart, "factors": LevelPart}

    kind: Literal["arms", "one_factor", "leave_one_out", "factorial", "fractional"]
    """arms: as listed; one_factor: the reference, and each other level of each factor by itself; leave_one_out: two
    levels each, the reference has every component, each other arm lacks one; factorial: every combination; fractional:
    two levels each, a fraction of the combinations that `generators` choose."""
    reference: str | None = None
    """The arm that all are compared with. With factors it names the arm of all first levels."""
    arms: dict[str, ArmPart] = {}
    """The arms of kind `arms`, by name."""
    factors: dict[str, dict[str, LevelPart]] = {}
    """Factor to its levels in order; the first is the reference level, that of the full method."""
    generators: dict[str, str] = {}
    """Generated factor to a product of others, such as {ema: "gates*cycle"}; a leading - turns it round."""
    subsets: tuple[Annotated[int, Field(ge=0)], ...] = later(())
    """With arms that have `data.split.labels`: every arm is run on each of these choices of labelled images, beside
    every seed; [] takes the base's one."""
    test: bool = True
    """Score every finished run once on the locked test part, when all runs have ended."""

    @model_validator(mode="before")
    @classmethod
    def _readable(cls, tree: Any) -> Any:
        """Names as text (YAML reads an unquoted `on` as true), an arm without anything as {}, kind of listed arms."""
        if not isinstance(tree, dict):
            return tree
        tree = dict(tree)
        if isinstance(tree.get("arms"), dict):
            tree["arms"] = {_text(name): {} if arm is None else arm for name, arm in tree["arms"].items()}
        if isinstance(tree.get("factors"), dict):
            tree["factors"] = {_text(name): _levels(levels) for name, levels in tree["factors"].items()}
        if tree.get("reference") is not None:
            tree["reference"] = _text(tree["reference"])
        if "kind" not in tree and ("arms" in tree or "factors" not in tree):
            tree["kind"] = "arms"
        return tree

    @field_validator("kind", mode="before")
    @classmethod
    def _known(cls, kind: Any) -> Any:
        return nearest(str(kind), KINDS, "kind")

    @model_validator(mode="after")
    def _whole(self) -> DesignFile:
        if len(set(self.subsets)) != len(self.subsets):
            raise ValueError("subsets repeats a value")
        if self.kind == "arms":
            self._check_arms()
        else:
            self._check_factors()
        return self

    def _check_arms(self) -> None:
        if self.factors or self.generators:
            raise ValueError(f"kind arms takes arms alone; for factors choose one of {', '.join(KINDS[1:])}")
        if not self.arms:
            raise ValueError("arms is empty; name at least two")
        for name in self.arms:
            check_name(name, ARM_NAME, "arm", "letters, digits and . _ + = -, at most 80")
        if self.reference is None:
            raise ValueError("reference is missing; name the arm that all others are compared with")
        nearest(self.reference, tuple(self.arms), "reference")
        shown = [arm.label or name for name, arm in self.arms.items()]
        twice = next((name for name in shown if shown.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two arms are called {twice!r} in tables; give them labels that differ")

    def _check_factors(self) -> None:
        if self.arms:
            raise ValueError(f"kind {self.kind} takes factors, no arms; for listed arms choose kind arms")
        if not self.factors:
            raise ValueError("factors is empty; name at least one with its levels")
        for factor, levels in self.factors.items():
            check_name(factor, FACTOR_NAME, "factor", "letters, digits and . _ -, at most 40")
            for level in levels:
                check_name(level, FACTOR_NAME, f"level of {factor}", "letters, digits and . _ -, at most 40")
            if len(levels) < 2:
                raise ValueError(f"factor {factor} has {len(levels)} level; give the reference level and one other")
            if self.kind in TWO_LEVEL and len(levels) != 2:
                raise ValueError(f"factor {factor} has {len(levels)} levels; kind {self.kind} takes exactly two")
        if (self.kind == "fractional") != bool(self.generators):
            mend = "state one for each generated factor" if self.kind == "fractional" else "they belong to fractional"
            raise ValueError(f"generators: {mend}")
        check_name(self.reference or DEFAULT_REFERENCE, ARM_NAME, "reference", "letters, digits and . _ + = -")


def check_name(name: str, pattern: re.Pattern[str], what: str, allowed: str) -> None:
    """Raise ValueError unless `name` can stand in the name of a run."""
    if not pattern.fullmatch(name):
        raise ValueError(f"{what} {name!r} must be {allowed}, and start with a letter or digit")
    if name == FINAL_ARM:
        raise ValueError(f"{what} cannot be called {FINAL_ARM}: that is the label of final trainings")


def _text(name: Any) -> str:
    if isinstance(name, bool):
        return "on" if name else "off"
    return str(name)


def _levels(levels: Any) -> Any:
    if not isinstance(levels, Mapping):
        return levels
    return {_text(name): {} if level is None else level for name, level in levels.items()}
