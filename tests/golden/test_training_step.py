"""The trainer's own steps, as built from preset `sage_gan_public`, against the vectors of case training_step."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
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
from parity import Case, Handled, Parity, assert_columns
from torch import Tensor, nn

from sage_ray.config import ExperimentConfig, resolve
from sage_ray.training import build
from sage_ray.training.adversarial import adversarial_step
from sage_ray.training.batches import Batch
from sage_ray.training.context import LocalContext
from sage_ray.training.pretrain import pretrain_step
from sage_ray.training.recipe import Observer, build_recipe
from sage_ray.training.state import TrainState

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
VARIANT = r"([^/]+)/total"
# Order of the weight groups that the case names.
NETWORKS = ("generator", "segmenter", "disc_image", "disc_mask", "perceptual")


class GivenDraws:
    """The draws of the vectors: codes, noise images, crossovers, and whether the step is synthetic."""

    step = 1

    def __init__(self, case: Case, synthetic: bool) -> None:
        self.case, self.synthetic = case, synthetic

    def normal(self, name: str, shape: Sequence[int]) -> Tensor:
        codes = {"fake/z_first": "z1", "fake/z_second": "z2", "rec/z_first": "z3", "rec/z_second": "z4"}
        return torch.from_numpy(self.case[codes[name]])

    def uniform(self, name: str, shape: Sequence[int]) -> Tensor:
        noise = self.case[{"fake/noise": "noise_a", "rec/noise": "noise_b"}[name]]
        return torch.from_numpy(noise).permute(0, 3, 1, 2)

    def batch_uniform(self, name: str, count: int) -> list[float]:
        if name == "mix":
            return [0.0 if self.synthetic else 1.0]
        first_code = {"fake/mixing": "z1", "rec/mixing": "z3"}.get(name)
        if first_code is None:
            return [1.0] * count
        # The draw that lets two codes meet after as many entries as the vectors say, whatever is rounded.
        crossover, entries = self.case.stated(r"first (?:(\d+) )?(?:entry |entries )?of (\d+)", first_code)
        return [0.0, (int(crossover or 1) + 0.5) / int(entries)]


@pytest.fixture(scope="module")
def case(parity: Parity) -> Case:
    return parity.case("training_step")


@pytest.fixture(scope="module")
def groups(case: Case) -> dict[str, str]:
    return dict(zip(NETWORKS, case.spec["weights"], strict=True))


@pytest.fixture(scope="module")
def config(parity: Parity, case: Case, groups: dict[str, str]) -> ExperimentConfig:
    """The preset at the size of the weights, with the set's losses and what the case switches off.

    Off are dropout and (here alone) the download of VGG19.
    """
    (loss,) = case.stated(r"Segmentation loss = (\w+) of seg_loss")
    segmenter = attention_unet(parity, groups["segmenter"])
    generator = style_generator(parity, groups["generator"])
    disc = discriminator(parity, groups["disc_image"])
    sizes = {
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
        "runtime.threads": 1,
    }
    keywords = our_loss_keywords(parity.case("seg_loss").spec["configs"][loss])
    losses = {f"segmentation_loss.{name}": value for name, value in keywords.items()}
    losses |= {f"adversarial.weights.{name}": weight for name, weight in term_weights(parity).items()}
    return resolve(preset="sage_gan_public", sets=sizes | losses).config


def term_weights(parity: Parity) -> dict[str, float]:
    """Weights of the objective's terms by our names, as the facts have them."""
    names = {"adversarial_image": "adv_image", "adversarial_mask": "adv_mask"}
    return {names.get(name, name): weight for name, weight in parity.facts["loss_weights"]["sage"].items()}


def test_the_preset_has_the_published_weights(parity: Parity) -> None:
    assert resolve("sage_gan_public").config.adversarial.weights.model_dump() == term_weights(parity)


def make_state(
    parity: Parity, groups: dict[str, str], config: ExperimentConfig, phase: str, frozen: bool
) -> TrainState:
    ctx = LocalContext(config.runtime)
    networks: dict[str, nn.Module] = {"segmenter": build.build_segmenter(config, ctx)}
    if phase == "adversarial":
        networks |= build.build_gan(config, ctx)
    for name, network in networks.items():
        load_weights(network, parity.weights(groups[name]))
    settings = getattr(config, phase)
    betas = config.adversarial.betas
    optimizers = {name: build.build_optimizer(network, settings.lr, betas) for name, network in networks.items()}
    state = TrainState(phase, networks, optimizers, build.LearningRate(settings.schedule, optimizers, settings.lr), 0.0)
    state.phase_epoch = 0 if frozen else config.adversarial.freeze_epochs
    return state


def batch_of(case: Case) -> Batch:
    return Batch(torch.from_numpy(case["image"]), torch.from_numpy(case["mask"]))


def norm(gradients: Sequence[Tensor | None]) -> float:
    found = [g.double().square().sum() for g in gradients if g is not None]
    return float(torch.stack(found).sum().sqrt()) if found else 0.0


def close_norms(actual: Sequence[float], expected: np.ndarray, rtol: float, label: str) -> None:
    for got, wanted in zip(actual, np.atleast_1d(expected), strict=True):
        assert (got == 0.0) if wanted == 0 else abs(got - wanted) <= rtol * wanted, f"{label}: {got}, not {wanted}"


def test_adversarial_step(
    parity: Parity, case: Case, groups: dict[str, str], config: ExperimentConfig, tmp_path: Path
) -> None:
    variants = case.groups(VARIANT)
    assert variants
    for variant in variants:
        check_variant(parity, case, groups, config, variant, tmp_path)
    # While the generator is frozen most terms are skipped; that nothing else differs, bit by bit, is a unit test.
    frozen = [variant for variant in variants if variant.startswith("frozen")]
    assert frozen
    check_skipping(parity, case, groups, config, frozen[0], tmp_path)


def step_of_variant(
    parity: Parity,
    case: Case,
    groups: dict[str, str],
    config: ExperimentConfig,
    variant: str,
    tmp_path: Path,
    observe: Observer | None = None,
    skip_dead: bool = True,
) -> tuple[TrainState, dict[str, Tensor], list[tuple[Tensor, Tensor]]]:
    """State and scalars after the step of a variant, and the masks and images of the generator's passes."""
    frozen, synthetic = variant.startswith("frozen"), variant.endswith("synthetic")
    state = make_state(parity, groups, config, "adversarial", frozen)
    context = LocalContext(config.runtime)
    recipe = build_recipe(config, context, tmp_path, observe, skip_dead=skip_dead, log_dead_every=1)
    recipe = replace(recipe, perceptual=vgg19_loss(parity, groups["perceptual"]))
    passes: list[tuple[Tensor, Tensor]] = []
    state.networks["generator"].register_forward_hook(lambda m, args, out: passes.append((args[0], out.detach())))
    return state, adversarial_step(state, batch_of(case), GivenDraws(case, synthetic), recipe), passes


def check_gradients(state: TrainState, scalars: dict[str, Tensor], case: Case, variant: str) -> None:
    rtol_value, rtol_norm = case.tolerance("", "values")["rtol"], case.tolerance("", "grad_norms")["rtol"]
    discriminators = [float(scalars["loss_disc_image"]), float(scalars["loss_disc_mask"])]
    assert discriminators == pytest.approx(case[f"{variant}/disc_losses"].tolist(), rel=rtol_value)
    totals = {name: norm([p.grad for p in network.parameters()]) for name, network in state.networks.items()}
    close_norms([totals["generator"], totals["segmenter"]], case[f"{variant}/total_grad_norms"], rtol_norm, variant)
    close_norms([totals["disc_image"], totals["disc_mask"]], case[f"{variant}/disc_grad_norms"], rtol_norm, variant)


def check_skipping(
    parity: Parity, case: Case, groups: dict[str, str], config: ExperimentConfig, variant: str, tmp_path: Path
) -> None:
    """The step as it trains: without the terms that can train nothing, and with the vectors' gradients all the same."""
    state, scalars, _ = step_of_variant(parity, case, groups, config, variant, tmp_path)
    check_gradients(state, scalars, case, variant)
    rtol = case.tolerance("", "values")["rtol"]
    updating = 0.0
    for term in case.groups(rf"{variant}/([^/]+)/value"):
        value = float(case[f"{variant}/{term}/value"])
        assert float(scalars[f"loss_{term}"]) == pytest.approx(value, rel=rtol), f"{variant} {term}"
        updating += value * bool(case[f"{variant}/{term}/grad_norms"].any())
    assert float(scalars["loss"]) == pytest.approx(updating, rel=rtol)


def check_variant(
    parity: Parity, case: Case, groups: dict[str, str], config: ExperimentConfig, variant: str, tmp_path: Path
) -> None:
    """The step with every term computed and in the sum, as the vectors have it."""
    rtol_value, rtol_norm = case.tolerance("", "values")["rtol"], case.tolerance("", "grad_norms")["rtol"]
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

    state, scalars, passes = step_of_variant(parity, case, groups, config, variant, tmp_path, observe, skip_dead=False)

    expected_terms = case.groups(rf"{variant}/([^/]+)/value")
    assert set(seen) == {*expected_terms, "loss_disc_image", "loss_disc_mask"}, variant
    assert seen["loss_disc_image"][1] == seen["loss_disc_mask"][1] == [0.0, 0.0], "discriminators train others"
    for term in expected_terms:
        value, norms = seen[term]
        assert value == pytest.approx(float(case[f"{variant}/{term}/value"]), rel=rtol_value), f"{variant} {term}"
        close_norms(norms, case[f"{variant}/{term}/grad_norms"], rtol_norm, f"{variant} {term}")
    assert float(scalars["loss"]) == pytest.approx(float(case[f"{variant}/total"]), rel=rtol_value)
    check_gradients(state, scalars, case, variant)
    case.assert_matches(f"{variant}/fake_image", passes[0][1].numpy())
    case.assert_matches(f"{variant}/rec_image", passes[1][1].numpy(), kind="fake_image")
    differing = (passes[1][0].numpy() != case[f"{variant}/argmax_mask"]).mean()
    (percent,) = re.findall(r"at most ([\d.]+) %", case.tolerance("", "argmax_mask"))
    assert differing <= float(percent) / 100, f"{variant}: {differing:.2%} of the arg-max mask differs"


def test_pretrain_step(
    parity: Parity, case: Case, groups: dict[str, str], config: ExperimentConfig, tmp_path: Path
) -> None:
    state = make_state(parity, groups, config, "pretrain", frozen=False)
    recipe = build_recipe(config, LocalContext(config.runtime), tmp_path)
    scalars = pretrain_step(state, batch_of(case), GivenDraws(case, synthetic=False), recipe)
    segmenter = state.networks["segmenter"]
    rtol = case.tolerance("", "grad_norms")["rtol"]
    assert float(scalars["loss"]) == pytest.approx(float(case["phase1/loss"]), rel=case.tolerance("", "values")["rtol"])
    close_norms([norm([p.grad for p in segmenter.parameters()])], case["phase1/grad_norm"], rtol, "phase1")
    actual = gradient_rows(segmenter, parity.rows(groups["segmenter"]))
    rule = parity.case("attention_unet").tolerance("", "param_grads")
    assert_columns(actual, case["phase1/param_grads"], rule["rtol"], "phase1")
