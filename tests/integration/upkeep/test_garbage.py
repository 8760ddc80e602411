"""gc: what goes and what stays; a dry run changes nothing; afterwards everything goes on, evaluates and predicts."""

from __future__ import annotations

import json
import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from study_cases import Study, tiny_space
from tiny_cases import tiny_config

from sage_ray.config import ExperimentConfig
from sage_ray.errors import UserError
from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder
from sage_ray.runtime.launch import run
from sage_ray.search.reconcile import take_up
from sage_ray.stages import keys as keys_module
from sage_ray.stages.keys import CodeChange
from sage_ray.stages.lease import stage_lease
from sage_ray.stages.store import Snapshot, StageStore
from sage_ray.terminal.cli import call
from sage_ray.upkeep.garbage import WHY, GarbageReport, collect_garbage


def tiny(*sets: str) -> ExperimentConfig:
    own = ("pretrain.epochs=2", "adversarial.epochs=3", "runtime.pictures=false", "runtime.snapshot_seconds=0")
    return tiny_config(*own, *sets)


def train(home: Home, name: str, *sets: str, stop_at: int | None = None) -> RunFolder:
    """A run that is finished, or interrupted after `stop_at` epochs."""
    pause = home.path / "pause"

    def on_report(report: dict[str, Any]) -> None:
        if report["epoch"] == stop_at:
            pause.touch()

    run(tiny(*sets), home, name, on_report=on_report, pause_path=pause, mirror=False)
    pause.unlink(missing_ok=True)
    return RunFolder.open(home.runs, name)


def by_hand(home: Home, key: str, epoch: int) -> None:
    """A snapshot that is there twice: that of another epoch, under this one's name."""
    folder = home.stages / key
    source = max((path for path in folder.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
    shutil.copytree(source, folder / str(epoch), ignore=shutil.ignore_patterns("keep"))


def tree(home: Home) -> dict[str, tuple[int, int]]:
    leases = {".leases", ".sessions"}
    files = (path for path in home.path.rglob("*") if path.is_file() and not leases & set(path.parts))
    return {str(path.relative_to(home.path)): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def reasons(found: GarbageReport) -> dict[str, set[tuple[str, tuple[int, ...]]]]:
    """Stage and epochs of each reason, by its short name."""
    names = {text: name for name, text in WHY.items()}
    grouped: dict[str, set[tuple[str, tuple[int, ...]]]] = {}
    for item in found.items:
        grouped.setdefault(names[item.why], set()).add((item.key or item.what, item.epochs))
    return grouped


def test_a_dry_run_changes_nothing_and_a_real_one_frees_what_it_said(home: Home) -> None:
    finished = train(home, "finished").read()
    cut = train(home, "cut", "seed=1", stop_at=4).read()
    assert cut.state == "INTERRUPTED" and set(cut.stage_keys) == {"pretrain", "adversarial"}
    pretrain, adversarial = finished.stage_keys.values()
    (home.stages / "abandoned").mkdir()
    StageStore(home.stages).save(Snapshot("abandoned", 7, {"a": torch.ones(9)}, {}))
    (home.stages / pretrain / ".damaged-1-x").mkdir()
    (home.stages / pretrain / ".damaged-1-x" / "state.safetensors").write_bytes(b"x" * 100)
    (home.stages / adversarial / ".tmp-best-y").write_bytes(b"x" * 50)
    before = tree(home)
    found = collect_garbage(home)
    assert tree(home) == before and found.dry_run and found.freed_gb == 0
    assert reasons(found) == {
        "nobody": {("abandoned", (7,))},
        "between": {(pretrain, (1,)), (adversarial, (2,))},
        "damaged": {(pretrain, ()), (adversarial, ())},
    }
    assert set(found.more) == {"ends", "cache"}

    done = collect_garbage(home, remove=True)
    gone = before.keys() - tree(home).keys()
    assert done.items == found.items
    assert sum(before[name][0] for name in gone) / 1e9 == pytest.approx(done.freed_gb) == pytest.approx(found.gb)
    assert all(name.startswith("stages/") for name in gone) and not (home.stages / "abandoned").exists()
    assert collect_garbage(home).items == []

    # The run that was cut off goes on from its last epoch; the finished one still evaluates and can be extended.
    again = run(tiny("seed=1"), home, "cut", mirror=False)
    assert again.state == "COMPLETE" and again.reused_epochs == 4
    longer = run(tiny("adversarial.epochs=4"), home, "longer", mirror=False)
    assert longer.reused_epochs == 5
    images = home.path / "images"
    assert call(["data", "synth", str(images), "--num", "3", "--size", "32", "--home", str(home.path)]) == 0
    assert call(["evaluate", "finished", str(images), "--home", str(home.path)]) == 0
    words = ["predict", "finished", str(images / "images"), "-o", str(home.path / "out"), "--home", str(home.path)]
    assert call(words) == 0


def test_ends_go_only_when_asked_for_and_never_those_of_an_open_study(home: Home, tmp_path: Path) -> None:
    train(home, "alone", "seed=5")
    space = tiny_space(tmp_path)
    study = Study(home, space, running=2)
    first = study.train(0)
    take_up(study.storage, study.folder, space)
    # A run by hand that has the phase 1 of the study in common with its base, and a trial that is not begun.
    shared = run(space.base.with_values({"seed": 0, "adversarial.lambda_cycle": 7.0}), home, "shared", mirror=False)
    assert shared.reused_epochs == 1
    found = collect_garbage(home, ends=True)
    alone = RunFolder.open(home.runs, "alone").read()
    assert {key for key, _ in reasons(found)["ends"]} == {*alone.stage_keys.values(), shared.stage_keys["adversarial"]}
    collect_garbage(home, ends=True, remove=True)
    assert study.train(1).read().reused_epochs == 1  # phase 1 was not trained again
    assert first.read().state == "COMPLETE"

    # Without the study, what only its runs name goes too: they are finished, or not of any use.
    shutil.rmtree(study.folder.path)
    everything = collect_garbage(home, ends=True, remove=True)
    assert everything.items and not list(home.stages.iterdir())
    assert run(tiny("seed=5"), home, "alone", mirror=False) == alone


def test_the_stages_of_an_open_study_are_known_before_any_run_of_it(home: Home, tmp_path: Path) -> None:
    space = tiny_space(tmp_path)
    before = run(space.base.with_values({"seed": 0}), home, "before", mirror=False)
    Study(home, space, running=0)
    assert not collect_garbage(home, ends=True).items
    (home.studies / "tiny" / "study.json").unlink()
    assert {key for key, _ in reasons(collect_garbage(home, ends=True))["ends"]} == set(before.stage_keys.values())


def test_old_homes_give_back_the_epochs_that_were_kept_at_intervals(home: Home) -> None:
    record = train(home, "cut", "adversarial.epochs=30", stop_at=4).read()
    key = record.stage_keys["adversarial"]
    for epoch in (10, 11, 12, 40):
        by_hand(home, key, epoch)
    # The run may use 30 epochs: the newest two below that stay, and the newest two of all.
    assert reasons(collect_garbage(home)) == {
        "between": {(key, (1, 2, 10))},
    } and StageStore(home.stages).epochs(key) == [1, 2, 10, 11, 12, 40]


def test_what_a_process_computes_is_left_alone(home: Home) -> None:
    record = train(home, "finished").read()
    store = StageStore(home.stages)
    with stage_lease(store, record.stage_keys["pretrain"], lambda: False):
        found = collect_garbage(home, ends=True, remove=True)
    assert found.kept == [f"stage {record.stage_keys['pretrain']} is being computed"]
    assert store.epochs(record.stage_keys["pretrain"]) == [1, 2] and not store.epochs(record.stage_keys["adversarial"])

    running = train(home, "running", "seed=1")
    with running.lock("driver", 1):
        found = collect_garbage(home, ends=True, cache=True, remove=True)
        assert "something runs in the home: its cache is left alone" in found.kept
        assert all(store.epochs(key) for key in running.read().stage_keys.values())
        assert list(home.cache.glob("*/images.npy"))
    # One that died leaves its lease behind, which protects nothing.
    key = running.read().stage_keys["pretrain"]
    lease = {"owner": "x", "host": socket.gethostname(), "pid": 2**30}
    (home.stages / key / "lease.json").write_text(json.dumps(lease))
    collect_garbage(home, ends=True, cache=True, remove=True)
    assert not (home.stages / key).exists() and not list(home.cache.glob("*/images.npy"))


def test_a_record_that_cannot_be_read_keeps_what_it_may_need(home: Home) -> None:
    kept = train(home, "kept").read()
    path = home.runs / "kept" / "record.json"
    content = path.read_text()
    path.write_text(content[:40])
    found = collect_garbage(home, ends=True, remove=True)
    assert not found.items and "run kept: damaged record" in found.kept[0]
    assert all(StageStore(home.stages).epochs(key) for key in kept.stage_keys.values())
    path.write_text(content)
    assert collect_garbage(home, ends=True).items


def test_unfinished_runs_of_the_first_release_name_their_stages_by_their_config(home: Home) -> None:
    """Their records got the keys when a run was finished."""
    folder = train(home, "cut", stop_at=4)
    keys = folder.read().stage_keys
    folder.update(stage_keys={}, numerics={})
    assert not reasons(collect_garbage(home, ends=True))
    shutil.move(home.stages / keys["pretrain"], home.stages / "0123")
    shutil.move(home.stages / keys["adversarial"], home.stages / "4567")
    found = collect_garbage(home, ends=True)
    assert not found.items and "its record names no stages" in found.kept[0]


def test_stages_of_an_earlier_training_code_go_but_not_those_of_a_run_that_was_cut_off(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished, cut = train(home, "finished").read(), train(home, "cut", "seed=1", stop_at=4).read()
    collect_garbage(home, remove=True)
    change = CodeChange(99, "all of it", lambda config, phase, numerics: phase == "adversarial")
    monkeypatch.setattr(keys_module, "CODE_CHANGES", (change,))
    assert reasons(collect_garbage(home)) == {"outdated": {(finished.stage_keys["adversarial"], (3,))}}
    collect_garbage(home, remove=True)
    assert StageStore(home.stages).epochs(cut.stage_keys["adversarial"]) == [1, 2]


@pytest.mark.parametrize(
    ("state", "error", "goes"),
    [
        ("FAIL", "diverged: non-finite loss", True),
        ("FAIL", "snapshot_failed: full", False),
        ("FAIL", "OSError: lost share", False),
        ("PRUNED", None, False),
        ("RUNNING", None, False),
        ("INTERRUPTED", None, False),
    ],
)
def test_what_a_run_needs_follows_from_its_end(home: Home, state: Any, error: str | None, goes: bool) -> None:
    folder = train(home, "r", stop_at=4)
    folder.set_state(state, error=error)
    found = reasons(collect_garbage(home, ends=True))
    assert ("stopped" in found) == goes


def test_another_store_loses_only_what_lies_between(home: Home, tmp_path: Path) -> None:
    other = tmp_path / "share"
    record = train(home, "there", f"runtime.stage_store={other}").read()
    store = StageStore(other)
    key = record.stage_keys["adversarial"]
    source = other / key / "3"
    for epoch in (5, 6, 7):
        shutil.copytree(source, other / key / str(epoch), ignore=shutil.ignore_patterns("keep"))
    store.save(Snapshot("of-another-home", 1, {"a": torch.ones(2)}, {}))
    here = collect_garbage(home, ends=True)
    assert not here.items and f"--store {other}" in here.kept[0]
    found = collect_garbage(home, store=str(other), ends=True, remove=True)
    assert reasons(found) == {"between": {(key, (2, 5))}}
    assert store.epochs(key) == [3, 6, 7] and store.epochs("of-another-home") == [1]
    with pytest.raises(UserError, match="no such stage store"):
        collect_garbage(home, store=str(tmp_path / "nowhere"))


def test_a_store_is_the_same_by_whatever_link_and_one_that_was_moved_away_frees_nothing(
    home: Home, tmp_path: Path
) -> None:
    home.check_writable()
    link = tmp_path / "link"
    link.symlink_to(home.stages)
    train(home, "linked", f"runtime.stage_store={link}")
    assert set(reasons(collect_garbage(home))) == {"between"}
    link.unlink()
    found = collect_garbage(home, ends=True)
    assert "was it moved" in found.kept[0] and "nobody" not in reasons(found)


def test_an_object_store_is_cleaned_without_leases(home: Home, tmp_path: Path) -> None:
    other = (tmp_path / "bucket").as_uri()
    record = train(home, "there", f"runtime.stage_store={other}").read()
    found = collect_garbage(home, store=other, remove=True)
    assert reasons(found) == {} and StageStore(other).epochs(record.stage_keys["pretrain"]) == [1, 2]


def test_ray_notes_of_starts_that_are_over_go(home: Home, tmp_path: Path) -> None:
    train(home, "finished")
    cut = train(home, "cut", "seed=1", stop_at=1)
    study = Study(home, tiny_space(tmp_path), running=0)
    for folder in (home.path / "ray" / "finished", home.path / "ray" / cut.run_id, study.folder.path / "ray" / "s1"):
        folder.mkdir(parents=True)
        (folder / "state.json").write_text("{}" * 100)
    with study.folder.driver_lock():
        assert reasons(collect_garbage(home))["tune"] == {("ray/finished", ())}
    done = collect_garbage(home, remove=True)
    assert reasons(done)["tune"] == {("ray/finished", ()), ("studies/tiny/ray", ())}
    assert (home.path / "ray" / "cut").is_dir() and not (study.folder.path / "ray").exists()


def test_the_verb_shows_a_table_and_asks_for_yes(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    train(home, "finished")
    where = ["--home", os.fspath(home)]
    assert call(["gc", *where]) == 0
    out = capsys.readouterr().out
    assert WHY["between"] in out and "nothing was removed" in out and "--ends would free" in out
    assert f"sage-ray gc --yes --home {os.fspath(home)}" in out
    assert call(["gc", "--ends", "--yes", "--json", *where]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert answer["ok"] and answer["freed_gb"] == pytest.approx(answer["gb"]) and not answer["dry_run"]
    assert {item["kind"] for item in answer["items"]} == {"snapshots", "ends"}
    assert call(["gc", *where]) == 0
    assert "nothing to free" in capsys.readouterr().out
    assert call(["gc", "--home", str(home.path / "nowhere")]) == 2
    assert "no such home" in capsys.readouterr().err
