"""A home that a newer release has written to is refused by name; one of before is taken over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import sage_ray
from sage_ray.errors import UserError
from sage_ray.record.home import Home


def written(folder: Path) -> dict[str, object]:
    facts: dict[str, object] = json.loads((folder / "home.json").read_text())
    return facts


def test_a_home_of_a_newer_release_is_refused_by_name(tmp_path: Path) -> None:
    Home(tmp_path).check_writable()
    assert written(tmp_path)["release"] == sage_ray.__version__
    for newer in ("99.0.0", "99.1", f"{sage_ray.__version__.split('.')[0]}.99.0rc1"):
        (tmp_path / "home.json").write_text(json.dumps({**written(tmp_path), "release": newer}))
        with pytest.raises(UserError, match=f"home of sage_ray {newer}, and this is {sage_ray.__version__}.*upgrade"):
            Home(tmp_path)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (Path("s3://bucket/sage"), "neither a folder nor the address of a bucket: s3:/bucket/sage"),
        ("http://bucket/sage", "no such kind of store"),
        ("s3://key:secret@bucket/sage", "credentials in the address of a store: s3://bucket/sage"),
        ("s3://", "the store has no bucket"),
    ],
)
def test_an_address_that_is_none_is_refused(place: str | Path, words: str) -> None:
    with pytest.raises(UserError, match=f"^{words}") as caught:
        Home(place)
    assert "secret" not in str(caught.value)


def test_a_file_address_is_a_folder(tmp_path: Path) -> None:
    assert Home(f"file://{tmp_path}/home").path == tmp_path / "home"


@pytest.mark.parametrize("before", [None, "0.1.0", sage_ray.__version__])
def test_a_home_of_this_release_or_one_before_is_used(tmp_path: Path, before: str | None) -> None:
    facts = {"format_version": 1, "id": "0" * 32} | ({"release": before} if before else {})
    (tmp_path / "home.json").write_text(json.dumps(facts))
    home = Home(tmp_path)
    home.check_writable()
    assert home.identity == "0" * 32 and written(tmp_path)["release"] == sage_ray.__version__


def test_what_is_no_home_yet_or_has_a_damaged_note_is_left_to_those_who_read_it(tmp_path: Path) -> None:
    Home(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    (tmp_path / "home.json").write_text("{")
    Home(tmp_path)
    (tmp_path / "home.json").write_text('{"release": 7}')
    with pytest.raises(UserError, match="home of sage_ray 7"):
        Home(tmp_path)
