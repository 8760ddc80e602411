"""A home in a bucket as processes see it: what one sends the others get, and nobody loses what he has written."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sage_ray import followed
from sage_ray.errors import UserError
from sage_ray.followed import SMALL_BYTES, Followed
from sage_ray.object_store import Entry


class Counted:
    """The store with the names that were read, and written, in order."""

    def __init__(self, home: Followed) -> None:
        self._inner = home.store
        self.read_names: list[str] = []
        self.written: list[str] = []
        self.listed: list[str] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def read(self, name: str) -> bytes:
        self.read_names.append(name)
        return self._inner.read(name)

    def names(self, prefix: str = "") -> list[Entry]:
        self.listed.append(prefix)
        return self._inner.names(prefix)

    def write(self, name: str, content: bytes, *, durable: bool = True) -> str:
        self.written.append(name)
        return self._inner.write(name, content, durable=durable)


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a store; a folder does as well as a bucket here."""
    monkeypatch.setenv(followed.VARIABLE, str(tmp_path / "machine"))
    monkeypatch.setattr(followed, "_FOLLOWED", {})
    yield str(tmp_path / "bucket")


def write(home: Followed, name: str, text: str) -> Path:
    path = home.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_what_one_process_sends_another_gets_and_reads_once_per_machine(bucket: str) -> None:
    one, two, three = Followed(bucket), Followed(bucket), Followed(bucket)
    write(one, "runs/a/record.json", "1")
    write(one, "runs/a/metrics.jsonl", "line")
    write(one, "cache/data", "of this machine")
    counted = one.store = Counted(one)  # type: ignore[assignment]
    one.push(one.root)
    assert counted.written == ["runs/a/metrics.jsonl", "runs/a/record.json"], "the record, which speaks of all, is last"
    one.push(one.root)
    assert len(counted.written) == 2, "what is known there is not sent again"
    two.pull(two.root / "runs")
    assert (two.root / "runs/a/metrics.jsonl").read_text() == "line"
    counted = three.store = Counted(three)  # type: ignore[assignment]
    three.pull(three.root / "runs" / "a")
    assert (three.root / "runs/a/record.json").read_text() == "1" and counted.read_names == []
    write(one, "runs/a/record.json", "22")
    one.push(one.root / "runs" / "a")
    for _ in range(2):
        three.pull(three.root / "runs")
    assert (three.root / "runs/a/record.json").read_text() == "22" and counted.read_names == ["runs/a/record.json"]


def test_a_machine_keeps_one_version_of_what_it_has_read(bucket: str) -> None:
    one, two = Followed(bucket), Followed(bucket)
    for number in range(1, 6):
        write(one, "runs/a/metrics.jsonl", "line " * number)
        one.push(one.root)
        two.pull(two.root / "runs")
        assert (two.root / "runs/a/metrics.jsonl").read_text() == "line " * number
    assert len(list((two.machine / "objects").iterdir())) == 1


def test_a_file_is_asked_for_by_its_name_alone(bucket: str) -> None:
    one, two = Followed(bucket), Followed(bucket)
    counted = two.store = Counted(two)  # type: ignore[assignment]
    for text in ("first", "other"):
        write(one, "home.json", text)
        one.push(one.root)
        two.pull(two.root / "home.json")
        assert (two.root / "home.json").read_text() == text
    assert set(counted.listed) == {"home.json"}
    (two.root / "home.json").write_text("mine!")
    two.pull(two.root / "home.json")
    assert (two.root / "home.json").read_text() == "mine!"
    one.store.delete(["home.json"])
    one.pull(one.root / "home.json")
    assert not (one.root / "home.json").exists()


def test_large_files_come_where_they_are_asked_for(bucket: str) -> None:
    one, two = Followed(bucket), Followed(bucket)
    for name in ("runs/a/artifacts/model", "runs/a/metrics.jsonl"):
        write(one, name, "x" * (SMALL_BYTES + 1))
    one.push(one.root)
    two.pull(two.root)
    assert not (two.root / "runs/a/artifacts/model").exists()
    assert (two.root / "runs/a/metrics.jsonl").stat().st_size == SMALL_BYTES + 1, "a long run's epochs are its record"
    two.pull(two.root / "runs/a", all_sizes=True)
    assert (two.root / "runs/a/artifacts/model").stat().st_size == SMALL_BYTES + 1


def test_what_was_written_here_and_not_sent_is_never_written_over(bucket: str) -> None:
    one, two = Followed(bucket), Followed(bucket)
    write(one, "runs/a/record.json", "first")
    one.push(one.root)
    two.pull(two.root)
    write(two, "runs/a/record.json", "mine!")
    mine = write(two, "runs/a/new", "new")
    write(one, "runs/a/record.json", "theirs")
    write(one, "runs/a/new", "another new")
    one.push(one.root)
    two.pull(two.root)
    assert (two.root / "runs/a/record.json").read_text() == "mine!" and mine.read_text() == "new"
    two.push(two.root)
    one.pull(one.root)
    assert (one.root / "runs/a/record.json").read_text() == "mine!"


def test_removals_go_both_ways(bucket: str) -> None:
    one, two = Followed(bucket), Followed(bucket)
    for name in ("stop", "kept", "changed"):
        write(one, f"studies/s/{name}", name)
    one.push(one.root)
    two.pull(two.root)
    write(two, "studies/s/changed", "by two")
    for name in ("stop", "changed"):
        (one.root / "studies/s" / name).unlink()
    one.pull(one.root)
    assert not (one.root / "studies/s/stop").exists(), "a removal that was not sent yet is not undone"
    one.push(one.root)
    two.pull(two.root)
    assert sorted(path.name for path in (two.root / "studies/s").iterdir()) == ["changed", "kept"]


@pytest.mark.parametrize("removed_by", ["the process itself, as it ends", "somebody who tidies the machine"])
def test_a_folder_that_is_gone_takes_nothing_from_the_bucket(bucket: str, removed_by: str) -> None:
    """A thread may still send while its process ends."""
    one, two, three = Followed(bucket), Followed(bucket), Followed(bucket)
    write(one, "runs/a/metrics.jsonl", "line")
    one.push(one.root)
    two.pull(two.root)
    if "itself" in removed_by:
        two.leave()
    else:
        shutil.rmtree(two.root)
    two.push(two.root / "runs" / "a")
    two.pull(two.root)
    three.pull(three.root)
    assert (three.root / "runs/a/metrics.jsonl").read_text() == "line"
    assert not two.root.exists()


def test_whether_there_is_a_file_is_asked_of_the_bucket_now_and_then(bucket: str) -> None:
    one, two = Followed(bucket), Followed(bucket)
    stop = two.root / "studies/s/stop"
    assert not two.exists(stop)
    write(one, "studies/s/stop", "why")
    one.push(one.root)
    assert not two.exists(stop, every_s=60) and two.exists(stop) and stop.read_text() == "why"
    (one.root / "studies/s/stop").unlink()
    one.push(one.root / "studies/s/stop")
    assert two.exists(stop, every_s=60) and not two.exists(stop)
    stop.write_text("by two itself, not sent yet")
    assert two.exists(stop)
    one.exists(one.root / "cache" / "x")  # of this machine: nobody is asked


def test_a_look_at_a_folder_counts_for_what_is_in_it(bucket: str) -> None:
    one, two = Followed(bucket), Followed(bucket)
    two.pull(two.root / "runs")
    write(one, "runs/a/record.json", "1")
    one.push(one.root)
    two.pull(two.root / "runs/a", every_s=60)
    assert not (two.root / "runs/a").exists()
    two.pull(two.root / "runs/a", every_s=1e-9)
    assert (two.root / "runs/a/record.json").exists()


def test_paths_outside_a_followed_home_are_left_alone(bucket: str, tmp_path: Path) -> None:
    home = followed.follow(bucket)
    assert followed.follow(bucket) is home and followed.following(home.root / "runs") is home
    elsewhere = tmp_path / "plain"
    followed.pull(elsewhere)
    followed.push(elsewhere)
    assert not followed.exists(elsewhere) and followed.in_words(elsewhere) == str(elsewhere)
    assert followed.in_words(home.root / "runs" / "a") == f"{bucket}/runs/a"


def test_what_a_kill_left_is_removed_later(bucket: str) -> None:
    killed, alive = Followed(bucket), Followed(bucket)
    long_ago = time.time() - 2 * followed.FORGOTTEN_S
    os.utime(killed.root / ".alive", (long_ago, long_ago))
    third = Followed(bucket)
    assert not killed.root.exists() and alive.root.exists()
    third.leave()
    assert not third.root.exists()


def test_a_machine_without_a_folder_to_write_in_is_told_so(bucket: str, tmp_path: Path) -> None:
    (tmp_path / "machine").write_text("a file")
    with pytest.raises(UserError, match=followed.VARIABLE):
        Followed(bucket)
