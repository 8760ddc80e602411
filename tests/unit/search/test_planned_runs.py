"""Stage keys of planned runs: a file that is gone is one line that names its setting."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_cases import tiny_config

from sage_ray.config import ExperimentConfig
from sage_ray.errors import UserError
from sage_ray.record.home import Home
from sage_ray.runtime.at_hand import check_run
from sage_ray.search.planned_runs import StudyData


def fitted(place: Path, *sets: str) -> ExperimentConfig:
    return tiny_config("render.sizes=fitted", f"render.sizes_table={place}", *sets, preset="tiny_diffrender")


def test_a_lost_file_is_named_with_the_setting_that_names_it(tmp_path: Path) -> None:
    home, gone = Home(tmp_path / "home"), tmp_path / "gone.csv"
    data = StudyData(home)
    start = tiny_config(f"pretrain.checkpoint={gone}", "pretrain.epochs=0")
    with pytest.raises(UserError, match=rf"cannot be read: pretrain.checkpoint={gone}: "):
        data.keys(start)
    # A table has a key without contents: it is looked for before anything is trained.
    pairs = f"preset:tiny_diffrender?pairs=4&render.sizes=fitted&render.sizes_table={gone}"
    extra = tiny_config(f"data.extra_pairs={pairs}", "pretrain.synthetic_share=1", preset="tiny_attention_unet")
    for config, where in ((fitted(gone), "render.sizes_table"), (extra, "data.extra_pairs=preset:tiny_diffrender")):
        with pytest.raises(UserError, match=rf"no such file: {where}.*gone.csv") as caught:
            check_run(config.with_values({"render.engine": "shader"}), home, here=True)
        assert "\n" not in str(caught.value)
