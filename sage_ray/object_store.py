"""Object stores: named bytes, written whole, created once, listed; a folder (also on NFS), S3 or Google's.

Names are relative and have "/" between their parts; a folder is what names have in common, so that it goes with its
last object. Settings of a store that is no folder come from the usual variables: AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_PROFILE, AWS_REGION, AWS_ENDPOINT_URL; GOOGLE_APPLICATION_CREDENTIALS,
GOOGLE_SERVICE_ACCOUNT, GOOGLE_BASE_URL.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from sage_ray.bucket_client import BucketClient, Options, bucket_client, place_of_address
from sage_ray.errors import StoreFailed, StoreRefused
from sage_ray.files import replacing
from sage_ray.store_faults import StoreFault

PART_BYTES = 8 << 20
"""Larger contents are uploaded in parts of this size."""
PARTS_AT_ONCE = 4
_Result = TypeVar("_Result")
_TEMPORARY = re.compile(r"\..*\.[0-9a-f]{12}\.tmp")


@dataclass(frozen=True)
class Entry:
    """One object of a listing: its name below the store, its size in bytes, a mark that changes with its content."""

    name: str
    size: int
    mark: str = field(default="", compare=False)


class ObjectStore(Protocol):
    """Named bytes in a folder or bucket.

    A failed request of a store that is no folder is a `StoreFailed`, which is an OSError as those of a disk are.

    Attributes:
        uri: "s3://bucket/prefix", "gs://...", or an absolute folder path.
        local: the folder, if it is one.
    """

    uri: str
    local: Path | None

    def read(self, name: str) -> bytes:
        """The content of an object. Raises FileNotFoundError if it is not there."""

    def write(self, name: str, content: bytes, *, durable: bool = True) -> str:
        """Store an object whole or not at all, in place of what has the name, and return its mark (see `Entry`).

        `durable`: wait until the disk has it.
        """

    def create(self, name: str, content: bytes, *, durable: bool = True) -> bool:
        """Store an object unless the name is taken; of several callers exactly one gets True."""

    def names(self, prefix: str = "") -> list[Entry]:
        """All objects below the folder `prefix`, by name; one request per 1,000."""

    def folders(self, prefix: str = "") -> list[str]:
        """Names of the folders directly below `prefix`, sorted."""

    def exists(self, name: str) -> bool:
        """Whether there is an object of that name."""

    def delete(self, names: Iterable[str]) -> None:
        """Remove objects; those that are not there are no error."""

    def below(self, prefix: str) -> ObjectStore:
        """The store of what is below the folder `prefix`."""


def open_object_store(root: str | Path) -> ObjectStore:
    """The store at a folder, a file:// address, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX.

    A bucket is asked for its objects once per process, so that a wrong key is noticed before anything is computed.

    Raises:
        StoreRefused: no such bucket, no right, wrong region, a wrong or expired key, no answer.
        UserError: the address is none of these, or has credentials in it; `obstore` is not installed.
    """
    place = place_of_address(str(root))
    if isinstance(place, Path):
        return FolderStore(place)
    client = bucket_client(place.bucket, place.options)
    client.meet(place.prefix)
    return BucketStore(client, place.prefix)


def store_place(root: str | Path) -> str:
    """Where a store is, the same by whatever link a folder is reached; nothing is asked of a bucket.

    Raises:
        UserError: the address is that of no store.
    """
    place = place_of_address(str(root))
    if isinstance(place, Path):
        return str(place.expanduser().resolve())
    return f"{place.bucket}/{place.prefix}".rstrip("/")


def check_writable(store: ObjectStore) -> None:
    """Write, read and remove a small object, once per process and store that is no folder.

    Raises:
        StoreRefused: the store does not let us, or has lost what was written.
    """
    if not isinstance(store, BucketStore) or store.prefix in store.client.writable:
        return
    name, nonce = f".check-{uuid.uuid4().hex[:12]}", uuid.uuid4().bytes
    try:
        store.write(name, nonce)
        sound = store.read(name) == nonce
        store.delete([name])
    except StoreFailed as error:
        raise StoreRefused(error.what, store.uri, error.mend) from error
    except FileNotFoundError:
        sound = False
    if not sound:
        raise StoreRefused("the store does not give back what was written", store.uri, "use another store")
    store.client.writable.add(store.prefix)


class FolderStore:
    """An object store in a folder of a disk or share, which need not exist before the first write."""

    def __init__(self, path: Path) -> None:
        self.local: Path | None = path.expanduser().absolute()
        self.uri = str(self.local)
        self._path = self.local

    def read(self, name: str) -> bytes:
        """The content of a file. Raises FileNotFoundError if it is not there."""
        try:
            return self._file(name).read_bytes()
        except (NotADirectoryError, IsADirectoryError) as error:
            raise FileNotFoundError(errno.ENOENT, "no such object", str(self._file(name))) from error

    def write(self, name: str, content: bytes, *, durable: bool = True) -> str:
        """Write a file whole or not at all, in place of what has the name; returns its mark."""
        path = self._file(name)

        def replace() -> str:
            with replacing(path, durable=durable) as temporary:
                temporary.write_bytes(content)
                return _mark(temporary.stat())

        return self._in_folder(path, replace)

    def create(self, name: str, content: bytes, *, durable: bool = True) -> bool:
        """Write a file unless the name is taken; of several processes, also on several hosts, one gets True."""
        path = self._file(name)

        def link() -> bool:
            temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
            try:
                _write_through(temporary, content, durable=durable)
                return _link(temporary, path, content, durable=durable)
            finally:
                temporary.unlink(missing_ok=True)

        return self._in_folder(path, link)

    def names(self, prefix: str = "") -> list[Entry]:
        """All files below the folder `prefix`, by name; none that is being written."""
        start = self._file(prefix) if prefix else self._path
        return sorted(self._walk(start, f"{prefix.strip('/')}/" if prefix else ""), key=lambda entry: entry.name)

    def folders(self, prefix: str = "") -> list[str]:
        """Names of the folders directly below `prefix`, sorted."""
        try:
            with os.scandir(self._file(prefix) if prefix else self._path) as found:
                return sorted(entry.name for entry in found if entry.is_dir())
        except (FileNotFoundError, NotADirectoryError):
            return []

    def exists(self, name: str) -> bool:
        """Whether there is a file of that name."""
        return self._file(name).is_file()

    def delete(self, names: Iterable[str]) -> None:
        """Remove files, and folders that are empty then."""
        for name in names:
            path = self._file(name)
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                path.unlink()
            for folder in path.parents:
                if folder == self._path:
                    break
                try:
                    folder.rmdir()
                except FileNotFoundError:
                    continue
                except OSError:  # something is left in it
                    break

    def below(self, prefix: str) -> ObjectStore:
        """The store of a folder in this one."""
        return FolderStore(self._file(prefix))

    def _file(self, name: str) -> Path:
        return self._path / _checked(name)

    def _in_folder(self, path: Path, action: Callable[[], _Result]) -> _Result:
        """The result of `action` in the file's folder, which is made; another process may remove it while empty."""
        for left in reversed(range(20)):
            try:
                os.makedirs(path.parent, exist_ok=True)
                return action()
            except (FileNotFoundError, FileExistsError):
                if not left:
                    raise
        raise AssertionError

    def _walk(self, folder: Path, prefix: str) -> Iterator[Entry]:
        try:
            with os.scandir(folder) as found:
                entries = list(found)
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in entries:
            if entry.is_dir():
                yield from self._walk(Path(entry.path), f"{prefix}{entry.name}/")
            elif not _TEMPORARY.fullmatch(entry.name):
                with contextlib.suppress(FileNotFoundError):  # removed since
                    facts = entry.stat()
                    yield Entry(prefix + entry.name, facts.st_size, _mark(facts))


class BucketStore:
    """An object store in a bucket, reached through `obstore`."""

    local: Path | None = None

    def __init__(self, client: BucketClient, prefix: str) -> None:
        self.client, self.prefix = client, prefix
        self.uri = f"{client.address}/{prefix}" if prefix else client.address

    def read(self, name: str) -> bytes:
        """The content of an object. Raises FileNotFoundError if it is not there."""
        path = self._path(name)
        with self._told(name):
            return bytes(self.client.patient.get(path).bytes())
        raise AssertionError

    def write(self, name: str, content: bytes, *, durable: bool = True) -> str:
        """Store an object whole or not at all; what is large goes in parts. A bucket always keeps what it confirms."""
        path = self._path(name)
        with self._told(name):
            done = self.client.patient.put(path, content, chunk_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE)
            return str(done["e_tag"])
        raise AssertionError

    def create(self, name: str, content: bytes, *, durable: bool = True) -> bool:
        """Store an object unless the name is taken, by a conditional request; of several callers one gets True."""
        from obstore.exceptions import AlreadyExistsError

        path = self._path(name)
        with self._told(name):
            try:
                self.client.patient.put(path, content, mode="create")
                return True
            except AlreadyExistsError as error:
                # A request that was repeated may have met what it had itself written before its answer was lost.
                repeated = re.search(r"after \d+ retries", str(error)) is not None
        return repeated and self._has(name, content)

    def names(self, prefix: str = "") -> list[Entry]:
        """All objects below the folder `prefix`, by name; one request per 1,000."""
        path, start = self._path(prefix), len(self.prefix) + 1 if self.prefix else 0
        with self._told(prefix):
            chunks = self.client.patient.list(path or None, chunk_size=1000)
            found = [
                Entry(item["path"][start:], item["size"], str(item["e_tag"])) for chunk in chunks for item in chunk
            ]
        return sorted(found, key=lambda entry: entry.name)

    def folders(self, prefix: str = "") -> list[str]:
        """Names of the folders directly below `prefix`, sorted."""
        path = self._path(prefix)
        with self._told(prefix):
            found = self.client.patient.list_with_delimiter(path or None)["common_prefixes"]
        return sorted(path.rstrip("/").rpartition("/")[2] for path in found)

    def exists(self, name: str) -> bool:
        """Whether there is an object of that name."""
        path = self._path(name)
        try:
            with self._told(name):
                self.client.patient.head(path)
        except FileNotFoundError:
            return False
        return True

    def delete(self, names: Iterable[str]) -> None:
        """Remove objects, 1,000 per request where the store can; those that are not there are no error."""
        paths = [self._path(name) for name in names]
        groups = [paths] if self.client.address.startswith("s3://") else [[path] for path in paths]
        for group in groups:
            with contextlib.suppress(FileNotFoundError), self._told(group[0] if group else ""):
                if group:
                    self.client.patient.delete(group)

    def below(self, prefix: str) -> ObjectStore:
        """The store of what is below the folder `prefix`."""
        return BucketStore(self.client, self._path(prefix))

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.client.address, self.client.options, self.prefix)

    def _has(self, name: str, content: bytes) -> bool:
        try:
            return self.read(name) == content
        except FileNotFoundError:
            return False

    def _path(self, name: str) -> str:
        return "/".join(part for part in (self.prefix, _checked(name)) if part)

    @contextlib.contextmanager
    def _told(self, name: str) -> Iterator[None]:
        """Turns what the client raises into FileNotFoundError or one line."""
        from obstore.exceptions import BaseError

        try:
            yield
        except FileNotFoundError as error:
            fault = StoreFault(str(error), self.uri)
            if fault.no_bucket:
                raise fault.failed(name) from None
            raise FileNotFoundError(errno.ENOENT, "no such object", f"{self.uri}/{name}") from None
        except (BaseError, OSError, ValueError) as error:
            # Without the client's own message, which may have a key id or a signed text in it.
            raise StoreFault(str(error), self.uri).failed(name) from None


def _checked(name: str) -> str:
    """A relative name without empty parts at its ends."""
    parts = [part for part in name.strip("/").split("/") if part]
    if name.startswith("/") or any(part in (".", "..") for part in parts):
        raise ValueError(f"no name of an object: {name}")
    return "/".join(parts)


def _mark(found: os.stat_result) -> str:
    return f"{found.st_mtime_ns}-{found.st_size}"


def _write_through(path: Path, content: bytes, *, durable: bool) -> None:
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        if durable:
            os.fsync(file.fileno())


_NO_LINKS = {errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}


def _link(temporary: Path, path: Path, content: bytes, *, durable: bool) -> bool:
    """Give a file its name unless that is taken; whether it was free."""
    try:
        os.link(temporary, path)
        return True
    except OSError as error:
        # The answer of a share may be lost after it made the link: its own count of links tells.
        if os.stat(temporary).st_nlink == 2:
            return True
        if isinstance(error, FileExistsError):
            return False
        if error.errno not in _NO_LINKS:
            raise
    try:
        _write_through(path, content, durable=durable)
    except FileExistsError:
        return False
    return True


def _reopened(address: str, options: Options, prefix: str) -> BucketStore:
    return BucketStore(bucket_client(address, options), prefix)
