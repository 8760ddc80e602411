"""What every object store keeps: a folder, S3 by a real server of the protocol, and Google's by the same server."""

from __future__ import annotations

import errno
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from s3_cases import SECRET, S3Server

from sage_ray import bucket_client, object_store
from sage_ray.errors import StoreFailed, StoreRefused, UserError
from sage_ray.object_store import Entry, ObjectStore, check_writable, open_object_store


@pytest.fixture(params=["folder", "s3", "gs"])
def store(request: pytest.FixtureRequest, tmp_path: Path, s3: S3Server) -> ObjectStore:
    if request.param == "folder":
        return open_object_store(tmp_path / "not" / "there" / "yet")
    return open_object_store(f"{request.param}://{s3.bucket}/{tmp_path.name}/prefix")


def test_what_is_written_is_read_replaced_and_listed(store: ObjectStore) -> None:
    assert store.names() == [] and store.folders() == [] and not store.exists("a/1/x")
    for name, content in {"a/1/x": b"one", "a/2/x y+z%20é.json": b"", "b/x": b"123", "top": b"4"}.items():
        store.write(name, content)
        assert store.read(name) == content and store.exists(name)
    store.write("a/1/x", b"two!", durable=False)
    assert store.read("a/1/x") == b"two!"
    assert store.names() == [Entry("a/1/x", 4), Entry("a/2/x y+z%20é.json", 0), Entry("b/x", 3), Entry("top", 1)]
    assert [entry.name for entry in store.names("a")] == ["a/1/x", "a/2/x y+z%20é.json"]
    assert [entry.name for entry in store.names("a/1")] == ["a/1/x"] and store.names("a/11") == store.names("t") == []
    assert store.folders() == ["a", "b"] and store.folders("a") == ["1", "2"] and store.folders("nowhere") == []


def test_folders_go_with_their_last_object_and_what_is_not_there_is_no_error(store: ObjectStore) -> None:
    for name in ("a/1/x", "a/1/y", "b/x"):
        store.write(name, b"1")
    store.delete(["a/1/x", "a/1/never", "nowhere/x"])
    assert store.folders() == ["a", "b"]
    store.delete(entry.name for entry in store.names("a"))
    store.delete([])
    assert store.folders() == ["b"] and not store.exists("a/1/y")
    store.write("a/1/x", b"again")
    assert store.read("a/1/x") == b"again"


@pytest.mark.parametrize("name", ["never", "a", "a/x/y"])
def test_what_is_not_there_is_a_file_not_found(store: ObjectStore, name: str) -> None:
    store.write("a/x", b"1")
    assert not store.exists(name)
    with pytest.raises(FileNotFoundError):
        store.read(name)


@pytest.mark.parametrize("name", ["../x", "/x", "a/./b", "a/../../b"])
def test_no_name_leads_out_of_a_store(store: ObjectStore, name: str) -> None:
    with pytest.raises(ValueError, match="no name"):
        store.write(name, b"1")


def test_a_store_below_is_the_same_objects(store: ObjectStore) -> None:
    lower = store.below("a").below("b/c")
    lower.write("x", b"1")
    assert store.read("a/b/c/x") == b"1" and lower.names() == [Entry("x", 1)]
    assert lower.uri == f"{store.uri}/a/b/c" and (lower.local is None) == (store.local is None)
    assert open_object_store(lower.uri).read("x") == b"1"
    assert pickle.loads(pickle.dumps(lower)).read("x") == b"1"


def test_create_gives_a_name_once(store: ObjectStore) -> None:
    assert store.create("a/lease", b"first") and not store.create("a/lease", b"second")
    assert store.read("a/lease") == b"first" and store.names("a") == [Entry("a/lease", 5)]
    store.delete(["a/lease"])
    assert store.create("a/lease", b"third")


RACE = """
import sys, time
from sage_ray.object_store import open_object_store
store = open_object_store(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
print(sum(store.create(f"race/{turn}", sys.argv[2].encode()) << turn for turn in range(12)), flush=True)
"""


def test_of_eight_processes_one_creates(store: ObjectStore) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, store.uri, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(8)
    ]
    try:
        for racer in racers:
            assert racer.stdout is not None and racer.stdout.readline() == "ready\n"
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("go\n")
            racer.stdin.flush()
        won = [int(racer.communicate(timeout=120)[0]) for racer in racers]
    finally:
        for racer in racers:
            racer.kill()
            racer.wait()
    assert sum(won) == 2**12 - 1 and all(a & b == 0 for i, a in enumerate(won) for b in won[:i])
    for turn in range(12):
        winner = int(store.read(f"race/{turn}"))
        assert won[winner] >> turn & 1
    assert len(store.names()) == 12


def test_a_reader_sees_one_whole_content_or_the_other(store: ObjectStore) -> None:
    contents = [bytes([number]) * 300_000 for number in (1, 2)]
    store.write("x", contents[0])
    end = time.monotonic() + 1.5

    def write() -> None:
        while time.monotonic() < end:
            for content in contents:
                store.write("x", content, durable=False)

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    seen = set()
    while time.monotonic() < end:
        seen.add(store.read("x"))
    for writer in writers:
        writer.join()
    assert seen <= set(contents) and seen


def test_writers_and_a_remover_of_one_folder_do_not_trip_each_other(store: ObjectStore) -> None:
    end, failed = time.monotonic() + 1.0, []

    def churn(name: str) -> None:
        try:
            while time.monotonic() < end:
                store.write(f"a/b/{name}", b"1", durable=False)
                store.delete([f"a/b/{name}"])
        except OSError as error:
            failed.append(error)

    threads = [threading.Thread(target=churn, args=(str(number),)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and store.names() == []


def test_a_large_object_goes_in_parts_and_a_listing_in_pages(s3: S3Server, tmp_path: Path) -> None:
    store = open_object_store(f"{s3.uri}/{tmp_path.name}")
    content = os.urandom(object_store.PART_BYTES * 2 + 3)
    s3.requests.clear()
    store.write("large", content)
    assert s3.kinds == {"POST": 2, "PUT": 3} and store.read("large") == content
    for number in range(1001):
        store.write(f"many/{number:04d}", b"")
    s3.requests.clear()
    assert len(store.names("many")) == 1001 and s3.kinds == {"GET": 2}
    s3.requests.clear()
    store.delete(f"many/{number:04d}" for number in range(1001))
    assert store.names("many") == [] and s3.kinds["DELETE"] == 2


# a folder of its own


def test_a_folder_is_found_by_path_and_by_address(tmp_path: Path) -> None:
    folder = tmp_path / "a b"
    for root in (folder, str(folder), folder.as_uri()):
        store = open_object_store(root)
        assert store.uri == str(folder) and store.local == folder


def test_a_share_without_hard_links_creates_exclusively(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "no hard links here")

    monkeypatch.setattr(os, "link", none)
    store = open_object_store(tmp_path)
    assert store.create("x", b"1") and not store.create("x", b"2") and store.read("x") == b"1"


def test_a_link_that_was_made_though_the_answer_was_lost_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = os.link

    def lost(source: Path, target: Path) -> None:
        made(source, target)
        raise FileExistsError(errno.EEXIST, "the repeated request found the link of the first")

    monkeypatch.setattr(os, "link", lost)
    assert open_object_store(tmp_path).create("x", b"1")


def test_a_write_that_fails_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_object_store(tmp_path)
    store.write("x", b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for put in (store.write, store.create):
        with pytest.raises(OSError, match="No space left"):
            put("x" if put == store.write else "y", b"new")
    monkeypatch.undo()
    assert store.read("x") == b"old" and [path.name for path in tmp_path.iterdir()] == ["x"]


def test_what_is_being_written_is_no_object(tmp_path: Path) -> None:
    store = open_object_store(tmp_path)
    store.write("x", b"1")
    (tmp_path / ".y.0123456789ab.tmp").write_bytes(b"half of")
    assert store.names() == [Entry("x", 1)]


# what can go wrong with a bucket

REFUSALS = {
    "no right": (403, "AccessDenied", "Access Denied", "no right", "rights to list, read, write and delete"),
    "expired": (400, "ExpiredToken", f"The token {SECRET} has expired.", "has expired", "AWS_SESSION_TOKEN"),
    "unknown key": (403, "InvalidAccessKeyId", f"no {SECRET}", "does not accept the key", "AWS_ACCESS_KEY_ID"),
    "wrong secret": (403, "SignatureDoesNotMatch", SECRET, "does not accept the key", "AWS_SECRET_ACCESS_KEY"),
    "region": (
        400,
        "AuthorizationHeaderMalformed",
        "expecting 'eu-north-1'",
        "another region",
        "AWS_REGION=eu-north-1",
    ),
    "redirect": (301, "PermanentRedirect", "use another endpoint", "another region", "AWS_REGION"),
    "clock": (403, "RequestTimeTooSkewed", "the difference is too large", "clock", "set it"),
    "overloaded": (503, "SlowDown", "Please reduce your request rate.", "503 SlowDown", "later"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_is_one_line_without_a_secret(
    s3: S3Server, case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch)
    status, code, message, what, mend = REFUSALS[case]
    known = open_object_store(f"{s3.uri}/{tmp_path.name}/known")
    s3.refuse = lambda method, path: (status, code, message)
    with pytest.raises(StoreRefused) as first:
        open_object_store(f"{s3.uri}/{tmp_path.name}/new")
    assert (
        what in first.value.what and mend in first.value.mend and first.value.where == f"{s3.uri}/{tmp_path.name}/new"
    )
    for use_it in (lambda: known.read("x"), lambda: known.write("x", b"1"), known.names, lambda: known.delete(["x"])):
        with pytest.raises(StoreFailed) as later:
            use_it()
        assert what in str(later.value) and isinstance(later.value, OSError)
        for said in (str(first.value), str(later.value)):
            assert SECRET not in said and "\n" not in said and len(said) < 300


def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short limits of time, for a client of its own."""
    for name in ("CONTACT_S", "PATIENCE_S", "STALLED_S"):
        monkeypatch.setattr(bucket_client, name, 1.0)
    monkeypatch.setenv("AWS_TEST", os.urandom(4).hex())


def test_no_such_bucket_is_said_at_first_and_later(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreRefused, match="no such bucket: s3://elsewhere/x: create it"):
        open_object_store("s3://elsewhere/x")
    monkeypatch.setattr(bucket_client.BucketClient, "meet", lambda client, prefix: None)
    gone = open_object_store("s3://elsewhere/x")
    for use_it in (lambda: gone.read("y"), lambda: gone.write("y", b"1"), gone.names, gone.folders):
        with pytest.raises(StoreFailed, match="no such bucket"):
            use_it()


def test_a_server_that_is_silent_or_gone_is_said_in_bounded_time(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(8)
        port = silent.getsockname()[1]
        for listening in (True, False):
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
            began = time.monotonic()
            with pytest.raises(StoreRefused, match="no answer: s3://stages: check AWS_ENDPOINT_URL"):
                open_object_store("s3://stages")
            assert time.monotonic() - began < 10
            if listening:
                silent.close()


def test_a_server_that_is_away_for_a_while_is_waited_for(s3: S3Server, tmp_path: Path) -> None:
    store = open_object_store(f"{s3.uri}/{tmp_path.name}")
    back = time.monotonic() + 2
    s3.refuse = lambda method, path: (503, "SlowDown", "") if time.monotonic() < back else None
    store.write("x", b"1")
    assert time.monotonic() >= back
    s3.refuse = lambda method, path: None
    assert store.read("x") == b"1"


def test_a_creation_whose_answer_was_lost_is_ones_own(s3: S3Server, tmp_path: Path) -> None:
    store = open_object_store(f"{s3.uri}/{tmp_path.name}")

    def lose(name: str, held: bytes) -> None:
        """Refuse the first request, and let the repeated one meet an object."""

        def first(method: str, path: str) -> tuple[int, str, str] | None:
            if method != "PUT" or not path.endswith(name):
                return None
            s3.refuse = lambda method, path: None
            store.write(name, held)
            return (500, "InternalError", "")

        s3.refuse = first

    lose("mine", b"me")
    assert store.create("mine", b"me")
    lose("theirs", b"they")
    assert not store.create("theirs", b"me")


@pytest.mark.parametrize(
    ("root", "line"),
    [
        ("az://x/y", "no such kind of store: az://x/y: give a folder, s3:// or gs://"),
        ("s3://", "the store has no bucket: s3://: give s3://BUCKET/PREFIX"),
        (f"s3://key:{SECRET}@b/p", "credentials in the address of a store: s3://b/p: leave them out"),
        ("s3://stages/p?color=red", "unknown setting color: s3://stages: only region"),
    ],
)
def test_an_address_that_is_none_is_refused(s3: S3Server, root: str, line: str) -> None:
    with pytest.raises(UserError) as refused:
        open_object_store(root)
    assert str(refused.value).startswith(line) and SECRET not in str(refused.value)


def test_settings_in_an_address_of_earlier_releases_are_taken(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    host = s3.address.removeprefix("http://")
    store = open_object_store(f"s3://{s3.bucket}/old?scheme=http&endpoint_override={host}&region=us-east-1")
    store.write("x", b"1")
    assert store.read("x") == b"1" and store.uri == f"s3://{s3.bucket}/old"


def test_settings_that_are_none_are_one_line(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "no address at all")
    with pytest.raises(UserError, match="no address of a server: AWS_ENDPOINT_URL: give http://"):
        open_object_store(s3.uri)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.address)
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(StoreRefused, match="nobody"):
        open_object_store(s3.uri)


def test_a_profile_of_the_aws_files_is_used(s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    file.write_text(f"[lab]\naws_access_key_id = from-the-file\naws_secret_access_key = {SECRET}\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    store = open_object_store(f"{s3.uri}/{tmp_path.name}")
    store.write("x", b"1")
    assert "Credential=from-the-file/" in s3.signed_by and SECRET not in s3.signed_by


def test_a_bucket_is_met_once_and_tried_once(s3: S3Server, tmp_path: Path) -> None:
    for _ in range(3):
        check_writable(open_object_store(f"{s3.uri}/{tmp_path.name}"))
    assert s3.kinds == {"GET": 2, "PUT": 1, "DELETE": 1}
    assert not open_object_store(f"{s3.uri}/{tmp_path.name}").names()


def test_a_bucket_that_may_only_be_read_is_refused(s3: S3Server, tmp_path: Path) -> None:
    store = open_object_store(f"{s3.uri}/{tmp_path.name}")
    s3.refuse = lambda method, path: (403, "AccessDenied", "") if method == "PUT" else None
    with pytest.raises(StoreRefused, match=f"no right to do this: {store.uri}: give these credentials"):
        check_writable(store)


def test_without_the_extra_a_bucket_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    monkeypatch.setenv("AWS_TEST", "without")
    with pytest.raises(UserError, match=r"obstore is not installed: s3://b: pip install 'sage-ray\[cluster\]'"):
        open_object_store("s3://b/p")


def test_a_folder_needs_no_client_of_buckets(tmp_path: Path) -> None:
    code = "import sys; from sage_ray.object_store import open_object_store as o; o(sys.argv[1]).write('x', b'');"
    code += "sys.exit(bool({'obstore', 'boto3', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 0
