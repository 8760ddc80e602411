"""ExperimentConfig: refused values with their remedy beside good twins, presets, overrides, identity, origins."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sage_ray.config import (
    ExperimentConfig,
    check_path,
    dump,
    flatten,
    known_paths,
    parse_set,
    preset_tree,
    resolve,
    shipped,
    stable_hash,
)
from sage_ray.errors import UserError
from sage_ray.identity import introduction_values
from sage_ray.terminal.show_config import annotated_yaml

PRESETS = sorted(shipped("preset"))


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_resolves_and_its_dump_reads_back_equal(name: str, tmp_path: Path) -> None:
    config = resolve(name).config
    path = tmp_path / "config.yaml"
    path.write_text(dump(config), encoding="utf-8")
    again = resolve(file=path).config
    assert again == config
    assert again.config_hash() == config.config_hash()


def test_the_contracted_presets_of_this_milestone_are_shipped() -> None:
    full = {"sage_gan_paper", "sage_gan_public", "attention_unet", "unet", "cgan_seg"}
    full |= {"unet_plus_plus", "half_unet", "dc_unet", "diffrender"}
    assert full <= set(PRESETS)
    assert {"tiny_sage_gan"} | {f"tiny_{name}" for name in full} <= set(PRESETS)


def test_tiny_sage_gan_is_the_paper_and_its_generator_gets_to_train() -> None:
    tiny, paper = resolve("tiny_sage_gan").config, resolve("sage_gan_paper").config
    assert tiny.segmentation_loss == paper.segmentation_loss
    assert tiny.adversarial.weights == paper.adversarial.weights
    assert tiny.adversarial.mask_path == paper.adversarial.mask_path
    phase = tiny.adversarial
    assert phase.freeze_epochs <= max(1, 0.1 * phase.epochs)
    ramp = next(e for e in range(phase.epochs) if phase.mix_probability(e) == phase.mix_max)
    assert ramp <= 0.25 * phase.epochs


def test_paper_and_public_code_differ_where_the_discrepancy_table_says() -> None:
    paper, public = (flatten(resolve(f"sage_gan_{n}").config.identity()) for n in ("paper", "public"))
    differing = {path for path in paper if paper[path] != public[path]}
    assert {"generator.style", "adversarial.mask_path", "segmentation_loss.focal_form"} <= differing


@pytest.mark.parametrize(
    ("bad", "good", "said"),
    [
        ("segmenter.widht=8", "segmenter.width=8", "did you mean segmenter.width?"),
        ("lambda_cycle=2", "adversarial.lambda_cycle=2", "adversarial.lambda_cycle"),
        ("adversarial.lr=0", "adversarial.lr=1e-5", "greater than 0"),
        ("adversarial.lr=nan", "adversarial.lr=0.1", "finite"),
        ("adversarial.lr=inf", "adversarial.lr=1.0", "finite"),
        ("adversarial.lr=fast", "adversarial.lr=3e-4", "valid number"),
        ("adversarial.mask_path=hard", "adversarial.mask_path=soft", "straight_through"),
        ("adversarial.mix_max=1.5", "adversarial.mix_max=0.5", "less than or equal to 1"),
        ("data.image_size=[64]", "data.image_size=[64, 96]", "data.image_size"),
        ("data.image_size=[8, 8]", "data.image_size=[16, 16]", "greater than or equal to 16"),
        ("data.split.test=0.9", "data.split.test=0.3", "leave training images"),
        ("data.split.folds=1", "data.split.folds=2", "at least 2"),
        ("data.split.fold=3", "data.split.fold=0", "does not exist with folds=2"),
        ("evaluation.select=ema", "evaluation.select=last", "ema_decay"),
        ("runtime.gpus_per_worker=1.5", "runtime.gpus_per_worker=0.5", "use 0 to 1, or 2, 3"),
        ("runtime.workers=3", "runtime.workers=2", "multiple of"),
        (
            "pretrain.schedule.rule=cosine",
            "pretrain.schedule.rule=plateau",
            "must not depend on the run's number of epochs",
        ),
        ("data.augment.jitter_range=[1.3, 0.7]", "data.augment.jitter_range=[0.7, 1.3]", "low <= high"),
        ("segmentation_loss.w_ce=-1", "segmentation_loss.w_ce=0", "greater than or equal to 0"),
        ("seed=-1", "seed=7", "greater than or equal to 0"),
        ("runtime.device=tpu", "runtime.device=cpu", "cuda"),
    ],
)
def test_a_bad_value_is_refused_in_one_line_and_its_good_twin_passes(bad: str, good: str, said: str) -> None:
    # fold 3 exists with 4 folds, and not with 2.
    extra = ["data.split.folds=2"] if "split.fold=" in bad else []
    with pytest.raises(UserError) as caught:
        resolve("tiny_sage_gan", sets=[*extra, bad])
    text = str(caught.value)
    assert said in text and "\n" not in text and text.count(": ") >= 2
    resolve("tiny_sage_gan", sets=[*extra, good])


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["pretrain.epochs=0", "adversarial.epochs=0"], "nothing would be trained"),
        (["pretrain.checkpoint=model", "pretrain.epochs=3"], "set pretrain.epochs to 0"),
        (["data.split.validation=0"], "evaluation.select"),
        (["data.split.validation=0", "evaluation.select=last"], "pretrain.handoff"),
        (
            [
                "data.split.validation=0",
                "evaluation.select=last",
                "pretrain.handoff=last",
                "adversarial.schedule.rule=plateau",
            ],
            "plateau has no score",
        ),
        (["segmentation_loss.w_ce=0", "segmentation_loss.w_focal_tversky=0"], "all weights are 0"),
        (["segmentation_loss.alpha=0", "segmentation_loss.beta=0"], "both 0"),
    ],
)
def test_values_that_contradict_each_other_are_refused(sets: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        resolve("tiny_sage_gan", sets=sets)


def test_training_without_validation_is_possible_when_nothing_needs_it() -> None:
    sets = ["data.split.validation=0", "evaluation.select=last", "pretrain.handoff=last"]
    assert resolve("tiny_sage_gan", sets=sets).config.data.split.validation == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1", "unreadable YAML"),
        ("- 1\n- 2\n", "not a mapping"),
        ("extends: sage_gan_papr\n", "did you mean sage_gan_paper?"),
        ("segmenter: {depht: 3}\n", "did you mean segmenter.depth?"),
        ("segmenter: {depth: 30}\n", "segmenter.depth"),
    ],
)
def test_a_bad_file_is_refused_with_its_name(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        resolve(file=path)
    assert said in str(caught.value)
    assert "mine.yaml" in str(caught.value) or "preset" in str(caught.value)


def test_a_file_that_is_missing_or_given_beside_a_preset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        resolve(file=tmp_path / "absent.yaml")
    with pytest.raises(UserError, match="both --preset and -c"):
        resolve("unet", file=tmp_path / "absent.yaml")
    with pytest.raises(UserError, match="unknown preset: sage_gan: did you mean"):
        resolve("sage_gan")


def test_each_value_tells_where_it_came_from(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("extends: tiny_sage_gan\nsegmenter: {width: 12}\n", encoding="utf-8")
    resolved = resolve(file=path, sets=["seed=5"])
    assert resolved.origins["segmenter.width"] == str(path)
    assert resolved.origins["segmenter.depth"] == "preset tiny_sage_gan"
    assert resolved.origins["seed"] == "--set"
    assert resolved.origins["evaluation.boundary_tolerance"] == "default"
    assert set(resolved.origins) == set(known_paths())


@pytest.mark.parametrize("name", ["tiny_sage_gan", "sage_gan_public"])
def test_the_annotated_yaml_reads_back_as_the_same_config(name: str) -> None:
    resolved = resolve(
        name, sets=["adversarial.lr=1e-7", "data.split.group='^(.+)_[0-9]+$'", "runtime.stage_store=null"]
    )
    lines = annotated_yaml(resolved.config.model_dump(mode="json"), resolved.origins)
    assert ExperimentConfig.model_validate(yaml.safe_load("\n".join(lines))) == resolved.config
    assert sum("# --set" in line for line in lines) == 3
    assert all("#" in line or line.endswith(":") for line in lines)


def test_identity_leaves_out_the_runtime_and_nothing_else() -> None:
    config = resolve("tiny_sage_gan").config
    assert config.with_values({"runtime.precision": "bf16"}).config_hash() == config.config_hash()
    assert config.with_values({"seed": 1}).config_hash() != config.config_hash()
    later = set(introduction_values(ExperimentConfig))  # sections of later releases, at their defaults
    assert set(config.identity()) == set(ExperimentConfig.model_fields) - {"runtime"} - later


def test_with_values_changes_a_copy_and_checks_it() -> None:
    config = resolve("tiny_sage_gan").config
    changed = config.with_values({"adversarial.lambda_cycle": 2.5, "pretrain.lr": 1})
    assert (changed.adversarial.lambda_cycle, config.adversarial.lambda_cycle) == (2.5, 1.0)
    assert changed.get("adversarial.lambda_cycle") == 2.5
    with pytest.raises(UserError, match="did you mean adversarial.lambda_cycle"):
        config.with_values({"adversarial.lamda_cycle": 1})
    with pytest.raises(UserError, match="pretrain.lr"):
        config.with_values({"pretrain.lr": 0})
    with pytest.raises(ValidationError):
        config.seed = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "value"),
    [("a.b=1e-4", 1e-4), ("a.b=3", 3), ("a.b=true", True), ("a.b=[1e-2, 2]", [0.01, 2]), ("a.b=", None),
     ("a.b=null", None), ("a.b=soft", "soft"), ("a.b=x=y", "x=y"), ("a.b=synthetic://o?num=3&size=64", "synthetic://o?num=3&size=64")],
)  # fmt: skip
def test_an_assignment_is_read_as_yaml(text: str, value: object) -> None:
    assert parse_set(text) == ("a.b", value)


@pytest.mark.parametrize("text", ["seed", "=3", " = 3"])
def test_what_is_no_assignment_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="section.key=value"):
        parse_set(text)


@given(st.floats(min_value=1e-12, max_value=1e6, allow_nan=False))
def test_any_positive_number_survives_show_and_dump(value: float) -> None:
    config = resolve("tiny_sage_gan").config.with_values({"adversarial.lr": value})
    lines = annotated_yaml(config.model_dump(mode="json"), {})
    assert ExperimentConfig.model_validate(yaml.safe_load("\n".join(lines))) == config
    assert ExperimentConfig.model_validate(yaml.safe_load(dump(config))) == config


def test_every_section_and_setting_has_a_default_and_a_known_path() -> None:
    flat = flatten(ExperimentConfig().model_dump(mode="json"))
    assert set(flat) == set(known_paths())
    for path in flat:
        check_path(path, "test")


@given(st.dictionaries(st.text(min_size=1, max_size=5), st.integers() | st.text(max_size=5), max_size=6))
def test_the_stable_hash_ignores_the_order_of_keys(tree: dict[str, object]) -> None:
    assert stable_hash(tree) == stable_hash(dict(reversed(list(tree.items()))))
    assert stable_hash(tree) != stable_hash({**tree, "another key": 1})


def test_a_preset_names_what_it_overrides_only() -> None:
    values, origins = preset_tree("tiny_sage_gan")
    assert set(flatten(values)) == set(origins)
    assert origins["pretrain.epochs"] == "preset tiny_sage_gan"
