"""Pages, numbers and exports of predict, from drawn particles whose sizes and places are known."""

from __future__ import annotations

import json
import math
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sage_ray.apply.fields_of_view import FieldOfView, common_unit
from sage_ray.apply.order_report import order_report, with_order, write_order
from sage_ray.apply.particle_pages import MOST_NAMED, draw_order, draw_sizes
from sage_ray.apply.size_distribution import ALL_IMAGES, size_report, write_sizes
from sage_ray.imaging.particles import particle_table

NM = 2.0
MEDIAN, SPREAD = 18.0, 0.25  # pixels, and of the logarithm


def lattice(seed: int, shape: tuple[int, int] = (420, 480), step: float = 34.0) -> np.ndarray:
    """Discs of lognormal diameters on a hexagonal lattice that goes on beyond the frame, as a mask."""
    rng = np.random.default_rng(seed)
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    mask, begin = np.zeros(shape, bool), rng.uniform(0, step, 2)
    for row in range(-2, int(shape[0] / step / 0.866) + 2):
        for column in range(-2, int(shape[1] / step) + 2):
            y, x = begin + [(row + rng.uniform(0, 0.05)) * step * 0.866, (column + row % 2 / 2) * step]
            radius = min(math.exp(rng.normal(math.log(MEDIAN), SPREAD)) / 2, 0.42 * step)
            mask |= (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
    return mask


def measured(masks: list[np.ndarray], scales: list[float | None]) -> tuple[pd.DataFrame, list[FieldOfView]]:
    """Table and fields of masks, an image each; None for an image without a scale."""
    tables, fields = [], []
    for place, (mask, scale) in enumerate(zip(masks, scales, strict=True)):
        tables.append(particle_table(mask, scale).assign(image=f"i{place}.tif"))
        fields.append(FieldOfView(f"i{place}.tif", *mask.shape, (scale, scale) if scale else None))
    return pd.concat(tables, ignore_index=True), fields


@pytest.fixture(scope="module")
def drawn() -> tuple[pd.DataFrame, list[FieldOfView]]:
    return measured([lattice(seed) for seed in range(3)], [NM] * 3)


def test_drawn_sizes_are_found_again_in_nm_by_image_and_pooled(
    drawn: tuple[pd.DataFrame, list[FieldOfView]], tmp_path: Path
) -> None:
    particles, fields = drawn
    report = size_report(particles, fields)
    assert report.unit.name == "nm" and report.lines() == []
    values = report.pooled.statistics.values
    for name, truth in (("geometric_mean", MEDIAN * NM), ("sigma", SPREAD), ("d50", MEDIAN * NM)):
        low, high = values[name].low, values[name].high
        assert low is not None and high is not None and low < truth < high, name
        assert high - low < 0.5 * truth
    write_sizes(report, tmp_path)
    told = json.loads((tmp_path / "sizes.json").read_text())
    assert told["unit"] == "nm" and told["pooled"]["particles"] == sum(part["particles"] for part in told["by_image"])
    assert told["pooled"]["intervals_over"] == "images" and told["by_image"][0]["intervals_over"] == "particles"
    whole = particles[~particles["touches_border"]]
    assert told["pooled"]["particles"] == len(whole) and told["pooled"]["particles_cut"] == len(particles) - len(whole)
    # A particle per cell of the lattice, whatever the frame cuts.
    cell = (34 * NM) ** 2 * 0.866
    assert told["pooled"]["particles_per_nm2"] * cell == pytest.approx(1, rel=0.06)
    edges, density = np.array(told["histogram"]["edges"]), np.array(told["histogram"]["density"])
    assert density @ np.diff(edges) == pytest.approx(1, rel=1e-3)
    assert set(told["curves"]) == {"size", "kde", "lognormal", "lognormal_low", "lognormal_high"}
    table = pd.read_csv(tmp_path / "sizes.csv")
    assert list(table["image"]) == ["i0.tif", "i1.tif", "i2.tif", ALL_IMAGES]
    assert table["d50_nm"].iloc[-1] == pytest.approx(told["pooled"]["values"]["d50"]["value"], rel=1e-5)
    assert (table["d50_nm_low"] < table["d50_nm"]).all() and (table["d50_nm"] < table["d50_nm_high"]).all()


def test_order_of_a_lattice_is_seen_and_its_columns_are_lengths_of_the_table(
    drawn: tuple[pd.DataFrame, list[FieldOfView]], tmp_path: Path
) -> None:
    particles, fields = drawn
    report = order_report(particles, fields)
    pooled = report.pooled
    assert pooled["psi6"].value > 0.95 and pooled["psi4"].value < 0.2
    assert pooled["nearest_neighbour"].value == pytest.approx(34 * NM, rel=0.03)
    # A perfect hexagonal lattice: 2 / sqrt(sqrt(3) / 2).
    assert pooled["nearest_neighbour_ratio"].value == pytest.approx(2.149, rel=0.04)
    middles = (report.edges[1:] + report.edges[:-1]) / 2
    assert middles[np.argmax(report.correlation)] == pytest.approx(34 * NM, rel=0.06)
    table = with_order(particles, report, fields)
    assert list(table.columns[-4:]) == ["nearest_neighbour_px", "nearest_neighbour_nm", "psi4", "psi6"]
    known = table["psi6"].notna()
    assert 0.4 < known.mean() < 0.9 and not (known & table["touches_border"]).any()
    near = table["nearest_neighbour_px"].dropna()
    np.testing.assert_allclose(table["nearest_neighbour_nm"].dropna(), near * NM)
    write_order(report, tmp_path)
    told = json.loads((tmp_path / "order.json").read_text())
    assert len(told["pair_correlation"]["r_nm"]) == len(told["pair_correlation"]["g"]) and len(told["by_image"]) == 3
    assert told["by_image"][0]["psi6_of_the_whole"] > 0.9
    assert told["pooled"]["values"]["psi6"]["low"] < told["pooled"]["values"]["psi6"]["value"]


def test_random_discs_show_no_order_although_the_frame_cuts_them() -> None:
    """Parts of discs whose centres lie outside would look like more particles at the edge."""
    rng = np.random.default_rng(2)
    side, radius = 300, 6
    down, across = np.mgrid[-radius - 1 : radius + 2, -radius - 1 : radius + 2].reshape(2, -1)
    found, fields = [], []
    for place in range(6):
        # Each disc alone, as discs may overlap: the pixels of it that are in the frame.
        for y, x in rng.uniform(-15, side + 15, (330, 2)):
            rows, columns = round(y) + down, round(x) + across
            seen = (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
            seen &= (np.minimum(rows, columns) >= 0) & (np.maximum(rows, columns) < side)
            if seen.any():
                found.append((f"i{place}", rows[seen].mean(), columns[seen].mean(), 2 * radius))
        fields.append(FieldOfView(f"i{place}", side, side))
    particles = pd.DataFrame(found, columns=["image", "centroid_row", "centroid_column", "feret_max_px"])
    report = order_report(particles, fields)
    assert report.pooled["nearest_neighbour_ratio"].value == pytest.approx(1, abs=0.06)
    far = report.edges[1:] > 20
    np.testing.assert_allclose(report.correlation[far], 1, atol=0.25)
    assert report.correlation[far].mean() == pytest.approx(1, abs=0.02)


def test_lengths_are_in_nm_only_if_every_image_with_particles_has_a_scale() -> None:
    masks = [lattice(0, (120, 120)), lattice(1, (120, 120)), np.zeros((50, 50), bool)]
    particles, fields = measured(masks, [NM, 3.0, None])
    assert common_unit(particles, fields).name == "nm"
    report = size_report(particles, fields)
    whole = particles[~particles["touches_border"]]
    for place, sample in enumerate(report.by_image[:2]):
        mine = whole[whole["image"] == f"i{place}.tif"]
        np.testing.assert_allclose(sample.sizes, mine["equivalent_diameter_px"] * (NM, 3.0)[place])
    assert report.by_image[2].area is None and report.pooled.density is None
    particles, fields = measured(masks, [NM, None, NM])
    report, order = size_report(particles, fields), order_report(particles, fields)
    assert report.unit.name == order.unit.name == "px"
    (line,) = [line for line in report.lines() if "pixels" in line]
    assert "1 of 2 images have no scale (i1.tif)" in line
    table = with_order(particles, order, fields)
    assert table.loc[table["image"] == "i1.tif", "nearest_neighbour_nm"].isna().all()
    assert table.loc[table["image"] == "i0.tif", "nearest_neighbour_nm"].notna().any()


def test_pixels_that_are_no_squares_make_no_other_order() -> None:
    mask = lattice(4)
    square, fields = measured([mask], [NM])
    tall = mask[::2]
    table = particle_table(tall, (2 * NM, NM)).assign(image="i0.tif")
    field = FieldOfView("i0.tif", *tall.shape, (2 * NM, NM))
    first, second = order_report(square, fields), order_report(table, [field])
    for name in ("psi6", "nearest_neighbour"):
        assert second.pooled[name].value == pytest.approx(first.pooled[name].value, rel=0.03)
    both = with_order(table, second, [field])
    # In pixels the rows are half as far apart.
    assert both["nearest_neighbour_px"].median() < 0.9 * both["nearest_neighbour_nm"].median() / NM
    medians = [size_report(*given).pooled.statistics.values["d50"] for given in ((square, fields), (table, [field]))]
    assert medians[0].value == pytest.approx(medians[1].value, rel=0.03)


def test_a_particle_at_an_information_bar_is_cut() -> None:
    mask = np.zeros((100, 100), bool)
    mask[70:80, 40:50] = True
    mask[20:30, 40:50] = True
    table = particle_table(mask).assign(image="a")
    assert not table["touches_border"].any()
    report = size_report(table, [FieldOfView("a", 80, 100)])
    assert report.pooled.cut == 1 and report.pooled.statistics.number == 1


@pytest.mark.parametrize("number", [0, 1, 2, 12])
def test_few_particles_are_said_and_drawn_as_few(tmp_path: Path, number: int) -> None:
    mask = np.zeros((60, 260), bool)
    for place in range(number):
        mask[20 : 30 + place % 3, 10 + 20 * place : 20 + 20 * place] = True
    particles, fields = measured([mask], [None])
    sizes, order = size_report(particles, fields), order_report(particles, fields)
    few = [line for line in sizes.lines() if "too few for a lognormal fit, which takes 10" in line]
    assert len(few) == (number < 10) and sizes.lines()[0] == "sizes are in pixels: no image has a scale"
    paths = [*write_sizes(sizes, tmp_path), *write_order(order, tmp_path)]
    if number in (0, 2):
        paths += [*draw_sizes(sizes, tmp_path), *draw_order(order, tmp_path)]
    assert {path.name for path in paths} == {path.name for path in tmp_path.iterdir()}
    for name in ("sizes.json", "order.json"):
        text = (tmp_path / name).read_text()
        assert json.loads(text)["format_version"] == 1 and "NaN" not in text and "Infinity" not in text
    assert len(pd.read_csv(tmp_path / "sizes.csv")) == 2


def test_pages_are_files_of_their_kinds_and_the_same_each_time(
    drawn: tuple[pd.DataFrame, list[FieldOfView]], tmp_path: Path
) -> None:
    before = dict(matplotlib.rcParams)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        draw_sizes(size_report(*drawn), tmp_path / name)
    assert dict(matplotlib.rcParams) == before
    for ending, start in (("pdf", b"%PDF"), ("svg", b"<?xml"), ("png", b"\x89PNG")):
        first, second = ((tmp_path / name / f"sizes.{ending}").read_bytes() for name in ("a", "b"))
        assert first == second and first.startswith(start)
    assert Image.open(tmp_path / "a" / "sizes.png").width == 2160  # 183 mm at 300 dots per inch
    text = (tmp_path / "a" / "sizes.svg").read_text(encoding="utf-8")
    assert "<path" in text and len(text) < 1_000_000
    for said in ("equivalent diameter (nm)", "lognormal fit", "i0.tif (", "cut by the frame are left out"):
        assert said in text


def test_many_images_are_drawn_without_names(tmp_path: Path) -> None:
    mask = np.zeros((40, 60), bool)
    mask[5:15, 5:15] = mask[20:33, 20:33] = True
    particles, fields = measured([mask] * (MOST_NAMED + 1), [NM] * (MOST_NAMED + 1))
    report = size_report(particles, fields)
    draw_sizes(report, tmp_path)
    # matplotlib writes each text as a comment beside its outlines.
    text = (tmp_path / "sizes.svg").read_text(encoding="utf-8")
    assert f"{MOST_NAMED + 1} images, by D" in text and "i0.tif" not in text
