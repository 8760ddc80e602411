"""All that the driver hands to Ray can be pickled while its watch holds a terminal, and takes nothing of it along."""

from __future__ import annotations

import copy
import io
import os
import pickle
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import cloudpickle
import optuna
import pytest
from ray import tune
from sweep_cases import write_space
from tiny_cases import SMALLEST

from sage_ray.config import resolve
from sage_ray.errors import RunFailed
from sage_ray.leases import Lease
from sage_ray.locks import lease_of
from sage_ray.record.home import Home
from sage_ray.registry.final import final
from sage_ray.runtime import ray_train
from sage_ray.runtime.driver_side import DriverSide, Gone
from sage_ray.search import driver, nodes, tune_run
from sage_ray.search.halt import Halt, HaltStopper
from sage_ray.study.space import load_space
from sage_ray.terminal.progress import LiveWatch

LOCK, RLOCK = type(threading.Lock()), type(threading.RLock())
DRIVERS_OWN = (io.IOBase, threading.Thread, LOCK, RLOCK, LiveWatch, Halt, optuna.storages.BaseStorage)


class Customs(cloudpickle.Pickler):
    """Pickles as Ray does, and refuses what may not leave the driver, whether it can be pickled or not."""

    def persistent_id(self, obj: Any) -> None:
        if isinstance(obj, DRIVERS_OWN):
            raise pickle.PicklingError(f"{type(obj).__name__} leaves the driver")


def held(folder: Path) -> Lease:
    """The lease of a study, as its driver holds it."""
    lease = lease_of(folder / ".driver.lock")
    assert lease.take(0) or not lease.lost()
    return lease


def through_customs(thing: Any) -> bytes:
    buffer = io.BytesIO()
    Customs(buffer).dump(thing)
    return buffer.getvalue()


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveWatch]:
    """A live watch on a real terminal."""
    monkeypatch.setenv("TERM", "xterm-256color")
    main, side = pty.openpty()
    with os.fdopen(side, "w") as stream:
        assert stream.isatty()
        made = LiveWatch(stream)
        yield made
        made.close()
    os.close(main)


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What would have gone to Ray, by argument; nothing of Ray is started."""
    seen: dict[str, Any] = {}

    def take(*arguments: Any, **named: Any) -> None:
        seen.update({str(position): value for position, value in enumerate(arguments)}, **named)

    class Trainer:
        def __init__(self, *arguments: Any, **named: Any) -> None:
            take(*arguments, **named)

        def fit(self) -> None:
            raise RuntimeError("no Ray here")

    import ray
    import ray.train.torch

    monkeypatch.setattr(tune_run, "ray_session", nullcontext)
    here = {"NodeID": "n", "Alive": True, "Resources": {"CPU": 2.0}}
    monkeypatch.setattr(ray, "nodes", lambda: [here])
    monkeypatch.setattr(nodes, "self_started", lambda: True)
    monkeypatch.setattr(ray_train, "self_started", lambda: True)
    monkeypatch.setattr(tune, "run", take)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.setattr(ray.train.torch, "TorchTrainer", Trainer)
    monkeypatch.setattr(ray_train, "connect", lambda: None)
    monkeypatch.setattr(ray_train, "check_resources", lambda *_: None)
    return seen


def test_all_that_a_study_hands_to_tune(home: Home, tmp_path: Any, watch: LiveWatch, handed: dict[str, Any]) -> None:
    space = load_space(write_space(tmp_path, scheduler={"name": "asha", "grace_epochs": 3}))
    driver.sweep(space, home, watch=watch)
    assert {"0", "search_alg", "scheduler", "stop", "callbacks"} <= set(handed), "what Tune pickles or may pickle"
    for name, value in handed.items():
        try:
            through_customs(value)
        except Exception as error:
            pytest.fail(f"{name}: {error!r}")
    # What the searcher gives to Tune for each trial is told to the actor, and written to a file.
    through_customs(handed["search_alg"].suggest("a"))
    for value in (handed["search_alg"], handed["stop"], *handed["callbacks"]):
        assert copy.deepcopy(value) is value and cloudpickle.loads(cloudpickle.dumps(value)) is value


def test_all_that_a_final_training_hands_to_ray_train(home: Home, watch: LiveWatch, handed: dict[str, Any]) -> None:
    config = resolve(preset="tiny_sage_gan", sets=[f"{k}={v}" for k, v in SMALLEST.items()]).config
    with pytest.raises(RunFailed):
        final(config, home, seeds=(0,), watch=watch)
    assert {"0", "train_loop_config", "run_config"} <= set(handed)
    for value in handed.values():
        through_customs(value)


def test_customs_find_a_terminal_however_deep_it_lies(watch: LiveWatch, tmp_path: Any) -> None:
    halt = Halt(tmp_path / "stop", None, watch.line, held(tmp_path))
    for hidden in (watch, {"a": [watch.line]}, lambda: halt.check(), threading.Lock(), threading.current_thread()):
        with pytest.raises((pickle.PicklingError, TypeError)):
            through_customs(hidden)


def test_in_another_process_only_a_name_is_left(tmp_path: Any) -> None:
    stopper = HaltStopper(Halt(tmp_path / "stop", None, print, held(tmp_path)))
    code = "import pickle, sys; print(pickle.load(sys.stdin.buffer))"
    told = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(stopper), capture_output=True, check=True)
    assert told.stdout.decode().strip() == "Gone(kind='HaltStopper')"
    data = pickle.dumps(stopper)
    del stopper
    assert pickle.loads(data) == Gone("HaltStopper") and issubclass(HaltStopper, DriverSide)
