"""A release opens the homes of the one before: what was hashed then is hashed to the same digits now."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import sage_ray.config as config_module
from sage_ray.config import ExperimentConfig, build_config, known_paths, resolve, set_path
from sage_ray.identity import identity_tree, introduction_values, later, widened
from sage_ray.sections import Section
from sage_ray.stages import keys as keys_module
from sage_ray.stages.keys import LATER_NUMERICS, CodeChange, stage_keys
from sage_ray.study import design_schema, file_schema
from sage_ray.study.design import Design, load_spec
from sage_ray.training.context import LocalContext, numerics

FACTS: dict[str, Any] = json.loads((Path(__file__).parent.parent / "data" / "release-e34d834.json").read_text())
MEND = "declare it with sage_ray.identity.later, so that the studies, runs and stages of before stay valid"


def sections(model: type[BaseModel], prefix: str = "") -> dict[str, type[BaseModel]]:
    """Each section of the config by its dotted path, the config itself as the empty one."""
    found = {prefix: model}
    for name, info in model.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            found |= sections(info.annotation, f"{prefix}{name}.")
    return found


def undeclared(fields: set[str], first: set[str], declared: set[str]) -> set[str]:
    """Fields that are neither of the first release nor declared with an introduction value."""
    return fields - first - declared


def test_every_setting_of_a_later_release_declares_its_introduction_value() -> None:
    declared = {
        f"{prefix}{name}" for prefix, model in sections(ExperimentConfig).items() for name in introduction_values(model)
    }
    hashed = {path for path in known_paths() if not path.startswith("runtime.")}
    whole = {path for path in hashed if any(path.startswith(f"{name}.") for name in declared)}
    missing = undeclared(hashed - whole, set(FACTS["config_fields"]), declared)
    assert not missing, f"{sorted(missing)}: {MEND}"


def test_every_key_of_a_study_file_of_a_later_release_declares_its_introduction_value() -> None:
    for name, first in FACTS["study_fields"].items():
        model = getattr(file_schema, name, None) or getattr(design_schema, name)
        missing = undeclared(set(model.model_fields), set(first), set(introduction_values(model)))
        assert not missing, f"{name}: {sorted(missing)}: {MEND}"


def test_every_entry_of_numerics_of_a_later_release_declares_its_introduction_value() -> None:
    runtime = resolve("tiny_unet").config.runtime
    now = numerics(runtime, LocalContext(runtime).device, 1)
    missing = undeclared(set(now), set(FACTS["numerics"]), set(LATER_NUMERICS))
    assert not missing, f"{sorted(missing)}: give it an introduction value in sage_ray.stages.keys.LATER_NUMERICS"


def test_settings_that_went_away_are_listed_as_removed() -> None:
    gone = set(FACTS["config_fields"]) - set(known_paths()) - set(config_module.REMOVED)
    assert not gone, f"{sorted(gone)}: old configs name it; list it in sage_ray.config.REMOVED"


@pytest.mark.parametrize("preset", FACTS["presets"])
def test_configs_and_stages_of_the_first_release_keep_their_hashes(preset: str) -> None:
    config, facts = resolve(preset).config, FACTS["presets"][preset]
    assert config.config_hash() == facts["config_hash"]
    assert stage_keys(config, "f" * 16, "5" * 16, FACTS["numerics"]) == facts["stage_keys"]


@pytest.mark.parametrize("study", FACTS["studies"])
def test_studies_of_the_first_release_keep_their_hashes(study: str) -> None:
    spec = load_spec(study, {})
    if study in GROWN:
        assert isinstance(spec, Design)
        assert set(GROWN[study]) <= {arm.name for arm in spec.arms} and spec.hash != FACTS["studies"][study]
        spec = replace(spec, arms=tuple(arm for arm in spec.arms if arm.name not in GROWN[study]))
    assert spec.hash == FACTS["studies"][study]


GROWN: dict[str, tuple[str, ...]] = {
    "ablate_components": ("no_cycle_image_while_frozen", "no_mixing_while_frozen"),
    "ablate_baselines": (
        *("attention_unet_epochs", "attention_unet_steps", "attention_unet_seconds"),
        *("strong_unet", "pretrained_unet"),
    ),
}
"""Shipped designs that have got arms since, and which: they are other studies now, and nothing else in them differs."""


class Later(Section):
    old: float = 1.0
    new: bool = later(True)
    changed: int = later(5, introduced=3)
    word: float | str = widened("auto", hashed_as={"auto": 0.0})


class Holder(Section):
    parts: dict[str, Later] = {}
    listed: tuple[Later, ...] = ()


def test_a_later_field_counts_once_it_differs_from_its_introduction_value() -> None:
    assert identity_tree(Later(changed=3)) == {"old": 1.0, "word": 0.0}
    assert identity_tree(Later()) == {"old": 1.0, "changed": 5, "word": 0.0}
    assert identity_tree(Later(new=False, changed=3, word=0.5)) == {"old": 1.0, "new": False, "word": 0.5}


def test_later_fields_are_left_out_however_deep_they_stand() -> None:
    held = Holder(parts={"a": Later(changed=3)}, listed=(Later(changed=3), Later(changed=3, new=False)))
    assert identity_tree(held) == {
        "parts": {"a": {"old": 1.0, "word": 0.0}},
        "listed": [{"old": 1.0, "word": 0.0}, {"old": 1.0, "new": False, "word": 0.0}],
    }


def test_a_code_change_touches_only_the_stages_that_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, averaged = (
        resolve("tiny_sage_gan").config,
        resolve("tiny_sage_gan", sets=["evaluation.ema_decay=0.9"]).config,
    )
    before = [stage_keys(config, "f", "s", FACTS["numerics"]) for config in (plain, averaged)]
    newest = max((change.version for change in keys_module.CODE_CHANGES), default=keys_module.FIRST_CODE_VERSION)
    change = CodeChange(newest + 1, "a test", lambda config, phase, numbers: config.evaluation.ema_decay > 0)
    monkeypatch.setattr(keys_module, "CODE_CHANGES", (*keys_module.CODE_CHANGES, change))
    after = [stage_keys(config, "f", "s", FACTS["numerics"]) for config in (plain, averaged)]
    assert after[0] == before[0]
    assert set(after[1].values()).isdisjoint(before[1].values())


def test_later_numerics_count_once_they_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    config = resolve("tiny_sage_gan").config
    monkeypatch.setattr(keys_module, "LATER_NUMERICS", {"rounding": "near"})
    first = stage_keys(config, "f", "s", FACTS["numerics"])
    assert stage_keys(config, "f", "s", {**FACTS["numerics"], "rounding": "near"}) == first
    assert stage_keys(config, "f", "s", {**FACTS["numerics"], "rounding": "far"}) != first


def test_a_removed_setting_is_read_ignored_and_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(config_module.REMOVED, "runtime.gone", "nothing takes its place")
    config_module._say_removed.cache_clear()
    tree = {"seed": 3, "runtime": {"gone": 4, "workers": 1}}
    assert build_config(tree, "old file") == build_config({"seed": 3}, "new file")
    values: dict[str, Any] = {}
    set_path(values, "runtime.gone", 5, "--set")
    assert values == {}
    assert [record.getMessage() for record in caplog.records] == [
        "setting runtime.gone is gone and ignored: nothing takes its place"
    ]
