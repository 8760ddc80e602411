"""Parity with the published code on a device, for `benchmarks/gpu.py` and `tests/gpu`: the checks of tests/golden.

The vectors are those of the repository, or of the folder that `SAGE_PARITY_DIR` names.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).resolve().parents[1] / "tests" / "golden"
if str(GOLDEN) not in sys.path:
    sys.path.insert(0, str(GOLDEN))

import loss_checks  # noqa: E402  (beside the golden tests)
import network_checks  # noqa: E402
import step_checks  # noqa: E402
from parity import Parity, parity_folder  # noqa: E402
from placing import Place  # noqa: E402

from sage_ray.config import ExperimentConfig  # noqa: E402

PUBLIC: dict[str, Any] = {
    "generator.style": "modulated",
    "generator.noise": "mean",
    "generator.mixing_points": "public",
    "segmentation_loss.focal_form": "batch",
    "segmentation_loss.reduction": "batch",
    "adversarial.mask_path": "argmax",
    "adversarial.mix_start": 0.005,
    "adversarial.generator_feedback": "synthetic_steps",
    "adversarial.disc_augment_shared": False,
    "adversarial.synthetic_statistics": "update",
}
"""What a step reads of preset `sage_gan_public` where it is no default: presets are YAML, which is not read here."""


@dataclass(frozen=True)
class Check:
    """One check: `run(place)` raises AssertionError where our values leave the manifest's tolerance."""

    name: str
    run: Callable[[Place], None]
    in_float64: bool = True
    slow: bool = False


def checks(parity: Parity, cache_dir: Path) -> list[Check]:
    """Every check of tests/golden that computes with tensors."""
    public = ExperimentConfig().with_values(PUBLIC)

    def step(check: Callable[..., None]) -> Callable[[Place], None]:
        return lambda place: check(parity, public, place.device, cache_dir)

    def network(check: Callable[..., None], *mode: str) -> Callable[[Place], None]:
        return lambda place: check(parity, place, *mode)

    return [
        Check("segmentation loss", network(loss_checks.check_segmentation_loss)),
        Check("perceptual loss", network(loss_checks.check_vgg_loss)),
        Check("differentiable augmentation", network(loss_checks.check_diff_augment)),
        Check("attention gate, eval", network(network_checks.check_attention_gate, "eval")),
        Check("attention gate, train", network(network_checks.check_attention_gate, "train")),
        Check("modulated convolution", network(network_checks.check_modulated_conv)),
        Check("style mapper", network(network_checks.check_style_mapper)),
        Check("linear attention", network(network_checks.check_linear_attention)),
        Check("discriminator, eval", network(network_checks.check_discriminator, "eval")),
        Check("discriminator, train", network(network_checks.check_discriminator, "train")),
        Check("attention U-Net", network(network_checks.check_attention_unet)),
        Check("style generator", network(network_checks.check_style_generator)),
        Check("step of phase 1", step(step_checks.check_pretrain_step), in_float64=False),
        Check("steps of phase 2", step(step_checks.check_adversarial_step), in_float64=False, slow=True),
    ]


def run_checks(
    places: list[Place], *, with_slow: bool = True, only: Collection[str] | None = None
) -> Iterator[dict[str, Any]]:
    """A row for each check in each place: check, dtype, passed, seconds, and what differed if it failed.

    Args:
        places: where and in which precision.
        with_slow: whether the slow ones run too.
        only: names of the checks that run; None: all.
    """
    parity = Parity(parity_folder())
    with tempfile.TemporaryDirectory() as folder:
        for place in places:
            for check in checks(parity, Path(folder)):
                left_out = only is not None and check.name not in only
                if left_out or (place.double and not check.in_float64) or (check.slow and not with_slow):
                    continue
                yield _row(check, place)


def _row(check: Check, place: Place) -> dict[str, Any]:
    started = time.perf_counter()
    error = None
    try:
        check.run(place)
    except Exception as caught:  # a failed check, or an operation that this device lacks: the others still run
        error = f"{type(caught).__name__}: {' '.join(str(caught).split())[:300]}"
    dtype = str(place.dtype).removeprefix("torch.")
    row = {"check": check.name, "dtype": dtype, "passed": error is None, "seconds": time.perf_counter() - started}
    return row if error is None else row | {"error": error}
