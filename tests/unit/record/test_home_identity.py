"""A moved home keeps its identity, a copy gets one of its own."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sage_ray.errors import UserError
from sage_ray.record.home import Home


def made(path: Path) -> Home:
    home = Home(path)
    home.check_writable()
    assert len(home.identity) == 32
    return home


def test_a_moved_home_stays_itself_and_a_copy_does_not(tmp_path: Path) -> None:
    home = made(tmp_path / "first")
    home.path.rename(tmp_path / "moved")
    moved = Home(tmp_path / "moved")
    assert moved.settle_identity() is None and moved.identity == home.identity
    shutil.copytree(moved.path, tmp_path / "copy")
    copy = Home(tmp_path / "copy")
    said = copy.settle_identity()
    assert said is not None and "\n" not in said and str(moved.path) in said
    assert copy.identity != home.identity
    assert Home(copy.path).settle_identity() is None, "it is said once"
    assert Home(copy.path).identity == copy.identity and Home(moved.path).identity == home.identity


def test_a_copy_that_is_copied_or_moved(tmp_path: Path) -> None:
    first = made(tmp_path / "first")
    shutil.copytree(first.path, tmp_path / "second")
    second = Home(tmp_path / "second")
    assert second.identity != first.identity
    shutil.copytree(second.path, tmp_path / "third")
    third = Home(tmp_path / "third")
    assert len({first.identity, second.identity, third.identity}) == 3
    third.path.rename(tmp_path / "fourth")
    assert Home(tmp_path / "fourth").identity == third.identity
    own = [home.identity_in(home.mlflow_uri) for home in (first, second, third)]
    assert own == [first.identity] * 3, "each has its own copy of the database"
    assert second.identity_in("http://127.0.0.1:5000") == second.identity


def test_another_name_for_the_same_folder_is_no_copy(tmp_path: Path) -> None:
    home = made(tmp_path / "first")
    (tmp_path / "link").symlink_to(home.path)
    noted = (home.path / "home.json").read_text()
    linked = Home(tmp_path / "link")
    assert linked.settle_identity() is None and linked.identity == home.identity
    assert (home.path / "home.json").read_text() == noted
    home.path.rename(tmp_path / "moved")
    home.path.symlink_to(tmp_path / "moved")
    assert Home(tmp_path / "moved").identity == home.identity
    assert not list((tmp_path / "moved").glob(".same-*"))


def test_a_home_of_before_is_noted_where_it_lies(tmp_path: Path) -> None:
    home = Home(tmp_path / "first")
    home.path.mkdir()
    (home.path / "home.json").write_text(json.dumps({"format_version": 1, "id": "a" * 32}))
    home.check_writable()
    assert home.identity == "a" * 32
    shutil.copytree(home.path, tmp_path / "copy")
    assert Home(tmp_path / "copy").identity != "a" * 32
    assert not (tmp_path / "unused").exists() and Home(tmp_path / "unused").settle_identity() is None


def test_all_who_open_a_copy_agree(tmp_path: Path) -> None:
    home = made(tmp_path / "first")
    shutil.copytree(home.path, tmp_path / "copy")
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: Home(tmp_path / "copy").identity, range(16)))
    assert len(found) == 1 and found != {home.identity}


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    home = made(tmp_path / "first")
    (home.path / "home.json").write_text("{")
    with pytest.raises(UserError, match=r"damaged file: .*home\.json"):
        _ = Home(home.path).identity
