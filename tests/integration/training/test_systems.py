"""F-ANcGAN, CycleGAN and GAN: objectives by hand, who learns from what, unpaired orders, and resume to the bit."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_cases import tiny_config
from torch import Tensor, nn

from sage_ray.config import ExperimentConfig
from sage_ray.data.prepare import PreparedData, prepare
from sage_ray.errors import RunStopped, UserError
from sage_ray.imaging.model import load_model_folder, model_spec, save_model_folder
from sage_ray.stages.keys import stage_keys
from sage_ray.stages.store import StageStore
from sage_ray.training import build
from sage_ray.training.adversarial import adversarial_step
from sage_ray.training.batches import Batch, Pictures, training_batches
from sage_ray.training.context import LocalContext
from sage_ray.training.draws import KeyedDraws
from sage_ray.training.f_ancgan import f_ancgan_step
from sage_ray.training.loop import TrainResult, run_training
from sage_ray.training.recipe import Recipe, build_recipe
from sage_ray.training.scoring import check_objective
from sage_ray.training.state import TrainState
from sage_ray.training.system_step import SYSTEM_STEPS, system_step

SYSTEMS = ("f_ancgan", "cyclegan", "gan")
OWN = {
    "f_ancgan": ("generator.style_dim=4",),
    "cyclegan": ("segmenter.blocks=1", "generator.blocks=1", "adversarial.replay_pool=5"),
    "gan": ("generator.style_dim=4",),
}
SETS = ("discriminators.heads=1", "discriminators.head_dim=4", "adversarial.epochs=3", "adversarial.lr=1e-3")
LEARN = {
    "f_ancgan": {"segmenter", "generator", "disc_image", "disc_mask"},
    "cyclegan": {"segmenter", "generator", "disc_image", "disc_mask"},
    "gan": {"generator", "disc_image"},
}


def tiny(system: str, *sets: str) -> ExperimentConfig:
    return tiny_config(*SETS, *OWN[system], *sets, preset=f"tiny_{system}")


def made(config: ExperimentConfig, tmp_path: Path) -> tuple[TrainState, Recipe]:
    ctx = LocalContext(config.runtime)
    return build.build_state(config, "adversarial", ctx), build_recipe(config, ctx, tmp_path)


def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 1, 32, 32, generator=generator) * 2 - 1
    return Batch(image, (image > 0.3).float())


def draws(step: int = 0) -> KeyedDraws:
    return KeyedDraws(0, "adversarial", 0, step, [0, 1])


def copies(state: TrainState) -> dict[str, dict[str, Tensor]]:
    return {name: copy.deepcopy(network.state_dict()) for name, network in state.networks.items()}


def moved(state: TrainState, before: dict[str, dict[str, Tensor]]) -> set[str]:
    parameters = {name: dict(network.named_parameters()) for name, network in state.networks.items()}
    return {n for n, found in parameters.items() if any(not torch.equal(p, before[n][k]) for k, p in found.items())}


def always(layer: nn.Module, *values: float) -> None:
    """Make a last convolution give the same everywhere."""
    with torch.no_grad():
        layer.weight.zero_()  # type: ignore[operator]
        layer.bias.copy_(torch.tensor(values))  # type: ignore[operator]


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_step_changes_the_networks_of_its_system(system: str, tmp_path: Path) -> None:
    state, recipe = made(tiny(system), tmp_path)
    assert set(state.networks) == LEARN[system] == set(state.optimizers)
    before = copies(state)
    system_step(state, batch(), draws(), recipe)
    assert moved(state, before) == LEARN[system]
    assert all(p.requires_grad for network in state.networks.values() for p in network.parameters())
    assert state.generator_updates == 1 and state.synthetic_steps == int(system != "gan")


@pytest.mark.parametrize("system", SYSTEMS)
def test_each_update_moves_the_networks_that_it_is_of(system: str, tmp_path: Path) -> None:
    """What the observer sees before an update is compared with what it sees before the next one."""
    config = tiny(system)
    ctx = LocalContext(config.runtime)
    state = build.build_state(config, "adversarial", ctx)
    seen: list[tuple[set[str], dict[str, dict[str, Tensor]]]] = []
    watched = build_recipe(config, ctx, tmp_path, lambda terms, _: seen.append((set(terms), copies(state))))
    system_step(state, batch(), draws(), watched)
    seen.append((set(), copies(state)))
    found = []
    for (terms, before), (_, after) in zip(seen, seen[1:], strict=False):
        trained = {
            name
            for name, tensors in before.items()
            for key, value in tensors.items()
            if "running" not in key and "tracked" not in key and not torch.equal(value, after[name][key])
        }
        found.append((sorted(terms)[0] if len(terms) == 1 else "objective", trained))
    both = LEARN[system] - {"disc_image", "disc_mask"}
    expected = [("adv_image" if system == "gan" else "objective", both), ("loss_disc_image", {"disc_image"})]
    assert found == expected + ([] if system == "gan" else [("loss_disc_mask", {"disc_mask"})])


def test_the_objective_of_cyclegan_by_hand(tmp_path: Path) -> None:
    state, recipe = made(tiny("cyclegan"), tmp_path)
    networks: dict[str, Any] = state.networks
    always(networks["generator"].mapper.last.conv, 0.5)  # G is tanh(.5) everywhere
    always(networks["segmenter"].mapper.last.conv, -1.0)  # F is sigmoid(-1)
    always(networks["disc_image"].head, 0.25)
    always(networks["disc_mask"].head, 0.75)
    image, mask = batch().image, batch().mask
    grey, share = torch.tensor(0.5).tanh(), torch.tensor(-1.0).sigmoid()
    on_image, on_mask = (grey - image).abs().mean(), (share - mask).abs().mean()
    scalars = system_step(state, batch(), draws(), recipe)
    expected = {
        "loss_adv_image": torch.tensor((0.25 - 1) ** 2),
        "loss_adv_mask": torch.tensor((0.75 - 1) ** 2),
        "loss_rec_mask": 10 * on_mask,
        "loss_rec_image_l1": 10 * on_image,
        "loss_id_mask": 5 * on_mask,
        "loss_id_image_l1": 5 * on_image,
    }
    expected |= {"loss": torch.stack(list(expected.values())).sum()}
    expected["loss_disc_image"] = torch.tensor(((0.25 - 1) ** 2 + 0.25**2) / 2)
    expected["loss_disc_mask"] = torch.tensor(((0.75 - 1) ** 2 + 0.75**2) / 2)
    assert scalars.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(scalars[name], value, rtol=1e-5, atol=1e-6, msg=name)


def test_lambda_cycle_scales_cyclegans_cycles_alone(tmp_path: Path) -> None:
    once, twice = (
        system_step(made(tiny("cyclegan", f"adversarial.lambda_cycle={k}"), tmp_path)[0], batch(), draws(),
                    made(tiny("cyclegan", f"adversarial.lambda_cycle={k}"), tmp_path)[1])
        for k in (1, 2)
    )  # fmt: skip
    for name in ("rec_mask", "rec_image_l1"):
        torch.testing.assert_close(twice[f"loss_{name}"], 2 * once[f"loss_{name}"])
    assert torch.equal(once["loss_id_mask"], twice["loss_id_mask"])


def test_cyclegan_compares_no_image_with_its_own_mask(tmp_path: Path) -> None:
    """With the masks in another order every mean over the batch stays what it is."""
    config = tiny("cyclegan", "segmenter.norm=instance", "adversarial.replay_pool=0")
    found = []
    for masks in (batch().mask, batch().mask.flip(0)):
        state, recipe = made(config, tmp_path)
        found.append(system_step(state, Batch(batch().image, masks), draws(), recipe))
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_the_objective_of_gan_by_hand(tmp_path: Path) -> None:
    state, recipe = made(tiny("gan", "adversarial.weights.adv_image=3"), tmp_path)
    disc: Any = state.networks["disc_image"]
    always(disc.head, 0.25)
    scalars = system_step(state, batch(), draws(), recipe)
    assert {name: pytest.approx(float(value)) for name, value in scalars.items()} == {
        "loss_adv_image": 3 * 0.75**2,
        "loss": 3 * 0.75**2,
        "loss_disc_image": (0.75**2 + 0.25**2) / 2,
    }


def test_the_objective_of_f_ancgan_by_hand(tmp_path: Path) -> None:
    state, recipe = made(tiny("f_ancgan"), tmp_path)
    networks: dict[str, Any] = state.networks
    always(networks["generator"].head, 0.5)
    always(networks["segmenter"].head, 0.0, -1.0)
    for name in ("disc_image", "disc_mask"):
        always(networks[name].head, 0.25)
    image, mask = batch().image, batch().mask
    p = torch.tensor(-1.0).sigmoid()
    # Focal cross entropy, alpha .25 of the foreground and gamma 2, mean over pixels; Tversky .4 / .6 over the batch.
    focal = (mask * 0.25 * (1 - p) ** 2 * -p.log() + (1 - mask) * 0.75 * p**2 * -(1 - p).log()).mean()
    tp, fp, fn = (p * mask).sum(), (p * (1 - mask)).sum(), ((1 - p) * mask).sum()
    l_seg = 0.5 * focal + 1 - tp / (tp + 0.4 * fp + 0.6 * fn)
    scalars = system_step(state, batch(), draws(), recipe)
    on_image = (0.5 - image).abs().mean()
    expected = {
        "rec_mask": 100 * l_seg,
        "id_mask": 50 * l_seg,
        "adv_image": torch.tensor(0.75**2),
        "adv_mask": torch.tensor(0.75**2),
        "rec_image_l1": 50 * on_image,
        "id_image_l1": 25 * on_image,
    }
    for name, value in expected.items():
        torch.testing.assert_close(scalars[f"loss_{name}"], value, rtol=1e-4, atol=1e-5, msg=name)
    torch.testing.assert_close(scalars["loss"], torch.stack(list(expected.values())).sum(), rtol=1e-4, atol=1e-4)


def test_f_ancgan_is_sage_gan_without_freeze_and_with_everything_mixed_in(tmp_path: Path) -> None:
    """To the bit: the same step written for itself."""
    paths = ("adversarial.mask_path=argmax", "adversarial.synthetic_statistics=update")
    for sets in ((), paths):
        config = tiny("f_ancgan", *sets)
        ours, recipe = made(config, tmp_path)
        theirs, _ = made(config, tmp_path)
        for step in range(2):
            one = f_ancgan_step(ours, batch(), draws(step), recipe)
            other = adversarial_step(theirs, batch(), draws(step), recipe)
            assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
        for name, tensor in ours.tensors().items():
            assert torch.equal(tensor, theirs.tensors()[name]), name
        assert ours.scalars() == theirs.scalars()


def test_only_the_image_discriminator_has_attention_where_it_is_said(tmp_path: Path) -> None:
    networks: dict[str, Any] = made(tiny("f_ancgan"), tmp_path)[0].networks
    assert networks["disc_image"].attention is not None and networks["disc_mask"].attention is None
    networks = made(tiny("f_ancgan", "discriminators.mask_attention=true"), tmp_path)[0].networks
    assert networks["disc_mask"].attention is not None


@pytest.mark.parametrize(
    ("system", "sets"),
    [
        ("f_ancgan", ("segmenter.name=unet_plus_plus", "segmenter.deep_supervision=true", "generator.style=modulated")),
        ("f_ancgan", ("segmenter.name=resnet", "segmenter.blocks=1", "generator.name=unet")),
        ("cyclegan", ("generator.name=style_unet", "generator.blocks=0", "discriminators.attention=true")),
        (
            "cyclegan",
            ("generator.name=unet", "generator.blocks=0", "segmenter.name=attention_unet", "segmenter.blocks=0"),
        ),
        ("cyclegan", ("segmenter.norm=batch", "evaluation.ema_decay=0.9", "adversarial.pairing=paired")),
        ("gan", ("generator.name=resnet", "generator.blocks=1", "discriminators.norm=instance")),
        ("gan", ("generator.style=modulated", "generator.noise=mean", "adversarial.disc_augment=1")),
    ],
)
def test_every_network_is_usable_in_every_system(system: str, sets: tuple[str, ...], tmp_path: Path) -> None:
    state, recipe = made(tiny(system, *sets), tmp_path)
    before = copies(state)
    scalars = system_step(state, batch(), draws(), recipe)
    assert all(bool(value.isfinite()) for value in scalars.values())
    assert moved(state, before) == LEARN[system]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return prepare(tiny("gan").data, tmp_path_factory.mktemp("cache"))


def masks_of(config: ExperimentConfig, data: PreparedData, epoch: int = 0, rank: int = 0, workers: int = 1) -> Tensor:
    ctx = LocalContext(config.runtime)
    ctx.rank, ctx.world_size = rank, workers
    pictures = Pictures(data, data.split.train, ctx.device)
    batches = training_batches(pictures, config, ctx, "adversarial", epoch)
    return torch.stack([torch.stack([each.image, each.mask]) for each, _ in batches])


def test_unpaired_masks_come_in_an_order_of_their_own(data: PreparedData) -> None:
    plain = ("data.augment.probability=0", "adversarial.batch_size=2")
    paired = masks_of(tiny("cyclegan", "adversarial.pairing=paired", *plain), data)
    config = tiny("cyclegan", *plain)
    first, second = masks_of(config, data), masks_of(config, data, epoch=1)
    # The images come as they do in pairs, the masks do not, and in another order at every epoch.
    assert torch.equal(first[:, 0], paired[:, 0]) and not torch.equal(first[:, 1], paired[:, 1])
    assert not torch.equal(first[:, 1], second[:, 1])
    of_training = {mask.tobytes() for mask in data.masks[data.split.train].astype("float32")}
    shown = [mask.numpy().tobytes() for mask in first[:, 1].flatten(0, 1)[:, 0]]
    assert len(set(shown)) == len(shown) == 10 and set(shown) <= of_training
    # Two workers share the order of one.
    halves = [masks_of(config, data, rank=rank, workers=2) for rank in (0, 1)]
    assert torch.equal(torch.cat(halves, dim=2), first)


def test_unpaired_masks_are_augmented_apart_from_images(data: PreparedData) -> None:
    grey = [f"data.augment.{name}=0" for name in ("jitter", "blur", "noise", "clahe", "sharpen", "crop")]
    config = tiny("cyclegan", "data.augment.probability=1", "adversarial.batch_size=10", *grey)
    flipped = config.with_values({"data.augment.hflip": 0.0, "data.augment.vflip": 0.0})
    image, mask = masks_of(config, data)[0]
    plain_image, plain_mask = masks_of(flipped, data)[0]

    def turns(moved_one: Tensor, still: Tensor) -> list[int]:
        ways = [[], [2], [1], [1, 2]]
        pairs = zip(moved_one, still, strict=True)
        return [next(i for i, axes in enumerate(ways) if torch.equal(m, s.flip(axes))) for m, s in pairs]

    of_images, of_masks = turns(image, plain_image), turns(mask, plain_mask)
    assert len(set(of_images)) > 1 and len(set(of_masks)) > 1 and of_images != of_masks


def train(config: ExperimentConfig, data: PreparedData, root: Path, stop_after: int | None = None) -> TrainResult:
    told: list[Any] = []
    ctx = LocalContext(
        config.runtime, on_report=told.append, should_stop=lambda: stop_after is not None and len(told) >= stop_after
    )
    return run_training(config, data, ctx, StageStore(root / "stages"), cache_dir=root)


@pytest.fixture(scope="module")
def whole(data: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> dict[str, TrainResult]:
    return {system: train(tiny(system), data, tmp_path_factory.mktemp(system)) for system in SYSTEMS}


def curve(result: TrainResult) -> list[dict[str, Any]]:
    return [{k: v for k, v in report.items() if k not in ("seconds", "replayed")} for report in result.history]


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("after", [1, 2])
def test_resume_is_bit_equal(
    system: str, after: int, data: PreparedData, whole: dict[str, TrainResult], tmp_path: Path
) -> None:
    with pytest.raises(RunStopped):
        train(tiny(system), data, tmp_path, stop_after=after)
    result = train(tiny(system), data, tmp_path)
    assert result.reused_epochs == after and result.weights_sha == whole[system].weights_sha
    assert curve(result) == curve(whole[system])


def test_the_pool_is_part_of_the_state(data: PreparedData, whole: dict[str, TrainResult], tmp_path: Path) -> None:
    result = train(tiny("cyclegan"), data, tmp_path)
    (key,) = result.stage_keys.values()
    snapshot = StageStore(tmp_path / "stages").load_latest(key, 3)
    assert snapshot is not None
    images, masks = snapshot.tensors["pool.image"], snapshot.tensors["pool.mask"]
    assert images.shape == masks.shape == (5, 1, 32, 32)
    assert images.min() < 0 and masks.min() >= 0 and masks.max() <= 1
    other = train(tiny("cyclegan", "adversarial.replay_pool=0"), data, tmp_path / "none")
    assert other.weights_sha != result.weights_sha == whole["cyclegan"].weights_sha


def test_a_run_without_a_segmenter_is_validated_by_its_images(whole: dict[str, TrainResult], tmp_path: Path) -> None:
    result = whole["gan"]
    scores = {k for report in result.history for k in report if k.startswith("val/")}
    assert scores == {"val/loss"} and all(report["val/loss"] > 0 for report in result.history)
    assert result.segmenter is None and result.generator is not None and not result.per_image
    assert result.selected_epoch == 3 and whole["cyclegan"].per_image
    with pytest.raises(UserError, match=r"no such score: objective.metric=val/dice: system gan has no segmenter"):
        check_objective(tiny("gan"), "val/dice")
    check_objective(tiny("gan"), "val/loss")
    # The model folder has its generator alone, and says so where a mask is asked for.
    config = tiny("gan")
    kwargs = build.network_kwargs(config)
    spec = model_spec(None, ("style_unet", kwargs["generator"]), image_size=(32, 32))
    folder = save_model_folder(tmp_path / "model", None, result.generator, spec)
    model = load_model_folder(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["generator.safetensors", "model.json"]
    mask = batch().mask[0, 0].numpy()
    assert model.generate(mask, 0).shape == (32, 32)
    for use in (lambda: model.predict_mask(mask), lambda: model.probabilities(mask[None]), model.segmenting):
        with pytest.raises(UserError, match="model without segmenter: .*it only generates images"):
            use()


def keys(config: ExperimentConfig) -> dict[str, str]:
    return stage_keys(config, "f" * 16, "5" * 16, {})


@pytest.mark.parametrize(
    ("system", "sets"),
    [
        ("f_ancgan", ("adversarial.mix_max=0.1", "adversarial.generator_feedback=synthetic_steps")),
        (
            "cyclegan",
            ("adversarial.mix_step=0.3", "adversarial.mask_path=argmax", "discriminators.mask_attention=false"),
        ),
        ("cyclegan", ("generator.style_dim=64", "generator.style=modulated")),
        ("gan", ("segmenter.width=16", "segmentation_loss.w_dice=1", "adversarial.lambda_cycle=3")),
        ("gan", ("adversarial.weights.rec_mask=7", "discriminators.mask_attention=false")),
    ],
)
def test_settings_that_a_system_does_not_know_split_no_stage(system: str, sets: tuple[str, ...]) -> None:
    assert keys(tiny(system)) == keys(tiny(system, *sets))


@pytest.mark.parametrize(
    ("system", "change"),
    [
        ("cyclegan", "adversarial.pairing=paired"),
        ("cyclegan", "adversarial.replay_pool=4"),
        ("cyclegan", "generator.blocks=2"),
        ("gan", "adversarial.pairing=unpaired"),
        ("gan", "adversarial.weights.adv_image=2"),
        ("f_ancgan", "discriminators.mask_attention=true"),
        ("f_ancgan", "adversarial.mask_path=soft"),
    ],
)
def test_settings_that_matter_do(system: str, change: str) -> None:
    assert keys(tiny(system)) != keys(tiny(system, change))


def test_every_system_has_a_step_and_a_key_of_its_own() -> None:
    assert set(SYSTEM_STEPS) == {"sage_gan", *SYSTEMS}
    assert len({tuple(keys(tiny(system)).values()) for system in SYSTEMS}) == 3
