"""Runs whose stages are in a bucket, on a real server of the protocol: trained once, gone on with, mended, cleaned."""

from __future__ import annotations

from pathlib import Path

import pytest
from s3_cases import SECRET, S3Server
from tiny_cases import tiny_config

from sage_ray import bucket_client
from sage_ray.config import ExperimentConfig
from sage_ray.leases import SESSIONS
from sage_ray.object_store import Entry
from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder
from sage_ray.record.run_record import RunRecord
from sage_ray.runtime.launch import run
from sage_ray.search.study_fault import is_study_fault
from sage_ray.stages.store import STATE, Snapshot, StageStore
from sage_ray.terminal.cli import call
from sage_ray.upkeep.garbage import collect_garbage


@pytest.fixture
def stages(s3: S3Server, tmp_path: Path) -> str:
    return f"{s3.uri}/{tmp_path.name}"


def tiny(*sets: str) -> ExperimentConfig:
    own = ("pretrain.epochs=2", "adversarial.epochs=2", "runtime.pictures=false", "runtime.snapshot_seconds=0")
    return tiny_config(*own, *sets)


def train(home: Home, name: str, *sets: str) -> RunRecord:
    return run(tiny(*sets), home, name, mirror=False)


def test_a_stage_in_a_bucket_is_taken_over_extended_and_mended(home: Home, stages: str) -> None:
    alone = train(home, "alone")
    first = train(home, "first", f"runtime.stage_store={stages}")
    assert first.state == "COMPLETE" and first.weights_sha == alone.weights_sha and not first.reused_epochs
    taken = train(home, "taken", f"runtime.stage_store={stages}")
    assert taken.reused_epochs == 4 and taken.weights_sha == alone.weights_sha
    longer = train(home, "longer", f"runtime.stage_store={stages}", "adversarial.epochs=3")
    assert longer.reused_epochs == 4 and longer.state == "COMPLETE"

    store = StageStore(stages)
    for key, epoch in ((first.stage_keys["adversarial"], 2), (first.stage_keys["pretrain"], 2)):
        content = store.objects.read(f"{key}/{epoch}/{STATE}")
        store.objects.write(f"{key}/{epoch}/{STATE}", content[:-1] + bytes([content[-1] ^ 1]))
    mended = train(home, "mended", f"runtime.stage_store={stages}")
    assert mended.weights_sha == alone.weights_sha and mended.reused_epochs == 1
    log = (home.runs / "mended" / "log.txt").read_text()
    assert all(f"stage {key} epoch 2: damaged snapshot removed" in log for key in first.stage_keys.values())
    again = train(home, "again", f"runtime.stage_store={stages}")
    assert again.reused_epochs == 4 and again.weights_sha == alone.weights_sha


def test_gc_cleans_a_bucket(home: Home, stages: str, s3: S3Server) -> None:
    record = train(home, "there", f"runtime.stage_store={stages}")
    key, store = record.stage_keys["adversarial"], StageStore(stages)
    source = {entry.name: store.objects.read(entry.name) for entry in store.objects.names(f"{key}/2")}
    for epoch in (5, 6, 7):
        for name, content in source.items():
            if not name.endswith("keep"):
                store.objects.write(name.replace("/2/", f"/{epoch}/"), content)
    store.objects.write(f"{key}/.damaged-4-0/{STATE}", b"left by an earlier release")
    store.save(Snapshot("of-another-home", 1, {}, {}))
    here = collect_garbage(home, ends=True)
    assert not here.items and f"--store {stages}" in here.kept[0]

    def names() -> list[Entry]:  # but for the signs of life, which change all the time
        return [entry for entry in store.objects.names() if not entry.name.startswith(SESSIONS)]

    before = names()
    dry = collect_garbage(home, store=stages, ends=True)
    assert {(item.kind, item.epochs) for item in dry.items} == {("snapshots", (1, 5)), ("leftovers", ())}
    assert names() == before
    assert call(["gc", "--home", str(home.path), "--store", stages, "--yes", "--json"]) == 0
    assert store.epochs(key) == [2, 6, 7] and store.epochs("of-another-home") == [1]
    assert not [entry for entry in store.objects.names() if ".damaged" in entry.name]
    assert train(home, "after", f"runtime.stage_store={stages}").weights_sha == record.weights_sha


def test_a_bucket_that_cannot_be_used_is_one_line_and_exit_2_before_anything_is_made(
    tmp_path: Path, s3: S3Server, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    words = [
        "train",
        "--preset",
        "tiny_unet",
        "--home",
        str(home),
        "--set",
        "data.path=synthetic://ordered?num=8&size=32",
    ]
    assert call([*words, "--set", "runtime.stage_store=s3://nowhere/x"]) == 2
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("no such bucket: s3://nowhere/x: create it")
    s3.refuse = lambda method, path: (403, "AccessDenied", SECRET) if method == "PUT" else None
    assert call([*words, "--set", f"runtime.stage_store={s3.uri}/read-only"]) == 2
    said = capsys.readouterr().err.strip()
    assert "no right to do this" in said.splitlines()[-1] and SECRET not in said and "Traceback" not in said
    assert call(["sweep", "search_tiny", "--home", str(home), "--set", f"runtime.stage_store={s3.uri}/read-only"]) == 2
    assert "no right to do this" in capsys.readouterr().err.strip().splitlines()[-1]
    assert not list(home.glob("runs/*")) and not list(home.glob("studies/*"))


def test_a_bucket_that_is_lost_stops_a_run_which_goes_on_later(
    home: Home, stages: str, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(home, "whole")
    monkeypatch.setattr(bucket_client, "PATIENCE_S", 0.5)
    monkeypatch.setenv("AWS_TEST", stages)

    def expired(method: str, path: str) -> tuple[int, str, str] | None:
        return (400, "ExpiredToken", SECRET) if path.endswith(f"/2/{STATE}") and method == "PUT" else None

    s3.refuse = expired
    lost = train(home, "lost", f"runtime.stage_store={stages}")
    assert lost.state == "FAIL" and (lost.error or "").startswith("snapshot_failed: ") and is_study_fault(lost)
    assert "the key has expired" in (lost.error or "") and SECRET not in (home.runs / "lost" / "error.txt").read_text()
    s3.refuse = lambda method, path: (503, "SlowDown", "") if path.endswith(STATE) else None
    unread = train(home, "lost", f"runtime.stage_store={stages}")
    assert unread.state == "FAIL" and (unread.error or "").startswith("StoreFailed: the store answered 503")
    assert is_study_fault(unread)
    s3.refuse = lambda method, path: None
    found = train(home, "lost", f"runtime.stage_store={stages}")
    assert (found.state, found.reused_epochs, found.weights_sha) == ("COMPLETE", 1, whole.weights_sha)
    assert RunFolder.open(home.runs, "lost").read().attempt == 3
