"""A home in a bucket, as a process sees it: a folder of its own that follows the bucket.

All code works on files of a folder. Of a home in a bucket each process has its own folder, on its machine: `pull`
brings in what others have stored, `push` sends what has changed here. Models and pictures come where they are asked
for. A process sends what it has written and nothing else, and never writes over a change of its own that it has not
sent; two processes do not write one file, since whoever writes holds the lease of the run or study, which is in the
bucket.

What was read last is kept on the machine, for all processes (`cache_folder`).
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from sage_ray.errors import UserError
from sage_ray.files import replacing
from sage_ray.object_store import Entry, ObjectStore, open_object_store

SMALL_BYTES = 256 * 2**10
"""Larger files of `PRODUCTS` come in only where they are asked for."""
PRODUCTS = ("artifacts", "package")
"""Folders of what a run has made beside its record: models and pictures. Tables and all else come in at any size."""
AT_ONCE = 16
OWN = ("cache", "stages", "mlartifacts", "data")
"""Below the home: folders of this machine alone, and what is in the bucket by itself."""
BY_THEMSELVES = (".leases", ".sessions")
"""Folders anywhere in the home that are in the bucket by themselves."""
FORGOTTEN_S = 2 * 86400.0
"""A process's folder without a sign of life for so long was left by a kill."""
LEAVE_S = 10.0
"""A process that ends waits so long for what is being sent; then its folder is left to `FORGOTTEN_S`."""
VARIABLE = "SAGE_CACHE_DIR"
_ALIVE = ".alive"
_TEMPORARY = re.compile(r"\..*\.[0-9a-f]{12}\.tmp")
_FOLLOWED: dict[str, Followed] = {}


@dataclass
class _Known:
    """A file as it was when it and the bucket agreed: the bucket's mark, and the file's time and size."""

    mark: str
    stat: tuple[int, int]


class Followed:
    """The folder of this process for a home in a bucket.

    Attributes:
        address: of the home, such as s3://bucket/prefix.
        store: the home in the bucket.
        root: the folder.
        machine: folder of this machine, shared by its processes, for what may be deleted at any time.
    """

    def __init__(self, address: str) -> None:
        self.store: ObjectStore = open_object_store(address)
        self.address = self.store.uri
        self.machine = cache_folder() / "homes" / hashlib.sha256(self.address.encode()).hexdigest()[:16]
        self.root = self.machine / f"process-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._known: dict[str, _Known] = {}
        self._looked: dict[str, float] = {}
        self._lock = threading.RLock()
        self._left = False
        self._make()
        atexit.register(self.leave)

    def pull(self, place: Path, *, every_s: float = 0.0, all_sizes: bool = False) -> None:
        """Bring a file or folder up to date with the bucket; what has changed here and was not sent stays.

        Args:
            place: in the folder; it need not exist.
            every_s: nothing happens if this, or a folder above it, was looked at so lately.
            all_sizes: bring in large files too.
        """
        name = self._name(place)
        if name is None:
            return
        with self._lock:
            if self._is_gone() or (every_s and self._looked_lately(name, every_s)):
                return
            self._sign()
            self._looked[name] = time.monotonic()
            listed = {entry.name: entry for entry in self.store.names(name) if not _is_apart(entry.name)}
            if not listed and name:  # a file, or nothing
                self._pull_file(name)
                return
            wanted = [e for e in listed.values() if (all_sizes or _comes_along(e)) and self._is_news(e)]
            with ThreadPoolExecutor(AT_ONCE) as pool:
                for entry, content in zip(wanted, pool.map(self._content, wanted), strict=True):
                    if content is not None:
                        self._put(entry, content)
            for gone in [n for n in self._known if _is_below(n, name) and n not in listed]:
                self._take_away(gone)

    def push(self, place: Path) -> None:
        """Send what has changed in a file or folder, records last: who reads one finds all that it speaks of."""
        name = self._name(place)
        if name is None:
            return
        with self._lock:
            if self._is_gone():
                return
            self._sign()
            here = sorted(self._files(place), key=lambda found: (Path(found).name in _LAST, found))
            for found in here:
                with contextlib.suppress(FileNotFoundError):  # removed meanwhile, by another thread
                    self._send(found)
            gone = [n for n in self._known if _is_below(n, name) and not (self.root / n).exists()]
            if gone and not self._is_gone():
                self.store.delete(gone)
                for each in gone:
                    del self._known[each]

    def remove(self, place: Path) -> None:
        """Remove a file or folder, here and in the bucket, whatever is in it."""
        name = self._name(place)
        if name is None:
            return
        with self._lock:
            self.store.delete([name, *(entry.name for entry in self.store.names(name))])
            for each in [n for n in self._known if _is_below(n, name)]:
                del self._known[each]
            if place.is_dir():
                shutil.rmtree(place, ignore_errors=True)
            else:
                place.unlink(missing_ok=True)

    def exists(self, place: Path, *, every_s: float = 0.0) -> bool:
        """Whether there is a file: one made here, or in the bucket, which is asked at most every `every_s` seconds."""
        name = self._name(place)
        if name is None:
            return place.exists()
        with self._lock:
            made_here = place.exists() and name not in self._known
            if not made_here and not (every_s and self._looked_lately(name, every_s)):
                self._looked[name] = time.monotonic()
                self._pull_file(name)
            return place.exists()

    def leave(self) -> None:
        """Remove the folder; what was not sent is lost.

        Threads that go on while the process ends must not take the files for removed: nothing is sent from now on.
        """
        self._left = True
        if self._lock.acquire(timeout=LEAVE_S):
            try:
                shutil.rmtree(self.root, ignore_errors=True)
            finally:
                self._lock.release()

    def _is_gone(self) -> bool:
        """Whether the folder is no more: this process ends, or somebody has removed the cache of this machine."""
        return self._left or not self.root.is_dir()

    def _make(self) -> None:
        try:
            for folder in (self.root, self.machine / "cache", self.machine / "objects"):
                folder.mkdir(parents=True, exist_ok=True)
            (self.root / _ALIVE).touch()
        except OSError as error:
            mend = f"set {VARIABLE} to a folder of this machine that can be written"
            reason = error.strerror or str(error)
            raise UserError("no folder for a home in a bucket", f"{self.root} ({reason})", mend) from None
        before = time.time() - FORGOTTEN_S
        for left in self.machine.glob("process-*"):
            with contextlib.suppress(OSError):
                if (left / _ALIVE).stat().st_mtime < before:
                    shutil.rmtree(left, ignore_errors=True)

    def _sign(self) -> None:
        with contextlib.suppress(OSError):
            (self.root / _ALIVE).touch()

    def _name(self, place: Path) -> str | None:
        """Name of a place in the bucket; None for what is not kept there."""
        parts = place.relative_to(self.root).parts
        name = "/".join(parts)
        return None if _is_apart(name) else name

    def _looked_lately(self, name: str, every_s: float) -> bool:
        above = [name, *(str(parent) for parent in Path(name).parents if str(parent) != ".")]
        return any(time.monotonic() - self._looked.get(each, float("-inf")) < every_s for each in above)

    def _pull_file(self, name: str) -> None:
        """Bring a single file up to date; what is below the name is gone if it was a folder."""
        try:
            content = self.store.read(name)
        except FileNotFoundError:
            for gone in [n for n in self._known if _is_below(n, name)]:
                self._take_away(gone)
            return
        path = self.root / name
        ours = path.exists() and not (name in self._known and self._unchanged(name))
        removed_here = name in self._known and not path.exists()
        if not ours and not removed_here and (not path.exists() or path.read_bytes() != content):
            self._put(Entry(name, len(content)), content)

    def _is_news(self, entry: Entry) -> bool:
        known = self._known.get(entry.name)
        if known is None:
            return not (self.root / entry.name).exists()
        return known.mark != entry.mark and self._unchanged(entry.name)

    def _unchanged(self, name: str) -> bool:
        """Whether the file is as it was when it agreed with the bucket; one that was removed here is not."""
        with contextlib.suppress(FileNotFoundError):
            return self._known[name].stat == _stat(self.root / name)
        return False

    def _take_away(self, name: str) -> None:
        """Remove a file that is gone from the bucket, unless it has changed here."""
        if name in self._known and self._unchanged(name):
            (self.root / name).unlink(missing_ok=True)
        self._known.pop(name, None)

    def _content(self, entry: Entry) -> bytes | None:
        """The content of an object; what this machine has read of it last is kept."""
        kept, head = (
            self.machine / "objects" / hashlib.sha256(entry.name.encode()).hexdigest(),
            entry.mark.encode() + b"\n",
        )
        with contextlib.suppress(OSError):
            known = kept.read_bytes()
            if known.startswith(head):
                return known[len(head) :]
        try:
            content = self.store.read(entry.name)
        except FileNotFoundError:
            return None
        with contextlib.suppress(OSError), replacing(kept, durable=False) as temporary:
            temporary.write_bytes(head + content)
        return content

    def _put(self, entry: Entry, content: bytes) -> None:
        path = self.root / entry.name
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, durable=False) as temporary:
            temporary.write_bytes(content)
        self._known[entry.name] = _Known(entry.mark, _stat(path))

    def _send(self, name: str) -> None:
        path, known = self.root / name, self._known.get(name)
        stat = _stat(path)
        if known is None or known.stat != stat:
            mark = self.store.write(name, path.read_bytes())
            self._known[name] = _Known(mark, stat)

    def _files(self, place: Path) -> Iterator[str]:
        if place.is_file():
            yield self._relative(place)
            return
        for folder, below, files in os.walk(place):
            below[:] = [each for each in below if not _is_apart(self._relative(Path(folder) / each))]
            for file in files:
                if not _TEMPORARY.fullmatch(file) and file != _ALIVE:
                    yield self._relative(Path(folder) / file)

    def _relative(self, path: Path) -> str:
        return "/".join(path.relative_to(self.root).parts)


def _is_apart(name: str) -> bool:
    """Whether a name is that of something that is not followed."""
    parts = name.split("/")
    return parts[0] in OWN or any(part in BY_THEMSELVES for part in parts)


def _comes_along(entry: Entry) -> bool:
    product = any(part in PRODUCTS for part in entry.name.split("/")) and not entry.name.endswith((".json", ".parquet"))
    return entry.size <= SMALL_BYTES or not product


_LAST = ("record.json", "study.json")


def follow(address: str) -> Followed:
    """The folder of this process for the home at an address; the same at each call.

    Raises:
        UserError: the bucket cannot be used, or the folder not be made.
    """
    uri = open_object_store(address).uri
    if uri not in _FOLLOWED or not _FOLLOWED[uri].root.is_dir():
        _FOLLOWED[uri] = Followed(uri)
    return _FOLLOWED[uri]


def following(path: Path) -> Followed | None:
    """Who keeps the home in step in which a path lies; None for a home that is a folder of its own."""
    return next((each for each in _FOLLOWED.values() if path.is_relative_to(each.root)), None)


def owner_of_cache(cache_dir: Path) -> Followed | None:
    """The home in a bucket whose cache on this machine a folder is; None for any other folder."""
    return next((each for each in _FOLLOWED.values() if each.machine / "cache" == cache_dir), None)


def pull(path: Path, *, every_s: float = 0.0, all_sizes: bool = False) -> None:
    """`Followed.pull` where the path lies in a home in a bucket; else nothing."""
    home = following(path)
    if home is not None:
        home.pull(path, every_s=every_s, all_sizes=all_sizes)


def push(path: Path) -> None:
    """`Followed.push` where the path lies in a home in a bucket; else nothing."""
    home = following(path)
    if home is not None:
        home.push(path)


def exists(path: Path, *, every_s: float = 0.0) -> bool:
    """Whether there is a file; in a home in a bucket, whoever has made it."""
    home = following(path)
    return path.exists() if home is None else home.exists(path, every_s=every_s)


def cache_folder() -> Path:
    """Folder of this user on this machine: `SAGE_CACHE_DIR`, else sage_ray in the user's cache folder."""
    given = os.environ.get(VARIABLE)
    usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sage_ray"
    return (Path(given).expanduser() if given else usual).absolute()


def _is_below(name: str, folder: str) -> bool:
    return not folder or name == folder or name.startswith(f"{folder}/")


def _stat(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size


def in_words(said: str | Path) -> str:
    """A path, or a text with paths in it, as a user knows them: in a home in a bucket by its address."""
    text = str(said)
    for home in _FOLLOWED.values():
        text = text.replace(str(home.root), home.address)
    return text
