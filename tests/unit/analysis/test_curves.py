"""Best epoch, plateau and pooled F1 by hand, and the audit of the published training log."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from analysis_cases import REPO

from sage_ray.analysis.curves import best, curve_facts, one_definition, plateau, pooled_f1, window
from sage_ray.analysis.log_audit import AuditedPhase, audit_log, noise, read_log
from sage_ray.errors import UserError
from sage_ray.study.file_schema import ObjectivePart
from sage_ray.study.objective import reduce_reports


@pytest.fixture(scope="session")
def published_log() -> Path:
    """The published training log, whose numbers these tests hold; `SAGE_PARITY_DIR` may point to another."""
    return REPO / "tests" / "golden" / "vectors" / "published_training_log.csv"


def audited(path: Path, **words: object) -> dict[tuple[str, str], AuditedPhase]:
    log = read_log(path, None, None, (), **words)  # type: ignore[arg-type]
    return {(found.phase, found.score): found for found in audit_log(log)}


@pytest.mark.parametrize("count", [1, 4, 5, 6, 11, 438])
def test_the_plateau_is_the_objective_of_a_search(count: int) -> None:
    values = np.random.default_rng(count).random(count)
    reports = [{"phase": "pretrain", "val/dice": value} for value in values]
    assert plateau(values) == reduce_reports(reports, ObjectivePart()) and window(count) == math.ceil(0.2 * count)


def test_best_and_plateau_by_hand() -> None:
    values = [0.1, 0.9, 0.5, 0.6, 0.7, 0.6]
    assert best(values) == (0.9, 1) and best(values, lower=True) == (0.1, 0)
    assert plateau(values) == pytest.approx(0.65)  # the last two of six
    assert best([math.nan, 0.2, math.inf]) == (0.2, 1)
    assert math.isnan(best([math.nan])[0]) and math.isnan(plateau([])) and math.isnan(plateau([0.5, math.nan]))
    curve = pd.DataFrame({"epoch": [8, 6, 7], "value": [0.3, 0.1, 0.4]})
    assert curve_facts(curve) == {"epochs": 3, "best": 0.4, "best_epoch": 7, "plateau": 0.3, "last": 0.3}


def test_pooled_f1_by_hand() -> None:
    counts = {"a": [(4, 1, 1), (0, 1, 3)], "b": [(0, 0, 0)]}
    rows = [
        {"run": run, "score": score, "value": float(value)}
        for run, images in counts.items()
        for image in images
        for score, value in zip(("tp", "fp", "fn"), image, strict=True)
    ]
    found = pooled_f1(pd.DataFrame(rows), ["run"]).set_index("run")["value"]
    assert found["a"] == pytest.approx(2 * 4 / (2 * 4 + 2 + 4)) and found["b"] == 1


def test_a_column_has_one_definition() -> None:
    assert one_definition(["x", None, "x"], "dice", "here") == "x"
    assert one_definition([None], "dice", "here") == "not recorded"
    with pytest.raises(UserError, match=r"mixed definitions of dice: here: x \| y"):
        one_definition(["y", "x"], "dice", "here")


def test_the_published_log_shows_what_its_best_epochs_flatter(published_log: Path) -> None:
    found = audited(published_log)
    rounded = {key: (round(f.best, 3), round(f.plateau, 3), f.epochs) for key, f in found.items()}
    assert rounded == {
        ("1", "dice"): (0.915, 0.887, 275),
        ("1", "instance_f1"): (0.923, 0.821, 275),
        ("2", "dice"): (0.933, 0.888, 438),
        ("2", "instance_f1"): (0.957, 0.828, 438),
    }
    # DISCREPANCIES.md, "What the published log says": medians of the last 50 epochs, noise that is near independent.
    assert round(found["1", "dice"].median_of_last_50, 4) == 0.8861
    assert round(found["2", "dice"].median_of_last_50, 4) == 0.9075
    assert found["2", "instance_f1"].above_surroundings == pytest.approx(0.10, abs=0.01)
    assert all(abs(f.noise_correlation) < 0.3 for f in found.values())
    # The best pair .933/.957 occurs at no epoch.
    dice, objects = found["2", "dice"], found["2", "instance_f1"]
    assert dice.best_epoch != objects.best_epoch
    assert dice.others == "instance_f1 0.9184" and objects.others == "dice 0.9310"


def test_noise_is_told_from_drift() -> None:
    draws = np.random.default_rng(0)
    independent = [noise(draws.normal(size=60)) for _ in range(300)]
    assert np.mean(independent, axis=0) == pytest.approx([0.98, -0.08], abs=0.03)
    drift = np.arange(60.0) / 100
    assert noise(np.repeat(draws.normal(size=20), 3))[1] > 0.3
    assert noise(drift + 0.1 * draws.normal(size=60))[0] == pytest.approx(0.1, rel=0.4)
    assert all(math.isnan(noise(values)[0]) for values in (drift, np.ones(60), np.arange(5.0)))


def test_any_log_with_other_names_and_lower_is_better(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(
        "# note\nstep,part,error,word\n0,a,.9,x\n1,a,.5,x\n2,a,.6,x\n3,a,.6,x\n4,a,.7,x\n0,b,.4,x\n1,b,.3,x\n"
    )
    log = read_log(path, "part", "step", (), lower=True)
    found = {f.phase: f for f in audit_log(log)}
    assert log.columns == ("error",) and (found["a"].best, found["a"].best_epoch) == (0.5, 1)
    assert found["a"].plateau == 0.7 and found["a"].flattery == pytest.approx(0.2)
    assert found["a"].above_surroundings == pytest.approx(0.65 - 0.5)


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        ("dice,epoch\n.1,0\n.2,1\n", {"phase_column": "part"}, "no such column: .*part: it has dice, epoch"),
        ("dice,epoch\n.1,0\n.2,1\n", {"columns": ("f1",)}, "no such column"),
        ("dice,epoch\nx,0\ny,1\n", {"columns": ("dice",)}, "column is not numeric"),
        ("epoch\n0\n1\n", {}, "no scores in the log"),
        ("dice,epoch\n.1,0\n.2,0\n", {}, "epoch occurs twice"),
        ("", {}, "unreadable CSV"),
    ],
)
def test_a_bad_log_is_one_clear_error(tmp_path: Path, text: str, words: dict[str, object], message: str) -> None:
    path = tmp_path / "log.csv"
    path.write_text(text)
    defaults: dict[str, object] = {"phase_column": None, "epoch_column": None, "columns": ()}
    with pytest.raises(UserError, match=message):
        read_log(path, **(defaults | words))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no such file"):
        read_log(tmp_path / "none.csv", None, None, ())
