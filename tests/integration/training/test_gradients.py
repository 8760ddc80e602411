"""`doctor --gradients`: dead pairs of every mask path and kind of preset, and what is said of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sage_ray.config import resolve
from sage_ray.data.synth import write_dataset
from sage_ray.models import DISCRIMINATORS
from sage_ray.models.patch_gan import PatchGAN
from sage_ray.terminal.cli import call
from sage_ray.training import gradients
from sage_ray.training.gradients import (
    EXPECTED,
    GradientReport,
    gradient_norms,
    measure_gradients,
    step_kinds,
)

SETS = ["segmenter.width=4", "segmenter.depth=2", "generator.width=4", "generator.depth=2", "generator.style_dim=4"]
SETS += ["discriminators.width=4", "discriminators.heads=1", "discriminators.head_dim=4", "runtime.threads=1"]

BEHIND_ARGMAX = {("adv_mask", "segmenter"), ("rec_image_l1", "segmenter")}
VGG_TERMS = {"rec_image_vgg", "id_image_vgg"}
KINDS = [(False, True), (False, False), (True, True), (True, False)]


@pytest.fixture(autouse=True)
def _timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are shown, not tested for size."""
    monkeypatch.setattr(gradients, "REPEATS", 1)


def measure(tmp_path: Path, preset: str, *sets: str) -> GradientReport:
    return measure_gradients(resolve(preset, sets=[*SETS, *sets]).config, tmp_path / "cache")


def pairs(found: list) -> set[tuple[str, str]]:
    return {(pair.term, pair.network) for pair in found}


@pytest.mark.parametrize(
    ("preset", "sets", "dead", "kinds"),
    [
        ("tiny_sage_gan_public", [], BEHIND_ARGMAX, KINDS),
        ("tiny_sage_gan_paper", [], set(), KINDS[:2] + KINDS[3:]),  # mixing begins after the one frozen epoch
        ("tiny_sage_gan_paper", ["adversarial.mask_path=soft"], set(), KINDS[:2] + KINDS[3:]),
        ("tiny_cgan_seg", [], BEHIND_ARGMAX, KINDS[:1]),
        ("tiny_attention_unet", [], set(), []),
        ("tiny_sage_gan", ["adversarial.mix_max=0"], {("rec_mask", "segmenter")}, KINDS[1::2]),
    ],
)
def test_dead_pairs(
    tmp_path: Path, preset: str, sets: list[str], dead: set[tuple[str, str]], kinds: list[tuple[bool, bool]]
) -> None:
    report = measure(tmp_path, preset, *sets)
    assert pairs(report.dead) == dead
    steps = [step for step in report.steps if step.frozen is not None]
    assert [(step.frozen, step.synthetic) for step in steps] == kinds
    assert report.perceptual is None and set(report.off) == (VGG_TERMS if kinds else set())
    # What is neither dead nor off gets a gradient in the first kind of step that has it.
    alive = {(term, network) for term in report.norms for network in EXPECTED[term]} - dead
    assert all(report.norms[term][network] > 0 for term, network in alive)
    assert not pairs(report.on_purpose) & dead
    for step in steps:
        frozen_out = {"adv_image", "id_image_l1"} if step.frozen else set()
        both = {"rec_image_l1"} if step.frozen and dead >= BEHIND_ARGMAX else set()
        assert set(step.left_out) == frozen_out | both and step.step_ms > 0
        assert all(norm == 0.0 for term in step.left_out for norm in step.norms[term].values())


def test_perceptual_terms_are_measured_without_their_weights(tmp_path: Path) -> None:
    sets = ["adversarial.perceptual=vgg19", "adversarial.freeze_epochs=0", "adversarial.mix_start=1"]
    report = measure(tmp_path, "tiny_sage_gan_public", *sets, "adversarial.mix_max=1")
    assert pairs(report.dead) == BEHIND_ARGMAX | {("rec_image_vgg", "segmenter")}
    assert report.norms["rec_image_vgg"]["generator"] > 0 and report.norms["id_image_vgg"]["generator"] > 0
    assert report.perceptual is not None and report.perceptual.startswith("random weights")
    assert not report.off and not list(tmp_path.rglob("*.safetensors"))


def test_what_only_some_kinds_of_step_train_is_on_purpose(tmp_path: Path) -> None:
    report = measure(tmp_path, "tiny_sage_gan", "adversarial.weights.id_image_l1=0", "adversarial.lambda_cycle=0.5")
    why = {(pair.term, pair.network): pair.why for pair in report.on_purpose}
    assert "frozen up to epoch 1" in why["adv_image", "generator"]
    assert "without synthetic images" in why["rec_mask", "segmenter"]
    assert "detached" in why["loss_disc_mask", "segmenter"] and "judges" in why["adv_image", "disc_image"]
    assert report.off["id_image_l1"] == "adversarial.weights.id_image_l1=0"
    assert step_kinds(resolve("sage_gan_paper").config.adversarial) == KINDS
    assert step_kinds(resolve("tiny_sage_gan", sets=["adversarial.freeze_epochs=99"]).config.adversarial) == KINDS[2:]


def test_a_cycle_image_that_waits_for_the_generator_is_on_purpose_or_dead(tmp_path: Path) -> None:
    off = "adversarial.cycle_image_while_frozen=false"
    report = measure(tmp_path, "tiny_sage_gan", off)
    why = {(pair.term, pair.network): pair.why for pair in report.on_purpose}
    assert "waits until the generator learns" in why["rec_image_l1", "segmenter"] and not report.dead
    for step in report.steps[1:]:
        assert ("rec_image_l1" in step.left_out) == bool(step.frozen)
        assert (step.norms["rec_image_l1"]["segmenter"] == 0.0) == bool(step.frozen)
    # Where the generator never learns, the term trains nothing in the whole run.
    assert pairs(measure(tmp_path, "tiny_sage_gan", off, "adversarial.freeze_epochs=99").dead) >= {
        ("rec_image_l1", "segmenter")
    }


class BlindGAN(PatchGAN):
    def forward(self, image: Tensor) -> Tensor:
        """Scores through which nothing flows back."""
        return super().forward(image.detach())


def test_a_network_that_lets_nothing_through_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DISCRIMINATORS, "blind_gan", BlindGAN)
    report = measure(tmp_path, "tiny_sage_gan", "discriminators.name=blind_gan", "adversarial.freeze_epochs=0")
    assert pairs(report.dead) == {("adv_image", "generator"), ("adv_mask", "segmenter")}
    assert all("look at the networks" in pair.why for pair in report.dead)


def test_norms_are_over_all_parameters_that_learn() -> None:
    first, second, still = nn.Linear(2, 1), nn.Linear(1, 1), nn.Linear(1, 1)
    still.requires_grad_(False)
    networks: dict[str, nn.Module] = {"first": first, "second": second, "still": still}
    value = first(torch.tensor([3.0, 4.0])).sum()
    norms = gradient_norms(value, networks)
    assert norms == {"first": pytest.approx(26**0.5), "second": 0.0, "still": 0.0}
    assert gradient_norms(value.detach(), networks) == dict.fromkeys(networks, 0.0)


def test_the_pictures_are_the_configs_or_drawn(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "data", 3, 32, 0)
    ours = measure(tmp_path, "tiny_unet", f"data.path={folder}")
    assert ours.data == str(folder)
    assert ours.norms != measure(tmp_path, "tiny_unet").norms
    assert measure(tmp_path, "tiny_unet", "data.path=elsewhere").data == "drawn particles, as elsewhere is not here"


def test_the_verb_tells_dead_pairs_norms_and_what_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("extends: tiny_sage_gan_public\nadversarial: {mix_start: 1, mix_max: 1}\n", encoding="utf-8")
    args = ["doctor", "--gradients", str(path), "--home", str(tmp_path / "home"), "--quiet"]
    args += [part for text in SETS for part in ("--set", text)]
    assert call([*args, "--json"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    answer = json.loads(last)
    assert sorted(answer["dead"]) == [["adv_mask", "segmenter"], ["rec_image_l1", "segmenter"]]
    assert answer["norms"]["adv_mask"]["segmenter"] == 0.0 and answer["norms"]["rec_mask"]["generator"] > 0
    assert [step["left_out"] for step in answer["steps"][1:]] == [[], ["adv_image", "rec_image_l1", "id_image_l1"]]
    assert answer["verb"] == "doctor" and "--set adversarial.mask_path=straight_through" in answer["next"][0]
    table = [line.split() for line in lines if line.startswith(("adv_mask", "rec_image_l1"))]
    assert table[0][:3] == ["adv_mask", "DEAD", "-"] and table[0][4:6] == ["detached", "computed"]
    assert table[1][:2] == ["rec_image_l1", "DEAD"] and table[1][-1] == "computed"
    assert any(line.startswith("dead: adv_mask, rec_image_l1 -> segmenter: a hard arg-max") for line in lines)
    assert "computed all the same, as they train another network: rec_image_l1" in lines
    assert "computed all the same, for the curves alone: adv_mask" in lines
    assert any(line.split()[0] == "adv_image" and line.endswith("left out") for line in lines if line)
    assert "\x1b" not in "".join(lines)

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert call([*args, "--set", "adversarial.mask_path=soft"]) == 0
    shown = capsys.readouterr().out
    assert "\x1b[1m" in shown and "dead: no pair" in shown and "DEAD" not in shown
