"""What `sage-ray plan` prints: time and price, the tree, first trials, a trimmed command; its JSON keeps its fields."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from design_cases import ARMS, changed
from sweep_cases import BASE, write_space
from yaml import safe_dump

from sage_ray.durations import hours_text, number_text
from sage_ray.record.home import Home
from sage_ray.runtime.launch import run
from sage_ray.study.space import load_space
from sage_ray.terminal.cli import call


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, Path]:
    """A home with one run of a space's base, and the space: 4 trials of 2 + 3 epochs."""
    folder = tmp_path_factory.mktemp("known")
    path = write_space(folder)
    home = Home(folder / "home")
    run(load_space(path).base, home, "before", mirror=False, launcher="inline")
    return home, path


def asked(
    capsys: pytest.CaptureFixture[str], home: Home, *words: str, code: int = 0
) -> tuple[list[str], dict[str, Any]]:
    assert call(["plan", *words, "--home", str(home.path), "--json"]) == code
    lines = capsys.readouterr().out.splitlines()
    return lines[:-1], json.loads(lines[-1])


def test_an_unknown_time_names_the_pilot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_space(tmp_path)
    lines, fields = asked(capsys, Home(tmp_path / "home"), str(path), "--price", "2.5")
    assert any(line.startswith("time: not known") and "--pilot" in line for line in lines)
    assert "price: not known, at 2.5 per hour of a worker (1 CPU)" in lines
    assert fields["next"][-1].startswith(f"sage-ray plan {path} --price 2.5 --pilot")
    assert fields["price"] is None and fields["wall_hours"] is None


def test_time_price_tree_and_trials_are_told(known: tuple[Home, Path], capsys: pytest.CaptureFixture[str]) -> None:
    home, path = known
    lines, fields = asked(capsys, home, str(path), "--price", "3600")
    text = "\n".join(lines)
    assert "time: about " in text and "worker-hours (no GPU)" in text and "epochs of before" in text
    assert "  phase 1, 2 epochs: 4 runs, seed 0\n  └─ 4 x phase 2, from epoch 2, 3 epochs: 1 run each" in text
    at = lines.index("first trials:")
    assert lines[at + 1].split() == ["trial", "lambda_cycle", "lr"] and lines[at + 5].split()[0] == "3"
    of_contract = {"trials", "runs", "stages", "epochs_without_reuse", "epochs_with_reuse"}
    of_contract |= {"device", "precision", "trials_at_once", "gpu_hours", "wall_hours", "disk_gb", "price"}
    assert of_contract <= set(fields)
    assert fields["price"] == pytest.approx(3600 * fields["worker_hours"], abs=0.002) and fields["gpu_hours"] == 0
    (root,) = fields["tree"]
    assert (root["phase"], root["ends"], root["runs"], len(root["below"])) == ("pretrain", [2], 4, 4)


def test_early_stopping_makes_it_an_upper_bound(known: tuple[Home, Path], capsys: pytest.CaptureFixture[str]) -> None:
    home, path = known
    lines, fields = asked(capsys, home, str(path), "--set", "scheduler={name: asha, grace_epochs: 3}")
    assert any(line.startswith("time: at most ") for line in lines) and fields["upper_bound"] is True


def test_a_budget_ends_with_the_command_that_fits(known: tuple[Home, Path], capsys: pytest.CaptureFixture[str]) -> None:
    home, path = known
    _, whole = asked(capsys, home, str(path), "--set", "concurrency=1")
    budget = 0.7 * whole["worker_hours"]
    lines, fields = asked(capsys, home, str(path), "--set", "concurrency=1", "--budget-gpu-hours", f"{budget}")
    trim = fields["trim"]
    assert 1 <= trim["trials"] < 4 and trim["hours"] <= budget
    assert f"--set concurrency=1 --set trials={trim['trials']} " in fields["next"][0]
    assert any(f"the first {trim['trials']} of 4 trials fit" in line for line in lines)
    assert call(["plan", str(path), "--home", str(home.path), "--budget-gpu-hours", "1e-9"]) == 2
    assert "the first trial takes" in capsys.readouterr().err


def test_an_ablation_names_the_seeds_that_fit(
    known: tuple[Home, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home, _ = known
    path = tmp_path / "design.yaml"
    path.write_text(safe_dump(changed(ARMS, base__set=BASE, test=False, arms__dice=None, seeds=[0, 1, 2])))
    _, whole = asked(capsys, home, str(path))
    lines, fields = asked(capsys, home, str(path), "--budget-gpu-hours", f"{0.8 * whole['worker_hours']}")
    assert "--set 'seeds=[0,1]'" in fields["next"][0] and fields["next"][0].startswith("sage-ray ablate")
    assert any("all arms with seeds 0, 1, 4 of 6 runs, fit" in line for line in lines)


def test_the_tree_is_drawn_into_a_file(
    known: tuple[Home, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home, path = known
    _, fields = asked(capsys, home, str(path), "--svg", str(tmp_path / "tree.svg"))
    assert (tmp_path / "tree.svg").read_text().startswith("<svg ") and fields["paths"]["svg"].endswith("tree.svg")
    assert call(["plan", str(path), "--home", str(home.path), "--svg", str(tmp_path / "no" / "tree.svg")]) == 2
    assert "cannot be written: --svg" in capsys.readouterr().err


def test_hours_leave_digits_to_see() -> None:
    assert [hours_text(h) for h in (0.01, 0.5, 7.46, 100)] == ["36 s", "30 min", "7.5 h", "4.2 days"]
    assert [number_text(h) for h in (0.01234, 12.34, 4428.1, None)] == ["0.0123", "12.3", "4,428", "-"]
