"""Every figure of a study: what is drawn, that nothing is cut off, and what its files say of themselves."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from analysis_cases import write_ablation, write_design, write_run
from figure_cases import SEARCHED, write_search
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from report_cases import finally_trained
from report_cases import searched as record_finals
from tiny_cases import tiny_config

from sage_ray.analysis.figure_style import COLOURS, MM, WIDTHS_MM, paper_figure, save_figure, style, svg_text
from sage_ray.api import Study
from sage_ray.errors import UserError
from sage_ray.figures.catalog import FIGURES, StudyFigure, study_figure, study_figures, write_figures
from sage_ray.figures.figure_words import log_ticks, short_names, unit_of, wrapped
from sage_ray.figures.parallel_coordinates import BOLD, CHOSEN, MOST_AXES, OTHER, STOPPED
from sage_ray.figures.winner_images import _KINDS
from sage_ray.record.home import Home
from sage_ray.registry.final_plan import FinalPlan, declare
from sage_ray.search.best import best
from sage_ray.study.design_schema import FINAL_ARM

LABELS = {
    "full": "SAGE-GAN as its paper has it",
    "bare": "no attention_gates, and a name that is far longer than a label",
}


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Home:
    folder = tmp_path_factory.mktemp("search")
    home = Home(folder / "home")
    constant = {"adversarial.batch_size": {"categorical": [tiny_config().adversarial.batch_size]}}
    write_search(home, folder, "found", 14, SEARCHED | constant)
    return home


def drawn(home: Home, name: str, columns: int) -> dict[str, StudyFigure]:
    return {found.name: found for found in study_figures(home, name, columns)}


def tick_labels(axes: Any) -> list[list[Text]]:
    """Labels of the ticks within the ends of each axis, in order."""
    if not axes.get_visible():
        return []
    found = []
    for axis in (axes.xaxis, axes.yaxis):
        low, high = sorted(axis.get_view_interval())
        ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
        labels = [tick.label1 for tick in sorted(ticks, key=lambda tick: tick.get_loc()) if tick.label1.get_visible()]
        found.append([label for label in labels if label.get_text()])
    return found


def texts_of(figure: Figure) -> list[Text]:
    """All texts that are seen."""
    axes = [each for each in figure.axes if each.get_visible()]
    ticks = {id(label) for each in figure.axes for axis in (each.xaxis, each.yaxis)
             for tick in (*axis.majorTicks, *axis.minorTicks) for label in (tick.label1, tick.label2)}  # fmt: skip
    found: list[Any] = figure.findobj(lambda artist: isinstance(artist, Text) and artist.get_visible())
    hidden = {id(text) for each in figure.axes if not each.get_visible() for text in each.findobj(Text)}
    free = [text for text in found if text.get_text().strip() and id(text) not in ticks | hidden]
    return free + [label for each in axes for labels in tick_labels(each) for label in labels]


def check(found: StudyFigure, columns: int) -> None:
    """It has the width of its columns, every letter lies on it and can be read, and it is small on a page."""
    figure = found.figure
    assert figure.get_figwidth() == pytest.approx(WIDTHS_MM[columns] * MM)
    assert figure.get_figheight() <= 240 * MM
    assert found.title and found.alt.endswith(".") and len(found.caption) > 20
    edge = figure.bbox
    for text in texts_of(figure):
        box = text.get_window_extent()
        shown = (found.name, text.get_text())
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= edge.width + 1 and box.y1 <= edge.height + 1, shown
        assert text.get_fontsize() >= 5, shown
    for labels in (labels for axes in figure.axes for labels in tick_labels(axes)):
        if not any(label.get_rotation() for label in labels):
            boxes = [label.get_window_extent() for label in labels]
            clash = [
                pair for pair in itertools.pairwise(zip(boxes, labels, strict=True)) if pair[0][0].overlaps(pair[1][0])
            ]
            assert not clash, (found.name, columns, [each[1].get_text() for pair in clash for each in pair])
    names = [
        label for axes in figure.axes for labels in tick_labels(axes) for label in labels if len(label.get_text()) > 12
    ]
    said = [text for text in texts_of(figure) if text not in names]
    crossed = [
        (one.get_text(), other.get_text())
        for one, other in itertools.combinations([*names, *said], 2)
        if not (one.get_rotation() or other.get_rotation())
        and one.get_window_extent().overlaps(other.get_window_extent())
    ]
    assert found.name in ("parallel", "generated", "examples") or not crossed, (found.name, columns, crossed)
    svg = svg_text(figure)
    assert svg.startswith("<svg") and len(svg) < 300_000, (found.name, len(svg))


@pytest.mark.parametrize("columns", [1, 2])
def test_a_search_has_all_figures_and_nothing_is_cut_off(searched: Home, columns: int) -> None:
    figures = drawn(searched, "found", columns)
    assert list(figures) == [name for name in FIGURES if name != "finals"], "it has no final training"
    for found in figures.values():
        check(found, columns)
    assert "WARNING: " in figures["importance"].caption
    sizes = figures["particles"].finding
    assert re.match(r"\*\*(Particles come out (larger|smaller) than|It is open whether particles come out)", sizes)
    assert "Their median diameter is" in sizes and "flatter the model" in sizes
    assert "adversarial.batch_size" in figures["slices"].caption
    legend = [text.get_text() for text in texts_of(figures["history"].figure)]
    assert {"stopped early (3)", "complete (10)", "failed or without score (1)", "chosen: trial 1"} <= set(legend)
    titles = [axes.get_title() for axes in figures["curves"].figure.axes if axes.get_title()]
    assert titles == ["phase 1 (pretraining)", "phase 2 (adversarial)"]
    marks = [text for axes in figures["curves"].figure.axes for text in axes.get_legend_handles_labels()[1]]
    assert f"score of trial 1: {best('found', searched).value:.3f}" in marks
    assert "its plateau, not the end of its curve: the median over the last fifth" in figures["curves"].caption
    # Two epochs of 2 s each were taken from the store by each of 12 trials.
    assert "saved 48 s" in figures["cost"].caption


def test_an_ablation_is_drawn_with_the_names_of_its_arms(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    write_ablation(home, "arms", {"full": 0.7, "bare": 0.6}, "full", seeds=(0, 1))
    (home.studies / "arms").rename(home.studies / "old")
    write_design(home, "arms", ["full", "bare"], "full", labels=LABELS, seeds=(0, 1))
    for columns in (1, 2):
        figures = drawn(home, "arms", columns)
        assert list(figures) == ["forest", "curves", "cost"]
        for found in figures.values():
            check(found, columns)
        names = "".join(text.get_text() for text in texts_of(figures["forest"].figure)).replace("\n", " ")
        assert LABELS["full"] in names and "no attention_gates" in names
    assert "read it as a hint" in figures["forest"].caption
    with pytest.raises(UserError, match=r"no figure history of this study: it is no search.* forest, curves, cost"):
        study_figure(home, "arms", "history")


def test_a_final_training_has_curves_and_costs(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    for seed in (0, 1):
        run = write_run(home, "gone", FINAL_ARM, seed, parent="gone-final", gpu_seconds=7200.0)
    config = run.config().model_dump(mode="json")
    declare(
        FinalPlan(
            final_id="gone-final", model_name="m", source="x", choice="best", rule="", seeds=(0, 1), config=config
        ),
        home,
    )
    figures = drawn(home, "gone-final", 1)
    assert list(figures) == ["finals", "curves", "cost"]
    for found in figures.values():
        check(found, 1)
    assert "4 GPU-hours" in figures["cost"].caption
    with pytest.raises(UserError, match="no such study, run or final training: gone-fina: "):
        study_figure(home, "gone-fina", "curves")


@pytest.mark.parametrize("columns", [1, 2])
def test_the_locked_test_is_drawn_against_the_untuned_base(tmp_path: Path, columns: int) -> None:
    home = Home(tmp_path / "home")
    record_finals(home, 4, {"base": (0.800, 0.802), "1": (0.812, 0.815)})
    found = study_figure(home, "fifty", "finals", columns)
    check(found, columns)
    assert found.alt == "Dice on the locked test: the untuned base 0.802, trial 1 0.814."
    texts = " ".join(text.get_text() for text in texts_of(found.figure)).replace("\n", " ")
    assert "untuned base (reference)" in texts and "fifty: 4 runs" in texts, "the runs of the final trainings"
    assert len(found.figure.axes) == 2 and found.figure.axes[1].get_xlabel().startswith("Dice minus")
    # One that was made on other data stands alone.
    finally_trained(home, "best", (0.9,), fingerprint="0" * 16)
    alone = study_figure(home, "final-fifty-best", "finals", columns)
    assert len(alone.figure.axes) == 1 and alone.alt.endswith("trial 1 (the choice of the search) 0.901.")
    check(alone, columns)


HARD_NAMES = {
    "arm_0": "Reference with a name of exactly 40 chars",
    "arm_1": "a <i> & $x_1$ b $y$",
    "arm_2": "_begins with an underscore, and is long",
    "arm_3": "AVERYLONGWORDWITHOUTANYBREAKOFFORTYCHARSX",
    **{f"arm_{k}": f"Learning rate of phase {k} ten times larger" for k in range(4, 13)},
}


@pytest.mark.parametrize("arms", [2, 13])
def test_long_names_and_names_of_markup_are_drawn_as_they_are(tmp_path: Path, arms: int) -> None:
    home = Home(tmp_path / "home")
    levels = {f"arm_{k}": 0.6 + 0.01 * k for k in range(arms)}
    write_ablation(home, "arms", levels, "arm_0", seeds=(0, 1))
    (home.studies / "arms").rename(home.studies / "old")
    write_design(home, "arms", list(levels), "arm_0", labels={arm: HARD_NAMES[arm] for arm in levels}, seeds=(0, 1))
    for columns in (1, 2):
        for found in drawn(home, "arms", columns).values():
            check(found, columns)
            svg = svg_text(found.figure)
            ElementTree.fromstring(svg)
            assert "a &lt;i&gt; &amp; $x_1$ b $y$</text>" in svg, found.name
            # What a browser shows under the pointer.
            assert "<title>a &lt;i&gt; &amp; $x_1$ b $y$" in svg, found.name
            assert arms == 2 or found.name == "cost" or "_begins" in svg


def test_every_mark_of_a_trial_can_be_found_by_its_name(searched: Home) -> None:
    for name in ("forest", "slices", "history", "curves", "cost", "parallel"):
        svg = svg_text(study_figure(searched, "found", name, 2).figure)
        names = re.findall(r'id="(trial-[^"]+)"', svg)
        assert {"trial-1", "trial-3"} <= {"-".join(each.split("-")[:2]) for each in names}, name
        assert len(names) == len(set(names)), name
    assert "moved sideways" in study_figure(searched, "found", "slices").caption


@pytest.mark.parametrize("columns", [1, 2])
def test_parallel_coordinates_have_an_axis_with_ticks_for_each_setting(searched: Home, columns: int) -> None:
    made = study_figure(searched, "found", "parallel", columns)
    (axes,) = made.figure.axes
    names = [label.get_text().replace("\n", "") for label in axes.get_xticklabels()]
    assert len(names) == min(len(SEARCHED), MOST_AXES[columns]) + 1, "a constant setting has no axis"
    assert names[0].endswith("(log)") and "Dice" in names[-1]
    ticks = {text.get_text(): text.get_position()[1] for text in axes.texts if round(text.get_position()[0]) == 0}
    # Of a logarithmic axis equal ratios are equal distances, and its ticks are round values.
    values = sorted((float(text), height) for text, height in ticks.items())
    steps = [(b[1] - a[1]) / np.log(b[0] / a[0]) for a, b in itertools.pairwise(values)]
    assert len(values) >= 2 and steps == pytest.approx([steps[0]] * len(steps)) and steps[0] > 0
    lines = {line.get_gid(): line for line in axes.lines if line.get_gid()}
    assert len(lines) == 13, "ten complete trials and three that were stopped"
    black = [gid for gid, line in lines.items() if line.get_linewidth() == CHOSEN["linewidth"]]
    bold = [gid for gid, line in lines.items() if line.get_linewidth() == BOLD["linewidth"]]
    assert black == ["trial-1"] and len(bold) == 1, "of ten trials the best two are drawn bold, one as the chosen"
    heights = {gid: line.get_ydata()[-1] for gid, line in lines.items()}
    assert sorted(heights, key=lambda gid: heights[gid])[-2:] == [*bold, *black]
    assert made.caption.startswith("Follow a line from left to right: it is one trial")
    several = "The first 4 of" in made.caption
    assert several == (len(SEARCHED) > MOST_AXES[columns])


def test_one_seed_and_many_arms_still_fit(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    levels = {f"arm_{place}_of_a_long_list": 0.6 + 0.004 * place for place in range(24)}
    write_ablation(home, "many", levels, "arm_0_of_a_long_list", seeds=(0,))
    figures = drawn(home, "many", 1)
    for found in figures.values():
        check(found, 1)
    assert figures["forest"].caption.startswith("One seed: there is no interval")


def test_a_search_of_one_trial_and_one_that_has_only_begun(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    write_search(home, tmp_path, "one", 1)
    figures = drawn(home, "one", 1)
    assert list(figures) == ["forest", "history", "curves", "cost"]
    for found in figures.values():
        check(found, 1)
    write_design(home, "begun", ["full"], "full", seeds=(0,))
    write_run(home, "begun", "full", 0, state="RUNNING", curve=[np.nan] * 4)
    assert set(drawn(home, "begun", 1)) <= {"curves", "cost"}


def test_files_are_the_same_each_time_and_say_what_they_were_made_from(searched: Home, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        found = study_figure(searched, "found", "history", columns=2)
        save_figure(found.figure, tmp_path / folder / "history", columns=1)
    files = {path.suffix: path for path in (tmp_path / "a").iterdir()}
    assert set(files) == {".pdf", ".svg", ".png"}
    for path in files.values():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name
    svg = files[".svg"].read_text()
    with Image.open(files[".png"]) as picture:
        told = picture.text["Description"]  # type: ignore[attr-defined]
        assert picture.width == pytest.approx(88 * MM * 300, abs=1)
    for text in (svg, told):
        assert "study: found" in text and "commit: " in text and "data: " in text and "sage_ray: " in text
    assert ">best so far</text>" in svg and "<dc:date>" not in svg
    assert b"CreationDate" not in files[".pdf"].read_bytes()
    with pytest.raises(UserError, match="no such format: gif: choose of pdf, svg, png"):
        save_figure(found.figure, tmp_path / "x", ("gif",))


def test_all_figures_are_written_with_their_captions(searched: Home, tmp_path: Path) -> None:
    paths = write_figures(searched, "found", tmp_path / "paper", ("svg",), columns=1)
    assert [path.name for path in paths] == [*(f"{name}.svg" for name in FIGURES if name != "finals"), "captions.md"]
    assert all(f"**{name}.**" in paths[-1].read_text() for name in FIGURES if name != "finals")


def test_a_figure_of_a_study_and_what_is_said_of_one_that_is_not_there(searched: Home) -> None:
    study = Study("found", searched)
    assert study.figure("history", columns=2).get_figwidth() == pytest.approx(180 * MM)
    with pytest.raises(UserError, match=r"no such figure: 'histroy': .*history.*found has forest, parallel, .*cost"):
        study.figure("histroy")
    with pytest.raises(UserError, match="a figure takes 1 or 2 columns"):
        study.figure("history", columns=3)


def grey(colour: Any) -> float:
    """Lightness in grey print, 0 to 255, as Pillow converts it."""
    rgb = tuple(round(255 * part) for part in to_rgb(colour))
    return float(np.asarray(Image.new("RGB", (1, 1), rgb).convert("L"))[0, 0])  # type: ignore[arg-type]


def test_everything_can_be_told_apart_in_grey() -> None:
    for one, other in itertools.combinations(map(style, range(len(COLOURS))), 2):
        marks = (one["marker"] != other["marker"]) + (one["linestyle"] != other["linestyle"])
        assert marks + (abs(grey(one["color"]) - grey(other["color"])) > 25) >= 1
        assert marks == 2 or abs(grey(one["color"]) - grey(other["color"])) > 25
    steps = np.diff([grey(colour) for colour in _KINDS])
    assert (steps > 40).all()
    for one, other in itertools.combinations((CHOSEN, BOLD, OTHER, STOPPED), 2):
        by_marks = [name for name in ("marker", "linestyle") if one.get(name) != other.get(name)]
        assert by_marks or abs(grey(one["color"]) - grey(other["color"])) > 40, (one, other)
        assert grey(one["color"]) < 215, "none is too light for paper"


def test_noisy_pictures_stay_small_in_a_page() -> None:
    figure = paper_figure(2, 150)
    for place, axes in enumerate(figure.subplots(3, 3).flat):
        axes.imshow(np.random.default_rng(place).integers(0, 255, (256, 256), np.uint8), cmap="gray")
    assert 20_000 < len(svg_text(figure)) <= 300_000


def test_names_and_ticks() -> None:
    assert short_names(["pretrain.lr", "adversarial.lr", "a.seed"]) == {
        "pretrain.lr": "pretrain.lr", "adversarial.lr": "adversarial.lr", "a.seed": "seed",
    }  # fmt: skip
    assert wrapped("straight_through", 11) == "straight_\nthrough"
    assert wrapped("a b", 9) == "a b" and wrapped("", 5) == ""
    assert wrapped("one two three four", 5, 2) == "one\ntwo…"
    assert wrapped("x" * 30, 10).split("\n") == ["x" * 10] * 3
    assert log_ticks(0.2, 0.9) == pytest.approx([0.2, 0.5]) and log_ticks(0.05, 20) == pytest.approx([0.1, 1, 10])
    assert log_ticks(1e-9, 1) == pytest.approx([1e-9, 1e-6, 1e-3, 1]) and log_ticks(3, 4) == [3, 4]
    assert unit_of(90)[0] == "s" and unit_of(130)[0] == "min" and unit_of(7200)[0] == "h"
