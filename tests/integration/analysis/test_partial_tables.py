"""Tables of studies with gaps: what is missing is named, what does not fit together is refused in one line."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from analysis_cases import write_ablation, write_design
from PIL import Image
from table_cases import SYSTEMS, copy_of, rows_of

from sage_ray.analysis import baselines, components, curve_panels, scorings, selection
from sage_ray.analysis.arms import arm_runs, curve_scores
from sage_ray.analysis.study_facts import study_facts
from sage_ray.analysis.tidy import collect
from sage_ray.errors import UserError
from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder


def test_a_missing_seed_makes_a_partial_table_over_the_common_ones(
    studies: Home, script: Callable[..., int], tmp_path: Path
) -> None:
    home = copy_of(studies, tmp_path / "home")
    RunFolder.open(home.runs, "systems-unet-s2").set_state("FAIL", error="diverged: non-finite loss")
    shutil.rmtree(home.runs / "systems-attention_unet-s1")
    assert script(baselines, "--home", home.path, "--out", tmp_path / "out") == 0
    text = (tmp_path / "out" / "baseline_table.md").read_text()
    assert text.startswith("# PARTIAL: ")
    assert "PARTIAL: unet: seed 2 FAIL (diverged: non-finite loss)" in text
    assert "PARTIAL: attention_unet: seed 1 not started" in text
    assert "all arms are compared over what they have in common: seed 0" in text
    assert rows_of(text)["U-Net"][1] == "1" and "Study systems: 3 runs, seeds 0" in text
    assert "PARTIAL" in (tmp_path / "out" / "baseline_table.csv").read_text()
    for module in (components, curve_panels, selection):
        assert script(module, "--home", home.path, "--study", "systems", "--out", tmp_path / "out") == 0
    pictures = sorted((tmp_path / "out").glob("*.png"))
    assert len(pictures) >= 4
    for picture in pictures:
        with Image.open(picture) as opened:
            said = opened.text["Description"]  # type: ignore[attr-defined]
        assert "PARTIAL: unet: seed 2 FAIL" in said and "seed 1 not started" in said, picture
    # One of the two arms that lack a seed less, and the others have two seeds in common.
    assert script(baselines, "--home", home.path, "--out", tmp_path / "out", "--without", "unet") == 0
    text = (tmp_path / "out" / "baseline_table.md").read_text()
    assert rows_of(text)["Attention U-Net"][1] == "2" and "left out on request: unet" in text
    assert script(baselines, "--home", home.path, "--study", "systems", "--without", "vnet") == 2


def test_one_seed_has_point_estimates_and_no_verdict(studies: Home, script: Callable[..., int], tmp_path: Path) -> None:
    home = copy_of(studies, tmp_path / "home")
    for arm in SYSTEMS:
        for seed in (1, 2):
            shutil.rmtree(home.runs / f"systems-{arm}-s{seed}")
    shutil.rmtree(home.studies / "systems")
    write_design(home, "systems", list(SYSTEMS), "sage_gan", seeds=(0,))
    assert script(components, "--home", home.path, "--study", "systems", "--out", tmp_path / "out") == 0
    text = (tmp_path / "out" / "component_ablation.md").read_text()
    row = rows_of(text)["unet"]
    assert row[0] == "1" and re.fullmatch(r"0\.\d{3}", row[1]) and re.fullmatch(r"-0\.\d{3}", row[2])
    assert row[4:] == ["-", "undecided"] and "one seed" in text and "PARTIAL" not in text


def test_arms_with_other_definitions_are_refused_and_shown_side_by_side_elsewhere(
    script: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Home(tmp_path / "home")
    values = {"truth": {}, "eroded": {"data.mask_erosion": 2}}
    write_ablation(home, "ways", {"truth": 0.7, "eroded": 0.8}, "truth", values=values)
    assert script(components, "--home", home.path, "--study", "ways") == 2
    assert "mixed definitions of dice: study ways, test: " in capsys.readouterr().err
    assert script(selection, "--home", home.path, "--study", "ways") == 2
    assert "definitions of their own by data.mask_erosion" in capsys.readouterr().err
    assert script(components, "--home", home.path) == 0 and "nothing here" in capsys.readouterr().out
    assert script(scorings, "--home", home.path, "--out", tmp_path / "out") == 0
    text = (tmp_path / "out" / "evaluation_ablation.md").read_text()
    rows = rows_of(text)
    assert [cell[:4] for cell in rows["Dice, kept weights (test)"]] == ["0.72", "0.82"]
    assert "truth eroded by 2x2 pixels" in text and "must not be subtracted" in text


Damage = Callable[[Home], None]


def without(name: str) -> Damage:
    return lambda home: (home.runs / "parts-full-s0" / name).unlink()


def changed(**fields: str) -> Damage:
    def damage(home: Home) -> None:
        RunFolder.open(home.runs, "parts-no_gates-s0").update(**fields)

    return damage


def unfinished(home: Home) -> None:
    for run_id in home.run_ids():
        if run_id.startswith("parts-"):
            RunFolder.open(home.runs, run_id).set_state("RUNNING")


def disjoint(home: Home) -> None:
    shutil.rmtree(home.runs / "parts-full-s0")
    for arm in ("no_gates", "no_ema"):
        shutil.rmtree(home.runs / f"parts-{arm}-s1")


def other_images(home: Home) -> None:
    run = RunFolder.open(home.runs, "parts-no_ema-s1")
    rows = run.per_image()
    run.write_per_image([{**row, "image_sha": "9" + row["image_sha"][1:]} for row in rows])


def headless(home: Home) -> None:
    for name in ("study.json", "design.yaml"):
        (home.studies / "parts" / name).unlink()


@pytest.mark.parametrize(
    ("damage", "words", "message"),
    [
        (unfinished, (), r"study has no finished run \(6 RUNNING\): study parts: "),
        (
            without("per_image.parquet"),
            (),
            "per_image.parquet of a finished run is gone or damaged: run parts-full-s0: ",
        ),
        (without("metrics.jsonl"), (), "metrics.jsonl of a finished run is gone or damaged: run parts-full-s0: "),
        (changed(data_fingerprint="ffff"), (), "mixed data sets: study parts: 371c403c839736f4, ffff: "),
        (changed(split_id="ffff"), (), "mixed splits: study parts: 9fe1ad6e31b0c9aa, ffff: "),
        (disjoint, (), "arms share no seed: parts "),
        (other_images, (), "runs were scored on different images: study parts, test: "),
        (headless, (), "study has no reference arm: parts: name one with --reference: "),
        (lambda home: None, ("--reference", "gates"), "unknown reference arm: gates of study parts: "),
        (lambda home: None, ("--without", "gates"), "no such arm: --without gates: study parts has full, "),
        (lambda home: None, ("--score", "loss"), "validation loss is not stored on test images: run parts-"),
        (lambda home: None, ("--level", "2"), "bad command line: "),
        (lambda home: None, ("--study", "partz"), "no run of such a study: partz in .*did you mean parts"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    studies: Home,
    script: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Damage,
    words: tuple[str, ...],
    message: str,
) -> None:
    home = copy_of(studies, tmp_path / "home")
    common = ("--home", home.path, "--study", "parts")
    assert script(components, *common, "--score", "dice") == 0  # the good twin
    capsys.readouterr()
    damage(home)
    assert script(components, *common, *words) == 2
    err = capsys.readouterr().err
    assert re.match(message, err) and err.count("\n") == 1


def test_unread_test_part_falls_back_to_validation_and_says_so(
    script: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Home(tmp_path / "home")
    write_ablation(home, "parts", {"full": 0.7, "bare": 0.6}, "full", seeds=(0, 1), test=False)
    assert script(components, "--home", home.path, "--out", tmp_path) == 0
    text = (tmp_path / "component_ablation.md").read_text()
    assert "val [95 %]" in text and "locked test part was not read by 4 of 4 runs" in text
    capsys.readouterr()
    assert script(components, "--home", home.path, "--study", "parts", "--part", "test") == 2
    assert "run was not scored on the locked test part" in capsys.readouterr().err


def test_a_metric_that_was_not_recorded_is_named(studies: Home, tmp_path: Path) -> None:
    home = copy_of(studies, tmp_path / "home")
    path = home.runs / "parts-full-s0" / "metrics.jsonl"
    path.write_text(path.read_text().replace("val/boundary_f1", "val/other"))
    tidy = collect(home)
    runs = arm_runs(tidy, study_facts(tidy, "parts"))
    with pytest.raises(UserError, match="no curve of boundary F1: run parts-full-s0"):
        curve_scores(tidy, runs, "boundary_f1")
    assert len(curve_scores(tidy, runs, "dice")["best"].frame) == 6


def test_one_test_image_is_tabulated_over_seeds_alone(script: Callable[..., int], tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    write_ablation(home, "single", {"full": 0.8, "bare": 0.6}, "full", images=1)
    assert script(components, "--home", home.path, "--study", "single", "--out", tmp_path) == 0
    text = (tmp_path / "component_ablation.md").read_text()
    assert "this one image and further training runs" in text
    assert "One image only: nothing can be said of new images, and intervals are over seeds alone." in text
    assert rows_of(text)["bare"][2].startswith("-0.2")
