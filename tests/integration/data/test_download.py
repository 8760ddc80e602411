"""Downloads on loopback: everything that a network does to them."""

from __future__ import annotations

import http.server
import socket
from pathlib import Path

import pytest
from fetch_cases import Server

from sage_ray.data import download
from sage_ray.errors import UserError


def fetched(server: Server, name: str, target: Path, limit: int = 1 << 30) -> tuple[bytes, list[str]]:
    said: list[str] = []
    download.download(f"{server.address}/{name}", target, limit, said.append)
    return target.read_bytes(), said


DATA = bytes(range(256)) * 12_000  # 3 MB: several chunks


@pytest.mark.parametrize("resumable", [True, False])
@pytest.mark.parametrize("announced", [True, False], ids=["length", "chunked"])
def test_a_broken_connection_is_mended(announced: bool, resumable: bool, server: Server, tmp_path: Path) -> None:
    server.announce_length, server.resumable = announced, resumable
    server.contents["a.zip"], server.faults["a.zip"] = DATA, ["break", "break"]
    data, said = fetched(server, "a.zip", tmp_path / "a")
    assert data == DATA and len(server.asked) == 3 and "trying again" in said[1]
    assert (server.asked[1][1] is not None) == resumable
    if resumable and announced:
        assert [wanted for _, wanted in server.asked] == [None, "bytes=1536000-", "bytes=2304000-"]


def test_a_file_that_changed_meanwhile_is_fetched_anew(server: Server, tmp_path: Path) -> None:
    server.contents["a.zip"], server.faults["a.zip"] = DATA, ["break"]
    started = server.answer

    def changed(request: http.server.BaseHTTPRequestHandler) -> None:
        if server.asked:
            server.contents["a.zip"], server.resumable = b"another", False  # what a server does when the mark is old
        started(request)

    server.answer = changed  # type: ignore[method-assign]
    assert fetched(server, "a.zip", tmp_path / "a")[0] == b"another"


@pytest.mark.parametrize("faults", [["503"], ["500", "429"], ["416"]])
def test_a_server_that_is_ill_for_a_while_is_asked_again(faults: list[str], server: Server, tmp_path: Path) -> None:
    server.contents["a.zip"], server.faults["a.zip"] = DATA, faults.copy()
    assert fetched(server, "a.zip", tmp_path / "a")[0] == DATA and len(server.asked) == len(faults) + 1


@pytest.mark.parametrize(
    ("faults", "times", "said"),
    [
        (["break"] * 3, 3, "the connection closed early"),
        (["503"] * 3, 3, "503 Service Unavailable"),
        (["403"], 1, "403 Forbidden"),
        (["404"], 1, "404 Not Found"),
    ],
)
def test_a_fault_that_stays_is_one_line(
    faults: list[str], times: int, said: str, server: Server, tmp_path: Path
) -> None:
    server.contents["a.zip"], server.faults["a.zip"] = DATA, faults.copy()
    with pytest.raises(UserError, match=said):
        fetched(server, "a.zip", tmp_path / "a")
    assert len(server.asked) == times


def test_a_server_that_stalls_is_given_up(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "TIMEOUT_S", 0.2)
    server.contents["a.zip"], server.faults["a.zip"] = DATA, ["stall"]
    data, said = fetched(server, "a.zip", tmp_path / "a")
    assert data == DATA and "timed out" in said[1]


def test_nobody_there_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "WAITS_S", (0.0, 0.0))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(UserError, match=r"cannot be fetched.*refused.*https_proxy"):
        download.download(f"http://127.0.0.1:{port}/a.zip", tmp_path / "a", 1, lambda line: None)
    with pytest.raises(UserError, match="^cannot be fetched: http://:x/"):
        download.download("http://:x/", tmp_path / "a", 1, lambda line: None)
    for address in ("ftp://127.0.0.1/a", "file:///etc/passwd", "a.zip"):
        with pytest.raises(UserError, match="unsupported address"):
            download.download(address, tmp_path / "a", 1, lambda line: None)


def test_the_proxy_of_the_environment_is_used(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("http_proxy", server.address)
    server.contents["a.zip"] = DATA
    download.download("http://archive.invalid/a.zip", tmp_path / "a", 1 << 30, lambda line: None)
    assert server.asked == [("http://archive.invalid/a.zip", None)] and (tmp_path / "a").read_bytes() == DATA


@pytest.mark.parametrize("announced", [True, False], ids=["length", "chunked"])
def test_more_than_the_limit_is_not_written(announced: bool, server: Server, tmp_path: Path) -> None:
    server.announce_length = announced
    server.contents["a.zip"] = DATA
    with pytest.raises(UserError, match="^archive is too large"):
        fetched(server, "a.zip", tmp_path / "a", limit=2_000_000)
    assert not (tmp_path / "a").exists() or (tmp_path / "a").stat().st_size <= 2_000_000 + download.CHUNK_BYTES
