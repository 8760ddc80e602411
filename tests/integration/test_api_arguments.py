"""Every function of the Python API, given what it does not take: one line of ours that tells what it takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import sage_ray
from sage_ray.argument_kinds import Kinds, fits
from sage_ray.errors import UserError
from sage_ray.watch import SilentWatch, Watch

WRONG: dict[str, Any] = {
    "number": 3,
    "half": 0.5,
    "none": None,
    "list": ["x"],
    "dict": {"x": 1},
    "frame": pd.DataFrame({"x": [1]}),
    "bytes": b"x",
    "empty": "",
    "blank": " ",
    "null": "a\0b",
    "missing": "nowhere/at_all.yaml",
    "path": Path("nowhere/at_all"),
    "folder": Path(),
    "object": object(),
    "function": print,
}
CONFIG = sage_ray.resolve("tiny_unet").config
# What stands for the other arguments: enough for the call to begin.
FILLED: dict[str, Any] = {
    "config": CONFIG, "space": "search_tiny", "design": "ablate_tiny", "spec": "search_tiny", "name": "first",
    "study": "first", "model": "first", "path": "data", "data": "data", "masks": "data", "images": "data",
    "source": "first", "out": "out.csv", "path_or_name": "search_tiny", "values": {},
}  # fmt: skip
FUNCTIONS: dict[str, Callable[..., Any]] = {
    name: found
    for name in sage_ray.__all__
    if callable(found := getattr(sage_ray, name)) and name not in ("UserError", "Interrupted", "ExperimentConfig")
} | {"ExperimentConfig.with_values": CONFIG.with_values, "ExperimentConfig.get": CONFIG.get}
NO_NAME = ("empty", "blank", "null")
"""Texts that name nothing."""
RIGHT = {("evaluate", "foreground", "empty"), ("generate", "foreground", "empty")}
"""No rule at all."""


def parameters_of(function: Callable[..., Any]) -> list[inspect.Parameter]:
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return [one for one in inspect.signature(function).parameters.values() if one.kind not in kinds]


def cases(function: Callable[..., Any]) -> Iterator[tuple[str, str]]:
    """Each parameter with each kind of wrong value; what an optional one takes is left out, since it would be done."""
    hints = Kinds(function).hints
    for parameter in parameters_of(function):
        for kind, value in WRONG.items():
            taken = parameter.name not in hints or fits(value, hints[parameter.name])
            if not taken or kind in NO_NAME or parameter.default is parameter.empty:
                yield parameter.name, kind


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_not_taken_is_refused_in_one_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SAGE_HOME", raising=False)
    function, faults = FUNCTIONS[name], []
    known = inspect.signature(function).parameters
    filled = {one: FILLED[one] for one, what in known.items() if what.default is what.empty and one in FILLED}
    tried = [case for case in cases(function) if (name, *case) not in RIGHT]
    for parameter, kind in tried:
        case = f"{name}({parameter}={kind})"
        try:
            faults.append(f"{case} is taken: {function(**{**filled, parameter: WRONG[kind]})!r}")
        except UserError as error:
            said = str(error)
            is_whole = bool(error.what and error.where and error.mend)
            if len(said.splitlines()) != 1 or len(said) > 500 or "Error" in said or not is_whole:
                faults.append(f"{case} says: {said}")
        except Exception as error:
            faults.append(f"{case} raises {error!r}")
    assert not faults and len(tried) > 10
    assert not list(tmp_path.rglob("*.db")), "nothing was begun"


def test_what_is_said_names_the_function_the_argument_and_what_it_takes() -> None:
    with pytest.raises(UserError) as refused:
        sage_ray.plan(3)
    assert str(refused.value) == (
        "spec cannot be 3: sage_ray.plan: "
        "give a search space or a design, a YAML file of one, or the name of a shipped one"
    )
    with pytest.raises(UserError, match=r"seeds cannot be \['a'\]: sage_ray.final: give a list, each a whole number"):
        sage_ray.final("first", seeds=["a"])
    with pytest.raises(UserError, match="retry cannot be 3: sage_ray.resume: give a list, each a whole number"):
        Kinds(import_module("sage_ray.search.driver").resume).check({"retry": 3})


@pytest.mark.parametrize(
    ("value", "hint", "does"),
    [
        (np.int64(3), int, True), (np.float32(0.5), float, True), (3, float, True), (True, int, False),
        (np.arange(3), Sequence[int], True), (range(3), Sequence[int], True), ((1, "a"), Sequence[int], False),
        ("12", Sequence[int], False), ("12", Sequence[str], False), 
        ("a=1", Iterable[str], True), (SilentWatch(), Watch, True), (print, Watch, False),
        ({"a": 1}, Mapping[str, Any], True), ((1.0, 2.0), tuple[float, float], True), 
        ((1.0,), tuple[float, float], False),
        (None, int | None, True), (Path(), str, False), (str, Callable[..., Any], True),
    ],
)  # fmt: skip
def test_arrays_and_numbers_of_numpy_are_what_they_look_like(value: Any, hint: Any, does: bool) -> None:
    assert fits(value, hint) is does
