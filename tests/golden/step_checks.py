"""Checks of the trainer's own steps against the vectors of case training_step, on any device; pytest is not needed.

`test_training_step.py` runs them on the CPU, `tests/gpu` and `benchmarks/gpu.py` on a GPU.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from neutral_names import (
    attention_unet,
    discriminator,
    gradient_rows,
    load_weights,
    our_loss_keywords,
    style_generator,
    vgg19_loss,
)
from parity import Case, Parity, assert_columns
from placing import assert_relative, to_numpy
from torch import Tensor, nn

from sage_ray.config import ExperimentConfig
from sage_ray.training import build
from sage_ray.training.adversarial import adversarial_step
from sage_ray.training.batches import Batch
from sage_ray.training.context import LocalContext
from sage_ray.training.pretrain import pretrain_step
from sage_ray.training.recipe import Observer, build_recipe
from sage_ray.training.state import TrainState
from sage_ray.training.terms import left_out_terms

VARIANT = r"([^/]+)/total"
# Order of the weight groups that the case names.
NETWORKS = ("generator", "segmenter", "disc_image", "disc_mask", "perceptual")


class GivenDraws:
    """The draws of the vectors: codes, noise images, crossovers, and whether the step is synthetic."""

    step = 1

    def __init__(self, case: Case, synthetic: bool, device: torch.device) -> None:
        self.case, self.synthetic, self.device = case, synthetic, device

    def normal(self, name: str, shape: Sequence[int]) -> Tensor:
        codes = {"fake/z_first": "z1", "fake/z_second": "z2", "rec/z_first": "z3", "rec/z_second": "z4"}
        return torch.from_numpy(self.case[codes[name]]).to(self.device)

    def uniform(self, name: str, shape: Sequence[int]) -> Tensor:
        noise = self.case[{"fake/noise": "noise_a", "rec/noise": "noise_b"}[name]]
        return torch.from_numpy(noise).permute(0, 3, 1, 2).to(self.device)

    def batch_uniform(self, name: str, count: int) -> list[float]:
        if name == "mix":
            return [0.0 if self.synthetic else 1.0]
        first_code = {"fake/mixing": "z1", "rec/mixing": "z3"}.get(name)
        if first_code is None:
            return [1.0] * count
        # The draw that lets two codes meet after as many entries as the vectors say, whatever is rounded.
        crossover, entries = self.case.stated(r"first (?:(\d+) )?(?:entry |entries )?of (\d+)", first_code)
        return [0.0, (int(crossover or 1) + 0.5) / int(entries)]


class StepCase:
    """The case training_step on a device, with the config that its steps are built from.

    The config is `public` (preset `sage_gan_public`) at the size of the weights, with the set's losses and what the
    case switches off: dropout and (here alone) the download of VGG19.
    """

    def __init__(self, parity: Parity, public: ExperimentConfig, device: torch.device) -> None:
        self.parity, self.case = parity, parity.case("training_step")
        self.groups = dict(zip(NETWORKS, self.case.spec["weights"], strict=True))
        self.config = public.with_values(self._sizes() | self._losses() | {"runtime.device": device.type})
        self.context = LocalContext(self.config.runtime)
        self.rtol_value = float(self.case.tolerance("", "values")["rtol"])
        self.rtol_norm = float(self.case.tolerance("", "grad_norms")["rtol"])

    def _sizes(self) -> dict[str, object]:
        segmenter = attention_unet(self.parity, self.groups["segmenter"])
        generator = style_generator(self.parity, self.groups["generator"])
        disc = discriminator(self.parity, self.groups["disc_image"])
        assert disc.attention is not None
        return {
            "segmenter.width": segmenter.head.in_channels,
            "segmenter.depth": len(segmenter.decoder),
            "generator.width": generator.head.in_channels,
            "generator.depth": generator.levels,
            "generator.style_dim": generator.style_dim,
            "discriminators.width": disc.conv1.out_channels,
            "discriminators.heads": disc.attention.heads,
            "discriminators.head_dim": disc.attention.head_dim,
            "segmenter.dropout": 0.0,
            "adversarial.perceptual": "none",
            "runtime.channels_last": False,
            "runtime.precision": "fp32",
            "runtime.threads": 1,
        }

    def _losses(self) -> dict[str, object]:
        (loss,) = self.case.stated(r"Segmentation loss = (\w+) of seg_loss")
        keywords = our_loss_keywords(self.parity.case("seg_loss").spec["configs"][loss])
        losses: dict[str, object] = {f"segmentation_loss.{name}": value for name, value in keywords.items()}
        return losses | {f"adversarial.weights.{name}": weight for name, weight in term_weights(self.parity).items()}

    def state(self, phase: str, frozen: bool) -> TrainState:
        """A fresh state of a phase with the weights of the case."""
        state = build.build_state(self.config, phase, self.context)
        for name, network in state.networks.items():
            load_weights(network, self.parity.weights(self.groups[name]))
        state.phase_epoch = 0 if frozen else self.config.adversarial.freeze_epochs
        return state

    def batch(self) -> Batch:
        """The pair of the case."""
        image, mask = (torch.from_numpy(self.case[name]).to(self.context.device) for name in ("image", "mask"))
        return Batch(image, mask)

    def step(
        self, variant: str, cache_dir: Path, observe: Observer | None = None
    ) -> tuple[TrainState, dict[str, Tensor], list[tuple[Tensor, Tensor]]]:
        """State and scalars after the step of a variant, and the masks and images of the generator's passes."""
        frozen, synthetic = variant.startswith("frozen"), variant.endswith("synthetic")
        state = self.state("adversarial", frozen)
        recipe = build_recipe(self.config, self.context, cache_dir, observe)
        perceptual = vgg19_loss(self.parity, self.groups["perceptual"]).to(self.context.device)
        recipe = replace(recipe, perceptual=perceptual)
        passes: list[tuple[Tensor, Tensor]] = []
        state.networks["generator"].register_forward_hook(lambda m, args, out: passes.append((args[0], out.detach())))
        draws = GivenDraws(self.case, synthetic, self.context.device)
        return state, adversarial_step(state, self.batch(), draws, recipe), passes


def term_weights(parity: Parity) -> dict[str, float]:
    """Weights of the objective's terms by our names, as the facts have them."""
    names = {"adversarial_image": "adv_image", "adversarial_mask": "adv_mask"}
    return {names.get(name, name): weight for name, weight in parity.facts["loss_weights"]["sage"].items()}


def check_adversarial_step(parity: Parity, public: ExperimentConfig, device: torch.device, cache_dir: Path) -> None:
    """Every variant of the case."""
    steps = StepCase(parity, public, device)
    variants = steps.case.groups(VARIANT)
    assert variants and any(variant.startswith("frozen") for variant in variants)
    for variant in variants:
        check_variant(steps, variant, cache_dir)


def check_variant(steps: StepCase, variant: str, cache_dir: Path) -> None:
    """The step, term by term as the vectors have it, but for terms that only a frozen generator would learn from.

    Those are left out: the vectors say that they give no network a gradient, and the step has the same gradients and
    fake image without them.
    """
    case = steps.case
    seen: dict[str, tuple[float, list[float]]] = {}

    def observe(terms: dict[str, Tensor], networks: dict[str, nn.Module]) -> None:
        for name, term in terms.items():
            norms = []
            for network in ("generator", "segmenter"):
                parameters = [p for p in networks[network].parameters() if p.requires_grad]
                if not (term.requires_grad and parameters):
                    norms.append(0.0)
                    continue
                norms.append(norm(torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)))
            seen[name] = (float(term.detach()), norms)

    state, scalars, passes = steps.step(variant, cache_dir, observe)

    expected_terms = case.groups(rf"{variant}/([^/]+)/value")
    frozen = variant.startswith("frozen")
    left_out = set(left_out_terms(steps.config.adversarial, frozen=frozen))
    assert set(seen) == {*expected_terms, "loss_disc_image", "loss_disc_mask"} - left_out, variant
    assert seen["loss_disc_image"][1] == seen["loss_disc_mask"][1] == [0.0, 0.0], "discriminators train others"
    total = float(case[f"{variant}/total"])
    for term in expected_terms:
        if term in left_out:
            assert not case[f"{variant}/{term}/grad_norms"].any(), f"{variant}: {term} trains a network"
            total -= float(case[f"{variant}/{term}/value"])
            continue
        value, norms = seen[term]
        assert_relative(value, float(case[f"{variant}/{term}/value"]), steps.rtol_value, f"{variant} {term}")
        close_norms(norms, case[f"{variant}/{term}/grad_norms"], steps.rtol_norm, f"{variant} {term}")
    assert_relative(float(scalars["loss"]), total, steps.rtol_value, f"{variant} total")
    check_gradients(steps, state, scalars, variant)
    case.assert_matches(f"{variant}/fake_image", to_numpy(passes[0][1]))
    if left_out & {"rec_image_l1", "rec_image_vgg"}:
        assert len(passes) == 1, f"{variant}: an image is reconstructed that trains nothing"
        return
    case.assert_matches(f"{variant}/rec_image", to_numpy(passes[1][1]), kind="fake_image")
    differing = (to_numpy(passes[1][0]) != case[f"{variant}/argmax_mask"]).mean()
    (percent,) = re.findall(r"at most ([\d.]+) %", case.tolerance("", "argmax_mask"))
    assert differing <= float(percent) / 100, f"{variant}: {differing:.2%} of the arg-max mask differs"


def check_gradients(steps: StepCase, state: TrainState, scalars: dict[str, Tensor], variant: str) -> None:
    """Losses of the discriminators and norms of all gradients after a step."""
    case = steps.case
    losses = [float(scalars["loss_disc_image"]), float(scalars["loss_disc_mask"])]
    for loss, expected in zip(losses, case[f"{variant}/disc_losses"].tolist(), strict=True):
        assert_relative(loss, expected, steps.rtol_value, f"{variant} discriminators")
    totals = {name: norm([p.grad for p in network.parameters()]) for name, network in state.networks.items()}
    for pair, name in (
        (("generator", "segmenter"), "total_grad_norms"),
        (("disc_image", "disc_mask"), "disc_grad_norms"),
    ):
        close_norms([totals[p] for p in pair], case[f"{variant}/{name}"], steps.rtol_norm, f"{variant} {name}")


def check_pretrain_step(parity: Parity, public: ExperimentConfig, device: torch.device, cache_dir: Path) -> None:
    """Loss and gradients of a step of phase 1."""
    steps = StepCase(parity, public, device)
    case, state = steps.case, steps.state("pretrain", frozen=False)
    recipe = build_recipe(steps.config, steps.context, cache_dir)
    scalars = pretrain_step(state, steps.batch(), GivenDraws(case, False, steps.context.device), recipe)
    segmenter = state.networks["segmenter"]
    assert_relative(float(scalars["loss"]), float(case["phase1/loss"]), steps.rtol_value, "phase1 loss")
    close_norms([norm([p.grad for p in segmenter.parameters()])], case["phase1/grad_norm"], steps.rtol_norm, "phase1")
    actual = gradient_rows(segmenter, parity.rows(steps.groups["segmenter"]))
    rule = parity.case("attention_unet").tolerance("", "param_grads")
    assert_columns(actual, case["phase1/param_grads"], rule["rtol"], "phase1")


def norm(gradients: Sequence[Tensor | None]) -> float:
    """L2 norm over all the gradients that are there."""
    found = [g.double().square().sum() for g in gradients if g is not None]
    return float(torch.stack(found).sum().sqrt()) if found else 0.0


def close_norms(actual: Sequence[float], expected: np.ndarray, rtol: float, label: str) -> None:
    """Assert relative equality; an expected zero must be one."""
    for got, wanted in zip(actual, np.atleast_1d(expected), strict=True):
        assert (got == 0.0) if wanted == 0 else abs(got - wanted) <= rtol * wanted, f"{label}: {got}, not {wanted}"
