"""One file from an http(s) address onto disk: whole or not at all, taken up again where a connection broke."""

from __future__ import annotations

import http.client
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from pathlib import Path

from sage_ray.errors import UserError

TIMEOUT_S = 60.0
"""Limit on connecting and on each read."""
WAITS_S = (1.0, 4.0)
"""Waits before the second and the third attempt."""
TELL_EVERY_S = 10.0
CHUNK_BYTES = 1 << 20
CANNOT = "cannot be fetched"
"""What an error says when the address gives no whole file."""

Say = Callable[[str], None]


class _Broken(Exception):
    """An attempt that another one may mend."""


@dataclass
class _Transfer:
    """What has arrived so far, and the mark of the version that it belongs to."""

    target: Path
    limit: int
    url: str
    say: Say
    size: int = 0
    version: str | None = None


def download(url: str, target: Path, limit_bytes: int, say: Say) -> int:
    """Size in bytes of `target` after the file at `url` has been written there.

    A broken connection, a time-out and an error of the server (5xx, 429) are tried again, twice; what has arrived is
    kept if the server can go on from there. Proxies are those of the environment (`https_proxy`, `no_proxy`).

    Raises:
        UserError: no http(s) address, no whole answer after three attempts, or more than `limit_bytes`.
    """
    if not url.lower().startswith(("http://", "https://")):
        raise UserError("unsupported address", url, "give an http:// or https:// address of a zip archive")
    say(f"fetching {url}")
    transfer = _Transfer(target, limit_bytes, url, say)
    for wait in (*WAITS_S, None):
        try:
            _attempt(transfer)
        except _Broken as broken:
            if wait is None:
                mend = f"{broken}; check the address, the network and its proxy (https_proxy), and try again"
                raise UserError(CANNOT, url, mend) from None
            say(f"{broken}; trying again in {wait:g} s")
            time.sleep(wait)
        else:
            say(f"fetched {transfer.size / 1e6:.1f} MB")
            return transfer.size
    raise AssertionError("the last attempt returns or raises")


def check_room(folder: Path, needed_bytes: int, url: str) -> None:
    """Raise UserError if the disk of `folder` has less than `needed_bytes` free for what comes from `url`."""
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        mend = f"{needed_bytes / 1e6:,.0f} MB are needed and {free / 1e6:,.0f} MB free; nothing was kept"
        raise UserError("disk is too full", url, mend)


def _attempt(transfer: _Transfer) -> None:
    headers = {"User-Agent": "sage-ray"}
    if transfer.size and transfer.version:
        headers |= {"Range": f"bytes={transfer.size}-", "If-Range": transfer.version}
    try:
        request = urllib.request.Request(transfer.url, headers=headers)
        # Not `urlopen`: it keeps the proxies of its first call in the process.
        with urllib.request.build_opener().open(request, timeout=TIMEOUT_S) as answer:
            _receive(transfer, answer)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # what has arrived is past the end of the file, so it is another version
            transfer.size, transfer.version = 0, None
        if error.code in (416, 429) or error.code >= 500:
            raise _Broken(f"the server says {error.code} {error.reason}") from None
        mend = f"the server says {error.code} {error.reason}; check the address"
        raise UserError(CANNOT, transfer.url, mend) from None
    except (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
        cause = getattr(error, "reason", None) or error
        reason = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
        tail = f" after {transfer.size / 1e6:.1f} MB" if transfer.size else ""
        raise _Broken(f"{reason}{tail}") from None
    except UserError:
        raise
    except ValueError as error:  # of an address that is none
        raise UserError(CANNOT, transfer.url, f"{error}; check the address") from None


def _receive(transfer: _Transfer, answer: http.client.HTTPResponse) -> None:
    continued = answer.status == 206
    if not continued:
        transfer.size = 0
    transfer.version = _version(answer.headers)
    announced = answer.headers.get("Content-Length", "")
    total = transfer.size + int(announced) if announced.isdigit() else None
    _within_limit(transfer, total or 0)
    check_room(transfer.target.parent, (total or 0) - transfer.size, transfer.url)
    told = time.monotonic()
    with transfer.target.open("ab" if continued else "wb") as file:
        while chunk := answer.read(CHUNK_BYTES):
            file.write(chunk)
            transfer.size += len(chunk)
            _within_limit(transfer, transfer.size)
            if time.monotonic() - told > TELL_EVERY_S:
                told = time.monotonic()
                of_all = f" of {total / 1e6:.1f}" if total else ""
                transfer.say(f"{transfer.size / 1e6:.1f}{of_all} MB")
    # A connection that closes early looks like the end of the file to `read`.
    if total is not None and transfer.size < total:
        raise ConnectionError("the connection closed early")


def _version(headers: Message) -> str | None:
    """A strong mark of this version of the file, if the server can send the rest of it; else None."""
    mark = headers.get("ETag", "")
    return mark if headers.get("Accept-Ranges") == "bytes" and mark.startswith('"') else None


def _within_limit(transfer: _Transfer, size: int) -> None:
    if size > transfer.limit:
        mend = f"it is larger than {transfer.limit / 1e6:,.0f} MB, so it is not what was asked for"
        raise UserError("archive is too large", transfer.url, mend)
