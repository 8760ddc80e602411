"""Decoded images and masks on disk, memory-mapped and shared by all processes of a machine.

`cache_dir/KEY/` holds images.npy and masks.npy, (N,H,W) uint8, and meta.json with the sha256 of both. It is built under
a temporary name and renamed, by one process while the others wait; a damaged one is built again.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from sage_ray.errors import UserError
from sage_ray.files import sha256_of
from sage_ray.locks import locked

FORMAT_VERSION = 1
_ARRAYS = ("images.npy", "masks.npy")
FILES = (*_ARRAYS, "meta.json")
"""Files of an entry; the last one has the check sums of the others."""
_LOCK_TIMEOUT_S = 3600
# Entries that this process has checked, by folder and state of the files: a sweep's trials reopen one entry many times.
_checked: set[tuple[Any, ...]] = set()


@dataclass(frozen=True, eq=False)
class CacheEntry:
    """Arrays (N,H,W) uint8, memory-mapped read-only, and one dict of facts per row."""

    images: np.ndarray
    masks: np.ndarray
    facts: list[dict[str, Any]]


Row = tuple[np.ndarray, np.ndarray, dict[str, Any]]
"""One cache row: image (H,W) uint8, mask (H,W) uint8 in {0,1}, and facts that JSON can hold."""


def open_or_build(
    cache_dir: Path, key: str, num: int, rows: Callable[[], Iterable[Row]], say: Callable[[str], None]
) -> CacheEntry:
    """The entry `key`; if it is not there or damaged, it is built from the `num` rows of `rows()`, one held at a time.

    Raises:
        UserError: the folder cannot be written, or another process holds the lock for an hour; and what `rows` raises.
    """
    folder = cache_dir / key
    entry, _ = _open(folder)
    if entry is not None:
        return entry
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with locked(cache_dir / f"{key}.lock", _LOCK_TIMEOUT_S) as held:
            if not held:
                raise UserError("cache is locked by another process", folder, f"end it, or remove {key}.lock")
            entry, damage = _open(folder)
            if entry is not None:
                return entry
            if damage is not None:
                say(f"damaged cache {folder} ({damage}): decoding the images again")
            _build(folder, num, rows())
            entry, damage = _open(folder)
    except OSError as error:
        detail = error.strerror or str(error)
        mend = "choose a writable --home with free space"
        raise UserError(f"cannot write the cache ({detail})", folder, mend) from None
    assert entry is not None, damage
    return entry


def adopt(cache_dir: Path, key: str, read: Callable[[str], bytes]) -> CacheEntry | None:
    """The entry `key`, from its `FILES` as `read` gives them if it is not here; None if they are not sound.

    Raises:
        UserError: the folder cannot be written. FileNotFoundError: what `read` raises.
    """
    entry, _ = _open(cache_dir / key)
    if entry is not None:
        return entry
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with locked(cache_dir / f"{key}.lock", _LOCK_TIMEOUT_S):
            entry, _ = _open(cache_dir / key)
            if entry is None:
                temporary = Path(tempfile.mkdtemp(dir=cache_dir, prefix=f".{key}."))
                for name in FILES:
                    (temporary / name).write_bytes(read(name))
                shutil.rmtree(cache_dir / key, ignore_errors=True)
                os.replace(temporary, cache_dir / key)
                entry, _ = _open(cache_dir / key)
    except FileNotFoundError:
        raise
    except OSError as error:
        detail = error.strerror or str(error)
        raise UserError(f"cannot write the cache ({detail})", cache_dir, "free some space there") from None
    return entry


def _open(folder: Path) -> tuple[CacheEntry | None, str | None]:
    """The entry, or None and what is wrong with it (None if it simply is not there)."""
    if not folder.exists():
        return None, None
    try:
        meta = json.loads((folder / "meta.json").read_text())
        if meta["format_version"] != FORMAT_VERSION:
            return None, f"format {meta['format_version']}"
        state = tuple(_state(folder / name) for name in _ARRAYS)
        if (folder, state) not in _checked:
            for name in _ARRAYS:
                if sha256_of(folder / name) != meta["sha256"][name]:
                    return None, f"{name} does not match its checksum"
            _checked.add((folder, state))
        images, masks = (np.load(folder / name, mmap_mode="r") for name in _ARRAYS)
        facts = meta["facts"]
        if not len(images) == len(masks) == len(facts):
            return None, "arrays of different length"
        return CacheEntry(images, masks, facts), None
    except (OSError, ValueError, KeyError, TypeError) as error:
        return None, " ".join(str(error).split()) or type(error).__name__


def _state(path: Path) -> tuple[int, int, int]:
    facts = path.stat()
    return facts.st_size, facts.st_mtime_ns, facts.st_ino


def _build(folder: Path, num: int, rows: Iterable[Row]) -> None:
    for left in folder.parent.glob(f".{folder.name}.*"):  # of a builder that was killed; we hold the lock
        shutil.rmtree(left, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        facts: list[dict[str, Any]] = []
        with (temporary / _ARRAYS[0]).open("wb") as images, (temporary / _ARRAYS[1]).open("wb") as masks:
            writers = [_Writer(images, num), _Writer(masks, num)]
            for image, mask, fact in rows:
                writers[0].append(image)
                writers[1].append(mask)
                facts.append(fact)
        assert len(facts) == num, (len(facts), num)
        meta = {
            "format_version": FORMAT_VERSION,
            "sha256": {name: writer.digest.hexdigest() for name, writer in zip(_ARRAYS, writers, strict=True)},
            "facts": facts,
        }
        (temporary / "meta.json").write_text(json.dumps(meta))
        if folder.exists():
            # Readers that map the damaged files keep them until they close.
            folder.rename(temporary / "damaged")
        final = temporary.with_name(temporary.name + ".done")
        final.mkdir()
        for name in (*_ARRAYS, "meta.json"):
            (temporary / name).rename(final / name)
        os.replace(final, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


class _Writer:
    """Appends rows to an .npy file and hashes them; a full disk raises here, where a memory map would crash."""

    def __init__(self, stream: BinaryIO, num: int) -> None:
        self._stream, self._num = stream, num
        self._shape: tuple[int, ...] = ()
        self.digest = hashlib.sha256()

    def append(self, row: np.ndarray) -> None:
        assert row.dtype == np.uint8, row.dtype
        if not self._shape:
            self._shape = row.shape
            shape = (self._num, *row.shape)
            header = {"descr": np.lib.format.dtype_to_descr(row.dtype), "fortran_order": False, "shape": shape}
            head = io.BytesIO()
            np.lib.format.write_array_header_1_0(head, header)
            self._write(head.getvalue())
        self._write(row.tobytes())

    def _write(self, content: bytes) -> None:
        self.digest.update(content)
        self._stream.write(content)
