"""Readings of a locked test over all homes of a store: counted once, whoever reads, whatever is copied or killed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from s3_cases import S3Server

from sage_ray import followed
from sage_ray.config import resolve
from sage_ray.data.synth import write_dataset
from sage_ray.evaluation import ledger, shared_reads
from sage_ray.evaluation.shared_reads import PLACE, bring_in, count_reading, readings_of
from sage_ray.object_store import ObjectStore, open_object_store
from sage_ray.record.home import Home
from sage_ray.runtime.launch import run
from sage_ray.terminal.cli import call

TEST_SET = "0123456789abcdef"


@pytest.fixture
def bucket(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a bucket in which homes are made; each test has an empty place of readings."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # named, as such a home wants, and never asked
    monkeypatch.setattr(followed, "_FOLLOWED", {})
    monkeypatch.setenv(followed.VARIABLE, str(tmp_path / "machine"))
    yield s3.uri
    s3.refuse = lambda method, path: None
    place = open_object_store(f"{s3.uri}/{PLACE}")
    place.delete([entry.name for entry in place.names()])


def made(address: str | Path) -> Home:
    home = Home(address)
    home.check_writable()
    return home


def row_of(reader: str, **more: Any) -> dict[str, Any]:
    return {"reader": reader, "read": 1, "test_set": TEST_SET, "weights_sha": "w", **more}


def read(home: Home, reader: str, stage_store: str | None = None) -> shared_reads.Readings:
    """A reading as `evaluate` counts it; returns what it would show."""
    row = row_of(reader)
    shown = readings_of(home, TEST_SET, stage_store=stage_store, pending=row, write=True)
    count_reading(home, row, stage_store, shown)
    return shown


def counts(found: shared_reads.Readings) -> tuple[int, int, int]:
    return found.total, found.by_this_home, found.by_other_homes


def objects(store: ObjectStore | str) -> list[str]:
    place = open_object_store(f"{store}/{PLACE}") if isinstance(store, str) else store
    return [entry.name for entry in place.names(TEST_SET)]


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_homes_of_one_bucket_count_together(bucket: str, tmp_path: Path, scheme: str) -> None:
    root = bucket.replace("s3", scheme, 1)
    one, two = (made(f"{root}/{tmp_path.name}/{name}") for name in ("one", "two"))
    assert counts(read(one, "r")) == (1, 1, 0)
    shown = read(two, "r")
    assert counts(shown) == (2, 1, 1) and shown.stores == (root,) and not shown.notes
    assert (
        shown.text == f"test set {TEST_SET} has been read 2 times: 1 time in this home, 1 time in other homes of {root}"
    )
    assert counts(read(two, "r")) == (2, 1, 1), "the same reading again is none"
    assert counts(read(one, "other")) == (3, 2, 1) and counts(readings_of(two, TEST_SET)) == (3, 1, 2)
    assert len(objects(root)) == 3 and counts(readings_of(one, "f" * 16)) == (0, 0, 0)
    (kept,) = [r for r in ledger.read(two.path / ledger.TEST_READS)]
    assert (kept["home"], kept["reads_of_all_homes"], kept["reads_of_other_homes"]) == (two.identity, 2, 1)
    assert {open_object_store(f"{root}/{PLACE}").read(name)[:1] for name in objects(root)} == {b"{"}


def test_a_call_that_was_killed_before_the_ledger_counts_once(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = made(f"{bucket}/{tmp_path.name}/home")

    def killed(*_: object, **__: object) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ledger, "append_once", killed)
        read(home, "r")
    assert not ledger.read(home.path / ledger.TEST_READS) and len(objects(bucket)) == 1
    assert counts(readings_of(home, TEST_SET)) == (1, 1, 0)
    assert counts(read(home, "r")) == (1, 1, 0) and len(objects(bucket)) == 1
    assert len(ledger.read(home.path / ledger.TEST_READS)) == 1


def test_readings_of_an_earlier_release_are_brought_in_once_and_a_copy_adds_none(bucket: str, tmp_path: Path) -> None:
    address = f"{bucket}/{tmp_path.name}/old"
    old, other = made(address), made(f"{bucket}/{tmp_path.name}/other")
    for reader in ("a", "b"):  # as a release did that knew no common place
        ledger.append_once(old.path / ledger.TEST_READS, row_of(reader), key=shared_reads.READ_KEY)
    assert counts(readings_of(other, TEST_SET)) == (0, 0, 0)
    assert call(["list", "--home", address, "--quiet"]) == 0
    assert counts(readings_of(other, TEST_SET)) == (2, 0, 2)
    for _ in range(2):
        bring_in(old)
        assert counts(read(old, "a")) == (2, 2, 0) and len(objects(bucket)) == 2
    read(old, "c")

    store = open_object_store(f"{bucket}/{tmp_path.name}")
    for entry in store.names("old"):
        store.write(f"copy/{entry.name.removeprefix('old/')}", store.read(entry.name))
    copy = made(f"{bucket}/{tmp_path.name}/copy")
    assert copy.settle_identity() is None and copy.identity != old.identity
    bring_in(copy)
    assert counts(readings_of(copy, TEST_SET, write=True)) == (3, 3, 0) and len(objects(bucket)) == 3
    assert counts(read(copy, "d")) == (4, 4, 0) and counts(readings_of(old, TEST_SET)) == (4, 3, 1)


def refuse_place(s3: S3Server, *methods: str) -> None:
    """Answer as to a key whose rights end at the prefix of its home."""

    def refused(method: str, path: str) -> tuple[int, str, str] | None:
        there = PLACE in path or PLACE in unquote(s3.requests[-1][2])
        return (403, "AccessDenied", "Access Denied") if there and method in methods else None

    s3.refuse = refused


def test_a_key_without_rights_there_counts_in_its_home_and_says_so(
    bucket: str, tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, home = made(f"{bucket}/{tmp_path.name}/first"), made(f"{bucket}/{tmp_path.name}/home")
    read(first, "r")
    rights = f"no right to do this: {bucket}/{PLACE}: give these credentials the rights to list, read and create"
    refuse_place(s3, "PUT")
    (line,) = read(home, "a").notes
    assert line.startswith(f"other homes of {bucket} do not count the readings by this home: {rights}")
    monkeypatch.setenv("AWS_TEST", "another process")  # what has met the bucket knows it
    refuse_place(s3, "GET", "PUT")
    shown = read(home, "b")
    (line,) = shown.notes
    assert line.startswith(f"readings of the test set are counted in this home alone, not in all homes of {bucket}: ")
    assert rights in line and counts(shown) == (2, 2, 0) and shown.text.endswith("2 times in this home")
    bring_in(home)
    assert [row["reader"] for row in ledger.read(home.path / ledger.TEST_READS)] == ["a", "b"]
    s3.refuse = lambda method, path: None
    assert counts(readings_of(first, TEST_SET)) == (1, 1, 0)
    bring_in(home)
    assert counts(readings_of(first, TEST_SET)) == (3, 1, 2)


@pytest.mark.parametrize("kind", ["bucket", "folder"])
def test_homes_in_folders_count_together_where_they_share_a_stage_store(bucket: str, tmp_path: Path, kind: str) -> None:
    shared = f"{bucket}/{tmp_path.name}/stages" if kind == "bucket" else str(tmp_path / "stages")
    one, two, alone = (made(tmp_path / name) for name in ("one", "two", "alone"))
    ledger.append_once(one.path / ledger.TEST_READS, row_of("earlier"), key=shared_reads.READ_KEY)
    if kind == "folder":  # of a store that is not mounted here nothing is made
        (line,) = read(one, "r", shared).notes
        assert f"no such folder: {shared}" in line and not Path(shared).exists()
        Path(shared).mkdir()
    assert counts(read(one, "r", shared)) == (2, 2, 0)
    assert counts(read(two, "r", shared)) == (3, 1, 2)
    assert counts(readings_of(one, TEST_SET)) == (3, 2, 1), "its ledger says where it counts"
    found = read(alone, "r")
    assert counts(found) == (1, 1, 0) and found.stores == () and found.text.endswith("1 time in this home")
    own = read(alone, "s", str(alone.stages))
    assert own.stores == () and not (alone.stages / PLACE).exists(), "a store in the home is nobody else's"


def tiny(data: Path, **sets: object) -> Any:
    values = {
        **{"data.path": str(data), "data.image_size": [32, 32], "segmenter.width": 4, "segmenter.depth": 2},
        **{"pretrain.epochs": 1, "adversarial.epochs": 0, "runtime.pictures": False, "runtime.threads": 1},
        **sets,
    }
    return resolve(preset="tiny_sage_gan", sets=values).config


def test_a_copy_of_the_data_in_a_second_home_is_the_same_test(
    bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(tmp_path / "data", 20, 32, 0)
    shutil.copytree(tmp_path / "data", tmp_path / "renamed")
    answers = []
    for name, data in (("one", "data"), ("two", "renamed")):
        home = Home(f"{bucket}/{tmp_path.name}/{name}")
        assert run(tiny(tmp_path / data), home, "toy", mirror=False, launcher="inline").finished
        for _ in range(2):  # the second time it is read back
            assert call(["evaluate", "toy", "--home", home.address, "--json", "--quiet"]) == 0
        out = capsys.readouterr().out
        answers.append((json.loads(out.splitlines()[-1]), out))
    (first, _), (second, said) = answers
    assert first["test_set"] == second["test_set"] and second["test_reads"] == second["test_reads_of_home"] == 1
    assert (first["readings"]["total"], second["readings"]["total"], second["readings"]["by_other_homes"]) == (1, 2, 1)
    assert "this model has read this test set 1 time in this home" in said
    assert f"has been read 2 times: 1 time in this home, 1 time in other homes of {bucket}" in " ".join(said.split())
