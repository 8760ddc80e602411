"""What runs spend on extra pairs that are trained first, in a study: its GPU-hours, its status, and its silence."""

from __future__ import annotations

import io
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from study_cases import Study, tiny_space

from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder
from sage_ray.record.run_record import RunLabels
from sage_ray.runtime.maker_news import maker_news
from sage_ray.search import trainable
from sage_ray.search.crashes import Crashes
from sage_ray.search.halt import OUT_OF_GPU_HOURS, Halt
from sage_ray.search.study_status import status
from sage_ray.search.trainable import TrialRun, TrialTask
from sage_ray.search.trial_listener import TrialListener, spent_seconds
from sage_ray.terminal.progress import LOG_S, PlainWatch
from sage_ray.terminal.study_answers import study_lines
from sage_ray.watch import SilentWatch

PAIRS = {"data.extra_pairs": "preset:tiny_sage_gan?pairs=4", "pretrain.synthetic_share": 0.5, "adversarial.epochs": 0}
NOW = {"maker": "preset tiny_sage_gan", "phase": "pretrain", "epoch": 3, "epochs": 24}


@pytest.fixture
def study(home: Home, tmp_path: Path) -> Study:
    """A study with one trial that has begun and trains its GAN, its limit of hours 36 s."""
    study = Study(home, tiny_space(tmp_path, base=PAIRS, max_gpu_hours=0.01, trials=2), running=1)
    place = study.space.run_grid(0)[0]
    labels = RunLabels(study="tiny", trial=0)
    run = RunFolder.create(home.runs, place.run_id, study.space.config(study.samples[0].values, place.seed), labels)
    run.update(extra_pairs={"source": "preset:tiny_sage_gan?pairs=4", "key": "aa", "spent_seconds": 30.0, "now": NOW})
    return study


def run_of(study: Study) -> RunFolder:
    return RunFolder(study.home.runs / study.space.run_grid(0)[0].run_id)


def test_a_trial_that_trains_its_gan_spends_gpu_hours(study: Study) -> None:
    rows = study.storage.rows()
    assert spent_seconds(study.folder, study.space, rows) == 30.0
    with study.folder.driver_lock(print) as lease:
        said: list[str] = []
        halt = Halt(study.folder.stop_path, None, said.append, lease)
        crashes: Any = Crashes(lambda number: 0)
        unused: Any = None
        listener = TrialListener(
            *(study.folder, study.space, study.storage, unused, crashes, halt, SilentWatch(), unused)
        )
        trial: Any = SimpleNamespace(trial_id="a", config={"number": 0}, status="RUNNING")
        listener.on_trial_result(0, [trial], trial, {"objective": math.nan, "waits": 1, "spent_first": 5.0})
        assert not halt.check(), "35 of 36 s"
        listener.on_trial_result(0, [trial], trial, {"objective": math.nan, "waits": 1, "spent_first": 2.0})
        assert halt.check() and halt.reason == OUT_OF_GPU_HOURS


def test_tune_hears_what_is_spent_first_with_the_next_sign_of_life(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr(trainable.tune, "report", sent.append)
    monkeypatch.setattr(trainable, "STILL_HERE_S", 0.0)
    place = study.space.run_grid(0)[0]
    config = study.space.config(study.samples[0].values, place.seed)
    run = TrialRun(run_id=place.run_id, arm=None, fold=None, config=config)
    task = TrialTask(study="tiny", number=0, home=str(study.home.path), objectives=study.space.objectives, runs=(run,))
    reporter = trainable._Reporter(task, 0, [])
    reporter.maker({**NOW, "seconds": 4.0, "replayed": False})
    reporter.maker({**NOW, "seconds": 9.0, "replayed": True})
    reporter.waits()
    assert [(result.get("spent_first"), result["waits"]) for result in sent] == [(4.0, 1), (None, 1), (None, 1)]


def test_status_says_what_a_trial_trains_first(study: Study) -> None:
    with study.folder.driver_lock(print):
        found = status("tiny", study.home)
        assert found.trials[0].first == "trains preset tiny_sage_gan first, epoch 3 of 24"
        assert found.trials[0].runs[0].first == found.trials[0].first
        assert "trial 0 trains preset tiny_sage_gan first, epoch 3 of 24" in study_lines(status("tiny", study.home))
    assert status("tiny", study.home).trials[0].first is None, "nobody runs the study"
    run_of(study).update(state="INTERRUPTED")
    with study.folder.driver_lock(print):
        assert status("tiny", study.home).trials[0].first is None


def test_a_log_says_now_and_then_what_a_trial_trains_first(study: Study) -> None:
    now, out = [1000.0], io.StringIO()
    watch = PlainWatch(out, clock=lambda: now[0])
    for epoch in range(3, 7):
        run_of(study).update(extra_pairs={"source": "p", "key": "aa", "now": NOW | {"epoch": epoch}})
        with study.folder.driver_lock(print):
            watch.update(status("tiny", study.home))
        now[0] += LOG_S / 2
    told = [line for line in out.getvalue().splitlines() if "first" in line]
    assert told == [f"trial 0 trains preset tiny_sage_gan first, epoch {epoch} of 24" for epoch in (3, 5)]


def test_who_started_workers_hears_from_the_record_how_far_they_are(study: Study) -> None:
    run = run_of(study)
    news = maker_news(run, run.config())
    assert next(news) is None, "what an earlier attempt left is no news"
    pairs = {"source": "p", "key": "aa", "spent_seconds": 37.5, "now": NOW | {"epoch": 5}}
    run.update(extra_pairs=pairs)
    told = next(news)
    assert told is not None and (told["epoch"], told["seconds"], told["replayed"]) == (5, 7.5, False)
    assert next(news) is None
    run.update(extra_pairs={"source": "p", "key": "aa", "spent_seconds": 38.5})  # the run's own first epoch
    told = next(news)
    assert told is not None and (told["phase"], told["seconds"]) == ("pairs", 1.0) and next(news) is None
