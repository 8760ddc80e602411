"""Fetching a public data set: one zip archive, checked against its sum, unpacked whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from sage_ray.errors import UserError

TIMEOUT_S = 60
CHUNK_BYTES = 1 << 20
MAX_UNPACKED_BYTES = 64 << 30
"""An archive that claims to unpack to more than this is refused before anything is written."""
_MARK = ".fetched-sha256"


def fetch_archive(url: str, out: str | Path, sha256: str, *, say: Callable[[str], None] = lambda line: None) -> int:
    """Number of files under `out` after the zip archive at `url` has been fetched, checked and unpacked there.

    A single folder at the top of the archive is dropped, so that images/ and masks/ lie right under `out`. Fetching the
    same archive again does nothing. `out` appears only when everything has been checked.

    Raises:
        UserError: the sum is no sha256 or does not match, the address does not answer, the file is no zip archive, a
            name in it leads outside, or `out` holds other files.
    """
    out = Path(out).expanduser().absolute()
    wanted = sha256.strip().lower()
    if len(wanted) != 64 or any(c not in "0123456789abcdef" for c in wanted):
        raise UserError("not a sha256", sha256, "give the 64 hex digits of the archive's check sum")
    if (out / _MARK).is_file() and (out / _MARK).read_text(encoding="ascii").strip() == wanted:
        say(f"{out} holds this archive already")
        return _count(out)
    if out.exists() and any(out.iterdir()):
        raise UserError("folder is not empty", out, "give another, or empty it first")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        archive = Path(scratch) / "archive.zip"
        found = _download(url, archive, say)
        if found != wanted:
            raise UserError(
                "wrong check sum", url, f"expected {wanted}, got {found}: the archive changed or was damaged"
            )
        unpacked = Path(scratch) / "unpacked"
        _unpack(archive, unpacked, url)
        (unpacked / _MARK).write_text(wanted + "\n", encoding="ascii")
        if out.exists():
            out.rmdir()
        os.replace(unpacked, out)
    return _count(out)


def _count(folder: Path) -> int:
    return sum(1 for path in folder.rglob("*") if path.is_file() and path.name != _MARK)


def _download(url: str, target: Path, say: Callable[[str], None]) -> str:
    if not url.lower().startswith(("http://", "https://")):
        raise UserError("unsupported address", url, "give an http:// or https:// address of a zip archive")
    digest, size = hashlib.sha256(), 0
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer, target.open("wb") as file:
            while chunk := answer.read(CHUNK_BYTES):
                digest.update(chunk)
                file.write(chunk)
                size += len(chunk)
    except (urllib.error.URLError, TimeoutError, ConnectionError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError("cannot be fetched", url, f"{reason}; check the address and the network") from None
    say(f"fetched {size / 1e6:.1f} MB from {url}")
    return digest.hexdigest()


def _unpack(archive: Path, target: Path, url: str) -> None:
    try:
        with zipfile.ZipFile(archive) as package:
            members = [info for info in package.infolist() if not info.is_dir()]
            if sum(info.file_size for info in members) > MAX_UNPACKED_BYTES:
                raise UserError("archive is too large", url, f"it unpacks to more than {MAX_UNPACKED_BYTES >> 30} GiB")
            top = _common_folder([info.filename for info in members])
            for info in members:
                path = target / _safe(info.filename, url).relative_to(top)
                path.parent.mkdir(parents=True, exist_ok=True)
                with package.open(info) as source, path.open("wb") as file:
                    shutil.copyfileobj(source, file, CHUNK_BYTES)
    except zipfile.BadZipFile:
        raise UserError("not a zip archive", url, "give the address of a .zip file") from None
    if not target.is_dir():
        raise UserError("empty archive", url, "give an archive that holds images/ and masks/")


def _safe(name: str, url: str) -> PurePosixPath:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        raise UserError("unsafe name in archive", f"{url}: {name}", "an entry would land outside the folder")
    return path


def _common_folder(names: list[str]) -> PurePosixPath:
    """The one top folder of an archive, if everything lies in it and it is no data folder itself."""
    tops = {PurePosixPath(name.replace("\\", "/")).parts[0] for name in names}
    nested = all("/" in name.replace("\\", "/") for name in names)
    if len(tops) == 1 and nested and not tops & {"images", "masks", "segmaps"}:
        return PurePosixPath(tops.pop())
    return PurePosixPath()
