"""Reports of recorded studies: what the page holds, one file for a state, and each kind of bad input as one line."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from analysis_cases import write_ablation
from report_cases import compared, finally_trained, searched

import sage_ray
from sage_ray.errors import UserError
from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder
from sage_ray.reports.cost_and_origin import repeat_parts
from sage_ray.reports.evidence import read_study
from sage_ray.reports.page_parts import Grid, Paragraph
from sage_ray.reports.study_page import search_said
from sage_ray.reports.study_reports import ReportFiles, report
from sage_ray.reports.trial_tables import choice_parts
from sage_ray.terminal.cli import call


class Page(HTMLParser):
    """Headings, ids and addresses of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.loads: list[str] = []
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if given.get("id"):
            self.ids.append(str(given["id"]))
        for name in ("src", "href", "xlink:href", "data"):
            value = given.get(name) or ""
            if value and tag != "a":
                self.loads.append(value)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with a search of eight trials, two final trainings, and an ablation of three arms."""
    home = Home(tmp_path_factory.mktemp("reports") / "home")
    searched(home, 8, {"base": (0.800, 0.802), "1": (0.812, 0.815)})
    return home


@pytest.fixture(scope="module")
def made(place: Home) -> ReportFiles:
    return report("fifty", place)


def test_the_page_begins_with_the_verdict_and_loads_nothing(made: ReportFiles) -> None:
    page = Page(made.html)
    first = page.text[page.text.index("<main>") :][:1500]
    assert "Trial 1 is better than the untuned base." in first and "With two seeds read it as a hint." in first
    assert [each for each in page.loads if not each.startswith(("#", "data:"))] == []
    assert not re.search(r"@import|url\((?!#)", page.text)
    assert len(page.ids) == len(set(page.ids)), "an id stands for one element"
    sections = [
        each for each in page.ids if each in {"found", "tested", "chosen", "searched", "trials", "cost", "origin"}
    ]
    assert sections == ["found", "tested", "chosen", "searched", "trials", "cost", "origin"]
    assert "sage-ray sweep HOME/studies/fifty/space.yaml" in page.text and "c0ffee" in page.text
    assert page.text.count("<svg") >= 1 and 'data-trial="3"' in page.text
    assert "0.802 <wbr>[" in page.text and 'id="figure-finals"' in page.text


def test_the_markdown_says_the_same_and_has_the_figures(made: ReportFiles) -> None:
    text = made.markdown.read_text()
    assert made.said[0].split(":")[0] in text and "| Trial 1 | 2 |" in text
    assert list(made.frame()["finding"]) == [verdict.headline for verdict in made.verdicts]
    assert made.frame()["finding"][0] in made._repr_html_() and str(made.html) in made._repr_html_()
    figures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert figures and all((made.markdown.parent / figure).is_file() for figure in figures)
    assert made.latest_markdown.read_text() == text
    # Five complete trials took 20 epochs each from the store, and two took 15 before they were stopped early.
    assert "| the search | 8 | 210 | 130 |" in text and "reused in the search: 130 of 210 epochs" in text
    assert "Not drawn: the worst, median and best image. Why: " in text, "a page says which figures it lacks"


def test_each_seed_and_each_validation_image_has_its_score(made: ReportFiles, place: Home) -> None:
    text = made.markdown.read_text()
    assert "| final training | seed 0 | seed 1 | mean | standard deviation |" in text
    rows = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if line.startswith("| ")}
    means = [float(cell) for cell in rows["Trial 1"].split(" | ")[1:3]]
    assert means == pytest.approx([0.812, 0.815], abs=0.003), "the last table with such a row has its seeds"
    assert "difference, second minus first" in rows
    by_image = text[text.index("## What the model does with images") :]
    listed = re.findall(r"\| `(\d{8})` \| ([\d.]+) \|", by_image)
    images = [row["value"] for row in RunFolder(place.runs / "fifty-t0000-s0").per_image() if row["score"] == "dice"]
    assert [float(value) for _, value in listed] == pytest.approx(sorted(images), abs=1e-3) and len(listed) == 12
    assert "| validation image | Trial 0 |" in by_image, "the base itself is proposed, and has nothing beside it"


def test_a_long_table_is_folded_in_the_page_and_open_in_markdown(tmp_path: Path) -> None:
    from sage_ray.reports.html_page import html
    from sage_ray.reports.markdown_page import markdown
    from sage_ray.reports.page_parts import Chapter
    from sage_ray.reports.page_parts import Page as Parts

    rows = [["`a`", "0.5"], ["`b`", "0.6"]]
    pages = [
        Parts("T", "L", [Chapter("c", "C", [Grid(("image", "Dice"), rows, caption="All of them.", folded=folded)])])
        for folded in (False, True)
    ]
    shown, folded = (html(page, {}) for page in pages)
    assert "<details>" not in shown and '<p class="title">All of them.</p>' in shown
    assert "<details><summary>All of them.</summary>" in folded and folded.count("</details>") == 1
    assert markdown(pages[0]) == markdown(pages[1])


def test_an_ablation_has_the_mean_of_each_seed_of_its_arms(place: Home) -> None:
    write_ablation(place, "scatter", {"full": 0.8, "bare": 0.7, "other": 0.6}, "full", images=12)
    from sage_ray.analysis.study_facts import study_facts
    from sage_ray.analysis.tidy import collect
    from sage_ray.reports.arm_findings import arms_found

    tidy = collect(place, ["scatter"])
    grid = arms_found(tidy, study_facts(tidy, "scatter")).parts[-1]
    assert isinstance(grid, Grid) and grid.head[1:4] == ["seed 0", "seed 1", "seed 2"]
    assert "of the locked test, as recorded when it was read" in grid.caption
    for row in grid.rows:
        values = [float(cell) for cell in row[1:4]]
        recorded = [
            [each["value"] for each in RunFolder(place.runs / f"scatter-{row[0].lower()}-s{seed}").per_image()
             if each["part"] == "test" and each["score"] == "dice"]
            for seed in range(3)
        ]  # fmt: skip
        assert values == pytest.approx([sum(each) / len(each) for each in recorded], abs=6e-4)
        assert float(row[4]) == pytest.approx(sum(values) / 3, abs=1e-3)


def test_a_page_says_how_generated_pairs_were_judged_or_which_command_judges_them(place: Home) -> None:
    from sage_ray.files import write_json
    from sage_ray.reports.generated_findings import judged_pairs

    evidence = read_study("fifty", place)
    (said,) = judged_pairs(evidence)
    assert isinstance(said, Paragraph) and said.of_figure == "generated"
    assert said.text.startswith("No score of these images was recorded") and "--data FOLDER" in said.text
    path = place.runs / evidence.choice.run_ids[0] / "artifacts" / "fidelity" / "fidelity.json"  # type: ignore[union-attr]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{")
    try:
        with pytest.raises(
            UserError, match=r"damaged scores of generated images: .*fidelity\.json: `sage-ray fidelity"
        ):
            judged_pairs(evidence)
        bare = {"mean": 0.5, "low": 0.4, "high": 0.6}
        write_json(
            path,
            {
                "images": 20, "scores": {"fidelity": bare, "null": bare}, "judge_on_real": bare,
                "differences": {"above_null": bare}, "distances": {"mmd": {"p_value": 0.2}},
            },
        )  # fmt: skip
        (said,) = judged_pairs(evidence)
        assert isinstance(said, Paragraph) and said.text.startswith("**The generated images show their masks.**")
        assert said.text.endswith("Of run `fifty-t0000-s0`.")
    finally:
        path.unlink()


def test_a_state_has_one_file_and_another_state_another(place: Home, made: ReportFiles) -> None:
    before = made.html.read_bytes()
    again = report("fifty", place)
    assert again.html == made.html and not again.is_new and made.html.read_bytes() == before
    run = RunFolder(place.runs / "fifty-t0000-s0")
    commit = run.read().commit
    run.update(commit="d" * 40)
    changed = report("fifty", place)
    assert changed.html != made.html and changed.is_new and made.html.read_bytes() == before
    assert changed.html.name in changed.latest.read_text()
    run.update(commit=commit)


def test_a_pruned_trial_that_stood_higher_is_told(place: Home) -> None:
    choice = sage_ray.best("fifty", place)
    above = [trial.value for trial in choice.stopped_higher]
    assert all(value > choice.value for value in above) and above == sorted(above, reverse=True)
    from sage_ray.search.stopped_trials import StoppedTrial, stopped_higher

    stopped = [StoppedTrial(3, 0.9, 5, {}), StoppedTrial(4, 0.7, 5, {}), StoppedTrial(5, 0.95, 5, {})]
    assert [trial.trial for trial in stopped_higher(stopped, 0.8, maximize=True)] == [5, 3]
    assert [trial.trial for trial in stopped_higher(stopped, 0.8, maximize=False)] == [4]


def test_a_final_training_has_a_page_and_one_on_other_data_is_no_test(place: Home) -> None:
    found = report("final-fifty-1", place)
    assert found.html.name.startswith("final-fifty-1-") and found.model == "sage-gan"
    assert "finals.svg" in found.markdown.read_text()
    assert found.kind == "final" and found.said[0].startswith("Trial 1 is better than the untuned base")
    finally_trained(place, "2", (0.9, 0.9), fingerprint="0" * 16)
    text = report("fifty", place).markdown.read_text()
    assert "**Caution.** Trained on other data than the study, so no test of its choice: trial 1." in text


def test_the_commands_say_what_a_search_may_do_otherwise_when_it_is_run_again(place: Home) -> None:
    evidence = read_study("fifty", place)
    told = [part.text for part in repeat_parts(evidence) if isinstance(part, Paragraph)]
    assert "to the last bit" in told[0] and "search again" not in told[0], "random draws depend on no score"
    ordered = replace(evidence, runs_file="scheduler: {name: asha}\n")
    told = [part.text for part in repeat_parts(ordered) if isinstance(part, Paragraph)]
    assert "The search again (tpe, asha) may try or stop other settings" in told[0]
    assert told[0].endswith("trial numbers of the final trainings are those of this search.")


def test_a_base_that_was_stopped_early_is_no_score_to_compare_with(place: Home) -> None:
    found = read_study("fifty", place)
    assert found.base_trial is not None and found.choice is not None
    evidence = replace(found, choice=replace(found.choice, trial=1))
    assert "to the untuned base (" in search_said(evidence, tested=False).numbers
    stopped = replace(evidence, base_trial=replace(found.base_trial, state="PRUNED"))
    said = search_said(stopped, tested=False).numbers
    assert "to the untuned base" not in said and said.endswith("when it was stopped early, no final score")


def test_equal_networks_are_not_counted(place: Home) -> None:
    assert {row.network_flops for row in sage_ray.best("fifty", place).runner_ups} == {None}


def test_what_is_chosen_of_an_ablation_has_the_labels_of_its_arms(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    compared(
        home, {"full": (0.8, 0.81), "bare": (0.7, 0.71)}, {"full": "The whole method", "bare": "Nothing but a net"}
    )
    choice = sage_ray.best("parts", home)
    assert choice.labels == {"full": "The whole method", "bare": "Nothing but a net"} and choice.stopped_higher == []
    told = choice_parts(read_study("parts", home))
    assert isinstance(told[0], Paragraph) and told[0].text.startswith(
        "Arm The whole method with val/dice 0.8050. It has the best score of all that were trained to the end. The rule"
    )
    grid = told[-1]
    assert isinstance(grid, Grid) and grid.head[0] == "arm" and grid.rows[0][0] == "Nothing but a net"


def test_an_ablation_says_a_sentence_for_each_arm(place: Home) -> None:
    from sage_ray.analysis.study_facts import study_facts
    from sage_ray.analysis.tidy import collect
    from sage_ray.reports.arm_findings import arms_found

    write_ablation(place, "arms", {"full": 0.8, "bare": 0.7, "other": 0.8005}, "full", images=12)
    tidy = collect(place, ["arms"])
    said = [each.headline for each in arms_found(tidy, study_facts(tidy, "arms")).said]
    assert said == ["Bare is worse than full.", "It is open whether other differs from full."]


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        ("unfinished", r"study has no finished run: fifty \(4 INTERRUPTED\)"),
        ("record", r"fifty-t0001-s0.record\.json"),
        ("scores", r"damaged scores of a finished run"),
        ("data", r"study over two data sets: fifty: fifty-t0000-s0 has data 371c403c839736f4, fifty-t0002-s0"),
        ("study", r"damaged study: .*study\.json"),
    ],
)
def test_bad_studies_are_one_line(fault: str, what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = Home(tmp_path / "home")
    searched(home, 4)
    run = RunFolder(home.runs / "fifty-t0001-s0")
    if fault == "unfinished":
        for run_id in home.run_ids():
            RunFolder(home.runs / run_id).set_state("INTERRUPTED")
    elif fault == "record":
        (run.path / "record.json").write_text('{"run_id": "fifty')
    elif fault == "scores":
        run.per_image_path.write_bytes(b"PAR1 cut")
    elif fault == "data":
        RunFolder(home.runs / "fifty-t0002-s0").update(data_fingerprint="f" * 16)
    else:
        (home.studies / "fifty" / "study.json").write_text("{")
    assert call(["report", "fifty", "--home", str(home.path)]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and re.search(what, said[0]), said
    assert not (home.path / "reports").exists()


def test_an_unknown_name_names_the_nearest_and_the_json_has_the_paths(
    place: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="no such study: fity: did you mean fifty"):
        sage_ray.report("fity", place.path)
    assert call(["report", "fifty", "--home", str(place.path), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert {"report", "html", "markdown"} <= set(answer["paths"]) and answer["verdicts"] and answer["ok"]
    assert all(Path(path).is_file() for path in answer["paths"].values())
