"""Who a home is: an id made once for each, which a moved home keeps and a copy does not."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sage_ray.errors import UserError
from sage_ray.files import read_json, write_json
from sage_ray.locks import locked

FILE = "home.json"
LOCK_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class HomeIdentity:
    """32 hex digits of a home, and those that the home had which it is a copy of (its own if it is none)."""

    id: str
    origin: str
    news: str | None = None
    """One line for the user, if it was noticed by this very look that the home is a copy."""


def settle_identity(folder: Path, place: str | None = None) -> HomeIdentity:
    """The identity of the home in `folder`; made, or made anew for a copy, where need be.

    `home.json` notes the place where the home was last used. Where it is opened elsewhere, and the place noted still
    holds a home of the same id in another folder, this one is a copy and gets an id of its own. If nothing is there any
    more, the home was moved. The same folder under a second name (a link, another mount) is no copy.

    Args:
        folder: of the home.
        place: the address of a home in a bucket, of which `folder` is this process's view; a bucket is not moved, so
            that what is found at another address is a copy.

    Raises:
        UserError: `home.json` is damaged.
    """
    file, here = folder / FILE, place or os.path.realpath(folder)
    facts = _read(file) if file.exists() else {}
    if facts.get("place") == here:
        return _identity(facts)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with locked(folder / ".home.lock", LOCK_TIMEOUT_S):
            return _settle(folder, file, here, in_bucket=place is not None)
    except OSError:
        if facts:  # a home that can only be read: whoever may write to it will note the place
            return _identity(facts)
        raise


def _settle(folder: Path, file: Path, here: str, *, in_bucket: bool) -> HomeIdentity:
    facts: dict[str, Any] = _read(file) if file.exists() else {"format_version": 1, "id": uuid.uuid4().hex}
    before = facts.get("place")
    if before == here:  # another process was first
        return _identity(facts)
    place = None if before is None else Path(before)
    news = None
    if place is not None and (in_bucket or _id_at(place) == facts["id"]):
        if not in_bucket and _same_folder(place, folder):
            return _identity(facts)
        facts = {**facts, "id": uuid.uuid4().hex, "origin": facts.get("origin", facts["id"]), "copied_from": before}
        news = f"this home is a copy of {before}: what it sends to a shared MLflow is kept apart from now on"
    write_json(file, {**facts, "place": here})
    return _identity(facts, news)


def _identity(facts: Mapping[str, Any], news: str | None = None) -> HomeIdentity:
    return HomeIdentity(str(facts["id"]), str(facts.get("origin", facts["id"])), news)


def _read(file: Path) -> dict[str, Any]:
    try:
        facts = dict(read_json(file))
        facts["id"] = str(facts["id"])
    except (OSError, ValueError, TypeError, KeyError):
        mend = "restore it, or remove it: the home then sends its runs to MLflow once more, under a new id"
        raise UserError("damaged file", file, mend) from None
    return facts


def _id_at(place: Path) -> str | None:
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        return str(read_json(place / FILE)["id"])
    return None


def _same_folder(one: Path, other: Path) -> bool:
    """Whether two paths lead to one folder; what is written through the second is seen through the first.

    Device and inode do not tell: a share that is mounted twice has two devices.
    """
    with contextlib.suppress(OSError):
        if one.samefile(other):
            return True
    probe = f".same-{uuid.uuid4().hex[:12]}"
    try:
        (other / probe).touch()
        return (one / probe).exists()
    finally:
        (other / probe).unlink(missing_ok=True)
