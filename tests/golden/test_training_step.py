"""The trainer's own steps, as built from preset `sage_gan_public`, against the vectors of case training_step."""

from __future__ import annotations

from pathlib import Path

import step_checks
import torch
from parity import Handled, Parity

from sage_ray.config import resolve

HANDLES = {
    "training_step": Handled(
        arrays=(
            r"image|mask|z[1-4]|noise_[ab]",
            r"[^/]+/[^/]+/(value|grad_norms)",
            r"[^/]+/(total|total_grad_norms|disc_losses|disc_grad_norms|fake_image|rec_image|argmax_mask)",
            r"phase1/(loss|grad_norm|param_grads)",
        ),
        keys=("weights",),
    )
}
CPU = torch.device("cpu")


def test_adversarial_step(parity: Parity, tmp_path: Path) -> None:
    step_checks.check_adversarial_step(parity, resolve("sage_gan_public").config, CPU, tmp_path)


def test_pretrain_step(parity: Parity, tmp_path: Path) -> None:
    step_checks.check_pretrain_step(parity, resolve("sage_gan_public").config, CPU, tmp_path)


def test_the_preset_has_the_published_weights(parity: Parity) -> None:
    assert resolve("sage_gan_public").config.adversarial.weights.model_dump() == step_checks.term_weights(parity)
