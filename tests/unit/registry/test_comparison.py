"""What a version of a comparison says it was made from."""

from __future__ import annotations

import pytest

from sage_ray.registry.comparison import VersionScores


@pytest.mark.parametrize(
    ("study", "trial", "choice", "said"),
    [
        ("first", 8, "best", "first, best (trial 8)"),
        ("first", 0, "base", "first, base (trial 0)"),
        ("first", 3, "3", "first, trial 3"),
        ("first", None, "best", "first, best"),
        (None, None, None, "unet.yaml"),
    ],
)
def test_the_origin_of_a_version_names_its_trial_once(
    study: str | None, trial: int | None, choice: str | None, said: str
) -> None:
    version = VersionScores(
        version=1,
        uri="models:/sage-gan/1",
        aliases=(),
        run_id=None,
        source="unet.yaml",
        study=study,
        trial=trial,
        choice=choice,
        seeds=(0,),
        registered_seed=0,
        weights_sha=None,
        scores={},
    )
    assert version.origin == said
