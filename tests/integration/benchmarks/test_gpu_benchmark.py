"""`benchmarks/gpu.py`: runs where five packages are all there is, and ends well whatever a section does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks import gpu
from benchmarks.gpu import FULL, LIMIT_S
from benchmarks.gpu_parity import PUBLIC
from benchmarks.gpu_summary import lines, ratios, schedule_hours
from sage_ray.config import ExperimentConfig, resolve

NEEDED = ("torch", "numpy", "pydantic", "kornia", "safetensors")
# Names that are not there, as an absent package has it: nothing finds them, and nothing raises before an import does.
BLOCK = """
import os, sys
from importlib.machinery import PathFinder

class Blocked:
    names = frozenset(os.environ["BLOCKED"].split(","))
    find_distributions = PathFinder.find_distributions

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in cls.names else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Blocked
"""


def with_dependencies(names: tuple[str, ...]) -> set[str]:
    """The distributions and all that they require here, extras left out."""
    found: set[str] = set()
    waiting = [canonicalize_name(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        try:
            needs = [Requirement(text) for text in requires(name) or []]
        except PackageNotFoundError:
            continue
        waiting += [canonicalize_name(n.name) for n in needs if n.marker is None or n.marker.evaluate({"extra": ""})]
    return found


def benchmark(
    repo: Path, folder: Path, *words: str, blocked: bool = False
) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """The finished command, and the JSON that it wrote into `folder`."""
    surroundings = {**os.environ, "OUT": str(folder), "PYTHONPATH": ""}
    if blocked:
        allowed = with_dependencies(NEEDED)
        tops = packages_distributions()
        names = [top for top, dists in tops.items() if not {canonicalize_name(d) for d in dists} & allowed]
        assert {"yaml", "ray", "mlflow", "scipy", "PIL", "pyarrow", "pandas", "pytest"} <= set(names)
        (folder / "sitecustomize.py").write_text(BLOCK)
        surroundings |= {"PYTHONPATH": str(folder), "BLOCKED": ",".join(names)}
    command = [sys.executable, str(repo / "benchmarks" / "gpu.py"), "--small", *words]
    done = subprocess.run(command, env=surroundings, cwd=folder, capture_output=True, text=True, check=False)
    path = folder / "gpu_small.json"
    return done, json.loads(path.read_text()) if path.is_file() else {}


def check_steps(section: dict[str, Any], kinds: int) -> None:
    rows = section["result"]["steps"]
    assert len(rows) == kinds
    for row in rows:
        assert 0 < row["s"]["min"] <= row["s"]["median"] <= row["s"]["max"]
        assert row["steps_per_s"] == pytest.approx(1 / row["s"]["median"])
        assert isinstance(row["loss"], float) and row["peak_memory_gb"] is None


def test_blocked_packages_are_absent(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(BLOCK)
    surroundings = {**os.environ, "PYTHONPATH": str(tmp_path), "BLOCKED": "yaml"}
    ask = "import importlib.util as u; print(u.find_spec('yaml'), u.find_spec('numpy') is not None); import yaml"
    done = subprocess.run([sys.executable, "-c", ask], env=surroundings, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["None", "True"] and "No module named 'yaml'" in done.stderr


def test_five_packages_are_enough(repo: Path, tmp_path: Path) -> None:
    names = "device,eager_fp32,eager_bf16,eager_tf32,kernels"
    done, record = benchmark(repo, tmp_path, "--only", names, "--steps", "2", blocked=True)
    assert done.returncode == 0, done.stdout + done.stderr
    sections = record["sections"]
    states = {name: section["state"] for name, section in sections.items()}
    assert states.pop("eager_tf32") == "not applicable"
    assert set(states.values()) == {"done"}, states
    assert sections["device"]["result"]["type"] == "cpu" and record["commit"] and "--only" in record["command"]
    check_steps(sections["eager_fp32"], 5)
    check_steps(sections["eager_bf16"], 5)
    assert set(record["ratios"]) == {"bf16 eager"} and record["schedule_hours"] is None
    for found in sections["kernels"]["result"]["phases"].values():
        costs = [kernel["ms_per_step"] for kernel in found["kernels"]]
        assert len(costs) == 20 and costs == sorted(costs, reverse=True)
        assert any("conv" in kernel["name"] for kernel in found["kernels"])
    assert "CPU sizes alone" in done.stdout and "phase 2 frozen, real" in done.stdout


@pytest.mark.slow
def test_the_whole_of_it_needs_five_packages(repo: Path, tmp_path: Path) -> None:
    done, record = benchmark(repo, tmp_path, blocked=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(record["sections"]) == {name for group in FULL for name in group}
    assert record["sections"]["parity"]["result"]["failed"] == 0
    assert record["sections"]["graphs"]["result"]["adversarial"]["graph_breaks"] == 0
    check_steps(record["sections"]["compiled_fp32"], 2)


def test_a_section_that_breaks_is_recorded(repo: Path, tmp_path: Path) -> None:
    done, record = benchmark(repo, tmp_path, "--only", "device,compiled_fp32", "--backend", "no_such_backend")
    section = record["sections"]["compiled_fp32"]
    assert done.returncode == 1 and section["state"] == "partly", done.stdout + done.stderr
    assert all("no_such_backend" in row["error"] for row in section["result"]["steps"])
    assert record["sections"]["device"]["state"] == "done" and "no_such_backend" in done.stdout


def test_what_takes_too_long_is_cut_and_the_rest_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--small"])
    record: dict[str, Any] = {"sections": {}}
    options = gpu.parsed()
    gpu.run_group(gpu.Plan(options, (), time.monotonic() + 60), {"graphs": 2}, record)  # it takes far longer
    assert record["sections"]["graphs"]["state"] in ("cut", "left out")
    assert record["sections"]["graphs"]["error"] == "ended after its limit of 2 s"
    gpu.run_group(gpu.Plan(options, (), time.monotonic() + 1), {"parity": 60}, record)
    assert record["sections"]["parity"] == {"state": "left out", "error": "no time was left"}
    assert capsys.readouterr().out.splitlines()[-1] == "parity: left out no time was left"


def test_without_a_gpu_it_says_so(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    done, record = benchmark(repo, tmp_path, "--device", "cuda")
    assert done.returncode == 2 and not record
    assert done.stderr.splitlines()[-1].startswith("benchmarks/gpu.py: no GPU here")


def test_its_configurations_are_those_of_the_presets() -> None:
    assert resolve("sage_gan_paper").config == ExperimentConfig()
    public, ours = resolve("sage_gan_public").config, ExperimentConfig().with_values(PUBLIC)
    assert ours.generator == public.generator and ours.segmentation_loss == public.segmentation_loss
    unread = {"epochs": 1, "schedule": ours.adversarial.schedule}  # by a step
    assert ours.adversarial.model_copy(update=unread) == public.adversarial.model_copy(update=unread)


def test_the_limits_leave_room() -> None:
    assert LIMIT_S[False] < 9 * 60 and LIMIT_S[True] < 9 * 60


def test_ratios_and_hours() -> None:
    kinds = ["phase 1", "phase 2, real", "phase 2, synthetic", "phase 2 frozen, real", "phase 2 frozen, synthetic"]

    def section(precision: str, seconds: float) -> dict[str, Any]:
        rows = [{"kind": kind, "s": {"median": seconds, "min": seconds, "max": seconds}} for kind in kinds]
        return {"state": "done", "result": {"precision": precision, "mode": "eager", "steps": rows}}

    record = {"batch": 2, "sections": {"a": section("fp32", 0.2), "b": section("bf16", 0.1)}}
    assert ratios(record) == {"bf16 eager": dict.fromkeys(kinds, 2.0)}
    # 700 epochs of 63 steps of 0.2 s, whatever is mixed in.
    hours = schedule_hours(record, 126)["hours"]
    assert hours["fp32 eager"] == pytest.approx(700 * 63 * 0.2 / 3600)
    del record["sections"]["b"]["result"]["steps"][-1]
    assert list(schedule_hours(record, 126)["hours"]) == ["fp32 eager"]


def test_the_lines_say_what_is_missing() -> None:
    record = {"commit": "abc", "size": [32, 48], "width": 4, "batch": 2, "speaks_of": "nothing", "ratios": {}}
    said = list(lines(record | {"sections": {"graphs": {"state": "cut", "error": "ended after its limit of 9 s"}}}))
    assert said[-1] == "graphs is cut: ended after its limit of 9 s"
