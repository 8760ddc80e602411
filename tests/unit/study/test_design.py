"""Ablation designs: what loads, what is refused in one line, which arms and runs a design has, and in which order."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import yaml
from design_cases import ARMS, DICE, FACTORS, changed, load

from sage_ray.config import dump, shipped
from sage_ray.errors import UserError
from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder
from sage_ray.record.run_record import RunLabels
from sage_ray.search.driver import sweep
from sage_ray.search.plan import plan
from sage_ray.search.study_folder import StudyFolder
from sage_ray.study.design import Design, load_design, load_spec
from sage_ray.study.space import Space, load_space


def names(design: Design) -> list[str]:
    return [arm.name for arm in design.arms]


def test_arms_times_seeds_are_runs_of_one_trial_each(tmp_path: Path) -> None:
    design = load(ARMS, tmp_path)
    assert design.trials == 6 and [len(design.run_grid(n)) for n in range(6)] == [1] * 6
    ids = [design.run_grid(n)[0].run_id for n in range(6)]
    assert sorted(ids) == sorted(f"good-{arm}-s{seed}" for arm in ARMS["arms"] for seed in (0, 1))
    for number, sample in enumerate(design.fixed):
        place = design.run_grid(number)[0]
        assert sample.params == {"arm": place.arm, "seed": place.seed}
        config = design.config(sample.values, place.seed, place.fold)
        assert config.seed == place.seed and (config.adversarial.mix_max == 0) == (place.arm == "no_mixing")
    assert design.renamed("other").run_grid(0)[0].run_id == "other-full-s0"


def test_every_run_of_the_reference_is_untuned_whatever_its_seed_and_fold(tmp_path: Path) -> None:
    design = load(changed(ARMS), tmp_path)
    untuned = [number for number in range(design.trials) if design.is_untuned(number)]
    reference = [n for n in range(design.trials) if design.run_grid(n)[0].arm == design.reference.name]
    assert untuned == reference and design.untuned_trial() == untuned[0] and 1 < len(untuned) < design.trials


def test_folds_multiply_the_runs_and_stand_in_their_names(tmp_path: Path) -> None:
    design = load(changed(ARMS, base__set={"data.split.folds": 3}, folds=[0, 2], seeds=[4]), tmp_path)
    assert design.trials == 6 and {place.fold for _, place in design.cells} == {0, 2}
    place, sample = design.run_grid(1)[0], design.fixed[1]
    assert place.run_id.endswith(f"-s4-f{place.fold}") and sample.params["fold"] == place.fold
    assert design.config(sample.values).data.split.fold == place.fold


def test_who_computes_a_stage_comes_before_who_takes_it_over(tmp_path: Path) -> None:
    design = load(ARMS, tmp_path)
    order = [place.run_id.removeprefix("good-") for _, place in design.cells]
    # full and dice own a phase 1 each; no_mixing follows full. Within that, whole seeds.
    assert order == ["full-s0", "dice-s0", "full-s1", "dice-s1", "no_mixing-s0", "no_mixing-s1"]
    late = load(changed(ARMS, arms__late={"set": {"evaluation.select": "last"}}), tmp_path)
    assert [arm.name for arm, _ in late.cells][-2:] == ["late", "late"], "both stages of it are those of full"


def test_design_written_for_a_study_reads_back_equal_without_its_presets(tmp_path: Path) -> None:
    crossed = changed(
        FACTORS, kind="fractional", generators={"loss": "gates*mixing"}, factors__loss__dice__not_run="late"
    )
    listed = changed(
        ARMS, arms__plain={"preset": "tiny_unet", "set": {"adversarial.epochs": 0}}, arms__dice__not_run="no"
    )
    for tree in (listed, crossed):
        design = load(tree, tmp_path, sets=["pretrain.epochs=3"])
        study = tmp_path / str(tree["name"])
        study.mkdir()
        (study / "base.yaml").write_text(dump(design.base))
        (study / "design.yaml").write_text(design.to_yaml("base.yaml"))
        assert "preset" not in (study / "design.yaml").read_text()
        again = load_spec(study / "design.yaml")
        assert isinstance(again, Design) and again.hash == design.hash and again.arms == design.arms
        assert again.cells == design.cells and again.not_run() == design.not_run() != {}


def test_hash_ignores_what_may_change_and_sees_the_rest(tmp_path: Path) -> None:
    design = load(ARMS, tmp_path)
    alike = changed(ARMS, name="other", concurrency=1, max_hours=2, test=False)
    assert load(alike, tmp_path).hash == design.hash
    for other in (
        changed(ARMS, seeds=[0]),
        changed(ARMS, reference="dice"),
        changed(ARMS, arms__dice__not_run="later"),
        changed(ARMS, arms__dice__set={**DICE, "pretrain.lr": 0.01}),
        changed(ARMS, base__set={"pretrain.epochs": 3}),
    ):
        assert load(other, tmp_path).hash != design.hash


def test_an_arm_may_take_another_preset_and_the_bases_set_stays_on_top(tmp_path: Path) -> None:
    tree = changed(
        ARMS,
        base__set={"segmenter.width": 6, "runtime.max_retries": 3},
        arms__unet={"preset": "tiny_unet", "set": {"adversarial.epochs": 0}},
    )
    design = load(tree, tmp_path, sets=["pretrain.epochs=5", "adversarial.epochs=7"])
    unet = next(arm.config for arm in design.arms if arm.name == "unet")
    assert (unet.segmenter.name, unet.segmenter.width, unet.pretrain.epochs) == ("unet", 6, 5)
    assert unet.adversarial.epochs == 0 and design.reference.config.adversarial.epochs == 7
    assert unet.runtime == design.base.runtime and design.max_epochs() == 12 and design.untuned == design.base
    assert {design.max_epochs(n) for n in range(design.trials)} == {5, 12}


def test_sets_change_the_files_own_keys_also_under_dotted_names(tmp_path: Path) -> None:
    tree = changed(
        ARMS, arms={"full": None, "ft_0.75": {"set": {"segmentation_loss.gamma": 0.75}}, "dice": {"set": DICE}}
    )
    sets = ["seeds=[3]", "arms.ft_0.75.not_run=no time", "arms.dice.set.segmentation_loss.w_dice=2", "test=false"]
    design = load(tree, tmp_path, sets=sets)
    assert design.file.seeds == (3,) and not design.file.test and design.not_run() == {"ft_0.75": "no time"}
    assert design.arms[2].config.segmentation_loss.w_dice == 2 and names(design) == ["full", "ft_0.75", "dice"]


def test_an_arm_that_is_not_run_is_listed_and_never_trained(tmp_path: Path) -> None:
    tree = changed(ARMS, arms__perceptual={"set": {"adversarial.perceptual": "vgg19"}, "not_run": "no weights\n here"})
    design = load(tree, tmp_path)
    assert design.trials == 6 and "perceptual" not in {arm.name for arm, _ in design.cells}
    assert "not run: perceptual (no weights here)" in design.details()
    assert {"name": "perceptual", "not_run": "no weights here"}.items() <= design.facts()["arms"][3].items()
    assert plan(design, Home(tmp_path)).not_run == {"perceptual": "no weights here"}
    # It need not differ from another arm: that it cannot is often why it is not run.
    load(changed(tree, arms__perceptual__set={}), tmp_path)


def test_plan_counts_the_shared_phase_1_once_a_seed(tmp_path: Path) -> None:
    counted = plan(load(ARMS, tmp_path), Home(tmp_path))
    assert (counted.trials, counted.runs, counted.exact, counted.kind) == (6, 6, True, "ablation")
    # A seed: phase 1 (8 epochs) of hybrid and of dice, phase 2 (16) of each arm.
    assert (counted.stages, counted.epochs_without_reuse, counted.epochs_with_reuse) == (10, 144, 128)


def test_the_keys_of_a_file_decide_what_it_is(tmp_path: Path) -> None:
    load(ARMS, tmp_path)
    assert isinstance(load_spec(tmp_path / "design.yaml"), Design) and isinstance(load_spec("search_tiny"), Space)
    with pytest.raises(UserError, match="sage-ray ablate"):
        load_space(tmp_path / "design.yaml")
    with pytest.raises(UserError, match="sage-ray sweep"):
        load_design("search_tiny")


def test_one_factor_changes_one_factor_at_a_time(tmp_path: Path) -> None:
    path = {
        "straight": {},
        "soft": {"set": {"adversarial.mask_path": "soft"}},
        "argmax": {"set": {"adversarial.mask_path": "argmax"}},
    }
    design = load(changed(FACTORS, kind="one_factor", factors__mask_path=path), tmp_path)
    assert names(design) == ["full", "gates=off", "mixing=off", "loss=dice", "mask_path=soft", "mask_path=argmax"]
    assert design.reference.values == {} and design.arms[4].values == {"adversarial.mask_path": "soft"}
    assert design.arms[4].levels == {"gates": "on", "mixing": "on", "loss": "hybrid", "mask_path": "soft"}


def test_leave_one_out_lacks_one_component_an_arm(tmp_path: Path) -> None:
    design = load(changed(FACTORS, kind="leave_one_out", reference=None), tmp_path)
    assert names(design) == ["reference", "gates=off", "mixing=off", "loss=dice"]


def test_factorial_crosses_all_levels(tmp_path: Path) -> None:
    design = load(FACTORS, tmp_path)
    assert (
        len(design.arms) == 8 and names(design)[0] == "full" and names(design)[-1] == "gates=off+mixing=off+loss=dice"
    )
    levels = {tuple(arm.levels.values()) for arm in design.arms}
    assert levels == set(itertools.product(("on", "off"), ("on", "off"), ("hybrid", "dice")))
    both = next(arm.config for arm in design.arms if arm.name == "gates=off+mixing=off")
    assert not both.segmenter.attention and both.adversarial.mix_max == 0 and both.segmentation_loss.w_ce == 1


def test_unquoted_on_and_off_are_names(tmp_path: Path) -> None:
    text = yaml.safe_dump(changed(FACTORS, factors__gates=None))
    path = tmp_path / "d.yaml"
    path.write_text(
        text.replace("factors:", "factors:\n  gates:\n    on:\n    off: {set: {segmenter.attention: false}}")
    )
    assert "gates=off" in names(load_design(path))


def test_fractional_design_prints_what_it_confuses(tmp_path: Path) -> None:
    design = load(changed(FACTORS, kind="fractional", generators={"loss": "gates*mixing"}), tmp_path)
    assert names(design) == ["full", "mixing=off+loss=dice", "gates=off+loss=dice", "gates=off+mixing=off"]
    assert design.details()[1:] == [
        "2^(3-1) fraction, 4 arms, resolution III: I = gates*mixing*loss",
        "  gates is confused with mixing*loss",
        "  mixing is confused with gates*loss",
        "  loss is confused with gates*mixing",
    ]
    assert design.facts()["fraction"] == design.details()[1:]


def test_a_name_taken_by_another_study_or_by_foreign_runs_is_refused(tmp_path: Path, home: Home) -> None:
    design = load(ARMS, tmp_path)
    home.check_writable()
    folder = StudyFolder(home, "good")
    folder.path.mkdir()
    other = load(changed(ARMS, objective={"metric": "val/iou"}), tmp_path)
    folder.base_path.write_text(dump(other.base))
    (folder.path / "design.yaml").write_text(other.to_yaml("base.yaml"))
    folder.write_meta({"name": "good", "space_hash": other.hash})
    before = "study exists with another design: good: objective.metric was val/iou, is val/dice: choose another --name"
    with pytest.raises(UserError, match=before):
        sweep(design, home)
    RunFolder.create(home.runs, "mine-dice-s1", design.base, RunLabels(study="mine-dice"))
    with pytest.raises(UserError, match="run mine-dice-s1 is no part of this study"):
        sweep(design, home, name="mine")
    assert home.run_ids() == ["mine-dice-s1"] and not StudyFolder(home, "mine").exists


SMALL = ["data.path=synthetic://ordered?num=20&size=32&seed=0", "data.image_size=[32, 32]", "seeds=[0, 1]"]
# 32 labels need as many training images.
SMALL_LABELS = ["data.path=synthetic://ordered?num=60&size=32&seed=0", *SMALL[1:], "subsets=[0, 1]"]


@pytest.fixture(scope="module")
def plans_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("plans"))


@pytest.mark.parametrize("name", sorted(shipped("design")))
def test_every_shipped_design_loads_and_plans(name: str, plans_home: Home) -> None:
    design = load_design(name, SMALL_LABELS if name == "ablate_labels" else SMALL)
    assert design.name == name and design.file.test
    counted = plan(design, plans_home)
    repeats = 2 * max(1, len(design.file.subsets))
    assert counted.runs == repeats * sum(arm.not_run is None for arm in design.arms)
    assert 0 < counted.epochs_with_reuse <= counted.epochs_without_reuse


def test_the_baselines_are_the_rows_of_table_1() -> None:
    design = load_design(
        "ablate_baselines", ["adversarial.epochs=90", "adversarial.freeze_epochs=6", "segmenter.width=8"]
    )
    # After them come those that have a budget of sage_gan: test_arm_budgets.py.
    config = {arm.name: arm.config for arm in design.arms if arm.budget is None}
    plain = ["half_unet", "dc_unet", "unet", "unet_plus_plus", "attention_unet"]
    assert set(config) == {*plain, "cgan_seg", "sage_gan"} and design.reference.name == "sage_gan"
    assert all(config[name].segmenter.name == name and config[name].adversarial.epochs == 0 for name in plain)
    assert {c.segmenter.width for c in config.values()} == {8} and config["sage_gan"].adversarial.epochs == 90
    cgan = config["cgan_seg"]
    assert (cgan.segmenter.name, cgan.pretrain.epochs, cgan.adversarial.freeze_epochs) == ("unet", 0, 0)
    assert cgan.adversarial.mix_probability(0) == 1 and cgan.segmentation_loss.w_dice == 1
    assert len({c.data.model_dump_json() for c in config.values()}) == 1, "one definition, one augmentation"
    chains = {arm.name: arm.chain for arm in design.arms}
    assert chains["sage_gan"][:1] == chains["attention_unet"]


def test_the_loss_arms_are_the_losses_that_they_are_called() -> None:
    arms = {arm.name: arm.config.segmentation_loss for arm in load_design("ablate_loss").arms}
    weights = {n: (s.w_ce, s.w_focal, s.w_dice, s.w_tversky, s.w_focal_tversky) for n, s in arms.items()}
    assert weights == {
        "hybrid": (1, 0, 0, 0, 1),
        "dice": (0, 0, 1, 0, 0),
        "ce": (1, 0, 0, 0, 0),
        "focal_ce": (0, 1, 0, 0, 0),
        "tversky": (0, 0, 0, 1, 0),
        "focal_tversky_1.5": (0, 0, 0, 0, 1),
        "focal_tversky_0.75": (0, 0, 0, 0, 1),
        "cgan_seg": (1, 0, 1, 0, 0),
        "f_ancgan": (0, 0.5, 0, 1, 0),
    }
    assert [arms[f"focal_tversky_{g}"].gamma for g in ("1.5", "0.75")] == [1.5, 0.75]
    assert (arms["f_ancgan"].focal_alpha, arms["f_ancgan"].focal_gamma) == (0.25, 2)


def test_the_component_arms_change_what_they_name_and_share_phase_1() -> None:
    design = load_design("ablate_components")
    shares = {arm.name: arm.chain[0] == design.reference.chain[0] for arm in design.arms}
    assert [name for name, same in shares.items() if not same] == ["no_gates", "no_pretraining", "ema"]
    sets = ["adversarial.perceptual=none"]
    with pytest.raises(UserError, match="full and no_perceptual"):
        load_design("ablate_components", sets)
    without = load_design("ablate_components", [*sets, "arms.no_perceptual.not_run=no VGG19 weights"])
    assert without.not_run() == {"no_perceptual": "no VGG19 weights"}


def test_the_evaluation_arms_are_scored_by_their_own_truth() -> None:
    from sage_ray.evaluation.score_tables import meaning

    arms = load_design("ablate_evaluation").arms
    assert len({meaning("val/dice", arm.config) for arm in arms}) == 3
