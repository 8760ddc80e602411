"""Ablation tables by hand: means, differences, verdicts, cost."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from analysis_cases import run_script, write_ablation, write_design, write_run
from matplotlib.text import Text
from PIL import Image
from table_cases import ONLY_DICE, copy_of, rows_of

from sage_ray.analysis import baselines, components, curve_panels, final_tests, loss_arms, scorings, selection
from sage_ray.analysis.arms import arm_runs, curve_scores, image_scores
from sage_ray.analysis.baselines import fairness, system_name
from sage_ray.analysis.loss_arms import dice_only
from sage_ray.analysis.run_cost import cost_seconds
from sage_ray.analysis.study_facts import StudyFacts, study_facts
from sage_ray.analysis.tables import Provenance, TextTable, escape, interval, latex_of, markdown_of, p_value
from sage_ray.analysis.tidy import collect
from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder
from sage_ray.statistics.combined import t_quantile
from sage_ray.study.design_schema import FINAL_ARM

told = Text.set_text


def test_means_and_differences_by_hand(studies: Home, script: Callable[..., int], tmp_path: Path) -> None:
    assert script(components, "--home", studies.path, "--study", "parts", "--out", tmp_path) == 0
    rows = rows_of((tmp_path / "component_ablation.md").read_text())
    # Image i of a run of level L scores L + .01 i for i = 0..5; seed 1 lies .01 above seed 0: mean L + .025 + .005.
    assert rows["full (reference)"][:2] == ["2", rows["full (reference)"][1]]
    assert rows["full (reference)"][1].startswith("0.780 [")
    assert rows["no_gates"][2].startswith("-0.030") and rows["no_gates"][3] == "-3.8"
    assert rows["no_ema"][2].startswith("+0.030") and rows["no_ema"][5] == "refuted"
    assert rows["perceptual"] == ["-", "not run", "-", "-", "-", "-"]
    text = (tmp_path / "component_ablation.md").read_text()
    assert "perceptual was not run: no VGG19 weights." in text and "PARTIAL" not in text
    numbers = pd.read_csv(tmp_path / "component_ablation.csv", comment="#").set_index(["score", "arm"])
    assert numbers.loc[("dice", "no_gates"), "difference"] == pytest.approx(-0.03)
    assert numbers.loc[("dice", "full"), "mean"] == pytest.approx(0.78)


def test_every_file_carries_what_it_was_made_from(studies: Home, script: Callable[..., int], tmp_path: Path) -> None:
    assert script(components, "--home", studies.path, "--study", "parts", "--out", tmp_path) == 0
    facts = ["Study parts: 6 runs, seeds 0, 1", "371c403c839736f4", "9fe1ad6e31b0c9aa", "c0ffee0000", "--study parts"]
    for ending in ("md", "csv"):
        text = (tmp_path / f"component_ablation.{ending}").read_text()
        assert all(fact in text for fact in facts), ending
    tex = (tmp_path / "component_ablation.tex").read_text()
    assert all(fact in tex for fact in facts)
    with Image.open(tmp_path / "component_ablation.png") as picture:
        assert all(fact in picture.info["Description"] for fact in facts)
        grey = np.asarray(picture.convert("L"))
    assert grey.min() < 60 and grey.max() == 255 and (grey < 128).mean() > 0.002


def test_latex_is_balanced_and_escaped(studies: Home, script: Callable[..., int], tmp_path: Path) -> None:
    assert script(components, "--home", studies.path, "--study", "parts", "--out", tmp_path) == 0
    code = "\n".join(
        line for line in (tmp_path / "component_ablation.tex").read_text().splitlines() if not line.startswith("%")
    )
    bare = re.sub(r"\\[\\&%$#_{}]", "", code)
    assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0
    assert not re.search(r"(?<!\\)[_#%^]", bare.replace("\\_", ""))
    begun, ended = (re.findall(rf"\\{word}{{(\w+)}}", code) for word in ("begin", "end"))
    assert sorted(begun) == sorted(ended) and begun.count("tabular") == 3
    widths = {line.count("&") for line in code.splitlines() if line.endswith(r"\\")}
    assert widths == {6}
    assert escape("a_b & 5 % {x} <y>") == r"a\_b \& 5 \% \{x\} $<$y$>$"
    opened = latex_of([TextTable("t", ["a", "b"], [["[1]", "2"]])], Provenance("s"))
    assert "{[}1] & 2" in opened  # a bracket after a line break would be an option of it


def test_texts_of_numbers() -> None:
    assert interval(0.12345, 0.1, 0.2) == "0.123 [0.100, 0.200]"
    assert interval(-0.5, -0.6, float("nan"), signed=True) == "-0.500" and interval(None, 1, 2) == "-"
    assert (p_value(0.0004), p_value(0.04), p_value(float("nan"))) == ("< .001", "0.040", "-")
    text = markdown_of([TextTable("t", ["a"], [["x|y"]], ["n"], ["gone"])], Provenance("s"))
    assert "x\\|y" in text and "# PARTIAL: t" in text and "- PARTIAL: gone" in text


def test_the_baseline_table_has_all_seven_rows_beside_the_published(
    studies: Home, script: Callable[..., int], tmp_path: Path
) -> None:
    assert script(baselines, "--home", studies.path, "--out", tmp_path) == 0
    text = (tmp_path / "baseline_table.md").read_text()
    dice, objects, cost = rows_of(text), rows_of(text, 1), rows_of(text, 3)
    assert len(dice) == 7 and dice["U-Net"][0] == "0.681" and objects["SAGE-GAN (reference)"][0] == "0.956"
    assert dice["Half U-Net"][:3] == ["0.595", "-", "not in this study"]
    # The curve rises to the level from below, so its best epoch is its last.
    assert dice["U-Net"][1] == "3" and dice["U-Net"][2].startswith("0.68")
    assert dice["U-Net"][5].startswith("-0.0") and dice["U-Net"][7] == "supported"
    assert cost["U-Net"] == ["123,456", "15", "30", "3"]  # 15 epochs of 2 s
    assert "Systems have the epochs of their own phases" in text
    assert "f1_object_50" in text and "CPU seconds" in text and "Smallest true difference" in text
    assert (tmp_path / "baseline_table.png").stat().st_size > 10_000


def test_arms_beside_the_seven_have_their_labels_and_say_whose_budget_they_have() -> None:
    facts = StudyFacts(
        "s",
        "ablation",
        labels={"attention_unet_steps": "Attention U-Net, steps"},
        budgets={
            "attention_unet_steps": {"of": "sage_gan", "in": "steps"},
            "other": {"of": "unet", "in": "gpu_seconds"},
        },
    )
    names = [system_name(arm, facts) for arm in ("unet", "attention_unet_steps", "other")]
    assert names == ["U-Net", "Attention U-Net, steps", "other"]
    steps, seconds, others = fairness(facts)
    assert steps.startswith("Attention U-Net, steps has the steps (") and steps.endswith(" of SAGE-GAN.")
    assert seconds == "other has the GPU-seconds (on a CPU, seconds) of U-Net."
    assert others.startswith("All other systems have the epochs of their own phases")


@pytest.mark.parametrize("module", [components, selection, curve_panels, loss_arms, scorings])
def test_labels_of_arms_stand_in_every_table_and_names_in_the_numbers(
    module: Any, script: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path / "home")
    scored = module is scorings
    other = {"evaluation.min_object_pixels": 9} if scored else ONLY_DICE
    write_design(
        home, "named", ["ref", "dice_x", "off"], "ref", not_run={"off": "no time"}, seeds=(0, 1),
        labels={"ref": "The whole method", "dice_x": "Dice alone", "off": "Never run"},
    )  # fmt: skip
    for arm, level in (("ref", 0.75), ("dice_x", 0.72)):
        for seed in (0, 1):
            write_run(home, "named", arm, seed, level=level + 0.01 * seed, values=other if arm == "dice_x" else {})
    drawn: list[str] = []
    monkeypatch.setattr(Text, "set_text", lambda self, text: drawn.append(str(text)) or told(self, text))
    assert script(module, "--home", home.path, "--study", "named", "--out", tmp_path / "out") == 0
    (page,) = (tmp_path / "out").glob("*.md")
    text = page.read_text()
    assert "The whole method" in text and "Dice alone" in text and "dice_x" not in text.split("Study", 1)[0]
    assert not re.search(r"\bref\b", text) and "dice_x" not in text
    assert "Never run was not run" in text or module in (selection, curve_panels)
    assert any("Dice alone" in shown for shown in drawn) and not any("dice_x" in shown for shown in drawn)
    table = pd.read_csv(next((tmp_path / "out").glob("*.csv")), comment="#")
    named = table["arm"] if "arm" in table else table["series"]
    assert set(named) == {"ref", "dice_x"}
    if module in (components, loss_arms):
        assert dict(zip(named, table["label"], strict=True)) == {"ref": "The whole method", "dice_x": "Dice alone"}


def test_the_loss_table_shows_the_claim_beside_ours(studies: Home, script: Callable[..., int], tmp_path: Path) -> None:
    assert script(loss_arms, "--home", studies.path, "--out", tmp_path) == 0
    text = (tmp_path / "loss_ablation.md").read_text()
    claims, dice = rows_of(text), rows_of(text, 1)
    assert claims["Dice"][0] == "+4.25 %" and claims["object F1 (IoU > .5)"][0] == "+11.68 %"
    gain = 100 * 0.05 / 0.725
    assert float(claims["Dice"][3].split(" ")[0]) == pytest.approx(gain, abs=0.5)
    assert dice["dice"][0] == "dice 1" and dice["ce"][0] == "ce 1"
    assert dice["hybrid (reference)"][0] == "ce 1, focal_tversky 1"
    tidy = collect(studies)
    assert dice_only(tidy, study_facts(tidy, "losses")) == "dice"
    assert loss_arms.applies(tidy, study_facts(tidy, "parts")) is not None


def test_without_a_study_each_script_takes_its_own(
    studies: Home, script: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    written = {}
    for module in (baselines, loss_arms, components, scorings):
        assert script(module, "--home", studies.path) == 0
        out = capsys.readouterr().out
        written[module.__name__] = {Path(line).parent.name for line in out.splitlines() if line.endswith(".md")}
    assert list(written.values()) == [{"systems"}, {"losses"}, {"parts"}, set()]
    assert "nothing here for this script" in out
    assert script(baselines, "--home", studies.path, "--study", "parts") == 2
    assert "fewer than two arms are systems" in capsys.readouterr().err


def test_folds_pair_by_seed_and_fold(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    write_design(home, "folded", ["full", "bare"], "full", seeds=(0,))
    for arm, level in (("full", 0.7), ("bare", 0.6)):
        for fold in (0, 1):
            write_run(home, "folded", arm, 0, level=level + 0.02 * fold, fold=fold, split_id=f"split{fold}")
    tidy = collect(home)
    runs = arm_runs(tidy, study_facts(tidy, "folded"))
    assert runs.units == ("seed 0, fold 0", "seed 0, fold 1") and runs.has_folds
    tested = image_scores(tidy, runs, "test", "dice")
    assert tested.per_image and len(tested.frame) == 2 * 2 * 6
    # Folds have validation images of their own: what pairs there is the mean of a run.
    validated = image_scores(tidy, runs, "val", "dice")
    assert not validated.per_image and validated.frame["value"].round(4).tolist() == [0.725, 0.745, 0.625, 0.645]
    assert curve_scores(tidy, runs, "dice")["best"].frame["arm"].tolist() == ["full", "full", "bare", "bare"]


def test_main_effects_of_a_crossed_design(script: Callable[..., int], tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    write_design(home, "crossed", ["on-on", "off-on", "on-off", "off-off"], "on-on", seeds=(0, 1, 2))
    meta = home.studies / "crossed" / "study.json"
    text = meta.read_text().replace('"design": "arms"', '"design": "factorial"')
    for gates in ("on", "off"):
        for cycle in ("on", "off"):
            name, levels = f'"{gates}-{cycle}"', f'{{"gates": "{gates}", "cycle": "{cycle}"}}'
            text = re.sub(rf'("name": {name},\s*"not_run": null,\s*"levels": ){{}}', rf"\1{levels}", text)
            level = 0.7 - 0.04 * (gates == "off") - 0.10 * (cycle == "off")
            for seed in (0, 1, 2):
                write_run(home, "crossed", name.strip('"'), seed, level=level, noise=0.002)
    meta.write_text(text)
    assert script(components, "--home", home.path, "--score", "dice", "--out", tmp_path) == 0
    effects = rows_of((tmp_path / "component_ablation.md").read_text())
    assert effects["gates: off instead of on"][1].startswith("-0.04")
    assert effects["cycle: off instead of on"][1].startswith("-0.10")
    assert effects["cycle: off instead of on"][4] == "supported"


def test_the_audit_of_recorded_runs_by_hand(script: Callable[..., int], tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    write_design(home, "audit", ["full", "bare"], "full", seeds=(0, 1))
    # Phase 1: five epochs, plateau the last one; phase 2: ten, plateau the median of the last two.
    first = [0.1, 0.2, 0.5, 0.3, 0.4]
    for arm, top in (("full", 0.9), ("bare", 0.8)):
        for seed in (0, 1):
            curve = [*first, *[0.5] * 7, top, 0.6, 0.7 + 0.02 * seed]
            write_run(home, "audit", arm, seed, level=0.6, curve=curve)
    assert script(selection, "--home", home.path, "--score", "dice", "--out", tmp_path) == 0
    rows = rows_of((tmp_path / "selection_audit.md").read_text())
    assert rows["pretrain: all runs"][:4] == ["4", "0.500", "0.400", "+0.100 [+0.100, +0.100]"]
    assert rows["adversarial: full"][:3] == ["2", "0.900", "0.655"] and rows["adversarial: full"][4] == "0.625"
    # Flattery of seeds .25 and .24: mean .245, t interval of two values: +- 12.706 x .01/2.
    assert rows["adversarial: full"][3] == "+0.245 [+0.181, +0.309]"


def test_a_script_runs_as_a_command_and_its_errors_are_one_line(studies: Home, tmp_path: Path) -> None:
    done = run_script("component_ablation", "--home", studies.path, "--study", "parts", "--out", tmp_path)
    assert done.returncode == 0 and str(tmp_path / "component_ablation.md") in done.stdout and not done.stderr
    done = run_script("component_ablation", "--home", tmp_path / "none")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stderr.startswith("no such home: ")


def test_a_shared_phase_is_audited_once(script: Callable[..., int], home: Home, tmp_path: Path) -> None:
    write_design(home, "shared", ["full", "plain"], "full")
    for seed in (0, 1):
        both = {"pretrain": f"p{seed}"}
        write_run(home, "shared", "full", seed, stage_keys=both | {"adversarial": f"f{seed}"})
        write_run(home, "shared", "plain", seed, stage_keys=both | {"adversarial": f"n{seed}"})
    assert script(selection, "--home", home.path, "--score", "dice", "--out", tmp_path) == 0
    rows = rows_of((tmp_path / "selection_audit.md").read_text())
    assert rows["pretrain: all runs"][0] == "2" and not {"pretrain: full", "pretrain: plain"} & set(rows)
    assert rows["adversarial: all runs"][0] == "4" and rows["adversarial: plain"][0] == "2"


def make_crops(home: Home, study: str, size: int) -> None:
    """Write micrographs into a study's scores: image k of a part is a crop of micrograph k // size."""
    for path in sorted(home.runs.glob(f"{study}-*")):
        run = RunFolder(path)
        rows = run.per_image()
        run.write_per_image({**row, "group": f"m{int(row['image_sha'][1:], 16) // size}"} for row in rows)


def test_tables_of_crops_speak_of_micrographs(studies: Home, script: Callable[..., int], tmp_path: Path) -> None:
    plain, home = tmp_path / "plain", copy_of(studies, tmp_path / "home")
    make_crops(home, "parts", 2)
    for place, folder in ((studies, plain), (home, tmp_path)):
        folder.mkdir(exist_ok=True)
        assert script(components, "--home", place.path, "--study", "parts", "--out", folder) == 0
    text = (tmp_path / "component_ablation.md").read_text()
    assert "new micrographs from the source of these 3 micrographs (6 images)" in text
    assert "2 seeds and 3 micrographs (6 images) find" in text
    before, after = rows_of((plain / "component_ablation.md").read_text()), rows_of(text)
    # Means over images stay; three micrographs say less than six images.
    assert before["no_gates"][1].split(" [")[0] == after["no_gates"][1].split(" [")[0]
    assert before["full (reference)"][1] != after["full (reference)"][1]


def test_main_effects_of_crops(script: Callable[..., int], tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    levels = {"both": 0.8, "left": 0.75, "right": 0.7, "none": 0.6}
    write_ablation(home, "grid", levels, "both")
    meta = home.studies / "grid" / "study.json"
    facts = json.loads(meta.read_text())
    for arm in facts["arms"]:
        arm["levels"] = {"a": str(arm["name"] in ("both", "left")), "b": str(arm["name"] in ("both", "right"))}
    meta.write_text(json.dumps(facts | {"design": "factorial"}))
    make_crops(home, "grid", 2)
    assert script(components, "--home", home.path, "--study", "grid", "--out", tmp_path) == 0
    effects = rows_of((tmp_path / "component_ablation.md").read_text())
    assert len(effects) == 2


def test_what_made_extra_pairs_is_part_of_what_a_run_cost(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    write_design(home, "pairs", ["plain", "generated"], "plain", seeds=[0])
    write_run(home, "pairs", "plain", 0)
    made = {"source": "preset:tiny_sage_gan", "key": "aa", "lineage": "known", "seconds": 12.5, "spent_seconds": 0.0}
    write_run(home, "pairs", "generated", 0, extra_pairs=made)
    tidy = collect(home)
    cost = cost_seconds(tidy, study_facts(tidy, "pairs"))
    assert cost.to_dict() == {"pairs-plain-s0": 30.0, "pairs-generated-s0": 42.5}  # 15 epochs of 2 s


def test_a_final_training_has_a_locked_test_table_of_its_seeds(
    script: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Home(tmp_path / "home")
    write_ablation(home, "untested", {"one": 0.7, "two": 0.6}, "one", seeds=(0,))
    write_design(home, "parts", ["full", "less"], "full", seeds=(0,))
    for arm in ("full", "less"):
        write_run(home, "parts", arm, 0)
    for seed, level in ((0, 0.70), (1, 0.76)):
        write_run(home, "parts", FINAL_ARM, seed, level=level, parent="final-parts-x")
    assert script(final_tests, "--home", home.path, "--out", tmp_path / "out") == 0
    text = (tmp_path / "out" / "final_scores.md").read_text()
    rows = rows_of(text)
    assert "# Locked test of final-parts-x" in text and list(rows) == ["seed 0", "seed 1", "all seeds"]
    # Image i scores level + .01 i, six images: means .725 and .785, over both .755.
    assert [rows[name][0].split(" ")[0] for name in rows] == ["0.725", "0.785", "0.755"]
    half = t_quantile(5, 0.95) * np.std(0.01 * np.arange(6), ddof=1) / math.sqrt(6)
    assert rows["seed 0"][0] == f"0.725 [{0.725 - half:.3f}, {0.725 + half:.3f}]" and "[" in rows["all seeds"][0]
    assert "[" not in rows["seed 0"][2], "a pooled score has no interval over images"
    assert f"Dice {np.std([0.725, 0.785], ddof=1):.3f}" in text and "seeds 0, 1" in text
    table = pd.read_csv(tmp_path / "out" / "final_scores.csv", comment="#", dtype={"seed": str})
    assert set(table["seed"]) == {"0", "1", "all"} and set(table["final"]) == {"final-parts-x"}
    assert script(final_tests, "--home", home.path, "--study", "untested") == 2
    assert "no final training of it was scored" in capsys.readouterr().err


def test_final_trainings_from_a_config_have_that_table_too(
    script: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Home(tmp_path / "home")
    for final_id, level in (("final-config-a", 0.70), ("final-config-b", 0.60)):
        for seed in (0, 1):
            write_run(home, None, FINAL_ARM, seed, level=level, parent=final_id)
    write_run(home, None, FINAL_ARM, 0, test=False, parent="final-unread")
    assert script(final_tests, "--home", home.path) == 0
    said = capsys.readouterr().out
    for final_id, mean in (("final-config-a", "0.725"), ("final-config-b", "0.625")):
        text = (home.path / "tables" / final_id / "final_scores.md").read_text()
        assert f"# Locked test of {final_id}" in text and f"Final training {final_id}: 2 runs, seeds 0, 1" in text
        assert rows_of(text)["seed 0"][0].startswith(mean) and final_id in said
    assert not (home.path / "tables" / "final-unread").exists()

    write_ablation(home, "parts", {"one": 0.7, "two": 0.6}, "one", seeds=(0,))
    write_run(home, "parts", FINAL_ARM, 0, parent="final-parts-x")
    out = tmp_path / "out"
    assert script(final_tests, "--home", home.path, "--final", "final-config-b", "--out", out) == 0
    assert "final-config-b" in (out / "final_scores.md").read_text() and "parts" not in capsys.readouterr().out
    assert script(final_tests, "--home", home.path, "--study", "parts", "--out", out) == 0
    assert "Study parts: 1 runs" in (out / "final_scores.md").read_text()
    assert script(final_tests, "--home", home.path, "--final", "final-config-c") == 2
    assert "did you mean final-config-" in capsys.readouterr().err
