"""What a first reader asked of the page of a search: each question has its sentence, from what the runs recorded."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from report_cases import finally_trained, searched

from sage_ray.config import dump
from sage_ray.data.prepare import PreparedData, prepare
from sage_ray.data.synth import write_dataset
from sage_ray.evaluation import ledger
from sage_ray.evaluation.score_tables import long_rows
from sage_ray.figures import tested_finals as finals
from sage_ray.metrics.definitions import COUNTS, IMAGE_SCORES
from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder
from sage_ray.registry.final_plan import is_base, plan_path
from sage_ray.reports.study_reports import report
from sage_ray.training.scoring import per_image_rows, score_definitions


def with_images(home: Home, folder: Path) -> PreparedData:
    """Say of all runs of a recorded search that they were trained on a folder of drawn particles, which is written."""
    write_dataset(folder, num=24, size=64, seed=0)
    run = RunFolder(home.runs / "fifty-t0000-s0")
    config = run.config().with_values({"data.path": str(folder)})
    (run.path / "config.yaml").write_text(dump(config))
    data = prepare(config.data, home.cache)
    for run_id in home.run_ids():
        RunFolder(home.runs / run_id).update(data_fingerprint=data.fingerprint, split_id=data.split.split_id)
    names = [name for name in score_definitions(config) if not name.startswith("particles")]
    shas = [data.shas[row] for row in data.split.validation]
    dark = [_is_dark(data, int(row)) for row in data.split.validation]
    assert any(dark) and not all(dark), "both kinds are among the drawn validation images"
    rows = [dict.fromkeys(names, 0.4 + 0.01 * k if each else 0.9) for k, each in enumerate(dark)]
    run.per_image_path.unlink()
    run.write_per_image(per_image_rows(rows, shas, config, part="val", checkpoint="best"))
    return data


def _is_dark(data: PreparedData, row: int) -> bool:
    image, mask = data.images[row], data.masks[row] > 0
    return bool(image[mask].mean() < image[~mask].mean())


def scored_on(home: Home, data: PreparedData, final: str, level: float) -> None:
    """Give the runs of a final training scores of the images of the locked test of the data."""
    shas = [data.shas[row] for row in data.split.test]
    for run_id in [run_id for run_id in home.run_ids() if run_id.startswith(final)]:
        run = RunFolder(home.runs / run_id)
        rows = [
            {name: level + 0.01 * place for name in IMAGE_SCORES} | dict.fromkeys(COUNTS, 10.0)
            for place in range(len(shas))
        ]
        run.per_image_path.unlink()
        run.write_per_image(long_rows(rows, shas, score_definitions(run.config()), "last"))


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, PreparedData, Path]:
    folder = tmp_path_factory.mktemp("reader")
    home = Home(folder / "home")
    searched(home, 8, {"base": (0.800, 0.802), "1": (0.812, 0.815)})
    data = with_images(home, folder / "particles")
    scored_on(home, data, "final-fifty-base", 0.7)
    scored_on(home, data, "final-fifty-1", 0.7001)
    return home, data, folder / "particles"


def test_the_page_says_whose_images_each_score_is_of(told: tuple[Home, PreparedData, Path]) -> None:
    home, data, _ = told
    text = report("fifty", home).markdown.read_text()
    count = len(data.split.validation)
    tests = len(data.split.test)
    said = f"scored its runs on {count} validation images; the locked test has {tests} others"
    assert said in text and "Do not subtract one score from the other" in text
    values = {row["image_sha"]: row["value"] for row in RunFolder(home.runs / "fifty-t0000-s0").per_image()}
    worst = min((sha for sha in values if sha in data.shas), key=lambda sha: values[sha])
    name = data.stems[data.shas.index(worst)]
    assert f"the lowest is `{name}` with Dice 0.4" in text
    assert re.search(r"where particles are darker than the ground around them \(\d validation images?\) the mean", text)
    easiest = data.stems[int(data.split.test[-1])]
    digits = f"{0.7 + 0.01 * (tests - 1):.4f} | {0.7001 + 0.01 * (tests - 1):.4f} | +0.0001 |"
    assert f"| `{easiest}` | {digits}" in text, "image by image, with digits in which the two differ"
    assert "**What such a test can find.**" not in text, "scores that differ by the same on all images have no spread"


def test_a_page_that_lacked_its_images_is_made_anew_when_they_are_back(told: tuple[Home, PreparedData, Path]) -> None:
    home, data, folder = told
    away = folder.with_name("away")
    folder.rename(away)
    without = report("fifty", home)
    before = without.html.read_bytes()
    assert without.is_new and "Not drawn: the worst, median and best image" in without.markdown.read_text()
    assert f"`{data.stems[int(data.split.test[0])]}`" not in without.markdown.read_text()
    assert not report("fifty", home).is_new, "as long as they are away"
    away.rename(folder)
    again = report("fifty", home)
    assert again.html != without.html and without.html.read_bytes() == before
    assert f"`{data.stems[int(data.split.test[0])]}`" in again.markdown.read_text()
    assert again.latest_markdown.read_text() == again.markdown.read_text()


def test_no_page_names_a_folder_of_the_machine(told: tuple[Home, PreparedData, Path], tmp_path: Path) -> None:
    home, _, folder = told
    away = folder.with_name("away")
    folder.rename(away)
    try:
        for name in ("fifty", "final-fifty-base"):
            files = report(name, home)
            for text in (files.html.read_text(), files.markdown.read_text()):
                assert str(folder) not in text and str(home.path) not in text and str(folder.parent) not in text
    finally:
        away.rename(folder)


def test_it_says_why_and_when_each_was_trained_for_the_test(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    searched(home, 8, {"base": (0.800, 0.802)})
    base = "final-fifty-base"
    row = {"read": 1, "test_set": "7" * 16, "weights_sha": "w", "model": base}
    for seed in (0, 1):
        ledger.append_once(home.path / ledger.TEST_READS, {**row, "reader": f"{base}-s{seed}"})
    declared = plan_path(home, base)
    # Declared the day before it was read.
    declared.write_text(re.sub(r'"created": "[^"]*"', '"created": "2026-11-29T10:00:00Z"', declared.read_text()))
    final = finally_trained(home, "1", (0.812, 0.815))
    later = plan_path(home, final)
    later.write_text(re.sub(r'"created": "[^"]*"', '"created": "2999-01-01T10:00:00Z"', later.read_text()))
    text = report("fifty", home).markdown.read_text()
    assert "Declared 2026-11-29 10:00:00 UTC, before any model of this home (its folder of studies) had been" in text
    assert "Trial 1: asked for by its number, not proposed by the rule." in text
    assert "In the search it stood 2nd of 6 with 0.8367; the first is trial 0 with 0.8556." in text
    assert (
        "after 2 readings of this test (by the untuned base). Whoever asked for it may have known those scores." in text
    )
    first = text[: text.index("## On the locked test")]
    assert "**To do next**: `sage-ray promote" in first and "predict models:/" in first
    assert "Asked for when this test had been read already, so that its scores may have had a part: trial 1" in first
    assert text.count("The rule stands in the program, looks at validation scores alone") == 1


def test_cost_is_said_once_and_in_the_same_numbers(told: tuple[Home, PreparedData, Path]) -> None:
    home, _, _ = told
    text = report("fifty", home).markdown.read_text()
    assert "**The search** is 8 runs: 210 epochs, of them 130 reused (62 %) and 80 trained, 5 min of computing" in text
    assert "**The final trainings** are 4 more runs: 120 epochs, all of them trained, 4 min of computing" in text
    assert "**Both together** are 9 min of computing." in text
    assert "(one trial, one seed) has 30 epochs and took 45 s of computing" in text
    assert "8 runs took 5 min of computing" in text and "computing: 9 min on CPUs, final trainings included" in text


def test_settings_and_plateau_are_explained(told: tuple[Home, PreparedData, Path]) -> None:
    home, _, _ = told
    text = report("fifty", home).markdown.read_text()
    assert "- `adversarial.lr`: Learning rate of all networks of phase 2 at its start." in text
    assert "its plateau, not the end of its curve: the median over the last fifth of its last phase" in text
    assert "as good as equal" not in text and "| within one standard error |" in text


def test_what_a_test_can_find_is_told(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    searched(home, 8, {"base": (0.800, 0.830), "1": (0.812, 0.790)})
    text = report("fifty", home).markdown.read_text()
    found = re.search(r"a true difference of (0\.\d+) Dice is found in 80 % of such tests", text)
    assert found is not None and float(found[1]) > 0.01
    needed = re.search(r"A difference of 0.01 would need (\d+) seeds of each on as many images", text)
    assert needed is not None and int(needed[1]) > 2


def test_the_base_is_known_however_it_was_asked_for(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    searched(home, 8, {"best": (0.800, 0.802), "1": (0.812, 0.815)})
    path = plan_path(home, "final-fifty-best")
    path.write_text(path.read_text().replace('"trial": 1', '"trial": 0'))
    found = report("fifty", home)
    assert found.said[0].startswith("Trial 1 is better than the untuned base (the choice of the search)")
    assert "the untuned base (the choice of the search)" in found.markdown.read_text()
    assert found.model == "sage-gan" and not found.lacks_base
    tested = {each.final_id: each.is_base for each in finals.tested_finals(finals.plans_of("fifty", home), home)}
    assert tested == {"final-fifty-best": True, "final-fifty-1": False}
    assert is_base(home, "fifty", 0, "0") and not is_base(home, "fifty", 1, "1") and not is_base(home, "gone", 0, "0")
    shutil.rmtree(home.studies / "fifty")
    assert is_base(home, "fifty", None, "base") and not is_base(home, "fifty", 0, "best")
