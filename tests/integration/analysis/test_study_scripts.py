"""Curves, responses, importances and attention of studies: numbers by hand, readable files, errors of one line."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
from analysis_cases import write_ablation, write_attention, write_design, write_run, write_sweep
from PIL import Image

from sage_ray.analysis import budget_response, curve_panels, cycle_response, gate_maps, setting_importance
from sage_ray.analysis.curve_panels import bands, series
from sage_ray.analysis.response import counts, points, respond
from sage_ray.analysis.study_facts import study_facts
from sage_ray.analysis.tidy import collect
from sage_ray.errors import UserError
from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder

NUM_TRIALS = 20


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A search over lambda_cycle (best near 1) and a learning rate without effect, and a grid of epoch budgets."""
    home = Home(tmp_path_factory.mktemp("studies") / "home")
    draws = np.random.default_rng(3)
    cycle = [float(value) for value in np.exp(draws.uniform(np.log(0.1), np.log(10), NUM_TRIALS))]
    rate = [float(value) for value in draws.uniform(1e-4, 1e-3, NUM_TRIALS)]
    levels = [0.8 - 0.05 * np.log(value) ** 2 + 0.005 * draws.normal() for value in cycle]
    states = ["COMPLETE"] * 14 + ["PRUNED"] * 4 + ["FAIL"] * 2
    write_sweep(home, "cycle", {"adversarial.lambda_cycle": cycle, "adversarial.lr": rate}, levels, states=states)
    pairs = [(first, second) for first in (25, 50, 100) for second in (100, 200)]
    paths = {"pretrain.epochs": [p[0] for p in pairs], "adversarial.epochs": [p[1] for p in pairs]}
    write_sweep(home, "budget", paths, [0.5 + p[0] / 1000 + p[1] / 2000 for p in pairs], seeds=(0, 1))
    return home


def drawn(path: Path) -> Image.Image:
    """The picture, which must have ink and provenance."""
    with Image.open(path) as picture:
        assert "seeds" in picture.info["Description"] and "commit" in picture.info["Description"]
        grey = np.asarray(picture.convert("L"))
    assert (grey < 128).mean() > 0.002 and grey.max() == 255
    return picture


def test_a_response_leaves_out_what_did_not_finish(studies: Home) -> None:
    tidy = collect(studies)
    found = points(tidy, study_facts(tidy, "cycle"), ["adversarial.lambda_cycle"], "dice")
    assert found["state"].value_counts().to_dict() == {"COMPLETE": 14, "PRUNED": 4, "FAIL": 2}
    assert found.loc[found["state"] == "FAIL", "value"].isna().all()
    curve = respond(found, "adversarial.lambda_cycle", log=True)
    assert curve.smooth and len(curve.table) == 60 and curve.table["trials"].eq(14).all()
    top = curve.table.loc[curve.table["value"].idxmax()]
    assert 0.4 < top["x"] < 2.5
    inside = (curve.table["low"] <= curve.table["value"]) & (curve.table["value"] <= curve.table["high"])
    assert inside.mean() > 0.9
    # What the pruned and failed runs had makes no difference.
    mended = found.assign(value=np.where(found["state"] == "PRUNED", 99.0, found["value"]))
    pd.testing.assert_frame_equal(respond(mended, "adversarial.lambda_cycle", log=True).table, curve.table)
    assert counts(found) == "14 finished runs of 14 trials; not in the curve: 4 PRUNED, 2 FAIL."


def test_a_response_over_levels_by_hand() -> None:
    rows = [(0, 1.0, 0.5), (0, 1.0, 0.7), (1, 2.0, 0.4), (2, 3.0, np.nan)]
    found = pd.DataFrame(rows, columns=["trial", "x", "value"]).assign(state=["COMPLETE"] * 3 + ["FAIL"])
    curve = respond(found, "x")
    assert not curve.smooth and curve.table["x"].tolist() == [1.0, 2.0]
    # Mean of .5 and .7, t interval with 1 degree of freedom: .6 +- 12.7062 x .1.
    assert curve.table.loc[0, ["value", "low", "high"]].tolist() == pytest.approx([0.6, 0.6 - 1.27062, 0.6 + 1.27062])
    assert curve.table.loc[1, "value"] == 0.4 and np.isnan(curve.table.loc[1, "low"])


def test_lambda_cycle_and_epoch_budget_take_their_studies(
    studies: Home, script: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert script(cycle_response, "--home", studies.path) == 0
    assert script(budget_response, "--home", studies.path) == 0
    tables = studies.path / "tables"
    text = (tables / "cycle" / "lambda_cycle.md").read_text()
    assert "The study varies these too" in text and "adversarial.lr" in text and "4 PRUNED, 2 FAIL" in text
    assert not (tables / "budget" / "lambda_cycle.md").exists() and not (tables / "cycle" / "epoch_budget.md").exists()
    grid = (tables / "budget" / "epoch_budget.md").read_text()
    assert re.search(r"\| 25 \| 0\.57\d \[[^]]*\] \| 0\.62\d", grid) and "| 100 | 30 | 30 |" in grid
    assert len(pd.read_csv(tables / "budget" / "epoch_budget.csv", comment="#")) == 6
    drawn(tables / "cycle" / "lambda_cycle.png")
    drawn(tables / "budget" / "epoch_budget.png")
    capsys.readouterr()
    assert script(cycle_response, "--home", studies.path, "--study", "budget") == 2
    assert capsys.readouterr().err.startswith("fewer than 3 values of adversarial.lambda_cycle: study budget: ")


def trials_of(
    num: int, value: Callable[[float, float], float], states: Callable[[int], str] = lambda k: "COMPLETE"
) -> list[optuna.trial.FrozenTrial]:
    draws = np.random.default_rng(0)
    kinds = {name: optuna.distributions.FloatDistribution(0, 1) for name in ("x", "y")}
    made = []
    for number in range(num):
        x, y = draws.random(2)
        state = optuna.trial.TrialState[states(number)]
        given = float(value(x, y)) if states(number) == "COMPLETE" else None
        made.append(
            optuna.trial.create_trial(
                params={"x": float(x), "y": float(y)}, distributions=kinds, value=given, state=state,
                intermediate_values={} if states(number) == "FAIL" else {1: 99.0},
            )
        )  # fmt: skip
    return made


@pytest.mark.parametrize("method", ["ped_anova", "fanova"])
def test_importance_finds_the_setting_that_matters(method: str) -> None:
    trials = trials_of(40, lambda x, y: -((x - 0.5) ** 2) + 0.001 * y)
    found = setting_importance.importance(trials, maximize=True, method=method, resamples=4)
    table = found.table.set_index("setting")
    assert found.table["setting"].iloc[0] == "x" and table.loc["x", "importance"] > 0.7
    assert table["importance"].sum() == pytest.approx(1) and (table["low"] <= table["high"]).all()
    down = setting_importance.importance(trials, maximize=False, method=method, resamples=2)
    assert not np.allclose(down.table["importance"], found.table["importance"]) or method == "fanova"


def test_pruned_trials_are_not_among_the_best_and_failed_ones_are_nothing() -> None:
    states = ("COMPLETE", "COMPLETE", "PRUNED", "FAIL")
    trials = trials_of(40, lambda x, y: x, lambda number: states[number % 4])
    found = setting_importance.importance(trials, maximize=True, method="ped_anova", resamples=3)
    assert (found.complete, found.pruned, found.failed, found.used) == (20, 10, 10, 30)
    kept = [trial for trial in trials if trial.state != optuna.trial.TrialState.FAIL]
    again = setting_importance.importance(kept, maximize=True, method="ped_anova", resamples=3)
    pd.testing.assert_frame_equal(found.table, again.table)
    complete = [trial for trial in trials if trial.state == optuna.trial.TrialState.COMPLETE]
    without = setting_importance.importance(complete, maximize=True, method="ped_anova", resamples=3)
    assert not np.allclose(without.table["importance"], found.table["importance"])
    fanova = setting_importance.importance(trials, maximize=True, method="fanova", resamples=2)
    assert fanova.used == 20


def test_importance_of_a_recorded_search(
    studies: Home, script: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert (
        script(setting_importance, "--home", studies.path, "--study", "cycle", "--resamples", "5", "--out", tmp_path)
        == 0
    )
    text = (tmp_path / "importance.md").read_text()
    assert "14 complete, 4 pruned, 2 failed trials; 18 used" in text and "PED-ANOVA" in text
    drawn(tmp_path / "importance.png")
    capsys.readouterr()
    assert script(setting_importance, "--home", studies.path, "--study", "budget") == 2
    assert capsys.readouterr().err.startswith("too few complete trials (6): study budget: ")
    # Unasked, a search that is too short is left out: no error of `make tables`.
    assert script(setting_importance, "--home", studies.path, "--resamples", "2") == 0
    assert "budget" not in "".join(capsys.readouterr())
    assert script(setting_importance, "--home", studies.path, "--study", "cycle", "--resamples", "0") == 2
    assert "no resamples" in capsys.readouterr().err


def test_a_damaged_storage_is_named(tmp_path: Path) -> None:
    database = tmp_path / "studies" / "any" / "optuna.db"
    database.parent.mkdir(parents=True)
    database.write_bytes(b"not a database" * 100)
    with pytest.raises(UserError, match="damaged storage"):
        setting_importance.stored_trials(Home(tmp_path), "any")
    database.unlink()
    storage = optuna.storages.RDBStorage(f"sqlite:///{database}")
    optuna.create_study(study_name="other", storage=storage)
    with pytest.raises(UserError, match="no trials yet"):
        setting_importance.stored_trials(Home(tmp_path), "any")
    assert sqlite3.connect(database).execute("select study_name from studies").fetchall() == [("other",)]


def test_learning_curves_are_medians_and_ranges_of_seeds(script: Callable[..., int], tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    write_design(home, "arms", ["full", "bare"], "full", seeds=(0, 1, 2))
    for seed, top in enumerate((0.8, 0.9, 0.4)):
        write_run(home, "arms", "full", seed, curve=[0.2] * 5 + [top] * 10)
        write_run(home, "arms", "bare", seed, curve=[0.1] * 5 + [0.5] * (10 - seed))
    tidy = collect(home)
    found = bands(series(tidy, study_facts(tidy, "arms"), "dice")).set_index(["series", "epoch"])
    assert found.loc[("full", 7), ["median", "low", "high", "runs"]].tolist() == [0.8, 0.4, 0.9, 3]
    assert found.loc["bare"].index.max() == 13  # the epochs that all seeds have reached
    assert script(curve_panels, "--home", home.path, "--score", "dice", "--out", tmp_path) == 0
    text = (tmp_path / "learning_curves.md").read_text()
    assert "| full | 3 | 5 | 10 | 0.200 | 0.800 | 6 |" in text
    drawn(tmp_path / "learning_curves_dice.png")


def test_learning_curves_of_a_search_show_base_and_best(studies: Home) -> None:
    tidy = collect(studies)
    rows = series(tidy, study_facts(tidy, "cycle"), "dice")
    names = list(dict.fromkeys(rows["series"]))
    assert names[0] == "trial 0 (base)" and len(names) in (5, 6)
    assert set(rows["state"]) == {"COMPLETE"}


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Two arms with attention; the second took its first phase over from the first."""
    home = Home(tmp_path_factory.mktemp("watched") / "home")
    write_design(home, "gates", ["full", "bare", "plain"], "full", seeds=(0,))
    for arm, epochs, slope in (("full", [2, 4, 8, 15], 0.2), ("bare", [8, 15], 0.1), ("plain", [], None)):
        run = write_run(home, "gates", arm, 0, stage_keys={"pretrain": "shared" if arm != "plain" else "other"})
        if slope is None:
            continue
        write_attention(run, epochs)
        for line in run.metrics():
            if line["epoch"] in (2, 4, 8, 15):
                extra = {"val/attention_boundary_share": 0.25 + slope * line["epoch"] / 15}
                run.append_metrics({**line, **extra, "val/attention_boundary_area": 0.25})
                for later in reported(line["epoch"] + 1):
                    run.append_metrics(later)
    return home


def reported(first: int) -> list[dict[str, object]]:
    """Plain reports of the epochs from `first` on: replacing a line drops what follows it."""
    return [
        {"epoch": epoch, "phase": "pretrain" if epoch <= 5 else "adversarial", "lr": 1e-4, "val/dice": 0.5}
        for epoch in range(first, 16)
    ]


def test_attention_maps_and_shares(watched: Home, script: Callable[..., int], tmp_path: Path) -> None:
    assert script(gate_maps, "--home", watched.path, "--out", tmp_path) == 0
    text = (tmp_path / "attention_maps.md").read_text()
    assert "| full | 1 | 0.277 (2) | 0.357 (8) | 0.450 (15) | 0.250 |" in text
    assert "plain" not in text and "even attention" in text.lower()
    assert sorted(path.name for path in tmp_path.glob("*.png")) == [
        "attention_maps_bare.png", "attention_maps_full.png", "attention_maps_share.png",
    ]  # fmt: skip
    for path in tmp_path.glob("*.png"):
        drawn(path)


def test_maps_of_a_shared_first_phase_are_borrowed(watched: Home) -> None:
    tidy = collect(watched)
    runs = tidy.runs()
    borrowed = gate_maps.maps_of(tidy, runs, "gates-bare-s0")
    assert list(borrowed) == [2, 4, 8, 15]
    assert {epoch: path.parents[2].name for epoch, path in borrowed.items()} == {
        2: "gates-full-s0", 4: "gates-full-s0", 8: "gates-bare-s0", 15: "gates-bare-s0",
    }  # fmt: skip
    assert gate_maps.maps_of(tidy, runs, "gates-plain-s0") == {}


def test_bad_attention_is_one_line(
    watched: Home, script: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    common = ("--home", watched.path, "--study", "gates", "--out", tmp_path)
    assert script(gate_maps, *common, "--gate", "1", "--arm", "full") == 0
    for words, message in (
        (("--gate", "3"), "no such gate: --gate 3: "),
        (("--arm", "plain"), "no attention of this arm: --arm plain: recorded: full, bare"),
    ):
        capsys.readouterr()
        assert script(gate_maps, *common, *words) == 2
        assert capsys.readouterr().err.startswith(message)
    path = RunFolder.open(watched.runs, "gates-full-s0").artifacts / "attention" / "epoch_0008.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    assert script(gate_maps, *common) == 2 and "damaged attention maps" in capsys.readouterr().err
    path.write_bytes(whole)


def test_a_study_without_attention_is_nothing_for_the_script(
    script: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    home = Home(tmp_path / "home")
    write_ablation(home, "arms", {"full": 0.7, "bare": 0.6}, "full", seeds=(0,))
    assert script(gate_maps, "--home", home.path) == 0 and "nothing here" in capsys.readouterr().out
    assert script(gate_maps, "--home", home.path, "--study", "arms") == 2
    assert capsys.readouterr().err.startswith("no attention was recorded; train with runtime.attention_every above 0")


def test_runs_of_final_trainings_are_no_part_of_a_study(tmp_path: Path, script: Callable[..., int]) -> None:
    home = Home(tmp_path / "home")
    write_ablation(home, "arms", {"full": 0.7, "bare": 0.6}, "full", seeds=(0, 1))
    write_run(home, "arms", "final", 0, level=0.9, split_id="another", data_fingerprint="another")
    assert study_facts(collect(home), "arms").arms == ("full", "bare")
    assert script(curve_panels, "--home", home.path, "--score", "dice", "--out", tmp_path) == 0
    text = (tmp_path / "learning_curves.md").read_text()
    assert "| final |" not in text and "another" not in text and "4 runs" in text
