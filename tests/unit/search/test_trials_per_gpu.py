"""How many trials to train on one GPU: memory and speed of processes are given, as `shared_device` measures them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_cases import SMALLEST, tiny_config

from sage_ray.errors import UserError
from sage_ray.record.home import Home
from sage_ray.runtime.devices import Machines, Node
from sage_ray.search import planned_sharing, ray_session
from sage_ray.search.device_memory import DeviceMemory
from sage_ray.search.epoch_cost import PHASE_OF, Images, Measured, likeness
from sage_ray.search.plan import Plan, plan
from sage_ray.search.planned_runs import START_S
from sage_ray.search.shared_device import SideBySide, context_bytes
from sage_ray.search.trials_per_gpu import TrialsOnGpu, fastest, numbers, share_of_gpu, trials_on_gpu
from sage_ray.study.space import load_space
from sage_ray.terminal.shell import plain

GB = 10**9
CONFIG = tiny_config("pretrain.epochs=2", "adversarial.epochs=3", "adversarial.freeze_epochs=1")
SECONDS = {"pretrain": 10.0, "frozen": 20.0, "adversarial": 30.0}
EPOCHS = {"pretrain": 2, "frozen": 1, "adversarial": 2}


def alone() -> list[Measured]:
    """Seconds of each kind of epoch of one trial alone."""
    seen = {kind: likeness(CONFIG, phase, Images(8, 2), {}) for kind, phase in PHASE_OF.items()}
    return [Measured(kind, seconds, 0, "a pilot", seen[kind]) for kind, seconds in SECONDS.items()]


def found(
    count: int, gb: float, speeds: Mapping[str, float], device_gb: float = 80, others_gb: float = 0
) -> SideBySide:
    """Processes that take `gb` of a GPU each; `speeds`: steps per second of all of them together."""
    return SideBySide(count, speeds, int(gb * GB), GB // 2, int(others_gb * GB), int(device_gb * GB))


def speeds(pretrain: float, adversarial: float) -> dict[str, float]:
    return {"pretrain": pretrain, "frozen": adversarial, "adversarial": adversarial}


def rows(measured: Mapping[int, SideBySide], own: int = 1) -> list[TrialsOnGpu]:
    """What is made of measured processes; a number that is not there must not be tried."""
    return list(trials_on_gpu(CONFIG, alone(), own, lambda count: measured[count]))


def test_speed_is_that_of_the_epochs_of_a_run() -> None:
    one, two, three = rows(
        {
            1: found(1, 10, speeds(8.0, 4.0)),
            2: found(2, 10, speeds(8.0, 6.0)),
            3: found(3, 11, speeds(8.0, 6.0)),
        }
    )
    assert (one.relative_epochs_per_hour, one.slowdown) == (1.0, {"pretrain": 1, "frozen": 1, "adversarial": 1})
    # 2 epochs of 10 s, 1 of 20 s and 2 of 30 s: 5 epochs in 100 s.
    assert one.epochs_per_hour == 180
    # Two trials have the steps of phase 1 that one has, and 1.5 times those of phase 2.
    assert two.slowdown == {
        "pretrain": 2,
        "frozen": pytest.approx(4 / 3, abs=1e-4),
        "adversarial": pytest.approx(4 / 3, abs=1e-4),
    }
    taken = 2 * 10 * 2 + (20 + 2 * 30) * 4 / 3
    assert two.relative_epochs_per_hour == pytest.approx(2 * 100 / taken, abs=1e-4)
    assert two.epochs_per_hour == pytest.approx(2 * 3600 * 5 / taken, rel=1e-3)
    assert (two.memory_per_trial_gb, two.memory_total_gb) == (10, 20)
    # A third one adds nothing: what two gain is all there is.
    assert three.fits and three.memory_total_gb == 33
    assert three.relative_epochs_per_hour == two.relative_epochs_per_hour == pytest.approx(1.3636)


@pytest.mark.parametrize(
    ("gb", "others_gb", "fits"),
    [
        (23.9, 0, [True, True, True]),
        (24.1, 0, [True, True, False]),
        (24, 0.2, [True, True, False]),
        (37, 0, [True, False]),
        (35, 3, [True, False]),
        (73, 0, [False]),
    ],
)
def test_a_tenth_of_the_memory_stays_free(gb: float, others_gb: float, fits: list[bool]) -> None:
    # 72 of 80 GB; whatever one process tells to be too many is not tried.
    tried = {count: found(count, gb, speeds(8, 4), others_gb=others_gb) for count, fit in enumerate(fits, 1) if fit}
    got = rows({1: found(1, gb, speeds(8, 4), others_gb=others_gb), **tried})
    assert [row.fits for row in got] == fits
    last = got[-1]
    if not last.fits:
        assert last.reason is not None and "of 80.0 GB, of which 10% has to stay free" in last.reason
        assert ("other programs have" in last.reason) == (others_gb > 0)
        assert (last.epochs_per_hour is None) == (len(fits) > 1)


def test_what_two_take_tells_of_three_and_what_runs_out_of_memory_ends_it() -> None:
    got = rows({1: found(1, 20, speeds(8, 4)), 2: found(2, 30, speeds(8, 4))})
    assert [row.verdict for row in got] == ["fits", "fits", "does_not_fit"]
    ended = SideBySide(2, problem="a process had no memory left", out_of_memory=True)
    got = rows({1: found(1, 20, speeds(8, 4)), 2: ended})
    assert [(row.verdict, row.reason) for row in got[1:]] == [("does_not_fit", "a process had no memory left")]
    hung = SideBySide(2, problem="not done within 180 s, and ended")
    got = rows({1: found(1, 20, speeds(8, 4)), 2: hung})
    assert [(row.verdict, row.slowdown) for row in got[1:]] == [("not_measured", {})]
    assert [row.verdict for row in rows({1: SideBySide(1, problem="CUDA is busy")})] == ["not_measured"]


def test_the_study_s_own_number_is_measured_too() -> None:
    assert [numbers(own) for own in (1, 3, 4, 8, 9)] == [[1, 2, 3], [1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 8], [1, 2, 3]]
    many = {count: found(count, 1, speeds(8, 4)) for count in (1, 2, 3, 5)}
    assert [row.trials_per_gpu for row in rows(many, own=5)] == [1, 2, 3, 5]


def test_ray_places_as_many_trials_as_the_share_says() -> None:
    shares = [share_of_gpu(count) for count in range(1, 9)]
    assert shares == [1, 0.5, 0.33, 0.25, 0.2, 0.16, 0.14, 0.12]
    assert [int(1 / share) for share in shares] == list(range(1, 9))


def of_speed(*relative: float) -> list[TrialsOnGpu]:
    return [TrialsOnGpu(count, "fits", relative_epochs_per_hour=times) for count, times in enumerate(relative, 1)]


@pytest.mark.parametrize(
    ("relative", "at_once", "best"),
    [
        ((1, 1.6, 1.9), {1: 1, 2: 2, 3: 3}, 3),
        ((1, 1.6, 1.62), {1: 1, 2: 2, 3: 3}, 2),  # 1% is no gain
        ((1, 1.04), {1: 1, 2: 2}, 1),
        ((1, 0.9, 1.2), {1: 1, 2: 2, 3: 3}, 3),
        ((1, 1.6, 1.9), {1: 8, 2: 16, 3: 24}, 3),
        # The CPUs hold 8 trials: two on each of 8 GPUs are 4 idle ones.
        ((1, 1.6, 1.9), {1: 8, 2: 8, 3: 8}, 1),
        ((1, 1.6, 1.9), {1: 1, 2: 2, 3: 2}, 2),
        ((1, 1.6, 1.9), {1: 1, 2: 1, 3: 1}, 1),
    ],
)
def test_the_fastest_number(relative: tuple[float, ...], at_once: dict[int, int], best: int) -> None:
    assert fastest(of_speed(*relative), at_once) == best
    refused = TrialsOnGpu(len(relative) + 1, "does_not_fit", relative_epochs_per_hour=9.0)
    assert fastest([*of_speed(*relative), refused], at_once) == best
    assert fastest([refused], {}) is None


def test_the_context_of_a_process_is_what_its_allocator_does_not_know_of() -> None:
    before = DeviceMemory(80 * GB, 3 * GB)

    def report(held: int, taken: int) -> dict[str, int]:
        return {"held_bytes": held, "device_taken_bytes": taken}

    first = [report(4 * GB, 12 * GB), report(4 * GB, 12 * GB)]
    assert context_bytes(before, [first]) == GB // 2
    # Of several readings the largest; what another program gives back meanwhile is nobody's context.
    assert context_bytes(before, [first, [report(4 * GB, 13 * GB), report(4 * GB, 11 * GB)]]) == GB
    assert context_bytes(before, [[report(4 * GB, 5 * GB)]]) == 0


SPACE: dict[str, Any] = {
    "name": "unit",
    "base": {"preset": "tiny_unet", "set": SMALLEST | {"pretrain.epochs": 4}},
    "space": {"pretrain.lr": {"float": [1e-4, 1e-2], "log": True}},
    "sampler": {"name": "random"},
    "trials": 6,
}
RELATIVE = {1: 1.0, 2: 1.6, 3: 1.5, 4: 1.5}


@pytest.fixture
def planned(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Plans with a pilot on a machine of 16 CPUs and one GPU of 80 GB; an epoch of a trial alone takes 100 s."""
    monkeypatch.setattr(ray_session, "this_machine", lambda: Machines((Node(16, 1),), gpu="NVIDIA H100"))

    def pilot(config: Any, home: Home, place: Mapping[str, Any], say: Any) -> list[Measured]:
        return [Measured("pretrain", 100.0, 0, "a pilot", likeness(config, "pretrain", Images(11, 2), place), 0.0)]

    def call(gb: float, relative: Mapping[int, float] = RELATIVE, **resources: Any) -> Plan:
        def measure(config: Any, count: int, cache: Path, *, limit_s: float, window_s: float) -> SideBySide:
            assert config.runtime.device == "cuda" and limit_s > 100
            return found(count, gb, {"pretrain": 10 * relative[count]})

        monkeypatch.setattr(planned_sharing, "pilot", pilot)
        monkeypatch.setattr(planned_sharing, "measure_side_by_side", measure)
        path = tmp_path / "unit.yaml"
        concurrency = resources.pop("concurrency", "auto")
        path.write_text(yaml.safe_dump({**SPACE, "resources": resources, "concurrency": concurrency}))
        return plan(load_space(path), home, pilot=True)

    return call


def test_hours_are_those_of_the_share_that_the_study_has(planned: Any) -> None:
    whole = planned(10.0)
    assert whole.gpu_hours == pytest.approx(6 * 4 * 100 / 3600, rel=1e-4) and whole.pilot.trials_per_gpu == 1
    assert whole.time_basis == ["a pilot: a few steps of each phase of the base, one trial alone"]
    half = planned(10.0, gpu=0.5)
    assert half.pilot.trials_per_gpu == half.trials_at_once == 2
    assert half.gpu_hours == pytest.approx(whole.gpu_hours / 1.6, rel=1e-3)
    assert half.wall_hours == pytest.approx((6 * 4 * 100 / 1.6 + START_S) / 3600, rel=1e-3)
    assert half.time_basis == ["a pilot: a few steps of each phase of the base, 2 trials side by side on one GPU"]
    # What the other share would take is told by both.
    for each, own in ((whole, 1), (half, 2)):
        best = each.pilot.fastest
        assert (each.pilot.trials_per_gpu, best.trials_per_gpu, best.resources_gpu, best.trials_at_once) == (
            own,
            2,
            0.5,
            2,
        )
        assert best.gpu_hours == pytest.approx(half.gpu_hours) and best.wall_hours == pytest.approx(half.wall_hours)
        assert each.pilot.warnings == [] and each.pilot.held_back is None
    tree = json.loads(json.dumps(plain(half)))["pilot"]
    assert [row["trials_per_gpu"] for row in tree["per_gpu"]] == [1, 2, 3]
    assert {"verdict", "memory_per_trial_gb", "epochs_per_hour", "relative_epochs_per_hour"} <= set(tree["per_gpu"][0])
    assert (tree["gpu_memory_gb"], tree["memory_margin"]) == (80, 0.1)


def test_a_share_that_does_not_fit_is_warned_of(planned: Any) -> None:
    half = planned(40.0, gpu=0.5)
    (warning,) = half.pilot.warnings
    assert warning.startswith("2 trials per GPU (resources.gpu=0.5) do not fit: 2 x 40.0 GB of 80.0 GB, of which 10%")
    assert warning.endswith("; set resources.gpu=1")
    assert half.pilot.fastest.trials_per_gpu == 1 and half.time_basis[0].endswith("one trial alone")
    shared = planned(30.0, gpu="share")
    (warning,) = shared.pilot.warnings
    assert warning.startswith("4 trials per GPU (resources.gpu=0.25) do not fit: 3 already: 3 x 30.0 GB")
    assert warning.endswith("; set resources.gpu=0.5")
    (warning,) = planned(79.0).pilot.warnings
    assert warning.startswith("one trial per GPU (resources.gpu=1) does not fit: 79.0 GB of 80.0 GB")
    many = planned(1.0, gpu=0.1)
    assert many.pilot.warnings == [
        "10 trials per GPU (resources.gpu=0.1) were not measured (at most 8 are): hours are those of trials that slow "
        "none down"
    ]
    assert planned(1.0, gpu="share").time_basis[0].endswith("4 trials side by side on one GPU")


def test_a_number_that_the_cpus_do_not_allow_is_not_the_fastest(planned: Any) -> None:
    few = planned(10.0, cpu=10)
    assert (few.pilot.fastest.trials_per_gpu, few.pilot.held_back) == (1, 2)
    one = planned(10.0, gpu=0.5, concurrency=1)
    assert one.pilot.trials_per_gpu == 1 and one.gpu_hours == pytest.approx(0.5 * 6 * 4 * 100 / 3600, rel=1e-4)


def test_a_disturbed_pilot_is_warned_of(planned: Any) -> None:
    (warning,) = planned(10.0, {1: 1.0, 2: 2.9, 3: 3.0}).pilot.warnings
    assert warning.startswith("2 trials per GPU seem more than 2 times as fast as one: another program disturbed")


def test_a_pilot_without_the_gpu_says_where_it_measures(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "unit.yaml"
    path.write_text(yaml.safe_dump({**SPACE, "resources": {"gpu": 1}}))
    with pytest.raises(UserError, match="no GPU here, and the trials compute on one: --pilot: leave it out here; on"):
        plan(load_space(path), home, pilot=True)
    assert plan(load_space(path), home).pilot is None
