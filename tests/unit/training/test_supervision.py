"""Deep supervision: every head learns, the loss is the heads' mean, and the keyword reaches only who knows it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sage_ray.config import ExperimentConfig, resolve
from sage_ray.errors import UserError
from sage_ray.imaging.model import load_model_folder, model_spec, save_model_folder
from sage_ray.models import SEGMENTERS
from sage_ray.models.init import initialise
from sage_ray.models.unet_plus_plus import UNetPlusPlus, mean_logits
from sage_ray.training import build
from sage_ray.training.adversarial import adversarial_step
from sage_ray.training.batches import Batch
from sage_ray.training.context import LocalContext
from sage_ray.training.draws import KeyedDraws
from sage_ray.training.pretrain import pretrain_step
from sage_ray.training.recipe import Recipe, build_recipe
from sage_ray.training.state import TrainState
from sage_ray.training.supervision import head_logits, head_scale, mask_at, predicted_logits, supervised_loss

SMALL = ["segmenter.width=4", "segmenter.depth=2", "segmenter.dropout=0", "runtime.threads=1"]
SMALL += ["generator.width=4", "generator.depth=2", "generator.style_dim=4"]
SMALL += ["discriminators.width=4", "discriminators.heads=1", "discriminators.head_dim=4"]
DEEP = ["segmenter.name=unet_plus_plus", "segmenter.deep_supervision=true"]


def config_of(*sets: str) -> ExperimentConfig:
    return resolve(preset="tiny_sage_gan", sets=[*SMALL, *sets]).config


def make(
    config: ExperimentConfig, folder: Path, phase: str, seen: dict[str, Tensor] | None = None
) -> tuple[TrainState, Recipe]:
    ctx = LocalContext(config.runtime)
    state = build.build_state(config, phase, ctx)
    state.phase_epoch = 9

    def observe(terms: dict[str, Tensor], _: dict[str, nn.Module]) -> None:
        assert seen is not None
        seen.update({name: value.detach() for name, value in terms.items()})

    return state, build_recipe(config, ctx, folder, None if seen is None else observe)


def batch() -> Batch:
    image = torch.rand(2, 1, 24, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return Batch(image, (image > 0.3).float())


def draws() -> KeyedDraws:
    return KeyedDraws(0, "adversarial", 9, 0, [0, 1])


def losses_of_heads(state: TrainState, recipe: Recipe) -> list[Tensor]:
    """L_seg of each head in train mode, as the step is going to see it."""
    segmenter = state.networks["segmenter"]
    assert isinstance(segmenter, UNetPlusPlus)
    with torch.no_grad():
        return [recipe.segmentation_loss(logits, batch().mask) for logits in segmenter.forward_deep(batch().image)]


def test_the_loss_is_the_mean_over_the_heads_and_every_head_learns(tmp_path: Path) -> None:
    state, recipe = make(config_of(*DEEP), tmp_path, "pretrain")
    first, second = losses_of_heads(state, recipe)
    assert not torch.isclose(first, second)
    before = {name: value.clone() for name, value in state.networks["segmenter"].named_parameters()}
    loss = pretrain_step(state, batch(), draws(), recipe)["loss"]
    torch.testing.assert_close(loss, (first + second) / 2)
    heads = {name: value for name, value in state.networks["segmenter"].named_parameters() if "heads" in name}
    assert {name.split(".")[1] for name in heads} == {"0", "1"}
    assert all(not torch.equal(value, before[name]) for name, value in heads.items())


def test_the_supervised_term_of_phase_two_is_the_mean_over_the_heads(tmp_path: Path) -> None:
    seen: dict[str, Tensor] = {}
    config = config_of(*DEEP, "adversarial.mix_max=0")
    state, recipe = make(config, tmp_path, "adversarial", seen)
    expected = torch.stack(losses_of_heads(state, recipe)).mean()
    adversarial_step(state, batch(), draws(), recipe)
    torch.testing.assert_close(seen["id_mask"], config.adversarial.weights.id_mask * expected)


def test_one_head_is_the_plain_pass_to_the_bit(tmp_path: Path) -> None:
    state, recipe = make(config_of("segmenter.name=unet_plus_plus"), tmp_path, "pretrain")
    segmenter = state.networks["segmenter"].eval()
    heads = head_logits(segmenter, batch().image)
    assert len(heads) == 1 and mean_logits(heads) is heads[0]
    assert torch.equal(heads[0], segmenter(batch().image))
    loss = supervised_loss(heads, batch().mask, recipe)
    assert torch.equal(loss, recipe.segmentation_loss(heads[0], batch().mask))


DEEP_ONES = {"unet_plus_plus", "residual_unet"}


@pytest.mark.parametrize("name", sorted(set(SEGMENTERS) - DEEP_ONES))
def test_a_network_with_one_head_refuses_deep_supervision_and_never_sees_the_keyword(name: str) -> None:
    with pytest.raises(UserError, match="no deep supervision.*segmenter.name to residual_unet, unet_plus_plus"):
        build.check_names(config_of(f"segmenter.name={name}", "segmenter.deep_supervision=true"))
    plain = config_of(f"segmenter.name={name}")
    build.check_names(plain)
    assert "deep_supervision" not in build.network_kwargs(plain)["segmenter"]
    SEGMENTERS[name](**build.network_kwargs(plain)["segmenter"])


RESIDUAL = ["segmenter.name=residual_unet", "segmenter.deep_supervision=true", "segmenter.depth=3"]


def test_heads_of_lower_resolution_weigh_half_and_see_the_mask_at_theirs(tmp_path: Path) -> None:
    state, recipe = make(config_of(*RESIDUAL), tmp_path, "pretrain")
    assert len(state.networks["segmenter"].heads) == 2  # type: ignore[arg-type]
    coarse, fine = head_logits(state.networks["segmenter"], batch().image)
    assert coarse.shape == (2, 2, 12, 16) and fine.shape == (2, 2, 24, 32)
    whole = recipe.segmentation_loss(fine, batch().mask)
    half = recipe.segmentation_loss(coarse, batch().mask[..., 1::2, 1::2])
    # Weights 1 and 1/2, scaled to a sum of 1.
    torch.testing.assert_close(supervised_loss([coarse, fine], batch().mask, recipe), whole * 2 / 3 + half / 3)
    assert predicted_logits([coarse, fine]) is fine
    loss = pretrain_step(state, batch(), draws(), recipe)["loss"]
    assert loss.isfinite()
    grads = {name: value.grad for name, value in state.networks["segmenter"].named_parameters()}
    assert all(grad is not None and grad.abs().sum() > 0 for grad in grads.values() if grad is not None)
    assert all(grads[f"heads.{head}.weight"] is not None for head in (0, 1))


def test_phase_two_takes_the_finest_head_as_the_prediction(tmp_path: Path) -> None:
    state, recipe = make(config_of(*RESIDUAL, "adversarial.mix_max=0"), tmp_path, "adversarial", {})
    step = adversarial_step(state, batch(), draws(), recipe)
    assert all(value.isfinite().all() for value in step.values())


@pytest.mark.parametrize(
    ("scale", "height", "width", "rows", "columns"),
    [(2, 5, 4, [1, 3, 4], [1, 3]), (4, 9, 8, [2, 6, 8], [2, 6]), (1, 3, 3, [0, 1, 2], [0, 1, 2])],
)
def test_a_mask_of_lower_resolution_has_the_middle_of_each_cell(
    scale: int, height: int, width: int, rows: list[int], columns: list[int]
) -> None:
    mask = torch.arange(height * width, dtype=torch.float32).view(1, 1, height, width)
    found = mask_at(mask, scale)
    assert torch.equal(found, mask[..., rows, :][..., columns])
    assert head_scale(torch.zeros(1, 2, *found.shape[-2:]), mask) == scale


ZOO = [DEEP, RESIDUAL, DEEP[:1], *([f"segmenter.name={name}"] for name in ("resnet34_unet", "half_unet", "dc_unet"))]


@pytest.mark.parametrize("sets", ZOO)
def test_a_saved_model_of_the_zoo_loads_and_predicts_the_same(tmp_path: Path, sets: list[str]) -> None:
    config = config_of(*sets)
    kwargs = build.network_kwargs(config)["segmenter"]
    segmenter = initialise(SEGMENTERS[config.segmenter.name](**kwargs), 0).eval()
    spec = model_spec((config.segmenter.name, kwargs), None, image_size=(32, 32))
    loaded = load_model_folder(save_model_folder(tmp_path / "model", segmenter, None, spec))
    assert torch.equal(loaded.segmenter(batch().image), segmenter(batch().image))
