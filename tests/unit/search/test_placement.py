"""Where the trials of a study go: device, precision, share of a GPU, trials at a time. The machines are pretended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from sage_ray.config import dump, shipped
from sage_ray.errors import UserError
from sage_ray.record.home import Home
from sage_ray.runtime.devices import Machines, Node
from sage_ray.search import ray_session
from sage_ray.search.placement import placed, trials_at_once, worker_resources
from sage_ray.search.plan import plan
from sage_ray.study.design import Design, load_spec
from sage_ray.study.space import Space, load_space

LAPTOP = Machines((Node(2),))
ONE = Machines((Node(16, 1),), gpu="NVIDIA H100")
FOUR = Machines((Node(8, 2), Node(8, 2), Node(32)), "the Ray cluster", gpu="NVIDIA A100")
OLD_GPU = Machines((Node(8, 1),), gpu="Tesla T4", bf16=False)
UNUSABLE = Machines((Node(8, 2),), "the Ray cluster")

SPACE: dict[str, Any] = {
    "name": "unit",
    "base": {"preset": "tiny_unet"},
    "space": {"pretrain.lr": {"float": [1e-4, 1e-2], "log": True}},
    "sampler": {"name": "random"},
    "trials": 20,
}


def space(folder: Path, sets: tuple[str, ...] = (), **changes: Any) -> Space:
    path = folder / "unit.yaml"
    path.write_text(yaml.safe_dump({**SPACE, **changes}))
    return load_space(path, sets)


def stored(folder: Path, spec: Space) -> Space:
    """The study as a later start reads it from its folder."""
    (folder / "base.yaml").write_text(dump(spec.base))
    (folder / "space.yaml").write_text(spec.to_yaml("base.yaml"))
    return load_space(folder / "space.yaml")


@pytest.mark.parametrize(
    ("resources", "concurrency", "machines", "device", "gpu", "precision", "at_once"),
    [
        ({}, "auto", LAPTOP, "cpu", 0, "fp32", 2),
        ({}, "auto", ONE, "cuda", 1, "bf16", 1),
        ({}, "auto", FOUR, "cuda", 1, "bf16", 4),
        ({}, "auto", OLD_GPU, "cuda", 1, "fp32", 1),
        ({}, "auto", UNUSABLE, "cpu", 0, "fp32", 8),
        ({}, 2, FOUR, "cuda", 1, "bf16", 2),
        ({}, None, FOUR, "cuda", 1, "bf16", 4),
        ({"gpu": 0}, "auto", FOUR, "cpu", 0, "fp32", 48),
        ({"gpu": 0.5}, "auto", ONE, "cuda", 0.5, "bf16", 2),
        ({"gpu": "share"}, "auto", ONE, "cuda", 0.25, "bf16", 4),
        ({"gpu": "share", "cpu": 8}, "auto", ONE, "cuda", 0.5, "bf16", 2),
        ({"gpu": "share"}, 3, ONE, "cuda", 0.3333, "bf16", 3),
        ({"gpu": "share"}, 8, FOUR, "cuda", 0.5, "bf16", 8),
        ({"gpu": "share"}, "auto", LAPTOP, "cpu", 0, "fp32", 2),
        ({"workers": 2}, "auto", FOUR, "cuda", 1, "bf16", 2),
        ({"cpu": 5}, "auto", FOUR, "cuda", 1, "bf16", 2),
    ],
)
def test_what_a_trial_gets(
    tmp_path: Path,
    resources: dict[str, Any],
    concurrency: Any,
    machines: Machines,
    device: str,
    gpu: float,
    precision: str,
    at_once: int,
) -> None:
    spec, placement = placed(space(tmp_path, resources=resources, concurrency=concurrency), machines)
    assert (placement.device, placement.precision, placement.trials_at_once) == (device, precision, at_once)
    assert worker_resources(spec) == {"CPU": resources.get("cpu", 1), **({"GPU": gpu} if gpu else {})}
    runtime = spec.config({}).runtime
    assert (runtime.device, runtime.gpus_per_worker, runtime.precision) == (device, gpu, precision)
    where = "CPU, 1 thread" if device == "cpu" else str(machines.gpu)
    assert where in placement.text and precision in placement.text
    assert placement.text.endswith(f"{at_once} trials at once" if at_once > 1 else "1 trial at once")


@pytest.mark.parametrize(
    ("changes", "machines", "words"),
    [
        ({}, LAPTOP, None),
        ({}, FOUR, None),
        ({"resources": {"gpu": 0}}, FOUR, "4 GPUs stand idle: resources.gpu is 0"),
        ({"resources": {"cpu": 5}}, FOUR, "2 of 4 GPUs stand idle: the CPUs allow no more"),
        ({"concurrency": 1}, FOUR, "3 of 4 GPUs stand idle: concurrency is 1"),
        ({}, UNUSABLE, "2 GPUs of the Ray cluster cannot be used by the torch"),
        ({"concurrency": 9}, FOUR, "concurrency is 9, of which 4 fit;"),
    ],
)
def test_a_gpu_that_stands_idle_is_warned_of(
    tmp_path: Path, changes: dict[str, Any], machines: Machines, words: str | None
) -> None:
    _, placement = placed(space(tmp_path, **changes), machines)
    assert len(placement.warnings) == (words is not None)
    assert words is None or words in placement.warnings[0]


def test_the_limit_follows_the_machines_that_are_there_by_then(tmp_path: Path) -> None:
    nodes = [(Node(1),), (Node(1), Node(3)), (Node(1),), ()]
    auto, _ = placed(space(tmp_path), LAPTOP)
    assert [trials_at_once(auto, seen) for seen in nodes] == [1, 4, 1, 1]
    told, _ = placed(space(tmp_path, concurrency=6), LAPTOP)
    assert [trials_at_once(told, seen) for seen in nodes] == [1, 4, 1, 1], "no more are drawn than fit"
    assert trials_at_once(told, (Node(4), Node(4))) == 6


def test_a_study_stays_on_the_device_it_began_on(tmp_path: Path) -> None:
    fresh = space(tmp_path)
    began, _ = placed(fresh, FOUR)
    assert began.hash == fresh.hash
    again = stored(tmp_path, began)
    assert again.hash == fresh.hash
    resumed, _ = placed(again, ONE, begun=again.base.runtime)
    assert resumed.base.runtime == began.base.runtime
    # The same command, on a machine with an older GPU: the study's precision stands.
    repeated, _ = placed(fresh, OLD_GPU, begun=again.base.runtime)
    assert repeated.base.runtime.precision == "bf16"
    with pytest.raises(UserError, match="no GPU on this machine, and the study began on one: unit"):
        placed(fresh, LAPTOP, begun=again.base.runtime)
    for sets, words in ((("runtime.precision=fp32",), "precision bf16, not fp32"), (("runtime.device=cpu",), "cuda")):
        with pytest.raises(UserError, match=words):
            placed(space(tmp_path, sets), FOUR, begun=again.base.runtime)


def test_a_study_that_began_on_the_cpu_stays_there_and_says_that_a_gpu_stands_idle(tmp_path: Path) -> None:
    fresh = space(tmp_path)
    again = stored(tmp_path, placed(fresh, LAPTOP)[0])
    resumed, placement = placed(fresh, ONE, begun=again.base.runtime)
    assert resumed.base.runtime.device == "cpu" and resumed.hash == fresh.hash
    assert placement.warnings == ("1 GPU stands idle: the study began on the CPU",)


def test_a_study_of_the_first_release_opens_and_stays_on_the_cpu(tmp_path: Path) -> None:
    """Its file does not name resources (0 GPUs was the default), its base.yaml says cpu, 0 and fp32."""
    fresh = space(tmp_path)
    base = yaml.safe_load(dump(fresh.base))
    base["runtime"] |= {"device": "cpu", "precision": "fp32", "gpus_per_worker": 0.0, "threads": 1}
    del base["runtime"]["deterministic"]
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    (tmp_path / "space.yaml").write_text(yaml.safe_dump({**SPACE, "base": {"file": "base.yaml"}, "concurrency": 2}))
    old = load_space(tmp_path / "space.yaml")
    resumed, placement = placed(old, FOUR, begun=old.base.runtime)
    assert old.hash == fresh.hash == resumed.hash
    assert (placement.device, placement.precision, placement.trials_at_once) == ("cpu", "fp32", 2)


def test_arms_of_a_design_are_placed_with_it() -> None:
    design = load_spec("ablate_tiny")
    assert isinstance(design, Design)
    on_gpu, _ = placed(design, ONE)
    assert {arm.config.runtime.device for arm in on_gpu.arms} == {"cuda"}
    assert on_gpu.hash == design.hash and on_gpu.arms[0].values == design.arms[0].values
    assert [sample.params for sample in on_gpu.fixed] == [sample.params for sample in design.fixed]


@pytest.mark.parametrize("name", sorted(shipped("study")))
def test_shipped_studies_leave_device_and_concurrency_to_the_machine(name: str) -> None:
    file = load_spec(name).file
    assert file.resources.gpu == "auto" and file.concurrency == "auto"


@pytest.mark.parametrize(
    ("changes", "machines", "words"),
    [
        ({"resources": {"gpu": 1}}, LAPTOP, "no GPU: resources.gpu=1 on this machine"),
        ({"resources": {"gpu": 3, "workers": 2}}, FOUR, "too few GPUs: 2 workers of 3 GPUs"),
        ({"resources": {"cpu": 3}}, LAPTOP, "too few CPUs: 1 workers of 3 CPUs"),
        ({"resources": {"cpu": 20}}, FOUR, "no room for a trial: 1 workers of 20 CPUs and 1 GPUs"),
    ],
)
def test_what_never_fits_is_refused(tmp_path: Path, changes: dict[str, Any], machines: Machines, words: str) -> None:
    with pytest.raises(UserError) as caught:
        placed(space(tmp_path, **changes), machines)
    assert str(caught.value).startswith(words)


def test_a_login_node_can_plan_for_a_gpu_elsewhere(tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_session, "this_machine", lambda: LAPTOP)
    here = plan(space(tmp_path), home)
    assert (here.device, here.precision, here.trials_at_once) == ("cpu", "fp32", 2)
    for sets in (("resources.gpu=1",), ("runtime.device=cuda",)):
        away = plan(space(tmp_path, sets), home)
        assert (away.device, away.precision, away.trials_at_once) == ("cuda", "bf16", None)
        assert "no GPU is seen from here" in away.placement[-1]
    monkeypatch.setattr(ray_session, "this_machine", lambda: FOUR)
    there = plan(space(tmp_path), home)
    assert (there.device, there.gpu, there.trials_at_once) == ("cuda", "NVIDIA A100", 4)
    json.dumps(there.placement)
