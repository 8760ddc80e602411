"""Stage keys of runs with extra pairs, and the run that their maker comes from: pure functions of the config."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_cases import tiny_config

from sage_ray.config import ExperimentConfig
from sage_ray.errors import UserError
from sage_ray.pair_source import PairSource
from sage_ray.stages.keys import stage_keys
from sage_ray.stages.pair_keys import origin_config
from sage_ray.stages.pair_stages import ends_of, pair_stages
from sage_ray.study.base_config import located

NUMBERS = {"device": "cpu", "precision": "fp32"}


def config(pairs: str = "", share: float = 0.0, *sets: str) -> ExperimentConfig:
    given = (f"data.extra_pairs={pairs}", f"pretrain.synthetic_share={share}") if pairs else ()
    return tiny_config(*given, *sets, preset="tiny_attention_unet")


def key(pairs: str = "", share: float = 0.0, *sets: str) -> str:
    return stage_keys(config(pairs, share, *sets), "fingerprint", "split", NUMBERS)["pretrain"]


def test_without_extra_pairs_keys_and_hash_are_those_of_before() -> None:
    assert config().config_hash() == tiny_config(preset="tiny_attention_unet").config_hash()
    assert "extra_pairs" not in config().identity()["data"]
    assert "synthetic_share" not in config().identity()["pretrain"]
    assert key() == "8cb338990c587ead"


def test_pairs_share_and_number_are_part_of_the_key_and_the_path_alone_is_not(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        for name in ("images", "masks"):
            (folder / name).mkdir(parents=True)
            Image.fromarray(np.eye(32, dtype=np.uint8) * 255).save(folder / name / "one.png")
    found = [
        key(),
        key("stage:aa", 0.5),
        key("stage:aa", 0.25),
        key("stage:bb", 0.5),
        key("synthetic://ordered?num=4", 0.5),
        key("synthetic://ordered?num=5", 0.5),
        key("preset:tiny_sage_gan", 0.5),
        key("preset:tiny_sage_gan?pairs=3", 0.5),
        key("preset:tiny_sage_gan?adversarial.epochs=3", 0.5),
        key(str(folders[0]), 0.5),
    ]
    assert len(set(found)) == len(found)
    assert key(str(folders[1]), 0.5) == found[-1]
    Image.fromarray(np.eye(32, dtype=np.uint8) * 254).save(folders[0] / "images" / "one.png")
    assert key(str(folders[0]), 0.5) != found[-1]


def test_two_arms_of_a_seed_share_what_makes_their_pairs() -> None:
    generated, mixed = (
        pair_stages(config("preset:tiny_sage_gan?pairs=9", share, "seed=4"), "f", "s", NUMBERS) for share in (1.0, 0.5)
    )
    assert generated == mixed and list(generated.keys()) == ["pretrain", "adversarial", "pairs"]
    other = pair_stages(config("preset:tiny_sage_gan?pairs=9", 1.0, "seed=5"), "f", "s", NUMBERS)
    assert not set(other.keys().values()) & set(generated.keys().values())
    more = pair_stages(config("preset:tiny_sage_gan?pairs=8", 1.0, "seed=4"), "f", "s", NUMBERS)
    assert more.trained == generated.trained and more.pairs != generated.pairs
    assert [end for _, end in ends_of(config("preset:tiny_sage_gan?pairs=9", 1.0), generated.keys()).values()] == [
        *(8, 16),
        1,
    ]


def test_the_origin_is_the_preset_on_the_data_and_numerics_of_the_run() -> None:
    text = "preset:tiny_sage_gan?pairs=9&adversarial.epochs=3&data.augment.hflip=0.1"
    run = config(text, 0.5, "seed=7", "data.augment.vflip=0.2", "data.split.seed=3", "runtime.threads=1")
    origin = origin_config(run)
    assert origin is not None and origin.adversarial.epochs == 3 and origin.generator.width == 8
    assert (origin.seed, origin.runtime, origin.data.split) == (7, run.runtime, run.data.split)
    assert (origin.data.augment.hflip, origin.data.augment.vflip) == (0.1, 0.2)
    assert not origin.data.extra_pairs and not origin.pretrain.synthetic_share
    whole = config("preset:tiny_sage_gan", 0.5, "data.split.validation=0", "evaluation.select=last")
    made = origin_config(whole)
    assert made is not None and (made.evaluation.select, made.pretrain.handoff) == ("last", "last")


@pytest.mark.parametrize(
    ("pairs", "share", "says"),
    [
        ("", 0.5, "without data.extra_pairs"),
        ("stage:aa", 0.0, "without a share of the batches"),
        ("stage:", 0.5, "names nothing"),
        ("stage:aa?pairs=3", 0.5, "a stage has none"),
        ("preset:tiny_sage_gan?pairs=0", 0.5, "at least 1"),
        ("preset:tiny_sage_gan?seed=3", 0.5, "unknown option seed=3"),
        ("preset:tiny_sage_gan?data.path=x", 0.5, "that of the run"),
        ("preset:tiny_sage_gan?pretrain.epochs=0&pretrain.checkpoint=run", 0.5, "nobody tells what"),
        ("preset:tiny_sage_gam", 0.5, "did you mean tiny_sage_gan"),
        ("preset:tiny_sage_gan?adversarial.epoch=3", 0.5, "did you mean adversarial.epochs"),
        ("preset:tiny_unet", 0.5, "a preset without generator or renderer"),
        ("synthetic://ordered?nun=3", 0.5, "unknown or repeated nun"),
    ],
)
def test_bad_input_is_one_line(pairs: str, share: float, says: str) -> None:
    sets = [f"pretrain.synthetic_share={share}", *([f"data.extra_pairs={pairs}"] if pairs else [])]
    with pytest.raises(UserError, match=says) as caught:
        stage_keys(tiny_config(*sets, preset="tiny_attention_unet"), "f", "s", NUMBERS)
    assert "\n" not in str(caught.value)


def test_a_share_without_phase_1_is_refused() -> None:
    with pytest.raises(UserError, match=r"set pretrain.epochs above 0"):
        tiny_config("data.extra_pairs=stage:x", "pretrain.synthetic_share=1", "pretrain.epochs=0")


def test_files_in_settings_of_a_preset_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sizes.csv").write_text("")
    text = "preset:tiny_diffrender?pairs=4&render.sizes=fitted&render.sizes_table=sizes.csv"
    moved = str(PairSource.parse(text).absolute())
    assert moved == text.replace("=sizes.csv", f"={tmp_path / 'sizes.csv'}")
    assert str(PairSource.parse(text.replace("sizes.csv", "gone.csv")).absolute()).endswith("=gone.csv")
    config = tiny_config("render.sizes=fitted", "render.sizes_table=sizes.csv", preset="tiny_diffrender")
    assert located(config).render.sizes_table == str(tmp_path / "sizes.csv")


@pytest.mark.parametrize(
    ("text", "name", "pairs"),
    [
        ("really? & é", "really? & é", None),
        ("a?b?pairs=3", "a?b", 3),
        ("model:/x/what?", "/x/what?", None),
        ("runs/a?pairs=2", "runs/a", 2),
    ],
)
def test_a_folder_may_have_question_marks_in_its_name(text: str, name: str, pairs: int | None) -> None:
    source = PairSource.parse(text)
    assert (source.name, source.pairs) == (name, pairs) and PairSource.parse(str(source)) == source


def test_an_option_of_a_folder_that_is_misspelt_is_no_part_of_its_name() -> None:
    with pytest.raises(ValueError, match="unknown option pair=3"):
        PairSource.parse("folder?pair=3")
