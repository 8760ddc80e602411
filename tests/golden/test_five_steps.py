"""Nobody changes what training computes without a new stage code version: stages of before would be taken for its."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import five_steps  # noqa: E402  (beside this file, whatever pytest's import mode)
from five_steps import CASES, COMMAND, differences, measure, read_golden  # noqa: E402


def verdict(case: str, found: dict[str, Any], golden: dict[str, Any] | None) -> str | None:
    """What is wrong with the numbers of a case, and what to do; None if nothing is."""
    renew = f"{COMMAND} {case}"
    if golden is None or set(golden) != set(found):
        return f"{case}: no golden of its phases; make it with `{renew}`"
    for phase, now in found.items():
        was = golden[phase]
        lines = differences(case, now["numbers"], was["numbers"])
        shown = "; ".join(lines[:6]) + (f"; and {len(lines) - 6} more" if len(lines) > 6 else "")
        if now["version"] != was["version"]:
            what = f"stage code version went from {was['version']} to {now['version']}"
            return f"{case}, {phase}: {what} ({len(lines)} numbers changed): renew the golden with `{renew}`"
        if lines:
            return (
                f"{case}, {phase}: training changed: either undo, or add a CodeChange in sage_ray/stages/keys.py that "
                f"touches this config and renew the golden with `{renew}`. {shown}"
            )
    return None


@pytest.mark.parametrize("case", CASES)
def test_training_computes_what_its_stage_code_version_stands_for(case: str) -> None:
    wrong = verdict(case, measure(case), read_golden().get(case))
    assert wrong is None, wrong


def test_five_steps_of_each_phase_are_compared() -> None:
    golden = read_golden()
    for case in CASES:
        for phase, facts in golden[case].items():
            losses = [name for name in facts["numbers"] if name.endswith("/loss") and name.startswith("step ")]
            assert len(losses) == (10 if phase == "adversarial" else 5), (case, phase)
    # The generator is frozen in five steps of phase 2, and trains in five.
    paper = golden["paper"]["adversarial"]["numbers"]
    assert paper["moved/generator"] > 0 and "step 06/loss_rec_mask" in paper


def test_the_failure_tells_a_change_from_a_raised_version() -> None:
    golden = read_golden()["segmenter"]
    assert verdict("segmenter", golden, golden) is None
    changed = copy.deepcopy(golden)
    changed["pretrain"]["numbers"]["step 03/loss"] *= 1.001
    told = verdict("segmenter", changed, golden)
    assert told is not None and "training changed: either undo, or add a CodeChange" in told and "step 03/loss" in told
    changed["pretrain"]["version"] += 1
    told = verdict("segmenter", changed, golden)
    assert told is not None and "renew the golden" in told and "undo" not in told
    assert "no golden" in str(verdict("segmenter", golden, None))


@pytest.mark.parametrize("changed", ["optimizer", "loss"])
def test_a_changed_training_is_seen(monkeypatch: pytest.MonkeyPatch, changed: str) -> None:
    import torch

    from sage_ray.training import pretrain

    if changed == "optimizer":
        plain = torch.optim.Adam
        monkeypatch.setattr(torch.optim, "Adam", lambda rows, **given: plain(rows, **given | {"betas": (0.8, 0.999)}))
    else:
        real = pretrain.supervised_loss
        monkeypatch.setattr(pretrain, "supervised_loss", lambda *rest: 1.001 * real(*rest))
    told = verdict("segmenter", measure("segmenter"), read_golden()["segmenter"])
    assert told is not None and "training changed" in told


def test_the_command_is_this_file() -> None:
    assert COMMAND.split()[1] == "tests/golden/" + Path(five_steps.__file__).name
