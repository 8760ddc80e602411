"""Snapshots by time: which epochs reach the disk, what a stop and a kill cost, what is kept."""

from __future__ import annotations

import functools
import os
import signal
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_cases import tiny_config

from sage_ray.config import ExperimentConfig
from sage_ray.data.prepare import PreparedData, prepare
from sage_ray.errors import RunStopped
from sage_ray.stages.store import NEWEST, Snapshot, StageStore
from sage_ray.termination import terminated_as_interrupted
from sage_ray.training import loop
from sage_ray.training.context import LocalContext
from sage_ray.training.interrupts import Interrupts
from sage_ray.training.snapshots import Snapshots


def tiny(*sets: str) -> ExperimentConfig:
    return tiny_config("pretrain.epochs=3", "adversarial.epochs=4", "adversarial.freeze_epochs=1", *sets)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return prepare(tiny().data, tmp_path_factory.mktemp("cache"))


class Clock:
    """Seconds that pass only when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Run:
    """One call of run_training: what it reported and what it wrote, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, data: PreparedData, root: Path, *sets: str) -> None:
        self.config, self.data, self.root = tiny(*sets), data, root
        self.events: list[str] = []
        self.reports: list[dict[str, Any]] = []
        self.clock = Clock()
        self.store = StageStore(root / "stages")
        save = self.store.save

        def noted(snapshot: Snapshot, *rest: Any) -> str | None:
            self.events.append(f"save {snapshot.meta['phase'][0]}{snapshot.epoch}{' keep' if snapshot.keep else ''}")
            return save(snapshot, *rest)

        monkeypatch.setattr(self.store, "save", noted)
        monkeypatch.setattr(loop, "Snapshots", functools.partial(Snapshots, clock=self.clock))

    def __call__(
        self,
        *,
        seconds: float = 0.0,
        end: Callable[[int], None] = lambda epoch: None,
        stop_at: int | None = None,
        named: dict[str, list[int]] | None = None,
    ) -> loop.TrainResult:
        def on_report(report: dict[str, Any]) -> None:
            self.events.append(f"report {report['epoch']}")
            self.reports.append(report)
            self.clock.now += seconds
            end(report["epoch"])

        stop = None if stop_at is None else lambda: len(self.reports) >= stop_at
        ctx = LocalContext(self.config.runtime, on_report=on_report, should_stop=stop)
        return loop.run_training(self.config, self.data, ctx, self.store, cache_dir=self.root, named=named)

    @property
    def saved(self) -> list[str]:
        return [event.removeprefix("save ") for event in self.events if event.startswith("save")]


def killed_at(last: int) -> Callable[[int], None]:
    def end(epoch: int) -> None:
        if epoch == last:
            raise SystemExit

    return end


def curve(reports: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in report.items() if k not in ("seconds", "replayed")} for report in reports]


@pytest.mark.parametrize(
    ("seconds", "saved"),
    [
        (1.0, ["p3 keep", "a4 keep"]),
        (25.0, ["p3 keep", "a3", "a4 keep"]),  # 60 s after the end of phase 1
        (60.0, ["p2", "p3 keep", "a1", "a2", "a3", "a4 keep"]),
    ],
)
def test_snapshots_go_by_time_and_stand_at_ends(
    data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, saved: list[str]
) -> None:
    run = Run(monkeypatch, data, tmp_path)
    run(seconds=seconds)
    assert run.saved == saved


def test_every_epoch_with_0_seconds_and_the_newest_two_and_ends_stay(
    data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(monkeypatch, data, tmp_path, "runtime.snapshot_seconds=0")
    result = run()
    assert run.saved == ["p1", "p2", "p3 keep", "a1", "a2", "a3", "a4 keep"]
    stored = {phase: run.store.epochs(key) for phase, key in result.stage_keys.items()}
    assert stored == {"pretrain": [2, 3], "adversarial": [3, 4]}


def test_a_snapshot_by_time_is_begun_before_its_report(
    data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(monkeypatch, data, tmp_path, "runtime.snapshot_seconds=0")
    begun: list[str] = []
    put = Snapshots._put

    def noted(self: Snapshots, state: Any, **words: Any) -> None:
        begun.append(f"{state.phase[0]}{state.phase_epoch} after {len(run.reports)}")
        put(self, state, **words)

    monkeypatch.setattr(Snapshots, "_put", noted)
    run()
    assert begun == [f"p{n} after {n - 1}" for n in (1, 2, 3)] + [f"a{n} after {n + 2}" for n in (1, 2, 3, 4)]


@pytest.mark.parametrize("after", [1, 5])
@pytest.mark.parametrize("error", [None, SystemExit, KeyboardInterrupt, RunStopped, OSError])
def test_no_stop_at_the_end_of_an_epoch_loses_one(
    data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException] | None, after: int
) -> None:
    """Tune stops a trial by SystemExit out of the report; the timer never runs out here."""

    def end(epoch: int) -> None:
        if error is not None and epoch == after:
            raise error

    run = Run(monkeypatch, data, tmp_path)
    with pytest.raises(error or RunStopped):
        run(end=end, stop_at=after if error is None else None)
    again = Run(monkeypatch, data, tmp_path)
    result = again()
    assert result.reused_epochs == after
    assert [report["replayed"] for report in again.reports] == [True] * after + [False] * (7 - after)


def test_a_kill_costs_what_was_trained_since_the_last_snapshot_and_comes_out_the_same(
    data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Run(monkeypatch, data, tmp_path / "whole")
    expected = whole()
    killed = Run(monkeypatch, data, tmp_path / "killed")
    monkeypatch.setattr(Snapshots, "at_stop", lambda self, state: None)  # a killed process takes none
    with pytest.raises(SystemExit):
        killed(seconds=25.0, end=killed_at(6))
    assert killed.saved == ["p3 keep", "a3"] and len(killed.reports) == 6
    killed.events.clear()
    reports = list(killed.reports)
    killed.reports.clear()
    result = killed(seconds=0.0)
    assert result.reused_epochs == 6 and result.weights_sha == expected.weights_sha
    assert curve(killed.reports)[:6] == curve(reports) and curve(killed.reports) == curve(whole.reports)

    # Before the first snapshot of phase 2 it costs all of that phase so far, and no epoch of phase 1.
    early = Run(monkeypatch, data, tmp_path / "early")
    with pytest.raises(SystemExit):
        early(end=killed_at(5))
    result = early()
    assert result.reused_epochs == 3 and result.weights_sha == expected.weights_sha


def test_named_epochs_are_kept_on_the_way_and_a_shorter_run_starts_from_them(
    data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(monkeypatch, data, tmp_path, "adversarial.epochs=6")
    result = run(named={"adversarial": [2, 9], "pretrain": [1]})
    assert run.saved == ["p1 keep", "p3 keep", "a2 keep", "a6 keep"]
    assert run.store.epochs(result.stage_keys["adversarial"]) == [2, 6]
    short = Run(monkeypatch, data, tmp_path, "adversarial.epochs=2")
    taken = short()
    assert short.saved == [] and taken.reused_epochs == 5
    alone = Run(monkeypatch, data, tmp_path / "alone", "adversarial.epochs=2")()
    assert alone.weights_sha == taken.weights_sha


class OtherRank(LocalContext):
    """Rank 1 of two, alone: reductions and barriers are counted, nothing is exchanged."""

    rank = 1
    barriers = 0

    def barrier(self) -> None:
        self.barriers += 1


def test_only_rank_0_writes_whatever_the_clocks_say(tmp_path: Path) -> None:
    config = tiny("runtime.snapshot_seconds=0")
    store = StageStore(tmp_path)
    ctx = OtherRank(config.runtime)
    state: Any = type("State", (), {"phase": "pretrain", "phase_epoch": 0})()
    snapshots = Snapshots(store, ctx, 0.0, {"pretrain": [1]})
    snapshots.enter("k", 3, state)
    for epoch in (1, 2, 3):
        state.phase_epoch = epoch
        snapshots.after_epoch(state)
    snapshots.at_stop(state)
    snapshots.close()
    assert ctx.barriers == 1 and not (tmp_path / "k").exists()


class _Tensors:
    """A state of one number, which is its epoch."""

    phase = "pretrain"

    def __init__(self, epoch: int) -> None:
        self.phase_epoch = epoch

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"network.a": torch.tensor(float(self.phase_epoch)), "best.a": torch.tensor(self.phase_epoch // 3)}

    def scalars(self) -> dict[str, Any]:
        return {"phase_epoch": self.phase_epoch, "best_epoch": self.phase_epoch // 3 * 3}


@settings(max_examples=25)
@given(
    budgets=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    gaps=st.lists(st.sampled_from([0.0, 30.0, 61.0]), min_size=12, max_size=12),
    stops=st.lists(st.booleans(), min_size=12, max_size=12),
    named=st.sets(st.integers(1, 12), max_size=3),
)
def test_kept_are_ends_named_epochs_and_the_newest_two(
    budgets: list[int], gaps: list[float], stops: list[bool], named: set[int]
) -> None:
    """Runs of several budgets, with stops, over one stage: whatever the order, what was passed and named is there."""
    with tempfile.TemporaryDirectory() as folder:
        store, clock = StageStore(folder), Clock()
        passed: set[int] = set()
        for budget in budgets:
            done = False
            while not done:
                ctx: Any = OtherRank(tiny().runtime)
                ctx.rank = 0
                state: Any = _Tensors(store.latest("k", budget))
                snapshots = Snapshots(store, ctx, 60.0, {"pretrain": named}, clock=clock)
                if state.phase_epoch == budget:
                    store.keep("k", budget)
                snapshots.enter("k", budget, state)
                done = True
                while state.phase_epoch < budget:
                    state = _Tensors(state.phase_epoch + 1)
                    clock.now += gaps[state.phase_epoch - 1]
                    passed |= {state.phase_epoch} & (named | {budget})
                    snapshots.after_epoch(state)
                    if stops[state.phase_epoch - 1] and state.phase_epoch < budget:
                        stops[state.phase_epoch - 1] = False
                        snapshots.at_stop(state)
                        done = False
                        break
                snapshots.close()
                assert store.latest("k", state.phase_epoch) == state.phase_epoch, "a stop lost an epoch"
        stored = set(store.epochs("k"))
        assert passed <= stored
        assert {epoch for epoch in stored if not store.kept("k", epoch)} <= set(sorted(stored)[-NEWEST:])
        for epoch in stored:
            found = store.load_latest("k", epoch)
            assert found is not None and found.epoch == epoch and found.tensors["best.a"] == epoch // 3
        files = {path.name for path in Path(folder, "k").glob("best-*")}
        assert files == {store.best_file("k", epoch) for epoch in stored}


# Ctrl-C in mid-epoch


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1], ids=lambda number: number.name)
def test_ctrl_c_in_mid_epoch_waits_for_a_finished_epoch_that_is_not_stored(number: signal.Signals) -> None:
    said: list[str] = []
    interrupts = Interrupts(said.append)
    with terminated_as_interrupted():
        with interrupts.taken():
            interrupts.hold(True)
            os.kill(os.getpid(), number)
            assert len(said) == 1 and "once more" in said[0]
            with pytest.raises(KeyboardInterrupt):
                interrupts.check()
            interrupts.check()
        with pytest.raises(KeyboardInterrupt), interrupts.taken():
            interrupts.hold(True)
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)
            pytest.fail("a second one is not held back")
        late = Interrupts(said.append)
        with pytest.raises(KeyboardInterrupt), late.taken():
            late.hold(True)
            os.kill(os.getpid(), number)
            late.hold(False)
            pytest.fail("it was held back long enough")
        with pytest.raises(KeyboardInterrupt), Interrupts(said.append).taken():
            os.kill(os.getpid(), number)
            pytest.fail("nothing would be lost, so nothing is waited for")
        last = Interrupts(said.append)
        with pytest.raises(KeyboardInterrupt), last.taken():
            last.hold(True)
            os.kill(os.getpid(), number)


def test_ctrl_c_between_two_epochs_loses_no_finished_epoch(
    data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(monkeypatch, data, tmp_path)
    sent: list[bool] = []

    def unsaved(snapshots: Snapshots, state: Any) -> bool:
        found = original(snapshots, state)
        if found and len(run.reports) == 1 and not sent:
            sent.append(True)
            os.kill(os.getpid(), signal.SIGINT)  # epoch 1 has been told, epoch 2 has not begun
        return found

    original = Snapshots.unsaved
    monkeypatch.setattr(Snapshots, "unsaved", unsaved)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert sent and len(run.reports) == 2 and run.saved == ["p2"]


def test_ctrl_c_in_mid_epoch_loses_no_finished_epoch(
    data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(monkeypatch, data, tmp_path)
    sent: list[bool] = []

    def step(*words: Any) -> dict[str, torch.Tensor]:
        if len(run.reports) == 1 and not sent:
            sent.append(True)
            os.kill(os.getpid(), signal.SIGINT)  # in the first step of epoch 2
        return original(*words)

    original = loop.STEPS["pretrain"]
    monkeypatch.setitem(loop.STEPS, "pretrain", step)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert len(run.reports) == 2 and run.saved == ["p2"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_process_that_ignores_sigint_goes_on_ignoring_it() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        interrupts = Interrupts(lambda line: None)
        with interrupts.taken():
            interrupts.hold(True)
            os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_the_main_thread_no_signal_is_touched() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen: list[bool] = []

    def work() -> None:
        with Interrupts(lambda line: None).taken():
            seen.append(signal.getsignal(signal.SIGINT) is before)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [True]
