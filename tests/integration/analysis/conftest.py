"""The studies that several tests of table scripts read."""

from __future__ import annotations

import pytest
from analysis_cases import write_ablation, write_design, write_run
from table_cases import ONLY_DICE, SYSTEMS

from sage_ray.record.home import Home


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A baseline study, a loss study and one of components, the latter with an arm that was not run."""
    home = Home(tmp_path_factory.mktemp("studies") / "home")
    write_ablation(home, "systems", SYSTEMS, "sage_gan")
    losses = {"hybrid": {}, "dice": ONLY_DICE, "ce": {"segmentation_loss.w_focal_tversky": 0}}
    write_ablation(home, "losses", {"hybrid": 0.75, "dice": 0.7, "ce": 0.74}, "hybrid", values=losses)
    arms = ["full", "no_gates", "no_ema", "perceptual"]
    write_design(home, "parts", arms, "full", not_run={"perceptual": "no VGG19 weights"}, seeds=(0, 1))
    for arm, level in (("full", 0.75), ("no_gates", 0.72), ("no_ema", 0.78)):
        for seed in (0, 1):
            values = {"segmenter.attention": False} if arm == "no_gates" else {}
            write_run(home, "parts", arm, seed, level=level + 0.01 * seed, values=values)
    return home
