"""Weights that somebody else has trained: from a file, or by URL and check sum, kept once in the cache.

A download is checked against the published sha256, read without running any code of it, and only the wanted tensors are
kept, as safetensors. A file may be safetensors or a torch checkpoint of tensors alone.
"""

from __future__ import annotations

import hashlib
import http.client
import pickle
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sage_ray.errors import UserError
from sage_ray.files import replacing

if TYPE_CHECKING:  # who only asks for a check sum (`status`, stage keys) does not wait for torch
    from torch import Tensor

DOWNLOAD_TIMEOUT_S = 60.0
_LARGEST_DOWNLOAD = 2**31  # bytes
_CHUNK = 2**20

RESNET34_URL = "https://download.pytorch.org/models/resnet34-b627a593.pth"
RESNET34_SHA256 = "b627a593"
"""First digits; the published file carries them in its name. They stand in stage keys, too, and so they are here."""


WITHOUT_FEATURES = "give a file with --feature-weights, or use the judge's features, which need no download"
"""How to go on without the weights of a network that makes features of images."""


@dataclass(frozen=True)
class PublishedWeights:
    """A published file of weights, and what of it is wanted.

    Attributes:
        label: what a user calls them, such as "VGG19".
        stem: of their file in the cache.
        url: where they are published.
        sha256: leading hex digits of the published file's sha256.
        shapes: of each wanted tensor, by its name in the published file.
        how_to_go_on: what a user can do without them: which setting names a file, and which does without.
    """

    label: str
    stem: str
    url: str
    sha256: str
    shapes: Mapping[str, tuple[int, ...]]
    how_to_go_on: str

    def cached(self, cache_dir: str | Path) -> Path:
        """Where `load` keeps what it downloaded; the file need not be there."""
        return Path(cache_dir) / f"{self.stem}-{self.sha256[:16]}.safetensors"

    def load(
        self, path: str | Path | None, cache_dir: str | Path, *, timeout_s: float = DOWNLOAD_TIMEOUT_S
    ) -> dict[str, Tensor]:
        """The wanted tensors, floating ones in float32, on the CPU.

        Args:
            path: a local file: safetensors, or a torch checkpoint of tensors alone (it is loaded with `weights_only`).
                None: the file of an earlier download in `cache_dir`, else a download.
            cache_dir: folder that keeps the wanted tensors of a download.
            timeout_s: limit on the connection and on each read.

        Raises:
            UserError: no such file, unreadable or unsafe contents, missing tensors or wrong shapes, a failed or
                corrupted download; the message says how to go on.
        """
        if path is not None:
            return self._read(Path(path))
        import safetensors.torch

        cached = self.cached(cache_dir)
        if cached.is_file():
            try:
                return self._read(cached)
            except UserError:
                cached.unlink()  # damaged: fetched again below
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cached.parent, prefix=f"{self.stem}-") as folder:
                downloaded = Path(folder) / "download.pth"
                self._download(downloaded, timeout_s)
                tensors = self._read(downloaded, origin=self.url)
                with replacing(cached) as kept:
                    safetensors.torch.save_file(tensors, kept)
        except OSError as error:
            raise UserError(
                f"{self.label} weights cannot be kept",
                cached.parent,
                f"make the folder writable ({error}), or {self.how_to_go_on}",
            ) from None
        return tensors

    def check(self, tensors: Mapping[str, Tensor]) -> None:
        """Raise ValueError, naming the first wanted tensor that is missing or has another shape."""
        from torch import Tensor

        for name, shape in self.shapes.items():
            tensor = tensors.get(name)
            if not isinstance(tensor, Tensor):
                raise ValueError(f"tensor {name} is missing")
            if tuple(tensor.shape) != tuple(shape):
                raise ValueError(f"tensor {name} has shape {tuple(tensor.shape)}, {self.label} has {tuple(shape)}")

    def _download(self, target: Path, timeout_s: float) -> None:
        digest = hashlib.sha256()
        size = 0
        try:
            with urllib.request.urlopen(self.url, timeout=timeout_s) as response, target.open("wb") as file:
                while size <= _LARGEST_DOWNLOAD and (chunk := response.read(_CHUNK)):
                    size += len(chunk)
                    digest.update(chunk)
                    file.write(chunk)
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, ValueError) as error:
            reason = str(getattr(error, "reason", error)).replace("\n", " ")
            raise UserError(
                f"{self.label} weights cannot be downloaded",
                self.url,
                f"try again where there is a network ({reason}), or {self.how_to_go_on}",
            ) from None
        if not digest.hexdigest().startswith(self.sha256.lower()):
            found = f"sha256 {digest.hexdigest()[:16]} of {size} bytes, expected {self.sha256}"
            raise UserError(
                f"{self.label} weights are corrupted", self.url, f"{found}; try again, or {self.how_to_go_on}"
            )

    def _read(self, path: Path, origin: str | None = None) -> dict[str, Tensor]:
        """The wanted tensors of a file; every problem becomes a UserError that names `origin` or the file."""
        import safetensors

        where = origin or str(path)
        if not path.is_file():
            raise UserError(f"no such file of {self.label} weights", where, self.how_to_go_on)
        try:
            tensors = _tensors(path)
            self.check(tensors)
        except pickle.UnpicklingError:
            raise UserError(
                "not a checkpoint of tensors alone", where, f"no other is loaded; {self.how_to_go_on}"
            ) from None
        except (OSError, ValueError, RuntimeError, EOFError, KeyError, safetensors.SafetensorError) as error:
            reason = str(error).split("\n", 1)[0] or type(error).__name__
            mend = f"fetch the published file anew ({reason}), or {self.how_to_go_on}"
            raise UserError(f"not usable as {self.label} weights", where, mend) from None
        wanted = {name: tensors[name] for name in self.shapes}
        return {name: (t.float() if t.is_floating_point() else t).contiguous() for name, t in wanted.items()}


def published_shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Shapes of a network's tensors, by name, without the counters of batch norms: published files may lack them."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}


def _tensors(path: Path) -> Mapping[str, Tensor]:
    import safetensors.torch
    import torch

    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    # A published file is a torch checkpoint. Loaded so, it can hold tensors alone, and no code is run.
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(loaded, Mapping):
        raise ValueError(f"it holds a {type(loaded).__name__}, not tensors by name")
    return loaded
