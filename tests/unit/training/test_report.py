"""Epoch reports: typed in the trainer, and under the same keys in the same order wherever they are stored."""

from __future__ import annotations

import json

import pytest

from sage_ray.training.report import EpochReport

# A line of metrics.jsonl of the first release.
LINE = (
    '{"epoch": 3, "phase": "adversarial", "phase_epoch": 1, "lr": 0.0001, "train/loss_id_mask": 1.5, '
    '"train/loss": 2.0, "val/dice": 0.5, "val/attention_boundary_share": 0.25, "synthetic_steps": 2, '
    '"generator_updates": 0, "seconds": 1.25, "replayed": false}'
)


def test_plain_form_keeps_keys_values_and_order() -> None:
    report = EpochReport.from_dict(json.loads(LINE))
    assert report.phase_epoch == 1 and report.scores["val/dice"] == 0.5 and not report.replayed
    assert json.dumps(report.as_dict()) == LINE
    assert json.dumps(report.as_replayed().as_dict()) == LINE.replace("false", "true")
    assert not report.replayed, "the stored report stays as it is"


def test_a_report_without_an_epoch_is_refused() -> None:
    plain = json.loads(LINE)
    del plain["epoch"]
    with pytest.raises(KeyError, match="epoch"):
        EpochReport.from_dict(plain)
