"""Image/mask pairs of a folder: found by stem, their headers judged, their files hashed."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sage_ray.config import stable_hash
from sage_ray.data import mask_names
from sage_ray.data.folder_files import FoundFile, files_below, passed_over
from sage_ray.data.images import SUFFIXES, BadFile, Problem, header_size
from sage_ray.data.information_bar import MOST
from sage_ray.data.notes import first_named
from sage_ray.data.pair_masks import mask_shas, mask_size
from sage_ray.data.pairing import EXAMPLE, Matches, Pair, by_patterns, by_rules
from sage_ray.errors import UserError
from sage_ray.files import sha256_of, write_text

MASK_FOLDERS = mask_names.FIRST_FOLDERS
_SET_CROP = "set data.crop_bottom="
_SETTLE_NS = 2_000_000_000
"""A file changed less than this before it was hashed may change again within its timestamp, so its hash is not kept."""


@dataclass(frozen=True)
class FolderPairs:
    """The pairs of a folder, what is wrong with their names, and how they were found."""

    root: Path
    pairs: tuple[Pair, ...]
    """Sorted by stem."""
    problems: tuple[Problem, ...]
    rule: str
    """How masks were found, as one sentence."""
    usual: bool = False
    """Whether they lie in the usual way, images/NAME and masks/NAME or segmaps/NAME."""
    open: frozenset[Path] = frozenset()
    """Files that an ambiguous pairing names."""

    def passed_over(self) -> str:
        """What lies in the folder and is not used, counted by kind; "" for nothing."""
        used = {path for pair in self.pairs for path in (pair.image, pair.mask)}
        wrong = {Path(problem.where) for problem in self.problems}
        try:
            return passed_over(files_below(self.root), used | wrong | self.open)
        except UserError as error:
            return f"{error.what}: what is not used was not counted"


def find_pairs(path: str | Path, masks: str = "") -> tuple[list[Pair], list[Problem]]:
    """Pairs of `path`, sorted by stem, and what does not pair up; as `look_through`."""
    found = look_through(path, masks)
    return list(found.pairs), list(found.problems)


def look_through(path: str | Path, masks: str = "") -> FolderPairs:
    """The image/mask pairs of a folder, by the first of these that finds them.

    Files of one stem in images/ and masks/ (else segmaps/); where those do not pair up wholly, the usual names of
    masks and folders at any depth (`data.pairing`).

    Args:
        path: the folder.
        masks: `data.masks`, where masks lie in it; "" to look for them.

    Raises:
        UserError: no such folder, no pairs in it, or patterns that fit no file.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise UserError("no such folder", path, "data.path must be a folder with images/ and masks/ (or segmaps/)")
    usual = None if masks else _usual(root)
    if usual is not None and usual.pairs and not usual.problems:
        return usual
    files = files_below(root)
    found = by_patterns(files, masks) if masks else by_rules(files)
    if usual is not None and (usual.pairs or usual.problems):
        better = len(found.pairs) > len(usual.pairs) or (found.problems and not usual.pairs)
        return _told(root, found) if better else usual
    if not found.pairs and not found.problems:
        if masks:
            names = ", ".join(file.name for file in found.masks[:4])
            mend = f"* must stand for the image's name in it, {EXAMPLE}"
            raise UserError(f"no image for the masks of data.masks ({names})", masks, mend)
        raise _no_pairs(root, files, usual is not None)
    return _told(root, found)


def patterns_for(path: str | Path, masks: str) -> str:
    """The patterns of another folder's `data.masks` if they fit this folder too; "" if not, to look for its masks."""
    if not masks or str(path).startswith("synthetic://"):
        return ""
    try:
        return masks if look_through(path, masks).pairs else ""
    except UserError:
        return ""


def _usual(root: Path) -> FolderPairs | None:
    """Pairs by stem of images/ and the first mask folder; None if either is missing."""
    images_dir = root / "images"
    mask_dir = next((root / name for name in MASK_FOLDERS if (root / name).is_dir()), None)
    if not images_dir.is_dir() or mask_dir is None:
        return None
    problems: list[Problem] = []
    images = _by_stem(images_dir, problems)
    masks = _by_stem(mask_dir, problems)
    for stem in sorted(images.keys() - masks.keys()):
        mend = f"add {mask_dir.name}/{stem}.png, or remove the image"
        problems.append(Problem("image without mask", str(images[stem]), mend))
    for stem in sorted(masks.keys() - images.keys()):
        mend = f"add images/{stem}.png, or remove the mask"
        problems.append(Problem("mask without image", str(masks[stem]), mend))
    pairs = tuple(Pair(stem, images[stem], masks[stem]) for stem in sorted(images.keys() & masks.keys()))
    return FolderPairs(
        root, pairs, tuple(problems), f"each mask has its image's name, in images/ and {mask_dir.name}/", usual=True
    )


def _told(root: Path, found: Matches) -> FolderPairs:
    """Pairs with their stems, and files that lack a partner where the folder says that they have one."""
    problems = list(found.problems)
    for image in found.images:
        if image.in_images:
            problems.append(Problem("image without mask", str(image.path), "add its mask, or remove the image"))
    for mask in found.masks:
        problems.append(Problem("mask without image", str(mask.path), "add its image, or remove the mask"))
    named = [(_stem(image), image.path, mask.path) for image, mask, _ in found.pairs]
    often = Counter(stem for stem, _, _ in named)
    pairs = [
        Pair(stem if often[stem] == 1 else str(image.relative_to(root)), image, mask) for stem, image, mask in named
    ]
    pairs.sort(key=lambda pair: pair.stem)
    opened = frozenset(file.path for file in found.open)
    return FolderPairs(root, tuple(pairs), tuple(problems), found.rules() if pairs else "", open=opened)


def _stem(image: FoundFile) -> str:
    """The name without ending, after the folders that are not named after images: "day1/a" of day1/images/a.png."""
    folders = [folder for folder in image.folders if not mask_names.holds_images(folder)]
    return "/".join((*folders, image.path.stem))


def _no_pairs(root: Path, files: Sequence[FoundFile], both_folders: bool) -> UserError:
    pictures = [file.name for file in files if file.is_picture]
    others = passed_over([file for file in files if not file.is_picture], ())
    tail = f"; {others}" if others else ""
    if not pictures:
        lacking = "images/" if not (root / "images").is_dir() else "masks/ or segmaps/"
        what = "no pairs" if both_folders else f"no pairs, {lacking} is missing"
        mend = "put images (PNG, TIFF, JPEG, BMP) in images/ and masks of the same stem in masks/ or segmaps/"
        return UserError(what, root, mend + tail)
    shown = first_named(pictures, 4)
    if any(count > 1 for count in Counter(file.stem for file in files if file.is_picture).values()):
        mend = f"names do not tell images from masks: say where masks lie, {EXAMPLE}"
        return UserError(f"ambiguous pairing, pictures of one name ({shown})", root, mend + tail)
    mend = f"put masks of the same names in masks/, or say where they lie, {EXAMPLE}"
    bare = (root / "images").is_dir() and not any((root / name).is_dir() for name in MASK_FOLDERS)
    lacking = "masks/ or segmaps/ is missing" if bare else "masks are missing"
    return UserError(f"no pairs, {lacking} ({len(pictures)} without: {shown})", root, mend + tail)


def header_problems(pairs: Sequence[Pair], crop_bottom: int = 0) -> list[Problem]:
    """Problems seen without decoding: unreadable or too large file, mask of another size, crop beyond the image.

    A mask that is lower than its image by `crop_bottom` rows was drawn without the bar, and is right.
    """
    problems: list[Problem] = []
    for pair in pairs:
        size = None
        try:
            size = header_size(pair.image)
        except BadFile as bad:
            problems.append(bad.problem)
        try:
            said = mask_size(pair)
        except BadFile as bad:
            problems.append(bad.problem)
            continue
        if size is None:
            continue
        if said is not None and said not in (size, (size[0] - crop_bottom, size[1])):
            what = f"mask is {said[0]} x {said[1]} pixels, its image {size[0]} x {size[1]}"
            problems.append(Problem(what, str(pair.mask), _mend_size(said, size, crop_bottom)))
        elif crop_bottom >= size[0]:
            what = f"data.crop_bottom {crop_bottom} leaves nothing of {size[0]} rows"
            problems.append(Problem(what, str(pair.image), f"set it below {size[0]}"))
    return problems


def _mend_size(mask: tuple[int, int], image: tuple[int, int], crop_bottom: int) -> str:
    rows = image[0] - mask[0]
    if mask[1] == image[1] and 0 < rows <= image[0] * MOST:
        told = f", not {crop_bottom}" if crop_bottom else ""
        return f"{_SET_CROP}{rows}{told} if its lowest rows are an information bar, else save both at one size"
    if mask != image and abs(mask[0] * image[1] - mask[1] * image[0]) <= max(image):
        return f"the mask is of another scale ({mask[1] / image[1]:.3g} of its image): save both at one size"
    return "save both at one size"


def lacks_bar(pair: Pair) -> int:
    """Rows by which a mask is lower than its image, as one drawn without the information bar is; 0 if it is not."""
    try:
        size, said = header_size(pair.image), mask_size(pair)
    except BadFile:
        return 0
    if said is None or said[1] != size[1] or not 0 < size[0] - said[0] <= size[0] * MOST:
        return 0
    return size[0] - said[0]


def gathered(problems: Sequence[Problem]) -> list[Problem]:
    """The problems, masks that lack the bar of their images as one that names the first and counts the others."""
    same: dict[tuple[str, str, str], list[Problem]] = {}
    for problem in problems:
        where = "" if problem.mend.startswith(_SET_CROP) else problem.where
        same.setdefault((problem.what, where, problem.mend), []).append(problem)
    return [
        Problem(what, f"{alike[0].where} and {len(alike) - 1} more", mend) if len(alike) > 1 else alike[0]
        for (what, _, mend), alike in same.items()
    ]


def load_folder(path: str | Path, crop_bottom: int = 0, masks: str = "") -> list[Pair]:
    """Pairs of a folder, sorted by stem, all headers in order.

    Raises:
        UserError: as `find_pairs`, or the first problem of names and headers.
    """
    pairs, problems = find_pairs(path, masks)
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
            raise UserError(
                "unreadable file", path, f"make it readable, or remove it ({error.strerror or error})"
            ) from None
        shas.append(sha)
        if time.time_ns() - facts.st_mtime_ns > _SETTLE_NS:
            kept[str(path.absolute())] = [facts.st_size, facts.st_mtime_ns, sha]
    if store is not None and kept != known:
        with suppress(OSError):  # only speed is lost, as on a cache that others may not write
            write_text(store, json.dumps(kept), durable=False)
    return shas


def hash_pairs(pairs: Sequence[Pair], cache_dir: Path | None = None, foreground: str = "") -> list[tuple[str, str]]:
    """(image sha256, mask sha256) of each pair; with `cache_dir` as `hash_files`, of masks under `data.foreground`.

    Raises:
        UserError: a file cannot be read.
    """
    shas = hash_files([pair.image for pair in pairs] + [pair.mask for pair in pairs], cache_dir)
    return list(zip(shas[: len(pairs)], mask_shas(pairs, shas[len(pairs) :], foreground), strict=True))


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
    return fingerprint(hash_pairs(pairs)), len(pairs)


def _by_stem(folder: Path, problems: list[Problem]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith(".") or path.is_dir():
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
