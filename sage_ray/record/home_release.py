"""Which release last wrote to a home: one of a newer release is refused by name, before anything of it is misread."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from sage_ray import __version__
from sage_ray.errors import UserError
from sage_ray.files import read_json, write_json
from sage_ray.locks import locked
from sage_ray.record.home_identity import FILE, LOCK_TIMEOUT_S

KEY = "release"


def refuse_newer(folder: Path) -> None:
    """Raise UserError if the home in `folder` was written by a newer release than this one."""
    written = _release(folder)
    if written is not None and _order(written) > _order(__version__):
        mend = f"upgrade to sage_ray {written}, or give another home with --home DIR or SAGE_HOME"
        raise UserError(f"home of sage_ray {written}, and this is {__version__}", folder, mend)


def note_release(folder: Path) -> None:
    """Note in `home.json`, which must exist, that this release writes to the home; an older note is replaced."""
    written = _release(folder)
    if written is not None and _order(written) >= _order(__version__):
        return
    with locked(folder / ".home.lock", LOCK_TIMEOUT_S):
        write_json(folder / FILE, {**read_json(folder / FILE), KEY: __version__})


def _release(folder: Path) -> str | None:
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        written = read_json(folder / FILE).get(KEY)
        return None if written is None else str(written)
    return None


def _order(release: str) -> tuple[int, ...]:
    """Numbers of a release, for comparison: (0, 4, 1) of "0.4.1rc2"."""
    return tuple(int(part) for part in re.findall(r"\d+", release)[:3])
