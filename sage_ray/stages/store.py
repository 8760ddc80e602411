"""The stage store: snapshots by stage key and epoch in an object store (a folder, NFS, S3, Google's).

Layout: `KEY/EPOCH/{state.safetensors, meta.json}` and `KEY/best-SHA.safetensors`. A snapshot exists when its meta.json
can be read, and is trusted when the check sums hold. A damaged one is set aside, said, and computed again.

- A folder gets the whole snapshot under a temporary name, which is then renamed.
- A bucket has neither folders nor a rename: the state is stored first and `meta.json`, with its sha256, last, both
  under their final names. A damaged snapshot is removed there, as moving it would mean to send it twice.

The best weights so far change seldom and are stored once per change: a file named by its content, written before the
snapshots that refer to it and removed with the last of them. Format 1 (the first release) held them in every state.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load

from sage_ray.errors import SnapshotFailed, StoreFailed
from sage_ray.object_store import open_object_store
from sage_ray.stages.state_bytes import state_bytes

FORMAT_VERSION = 2
READABLE = (1, 2)
STATE, META, KEEP = "state.safetensors", "meta.json", "keep"
TEMPORARY, DAMAGED = ".tmp-", ".damaged-"
BEST = "best."
"""What the names of the best weights begin with, among the tensors of a snapshot."""
NEWEST = 2
"""Snapshots that are kept of a stage whatever their epochs: the newest, and one more should that be damaged."""
SECOND_LOOK_S = 0.5
"""After this a snapshot that seems damaged is read again: its parts are removed, or replaced, one after another."""


@dataclass(frozen=True)
class Snapshot:
    """A stage's state after `epoch` epochs of it: tensors by name, and plain data (`meta`).

    `keep` marks an epoch that runs start from: the end of some run's stage, or a budget of an open study. `prune` never
    drops it.
    """

    key: str
    epoch: int
    tensors: dict[str, torch.Tensor]
    meta: dict[str, Any]
    keep: bool = False


class _Damaged(Exception):
    """A snapshot that cannot be trusted; `file` is that of its best weights, if those are what is damaged."""

    def __init__(self, file: str | None = None) -> None:
        super().__init__()
        self.file = file


class StageStore:
    """Snapshots of stages, shared by all trials and studies.

    Attributes:
        objects: the object store that holds them.
        root: its address, or the path of its folder.
        local_root: its folder, if it is one.

    Args:
        root: folder, or address of an object store (s3://bucket/path, gs://bucket/path).
        say: told about damaged snapshots.

    Raises:
        UserError: the address is none, or the bucket cannot be used.
    """

    def __init__(self, root: str | Path, *, say: Callable[[str], None] | None = None) -> None:
        self.objects = open_object_store(root)
        self.root, self.local_root = self.objects.uri, self.objects.local
        self._folder = self.objects.local
        self._say = say or (lambda line: None)
        self._refers: dict[tuple[str, int], str | None] = {}
        """The file of best weights of each snapshot that was written or read here: what to ask for is known then."""

    def epochs(self, key: str) -> list[int]:
        """Epochs of `key` that have a snapshot, ascending, by one listing; check sums are not looked at."""
        return sorted(epoch for epoch, files in self._stored(key).items() if META in files)

    def latest(self, key: str, max_epoch: int) -> int:
        """The largest stored epoch of `key` that is at most `max_epoch`; 0 if there is none."""
        return max((epoch for epoch in self.epochs(key) if epoch <= max_epoch), default=0)

    def load_latest(self, key: str, max_epoch: int) -> Snapshot | None:
        """The newest sound snapshot of `key` at or below `max_epoch`; damaged ones are set aside and said.

        Raises:
            StoreFailed: a bucket does not answer, which says nothing about what is in it.
        """
        for epoch in reversed([e for e in self.epochs(key) if e <= max_epoch]):
            snapshot = self._load(key, epoch)
            if snapshot is not None:
                return snapshot
        return None

    def save(self, snapshot: Snapshot, best_sha: str | None = None) -> str | None:
        """Write a snapshot, all or nothing. A sound one of the same epoch stays, a damaged one is replaced.

        Args:
            snapshot: to be written.
            best_sha: what an earlier `save` returned for the same best weights: while their file is there, they are not
                looked at again.

        Returns:
            sha256 of the file of the best weights; None if there are none.

        Raises:
            SnapshotFailed: it could not be written (full disk, lost share); older snapshots stay valid.
        """
        key, epoch = snapshot.key, snapshot.epoch
        best = {name: tensor for name, tensor in snapshot.tensors.items() if name.startswith(BEST)}
        state = state_bytes({name: tensor for name, tensor in snapshot.tensors.items() if name not in best})
        try:
            if best_sha is None or self._folder is not None:
                best_sha = self._save_best(key, best, best_sha)
            meta = {
                "format_version": FORMAT_VERSION,
                "key": key,
                "epoch": epoch,
                "sha256": hashlib.sha256(state).hexdigest(),
                "best_sha256": best_sha,
                "meta": snapshot.meta,
            }
            files = {STATE: state} | ({KEEP: b""} if snapshot.keep else {}) | {META: json.dumps(meta).encode()}
            if self._folder is not None:
                self._put_in_place(self._folder / key, epoch, files)
            else:
                for name, content in files.items():
                    self.objects.write(f"{key}/{epoch}/{name}", content)
            self._refers[key, epoch] = _best_name(best_sha) if best_sha else None
            # Another worker of the same stage may have dropped the last snapshot that referred to the file meanwhile.
            return self._save_best(key, best, best_sha)
        except OSError as error:
            raise SnapshotFailed(
                f"snapshot not written: {self.root}/{key}/{epoch}: {error}; free space or choose another "
                "runtime.stage_store, then resume: the snapshot before it is valid"
            ) from error

    def keep(self, key: str, epoch: int) -> None:
        """Mark a stored snapshot as the end of a run's stage."""
        with contextlib.suppress(OSError):
            if self.objects.exists(f"{key}/{epoch}/{META}"):
                self.objects.write(f"{key}/{epoch}/{KEEP}", b"")

    def kept(self, key: str, epoch: int) -> bool:
        """Whether a stored snapshot is marked as one that runs start from."""
        return self.objects.exists(f"{key}/{epoch}/{KEEP}")

    def prune(self, key: str) -> None:
        """Drop the snapshots of `key` but the newest two and those that are marked; what cannot be, goes next time."""
        with contextlib.suppress(OSError):
            stored = self._stored(key)
            older = sorted(epoch for epoch, files in stored.items() if META in files)[:-NEWEST]
            self._drop(key, [epoch for epoch in older if KEEP not in stored[epoch]], stored)

    def drop(self, key: str, epochs: Collection[int]) -> None:
        """Remove snapshots of `key`, and the best weights that no other snapshot refers to; what cannot be, stays."""
        with contextlib.suppress(OSError):
            self._drop(key, epochs, self._stored(key))

    def best_file(self, key: str, epoch: int) -> str | None:
        """Name, in the stage's folder, of the file with the best weights of a snapshot; None if there is none."""
        whole = self.meta(key, epoch)
        return _best_name(whole["best_sha256"]) if whole and whole.get("best_sha256") else None

    def meta(self, key: str, epoch: int) -> dict[str, Any] | None:
        """The plain data of a snapshot, and what the store notes of it; None if it cannot be read."""
        try:
            return self._meta(key, epoch)
        except (OSError, _Damaged):
            return None

    def _stored(self, key: str) -> dict[int, dict[str, str]]:
        """By epoch the objects of its folder: their full names by name."""
        found: dict[int, dict[str, str]] = {}
        for entry in self.objects.names(key):
            parts = entry.name.split("/")
            if len(parts) == 3 and parts[1].isdigit():
                found.setdefault(int(parts[1]), {})[parts[2]] = entry.name
        return found

    def _drop(self, key: str, epochs: Collection[int], stored: dict[int, dict[str, str]]) -> None:
        going = [epoch for epoch in epochs if epoch in stored]
        left = [epoch for epoch, files in stored.items() if epoch not in going and META in files]
        known = {self._refers.get((key, epoch)) for epoch in left}
        files = {self._referred(key, epoch) for epoch in going} - known - {None}
        if files:
            files -= {self._referred_now(key, epoch) for epoch in left}
        # The notes first: without its meta.json a snapshot is none, however much of the rest is still there.
        names = [name for epoch in going for name in sorted(stored[epoch].values(), key=lambda name: META not in name)]
        self.objects.delete([*names, *(f"{key}/{file}" for file in sorted(filter(None, files)))])
        for epoch in going:
            self._refers.pop((key, epoch), None)

    def _referred(self, key: str, epoch: int) -> str | None:
        if (key, epoch) not in self._refers:
            self._refers[key, epoch] = self.best_file(key, epoch)
        return self._refers[key, epoch]

    def _referred_now(self, key: str, epoch: int) -> str | None:
        """As `best_file`; raises OSError if it cannot be told."""
        try:
            whole = self._meta(key, epoch)
        except (FileNotFoundError, _Damaged):  # nothing can start from it
            return None
        return _best_name(whole["best_sha256"]) if whole.get("best_sha256") else None

    def _load(self, key: str, epoch: int) -> Snapshot | None:
        try:
            return self._look_twice(key, epoch)
        except FileNotFoundError:  # another worker has dropped it
            return None
        except _Damaged as damage:
            self._set_aside(key, epoch, damage.file)
            return None

    def _look_twice(self, key: str, epoch: int) -> Snapshot:
        """As `_read`, which may have come between the steps of another worker who drops or replaces the snapshot."""
        try:
            return self._read(key, epoch)
        except _Damaged:
            time.sleep(SECOND_LOOK_S)
            return self._read(key, epoch)

    def _read(self, key: str, epoch: int) -> Snapshot:
        """A snapshot. Raises FileNotFoundError if there is none, _Damaged, or StoreFailed."""
        whole = self._meta(key, epoch)
        file = _best_name(whole["best_sha256"]) if whole.get("best_sha256") else None
        tensors = self._tensors(f"{key}/{epoch}/{STATE}", whole["sha256"])
        if tensors is None:
            raise _Damaged
        if file is not None:
            best = self._tensors(f"{key}/{file}", whole["best_sha256"])
            if best is None:
                raise _Damaged(file)
            tensors |= best
        self._refers[key, epoch] = file
        return Snapshot(key, epoch, tensors, whole["meta"])

    def _meta(self, key: str, epoch: int) -> dict[str, Any]:
        name = f"{key}/{epoch}/{META}"
        try:
            whole: dict[str, Any] = json.loads(self.objects.read(name))
            if whole["format_version"] > max(READABLE):
                raise FileNotFoundError(f"written by a later release: {name}")
            if whole["format_version"] in READABLE and "sha256" in whole and "meta" in whole:
                return whole
        except (FileNotFoundError, StoreFailed):
            raise
        except (OSError, ValueError, KeyError, TypeError):
            pass
        raise _Damaged

    def _tensors(self, name: str, sha256: str) -> dict[str, torch.Tensor] | None:
        """The tensors of an object if its content has that check sum."""
        try:
            content = self.objects.read(name)
        except StoreFailed:
            raise
        except OSError:
            return None
        return load(content) if hashlib.sha256(content).hexdigest() == sha256 else None

    def _set_aside(self, key: str, epoch: int, file: str | None) -> None:
        """Take a damaged snapshot away, and the damaged `file` of best weights, so that both are written anew."""
        done = "set aside" if self._folder is not None else "removed"
        self._say(f"stage {key} epoch {epoch}: damaged snapshot {done}, its epochs are computed again")
        self._refers.pop((key, epoch), None)
        if self._folder is None:
            with contextlib.suppress(OSError):
                going = [entry.name for entry in self.objects.names(f"{key}/{epoch}")]
                self.objects.delete([*going, *([f"{key}/{file}"] if file else [])])
            return
        for name in filter(None, (file, str(epoch))):
            aside = f"{DAMAGED}{name}-{uuid.uuid4().hex[:8]}"
            with contextlib.suppress(OSError):
                os.rename(self._folder / key / name, self._folder / key / aside)

    def _save_best(self, key: str, best: dict[str, torch.Tensor], sha: str | None) -> str | None:
        """sha256 of the file of the best weights, which is written if it is not known to be there."""
        if not best:
            return None
        if sha is not None and self.objects.exists(f"{key}/{_best_name(sha)}"):
            return sha
        content = state_bytes(best)
        sha = hashlib.sha256(content).hexdigest()
        if self._folder is None:
            self.objects.write(f"{key}/{_best_name(sha)}", content)
            return sha
        stage = self._folder / key
        stage.mkdir(parents=True, exist_ok=True)
        temporary = stage / f"{TEMPORARY}{_best_name(sha)}-{uuid.uuid4().hex[:8]}"
        try:
            self._write(str(temporary), content)
            os.replace(temporary, stage / _best_name(sha))
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        return sha

    def _write(self, path: str, content: bytes) -> None:
        with open(path, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def _put_in_place(self, stage: Path, epoch: int, files: dict[str, bytes]) -> None:
        """Store the files of a snapshot as a folder, which gets its name when it is complete."""
        temporary, final = stage / f"{TEMPORARY}{epoch}-{uuid.uuid4().hex[:8]}", stage / str(epoch)
        try:
            temporary.mkdir(parents=True)
            for name, content in files.items():
                self._write(str(temporary / name), content)
            try:
                os.rename(temporary, final)
            except OSError:
                # Another worker stored the same epoch of the same key: bit-equal by construction, unless it is damaged.
                if not self._sound(stage.name, epoch):
                    self._replace(temporary, final)
                elif KEEP in files:
                    self.keep(stage.name, epoch)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _replace(self, temporary: Path, final: Path) -> None:
        if (final / META).is_file():
            if (final / KEEP).is_file():
                self._write(str(temporary / KEEP), b"")
            self._set_aside(final.parent.name, int(final.name), None)
        shutil.rmtree(final, ignore_errors=True)
        try:
            os.rename(temporary, final)
        except OSError:
            if not self._sound(final.parent.name, int(final.name)):
                raise

    def _sound(self, key: str, epoch: int) -> bool:
        try:
            self._look_twice(key, epoch)
        except (FileNotFoundError, _Damaged):
            return False
        return True


def _best_name(sha: str) -> str:
    return f"best-{sha[:16]}.safetensors"
