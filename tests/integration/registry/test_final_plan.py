"""A final training replays the learning-rate drops of a run."""

from __future__ import annotations

from tiny_cases import SMALLEST

from sage_ray.config import resolve
from sage_ray.record.home import Home
from sage_ray.registry.final_plan import make_plan
from sage_ray.runtime.launch import run

TINY = SMALLEST | {"adversarial.epochs": 0, "runtime.pictures": False}


def test_a_run_with_plateau_hands_its_drops_on(home: Home) -> None:
    values = {
        **TINY,
        "pretrain.epochs": 5,
        "pretrain.schedule.rule": "plateau",
        "pretrain.schedule.patience": 0,
        "pretrain.schedule.mode": "min",
        "pretrain.schedule.metric": "val/dice",
    }
    record = run(resolve(preset="tiny_sage_gan", sets=values).config, home, "plateau", mirror=False, launcher="inline")
    drops = record.lr_drops["pretrain"]
    assert drops, "a score that rises is no improvement in mode min, so the rate must have dropped"
    plan = make_plan("plateau", home, trial="best", seeds=(3, 1), model_name="m")
    config = plan.run_config(1)
    assert config.pretrain.schedule.rule == "drops" and list(config.pretrain.schedule.drops) == drops
    assert (config.seed, plan.seeds, plan.choice) == (1, (3, 1), "run")
    assert plan.run_ids == [f"{plan.final_id}-s3", f"{plan.final_id}-s1"]
