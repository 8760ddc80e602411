"""`data fetch` on loopback: public sets by name, archives by address, and what is wrong with either."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from fetch_cases import Server, leftovers, zipped

from sage_ray.data import download, fetch
from sage_ray.data.pairs import folder_fingerprint
from sage_ray.data.public import PUBLIC_SETS, PublicSet
from sage_ray.errors import UserError
from sage_ray.terminal.cli import call

REPO = Path(__file__).resolve().parents[3]
DOZEN = REPO / "tests" / "data" / "emps"
EMPS = PUBLIC_SETS["emps"]


def repository_members(commit: str = EMPS.commit) -> dict[str, bytes]:
    """The files of an archive as a forge packs it: one top folder, the two folders of the set, and other files."""
    top = f"emps-{commit}"
    members = {f"{top}/{path.relative_to(DOZEN)}": path.read_bytes() for path in sorted(DOZEN.rglob("*.png"))}
    members[f"{top}/LICENSE"] = (DOZEN / "LICENSE").read_bytes()
    others = ("README.md", "headerimage.png", "train.csv", "other/images.png", "images/deep/x.png")
    return members | {f"{top}/{name}": b"other" for name in others}


@pytest.fixture
def dozen(monkeypatch: pytest.MonkeyPatch) -> PublicSet:
    """A public set made for the archive of `repository_members`, as another entry of the table."""
    fingerprint, pairs = folder_fingerprint(DOZEN)
    entry = replace(EMPS, name="dozen", pairs=pairs, fingerprint=fingerprint)
    monkeypatch.setitem(PUBLIC_SETS, "dozen", entry)
    return entry


def test_the_table_of_public_sets_is_whole() -> None:
    assert EMPS.url == "https://codeload.github.com/by256/emps/zip/dd8f86d714894fd08f3db80041893982ce058dd6"
    assert (EMPS.pairs, EMPS.fingerprint, EMPS.folders) == (465, "62d5f68f299782be", ("images", "segmaps"))
    for name, entry in PUBLIC_SETS.items():
        assert name == entry.name == name.lower() and len(entry.commit) == 40 and len(entry.fingerprint) == 16
        assert entry.licence and entry.citation and entry.repository.count("/") == 1 and entry.limit_bytes > 0
        assert entry.stems is None or len(entry.stems) == entry.pairs


@pytest.mark.parametrize("announced", [True, False], ids=["length", "chunked"])
def test_a_public_set_by_name(
    announced: bool, server: Server, dozen: PublicSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    server.announce_length = announced
    server.contents["commit.zip"] = zipped(repository_members())
    monkeypatch.chdir(tmp_path)
    args = ["data", "fetch", "dozen", "--from", f"{server.address}/commit.zip", "--json"]
    assert call(args) == 0
    out, err = capsys.readouterr()
    answer = json.loads(out.splitlines()[-1])
    assert err == "" and answer["ok"] and answer["fingerprint"] == dozen.fingerprint and answer["pairs"] == 12
    assert answer["next"][0] == "sage-ray data check dozen" and "data.path=dozen" in answer["next"][1]
    assert "MIT" in out and "10.1021/acs.jcim.0c01455" in out
    assert leftovers(tmp_path) == ["dozen"]
    assert leftovers(tmp_path / "dozen") == ["LICENSE", "SOURCE.md", "images", "segmaps"]
    assert dozen.commit in (tmp_path / "dozen" / "SOURCE.md").read_text()
    assert folder_fingerprint("dozen") == (dozen.fingerprint, 12)
    assert call(["data", "check", "dozen"]) == 0
    # Again: nothing is fetched.
    asked = len(server.asked)
    assert call(args) == 0 and len(server.asked) == asked and "holds dozen already" in capsys.readouterr().out


def test_a_public_set_from_a_file_as_on_a_machine_without_network(dozen: PublicSet, tmp_path: Path) -> None:
    (tmp_path / "carried.zip").write_bytes(zipped(repository_members("abc"), compression=zipfile.ZIP_DEFLATED))
    out = fetch.fetch_public(dozen, tmp_path / "deep" / "set", origin=str(tmp_path / "carried.zip"))
    assert folder_fingerprint(out)[1] == 12 and (tmp_path / "carried.zip").is_file()


def test_a_part_of_a_public_set(dozen: PublicSet, tmp_path: Path) -> None:
    """Of the 140 pairs that docs/results was measured on, the dozen of the repository is a part."""
    stems = {path.stem for path in (DOZEN / "images").iterdir()}
    assert PUBLIC_SETS["emps-140"].stems is not None and stems < PUBLIC_SETS["emps-140"].stems
    (tmp_path / "a.zip").write_bytes(zipped(repository_members()))
    chosen = frozenset(sorted(stems)[:5])
    wanted = tmp_path / "wanted"
    for folder in ("images", "segmaps"):
        (wanted / folder).mkdir(parents=True)
        for stem in chosen:
            shutil.copyfile(DOZEN / folder / f"{stem}.png", wanted / folder / f"{stem}.png")
    part = replace(dozen, stems=chosen, pairs=5, fingerprint=folder_fingerprint(wanted)[0])
    out = fetch.fetch_public(part, tmp_path / "out", origin=str(tmp_path / "a.zip"))
    assert folder_fingerprint(out) == (part.fingerprint, 5)


def without_a_pair(members: dict[str, bytes]) -> dict[str, bytes]:
    gone = next(iter(members)).rpartition("/")[2]
    return {name: data for name, data in members.items() if not name.endswith(gone)}


def without_a_mask(members: dict[str, bytes]) -> dict[str, bytes]:
    gone = next(name for name in members if "/segmaps/" in name)
    return {name: data for name, data in members.items() if name != gone}


def with_one_byte_changed(members: dict[str, bytes]) -> dict[str, bytes]:
    name = next(iter(members))
    return members | {name: members[name][:-1] + bytes([members[name][-1] ^ 1])}


def without_masks(members: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in members.items() if "/segmaps/" not in name}


def with_a_way_out(members: dict[str, bytes]) -> dict[str, bytes]:
    return members | {"../outside.txt": b"evil"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without_a_pair, "found 11 pairs with"),
        (without_a_mask, "found image without mask"),
        (with_one_byte_changed, "found 12 pairs with"),
        (without_masks, "found no pairs, masks/ or segmaps/ is missing"),
        (with_a_way_out, "unsafe name in archive"),
        (lambda _: {"a.txt": b"x"}, "empty archive"),
    ],
)
def test_wrong_contents_are_named_and_nothing_is_kept(
    change: Callable[[dict[str, bytes]], dict[str, bytes]], said: str, server: Server, dozen: PublicSet, tmp_path: Path,
) -> None:  # fmt: skip
    server.contents["commit.zip"] = zipped(change(repository_members()))
    folder = tmp_path / "here"
    folder.mkdir()
    with pytest.raises(UserError) as caught:
        fetch.fetch_public(dozen, folder / "dozen", origin=f"{server.address}/commit.zip")
    assert said in str(caught.value) and "\n" not in str(caught.value) and str(tmp_path) not in str(caught.value)
    if "expected" in str(caught.value):
        assert f"12 pairs with data fingerprint {dozen.fingerprint}" in str(caught.value)
    assert leftovers(folder) == [] and leftovers(tmp_path) == ["here"]


def test_a_folder_with_other_files_is_left_alone(server: Server, dozen: PublicSet, tmp_path: Path) -> None:
    server.contents["commit.zip"] = zipped(repository_members())
    out = tmp_path / "dozen"
    shutil.copytree(DOZEN / "images", out / "images")
    shutil.copytree(DOZEN / "segmaps", out / "segmaps")
    assert fetch.fetch_public(dozen, out, origin=f"{server.address}/commit.zip") == out and not server.asked
    next((out / "images").iterdir()).unlink()
    with pytest.raises(UserError, match="folder is not empty"):
        fetch.fetch_public(dozen, out, origin=f"{server.address}/commit.zip")
    assert len(leftovers(out / "segmaps")) == 12 and not server.asked
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="not a folder"):
        fetch.fetch_public(dozen, tmp_path / "file", origin=f"{server.address}/commit.zip")
    with pytest.raises(UserError, match="cannot be written"):
        fetch.fetch_public(dozen, tmp_path / "file" / "deeper", origin=f"{server.address}/commit.zip")


def test_an_archive_that_unpacks_to_too_much_writes_nothing(dozen: PublicSet, tmp_path: Path) -> None:
    bomb = zipped({"emps/images/a.png": bytes(40_000_000)}, compression=zipfile.ZIP_DEFLATED)
    assert len(bomb) < 100_000
    (tmp_path / "bomb.zip").write_bytes(bomb)
    small = replace(dozen, limit_bytes=30_000_000)
    with pytest.raises(UserError, match="^archive is too large.* it unpacks to more than 30 MB"):
        fetch.fetch_public(small, tmp_path / "out", origin=str(tmp_path / "bomb.zip"))
    assert leftovers(tmp_path) == ["bomb.zip"]


def test_files_that_are_not_the_sets_are_never_unpacked(dozen: PublicSet, tmp_path: Path) -> None:
    """They do not count against the limit either: a repository may hold much else."""
    members = repository_members() | {f"emps-{EMPS.commit}/video.bin": bytes(40_000_000)}
    (tmp_path / "a.zip").write_bytes(zipped(members, compression=zipfile.ZIP_DEFLATED))
    small = replace(dozen, limit_bytes=30_000_000)
    out = fetch.fetch_public(small, tmp_path / "out", origin=str(tmp_path / "a.zip"))
    assert leftovers(out) == ["LICENSE", "SOURCE.md", "images", "segmaps"]


def damaged(data: bytes) -> bytes:
    """The archive with bytes of a packed file changed: its directory is whole."""
    return data[:2000] + bytes(b ^ 0x55 for b in data[2000:2600]) + data[2600:]


def locked(data: bytes) -> bytes:
    """The archive with every file marked as needing a password."""
    for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.find(signature)
        while at >= 0:
            data = data[: at + place] + bytes([data[at + place] | 1]) + data[at + place + 1 :]
            at = data.find(signature, at + 4)
    return data


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data[: len(data) // 2], "not a zip archive, or a damaged one"),
        (lambda data: b"<html>sorry</html>", "not a zip archive"),
        (lambda data: b"", "not a zip archive"),
        (damaged, "damaged|cannot be unpacked"),
        (locked, "cannot be unpacked|damaged"),
    ],
    ids=["cut off", "a page", "nothing", "damaged", "locked"],
)
def test_a_bad_archive_is_one_line(
    change: Callable[[bytes], bytes], said: str, server: Server, dozen: PublicSet, tmp_path: Path
) -> None:
    server.contents["a.zip"] = change(zipped(repository_members(), compression=zipfile.ZIP_DEFLATED))
    with pytest.raises(UserError, match=said) as caught:
        fetch.fetch_public(dozen, tmp_path / "out", origin=f"{server.address}/a.zip")
    assert "\n" not in str(caught.value) and leftovers(tmp_path) == []


def test_a_full_disk_is_one_line_and_leaves_nothing(
    server: Server, dozen: PublicSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.contents["a.zip"] = zipped(repository_members())
    address = f"{server.address}/a.zip"

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(fetch.shutil, "copyfileobj", full)
        with pytest.raises(UserError, match=r"disk is full \(No space left on device\)"):
            fetch.fetch_public(dozen, tmp_path / "out", origin=address)
    assert leftovers(tmp_path) == []
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    for announced in (True, False):
        server.announce_length = announced
        with pytest.raises(UserError, match="^disk is too full"):
            fetch.fetch_public(dozen, tmp_path / "out", origin=address)
        assert leftovers(tmp_path) == []


@pytest.mark.parametrize("number", [2, 15], ids=["SIGINT", "SIGTERM"])
def test_a_fetch_that_is_ended_leaves_no_folder_of_its_name(number: int, server: Server, tmp_path: Path) -> None:
    """After Ctrl-C, or where a scheduler ends it, nothing is left; the next fetch works."""
    server.contents["a.zip"], server.faults["a.zip"] = zipped(repository_members()), ["stall"]
    sha = hashlib.sha256(server.contents["a.zip"]).hexdigest()
    words = ["data", "fetch", f"{server.address}/a.zip", str(tmp_path / "out"), "--sha256", sha]
    child = subprocess.Popen([sys.executable, "-m", "sage_ray", *words], stdout=-3, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not server.asked and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.2)
    child.send_signal(number)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130 and b"Traceback" not in err
    assert leftovers(tmp_path) == []
    assert call(words) == 0 and len(leftovers(tmp_path / "out" / "images")) == 13


ARCHIVES = {
    "good.zip": {"emps-main/images/a.png": b"image", "emps-main/segmaps/a.png": b"mask"},
    "flat.zip": {"images/a.png": b"image", "masks/a.png": b"mask"},
    "evil.zip": {"images/a.png": b"image", "../outside.txt": b"evil"},
}


@pytest.fixture
def archive(server: Server) -> tuple[str, dict[str, str]]:
    """Address of a loopback server, and check sums of the archives that it serves."""
    server.contents |= {name: zipped(members) for name, members in ARCHIVES.items()} | {"text.zip": b"no archive"}
    return server.address, {name: hashlib.sha256(data).hexdigest() for name, data in server.contents.items()}


@pytest.mark.parametrize(("name", "second"), [("good.zip", "segmaps"), ("flat.zip", "masks")])
def test_fetch_unpacks_once_and_drops_the_top_folder(
    name: str, second: str, archive: tuple[str, dict[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address, sums = archive
    args = ["data", "fetch", f"{address}/{name}", str(tmp_path / "out"), "--sha256", sums[name].upper()]
    for _ in range(2):
        assert call(args) == 0
        assert (tmp_path / "out" / "images" / "a.png").read_bytes() == b"image"
        assert (tmp_path / "out" / second / "a.png").read_bytes() == b"mask"
    assert "holds this archive already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "sha", "said"),
    [
        ("good.zip", "0" * 64, "wrong check sum"),
        ("good.zip", "xyz", "not a sha256"),
        ("absent.zip", "0" * 64, "cannot be fetched"),
        ("text.zip", None, "not a zip archive"),
        ("evil.zip", None, "unsafe name"),
    ],
)
def test_fetch_refuses_and_leaves_nothing_behind(
    name: str, sha: str | None, said: str, archive: tuple[str, dict[str, str]], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    address, sums = archive
    out = tmp_path / "deep" / "out"
    assert call(["data", "fetch", f"{address}/{name}", str(out), "--sha256", sha or sums[name]]) == 2
    assert said in capsys.readouterr().err
    assert not out.exists() and not (tmp_path / "outside.txt").exists()
    assert not out.parent.exists() or not list(out.parent.iterdir())


def test_fetch_never_mixes_with_other_files(
    archive: tuple[str, dict[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address, sums = archive
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    assert call(["data", "fetch", f"{address}/good.zip", str(tmp_path / "mine"), "--sha256", sums["good.zip"]]) == 2
    assert "not empty" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_an_archive_by_address_has_a_limit_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    server.contents["big.zip"] = zipped({"images/a.png": bytes(100_000)}, compression=zipfile.ZIP_DEFLATED)
    sha = hashlib.sha256(server.contents["big.zip"]).hexdigest()
    monkeypatch.setattr(fetch, "MAX_UNPACKED_BYTES", 50_000)
    with pytest.raises(UserError, match="too large"):
        fetch.fetch_archive(f"{server.address}/big.zip", tmp_path / "out", sha)
    assert leftovers(tmp_path) == []
