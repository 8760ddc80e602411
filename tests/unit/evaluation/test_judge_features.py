"""Features of the judge's encoder: of all its levels, whichever kind it is; a network without one is refused."""

from __future__ import annotations

import numpy as np
import pytest

from sage_ray.errors import UserError
from sage_ray.evaluation.image_features import judge_features
from sage_ray.imaging.model import Model
from sage_ray.models import SEGMENTERS
from sage_ray.models.init import initialise

IMAGES = np.random.default_rng(0).integers(0, 256, (9, 20, 24)).astype(np.uint8)


def model(name: str) -> Model:
    network = initialise(SEGMENTERS[name](width=4, depth=2), 0).eval()
    return Model(network, None, {"image_size": [20, 24]})


@pytest.mark.parametrize(("name", "channels"), [("residual_unet", 4 + 8 + 16), ("unet", 4 + 8 + 16)])
def test_all_levels_are_standardised_by_the_training_images(name: str, channels: int) -> None:
    features = judge_features(model(name), IMAGES, "J")
    found = features.of(IMAGES)
    assert found.shape[0] == 9 and channels / 2 < found.shape[1] <= channels and features.text.endswith("judge J")
    assert found.mean(0) == pytest.approx(0, abs=1e-6) and found.std(0) == pytest.approx(1)
    # An image has its own features, whatever stands beside it.
    assert features.of(IMAGES[4:5]) == pytest.approx(found[4:5], abs=1e-4)


def test_a_judge_without_an_encoder_is_refused() -> None:
    with pytest.raises(UserError, match="judge without an encoder"):
        judge_features(model("half_unet"), IMAGES, "J")
