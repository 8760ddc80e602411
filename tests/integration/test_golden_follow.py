"""Golden tests take every number from the set that they are pointed at: a set that says another number fails them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
SHIPPED = GOLDEN / "vectors"


class Change(NamedTuple):
    """One number that a set states, another in its place, and the golden test that must fail by it."""

    where: str
    said: str
    instead: str
    test: str
    array: str | None = None


# Changes of one dictionary go into one set, so no two of them may fail the same test.
CHANGES: dict[str, tuple[Change, ...]] = {
    "first": (
        Change("evaluation_pipeline", "fewer than 15 pixels removed", "fewer than 60 pixels removed",
               "test_metrics.py::test_pipeline_labels"),
        Change("evaluation_pipeline", "Batch size 2.", "Batch size 4.", "test_metrics.py::test_pipeline_scores"),
        Change("evaluation_pipeline", "config sage_file_defaults", "config log_config",
               "test_metrics.py::test_pipeline_loss", "mean_batch_loss"),
        Change("preprocessing", "with a 2x2 all-ones", "with a 3x3 all-ones",
               "test_preprocessing.py::test_preprocessing"),
        Change("discriminator", "8 heads of 64", "16 heads of 32",
               "test_networks.py::test_discriminator[float32-eval]"),
        Change("facts.json", "phase 1 drops at epochs 81", "phase 1 drops at epochs 82",
               "test_schedule.py::test_reduce_on_plateau_in_mode_min_is_the_clock_of_the_log[pretrain]"),
        Change("facts.json", '"rec_mask": 200', '"rec_mask": 150',
               "test_training_step.py::test_the_preset_has_the_published_weights"),
        Change("facts.json", '"style_mapper_part": 49536', '"style_mapper_part": 49535',
               "test_networks.py::test_parameter_counts_of_parts"),
        Change("facts.json", '62,\n  94', '62,\n  95', "test_networks.py::test_patch_score_shape"),
    ),
    "second": (
        Change("preprocessing", "fewer than 15 pixels", "fewer than 60 pixels",
               "test_preprocessing.py::test_preprocessing"),
        Change("training_step", "= log_config of", "= dice_only of", "test_training_step.py::test_pretrain_step"),
    ),
}  # fmt: skip
# The step has 16 TFLOP at full size and takes half a minute here.
SLOW_CHANGES = (
    Change("training_step", "first 2 of 5", "first 3 of 5", "test_training_step.py::test_adversarial_step", "z1"),
    Change("training_step", "first entry of 4", "first 2 entries of 4", "test_training_step.py::test_adversarial_step",
           "z3"),
    Change("training_step", "at most 0.1 %", "at most -1 %", "test_training_step.py::test_adversarial_step"),
)  # fmt: skip


@pytest.fixture
def changed_set(tmp_path: Path) -> Callable[[tuple[Change, ...]], Path]:
    """Make a copy of the shipped set with some of its statements changed."""

    def make(changes: tuple[Change, ...]) -> Path:
        folder = tmp_path / "vectors"
        shutil.copytree(SHIPPED, folder)
        facts = (folder / "facts.json").read_text(encoding="utf-8")
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        cases = {case["id"]: case for case in manifest["cases"]}
        for change in changes:
            if change.where == "facts.json":
                assert facts.count(change.said) == 1, change
                facts = facts.replace(change.said, change.instead)
                continue
            place = cases[change.where]
            holder, key = (place["arrays"][change.array], "meaning") if change.array else (place, "what")
            if change.said not in holder[key]:
                holder, key = place["tolerance"], "argmax_mask"
            assert holder[key].count(change.said) == 1, change
            holder[key] = holder[key].replace(change.said, change.instead)
        (folder / "facts.json").write_text(facts, encoding="utf-8")
        (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        return folder

    return make


def failed(folder: Path, tests: list[str]) -> set[str]:
    """Those of the golden tests that fail with the set in `folder`."""
    words = [sys.executable, "-m", "pytest", "-q", "-rfE", "--tb=no", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*words, *(str(GOLDEN / test) for test in tests)],
        cwd=GOLDEN.parents[1],
        env=os.environ | {"SAGE_PARITY_DIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode in (0, 1), done.stdout
    return {name.rpartition("golden/")[2] for name in re.findall(r"^FAILED (\S+)", done.stdout, re.M)}


@pytest.mark.parametrize("name", CHANGES)
def test_a_number_that_the_set_states_decides_its_test(
    name: str, changed_set: Callable[[tuple[Change, ...]], Path]
) -> None:
    tests = [change.test for change in CHANGES[name]]
    assert len(set(tests)) == len(tests)
    assert failed(changed_set(CHANGES[name]), tests) == set(tests)


@pytest.mark.slow
@pytest.mark.parametrize("change", SLOW_CHANGES, ids=lambda change: change.instead)
def test_a_number_of_the_adversarial_step_decides_its_test(
    change: Change, changed_set: Callable[[tuple[Change, ...]], Path]
) -> None:
    assert failed(changed_set((change,)), [change.test]) == {change.test}


def test_a_set_without_facts_takes_them_from_the_shipped_one(changed_set: Callable[..., Path]) -> None:
    """Facts and log go together: a folder with only one of them has neither."""
    tests = ["test_schedule.py", "test_networks.py::test_parameter_counts_of_parts"]
    folder = changed_set(CHANGES["first"])
    (folder / "published_training_log.csv").unlink()
    assert not failed(folder, tests)


def test_a_set_that_lacks_a_case_fails_by_name(changed_set: Callable[..., Path]) -> None:
    folder = changed_set(())
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["cases"] = [case for case in manifest["cases"] if case["id"] != "dice"]
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert failed(folder, ["test_metrics.py::test_dice"]) == {"test_metrics.py::test_dice"}
