"""Whether what a public function is given is of the kinds that its annotations name; one line where it is not."""

from __future__ import annotations

import inspect
import os
import reprlib
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cached_property, wraps
from importlib import import_module
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin

from sage_ray.errors import UserError

Work = TypeVar("Work", bound=Callable[..., Any])

EXPECTED = {
    "home": "a folder, s3://BUCKET/PREFIX or a sage_ray.Home, or leave it out",
    "config": "a config of sage_ray.resolve, a YAML file or the name of a preset; single settings go into sets",
    "space": "a search space of sage_ray.load_space, a YAML file or the name of a shipped one",
    "design": "a design of sage_ray.load_design, a YAML file or the name of a shipped one",
    "spec": "a search space or a design, a YAML file of one, or the name of a shipped one",
    "path_or_name": "a YAML file, or the name of a shipped one",
    "sets": 'a mapping such as {"trials": 4}, or texts such as "trials=4"',
    "values": 'a mapping such as {"adversarial.lambda_cycle": 2.0}',
    "watch": "a watch of sage_ray.watch, such as SilentWatch(), or leave it out",
    "model": "a run id, a folder or a models:/ URI",
    "source": "the name of a study, or a config of sage_ray.resolve",
    "path": "a path as text or as a Path",
}
"""What a parameter of that name takes, where its annotation alone would not tell a user."""
PLAIN: dict[Any, str] = {
    str: "text",
    Path: "a path",
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    NoneType: "None",
}
MAY_BE_EMPTY = ("foreground",)
"""Texts that say something when they are empty: no rule at all."""
# Annotations may name what their module imports for the type checker alone.
_LATER = {
    "ExperimentConfig": "sage_ray.config",
    "Space": "sage_ray.study.space",
    "Design": "sage_ray.study.design",
    "Watch": "sage_ray.watch",
    "Path": "pathlib",
}


def kinds_checked(work: Work) -> Work:
    """The function, which refuses arguments of another kind than its annotations name.

    Raises:
        UserError: such an argument; the message says what it takes.
    """
    kinds = Kinds(work)

    @wraps(work)
    def call(*args: Any, **kwargs: Any) -> Any:
        kinds.check_call(args, kwargs)
        return work(*args, **kwargs)

    return cast(Work, call)


class Kinds:
    """The kinds of arguments that a function takes.

    Args:
        work: the function.
        looser: annotations that hold in place of its own, by parameter.
    """

    def __init__(self, work: Callable[..., Any], looser: Mapping[str, Any] | None = None) -> None:
        self._work, self._looser = work, dict(looser or {})
        self._signature = inspect.signature(work)
        self._name = f"sage_ray.{work.__qualname__.removesuffix('.__init__')}"

    @cached_property
    def hints(self) -> dict[str, Any]:
        """The annotation of each parameter that has one."""
        names = self._looser | {
            name: parameter.annotation
            for name, parameter in self._signature.parameters.items()
            if name not in self._looser and parameter.annotation is not parameter.empty
        }
        return {name: self._meant(hint) if isinstance(hint, str) else hint for name, hint in names.items()}

    def _meant(self, annotation: str) -> Any:
        return eval(annotation, vars(sys.modules[self._work.__module__]), _Names())

    def check_call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Refuse what is of the wrong kind; arguments that are missing or unknown are left to Python to name."""
        try:
            given = self._signature.bind_partial(*args, **kwargs)
        except TypeError:
            return
        self.check(given.arguments)

    def check(self, arguments: Mapping[str, Any]) -> None:
        """Refuse the first argument, by parameter, that is of the wrong kind or an empty text."""
        for name, value in arguments.items():
            parameter = self._signature.parameters.get(name)
            if name not in self.hints or (
                parameter and parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
            ):
                continue
            default = () if parameter is None else parameter.default
            if not fits(value, self.hints[name]) or (isinstance(value, str) and _says_nothing(name, value, default)):
                mend = EXPECTED.get(name) or expected(self.hints[name])
                raise UserError(f"{name} cannot be {shortly(value)}", self._name, f"give {mend}")


class _Names(dict[str, Any]):
    """Names of annotations that their module has not imported."""

    def __missing__(self, name: str) -> Any:
        return getattr(import_module(_LATER[name]), name)


def _says_nothing(name: str, value: str, default: Any) -> bool:
    """Whether a text is empty where nothing is named by that, or no text that a file or setting may have."""
    if "\0" in value:
        return True
    named = default is inspect.Parameter.empty or default is None or (isinstance(default, str) and bool(default))
    return named and not value.strip() and name not in MAY_BE_EMPTY


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of the kind of an annotation; whole numbers are numbers, True and False are not."""
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return any(fits(value, one) for one in get_args(hint))
    if origin is Literal:
        return isinstance(value, str | int) and value in get_args(hint)
    if hint is None or hint is NoneType:
        return value is None
    if hint in (int, float):
        return isinstance(value, Integral if hint is int else Real) and not isinstance(value, bool)
    if hint is Path:
        return isinstance(value, os.PathLike)
    if isinstance(origin, type) and issubclass(origin, Iterable):
        one_text = origin is Iterable and get_args(hint) == (str,) and isinstance(value, str)  # settings: one is enough
        return one_text or _is_filled(value, origin, get_args(hint))
    if origin is not None:  # such as a function
        hint = origin
    if getattr(hint, "_is_protocol", False):
        return all(hasattr(value, member) for member in vars(hint) if not member.startswith("_"))
    return isinstance(value, hint) if isinstance(hint, type) else True


def _is_filled(value: Any, origin: type, kinds: tuple[Any, ...]) -> bool:
    """Whether a mapping, tuple, list or the like holds what it is said to; what can be read only once is not read."""
    if issubclass(origin, Mapping):
        return isinstance(value, Mapping)
    is_list = (
        isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping) and not hasattr(value, "columns")
    )
    if not is_list or not isinstance(value, Collection):
        return is_list
    if issubclass(origin, tuple) and Ellipsis not in kinds:
        return len(value) == len(kinds) and all(map(fits, value, kinds))
    return all(fits(item, kinds[0]) for item in value)


def expected(hint: Any) -> str:
    """The kind of an annotation in words."""
    origin, kinds = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        words = list(dict.fromkeys(map(expected, kinds)))
        return f"{', '.join(words[:-1])} or {words[-1]}"
    if origin is Literal:
        return " or ".join(map(repr, kinds))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "a mapping"
    if isinstance(origin, type) and issubclass(origin, Iterable):
        return f"a list, each {expected(kinds[0])}"
    if origin is not None:
        return "a function"
    return PLAIN.get(hint) or f"a {getattr(hint, '__name__', hint)}"


def shortly(value: Any) -> str:
    """A value as a message names it, on one line."""
    if value is None or isinstance(value, str | bool | int | float | list | tuple | dict):
        return " ".join(reprlib.repr(value).split())
    kind = type(value).__name__
    return f"{'an' if kind[:1].lower() in 'aeiou' else 'a'} {kind}" if kind != "bytes" else kind
