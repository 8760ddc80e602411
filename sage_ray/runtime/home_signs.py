"""Signs in a folder by which machines find out whether they share it: each writes one, and reads the others'."""

from __future__ import annotations

import contextlib
import shutil
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sage_ray.errors import UserError
from sage_ray.object_store import check_writable, open_object_store

FOLDER = ".nodes"
DRIVER = "driver"
WAIT_S = 15.0
"""Longest wait for a sign of another machine. A network file system may show it late, as it keeps what it knows."""
LOOK_S = 0.1
KEPT_S = 30 * 86400.0
"""Signs that a killed driver has left are removed after so long."""


@dataclass(frozen=True)
class CheckedNodes:
    """What a trial knows of the nodes that its driver has checked.

    Attributes:
        sign: that the driver has left in the home, by which a machine knows it; None: it is the driver's machine.
        avoid: nodes that get no worker, by Ray's names of them.
        fingerprint: of the data that it must find; None: whatever is there.
    """

    sign: str | None = None
    avoid: tuple[str, ...] = ()
    fingerprint: str | None = None


class HomeSigns:
    """The driver's signs, in each folder that is to be shared.

    Args:
        places: the folders, by what they are.
    """

    def __init__(self, places: Mapping[str, Path]) -> None:
        self.token = uuid.uuid4().hex
        self.places = dict(places)

    def put(self) -> None:
        """Write the driver's sign into each place.

        Raises:
            UserError: one cannot be written.
        """
        for what, place in self.places.items():
            folder = _folder(place, self.token)
            try:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / DRIVER).write_text(self.token)
            except OSError as error:
                mend = "mend its file system, or choose another"
                raise UserError(f"{what} cannot be written here", f"{place} ({_reason(error)})", mend) from None
            _remove_old(folder.parent)

    def read_back(self, node_id: str, wait_s: float = WAIT_S) -> str | None:
        """None once the signs of a node are here in all places; else the place that lacks one."""
        deadline = time.monotonic() + wait_s
        for what, place in self.places.items():
            if not _seen(_folder(place, self.token) / node_id, self.token, deadline):
                return what
        return None

    def clear(self) -> None:
        """Remove the signs: nobody looks for them any more."""
        for place in self.places.values():
            shutil.rmtree(_folder(place, self.token), ignore_errors=True)
            with contextlib.suppress(OSError):  # another study's are in it
                (place / FOLDER).rmdir()


def answer_signs(places: Mapping[str, str], token: str, node_id: str, wait_s: float = WAIT_S) -> str | None:
    """Look for the driver's signs on another machine and leave one beside each; returns what is wrong, or None."""
    deadline = time.monotonic() + wait_s
    for what, place in places.items():
        wrong = sign_missing(Path(place), token, deadline - time.monotonic())
        if wrong is not None:
            return f"{what} {wrong}"
        try:
            (_folder(Path(place), token) / node_id).write_text(token)
        except OSError as error:
            return f"{what} cannot be written ({place}: {_reason(error)})"
    return None


def sign_missing(named: str | Path, token: str, wait_s: float = WAIT_S) -> str | None:
    """What is wrong with a folder that the driver has signed, seen from this machine; None: it is the driver's.

    A bucket has one address everywhere: it is only tried whether it can be written from here.
    """
    if "://" in str(named):
        try:
            check_writable(open_object_store(str(named)))
        except UserError as error:
            return f"cannot be used from here: {error}"
        return None
    place = Path(named)
    if _seen(_folder(place, token) / DRIVER, token, time.monotonic() + wait_s):
        return None
    if not place.is_dir():
        return f"is not there ({place})"
    return f"is not the driver's: another disk lies at {place}"


def _seen(path: Path, text: str, deadline: float) -> bool:
    while True:
        with contextlib.suppress(OSError):
            if path.read_text() == text:
                return True
        if time.monotonic() >= deadline:
            return False
        with contextlib.suppress(OSError):  # listing a folder makes a network file system look again
            next(path.parent.iterdir(), None)
        time.sleep(LOOK_S)


def _folder(place: Path, token: str) -> Path:
    return place / FOLDER / token


def _remove_old(folder: Path) -> None:
    before = time.time() - KEPT_S
    with contextlib.suppress(OSError):
        for old in folder.iterdir():
            if old.stat().st_mtime < before:
                shutil.rmtree(old, ignore_errors=True)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
