"""What a study, a run or a final training needs beside its data is looked for before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from design_cases import ARMS, changed, load
from sweep_cases import write_space
from tiny_cases import SMALLEST, as_sets, tiny_config

from sage_ray.errors import UserError
from sage_ray.record.home import Home
from sage_ray.registry.final import final
from sage_ray.runtime.launch import run
from sage_ray.search.ablate import ablate
from sage_ray.search.driver import sweep
from sage_ray.search.study_at_hand import check_study
from sage_ray.study.space import Space, load_space
from sage_ray.terminal.cli import call

SHARE = "pretrain.synthetic_share"
FITTED = "render.engine=shader&render.sizes=fitted"


def lost_vgg(folder: Path) -> dict[str, Any]:
    return {"adversarial.perceptual": "vgg19", "adversarial.perceptual_weights": str(folder / "no.safetensors")}


def space_of(folder: Path, preset: str = "tiny_sage_gan", base: dict[str, Any] | None = None, **space: Any) -> Space:
    """A search over the rate of phase 1, and whatever else is given by path (dots as two underscores)."""
    dimensions = {"pretrain.lr": {"float": [1e-5, 1e-3], "log": True}}
    dimensions |= {path.replace("__", "."): {"categorical": choices} for path, choices in space.items()}
    path = write_space(folder, space=dimensions)
    tree = yaml.safe_load(path.read_text())
    tree["base"] = {"preset": preset, "set": {**SMALLEST, "runtime.pictures": False, **(base or {})}}
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return load_space(path)


def refused(space: Space, home: Home) -> str:
    """The one line by which a sweep refuses a study of which nothing is left then."""
    with pytest.raises(UserError) as caught:
        sweep(space, home)
    assert "\n" not in str(caught.value)
    assert home.run_ids() == [] and not (home.studies / space.name).exists()
    return str(caught.value)


def test_a_sweep_without_its_published_weights_is_refused_before_its_first_trial(home: Home, tmp_path: Path) -> None:
    assert "no such file of VGG19 weights" in refused(space_of(tmp_path, base=lost_vgg(tmp_path)), home)
    pretrained = {"segmenter.encoder_weights": str(tmp_path / "gone.pth"), "segmenter.width": 8}
    assert "no such file of ResNet-34 weights" in refused(space_of(tmp_path, "tiny_pretrained_unet", pretrained), home)


def test_the_refusal_is_one_line_and_exit_2(home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space_of(tmp_path, base=lost_vgg(tmp_path))
    assert call(["sweep", str(tmp_path / "tiny.yaml"), "--home", str(home.path)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "no such file of VGG19 weights" in line and home.run_ids() == []


def test_what_a_dimension_decides_on_is_not_asked_for(home: Home, tmp_path: Path) -> None:
    check_study(space_of(tmp_path, base=lost_vgg(tmp_path), adversarial__perceptual=["none", "vgg19"]), home)
    check_study(space_of(tmp_path, base=lost_vgg(tmp_path), adversarial__epochs=[0, 2]), home)
    here = "synthetic://ordered?num=4"
    pairs = {"data.extra_pairs": "stage:00", SHARE: 0.5}
    check_study(space_of(tmp_path, base=pairs, data__extra_pairs=["stage:00", here]), home)
    with pytest.raises(UserError, match="no such stage of pairs"):
        check_study(space_of(tmp_path, base=pairs, pretrain__synthetic_share=[0.25, 0.5]), home)


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ("nosuch/folder", "no such folder of extra pairs"),
        ("nosuch", "no such model"),
        ("stage:0123456789abcdef", "no such stage of pairs"),
        ("preset:tiny_attention_unet", "a preset without generator or renderer"),
        (f"preset:tiny_diffrender?{FITTED}&render.sizes_table=gone.csv", "no such file.*sizes_table"),
        ("preset:tiny_sage_gan?adversarial.perceptual=vgg19&adversarial.perceptual_weights=no.pth", "VGG19 weights"),
    ],
)
def test_a_sweep_whose_extra_pairs_cannot_be_had_is_refused(home: Home, tmp_path: Path, named: str, says: str) -> None:
    space = space_of(tmp_path, "tiny_attention_unet", {"data.extra_pairs": named, SHARE: 0.5})
    with pytest.raises(UserError, match=says) as caught:
        check_study(space, home)
    assert "data.extra_pairs" in str(caught.value) and "\n" not in str(caught.value)


def test_an_arm_whose_extra_pairs_cannot_be_had_is_named(home: Home, tmp_path: Path) -> None:
    arm = {"set": {"data.extra_pairs": "stage:0123456789abcdef", SHARE: 0.5}}
    design = load(changed(ARMS, arms__stored=arm), tmp_path)
    with pytest.raises(UserError, match=r"no such stage of pairs: arm stored, .*arms.stored.not_run=REASON"):
        ablate(design, home)
    assert home.run_ids() == [] and not (home.studies / "good").exists()


def test_a_run_that_cannot_have_its_encoder_does_not_train_a_gan_first(home: Home, tmp_path: Path) -> None:
    (tmp_path / "junk.pth").write_bytes(b"no weights")
    pairs = "preset:tiny_sage_gan?pairs=4&pretrain.epochs=1&adversarial.epochs=1"
    sets = (f"data.extra_pairs={pairs}", f"{SHARE}=0.5", f"segmenter.encoder_weights={tmp_path / 'junk.pth'}")
    config = tiny_config(*sets, "segmenter.width=8", preset="tiny_pretrained_unet")
    with pytest.raises(UserError, match="not .*weights|checkpoint of tensors"):
        run(config, home, "r", mirror=False, launcher="inline")
    assert home.run_ids() == [] and not list(home.stages.glob("*/*"))


def test_a_run_that_has_trained_is_not_asked_again(home: Home, tmp_path: Path) -> None:
    words = as_sets(SMALLEST | {"pretrain.epochs": 1, "adversarial.epochs": 0, "runtime.pictures": False})
    table = tmp_path / "particles.csv"
    table.write_text("equivalent_diameter_px\n" + "6.0\n" * 40)
    config = tiny_config(
        *words,
        *("render.epochs=1", "render.engine=shader", "render.sizes=fitted", f"render.sizes_table={table}"),
        preset="tiny_diffrender",
    )
    first = run(config, home, "r", mirror=False, launcher="inline")
    assert first.finished, first.error
    table.unlink()
    assert run(config, home, "r", mirror=False, launcher="inline").weights_sha == first.weights_sha
    with pytest.raises(UserError, match="no such file"):
        run(config, home, "other", mirror=False, launcher="inline")


def test_a_final_training_is_not_declared_if_it_cannot_begin(home: Home, tmp_path: Path) -> None:
    lost = tiny_config(*as_sets(lost_vgg(tmp_path)))
    with pytest.raises(UserError, match="no such file of VGG19 weights"):
        final(lost, home, seeds=(0,))
    pairs = tiny_config("data.extra_pairs=stage:0123456789abcdef", f"{SHARE}=0.5")
    with pytest.raises(UserError, match="no such stage of pairs"):
        final(pairs, home, seeds=(0,))
    assert not list(home.finals.glob("*.json")) and home.run_ids() == []
