"""Fetching a public data set: one zip archive, checked, unpacked whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from sage_ray.data.download import CANNOT, CHUNK_BYTES, Say, check_room, download
from sage_ray.data.pairs import folder_fingerprint
from sage_ray.data.public import PublicSet
from sage_ray.errors import UserError
from sage_ray.files import sha256_of

MAX_UNPACKED_BYTES = 64 << 30
"""An archive that is, or claims to unpack to, more than this is refused before anything is written."""
MAX_MEMBERS = 1_000_000
_MARK = ".fetched-sha256"
_NOTE = "SOURCE.md"


def _silent(_: str) -> None: ...


def fetch_archive(url: str, out: str | Path, sha256: str, *, say: Say = _silent) -> int:
    """Number of files under `out` after the zip archive at `url` has been fetched, checked and unpacked there.

    A single folder at the top of the archive is dropped, so that images/ and masks/ lie right under `out`. Fetching the
    same archive again does nothing. `out` appears only when everything has been checked.

    Raises:
        UserError: the sum is no sha256 or does not match, the address does not answer, the file is no zip archive, a
            name in it leads outside, `out` holds other files, or the disk is full.
    """
    out = Path(out).expanduser().absolute()
    wanted = sha256.strip().lower()
    if len(wanted) != 64 or any(c not in "0123456789abcdef" for c in wanted):
        raise UserError("not a sha256", sha256, "give the 64 hex digits of the archive's check sum")
    if (out / _MARK).is_file() and (out / _MARK).read_text(encoding="ascii").strip() == wanted:
        say(f"{out} holds this archive already")
        return _count(out)
    with _scratch(out) as scratch:
        archive = scratch / "archive.zip"
        download(url, archive, MAX_UNPACKED_BYTES, say)
        found = sha256_of(archive)
        if found != wanted:
            raise UserError(
                "wrong check sum", url, f"expected {wanted}, got {found}: the archive changed or was damaged"
            )
        unpacked = scratch / "unpacked"
        _unpack(archive, unpacked, url, MAX_UNPACKED_BYTES)
        (unpacked / _MARK).write_text(wanted + "\n", encoding="ascii")
        _put(unpacked, out)
    return _count(out)


def fetch_public(entry: PublicSet, out: str | Path, *, origin: str | None = None, say: Say = _silent) -> Path:
    """Folder that holds a public data set, fetched and checked by its data fingerprint; a folder that holds it stays.

    Only the set's two folders and its licence are unpacked, and a note on its source is added. `out` appears only when
    everything has been checked.

    Args:
        entry: the set.
        out: folder to make; it may exist if it is empty, or holds the set already.
        origin: another http(s) address, or a local file, of the same zip archive, as of a machine without network.
        say: told of progress.

    Raises:
        UserError: the address does not answer, the file is no zip archive or another one, `out` holds other files, or
            the disk is full.
    """
    out = Path(out).expanduser().absolute()
    if (out / entry.folders[0]).is_dir() and _holds(entry, out):
        say(f"{out} holds {entry.name} already")
        return out
    source = origin or entry.url
    with _scratch(out) as scratch:
        archive = scratch / "archive.zip"
        local = Path(source).expanduser()
        if origin and "://" not in origin:
            if not local.is_file():
                raise UserError("no such file", origin, "give a zip archive, or its http:// or https:// address")
            archive = local
        else:
            _download_set(source, archive, entry, say)
        unpacked = scratch / "unpacked"
        _unpack(archive, unpacked, source, entry.limit_bytes, lambda path: _belongs(path, entry))
        _check(entry, unpacked, source)
        (unpacked / _NOTE).write_text(entry.source_note(), encoding="utf-8")
        _put(unpacked, out)
    return out


def _download_set(source: str, archive: Path, entry: PublicSet, say: Say) -> None:
    try:
        download(source, archive, entry.limit_bytes, say)
    except UserError as error:
        if error.what != CANNOT:
            raise
        mend = f"{error.mend}; or fetch it elsewhere and give `--from FILE`"
        raise UserError(error.what, error.where, mend) from None


def _holds(entry: PublicSet, folder: Path) -> bool:
    try:
        return folder_fingerprint(folder) == (entry.fingerprint, entry.pairs)
    except UserError:
        return False


def _check(entry: PublicSet, unpacked: Path, source: str) -> None:
    wanted = f"{entry.pairs} pairs with data fingerprint {entry.fingerprint}"
    kept = f"this is not {entry.repository} at commit {entry.commit[:12]}, or it was damaged; nothing was kept"
    try:
        fingerprint, pairs = folder_fingerprint(unpacked)
    except UserError as error:
        name = Path(error.where).name
        raise UserError("wrong contents", source, f"expected {wanted}, found {error.what} ({name}): {kept}") from None
    if (fingerprint, pairs) != (entry.fingerprint, entry.pairs):
        found = f"{pairs} pairs with {fingerprint}"
        raise UserError("wrong contents", source, f"expected {wanted}, found {found}: {kept}")


def _belongs(path: PurePosixPath, entry: PublicSet) -> bool:
    """Whether a file of the repository is a picture of the set, or its licence."""
    if len(path.parts) == 1:
        return path.stem.upper() in ("LICENSE", "LICENCE")
    chosen = entry.stems is None or path.stem in entry.stems
    return len(path.parts) == 2 and path.parts[0] in entry.folders and chosen


@contextmanager
def _scratch(out: Path) -> Iterator[Path]:
    """A folder beside `out` for the time of a fetch, on the same disk; faults of the disk become a UserError."""
    if out.exists() and not out.is_dir():
        raise UserError("not a folder", out, "give another name")
    if out.is_dir() and any(out.iterdir()):
        raise UserError("folder is not empty", out, "give another, or empty it first")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
            yield Path(scratch)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            what = f"disk is full ({error.strerror})"
            raise UserError(what, out.parent, "free some space and try again; nothing was kept") from None
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG):
            raise UserError(f"cannot be written ({error.strerror})", out, "choose another folder") from None
        raise


def _put(unpacked: Path, out: Path) -> None:
    if out.exists():
        out.rmdir()
    os.replace(unpacked, out)


def _count(folder: Path) -> int:
    return sum(1 for path in folder.rglob("*") if path.is_file() and path.name != _MARK)


def _all(_: PurePosixPath) -> bool:
    return True


def _unpack(
    archive: Path, target: Path, url: str, limit_bytes: int, wanted: Callable[[PurePosixPath], bool] = _all
) -> None:
    """Write the files of an archive that are `wanted`, without its one top folder, under `target`."""
    try:
        with zipfile.ZipFile(archive) as package:
            members = _members(package, url, wanted)
            size = sum(info.file_size for info, _ in members)
            if size > limit_bytes:
                raise UserError("archive is too large", url, f"it unpacks to more than {limit_bytes / 1e6:,.0f} MB")
            check_room(target.parent, size, url)
            for info, path in members:
                (target / path).parent.mkdir(parents=True, exist_ok=True)
                # `open` gives no more than the announced size, and checks the sum of what it gives.
                with package.open(info) as source, (target / path).open("wb") as file:
                    shutil.copyfileobj(source, file, CHUNK_BYTES)
    except zipfile.BadZipFile as error:
        raise UserError("not a zip archive, or a damaged one", url, f"{error}; give a whole .zip file") from None
    except (zlib.error, EOFError, RuntimeError) as error:  # broken data, a password, an unknown kind of packing
        raise UserError("archive cannot be unpacked", url, f"{error}; give a plain .zip file") from None
    if not target.is_dir():
        raise UserError("empty archive", url, "give an archive that holds images/ and masks/")


def _members(
    package: zipfile.ZipFile, url: str, wanted: Callable[[PurePosixPath], bool]
) -> list[tuple[zipfile.ZipInfo, PurePosixPath]]:
    """The wanted files of an archive with their places under the target; every name is judged, wanted or not."""
    infos = [info for info in package.infolist() if not info.is_dir()]
    if len(infos) > MAX_MEMBERS:
        raise UserError("archive has too many files", url, f"{len(infos):,}, at most {MAX_MEMBERS:,}")
    top = _common_folder([info.filename for info in infos])
    placed = [(info, _safe(info.filename, url).relative_to(top)) for info in infos]
    return [(info, path) for info, path in placed if wanted(path)]


def _safe(name: str, url: str) -> PurePosixPath:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not path.parts or ":" in path.parts[0]:
        raise UserError("unsafe name in archive", f"{url}: {name}", "an entry would land outside the folder")
    return path


def _common_folder(names: list[str]) -> PurePosixPath:
    """The one top folder of an archive, if everything lies in it and it is no data folder itself."""
    paths = [PurePosixPath(name.replace("\\", "/")) for name in names]
    tops = {path.parts[0] for path in paths if path.parts}
    nested = all(len(path.parts) > 1 for path in paths)
    if len(tops) == 1 and nested and not tops & {"images", "masks", "segmaps"}:
        return PurePosixPath(tops.pop())
    return PurePosixPath()
