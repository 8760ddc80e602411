"""Which mask belongs to which image of a folder, by the names of files and folders, and by which rule it was found.

Nothing is decoded here. Where names do not decide, the pairing is refused with the names of the candidates, and the
setting `data.masks` decides.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sage_ray.data import mask_names
from sage_ray.data.annotations import annotation_kind, coco_images
from sage_ray.data.folder_files import FoundFile
from sage_ray.data.images import Problem
from sage_ray.data.notes import first_named
from sage_ray.errors import UserError

EXAMPLE = "such as data.masks='masks/*_mask.tif'"
_ALIKE = "letter case, Unicode form and double endings taken alike"
_LOSSY = (".jpg", ".jpeg")


@dataclass(frozen=True)
class Pair:
    """One micrograph and its mask; `stem` is their common name, with the folders beside images/ and masks/ if any."""

    stem: str
    image: Path
    mask: Path
    """A picture, or an annotation file (COCO, labelme, ImageJ ROI) that is rasterised when it is read."""


@dataclass
class Matches:
    """Pairs that were found, each with the rule that found it, and what the names leave open."""

    pairs: list[tuple[FoundFile, FoundFile, str]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    images: list[FoundFile] = field(default_factory=list)
    """Images that have no mask."""
    masks: list[FoundFile] = field(default_factory=list)
    """Masks that have no image."""
    open: set[FoundFile] = field(default_factory=set)
    """Files that an ambiguous pairing names."""

    def rules(self) -> str:
        """How the masks are named, as one sentence."""
        shown: Counter[str] = Counter("/".join((*mask.folders, rule)) for _, mask, rule in self.pairs)
        if len(shown) > 3:
            shown = Counter(rule for _, _, rule in self.pairs)
        (first, count), *others = shown.most_common(4)
        tail = ", NAME being the image's name" if "NAME" in first else ""
        if not others:
            return f"all {count} masks are named {first}{tail}" if count > 1 else f"the mask is named {first}{tail}"
        return f"masks are named {', '.join(f'{rule} ({count})' for rule, count in shown.most_common(4))}{tail}"


Reading = Callable[[FoundFile], dict[str, str]]
"""Names that a file may stand for, each with the rule that says so."""


def match(images: Sequence[FoundFile], masks: Sequence[FoundFile], *, same_name: bool = True) -> Matches:
    """Pairs of images and masks, the plainest rule first; a file that several fit is a problem that names them.

    Args:
        images: candidates for images.
        masks: candidates for masks; none of them is among the images.
        same_name: whether a mask may have the name of its image; False where both lie in one folder.
    """
    state = Matches(images=list(images), masks=list(masks))
    for with_place in (True, False):
        for image_reading, mask_reading in _readings(same_name):
            _match_by(state, image_reading, mask_reading, with_place)
    return state


def _plain(file: FoundFile) -> dict[str, str]:
    return {file.path.stem: "NAME"}


def _folded(file: FoundFile) -> dict[str, str]:
    return {file.stem: f"NAME ({_ALIKE})"}


def _inner(file: FoundFile) -> dict[str, str]:
    return {file.stem: "NAME (without the image's img_, _0000 or the like)"}


def _stripped(depth: int) -> Reading:
    return lambda file: mask_names.mask_readings(file.stem)[depth]


def _image_name(file: FoundFile) -> dict[str, str]:
    return mask_names.image_readings(file.stem)


def _readings(same_name: bool) -> Iterable[tuple[Reading, Reading]]:
    if same_name:
        yield _plain, _plain
        yield _folded, _folded
    for depth in range(3):
        yield _folded, _stripped(depth)
    if same_name:
        yield _image_name, _inner
    yield _image_name, _stripped(0)
    yield _image_name, _stripped(1)


def _match_by(state: Matches, image_reading: Reading, mask_reading: Reading, with_place: bool) -> None:
    """Pair what is left by one rule, and take away what it leaves open."""
    by_name: dict[tuple[str, str], list[FoundFile]] = defaultdict(list)
    for image in state.images:
        for name in image_reading(image):
            by_name[image.place if with_place else "", name].append(image)
    of_image: dict[FoundFile, list[tuple[FoundFile, str]]] = defaultdict(list)
    of_mask: dict[FoundFile, list[FoundFile]] = {}
    for mask in state.masks:
        for name, rule in mask_reading(mask).items():
            fitting = by_name.get((mask.place if with_place else "", name), [])
            for image in fitting:
                of_image[image].append((mask, rule))
            of_mask.setdefault(mask, []).extend(fitting)
    done: set[FoundFile] = set()
    for image, fits in of_image.items():
        if len(fits) == 1 and len(of_mask[fits[0][0]]) == 1:
            state.pairs.append((image, *fits[0]))
        elif len(fits) > 1:
            state.problems.append(_ambiguous("masks", image, [mask for mask, _ in fits]))
            state.open |= {image, *(mask for mask, _ in fits)}
        done |= {image, *(mask for mask, _ in fits)}
    for mask, fitting in of_mask.items():
        if len(fitting) > 1 and all(len(of_image[image]) == 1 for image in fitting):
            state.problems.append(_ambiguous("images", mask, fitting))
            state.open |= {mask, *fitting}
    state.images = [image for image in state.images if image not in done]
    state.masks = [mask for mask in state.masks if mask not in done]


def _ambiguous(kind: str, file: FoundFile, candidates: Sequence[FoundFile]) -> Problem:
    named = first_named([candidate.name for candidate in candidates], 4)
    what = f"ambiguous pairing, {len(candidates)} {kind} fit ({named})"
    return Problem(what, str(file.path), f"keep one of them, or say where masks lie, {EXAMPLE}")


def by_patterns(files: Sequence[FoundFile], patterns: str) -> Matches:
    """Pairs where masks are the files that `data.masks` names, and images the other pictures.

    Raises:
        UserError: a pattern without its one `*`, or patterns that no file has.
    """
    written = [text for text in (part.strip() for part in patterns.split("|")) if text]
    tests = {text: _pattern(text) for text in written}
    named: dict[FoundFile, dict[str, str]] = {}
    for file in files:
        keys = {key: Path(text).name for text, test in tests.items() if (key := test(file)) is not None}
        if keys and (file.is_picture or annotation_kind(file.path)):
            named[file] = keys
    pool = image_pool([file for file in files if file.is_picture and file not in named])
    if not named:
        seen = f"{len(pool)} pictures are there, such as {pool[0].name}" if pool else "there are no pictures"
        raise UserError("data.masks fits no file", patterns, f"give their path with * for the image's name; {seen}")
    state = Matches(images=pool, masks=list(named))

    def name_of(file: FoundFile) -> dict[str, str]:
        whole = named[file]
        return {mask_names.bare(f"{key}.png"): rule for key, rule in whole.items()}

    for with_place in (True, False):
        _match_by(state, _folded, name_of, with_place)
    return state


def _pattern(text: str) -> Callable[[FoundFile], str | None]:
    """A test of one pattern of `data.masks`, which gives the image's name that a mask's name holds, or None."""
    written = re.sub(r"\{(name|stem)\}", "*", text)
    *folders, last = mask_names.folded(written).strip("/").split("/")
    if last.count("*") != 1:
        mend = f"its last part needs one *, in the place of the image's name, {EXAMPLE}"
        raise UserError("bad pattern of data.masks", text, mend)
    before, after = map(re.escape, last.split("*"))
    ending = "" if Path(last).suffix else r"\.[a-z0-9]+"
    name_test = re.compile(f"{before}(.+){after}{ending}")
    parts = [re.escape(part).replace(r"\*\*", ".*").replace(r"\*", "[^/]*") for part in folders if part != "."]
    folder_test = re.compile("/".join(parts)) if parts else None

    def test(file: FoundFile) -> str | None:
        if folder_test is not None and not folder_test.fullmatch(mask_names.folded("/".join(file.folders))):
            return None
        found = name_test.fullmatch(mask_names.folded(file.path.name))
        return found.group(1) if found else None

    return test


def image_pool(pictures: Sequence[FoundFile]) -> list[FoundFile]:
    """The pictures that may be images: those in folders named after images; else all that lie in no mask folder."""
    inside = [file for file in pictures if file.in_images]
    return inside or [file for file in pictures if not file.in_masks] or list(pictures)


def by_rules(files: Sequence[FoundFile]) -> Matches:
    """Pairs by the usual names of folders and files, the first of these that finds any.

    Masks in folders named after masks; masks whose name says so, among the images; a JPEG with a lossless picture of
    the same name, which is its mask. Images that are left may have annotation files.
    """
    second = _second_choices(files)
    pictures = [file for file in files if file.is_picture and file not in second]
    in_folders = [file for file in pictures if file.in_masks]
    pool = image_pool([file for file in pictures if not file.in_masks])
    found = match(pool, in_folders)
    if not found.pairs and not found.problems:
        images, masks = _told_by_name([file for file in pictures if not file.in_masks])
        found = match(image_pool(images), masks, same_name=False)
        rules = {rule for _, _, rule in found.pairs}
        alone = {file for file in found.images if rules & set(mask_names.mask_readings(file.stem)[0].values())}
        found.masks += [file for file in found.images if file in alone]
        found.images = [file for file in found.images if file not in alone]
    if not found.pairs and not found.problems:
        lossy = [file for file in pool if file.path.suffix.lower() in _LOSSY]
        found = match(lossy, [file for file in pool if file.path.suffix.lower() not in _LOSSY])
        found.images, found.masks = found.images + found.masks, []
    if not found.pairs and not found.problems:
        found.masks = in_folders
    if found.images:
        _take_annotations(found, files)
    return found


def _second_choices(files: Sequence[FoundFile]) -> set[FoundFile]:
    """Files in a folder of masks beside which masks/ or segmaps/ goes first, as it always did."""
    second: set[tuple[Path, tuple[str, ...]]] = set()
    for key in {(file.path.parent, file.folders) for file in files if file.in_masks}:
        folder, names = key
        for depth in range(len(names)):
            above, name = folder.parents[depth], names[len(names) - 1 - depth]
            first = [usual for usual in mask_names.FIRST_FOLDERS if (above / usual).is_dir()]
            if mask_names.holds_masks(name) and first and name != first[0]:
                second.add(key)
    return {file for file in files if (file.path.parent, file.folders) in second}


def _told_by_name(pool: Sequence[FoundFile]) -> tuple[list[FoundFile], list[FoundFile]]:
    """(images, masks) of pictures in folders that say nothing: a mask is named after another picture."""
    stems = {file.stem for file in pool}
    inner = {name for file in pool for name in mask_names.image_readings(file.stem)}
    masks = []
    for file in pool:
        names = {name for depth in mask_names.mask_readings(file.stem) for name in depth}
        if names & (stems | inner):
            masks.append(file)
    chosen = set(masks)
    return [file for file in pool if file not in chosen], masks


def _take_annotations(found: Matches, files: Sequence[FoundFile]) -> None:
    """Give images without a mask the annotation file of their name, or the COCO file that lists them."""
    kinds = {file: annotation_kind(file.path) for file in files if not file.is_picture}
    own = [file for file, kind in kinds.items() if kind and kind != "coco"]
    more = match(found.images, own)
    lone = [file for file in more.masks if kinds[file] == "imagej"]
    if len(found.images) == 1 and not more.pairs and len(lone) == 1:  # RoiSet.zip beside the only image
        more = Matches(pairs=[(found.images[0], lone[0], lone[0].path.stem)])
    for image, file, rule in more.pairs:
        told = "labelme" if kinds[file] == "labelme" else "ImageJ regions"
        found.pairs.append((image, file, f"{rule}{file.path.suffix} ({told})"))
    found.problems += more.problems
    found.open |= more.open
    found.images = more.images
    for file in (file for file, kind in kinds.items() if kind == "coco"):
        _take_coco(found, file)


def _take_coco(found: Matches, file: FoundFile) -> None:
    """Pair images with a COCO file that lists them, by path or, where it names one of that name only, by name."""
    listed = [mask_names.folded(name.replace("\\", "/")).split("/") for name in coco_images(file.path)]
    whole = {"/".join(parts) for parts in listed}
    ends = {"/".join(parts[start:]) for parts in listed for start in range(len(parts))}
    last = Counter(parts[-1] for parts in listed)
    left = []
    for image in found.images:
        parts = mask_names.folded(image.name).split("/")
        by_path = "/".join(parts) in ends or any("/".join(parts[start:]) in whole for start in range(len(parts)))
        if by_path or last[parts[-1]] == 1:
            found.pairs.append((image, file, f"{file.path.name} (COCO)"))
        else:
            left.append(image)
    found.images = left
