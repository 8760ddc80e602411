"""The stage store: snapshots by stage key and epoch on any pyarrow filesystem (local folder, NFS, S3, GCS).

Layout: `KEY/EPOCH/{state.safetensors, meta.json}`. The state is written first, `meta.json` with its sha256 last, both
under a temporary name that is then renamed: a snapshot exists when its meta.json can be read, and is trusted when the
checksum holds. A damaged one is set aside, said, and recomputed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pyarrow import fs as pafs
from safetensors.torch import load, save

from sage_ray.errors import SnapshotFailed

FORMAT_VERSION = 1
STATE, META, KEEP = "state.safetensors", "meta.json", "keep"


@dataclass(frozen=True)
class Snapshot:
    """A stage's state after `epoch` epochs of it: tensors by name, and plain data (`meta`).

    `keep` marks the end of some run's stage: `prune` never drops it.
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
        keep_every: snapshots at multiples of it, and the newest two, survive `prune`.
        say: told about damaged snapshots.
    """

    def __init__(self, root: str | Path, *, keep_every: int = 10, say: Callable[[str], None] | None = None) -> None:
        text = str(root)
        if "://" in text:
            self.fs, self.root = pafs.FileSystem.from_uri(text)
            self.local_root: Path | None = Path(self.root) if isinstance(self.fs, pafs.LocalFileSystem) else None
        else:
            self.fs, self.root = pafs.LocalFileSystem(), str(Path(text).absolute())
            self.local_root = Path(self.root)
        self.keep_every = keep_every
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

    def save(self, snapshot: Snapshot) -> None:
        """Write a snapshot, all or nothing.

        Raises:
            SnapshotFailed: it could not be written (full disk, lost share); older snapshots stay valid.
        """
        folder = f"{self.root}/{snapshot.key}"
        temporary = f"{folder}/.tmp-{snapshot.epoch}-{uuid.uuid4().hex[:8]}"
        state = save({name: tensor.contiguous() for name, tensor in snapshot.tensors.items()})
        meta = {
            "format_version": FORMAT_VERSION,
            "key": snapshot.key,
            "epoch": snapshot.epoch,
            "sha256": hashlib.sha256(state).hexdigest(),
            "meta": snapshot.meta,
        }
        try:
            self.fs.create_dir(temporary, recursive=True)
            self._write(f"{temporary}/{STATE}", state)
            self._write(f"{temporary}/{META}", json.dumps(meta).encode())
            if snapshot.keep:
                self._write(f"{temporary}/{KEEP}", b"")
            self._put_in_place(temporary, f"{folder}/{snapshot.epoch}")
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

    def prune(self, key: str) -> None:
        """Drop snapshots of `key` but multiples of `keep_every`, the newest two, and ends of stages."""
        for epoch in self.epochs(key)[:-2]:
            path = f"{self.root}/{key}/{epoch}"
            if epoch % self.keep_every and not self._exists(f"{path}/{KEEP}"):
                with contextlib.suppress(OSError):
                    self.fs.delete_dir(path)

    def meta(self, key: str, epoch: int) -> dict[str, Any] | None:
        """The plain data of a snapshot without its tensors; None if it cannot be read."""
        try:
            with self.fs.open_input_stream(f"{self.root}/{key}/{epoch}/{META}") as stream:
                whole = json.loads(stream.read())
            return whole if whole["format_version"] == FORMAT_VERSION else None
        except (OSError, ValueError, KeyError):
            return None

    def _load(self, key: str, epoch: int) -> Snapshot | None:
        whole = self.meta(key, epoch)
        path = f"{self.root}/{key}/{epoch}"
        try:
            with self.fs.open_input_file(f"{path}/{STATE}") as stream:
                state = stream.read()
        except OSError:
            state = b""
        if whole is not None and hashlib.sha256(state).hexdigest() == whole["sha256"]:
            return Snapshot(key, epoch, load(state), whole["meta"])
        self._say(f"stage {key} epoch {epoch}: damaged snapshot set aside, its epochs are computed again")
        with contextlib.suppress(OSError):
            self.fs.move(path, f"{self.root}/{key}/.damaged-{epoch}-{uuid.uuid4().hex[:8]}")
        return None

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
