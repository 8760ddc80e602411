"""Terms that can train nothing: known by construction, skipped by the trainer, and nothing trained is different."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sage_ray.config import resolve
from sage_ray.losses.perceptual import VGG19Loss, random_vgg19
from sage_ray.sections import AdversarialConfig
from sage_ray.training import build
from sage_ray.training.adversarial import adversarial_step
from sage_ray.training.batches import Batch
from sage_ray.training.context import LocalContext
from sage_ray.training.draws import KeyedDraws
from sage_ray.training.learning_rate import LearningRate
from sage_ray.training.recipe import Observer, Recipe, build_recipe
from sage_ray.training.state import TrainState
from sage_ray.training.terms import OBJECTIVE, plan_step, step_terms, trained_networks

SETS = ["segmenter.width=4", "segmenter.depth=2", "generator.width=4", "generator.depth=2", "generator.style_dim=4"]
SETS += ["discriminators.width=4", "discriminators.heads=1", "discriminators.head_dim=4", "runtime.threads=1"]
SETS += ["adversarial.freeze_epochs=2", "adversarial.disc_augment=0.5"]
SYNTHETIC = ["adversarial.mix_start=1", "adversarial.mix_max=1"]
REAL_ONLY = ["adversarial.mix_max=0"]

S, G = frozenset({"segmenter"}), frozenset({"generator"})
BOTH, NONE = S | G, frozenset[str]()


@pytest.fixture(scope="module")
def perceptual() -> VGG19Loss:
    return VGG19Loss(random_vgg19())


def settings(**changes: object) -> AdversarialConfig:
    return AdversarialConfig.model_validate(changes)


def make(tmp_path: Path, *sets: str, epoch: int, observe: Observer | None = None) -> tuple[TrainState, Recipe]:
    config = resolve(preset="tiny_sage_gan", sets=[*SETS, *sets]).config
    ctx = LocalContext(config.runtime)
    networks = {"segmenter": build.build_segmenter(config, ctx), **build.build_gan(config, ctx)}
    optimizers = {name: build.build_optimizer(network, 1e-3, (0.9, 0.999)) for name, network in networks.items()}
    rate = LearningRate(config.adversarial.schedule, optimizers, 1e-3)
    state = TrainState("adversarial", networks, optimizers, rate, ema_decay=0.9)
    state.phase_epoch = epoch
    return state, build_recipe(config, ctx, tmp_path, observe)


def batch(step: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(step)
    image = torch.rand(2, 1, 16, 16, generator=generator) * 2 - 1
    return Batch(image, (image > 0.3).float())


def train(state: TrainState, recipe: Recipe, epochs: int = 2, steps: int = 2) -> list[dict[str, Tensor]]:
    scalars = []
    for _ in range(epochs):
        for step in range(steps):
            draws = KeyedDraws(0, "adversarial", state.phase_epoch, step, [2 * step, 2 * step + 1])
            scalars.append(adversarial_step(state, batch(step), draws, recipe))
        state.phase_epoch += 1
    return scalars


def assert_equal_to_the_bit(ours: TrainState, theirs: TrainState) -> None:
    left, right = ours.tensors(), theirs.tensors()
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


@pytest.mark.parametrize(
    ("changes", "frozen", "synthetic", "expected"),
    [
        # The straight-through and the soft path let all through that docs/method/METHOD.md's formulas say.
        ({}, False, True, {term: frozenset(networks) for term, networks in OBJECTIVE.items()}),
        ({"mask_path": "soft"}, False, True, {term: frozenset(networks) for term, networks in OBJECTIVE.items()}),
        ({}, False, False, {term: G if term == "rec_mask" else frozenset(n) for term, n in OBJECTIVE.items()}),
        (
            {},
            True,
            True,
            {"rec_mask": S, "id_mask": S, "adv_mask": S, "rec_image_l1": S, "rec_image_vgg": S}
            | {"adv_image": NONE, "id_image_l1": NONE, "id_image_vgg": NONE},
        ),
        # Rows 1 and 2: behind the arg-max nothing reaches the segmenter.
        (
            {"mask_path": "argmax"},
            False,
            True,
            {"rec_mask": BOTH, "id_mask": S, "adv_mask": NONE, "rec_image_l1": G, "rec_image_vgg": G}
            | {"adv_image": G, "id_image_l1": G, "id_image_vgg": G},
        ),
        # Row 4: and while the generator is frozen, supervision is all that is left.
        (
            {"mask_path": "argmax"},
            True,
            False,
            {"id_mask": S} | {term: NONE for term in OBJECTIVE if term not in ("id_mask", "rec_mask")},
        ),
        # Row 4: the segmenter does not learn from images that a frozen generator reconstructs; later all is as ever.
        (
            {"cycle_image_while_frozen": False},
            True,
            True,
            {"rec_mask": S, "id_mask": S, "adv_mask": S}
            | {term: NONE for term in OBJECTIVE if term not in ("rec_mask", "id_mask", "adv_mask")},
        ),
        ({"cycle_image_while_frozen": False}, False, True, {term: frozenset(n) for term, n in OBJECTIVE.items()}),
        # Row 3: no feedback on real-only steps; and what has weight 0 is no term of the step.
        (
            {"generator_feedback": "synthetic_steps", "lambda_cycle": 0, "weights": {"adv_image": 0}},
            False,
            False,
            {"id_mask": S, "adv_mask": S, "id_image_l1": G, "id_image_vgg": G},
        ),
        (
            {"generator_feedback": "synthetic_steps", "weights": {"rec_image_vgg": 0, "id_image_vgg": 0}},
            False,
            False,
            {"id_mask": S, "adv_image": G, "adv_mask": S, "rec_image_l1": BOTH, "id_image_l1": G},
        ),
    ],
)
def test_what_a_term_can_train(
    changes: dict[str, object], frozen: bool, synthetic: bool, expected: dict[str, frozenset[str]]
) -> None:
    assert trained_networks(settings(**changes), frozen=frozen, synthetic=synthetic) == expected


def test_a_plan_computes_live_terms_and_dead_ones_only_where_they_are_logged() -> None:
    hard = settings(mask_path="argmax")
    kind = {"frozen": True, "synthetic": True}
    plan = plan_step(hard, **kind, has_perceptual=True)
    assert plan.computed == {"id_mask", "rec_mask"} and not plan.in_update("adv_mask")
    logging = plan_step(hard, **kind, has_perceptual=True, log_dead=True)
    assert logging.computed == set(step_terms(hard, **kind)) and not logging.in_update("adv_mask")
    everything = plan_step(hard, **kind, has_perceptual=False, skip_dead=False)
    assert everything.computed == {t for t in OBJECTIVE if not t.endswith("_vgg")} and everything.in_update("adv_mask")
    assert not plan.fake_trains_generator
    assert plan_step(hard, frozen=False, synthetic=False, has_perceptual=True).fake_trains_generator


def measured(seen: list[dict[str, frozenset[str]]]) -> Observer:
    """Keeps, for each update of the first step, the networks to which each term gives a gradient that is not zero."""

    def observe(terms: dict[str, Tensor], networks: dict[str, nn.Module]) -> None:
        if len(seen) == 3:
            return
        reached = {}
        for term, value in terms.items():
            names = set()
            for name, network in networks.items():
                parameters = [p for p in network.parameters() if p.requires_grad]
                live = value.requires_grad and parameters
                grads = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True) if live else []
                if any(g is not None and bool(g.any()) for g in grads):
                    names.add(name)
            reached[term] = frozenset(names)
        seen.append(reached)

    return observe


@pytest.mark.parametrize(
    "path",
    [
        ["adversarial.mask_path=argmax"],
        ["adversarial.mask_path=soft"],
        ["adversarial.mask_path=straight_through"],
        ["adversarial.cycle_image_while_frozen=false"],
    ],
    ids=["argmax", "soft", "straight_through", "no_cycle_image"],
)
@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "unfrozen"])
@pytest.mark.parametrize("synthetic", [True, False], ids=["synthetic", "real"])
def test_skipping_changes_no_weight_moment_or_statistic(
    tmp_path: Path, perceptual: VGG19Loss, path: list[str], frozen: bool, synthetic: bool
) -> None:
    sets = [*path, *(SYNTHETIC if synthetic else REAL_ONLY)]
    epoch = 0 if frozen else 2
    seen: list[dict[str, frozenset[str]]] = []
    whole, recipe = make(tmp_path, *sets, epoch=epoch, observe=measured(seen))
    curves = train(whole, replace(recipe, perceptual=perceptual, skip_dead=False))
    lean, recipe = make(tmp_path, *sets, epoch=epoch)
    lean_curves = train(lean, replace(recipe, perceptual=perceptual))

    assert_equal_to_the_bit(lean, whole)
    assert whole.tensors()["network.segmenter.encoder.levels.0.norm_a.num_batches_tracked"] > 0
    # What is skipped by construction is what a measurement finds to be zero, term by term and network by network.
    expected = trained_networks(recipe.adversarial, frozen=frozen, synthetic=synthetic)
    discriminators = [{f"loss_{name}": frozenset({name})} for name in ("disc_image", "disc_mask")]
    assert seen == [expected, *discriminators]
    dead = {f"loss_{term}" for term, networks in expected.items() if not networks}
    # The first step of an epoch logs what the others skip, to the same values.
    for number, (all_scalars, scalars) in enumerate(zip(curves, lean_curves, strict=True)):
        assert scalars.keys() == all_scalars.keys() - (dead if number % 2 else set())
        assert all(torch.equal(scalars[name], all_scalars[name]) for name in scalars if name != "loss")
        updating = sum(float(scalars[f"loss_{term}"]) for term, networks in expected.items() if networks)
        assert float(scalars["loss"]) == pytest.approx(updating, rel=1e-6)
        assert float(all_scalars["loss"]) == pytest.approx(
            sum(float(all_scalars[f"loss_{term}"]) for term in expected), rel=1e-6
        )


@pytest.mark.parametrize(
    "sets",
    [
        # The generator learns from rec_image alone, and the fake image, made of the same weights, has no graph.
        ["adversarial.weights.adv_image=0", "adversarial.weights.id_image_l1=0", "runtime.precision=bf16", *REAL_ONLY]
        + ["adversarial.generator_feedback=synthetic_steps"],
        ["adversarial.mask_path=argmax", "adversarial.synthetic_statistics=update", *SYNTHETIC],
        ["adversarial.mask_path=argmax", "adversarial.weights.id_mask=0", *REAL_ONLY],
    ],
    ids=["bf16", "shared statistics", "nothing trains the segmenter"],
)
def test_skipping_changes_nothing_over_the_end_of_the_freeze(tmp_path: Path, sets: list[str]) -> None:
    whole, recipe = make(tmp_path, *sets, epoch=0)
    before = [p.detach().clone() for p in whole.networks["generator"].parameters()]
    train(whole, replace(recipe, skip_dead=False), epochs=4)
    lean, recipe = make(tmp_path, *sets, epoch=0)
    train(lean, replace(recipe, log_dead_every=2), epochs=4, steps=2)
    assert_equal_to_the_bit(lean, whole)
    # The test would be empty if the generator had learned nothing.
    assert any(not torch.equal(p, q) for p, q in zip(whole.networks["generator"].parameters(), before, strict=True))
    often, recipe = make(tmp_path, *sets, epoch=0)
    curves = train(often, replace(recipe, log_dead_every=1), epochs=4)
    assert_equal_to_the_bit(often, whole)
    assert len({frozenset(scalars) for scalars in curves[:4]}) == 1


OFF = "adversarial.cycle_image_while_frozen=false"
NO_CYCLE_IMAGE = ["adversarial.weights.rec_image_l1=0", "adversarial.weights.rec_image_vgg=0"]


@pytest.mark.parametrize("kind", [SYNTHETIC, REAL_ONLY], ids=["synthetic", "real"])
def test_without_the_cycle_image_a_frozen_step_is_that_of_an_objective_without_it(
    tmp_path: Path, perceptual: VGG19Loss, kind: list[str]
) -> None:
    def two_frozen_epochs(*sets: str) -> TrainState:
        state, recipe = make(tmp_path, *kind, *sets, epoch=0)
        train(state, replace(recipe, perceptual=perceptual))
        assert state.generator_updates == 0
        return state

    off = two_frozen_epochs(OFF)
    assert_equal_to_the_bit(off, two_frozen_epochs(*NO_CYCLE_IMAGE))
    on = two_frozen_epochs()
    weights = [name for name, _ in off.networks["segmenter"].named_parameters(prefix="network.segmenter")]
    assert any(not torch.equal(off.tensors()[name], on.tensors()[name]) for name in weights)


def test_once_the_generator_learns_the_cycle_image_trains_as_ever(tmp_path: Path) -> None:
    for sets, epoch in (([], 2), (["adversarial.freeze_epochs=0"], 0)):
        on, recipe = make(tmp_path, *SYNTHETIC, *sets, epoch=epoch)
        train(on, recipe)
        off, recipe = make(tmp_path, *SYNTHETIC, *sets, OFF, epoch=epoch)
        train(off, recipe)
        assert on.generator_updates == 4
        assert_equal_to_the_bit(off, on)


def test_mixing_can_wait_until_the_generator_learns(tmp_path: Path) -> None:
    waiting, recipe = make(tmp_path, *SYNTHETIC, "adversarial.mix_while_frozen=false", epoch=0)
    train(waiting, recipe)
    real, real_recipe = make(tmp_path, *REAL_ONLY, epoch=0)
    train(real, real_recipe)
    assert waiting.synthetic_steps == 0
    assert_equal_to_the_bit(waiting, real)
    train(waiting, recipe)
    assert waiting.synthetic_steps == waiting.generator_updates == 4


def test_skipped_passes_are_not_made(tmp_path: Path) -> None:
    state, recipe = make(tmp_path, "adversarial.mask_path=argmax", *REAL_ONLY, epoch=0)
    passes: Counter[str] = Counter()
    for name, network in state.networks.items():
        network.register_forward_hook(lambda *_, name=name: passes.update([name]))

    def count(recipe: Recipe, step: int) -> dict[str, int]:
        passes.clear()
        adversarial_step(state, batch(), KeyedDraws(0, "adversarial", 0, step, [0, 1]), recipe)
        return dict(passes)

    lean = {"segmenter": 1, "generator": 1, "disc_image": 2, "disc_mask": 2}
    whole = {"segmenter": 1, "generator": 2, "disc_image": 3, "disc_mask": 3}
    assert [count(recipe, step) for step in range(3)] == [whole, lean, lean]
    every_second = replace(recipe, log_dead_every=2)
    assert [count(every_second, step) for step in range(3)] == [whole, lean, whole]
    assert count(replace(recipe, skip_dead=False), 1) == whole


def test_a_step_that_trains_nothing_moves_no_weight(tmp_path: Path) -> None:
    state, recipe = make(tmp_path, "adversarial.mask_path=argmax", "adversarial.weights.id_mask=0", *REAL_ONLY, epoch=0)
    before = [p.detach().clone() for p in state.networks["segmenter"].parameters()]
    for step, skip in product((0, 1), (True, False)):
        draws = KeyedDraws(0, "adversarial", 0, step, [0, 1])
        scalars = adversarial_step(state, batch(), draws, replace(recipe, skip_dead=skip))
        assert (float(scalars["loss"]) == 0) == skip
    assert all(torch.equal(p, q) for p, q in zip(state.networks["segmenter"].parameters(), before, strict=True))
