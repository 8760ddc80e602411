"""Votes of seeds: by hand on a few pixels, tiled and in bands as on the whole image, and what has no seeds to vote."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from model_cases import make_folder, make_voting_folder, micrograph

from sage_ray.errors import UserError
from sage_ray.imaging.model import SEGMENTER_FILE, SPEC_FILE, load_model_folder
from sage_ray.imaging.seed_votes import (
    MOST_DISAGREEMENT,
    count_votes,
    doubt_of,
    load_seed_votes,
    pack_seeds,
    packed_seeds,
)
from sage_ray.imaging.tiles import ArraySource

SIZE = (32, 32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder of the seeds 1 (registered), 9 and 4."""
    return make_voting_folder(tmp_path / "m", (1, 9, 4), SIZE, native_size=SIZE, crop_bottom=6)


def probabilities(*rows: list[float]) -> list[np.ndarray]:
    return [np.array([row], np.float32) for row in rows]


def test_the_mean_decides_and_the_deviation_is_the_disagreement() -> None:
    # A sure seed outweighs two that waver; two masks of three would not be foreground in the last pixel.
    vote = count_votes(
        probabilities([0.9, 0.45, 0.0, 1.0, 0.55], [0.9, 0.45, 0.0, 0.0, 0.55], [0.9, 0.9, 0.0, 0.0, 0.1])
    )
    np.testing.assert_allclose(vote.probability, [[0.9, 0.6, 0, 1 / 3, 0.4]], atol=1e-6)
    assert vote.mask.tolist() == [[True, True, False, False, False]]
    expected = [[0, np.std([0.45, 0.45, 0.9]), 0, np.std([1, 0, 0]), np.std([0.55, 0.55, 0.1])]]
    np.testing.assert_allclose(vote.disagreement, expected, atol=1e-6)
    assert vote.disagreement[0, 0] == 0 and vote.probability.dtype == vote.disagreement.dtype == np.float32
    assert vote.counts.tolist() == [[3, 2, 1], [2, 2, 1], [2, 2, 2]]
    assert doubt_of(vote.counts) == pytest.approx(1 - (2 / 5 + 2 / 4 + 4 / 4) / 3)
    assert count_votes(probabilities([1.0], [0.0])).disagreement.item() == MOST_DISAGREEMENT
    assert not count_votes(probabilities([1.0], [0.0])).mask.any(), "a tie is background, as 0.5 is for one seed"


def test_doubt_of_images_that_seeds_agree_on_or_find_nothing_in() -> None:
    alike = count_votes(probabilities([0.8, 0.1], [0.7, 0.2]))
    assert doubt_of(alike.counts) == 0 and alike.disagreement.max() > 0.04
    assert doubt_of(count_votes(probabilities([0.2], [0.3])).counts) == 0
    assert doubt_of(count_votes(probabilities([0.2, 0.2], [0.7, 0.1])).counts) == 0.5, "one of two sees a particle"


def test_whole_tiled_and_streamed_votes_are_those_of_the_seeds(folder: Path) -> None:
    votes = load_seed_votes(folder)
    small, large = micrograph(38, 32), micrograph(170, 150)
    for image, tiled in ((small, False), (large, True)):
        vote = votes.on_image(image)
        alone = [model.predict_mask(image)[0] for model in votes.models.values()]
        assert votes.registered.is_tiled(image.shape) == tiled
        np.testing.assert_allclose(vote.probability, np.mean(alone, axis=0), atol=1e-6)
        np.testing.assert_allclose(vote.disagreement, np.std(alone, axis=0), atol=1e-5)
        assert vote.disagreement.max() > 0.01 and not vote.disagreement[-6:].any() and not vote.mask[-6:].any()
    bands = list(votes.on_stream(ArraySource(large, band_rows=17)))
    assert len(bands) > 3
    np.testing.assert_allclose(np.concatenate([band.probability for band in bands]), vote.probability, atol=1e-6)
    np.testing.assert_allclose(np.concatenate([band.disagreement for band in bands]), vote.disagreement, atol=1e-6)
    assert np.array_equal(sum(band.counts for band in bands), vote.counts)
    assert votes.on_image(small, crop_bottom=0).probability[-6:].any()


def test_the_registered_seed_stays_what_it_was_and_each_other_is_a_model_alone(folder: Path, tmp_path: Path) -> None:
    unpacked = load_model_folder(make_folder(tmp_path / "twin", SIZE, native_size=SIZE, crop_bottom=6))
    image = micrograph(40, 44)
    expected = unpacked.predict_mask(image)[0]
    assert np.array_equal(load_model_folder(folder).predict_mask(image)[0], expected)
    assert packed_seeds(unpacked.spec) == () and packed_seeds(load_model_folder(folder).spec) == (1, 9, 4)
    other = load_model_folder(folder / "seeds" / "9")
    assert other.generator is None and not np.array_equal(other.predict_mask(image)[0], expected)
    assert sorted(path.name for path in (folder / "seeds").rglob("*") if path.is_file()) == sorted(
        [SPEC_FILE, SEGMENTER_FILE] * 2
    )


def test_one_seed_and_damaged_seeds_are_refused(folder: Path, tmp_path: Path) -> None:
    lone = make_folder(tmp_path / "lone", SIZE)
    for seeds in (None, [1]):
        if seeds:
            pack_seeds(lone, 1, {})
            assert packed_seeds(json.loads((lone / SPEC_FILE).read_text())) == (1,)
        with pytest.raises(
            UserError, match="model of one seed has nobody to vote: models:/toy/1: leave the option out"
        ):
            load_seed_votes(lone, "models:/toy/1")
    weights = folder / "seeds" / "4" / SEGMENTER_FILE
    held = weights.read_bytes()
    weights.write_bytes(held[:-4] + b"\0\0\0\1")
    with pytest.raises(UserError, match="damaged weights: .*seeds/4"):
        load_seed_votes(folder)
    weights.unlink()
    with pytest.raises(UserError, match="no model in folder: .*seeds/4"):
        load_seed_votes(folder)
    assert load_model_folder(folder).predict_mask(micrograph(40, 44))[0].any(), "the registered seed needs none of them"
