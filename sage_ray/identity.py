"""What is hashed of a setting, so that a release opens the homes of the one before.

The fields of the first release are hashed in full. A field that comes later declares its introduction value, the one
that reproduces the release before, and is left out of every hash while it has it: configs, studies and stages of before
keep their names. `tests/unit/test_identity.py` fails when a field comes without one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from typing import Any

from pydantic import BaseModel, Field

_LATER, _STANDS_FOR = "introduction_value", "hashed_as"


def later(default: Any, *, introduced: Any = ..., **field: Any) -> Any:
    """A pydantic field of a later release.

    Args:
        default: of the field.
        introduced: the value that reproduces the release before; default: `default`.
        field: further keywords of `pydantic.Field`.
    """
    value = default if introduced is ... else introduced
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else json.loads(json.dumps(value))
    return Field(default, json_schema_extra={_LATER: plain}, **field)


def widened(default: Any, *, hashed_as: Mapping[str, Any], **field: Any) -> Any:
    """A field of the first release that takes further words later, such as `auto`.

    Args:
        default: of the field.
        hashed_as: for each such word, the value of before that it is hashed as: what it came in for.
        field: further keywords of `pydantic.Field`.
    """
    return Field(default, json_schema_extra={_STANDS_FOR: dict(hashed_as)}, **field)


def introduction_values(model: type[BaseModel]) -> dict[str, Any]:
    """The introduction value of each field of a model that came later, as plain data; nested models are not entered."""
    declared = {name: info.json_schema_extra for name, info in model.model_fields.items()}
    return {n: extra[_LATER] for n, extra in declared.items() if isinstance(extra, dict) and _LATER in extra}


def identity_tree(model: BaseModel, *, exclude: Collection[str] = (), by_alias: bool = False) -> dict[str, Any]:
    """A model as plain data for hashing: `model_dump(mode="json")` without later fields at their introduction value.

    Args:
        model: a config, a section of it, or a part of a study's file.
        exclude: names of fields of this model that are left out altogether.
        by_alias: name fields by their alias, as in the file.
    """
    tree = model.model_dump(mode="json", exclude=set(exclude), by_alias=by_alias)
    _reduce(model, tree, by_alias)
    return tree


def _reduce(value: Any, tree: Any, by_alias: bool) -> None:
    """Bring the dump of a value, which may hold models, to what is hashed of it, in place."""
    if isinstance(value, BaseModel):
        for name, info in type(value).model_fields.items():
            key = (info.alias if by_alias else None) or name
            if key in tree:
                _reduce_field(info.json_schema_extra, tree, key)
            if key in tree:
                _reduce(getattr(value, name), tree[key], by_alias)
    elif isinstance(value, Mapping):
        for item, part in zip(value.values(), tree.values(), strict=True):
            _reduce(item, part, by_alias)
    elif isinstance(value, list | tuple):
        for item, part in zip(value, tree, strict=True):
            _reduce(item, part, by_alias)


def _reduce_field(declared: Any, tree: dict[str, Any], key: str) -> None:
    if not isinstance(declared, dict):
        return
    if _LATER in declared and tree[key] == declared[_LATER]:
        del tree[key]
        return
    stands_for = declared.get(_STANDS_FOR, {})
    if isinstance(tree[key], str):
        tree[key] = stands_for.get(tree[key], tree[key])


def stable_hash(value: Any) -> str:
    """16 hex digits of a sha256 over canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
