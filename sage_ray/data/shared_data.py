"""Decoded data beside a home in a bucket: a machine that has not the images gets them from there, by their content.

`data/KEY/{images.npy,masks.npy,meta.json}` are the files of a cache entry (`data.cache`), and `data/paths/HASH.json`
says which entry a `data.path` was, with its size and cleaning, when somebody last had it: key, stems and file names.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sage_ray.config import stable_hash
from sage_ray.data.cache import FILES, CacheEntry, adopt
from sage_ray.followed import Followed, owner_of_cache
from sage_ray.grey_range import MINMAX
from sage_ray.sections import DataConfig

_SHARED: set[tuple[str, str, str]] = set()
"""What this process knows to be in a bucket: its address, the name of the path, the key."""


@dataclass(frozen=True)
class SharedPairs:
    """An entry of somebody else's, and the stems and (image, mask) file names of its rows."""

    entry: CacheEntry
    stems: tuple[str, ...]
    files: tuple[tuple[str, str], ...]


def share(
    data: DataConfig, cache_dir: Path, key: str, stems: tuple[str, ...], files: tuple[tuple[str, str], ...]
) -> None:
    """Store an entry of the cache of a home in a bucket, once; nothing happens for other homes."""
    home = owner_of_cache(cache_dir)
    if home is None:
        return
    name = _name(data)
    if (home.address, name, key) in _SHARED:
        return
    known = _read(home, name)
    if known is None or known["key"] != key or not home.store.exists(f"data/{key}/{FILES[-1]}"):
        for file in FILES:  # the last one says that all are there
            home.store.create(f"data/{key}/{file}", (cache_dir / key / file).read_bytes())
        told = {"path": data.path, "key": key, "stems": stems, "files": files}
        home.store.write(name, json.dumps(told).encode())
    _SHARED.add((home.address, name, key))


def fetch_shared(data: DataConfig, cache_dir: Path) -> SharedPairs | None:
    """The entry that `data.path` was where it is; None if nobody has shared it, or the home is no bucket.

    It is brought to this machine once, and its check sums are looked at.

    Raises:
        UserError: the cache cannot be written.
    """
    home = owner_of_cache(cache_dir)
    known = None if home is None else _read(home, _name(data))
    if home is None or known is None:
        return None
    store, key = home.store, str(known["key"])
    try:
        entry = adopt(cache_dir, key, lambda file: store.read(f"data/{key}/{file}"))
    except FileNotFoundError:  # of one who was killed before all of it was there
        return None
    files = tuple((str(image), str(mask)) for image, mask in known["files"])
    return None if entry is None else SharedPairs(entry, tuple(map(str, known["stems"])), files)


def _name(data: DataConfig) -> str:
    cleaning = [data.image_size, data.crop_bottom, data.mask_erosion, data.min_object_pixels]
    stretch = [] if data.stretch == MINMAX else [data.stretch]
    patterns = [data.masks] if data.masks else []
    rule = [{"foreground": data.foreground}] if data.foreground else []
    return f"data/paths/{stable_hash([data.path, *cleaning, *stretch, *patterns, *rule])}.json"


def _read(home: Followed, name: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(home.store.read(name))
    except (FileNotFoundError, ValueError):
        return None
    return found
