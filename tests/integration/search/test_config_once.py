"""The config of a run is built once on its way from the space to the step, and is handed on from there."""

from __future__ import annotations

import pickle
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from study_cases import Study, tiny_space

from sage_ray.config import ExperimentConfig
from sage_ray.record.home import Home
from sage_ray.runtime import launch
from sage_ray.search import trainable
from sage_ray.search.tune_run import make_task


def test_a_config_is_built_once_between_the_space_and_the_step(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Study(home, tiny_space(tmp_path, points=[], seeds=[0, 1]), running=0)
    built: Counter[str] = Counter()
    stepped: list[ExperimentConfig] = []
    validate, train = ExperimentConfig.model_validate, launch.run_training

    def counting(values: Any, **kwargs: Any) -> ExperimentConfig:
        config = validate(values, **kwargs)
        # The thread that sends a run to MLflow reads the run's folder, the config in it included.
        if threading.current_thread() is threading.main_thread():
            built[config.config_hash()] += 1
        return config

    def training(config: ExperimentConfig, *args: Any, **kwargs: Any) -> Any:
        stepped.append(config)
        return train(config, *args, **kwargs)

    monkeypatch.setattr(ExperimentConfig, "model_validate", counting)
    monkeypatch.setattr(launch, "run_training", training)
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(trainable.tune, "report", told.append)

    task = make_task(study.storage.draw(None, study.space), study.space, study.folder)
    # As Ray carries it to an actor.
    trainable.run_trial({"task": pickle.loads(pickle.dumps(task))})

    assert told[-1].get("trial_complete") == 1
    assert [config.seed for config in stepped] == [0, 1]
    assert [config.identity() for config in stepped] == [run.config.identity() for run in task.runs]
    assert [built[config.config_hash()] for config in stepped] == [1, 1], built
