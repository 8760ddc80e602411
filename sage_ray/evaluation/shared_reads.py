"""Readings of a locked test set, counted over all homes that share an object store.

Every home has a ledger of its own (`evaluation.ledger`). Beside it each reading is an object in a place that all homes
of a store have in common: `.sage-test-reads/TEST_SET/HOME-READING.json` at the root of a bucket, or in the folder of a
stage store. TEST_SET names the test images by their contents, so that a copy of the data under another path is the same
test; HOME is the identity of the home that read. An object is created if it is absent, and never written again.

The object is created before the row of the ledger, under a name that follows from the row, so that a call that was
killed between the two counts once. Rows that have no object, as those of earlier releases, get theirs when the home is
used again. A copied home holds the rows of its original, which give the same names: nothing is counted twice.

A home in a bucket shares that bucket. A home in a folder shares the stage store that the config of the model names
(`runtime.stage_store`): a second home takes the trained stages over at no cost, and could read the test again.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from sage_ray.bucket_client import place_of_address
from sage_ray.config import stable_hash
from sage_ray.errors import StoreFailed, UserError
from sage_ray.evaluation import ledger
from sage_ray.object_store import ObjectStore, open_object_store, store_place
from sage_ray.record.home import Home
from sage_ray.record.home_identity import FILE as IDENTITY_FILE
from sage_ray.record.run_folder import RunFolder
from sage_ray.store_faults import NO_RIGHT

Row = dict[str, Any]
PLACE = ".sage-test-reads"
"""Folder of the readings in a store. Its name begins with a dot, so that a store of stages takes it for no stage."""
HOMES = "homes"
"""Folder beside the test sets: an object for each home that has counted here, with its address."""
READ_KEY = ("reader", "read", "test_set", "weights_sha")
"""Fields of a row that make it one reading of its home."""
_ENTERED: set[tuple[str, str]] = set()
"""Places that this process knows to be writable, each with the home that has entered it."""


@dataclass(frozen=True)
class Readings:
    """How often one locked test set has been read, by all models."""

    test_set: str
    total: int
    """By all homes of the stores, this one included."""
    by_this_home: int
    by_other_homes: int
    stores: tuple[str, ...]
    """Buckets, and folders of stage stores, whose homes were counted; () if the home shares none or none answered."""
    notes: tuple[str, ...] = ()
    """What could not be counted, why, and what to do."""

    @property
    def sentence(self) -> str:
        """`text` as a sentence of a page."""
        return f"{self.text[:1].upper()}{self.text[1:]}."

    @property
    def text(self) -> str:
        """The counts as one line."""
        read = f"test set {self.test_set} has been read {times(self.total)}"
        if not self.stores:
            return f"{read} in this home"
        where = " and ".join(self.stores)
        if not self.by_other_homes:
            return f"{read} in this home, and never in another home of {where}"
        return (
            f"{read}: {times(self.by_this_home)} in this home, {times(self.by_other_homes)} in other homes of {where}"
        )


def times(count: int) -> str:
    """Such as "1 time" and "2 times"."""
    return f"{count} time{'' if count == 1 else 's'}"


def readings_of(
    home: Home, test_set: str, *, stage_store: str | None = None, pending: Row | None = None, write: bool = False
) -> Readings:
    """How often a test set has been read, over all homes of the stores that this home shares.

    Args:
        home: whose ledger is read.
        test_set: its name.
        stage_store: that the config of the model names, beside those of the home's own readings.
        pending: a row that will be counted, and is counted in.
        write: bring into the stores what they lack of the ledger. A store that cannot be written is then a note.
    """
    rows = ledger.reads_of_test_set(home.path, test_set)
    counting = [*rows, _of_this_home(home, pending)] if pending and not _is_in(pending, rows) else rows
    mine, found, reached, notes = {_name(row) for row in counting}, set[str](), list[str](), list[str]()
    for store in _stores(home, rows, stage_store):
        shown = _shown(store)
        try:
            place = _Place(store)
            there = place.names(test_set)
        except _NotCounted as why:
            notes.append(f"readings of the test set are counted in this home alone, not in all homes of {shown}: {why}")
            continue
        reached.append(shown)
        found |= there
        try:
            if write:
                place.enter(home)
                place.bring_in(home, rows, there)
        except _NotCounted as why:
            notes.append(f"other homes of {shown} do not count the readings by this home: {why}")
    if (home.path / IDENTITY_FILE).exists():
        # Also what a call created that was killed before it came to the ledger.
        mine |= {name for name in found if name.startswith(f"{test_set}/{home.identity}-")}
    total = len(found | mine)
    return Readings(test_set, total, len(mine), total - len(mine), tuple(reached), tuple(notes))


def readings_by(home: Home, run_ids: Collection[str], *, write: bool = False) -> list[Readings]:
    """As `readings_of`, for each test set that one of these runs has read."""
    wanted = set(run_ids)
    rows = ledger.read(home.path / ledger.TEST_READS)
    test_sets = dict.fromkeys(row["test_set"] for row in rows if row.get("reader") in wanted)
    return [readings_of(home, test_set, write=write) for test_set in test_sets]


def count_reading(home: Home, row: Row, stage_store: str | None, known: Readings) -> None:
    """Count a reading once: in the stores that the home shares, then in its ledger.

    A store that cannot be written does not keep the reading out of the ledger, from which it is brought in when the
    home is used again; `readings_of` has said so before.

    Args:
        home: that reads.
        row: of the ledger, with the fields of `READ_KEY`.
        stage_store: that the config of the model names.
        known: the counts that are shown with the reading; the ledger keeps them beside it.
    """
    rows = ledger.reads_of_test_set(home.path, row["test_set"])
    if _is_in(row, rows):
        return
    stores = _stores(home, rows, stage_store)
    whole = ledger.signed({**_of_this_home(home, row), "counted_in": stores})
    for store in [store for store in stores if _shown(store) in known.stores]:
        with contextlib.suppress(_NotCounted):
            _Place(store).create(_name(whole), home, whole)
    counts = {"reads_of_all_homes": known.total, "reads_of_other_homes": known.by_other_homes}
    ledger.append_once(home.path / ledger.TEST_READS, {**whole, **counts}, key=READ_KEY)


def bring_in(home: Home) -> None:
    """Bring into the bucket of a home what it lacks of the home's ledger; nothing happens for one in a folder.

    Other homes then see what an earlier release counted, which had no common place. Where that place cannot be read or
    written, nothing happens here: the commands that show a count say so.
    """
    if not home.in_bucket:
        return
    rows = ledger.read(home.path / ledger.TEST_READS)
    for test_set in dict.fromkeys(row["test_set"] for row in rows):
        for store in _stores(home, [], None):
            with contextlib.suppress(_NotCounted):
                place = _Place(store)
                place.bring_in(home, [row for row in rows if row["test_set"] == test_set], place.names(test_set))


def common_place(home: Home) -> str | None:
    """Where the readings of all homes of a home's bucket are; None for a home in a folder."""
    return next((f"{store}/{PLACE}" for store in _stores(home, [], None)), None)


class _NotCounted(Exception):
    """Why a store was not counted in, and what to do, as "what: where: how to mend"."""


class _Place:
    """The readings in one store, with its failures as `_NotCounted`."""

    def __init__(self, store: str) -> None:
        place = place_of_address(store)
        if isinstance(place, Path):
            self._uri = f"{store}/{PLACE}"
            if not place.is_dir():
                raise _NotCounted(f"no such folder: {store}: mount it, or restore it")
        else:
            query = f"?{urlencode(place.options)}" if place.options else ""
            self._uri = f"{place.bucket}/{PLACE}{query}"
        with self._told():
            self._objects: ObjectStore = open_object_store(self._uri)

    def names(self, test_set: str) -> set[str]:
        """Names of all readings of a test set."""
        with self._told():
            return {entry.name for entry in self._objects.names(test_set)}
        raise AssertionError

    def enter(self, home: Home) -> None:
        """Note the home and its address, once; this shows whether the place can be written."""
        if (self._uri, home.identity) in _ENTERED:
            return
        with self._told():
            self._objects.create(f"{HOMES}/{home.identity}.json", _dump({"home": home.identity, "at": home.address}))
        _ENTERED.add((self._uri, home.identity))

    def create(self, name: str, home: Home, row: Row) -> None:
        """Store a reading, unless it is there."""
        with self._told():
            self._objects.create(name, _dump({**row, "at": home.address}))

    def bring_in(self, home: Home, rows: Iterable[Row], there: set[str]) -> None:
        """Store those readings of the ledger that are not there, and add their names to `there`."""
        for row in rows:
            if _name(row) not in there:
                self.create(_name(row), home, row)
                there.add(_name(row))

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        where = _shown(self._uri)
        try:
            yield
        except (UserError, StoreFailed) as error:
            rights = "give these credentials the rights to list, read and create objects there"
            raise _NotCounted(f"{error.what}: {where}: {rights if error.what == NO_RIGHT else error.mend}") from None
        except OSError as error:
            mend = (
                "give this user the right to write there" if isinstance(error, PermissionError) else "mend the folder"
            )
            raise _NotCounted(f"{error.strerror or error}: {where}: {mend}") from None


def _is_in(row: Row, rows: Iterable[Row]) -> bool:
    return any(all(old.get(name) == row[name] for name in READ_KEY) for old in rows)


def _of_this_home(home: Home, row: Row) -> Row:
    return {**row, "home": home.identity}


def _name(row: Row) -> str:
    """Name of the object of a row; that of a row without a home, of an earlier release, is made of all that it says."""
    if "home" in row:
        return f"{row['test_set']}/{row['home']}-{stable_hash([[name, row[name]] for name in READ_KEY])}.json"
    return f"{row['test_set']}/earlier-{stable_hash(row)}.json"


def _stores(home: Home, rows: Iterable[Row], stage_store: str | None) -> list[str]:
    """Addresses of the buckets, and folders of stage stores, that a home shares; each once."""
    if home.in_bucket:
        place = place_of_address(home.address)
        return [] if isinstance(place, Path) else [place.bucket]
    found = {} if stage_store is None else dict.fromkeys(_store(home, stage_store))
    for row in rows:
        found.update(dict.fromkeys(row["counted_in"] if "counted_in" in row else _store_of_run(home, row["reader"])))
    return list(found)


def _store(home: Home, stage_store: str) -> list[str]:
    """What homes share that name this stage store: its bucket, or its folder; nothing for a folder in the home."""
    try:
        place = place_of_address(stage_store)
    except UserError:  # an address of an earlier release that is none any more
        return []
    if isinstance(place, Path):
        folder = Path(store_place(place))
        return [] if folder.is_relative_to(home.path.resolve()) else [str(folder)]
    query = f"?{urlencode(place.options)}" if place.options else ""
    return [f"{place.bucket}{query}"]


def _store_of_run(home: Home, reader: str) -> list[str]:
    """Of a row of an earlier release, which does not say where it counts: the stage store of the run that read."""
    if not (home.runs / reader / "config.yaml").is_file():
        return []
    try:
        named = RunFolder(home.runs / reader).config().runtime.stage_store
    except UserError:
        return []
    return [] if named is None else _store(home, named)


def _shown(address: str) -> str:
    return address.partition("?")[0]


def _dump(row: Row) -> bytes:
    return json.dumps(row, sort_keys=True).encode()
