"""What each setting of a config and each key of a study's file is: the rows of the reference, and `--explain`.

Everything is read from the pydantic models, so that the page of the documentation, `sage-ray config show --explain` and
the checks of a config cannot differ.
"""

from __future__ import annotations

import json
import re
import textwrap
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from sage_ray.config import ExperimentConfig, flatten, preset_tree
from sage_ray.errors import UserError
from sage_ray.identity import introduction_values
from sage_ray.metrics.definitions import DEVICE_SECONDS, STUDY_SCORES, VALIDATION_SCORES
from sage_ray.near_paths import instead_of
from sage_ray.section_base import meaning_of
from sage_ray.study.design_schema import ArmPart, BudgetPart, DesignFile, LevelPart
from sage_ray.study.file_schema import SAMPLERS, SCHEDULERS, DimensionPart, ObjectivePart, Part, SpaceFile, StudyFile

Kind = Literal["config", "study", "search", "ablation"]
KINDS: dict[Kind, str] = {
    "config": "a config",
    "study": "the file of a search or an ablation",
    "search": "the file of a search",
    "ablation": "the file of an ablation",
}
"""What a setting can stand in."""
METHOD = "docs/method/DISCREPANCIES.md"
PRESETS = ("sage_gan_paper", "sage_gan_public")
"""Presets whose values are told where they are not the default: the paper's text and its public code."""
SCORES = (*STUDY_SCORES, DEVICE_SECONDS)
CHOICES: dict[str, tuple[str, ...]] = {
    "evaluation.metric": VALIDATION_SCORES,
    "pretrain.schedule.metric": VALIDATION_SCORES,
    "adversarial.schedule.metric": VALIDATION_SCORES,
    "objective.metric": SCORES,
    "sampler.name": SAMPLERS,
    "scheduler.name": SCHEDULERS,
}
"""What is text for the model, and one of these for whoever checks it."""
_HELD: dict[str, tuple[str, type[Part]]] = {
    "space": ("SETTING", DimensionPart),
    "arms": ("ARM", ArmPart),
    "factors": ("FACTOR.LEVEL", LevelPart),
    "budget": ("", BudgetPart),
}
"""Keys that hold parts of a kind, with what the names below them stand for."""
_WORDS = {float: "number", int: "whole number", str: "text", bool: "true or false", Any: "any value"}


@dataclass(frozen=True)
class SettingRow:
    """One setting, in words.

    Attributes:
        path: dotted; words in capitals stand for names that the user gives.
        kind: of the file that it stands in, from `KINDS`.
        type: number, whole number, text, true or false, a word out of some, or a list of such.
        range: which values, or which words, are taken; empty where all of the type are.
        default: as in YAML; empty where the setting must be given.
        meaning: what it does, with the unit of its value.
        source: where it is defined, and the row of DISCREPANCIES.md that it is about.
        presets: its value in the two presets of the paper, where that is not the default.
    """

    path: str
    kind: Kind
    type: str
    range: str
    default: str
    meaning: str
    source: str
    presets: dict[str, str]


def setting_rows() -> list[SettingRow]:
    """Every setting of a config, then every key of a study's file, in the order of the models."""
    return list(_rows())


def section_meanings() -> dict[str, str]:
    """What each section of a config is for, by its dotted path."""
    return dict(_sections(ExperimentConfig, ""))


def explain(path: str) -> list[SettingRow]:
    """The setting at a dotted path, or all settings of a section.

    Args:
        path: such as adversarial.lambda_cycle, adversarial.weights, trials of a study's file, or arms.soft.

    Raises:
        UserError: there is no such setting; the nearest names are given.
    """
    # An item of a list, data.image_size.0, is told of with its list.
    wanted = re.sub(r"\.\d+(?=\.|$)", "", path.strip().rstrip("."))
    rows = _rows()
    found = [row for row in rows if row.path == wanted] or [row for row in rows if _fits(row.path, wanted)]
    found = found or [row for row in rows if row.path.startswith(f"{wanted}.")]
    found = found or [row for row in rows if _tells_of(row.path, wanted)]
    found = found or [row for row in rows if wanted.isalnum() and wanted.isupper() and wanted in row.path.split(".")]
    if found:
        return found
    raise UserError("unknown setting", path if wanted else repr(path), _nearest(wanted, rows))


def explained(row: SettingRow) -> list[str]:
    """The lines that tell a person of one setting, of at most 80 columns where words are no longer."""
    lines = [f"  type: {row.type}"]
    lines += [f"  range: {row.range}"] if row.range else []
    lines += [f"  default: {row.default or 'none, it must be given'}"]
    lines += [f"  {name}: {value}" for name, value in row.presets.items()]
    lines += [f"  stands in: {KINDS[row.kind]}"] if row.kind != "config" else []
    lines.append(f"  source: {row.source}")
    facts = [part for line in lines for part in _wrapped(line, "    ")]
    return [row.path, *_wrapped(f"  {row.meaning}", "  "), *facts]


def section_lines(path: str) -> list[str]:
    """What a section is for, above its settings; nothing for what is none."""
    meaning = section_meanings().get(path)
    return [*_wrapped(f"{path}: {meaning}", "  "), ""] if meaning else []


def _wrapped(line: str, indent: str) -> list[str]:
    return textwrap.wrap(line, 80, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _fits(pattern: str, path: str) -> bool:
    """Whether a path has the shape of one with names in capitals: arms.soft.label that of arms.ARM.label."""
    if not re.search(r"\b[A-Z]+\b", pattern):
        return False
    return re.fullmatch(re.sub(r"\b[A-Z]+\b", ".+", re.escape(pattern)), path) is not None


def _tells_of(pattern: str, path: str) -> bool:
    """Whether a path names what a pattern is a key of: arms.soft of arms.ARM.label, or a setting that is searched."""
    held = re.match(r"(.*\b[A-Z]+)\.", pattern)
    if held is None:
        return False
    settings = "|".join(re.escape(row.path) for row in _rows() if row.kind == "config")
    names = {"SETTING": f"(?:{settings})"}
    shape = re.sub(r"\b[A-Z]+\b", lambda name: names.get(name[0], "[^.]+"), re.escape(held[1]))
    return re.fullmatch(shape, path) is not None


def _nearest(path: str, rows: tuple[SettingRow, ...]) -> str:
    if path == "extends":
        return "it is a key of a config file, `extends: PRESET`: the file then says only what differs from that preset"
    return instead_of(_with_names(path), [row.path for row in rows], "`sage-ray config show` lists every setting")


def _with_names(path: str) -> str:
    """The path with the names in capitals that those of the user's own stand for: arms.ARM.lable of arms.soft.lable."""
    for key, (names, _) in _HELD.items():
        own = names.replace("SETTING", "*").split(".") if names else []
        shape = "".join(r"\..+" if name == "*" else r"\.[^.]+" for name in own)
        found = re.fullmatch(rf"{key}{shape}\.([^.]+)", path) if own else None
        if found:
            return f"{key}.{names}.{found[1]}"
    return path


@cache
def _rows() -> tuple[SettingRow, ...]:
    shared = set(StudyFile.model_fields)
    listed = list(_of_model(ExperimentConfig, "", "config"))
    listed += _of_model(StudyFile, "", "study")
    listed += _of_model(SpaceFile, "", "search", without=shared)
    listed += _of_model(DesignFile, "", "ablation", without=shared)
    return tuple(listed)


def _sections(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str]]:
    for name, info in model.model_fields.items():
        kind = _model_of(info.annotation)
        if kind is not None:
            yield f"{prefix}{name}", " ".join((kind.__doc__ or "").split("\n\n")[0].split())
            yield from _sections(kind, f"{prefix}{name}.")


def _model_of(annotation: Any) -> type[BaseModel] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _of_model(
    model: type[BaseModel], prefix: str, kind: Kind, *, without: set[str] | frozenset[str] = frozenset()
) -> Iterator[SettingRow]:
    later = introduction_values(model)
    for name, info in model.model_fields.items():
        if name in without:
            continue
        key = info.alias or name
        nested = _model_of(info.annotation)
        names, part = _HELD.get(key, ("", None))
        if nested is not None:
            yield from _of_model(nested, f"{prefix}{key}.", kind)
        elif part is not None and not isinstance(info.annotation, str):
            yield from _of_model(part, f"{prefix}{key}.{names}." if names else f"{prefix}{key}.", kind)
        else:
            yield _row(model, f"{prefix}{key}", kind, info, is_later=name in later)


def _row(model: type[BaseModel], path: str, kind: Kind, info: FieldInfo, *, is_later: bool) -> SettingRow:
    meaning, about = meaning_of(info)
    source = f"{model.__module__.replace('.', '/')}.py, {_owner(model, info)}"
    if about:
        source += f"; {METHOD}, row{'s' if ' ' in about else ''} {about}"
    if is_later:
        source += "; came after the first release"
    # A number's limits may stand at the field itself or inside a list.
    words, limits = _type_of(info.annotation, list(info.metadata))
    choices = CHOICES.get(path)
    return SettingRow(
        path=path,
        kind=kind,
        type="word" if choices else words,
        range=", ".join(choices) if choices else limits,
        default=_shown(info.get_default(call_default_factory=True)),
        meaning=meaning,
        source=source,
        presets=_preset_values(path) if kind == "config" else {},
    )


def _owner(model: type[BaseModel], info: FieldInfo) -> str:
    name = next((name for name, own in model.model_fields.items() if own is info), "")
    holder = next((base for base in model.__mro__ if name in getattr(base, "__annotations__", {})), model)
    return holder.__name__


def _type_of(annotation: Any, metadata: list[Any]) -> tuple[str, str]:
    """Type and range of a value, in words."""
    if get_origin(annotation) is not None and hasattr(annotation, "__metadata__"):  # Annotated
        inner = [part for each in annotation.__metadata__ for part in (getattr(each, "metadata", None) or [each])]
        return _type_of(get_args(annotation)[0], [*inner, *metadata])
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return "word", ", ".join(map(str, args))
    if origin in (Union, types.UnionType):
        return _type_of_union(args, metadata)
    if origin is tuple:
        return _type_of_tuple(args)
    if origin is dict:
        return "names with values", ""
    if _model_of(annotation) is not None:
        return "as `objective`" if annotation is ObjectivePart else "keys with values", ""
    return _WORDS.get(annotation, "text"), _limits(metadata)


def _type_of_union(args: tuple[Any, ...], metadata: list[Any]) -> tuple[str, str]:
    parts = [_type_of(arg, metadata) for arg in args if arg is not type(None)]
    words = " or ".join(limits.replace(", ", " or ") if word == "word" else word for word, limits in parts)
    limits = "; ".join(limits for word, limits in parts if limits and word != "word")
    return (f"{words}, or null" if type(None) in args else words), limits


def _type_of_tuple(args: tuple[Any, ...]) -> tuple[str, str]:
    word, limits = _type_of(args[0], [])
    many = word if word.endswith(("values", "text")) else f"{word.removeprefix('any ')}s"
    return (f"two {many}" if len(args) == 2 and args[1] is not Ellipsis else f"list of {many}"), limits


def _limits(metadata: list[Any]) -> str:
    """The range of a number: above 0, 0 to 1, at least 1; empty without limits."""
    found: dict[str, Any] = {}
    for each in metadata:
        for name in ("gt", "ge", "lt", "le"):
            if getattr(each, name, None) is not None:
                found[name] = getattr(each, name)
    low = f"above {found['gt']:g}" if "gt" in found else f"at least {found['ge']:g}" if "ge" in found else ""
    high = f"below {found['lt']:g}" if "lt" in found else f"at most {found['le']:g}" if "le" in found else ""
    if "ge" in found and "le" in found:
        return f"{found['ge']:g} to {found['le']:g}"
    return " and ".join(part for part in (low, high) if part)


def _shown(value: Any) -> str:
    """A default as it would stand in a YAML file; empty where there is none."""
    if value is PydanticUndefined:
        return ""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, str):
        return value or '""'
    if isinstance(value, list | tuple):
        return f"[{', '.join(_shown(item) for item in value)}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_shown(item)}" for key, item in value.items()) + "}"
    return f"{value:g}" if isinstance(value, float) else str(value)


@cache
def _preset_leaves(name: str) -> dict[str, Any]:
    return flatten(preset_tree(name)[0])


def _preset_values(path: str) -> dict[str, str]:
    given = {name: _preset_leaves(name).get(path) for name in PRESETS if path in _preset_leaves(name)}
    default: Any = ExperimentConfig.model_construct()
    for part in path.split("."):
        default = getattr(default, part)
    plain = _shown(default)
    return {name: _shown(value) for name, value in given.items() if _shown(value) != plain}
