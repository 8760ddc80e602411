"""The published learning-rate rule, replayed on the published log (facts.json, schedule; DISCREPANCIES row 8)."""

from __future__ import annotations

import csv
import re

import pytest
import torch
from parity import Parity

from sage_ray.config import resolve
from sage_ray.training.learning_rate import LearningRate


@pytest.mark.parametrize("phase", ["pretrain", "adversarial"])
def test_reduce_on_plateau_in_mode_min_is_the_clock_of_the_log(parity: Parity, phase: str) -> None:
    number = {"pretrain": 1, "adversarial": 2}[phase]
    rule = parity.facts["schedule"]["lr_rule"]
    found = re.search(rf"phase {number}(?: drops)? at (?:epochs )?([\d,]+)", rule)
    assert found, rule
    expected = [int(epoch) for epoch in found.group(1).split(",") if epoch]
    config = getattr(resolve(preset="sage_gan_public").config, phase)
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=config.lr)
    rate = LearningRate(config.schedule, {"segmenter": optimizer}, config.lr)
    with parity.fact_file("published_training_log.csv").open() as stream:
        scores = [float(row["instance_f1"]) for row in csv.DictReader(stream) if int(row["phase"]) == number]
    for epoch, score in enumerate(scores, start=1):
        saved = rate.state()
        rate = LearningRate(config.schedule, {"segmenter": optimizer}, config.lr)
        rate.load(saved)
        rate.after_epoch(epoch, {"val/f1_object_50": score})
    assert [epoch - 1 for epoch in rate.drops] == expected
    assert optimizer.param_groups[0]["lr"] == pytest.approx(config.lr * config.schedule.factor ** len(expected))
