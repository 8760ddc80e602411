"""`prepare`: from `data.path` to arrays, a fingerprint and a split, decoded once for all processes of a machine."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from sage_ray.config import stable_hash
from sage_ray.data.cache import FORMAT_VERSION, CacheEntry, Row, open_or_build
from sage_ray.data.foreground import SeenTerms
from sage_ray.data.images import BadFile, Problem, read_image
from sage_ray.data.notes import Note, note_lines, range_note
from sage_ray.data.pair_masks import is_annotated, read_pair_mask
from sage_ray.data.pairing import Pair
from sage_ray.data.pairs import fingerprint, gathered, hash_pairs, header_problems, look_through, raise_first
from sage_ray.data.preprocess import prepare_image, prepare_mask
from sage_ray.data.shared_data import fetch_shared, share
from sage_ray.data.splits import Split, group_names, make_split
from sage_ray.data.synth import DRAWN_PREFIX, DRAWN_VERSION, DrawnSource
from sage_ray.errors import UserError
from sage_ray.grey_range import MINMAX, bands_of
from sage_ray.sections import DataConfig, SplitConfig

READER = 2
"""Counts the rules by which files are read; entries of the cache that other rules made are not used."""
MAX_DRAWN_PIXELS = 1 << 29
"""Drawn images are sorted in memory before they are written; this bounds it to 1 GiB with their masks."""


@dataclass(frozen=True)
class Facts:
    """What is known of one pair: contents, original size in pixels, share of foreground and objects of the raw mask."""

    image_sha: str
    mask_sha: str
    pixel_sha: str
    """sha256 of the decoded picture, so that one picture saved in two formats is seen as a duplicate."""
    rows: int
    columns: int
    coverage: float
    objects: int


@dataclass(frozen=True, eq=False)
class PreparedData:
    """Everything that training, search and evaluation read of the data; rows are sorted by image sha."""

    images: np.ndarray
    """(N,H,W) uint8, memory-mapped read-only: stretched and resized."""
    masks: np.ndarray
    """(N,H,W) uint8 in {0,1}, memory-mapped read-only."""
    stems: tuple[str, ...]
    shas: tuple[str, ...]
    """sha256 of each image file (of the array, if drawn)."""
    fingerprint: str
    """16 hex digits over all (image sha, mask sha), whatever their order or names."""
    split: Split
    """Only `evaluation/locked_test.py` reads `split.test`."""
    facts: tuple[Facts, ...]
    files: tuple[tuple[str, str], ...]
    """(image file name, mask file name) of each row; empty names if drawn."""
    groups: tuple[str, ...] | None = None
    """The micrograph that each image is a crop of; None without `data.split.group`: every image is its own."""


def headline(data: PreparedData, config: DataConfig) -> str:
    """What the data are, how many images, and how they are split: the first line of whatever trains on them."""
    if config.path.startswith(DRAWN_PREFIX):
        source = f"drawn particles, no micrographs ({config.path}; data.path=FOLDER takes your own)"
    else:
        source = config.path
    split = data.split
    parts = [f"{len(split.train)} train", f"{len(split.validation)} validation", f"{len(split.test)} locked test"]
    parts += [f"{len(split.unlabelled)} without labels"] if len(split.unlabelled) else []
    fold = f", fold {config.split.fold} of {config.split.folds}" if config.split.folds else ""
    groups = group_names(data.stems, config.split.group)
    grouped = f" of {len(set(groups))} micrographs" if groups else ""
    if config.split.part != "all":
        others = len(data.shas) - len(split.train) - len(split.validation) - len(split.test) - len(split.unlabelled)
        parts.append(f"part {config.split.part}, {others} in other parts")
    return f"data: {source}: {len(data.shas)} images{grouped}, {', '.join(parts)}{fold}"


def _silent(_: str) -> None: ...


def prepare(data: DataConfig, cache_dir: Path, *, say: Callable[[str], None] = _silent) -> PreparedData:
    """Arrays, fingerprint and split of `data`, from the cache or decoded into it.

    Args:
        data: path, size, cleaning and split.
        cache_dir: `Home.cache`; made if missing. Processes that start at once build an entry once.
        say: told when a damaged cache is built again.

    Raises:
        UserError: a problem of the folder (the first one; `sage-ray data check` lists all), masks that are all empty,
            a picture that stands in two parts of the split, or too few images.
    """
    if data.path.startswith("synthetic://"):
        entry, stems, files = _drawn(data, cache_dir, say)
    else:
        entry, stems, files = _folder(data, cache_dir, say)
    facts = tuple(Facts(**{name: fact[name] for name in Facts.__dataclass_fields__}) for fact in entry.facts)
    if not entry.masks.any():
        what = "all masks are empty after cleaning and resizing"
        mend = "lower data.min_object_pixels or data.mask_erosion, or enlarge data.image_size"
        raise UserError(what, data.path, mend)
    shas = tuple(fact.image_sha for fact in facts)
    raise_first(straddling(stems, facts, data.split))
    split = make_split(shas, [fact.coverage for fact in facts], stems, data.split, f"data.split of {data.path}")
    pairs_of_shas = [(fact.image_sha, fact.mask_sha) for fact in facts]
    named = group_names(stems, data.split.group)
    return PreparedData(
        entry.images, entry.masks, stems, shas, fingerprint(pairs_of_shas), split, facts, files,
        tuple(named) if named else None,
    )  # fmt: skip


def inspect(
    pair: Pair, shas: tuple[str, str], problems: list[Problem], notes: list[Note], data: DataConfig, seen: SeenTerms
) -> tuple[np.ndarray, np.ndarray, Facts] | None:
    """Decoded image (H,W), foreground (H,W) bool and facts of one pair; None, and `problems` grows, if unusable.

    `notes` grows by what had to be decided to read the pair, and by what of `data` may not suit it; `seen` by what the
    mask has of `data.foreground`.
    """
    image = mask = None
    try:
        image = read_image(pair.image)
    except BadFile as bad:
        problems.append(bad.problem)
    try:
        if image is not None or not is_annotated(pair):
            mask = read_pair_mask(pair, (0, 0) if image is None else image.shape, data.foreground)
    except BadFile as bad:
        problems.append(bad.problem)
    if image is None or mask is None:
        return None
    notes += [Note(text, pair.mask, mask.details.get(text, "")) for text in mask.notes]
    if not is_annotated(pair):
        seen.add(mask)
    kept = image[: len(image) - data.crop_bottom]
    notes += range_note(bands_of(kept), pair.image, data.stretch, "data.stretch=percentile clips them")
    return image, mask.foreground, describe(image, mask.foreground, mask.objects, shas)


def describe(image: np.ndarray, foreground: np.ndarray, objects: int, shas: tuple[str, str]) -> Facts:
    """Facts of decoded arrays (H,W)."""
    rows, columns = image.shape
    return Facts(*shas, pixel_sha(image), rows, columns, float(foreground.mean()), objects)


def pixel_sha(pixels: np.ndarray) -> str:
    """sha256 over shape, kind and values of an array."""
    head = f"{pixels.shape}{pixels.dtype.str}".encode()
    return hashlib.sha256(head + np.ascontiguousarray(pixels).tobytes()).hexdigest()


def duplicates(stems: Sequence[str], facts: Sequence[Facts]) -> list[list[int]]:
    """Indices of pictures with equal pixels, one list per picture that occurs more than once."""
    same: dict[str, list[int]] = defaultdict(list)
    for index in sorted(range(len(stems)), key=lambda i: stems[i]):
        same[facts[index].pixel_sha].append(index)
    return [indices for indices in same.values() if len(indices) > 1]


def duplicate_problem(stems: Sequence[str]) -> Problem:
    """The problem of one picture that is stored under several stems."""
    mend = "keep one of them, or give a data.split.group that holds them together"
    return Problem("duplicate pictures", " = ".join(stems), mend)


def straddling(stems: Sequence[str], facts: Sequence[Facts], config: SplitConfig) -> list[Problem]:
    """A problem for each picture whose copies may stand in different parts of the split.

    That two copies fall into one part is chance and changes with seed and fold, so they are refused whenever images are
    held out and no group holds the copies together.
    """
    if not (config.test or config.validation or config.folds or config.part != "all"):
        return []
    groups = group_names(stems, config.group) or stems
    copies = (indices for indices in duplicates(stems, facts) if len({groups[i] for i in indices}) > 1)
    return [duplicate_problem([stems[i] for i in indices]) for indices in copies]


def _key(data: DataConfig, source: object) -> str:
    cleaning = [data.crop_bottom, data.mask_erosion, data.min_object_pixels]
    # Later settings are left out while they have their introduction value, so that entries of before stay valid.
    return stable_hash(
        [FORMAT_VERSION, source, data.image_size, cleaning, *([] if data.stretch == MINMAX else [data.stretch])]
    )


Found = tuple[CacheEntry, tuple[str, ...], tuple[tuple[str, str], ...]]


def _folder(data: DataConfig, cache_dir: Path, say: Callable[[str], None]) -> Found:
    if not Path(data.path).expanduser().exists():
        shared = fetch_shared(data, cache_dir)
        if shared is not None:
            return shared.entry, shared.stems, shared.files
    found = look_through(data.path, data.masks)
    raise_first(found.problems)
    pairs = found.pairs
    if say is not _silent:
        for line in filter(None, ("" if found.usual else found.rule, found.passed_over())):
            say(f"{data.path}: {line}")
    shas = hash_pairs(pairs, _made(cache_dir), data.foreground)
    order = sorted(range(len(pairs)), key=lambda i: (shas[i], pairs[i].stem))
    ordered, shas = [pairs[i] for i in order], [shas[i] for i in order]
    key = _key(data, [READER, fingerprint(shas)])
    entry = open_or_build(cache_dir, key, len(pairs), lambda: _decode(ordered, shas, data, say), say)
    files = tuple((pair.image.name, pair.mask.name) for pair in ordered)
    stems = tuple(pair.stem for pair in ordered)
    share(data, cache_dir, key, stems, files)
    return entry, stems, files


def _made(cache_dir: Path) -> Path:
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the cache ({error.strerror})", cache_dir, "choose a writable --home") from None
    return cache_dir


def _decode(
    pairs: list[Pair], shas: list[tuple[str, str]], data: DataConfig, say: Callable[[str], None]
) -> Iterator[Row]:
    by_name = sorted(pairs, key=lambda pair: pair.stem)
    raise_first(gathered(header_problems(by_name, data.crop_bottom)))  # before anything is decoded
    problems: list[Problem] = []
    notes: list[Note] = []
    foreground_seen, seen = False, SeenTerms(data.foreground)
    for pair, pair_shas in zip(pairs, shas, strict=True):
        decoded = inspect(pair, pair_shas, problems, notes, data, seen)
        if decoded is None:
            continue
        image, foreground, facts = decoded
        foreground_seen |= bool(foreground[: foreground.shape[0] - data.crop_bottom].any())
        yield _row(image, foreground, facts, data)
    raise_first(problems)
    if not foreground_seen:
        raise empty_problem(data.path, seen).error()
    for line in (*note_lines(notes), *seen.missing()):
        say(line)


def empty_problem(path: str, seen: SeenTerms) -> Problem:
    """The problem of a folder without a single foreground pixel."""
    if not seen.foreground:
        return Problem("all masks are empty", path, "give masks in which particles are above 0")
    what = f"no mask has a particle under data.foreground='{seen.foreground}'"
    return Problem(what, path, f"name a value that they have: {seen.shown()}")


def _row(image: np.ndarray, foreground: np.ndarray, facts: Facts, data: DataConfig) -> Row:
    size, crop = data.image_size, data.crop_bottom
    mask = prepare_mask(foreground, size, crop, erosion=data.mask_erosion, min_object_pixels=data.min_object_pixels)
    return prepare_image(image, size, crop, stretch_rule=data.stretch), mask, asdict(facts)


def _drawn(data: DataConfig, cache_dir: Path, say: Callable[[str], None]) -> Found:
    source = DrawnSource.parse(data.path)
    if data.foreground:
        say("note: data.foreground says nothing of drawn particles, whose masks are known")
    pixels = source.num * data.image_size[0] * data.image_size[1]
    if pixels > MAX_DRAWN_PIXELS:
        mend = "write them to a folder with `sage-ray data synth`, which is read one image at a time"
        raise UserError(f"too many drawn pixels ({pixels:,}, at most {MAX_DRAWN_PIXELS:,})", data.path, mend)
    if data.crop_bottom >= source.size:
        what = f"data.crop_bottom {data.crop_bottom} leaves nothing of {source.size} rows"
        raise UserError(what, data.path, f"set it below {source.size}")

    def rows() -> Iterator[Row]:
        drawn: list[tuple[tuple[str, str], int, Row]] = []
        for index in range(source.num):
            pair = source.draw(index)
            shas = pixel_sha(pair.image), pixel_sha(pair.mask)
            facts = describe(pair.image, pair.mask, int(pair.labels.max()), shas)
            drawn.append((shas, index, _row(pair.image, pair.mask, facts, data)))
        for _, index, (image, mask, row_facts) in sorted(drawn, key=lambda item: item[:2]):
            yield image, mask, {**row_facts, "stem": source.stem(index)}

    key = _key(data, [DRAWN_PREFIX, DRAWN_VERSION, source.num, source.size, source.seed])
    entry = open_or_build(cache_dir, key, source.num, rows, say)
    stems = tuple(str(fact["stem"]) for fact in entry.facts)
    return entry, stems, (("", ""),) * len(stems)
