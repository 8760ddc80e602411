"""The stage store: snapshots by stage key and epoch on any pyarrow filesystem (local folder, NFS, S3, GCS).

Layout: `KEY/EPOCH/{state.safetensors, meta.json}` and `KEY/best-SHA.safetensors`. The state is written first,
`meta.json` with its sha256 last, both under a temporary name that is then renamed: a snapshot exists when its meta.json
can be read, and is trusted when the checksums hold. A damaged one is set aside, said, and recomputed.

The best weights so far change seldom and are stored once per change: a file named by its content, written before the
snapshots that refer to it and removed with the last of them. Format 1 (the first release) held them in every state.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pyarrow import fs as pafs
from safetensors.torch import load, save

from sage_ray.errors import SnapshotFailed

FORMAT_VERSION = 2
READABLE = (1, 2)
STATE, META, KEEP = "state.safetensors", "meta.json", "keep"
TEMPORARY, DAMAGED = ".tmp-", ".damaged-"
BEST = "best."
"""What the names of the best weights begin with, among the tensors of a snapshot."""
NEWEST = 2
"""Snapshots that are kept of a stage whatever their epochs: the newest, and one more should that be damaged."""


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


class StageStore:
    """Snapshots of stages, shared by all trials and studies.

    Args:
        root: folder, or URI that pyarrow knows (s3://bucket/path, gs://...).
        say: told about damaged snapshots.
    """

    def __init__(self, root: str | Path, *, say: Callable[[str], None] | None = None) -> None:
        text = str(root)
        if "://" in text:
            self.fs, self.root = pafs.FileSystem.from_uri(text)
            self.local_root: Path | None = Path(self.root) if isinstance(self.fs, pafs.LocalFileSystem) else None
        else:
            self.fs, self.root = pafs.LocalFileSystem(), str(Path(text).absolute())
            self.local_root = Path(self.root)
        self._say = say or (lambda line: None)

    def epochs(self, key: str) -> list[int]:
        """Epochs of `key` that have a snapshot, ascending; checksums are not looked at."""
        selector = pafs.FileSelector(f"{self.root}/{key}", allow_not_found=True)
        names = [info.base_name for info in self.fs.get_file_info(selector) if info.type == pafs.FileType.Directory]
        found = sorted(int(name) for name in names if name.isdigit())
        return [epoch for epoch in found if self._exists(f"{self.root}/{key}/{epoch}/{META}")]

    def latest(self, key: str, max_epoch: int) -> int:
        """The largest stored epoch of `key` that is at most `max_epoch`; 0 if there is none."""
        return max((epoch for epoch in self.epochs(key) if epoch <= max_epoch), default=0)

    def load_latest(self, key: str, max_epoch: int) -> Snapshot | None:
        """The newest sound snapshot of `key` at or below `max_epoch`; damaged ones are set aside and said."""
        for epoch in reversed([e for e in self.epochs(key) if e <= max_epoch]):
            snapshot = self._load(key, epoch)
            if snapshot is not None:
                return snapshot
        return None

    def save(self, snapshot: Snapshot, best_sha: str | None = None) -> str | None:
        """Write a snapshot, all or nothing.

        Args:
            snapshot: to be written.
            best_sha: what an earlier `save` returned for the same best weights: while their file is there, they are not
                looked at again.

        Returns:
            sha256 of the file of the best weights; None if there are none.

        Raises:
            SnapshotFailed: it could not be written (full disk, lost share); older snapshots stay valid.
        """
        folder = f"{self.root}/{snapshot.key}"
        temporary = f"{folder}/{TEMPORARY}{snapshot.epoch}-{uuid.uuid4().hex[:8]}"
        best = {name: tensor for name, tensor in snapshot.tensors.items() if name.startswith(BEST)}
        state = _serialised({name: tensor for name, tensor in snapshot.tensors.items() if name not in best})
        try:
            self.fs.create_dir(temporary, recursive=True)
            best_sha = self._save_best(snapshot.key, best, best_sha)
            meta = {
                "format_version": FORMAT_VERSION,
                "key": snapshot.key,
                "epoch": snapshot.epoch,
                "sha256": hashlib.sha256(state).hexdigest(),
                "best_sha256": best_sha,
                "meta": snapshot.meta,
            }
            self._write(f"{temporary}/{STATE}", state)
            self._write(f"{temporary}/{META}", json.dumps(meta).encode())
            if snapshot.keep:
                self._write(f"{temporary}/{KEEP}", b"")
            self._put_in_place(temporary, f"{folder}/{snapshot.epoch}")
            if snapshot.keep:
                self.keep(snapshot.key, snapshot.epoch)  # also where another worker had stored the epoch unmarked
            # Another worker of the same stage may have dropped the last snapshot that referred to the file meanwhile.
            return self._save_best(snapshot.key, best, best_sha)
        except OSError as error:
            with contextlib.suppress(OSError):
                self.fs.delete_dir(temporary)
            raise SnapshotFailed(
                f"snapshot not written: {folder}/{snapshot.epoch}: {error}; free space or choose another "
                "runtime.stage_store, then resume: the snapshot before it is valid"
            ) from error

    def keep(self, key: str, epoch: int) -> None:
        """Mark a stored snapshot as the end of a run's stage."""
        with contextlib.suppress(OSError):
            self._write(f"{self.root}/{key}/{epoch}/{KEEP}", b"")

    def kept(self, key: str, epoch: int) -> bool:
        """Whether a stored snapshot is marked as one that runs start from."""
        return self._exists(f"{self.root}/{key}/{epoch}/{KEEP}")

    def prune(self, key: str) -> None:
        """Drop the snapshots of `key` but the newest two and those that are marked."""
        self.drop(key, [epoch for epoch in self.epochs(key)[:-NEWEST] if not self.kept(key, epoch)])

    def drop(self, key: str, epochs: Collection[int]) -> None:
        """Remove snapshots of `key`, and the best weights that no other snapshot refers to."""
        if not epochs:
            return
        referred = {epoch: self.best_file(key, epoch) for epoch in self.epochs(key)}
        for epoch in epochs:
            with contextlib.suppress(OSError):
                self.fs.delete_dir(f"{self.root}/{key}/{epoch}")
        left = {referred[epoch] for epoch in self.epochs(key) if epoch in referred}
        for name in {referred.get(epoch) for epoch in epochs} - left - {None}:
            with contextlib.suppress(OSError):
                self.fs.delete_file(f"{self.root}/{key}/{name}")

    def best_file(self, key: str, epoch: int) -> str | None:
        """Name, in the stage's folder, of the file with the best weights of a snapshot; None if there is none."""
        whole = self.meta(key, epoch)
        return _best_name(whole["best_sha256"]) if whole and whole.get("best_sha256") else None

    def meta(self, key: str, epoch: int) -> dict[str, Any] | None:
        """The plain data of a snapshot, and what the store notes of it; None if it cannot be read."""
        try:
            with self.fs.open_input_stream(f"{self.root}/{key}/{epoch}/{META}") as stream:
                whole: dict[str, Any] = json.loads(stream.read())
            return whole if whole["format_version"] in READABLE and "sha256" in whole else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _load(self, key: str, epoch: int) -> Snapshot | None:
        whole = self.meta(key, epoch)
        path = f"{self.root}/{key}/{epoch}"
        state = self._sound(f"{path}/{STATE}", whole["sha256"]) if whole else None
        best: dict[str, torch.Tensor] | None = {}
        if whole and state is not None and whole.get("best_sha256"):
            file = f"{self.root}/{key}/{_best_name(whole['best_sha256'])}"
            best = self._sound(file, whole["best_sha256"])
            if best is None:
                self._set_aside(file, key)
        if whole is not None and state is not None and best is not None:
            return Snapshot(key, epoch, state | best, whole["meta"])
        self._say(f"stage {key} epoch {epoch}: damaged snapshot set aside, its epochs are computed again")
        self._set_aside(path, key)
        return None

    def _sound(self, path: str, sha256: str) -> dict[str, torch.Tensor] | None:
        """The tensors of a file if its content has that check sum."""
        try:
            with self.fs.open_input_file(path) as stream:
                content = stream.read()
        except OSError:
            return None
        return load(content) if hashlib.sha256(content).hexdigest() == sha256 else None

    def _set_aside(self, path: str, key: str) -> None:
        aside = f"{self.root}/{key}/{DAMAGED}{path.rsplit('/', 1)[-1]}-{uuid.uuid4().hex[:8]}"
        with contextlib.suppress(OSError):
            self.fs.move(path, aside)

    def _save_best(self, key: str, best: dict[str, torch.Tensor], sha: str | None) -> str | None:
        """sha256 of the file of the best weights, which is written if it is not there."""
        if not best:
            return None
        folder = f"{self.root}/{key}"
        if sha is not None and self._exists(f"{folder}/{_best_name(sha)}"):
            return sha
        content = _serialised(best)
        sha = hashlib.sha256(content).hexdigest()
        if not self._exists(f"{folder}/{_best_name(sha)}"):
            temporary = f"{folder}/{TEMPORARY}{_best_name(sha)}-{uuid.uuid4().hex[:8]}"
            try:
                self._write(temporary, content)
                self.fs.move(temporary, f"{folder}/{_best_name(sha)}")
            except OSError:
                with contextlib.suppress(OSError):
                    self.fs.delete_file(temporary)
                raise
        return sha

    def _write(self, path: str, content: bytes) -> None:
        if self.local_root is None:
            with self.fs.open_output_stream(path) as stream:
                stream.write(content)
            return
        with open(path, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def _put_in_place(self, temporary: str, final: str) -> None:
        if self._exists(f"{final}/{META}"):
            # Another worker stored the same epoch of the same key: bit-equal by construction.
            self.fs.delete_dir(temporary)
            return
        if self.local_root is not None:
            with contextlib.suppress(OSError):
                shutil.rmtree(final)
            try:
                os.rename(temporary, final)
            except OSError:
                if not self._exists(f"{final}/{META}"):
                    raise
                shutil.rmtree(temporary, ignore_errors=True)
            return
        for name in (STATE, KEEP, META):
            if self._exists(f"{temporary}/{name}"):
                self.fs.move(f"{temporary}/{name}", f"{final}/{name}")
        self.fs.delete_dir(temporary)

    def _exists(self, path: str) -> bool:
        return bool(self.fs.get_file_info(path).type == pafs.FileType.File)


def _serialised(tensors: dict[str, torch.Tensor]) -> bytes:
    return save({name: tensor.contiguous() for name, tensor in tensors.items()})


def _best_name(sha: str) -> str:
    return f"best-{sha[:16]}.safetensors"
