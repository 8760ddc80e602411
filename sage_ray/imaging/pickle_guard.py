"""The one guard against pickled weights: a pickle can run code when it is loaded, so none ever is."""

from __future__ import annotations

from pathlib import Path

from sage_ray.errors import UserError

PICKLED_SUFFIXES = (".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt", ".joblib")


def refuse_pickle(path: Path) -> None:
    """Raise UserError if a file is a pickle, by its name or by its first bytes; a folder or no file passes."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        head = file.read(9)
    # torch.save writes a zip, or a bare pickle, which begins with its protocol; safetensors with a length and a brace.
    pickled = (
        path.suffix.lower() in PICKLED_SUFFIXES or head[:2] == b"PK" or head[:1] == b"\x80" and head[1:2] < b"\x06"
    )
    if pickled and not _begins_as_safetensors(head, path.stat().st_size):
        raise UserError(
            "pickled weights are not loaded", path, "a pickle can run code: give safetensors weights, such as runs/ID"
        )


def _begins_as_safetensors(head: bytes, size: int) -> bool:
    return len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") <= size - 8
