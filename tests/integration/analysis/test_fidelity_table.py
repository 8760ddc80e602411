"""cycle_fidelity: means, differences and verdicts of generated images by hand; what lacks is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from analysis_cases import write_ablation

from sage_ray.analysis import components, fidelity_table
from sage_ray.files import write_json
from sage_ray.metrics.definitions import SET_SUMMARIES
from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder

LEVELS = {"full": 0.8, "no_cycle": 0.5}
JUDGE = "judge unet, weights 0123456789abcdef, truth as given, at 64x64 pixels"


def write_generated(
    run: RunFolder, level: float, judge: str = JUDGE, *, collusion: bool = True, paired: bool = True
) -> None:
    """Rows of part `generated`: fidelity of mask i is level + .01 i; and the distances of the sets."""
    scores = {"fidelity": level, "ceiling": 0.9, "null": 0.1} | ({"collusion": 1 - level} if collusion else {})
    rows = [
        {
            "part": "generated", "checkpoint": "best", "image_sha": f"{n:064x}", "group": None, "score": name,
            "definition": f"{name} of {judge}", "value": value + 0.01 * n,
        }
        for name, value in scores.items()
        for n in range(6)
    ]  # fmt: skip
    if paired:
        run.write_per_image(rows)
    (run.artifacts / "fidelity").mkdir(exist_ok=True)
    mmd = {"value": 1 - level, "low": 0.9 - level, "high": 1.1 - level, "p_value": 0.01 if level < 0.7 else 0.4}
    distances = {
        "features": "features of the judge", "mmd": mmd, "real_halves": {"value": 0.01},
        "frechet": {"generated": 3.0, "real": 2.0, "generated_published": 9.0, "real_published": 8.0},
        "summaries": dict.fromkeys(SET_SUMMARIES, 4.0), "summaries_of_halves": dict.fromkeys(SET_SUMMARIES, 1.5),
    }  # fmt: skip
    line = {"mean": level, "low": level - 0.1, "high": level + 0.1, "definition": "of made pairs"}
    told = {"distances": distances, "paired": paired, "images": 6, "judge": {"text": judge}}
    told |= {"scores": {"fidelity": line, "null": line}, "judge_on_real": {**line, "mean": 0.925}}
    write_json(run.artifacts / "fidelity" / "fidelity.json", told)


@pytest.fixture
def scored(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    write_ablation(home, "gans", LEVELS, "full")
    for run_id in home.run_ids():
        arm = run_id.split("-")[1]
        write_generated(RunFolder.open(home.runs, run_id), LEVELS[arm])
    return home


def test_arms_are_compared_on_generated_images(scored: Home, script: Callable[..., int]) -> None:
    assert script(fidelity_table, "--home", scored.path) == 0
    frame = pd.read_csv(scored.path / "tables" / "gans" / "cycle_fidelity.csv", comment="#").set_index(["score", "arm"])
    assert frame.loc[("fidelity", "full"), "mean"] == pytest.approx(0.825)
    assert frame.loc[("fidelity", "no_cycle"), "difference"] == pytest.approx(-0.3)
    assert frame.loc[("collusion", "no_cycle"), "difference"] == pytest.approx(0.3)
    assert frame.loc[("fidelity", "no_cycle"), "mmd"] == pytest.approx(0.5)
    text = (scored.path / "tables" / "gans" / "cycle_fidelity.md").read_text()
    assert "3 of 3" in text and "0 of 3" in text and JUDGE in text and "supported" in text


def test_other_tables_take_the_part_too(scored: Home, script: Callable[..., int]) -> None:
    words = ("--study", "gans", "--part", "generated", "--score", "fidelity")
    assert script(components, "--home", scored.path, *words) == 0
    assert "cycle fidelity" in (scored.path / "tables" / "gans" / "component_ablation.md").read_text()


def test_systems_without_a_segmenter_and_made_pairs_stand_in_the_tables_of_all_arms(
    tmp_path: Path, script: Callable[..., int]
) -> None:
    home = Home(tmp_path / "home")
    gan = {"adversarial.system": "gan", "pretrain.epochs": 0, "adversarial.freeze_epochs": 0}
    gan |= {"adversarial.perceptual": "none", "evaluation.select": "last", "evaluation.metric": "val/loss"}
    rendered = {"adversarial.epochs": 0, "render.train_on_pairs": True}
    values = {"gan": gan, "rendered": rendered, "real": {"adversarial.epochs": 0}}
    levels = {"full": 0.8, "no_cycle": 0.5, "gan": 0.3, "rendered": 0.6, "real": 0.7}
    write_ablation(home, "family", levels, "full", values=values)
    for run_id in home.run_ids():
        arm = run_id.split("-")[1]
        if arm != "real":
            write_generated(
                RunFolder.open(home.runs, run_id), levels[arm], collusion=arm != "gan", paired=arm != "rendered"
            )
    assert script(fidelity_table, "--home", home.path) == 0
    text = (home.path / "tables" / "family" / "cycle_fidelity.md").read_text()
    masks, sets, fidelity = text.split("\n## ")[0], text.split("\n## ")[1], text.split("\n## ")[2]
    lines = {
        line.split(" | ")[0].strip("| "): line.split(" | ") for line in masks.splitlines() if line.startswith("| ")
    }
    assert set(lines) == {"arm", "---", "full", "no_cycle", "gan", "rendered"}
    assert lines["gan"][6].startswith("-") and lines["full"][6].startswith("0.225")
    # Three equal runs with images of their own error: the interval is not made smaller by more runs.
    assert lines["rendered"][3] == "0.600 [0.500, 0.700]" and lines["rendered"][4] == "(0.925)"
    assert "| gan | 3 | 0.7 [0.6, 0.8] | 3 of 3 (0.010) | 0.01 |" in sets and "4.000 (1.500)" in sets
    assert text.count("verdict |") == 2 and "ceiling of fidelity" not in text  # no arm is better by its ceiling
    assert "| gan " in fidelity and "| rendered " not in fidelity and "left out, as it has no real images" in fidelity
    assert "left out, as it has neither a generator nor made pairs: real" in fidelity
    frame = pd.read_csv(home.path / "tables" / "family" / "cycle_fidelity.csv", comment="#")
    assert set(frame[frame["score"] == "collusion"]["arm"]) == {"full", "no_cycle"}
    own = frame.set_index(["score", "arm"]).loc[("fidelity", "rendered")]
    assert own["mean"] == pytest.approx(0.6) and own["mmd_low"] == pytest.approx(0.3) and own["set_inside"] == 4


def test_a_study_of_made_pairs_alone_has_tables_without_a_comparison(
    tmp_path: Path, script: Callable[..., int]
) -> None:
    home = Home(tmp_path / "home")
    made = {"adversarial.epochs": 0, "data.extra_pairs": "synthetic://ordered?num=8", "pretrain.synthetic_share": 1.0}
    values = {"drawn": made, "real": {"adversarial.epochs": 0}}
    write_ablation(home, "pairs", {"real": 0.7, "drawn": 0.6}, "real", values=values)
    write_generated(RunFolder.open(home.runs, "pairs-drawn-s0"), 0.6, paired=False)
    assert script(fidelity_table, "--home", home.path) == 0
    text = (home.path / "tables" / "pairs" / "cycle_fidelity.md").read_text()
    assert "PARTIAL: drawn: 1 of 3 finished runs were scored" in text and "(reference)" not in text


def test_a_score_that_an_arm_lacks_is_compared_over_the_others(scored: Home, script: Callable[..., int]) -> None:
    write_generated(RunFolder.open(scored.runs, "gans-no_cycle-s0"), 0.5, collusion=False)
    run = RunFolder.open(scored.runs, "gans-no_cycle-s0")
    assert "collusion" not in {row["score"] for row in run.per_image() if row["part"] == "generated"}
    assert script(fidelity_table, "--home", scored.path) == 0
    frame = pd.read_csv(scored.path / "tables/gans/cycle_fidelity.csv", comment="#")
    assert set(frame[frame["score"] == "collusion"]["arm"]) == {"full"}


def test_runs_that_were_not_scored_or_judged_otherwise_are_refused(
    scored: Home, script: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    write_generated(RunFolder.open(scored.runs, "gans-full-s1"), 0.8, judge=f"another {JUDGE}")
    assert script(fidelity_table, "--home", scored.path, "--study", "gans") == 2
    assert "definition" in capsys.readouterr().err
    home = Home(scored.path.parent / "other")
    write_ablation(home, "gans", LEVELS, "full")
    assert script(fidelity_table, "--home", home.path, "--study", "gans") == 2
    assert "no generated images were scored" in capsys.readouterr().err
    write_generated(RunFolder.open(home.runs, "gans-full-s0"), 0.8)
    assert script(fidelity_table, "--home", home.path, "--study", "gans") == 2
    assert "sage-ray fidelity gans-full-s1" in capsys.readouterr().err
