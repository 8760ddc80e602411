"""Which term trains which network: known by construction, measured on the step, and what a frozen step leaves out."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
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
from sage_ray.training.recipe import Observer, Recipe, build_recipe
from sage_ray.training.state import TrainState
from sage_ray.training.terms import CYCLE_IMAGE_TERMS, OBJECTIVE, left_out_terms, trained_networks

SETS = ["segmenter.width=4", "segmenter.depth=2", "generator.width=4", "generator.depth=2", "generator.style_dim=4"]
SETS += ["discriminators.width=4", "discriminators.heads=1", "discriminators.head_dim=4", "runtime.threads=1"]
SETS += ["adversarial.freeze_epochs=2", "adversarial.disc_augment=0.5"]
SETS += ["adversarial.lr=1e-3", "evaluation.ema_decay=0.9"]
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
    state = build.build_state(config, "adversarial", ctx)
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


def test_only_terms_of_a_frozen_generator_are_left_out() -> None:
    for path in ("argmax", "soft", "straight_through"):
        assert left_out_terms(settings(mask_path=path), frozen=False) == ()
    generators = {"adv_image", "id_image_l1", "id_image_vgg"}
    assert set(left_out_terms(settings(), frozen=True)) == generators
    assert set(left_out_terms(settings(mask_path="argmax"), frozen=True)) == generators | set(CYCLE_IMAGE_TERMS)
    waiting = settings(cycle_image_while_frozen=False)
    assert set(left_out_terms(waiting, frozen=True)) == generators | set(CYCLE_IMAGE_TERMS)
    # What is left out trains nothing, whatever the kind of step.
    for changes in ({}, {"mask_path": "argmax"}, {"cycle_image_while_frozen": False}):
        for synthetic in (True, False):
            trained = trained_networks(settings(**changes), frozen=True, synthetic=synthetic)
            assert not any(trained[term] for term in left_out_terms(settings(**changes), frozen=True))


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
def test_a_step_trains_what_is_known_by_construction(
    tmp_path: Path, perceptual: VGG19Loss, path: list[str], frozen: bool, synthetic: bool
) -> None:
    seen: list[dict[str, frozenset[str]]] = []
    sets = [*path, *(SYNTHETIC if synthetic else REAL_ONLY)]
    state, recipe = make(tmp_path, *sets, epoch=0 if frozen else 2, observe=measured(seen))
    curves = train(state, replace(recipe, perceptual=perceptual))
    expected = trained_networks(recipe.adversarial, frozen=frozen, synthetic=synthetic)
    computed = {
        term: expected[term] for term in expected if term not in left_out_terms(recipe.adversarial, frozen=frozen)
    }
    discriminators = [{f"loss_{name}": frozenset({name})} for name in ("disc_image", "disc_mask")]
    assert seen == [computed, *discriminators]
    for scalars in curves:
        assert list(scalars) == [*(f"loss_{term}" for term in OBJECTIVE if term in computed), "loss", *LOSSES]
        total = sum(float(scalars[f"loss_{term}"]) for term in computed)
        assert float(scalars["loss"]) == pytest.approx(total, rel=1e-6)


LOSSES = ("loss_disc_image", "loss_disc_mask")
GENERATOR_TERMS_OFF = [f"adversarial.weights.{term}=0" for term in ("id_image_l1", "id_image_vgg")]


@pytest.mark.parametrize("kind", [SYNTHETIC, REAL_ONLY], ids=["synthetic", "real"])
@pytest.mark.parametrize("path", ["argmax", "soft", "straight_through"])
def test_terms_that_a_frozen_step_leaves_out_leave_no_trace(
    tmp_path: Path, perceptual: VGG19Loss, path: str, kind: list[str]
) -> None:
    """A frozen step is, to the bit, that of an objective in which the left-out terms have any other weight."""
    found = []
    off = [*GENERATOR_TERMS_OFF, *(NO_CYCLE_IMAGE if path == "argmax" else [])]
    for sets in ([], off, ["adversarial.weights.adv_image=7", "adversarial.weights.id_image_l1=3"]):
        state, recipe = make(tmp_path, f"adversarial.mask_path={path}", *kind, *sets, epoch=0)
        train(state, replace(recipe, perceptual=perceptual))
        assert state.generator_updates == 0
        found.append(state)
    assert_equal_to_the_bit(found[0], found[1])
    assert_equal_to_the_bit(found[0], found[2])


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "unfrozen"])
def test_a_mask_that_trains_nobody_moves_no_statistic_of_its_discriminator(tmp_path: Path, frozen: bool) -> None:
    """Behind an arg-max adv_mask only draws a curve: disc_mask has the statistics of its own two passes."""
    for path, passes in (("argmax", 2), ("soft", 3)):
        state, recipe = make(tmp_path, f"adversarial.mask_path={path}", *REAL_ONLY, epoch=0 if frozen else 2)
        scalars = train(state, recipe, epochs=1, steps=1)
        assert "loss_adv_mask" in scalars[0]
        counts = [v for k, v in state.networks["disc_mask"].state_dict().items() if k.endswith("num_batches_tracked")]
        assert counts and {int(count) for count in counts} == {passes}


@pytest.mark.parametrize("kind", [SYNTHETIC, REAL_ONLY], ids=["synthetic", "real"])
def test_a_mask_that_trains_nobody_has_no_weight_that_matters(tmp_path: Path, kind: list[str]) -> None:
    found = []
    for weight in (1, 7):
        sets = ["adversarial.mask_path=argmax", f"adversarial.weights.adv_mask={weight}", *kind]
        state, recipe = make(tmp_path, *sets, epoch=1)  # over the end of the freeze
        train(state, recipe)
        assert state.generator_updates == 2
        found.append(state)
    assert_equal_to_the_bit(*found)


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


def test_passes_of_left_out_terms_are_not_made(tmp_path: Path) -> None:
    passes: Counter[str] = Counter()

    def count(path: str, epoch: int) -> dict[str, int]:
        state, recipe = make(tmp_path, f"adversarial.mask_path={path}", *REAL_ONLY, epoch=epoch)
        for name, network in state.networks.items():
            network.register_forward_hook(lambda *_, name=name: passes.update([name]))
        passes.clear()
        adversarial_step(state, batch(), KeyedDraws(0, "adversarial", epoch, 0, [0, 1]), recipe)
        return dict(passes)

    # The generator makes the image that disc_image learns from; behind an arg-max it makes no other.
    assert count("argmax", 0) == {"segmenter": 1, "generator": 1, "disc_image": 2, "disc_mask": 3}
    assert count("soft", 0) == {"segmenter": 1, "generator": 2, "disc_image": 2, "disc_mask": 3}
    assert count("argmax", 2) == {"segmenter": 2, "generator": 2, "disc_image": 3, "disc_mask": 3}


def test_a_step_that_trains_nothing_moves_no_weight(tmp_path: Path) -> None:
    state, recipe = make(tmp_path, "adversarial.mask_path=argmax", "adversarial.weights.id_mask=0", *REAL_ONLY, epoch=0)
    before = [p.detach().clone() for p in state.networks["segmenter"].parameters()]
    train(state, recipe, epochs=1)
    assert all(torch.equal(p, q) for p, q in zip(state.networks["segmenter"].parameters(), before, strict=True))
