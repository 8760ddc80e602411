"""Image/mask pairs of a folder: found by stem, their headers judged, their files hashed."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sage_ray.config import stable_hash
from sage_ray.data.images import SUFFIXES, BadFile, Problem, header_size
from sage_ray.errors import UserError
from sage_ray.files import sha256_of, write_text

MASK_FOLDERS = ("masks", "segmaps")
_SETTLE_NS = 2_000_000_000
"""A file changed less than this before it was hashed may change again within its timestamp, so its hash is not kept."""


@dataclass(frozen=True)
class Pair:
    """One micrograph and its mask; `stem` is their common file name without suffix."""

    stem: str
    image: Path
    mask: Path


def find_pairs(path: str | Path) -> tuple[list[Pair], list[Problem]]:
    """Pairs by stem of `path`/images and `path`/masks (else `path`/segmaps), sorted by stem, and what does not pair up.

    Files with another suffix than PNG, TIFF, JPEG, BMP are ignored.

    Raises:
        UserError: no such folder, no images/ or no mask folder in it, or nothing in them.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise UserError("no such folder", path, "data.path must be a folder with images/ and masks/ (or segmaps/)")
    images_dir = root / "images"
    mask_dir = next((root / name for name in MASK_FOLDERS if (root / name).is_dir()), None)
    if not images_dir.is_dir() or mask_dir is None:
        lacking = "images/" if not images_dir.is_dir() else "masks/ or segmaps/"
        mend = "put micrographs in images/ and masks in masks/ or segmaps/"
        raise UserError(f"no pairs, {lacking} is missing", root, mend)
    problems: list[Problem] = []
    images = _by_stem(images_dir, problems)
    masks = _by_stem(mask_dir, problems)
    if not images and not masks:
        mend = "put images (PNG, TIFF, JPEG, BMP) in images/ and masks of the same stem in " + mask_dir.name + "/"
        raise UserError("no pairs", root, mend)
    for stem in sorted(images.keys() - masks.keys()):
        mend = f"add {mask_dir.name}/{stem}.png, or remove the image"
        problems.append(Problem("image without mask", str(images[stem]), mend))
    for stem in sorted(masks.keys() - images.keys()):
        mend = f"add images/{stem}.png, or remove the mask"
        problems.append(Problem("mask without image", str(masks[stem]), mend))
    pairs = [Pair(stem, images[stem], masks[stem]) for stem in sorted(images.keys() & masks.keys())]
    return pairs, problems


def header_problems(pairs: Sequence[Pair], crop_bottom: int = 0) -> list[Problem]:
    """Problems seen without decoding: unreadable or too large file, mask of another size, crop beyond the image."""
    problems: list[Problem] = []
    for pair in pairs:
        sizes = {}
        for path in (pair.image, pair.mask):
            try:
                sizes[path] = header_size(path)
            except BadFile as bad:
                problems.append(bad.problem)
        if len(sizes) < 2:
            continue
        size, mask_size = sizes[pair.image], sizes[pair.mask]
        if size != mask_size:
            what = f"mask is {mask_size[0]} x {mask_size[1]} pixels, its image {size[0]} x {size[1]}"
            problems.append(Problem(what, str(pair.mask), "save both at one size"))
        elif crop_bottom >= size[0]:
            what = f"data.crop_bottom {crop_bottom} leaves nothing of {size[0]} rows"
            problems.append(Problem(what, str(pair.image), f"set it below {size[0]}"))
    return problems


def load_folder(path: str | Path, crop_bottom: int = 0) -> list[Pair]:
    """Pairs of a folder, sorted by stem, all headers in order.

    Raises:
        UserError: as `find_pairs`, or the first problem of names and headers.
    """
    pairs, problems = find_pairs(path)
    raise_first(problems)
    raise_first(header_problems(pairs, crop_bottom))
    return pairs


def raise_first(problems: Sequence[Problem]) -> None:
    """Raise the first problem as a UserError that counts the others; nothing if there is none."""
    if problems:
        raise problems[0].error(len(problems) - 1)


def hash_files(paths: Sequence[Path], cache_dir: Path | None = None) -> list[str]:
    """sha256 of each file; with `cache_dir`, hashes are kept there by path, size and time of change.

    Raises:
        UserError: a file cannot be read.
    """
    known, store = _known_hashes(paths, cache_dir)
    kept: dict[str, list[str | int]] = {}
    shas = []
    for path in paths:
        try:
            facts = path.stat()
            entry = known.get(str(path.absolute()))
            if entry is not None and entry[:2] == [facts.st_size, facts.st_mtime_ns]:
                sha = str(entry[2])
            else:
                sha = sha256_of(path)
        except OSError as error:
            raise UserError("unreadable file", path, error.strerror or "check its permissions") from None
        shas.append(sha)
        if time.time_ns() - facts.st_mtime_ns > _SETTLE_NS:
            kept[str(path.absolute())] = [facts.st_size, facts.st_mtime_ns, sha]
    if store is not None and kept != known:
        with suppress(OSError):  # only speed is lost, as on a cache that others may not write
            write_text(store, json.dumps(kept), durable=False)
    return shas


def fingerprint(pairs_of_shas: Sequence[tuple[str, str]]) -> str:
    """16 hex digits over all (image sha, mask sha), whatever their order or names."""
    return stable_hash(sorted(pairs_of_shas))


def folder_fingerprint(path: str | Path) -> tuple[str, int]:
    """(data fingerprint, number of pairs) of a folder.

    Raises:
        UserError: as `find_pairs`, a file without its partner, or a file that cannot be read.
    """
    pairs, problems = find_pairs(path)
    raise_first(problems)
    shas = hash_files([pair.image for pair in pairs] + [pair.mask for pair in pairs])
    return fingerprint(list(zip(shas[: len(pairs)], shas[len(pairs) :], strict=True))), len(pairs)


def _by_stem(folder: Path, problems: list[Problem]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
            continue
        if path.stem in found:
            what = f"two files of one stem in {folder.name}/"
            problems.append(Problem(what, str(path), f"remove or rename it or {found[path.stem].name}"))
            continue
        found[path.stem] = path
    return found


def _known_hashes(paths: Sequence[Path], cache_dir: Path | None) -> tuple[dict[str, list[str | int]], Path | None]:
    if cache_dir is None or not paths:
        return {}, None
    store = cache_dir / f"hashes-{stable_hash(str(paths[0].parent.absolute()))}.json"
    try:
        known = json.loads(store.read_text())
    except (OSError, ValueError):
        return {}, store
    return (known, store) if isinstance(known, dict) else ({}, store)
