"""Versions in a real MLflow registry: look-up, comparison on one test set, promotion and its record."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_cases import searched

from sage_ray.config import resolve
from sage_ray.errors import UserError
from sage_ray.evaluation import ledger
from sage_ray.evaluation.score_tables import long_rows, name_test_set, summary
from sage_ray.figures.versions_forest import versions
from sage_ray.metrics.image_scores import score_image
from sage_ray.record.home import Home
from sage_ray.record.mlflow_client import experiment_id
from sage_ray.record.model_versions import download, get_version, list_versions, parse_uri, registry
from sage_ray.registry.compare import FIRST, compare, compare_with_reference
from sage_ray.registry.package import SCORES_FILE
from sage_ray.registry.promote import promote
from sage_ray.registry.register import CHALLENGER
from sage_ray.reports.study_reports import report
from sage_ray.training.scoring import score_definitions

NAME = "sage-gan"
SIDE = 32


def scored(flip: float, seeds: tuple[int, ...], images: int = 12, **changes: object) -> pd.DataFrame:
    """Rows of masks in which a share `flip` of the pixels is wrong, really scored."""
    config = resolve(preset="tiny_sage_gan", sets=changes).config
    frames = []
    for seed in seeds:
        rng = np.random.default_rng([seed, round(1000 * flip)])
        shas, rows = [], []
        for image in range(images):
            true = np.zeros((SIDE, SIDE), bool)
            true[6 : 10 + image, 8:22] = True
            pred = true ^ (rng.random((SIDE, SIDE)) < flip)
            shas.append(f"{image:064x}")
            rows.append(score_image(pred, true, min_object_pixels=15, boundary_tolerance=2.0))
        frames.append(pd.DataFrame(long_rows(rows, shas, score_definitions(config), "selected")).assign(seed=seed))
    return pd.concat(frames, ignore_index=True).assign(run_id="r")


def add_version(home: Home, frame: pd.DataFrame, choice: str = "best", **tags: str) -> int:
    """A version with nothing but its test scores, as `register` lays them out."""
    home.check_writable()
    with registry(home) as client, tempfile.TemporaryDirectory() as scratch:
        run = client.create_run(experiment_id(client, home))
        frame.to_parquet(Path(scratch) / SCORES_FILE)
        client.log_artifact(run.info.run_id, str(Path(scratch) / SCORES_FILE), "model/artifacts")
        if not client.search_registered_models(f"name = '{NAME}'"):
            client.create_registered_model(NAME)
        named = {
            "sage.data_fingerprint": "f" * 16,
            "sage.test_set": name_test_set(sorted(set(frame["image_sha"]))),
            "sage.choice": choice,
            "sage.source": "study",
            **tags,
        }
        made = client.create_model_version(NAME, f"{run.info.artifact_uri}/model", run.info.run_id, tags=named)
        client.set_registered_model_alias(NAME, CHALLENGER, str(made.version))
    return int(made.version)


def test_lookup_by_number_alias_and_latest(home: Home) -> None:
    with pytest.raises(UserError, match="no such model: models:/sage-gan: nothing is registered yet"):
        get_version(home, NAME, 1)
    frame = scored(0.05, (0, 1))
    assert [add_version(home, frame), add_version(home, frame)] == [1, 2]
    assert [v.version for v in list_versions(home, NAME)] == [1, 2]
    assert get_version(home, NAME, "@challenger").version == 2
    assert get_version(home, NAME, "latest").version == 2
    assert get_version(home, NAME, 1).uri == "models:/sage-gan/1"
    with pytest.raises(UserError, match="no such version: models:/sage-gan, 7: it has 1, 2, @challenger"):
        get_version(home, NAME, 7)
    with pytest.raises(UserError, match="did you mean sage-gan"):
        get_version(home, "sage-gna", "latest")
    stored = pd.read_parquet(download(home, get_version(home, NAME, 1), f"artifacts/{SCORES_FILE}"))
    pd.testing.assert_frame_equal(stored, frame)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("models:/a/3", ("a", "3")),
        ("models:/a@champion", ("a", "@champion")),
        ("models:/a", ("a", "latest")),
    ],
)
def test_model_uris(text: str, expected: tuple[str, str]) -> None:
    assert parse_uri(text) == expected


@pytest.mark.parametrize("text", ["models:/", "models:/a/", "models:/a/b/c", "models:/a@", "models:/a@b@c"])
def test_bad_model_uris_are_named(text: str) -> None:
    with pytest.raises(UserError, match="bad model URI"):
        parse_uri(text)


def test_comparison_gives_scores_intervals_and_verdicts(home: Home) -> None:
    base, better = scored(0.15, (0, 1, 2)), scored(0.02, (0, 1, 2))
    add_version(home, base, choice="base")
    add_version(home, better)
    comparison = compare(home)
    assert (comparison.reference, comparison.reference_is, comparison.images) == (1, "untuned base", 12)
    reference, winner = comparison.versions
    assert reference.is_reference and reference.verdict is None
    assert winner.verdict == "supported"
    expected = summary(better, "x")["dice"].mean - summary(base, "x")["dice"].mean
    assert winner.differences is not None
    gain = winner.differences["dice"]
    assert gain.mean == pytest.approx(expected) and 0 < gain.low < gain.mean < gain.high
    assert "12 images x 3 seeds" in gain.over
    assert winner.scores["f1_pixel"].low is None and "pooled" in winner.scores["f1_pixel"].definition
    text = (comparison.report or Path()).read_text()
    assert "| 2 |" in text and "supported" in text and "untuned base" in text and "Definitions:" in text


def test_the_page_of_a_model_has_a_figure_of_its_versions(home: Home) -> None:
    add_version(home, scored(0.010, (0, 1)), "base")
    add_version(home, scored(0.012, (0, 1)))
    files = report(NAME, home)
    text = files.markdown.read_text()
    assert "](model-sage-gan-" in text and "versions.svg)" in text and "version 1 0." in text
    assert (files.html.with_suffix("") / "versions.svg").is_file() and 'id="figure-versions"' in files.html.read_text()
    for columns in (1, 2):
        found = versions(compare(home), columns)
        names = [label.get_text().replace("\n", " ") for label in found.figure.axes[0].get_yticklabels()]
        assert names == ["version 1 (reference)", "version 2"] and "Differences to version 1" in found.caption


def test_a_proposal_that_is_the_base_is_the_reference(home: Home) -> None:
    searched(home, 4)
    add_version(home, scored(0.012, (0, 1)), "1", **{"sage.study": "fifty", "sage.trial": "1"})
    add_version(home, scored(0.010, (0, 1)), "best", **{"sage.study": "fifty", "sage.trial": "0"})
    found = compare(home)
    assert (found.reference, found.reference_is) == (2, "untuned base")


def test_one_seed_never_supports(home: Home) -> None:
    add_version(home, scored(0.15, (0,)), choice="base")
    add_version(home, scored(0.02, (0,)))
    assert compare(home).versions[1].verdict == "undecided"
    done = promote(home)
    assert (done.promoted, done.alias, done.champion, done.reason) == (False, "challenger", 1, "undecided")
    assert done.frame()["reason"].tolist() == ["undecided"] and "is challenger: undecided" in done._repr_html_()


def test_several_versions_are_corrected_together(home: Home) -> None:
    add_version(home, scored(0.05, (0, 1, 2)), choice="base")
    add_version(home, scored(0.02, (0, 1, 2)))
    add_version(home, scored(0.01, (0, 1, 2)))
    both = compare(home).versions
    alone = compare(home, [1, 2]).versions
    assert both[1].p_value is not None and alone[1].p_value is not None
    assert both[1].p_value >= alone[1].p_value
    assert [row.version for row in alone] == [1, 2]


def test_mixed_test_sets_fingerprints_and_definitions_are_refused(home: Home) -> None:
    add_version(home, scored(0.05, (0, 1)))
    add_version(home, scored(0.05, (0, 1), images=11))
    add_version(home, scored(0.05, (0, 1)), **{"sage.data_fingerprint": "e" * 16})
    add_version(home, scored(0.05, (0, 1), **{"data.mask_erosion": 2}))
    add_version(home, scored(0.05, (5, 6)))
    for others, what in (
        ([1, 2], "mixed test sets: models:/sage-gan/1"),
        ([1, 3], "mixed data fingerprints"),
        ([1, 4], "mixed definitions of dice"),
        ([1, 5], "versions share no seed"),
    ):
        with pytest.raises(UserError, match=what) as caught:
            compare(home, others)
        assert "\n" not in str(caught.value)
    rows, verdict = compare_with_reference(home, get_version(home, NAME, 3))
    assert [row.version for row in rows] == [3] and verdict == "not comparable with version 1 (mixed data fingerprints)"
    rows, verdict = compare_with_reference(home, get_version(home, NAME, 2))
    assert [row.version for row in rows] == [2] and verdict == FIRST


def test_promotion_of_the_first_then_of_a_supported_version(home: Home) -> None:
    add_version(home, scored(0.15, (0, 1, 2)), choice="base")
    first = promote(home)
    assert (first.promoted, first.champion, first.reason) == (True, 1, "first version")
    assert promote(home).reason == "already champion"
    add_version(home, scored(0.02, (0, 1, 2)))
    second = promote(home)
    assert (second.promoted, second.champion, second.previous, second.reason) == (True, 2, 1, "supported")
    champion = get_version(home, NAME, "@champion")
    assert champion.version == 2 and champion.aliases == ("champion",)
    assert champion.tags["sage.promotion"] == "supported" and "images" in champion.tags["sage.promotion_difference"]
    assert get_version(home, NAME, 1).aliases == ()
    add_version(home, scored(0.15, (0, 1, 2)))
    worse = promote(home, 3)
    assert (worse.promoted, worse.alias, worse.champion, worse.reason) == (False, "challenger", 2, "refuted")
    assert get_version(home, NAME, 3).aliases == ("challenger",)
    forced = promote(home, 3, force=True)
    assert (forced.promoted, forced.champion, forced.reason) == (True, 3, "forced (refuted)")
    rows = ledger.read(home.path / ledger.PROMOTIONS)
    assert [(row["version"], row["reason"]) for row in rows] == [
        (1, "first version"),
        (2, "supported"),
        (3, "refuted"),
        (3, "forced (refuted)"),
    ]
    assert all("@" in row["who"] and row["when"].endswith("Z") for row in rows)


def test_without_a_champion_the_base_takes_its_place_first(home: Home) -> None:
    add_version(home, scored(0.02, (0, 1, 2)), choice="base")
    add_version(home, scored(0.15, (0, 1, 2)))
    done = promote(home, 2)
    assert (done.promoted, done.champion, done.reason) == (False, 1, "refuted")
    assert get_version(home, NAME, "@champion").tags["sage.promotion"] == "first version"


def test_ledger_counts_a_key_once_and_mends_a_cut_line(tmp_path: Path) -> None:
    path = tmp_path / "reads.jsonl"
    assert ledger.append_once(path, {"reader": "a", "read": 1}, key=("reader", "read"))
    assert not ledger.append_once(path, {"reader": "a", "read": 1}, key=("reader", "read"))
    with path.open("a") as file:
        file.write('{"reader": "b", "re')
    assert ledger.append_once(path, {"reader": "a", "read": 2}, key=("reader", "read"))
    assert [(row["reader"], row["read"]) for row in ledger.read(path)] == [("a", 1), ("a", 2)]


def test_registry_that_is_away_is_one_line(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="MLflow registry cannot be reached: http://127.0.0.1:9"):
        list_versions(home)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="MLflow registry cannot be reached: http://127.0.0.1:9"):
        list_versions(home)


def test_one_test_image_has_no_interval_and_no_verdict(home: Home) -> None:
    add_version(home, scored(0.15, (0, 1), images=1), choice="base")
    add_version(home, scored(0.02, (0, 1), images=1))
    comparison = compare(home)
    winner = comparison.versions[1]
    assert winner.differences is not None and winner.verdict == "undecided" and winner.p_value is None
    gain = winner.differences["dice"]
    assert gain.mean > 0 and gain.low is None and gain.over == "one image: no interval"
    assert "undecided, as there is no interval" in comparison.rule
    assert "one image: no interval" in (comparison.report or Path()).read_text()
    outcome = promote(home)
    assert not outcome.promoted and outcome.verdict == "undecided"
    assert outcome.difference == f"{gain.mean:+.4f}, one image: no interval"


def grouped(frame: pd.DataFrame, size: int) -> pd.DataFrame:
    """The frame with its images as crops, `size` of each micrograph."""
    places = {sha: place for place, sha in enumerate(sorted(set(frame["image_sha"])))}
    return frame.assign(group=[f"m{places[sha] // size}" for sha in frame["image_sha"]])


def test_versions_are_compared_over_micrographs(home: Home) -> None:
    base, better = scored(0.15, (0, 1, 2)), scored(0.10, (0, 1, 2))
    add_version(home, grouped(base, 3), choice="base")
    add_version(home, grouped(better, 3))
    plain = summary(better, "x")["dice"]
    comparison = compare(home)
    winner = comparison.versions[1]
    assert winner.differences is not None and comparison.notes == []
    assert winner.differences["dice"].over == "4 micrographs (12 images) x 3 seeds"
    mine = winner.scores["dice"]
    assert mine.mean == pytest.approx(plain.mean) and (mine.images, mine.micrographs) == (12, 4)
    assert "4 micrographs (12 images)" in (comparison.report or Path()).read_text()


def test_what_one_version_knows_of_micrographs_holds_for_all(home: Home) -> None:
    # As a version of the first release, which stored none, beside one of now.
    add_version(home, scored(0.15, (0, 1, 2)).drop(columns="group"), choice="base")
    add_version(home, grouped(scored(0.10, (0, 1, 2)), 3))
    comparison = compare(home)
    assert [row.scores["dice"].micrographs for row in comparison.versions] == [4, 4]
    assert comparison.versions[1].differences is not None
    assert "4 micrographs" in comparison.versions[1].differences["dice"].over
    assert comparison.notes and "all are judged over 4" in comparison.notes[0]


def test_crops_of_one_micrograph_have_no_interval(home: Home) -> None:
    add_version(home, grouped(scored(0.15, (0, 1)), 12), choice="base")
    add_version(home, grouped(scored(0.02, (0, 1)), 12))
    winner = compare(home).versions[1]
    assert winner.verdict == "undecided" and winner.differences is not None
    assert winner.differences["dice"].over == "12 crops of one micrograph: no interval"
