"""Ray Train: several workers equal one, killed workers go on, and nothing that is certain to fail is tried again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_cases import tiny_config
from torch import Tensor, nn

from sage_ray.config import ExperimentConfig
from sage_ray.data.prepare import prepare
from sage_ray.errors import RunStopped, UserError
from sage_ray.models.norm import BatchNorm
from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder
from sage_ray.runtime import ray_cluster
from sage_ray.runtime.launch import run
from sage_ray.runtime.ray_context import RayContext, buckets
from sage_ray.stages.store import Snapshot, StageStore
from sage_ray.training.context import LocalContext, RunContext
from sage_ray.training.loop import run_training
from sage_ray.training.report import EpochReport

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

# One step of phase 2 with every term at work, so that the first moments of Adam are the gradients, scaled.
ONE_STEP = (
    "pretrain.epochs=0",
    "adversarial.epochs=1",
    "adversarial.batch_size=8",
    "adversarial.freeze_epochs=0",
    "adversarial.mix_start=1",
    "adversarial.mix_max=1",
)
RATIOS = ("segmentation_loss.w_dice=1", "segmentation_loss.w_tversky=1", "segmentation_loss.w_focal=1")


def norm(kind: str) -> tuple[str, ...]:
    return tuple(f"{network}.norm={kind}" for network in ("segmenter", "generator", "discriminators"))


def tiny(*sets: str) -> ExperimentConfig:
    return tiny_config("pretrain.epochs=2", "adversarial.epochs=2", "runtime.snapshot_seconds=0", *sets)


STEPS = {
    "group": tiny(*ONE_STEP, *norm("group")),
    "frozen": tiny(*ONE_STEP, *norm("frozen")),
    "batch": tiny(*ONE_STEP),
    "ratios": tiny(*ONE_STEP, *norm("group"), *RATIOS, "segmentation_loss.focal_form=batch"),
}
# Arg-max masks flip single pixels on rounding; the soft path shows that nothing else differs over many steps.
CHAIN = tiny(*norm("group"), "adversarial.mask_path=soft", "adversarial.freeze_epochs=1", "evaluation.select=last")


def with_workers(config: ExperimentConfig, workers: int) -> ExperimentConfig:
    return config.with_values({"runtime.workers": workers})


def train_one(config: ExperimentConfig, folder: str, cache: str, ctx: RunContext) -> None:
    """Train into a stage store of its own; rank 0 also keeps the reports and the weights' checksum."""
    data = prepare(config.data, Path(cache))
    result = run_training(config, data, ctx, StageStore(folder), cache_dir=Path(cache))
    if ctx.rank == 0:
        torch.save({"history": result.history, "keys": result.stage_keys}, Path(folder) / "result.pt")


def batch_norm_gradients(reduce: Any, rank: int, world_size: int) -> dict[str, Tensor]:
    """float64 output and gradients of a batch norm on this worker's share of four fixed images."""
    draws = torch.Generator().manual_seed(3)
    image = torch.randn(4, 3, 5, 5, generator=draws, dtype=torch.float64) * 3 + 7
    target = torch.randn(4, 3, 5, 5, generator=draws, dtype=torch.float64)
    layer = BatchNorm(3).double()
    layer.reduce = reduce
    mine = image[rank::world_size].clone().requires_grad_()
    loss = (layer(mine) * target[rank::world_size]).sum()
    loss.backward()
    assert mine.grad is not None and layer.weight.grad is not None
    return {"image": mine.grad, "gain": layer.weight.grad, "mean": layer.running_mean, "var": layer.running_var}  # type: ignore[dict-item]


def two_workers(job: dict[str, Any]) -> None:
    """In each worker: small facts about the context, then every config of the job."""
    context = RayContext(tiny().runtime)
    gradients = batch_norm_gradients(context.all_reduce, context.rank, context.world_size)
    parameter = nn.Parameter(torch.zeros(3))
    parameter.grad = torch.full((3,), float(context.rank + 1))
    unused = nn.Parameter(torch.zeros(2))
    context.average_gradients([parameter, unused])
    value = torch.tensor([1.0 + context.rank], requires_grad=True)
    total = context.all_reduce(value * value)
    (total * (10.0 if context.rank else 1.0)).sum().backward()
    module = context.prepare(nn.Conv2d(1, 2, 3).requires_grad_(context.rank == 0))
    context.listen(on_report=lambda report: None, should_stop=lambda: context.rank == 0)
    facts = {
        "world": context.world_size,
        "mean": parameter.grad,
        "unused": unused.grad,
        "total": total.detach(),
        "slope": value.grad,
        "weight": module.weight.detach(),
        "stop": context.should_stop(),
        "batch_norm": gradients,
    }
    torch.save(facts, Path(job["folder"]) / f"facts-{context.rank}.pt")
    for name, plain in job["configs"].items():
        context.barrier()
        train_one(ExperimentConfig.model_validate(plain), f"{job['folder']}/two-{name}", job["cache"], Plain(context))


class Plain:
    """A RayContext whose reports stay here: several trainings share one worker group."""

    def __init__(self, context: RayContext) -> None:
        self._context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def report(self, report: EpochReport) -> None:
        assert report.epoch >= 1

    def should_stop(self) -> bool:
        return False


# CycleGAN shows fakes of before from a pool of 3, in a batch of 8 of all workers.
SYSTEMS = {
    "f_ancgan": tiny_config("adversarial.epochs=1", "adversarial.batch_size=8", *norm("group"), preset="tiny_f_ancgan"),
    "cyclegan": tiny_config(
        *("adversarial.epochs=2", "adversarial.batch_size=8", "adversarial.replay_pool=3"),
        *("segmenter.blocks=1", "generator.blocks=1"),
        preset="tiny_cyclegan",
    ),
    "gan": tiny_config("adversarial.epochs=1", "adversarial.batch_size=8", *norm("group"), preset="tiny_gan"),
}


@dataclass(frozen=True)
class Pair:
    """The same trainings by one process and by two workers, each as a stage store."""

    folder: Path

    def facts(self, rank: int) -> dict[str, Any]:
        facts: dict[str, Any] = torch.load(self.folder / f"facts-{rank}.pt")
        return facts

    def history(self, workers: str, name: str) -> list[dict[str, Any]]:
        history: list[dict[str, Any]] = self._result(workers, name)["history"]
        return history

    def snapshot(self, workers: str, name: str, phase: str, epoch: int) -> Snapshot:
        folder = self.folder / f"{workers}-{name}"
        found = StageStore(folder).load_latest(self._result(workers, name)["keys"][phase], epoch)
        assert found is not None and found.epoch == epoch
        return found

    def _result(self, workers: str, name: str) -> dict[str, Any]:
        result: dict[str, Any] = torch.load(self.folder / f"{workers}-{name}" / "result.pt")
        return result


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.delenv("RAY_ADDRESS", raising=False)
    # Workers get the paths that Ray was started with, so a Ray that an earlier module left running will not do.
    ray_cluster.disconnect()
    # The workers import this module by its name.
    here = Path(__file__).parent
    patch.setenv("PYTHONPATH", os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")]))
    ray_cluster.connect(num_cpus=4)
    yield
    ray_cluster.disconnect()
    patch.undo()


@pytest.fixture(scope="module")
def pair(ray_here: None, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    folder = tmp_path_factory.mktemp("pair")
    cache = folder / "cache"
    configs = {**STEPS, "chain": CHAIN, **SYSTEMS}
    for name, config in configs.items():
        train_one(config, str(folder / f"one-{name}"), str(cache), LocalContext(config.runtime))
    plain = {name: with_workers(config, 2).model_dump(mode="json") for name, config in configs.items()}
    TorchTrainer(
        two_workers,
        train_loop_config={"folder": str(folder), "cache": str(cache), "configs": plain},
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ScalingConfig(num_workers=2),
        run_config=RunConfig(name="pair", storage_path=str(folder / "ray")),
    ).fit()
    return Pair(folder)


def test_context_sums_averages_shares_and_agrees(pair: Pair) -> None:
    first, second = pair.facts(0), pair.facts(1)
    assert (first["world"], second["world"]) == (2, 2)
    for facts in (first, second):
        assert facts["mean"].tolist() == [1.5] * 3
        assert facts["unused"] is None
        assert facts["total"].tolist() == [5.0]
        assert facts["stop"] is True, "rank 0's wish holds for all"
    assert torch.equal(first["weight"], second["weight"]), "rank 0's weights are everybody's"
    # d(1 * total + 10 * total)/dv = 11 * 2v, v = 1 and 2: each worker gets the sum of both losses' gradients.
    assert (first["slope"].tolist(), second["slope"].tolist()) == ([22.0], [44.0])


def test_batch_norm_over_two_workers_is_the_batch_norm_of_the_whole_batch(pair: Pair) -> None:
    whole = batch_norm_gradients(None, 0, 1)
    parts = [pair.facts(rank)["batch_norm"] for rank in (0, 1)]
    torch.testing.assert_close(parts[0]["image"], whole["image"][0::2], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(parts[1]["image"], whole["image"][1::2], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(parts[0]["gain"] + parts[1]["gain"], whole["gain"], rtol=1e-10, atol=1e-12)
    for name in ("mean", "var"):
        torch.testing.assert_close(parts[0][name], whole[name], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("name", "tolerance"), [("group", 1e-5), ("frozen", 1e-5), ("ratios", 1e-5), ("batch", 2e-3)])
def test_two_workers_have_the_gradients_of_one(pair: Pair, name: str, tolerance: float) -> None:
    """float32; batch statistics of a few pixels amplify rounding (the float64 test above has none of it)."""
    one = pair.snapshot("one", name, "adversarial", 1).tensors
    two = pair.snapshot("two", name, "adversarial", 1).tensors
    assert one.keys() == two.keys()
    for network in ("segmenter", "generator", "disc_image", "disc_mask"):
        moments = [key for key in one if network in key and key.endswith("exp_avg")]
        scale = max(float(one[key].abs().max()) for key in moments)
        assert scale > 1e-4, f"{network} was trained"
        worst = max(float((one[key] - two[key]).abs().max()) for key in moments)
        assert worst <= tolerance * scale, network
    losses = [key for key in pair.history("one", name)[0] if key.startswith("train/")]
    assert len(losses) >= 8
    for key in losses:
        assert pair.history("two", name)[0][key] == pytest.approx(pair.history("one", name)[0][key], rel=1e-5), key


@pytest.mark.parametrize("system", SYSTEMS)
def test_two_workers_train_a_system_as_one(pair: Pair, system: str) -> None:
    epochs = SYSTEMS[system].adversarial.epochs
    for mine, theirs in zip(pair.history("one", system), pair.history("two", system), strict=True):
        for key in (k for k in mine if k.startswith("train/") or k == "val/loss"):
            assert theirs[key] == pytest.approx(mine[key], rel=1e-3 if mine["epoch"] > 1 else 1e-5), key
    one, two = (pair.snapshot(workers, system, "adversarial", epochs).tensors for workers in ("one", "two"))
    assert one.keys() == two.keys() and ("pool.image" in one) == (system == "cyclegan")
    for key in (k for k in one if k.startswith("pool.")):
        # The same fakes in the same places, as far as two epochs of rounding go.
        torch.testing.assert_close(two[key], one[key], rtol=1e-3, atol=1e-3)


def test_two_workers_train_as_one_through_both_phases(pair: Pair) -> None:
    one, two = pair.history("one", "chain"), pair.history("two", "chain")
    assert [r["phase"] for r in two] == ["pretrain"] * 2 + ["adversarial"] * 2
    for mine, theirs in zip(one, two, strict=True):
        for key in (k for k in mine if k.startswith("train/") or k == "val/dice"):
            assert theirs[key] == pytest.approx(mine[key], rel=1e-5), (mine["epoch"], key)
    weights = [pair.snapshot(workers, "chain", "adversarial", 2).tensors for workers in ("one", "two")]
    # The bias before the gates' one-channel norm has no effect and a gradient of rounding noise, which Adam scales up.
    compared = [k for k in weights[0] if k.startswith("network.") and "score.conv.bias" not in k]
    assert len(compared) > 50
    for key in compared:
        torch.testing.assert_close(
            weights[1][key], weights[0][key], rtol=1e-5, atol=2e-5, msg=lambda m, k=key: f"{k} {m}"
        )


def test_one_worker_under_ray_is_the_local_run_to_the_bit(ray_here: None, home: Home) -> None:
    config = tiny()
    local = run(config, Home(home.path / "local"), "local", mirror=False)
    reports: list[dict[str, Any]] = []
    remote = run(config, home, "remote", launcher="ray", on_report=reports.append)
    assert (local.state, remote.state) == ("COMPLETE", "COMPLETE")
    assert remote.weights_sha == local.weights_sha
    assert remote.stage_keys == local.stage_keys
    assert remote.numerics == local.numerics
    assert remote.selected_metrics.keys() == local.selected_metrics.keys()
    assert [r["epoch"] for r in reports] == [1, 2, 3, 4]
    assert RunFolder(home.runs / "remote").per_image()
    log = (home.runs / "remote" / "log.txt").read_text()
    assert "data: drawn particles" in log and "attempt 1 on CPU" in log and "RUNNING -> COMPLETE" in log
    assert (home.runs / "remote" / "artifacts" / "model" / "segmenter.safetensors").is_file()


def test_divergence_ends_the_run_without_a_second_try(ray_here: None, home: Home) -> None:
    config = with_workers(tiny("pretrain.lr=1e30", "pretrain.epochs=4"), 2)
    record = run(config, home, "diverges", mirror=False)
    assert (record.state, record.attempt) == ("FAIL", 1)
    assert record.error is not None and record.error.startswith("diverged: non-finite loss in pretrain")
    assert "NonFiniteLoss" in (home.runs / "diverges" / "error.txt").read_text()


def test_a_stopped_run_is_pruned_and_can_go_on(ray_here: None, home: Home) -> None:
    config = tiny("adversarial.epochs=30")

    def stop(report: dict[str, Any]) -> None:
        raise RunStopped("enough")

    record = run(config, home, "stopped", launcher="ray", on_report=stop, mirror=False)
    assert record.state == "PRUNED"
    assert 1 <= record.epoch < 32
    assert record.error is None
    folder = RunFolder(home.runs / "stopped")
    assert not folder.alive(), "the worker has gone"
    times = [line["time_ms"] for line in folder.metrics()]
    again = run(config, home, "stopped", launcher="ray", mirror=False)
    assert (again.state, again.attempt, again.epoch) == ("COMPLETE", 2, 32)
    assert [line["time_ms"] for line in folder.metrics()][: len(times)] == times


def test_a_paused_run_is_interrupted(ray_here: None, home: Home, tmp_path: Path) -> None:
    pause = tmp_path / "pause"
    record = run(
        tiny("adversarial.epochs=30"),
        home,
        "paused",
        launcher="ray",
        on_report=lambda report: pause.touch(),
        pause_path=pause,
        mirror=False,
    )
    assert record.state == "INTERRUPTED" and 1 <= record.epoch < 32


def test_user_errors_of_a_worker_reach_the_caller(ray_here: None, home: Home, tmp_path: Path) -> None:
    bad = tmp_path / "weights.safetensors"
    bad.write_bytes(b"no weights")
    config = tiny("pretrain.epochs=0", f"pretrain.checkpoint={bad}")
    with pytest.raises(UserError, match="not a safetensors file"):
        run(config, home, "bad", launcher="ray", mirror=False)
    assert RunFolder.open(home.runs, "bad").read().state == "FAIL"


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (
            ("runtime.workers=4", "runtime.cpus_per_worker=2"),
            "needs 8 CPUs: runtime.workers=4 x runtime.cpus_per_worker=2",
        ),
        (("runtime.workers=2", "runtime.gpus_per_worker=0.5", "runtime.device=cuda"), "needs 1 GPUs"),
    ],
)
def test_more_than_ray_has_is_refused(ray_here: None, home: Home, sets: tuple[str, ...], message: str) -> None:
    import ray

    if "GPU" in ray.cluster_resources() and "GPU" in message:
        pytest.skip("this machine has GPUs")
    with pytest.raises(UserError, match=message):
        run(tiny(*sets), home, "greedy", mirror=False)


INTERRUPTED = """
import signal, sys
from pathlib import Path
from sage_ray.config import resolve
from sage_ray.runtime.launch import train
config = resolve(file=sys.argv[1]).config
try:
    train(config, sys.argv[2], "run", launcher="ray", mirror=False, on_report=lambda r: print(r["epoch"], flush=True))
except KeyboardInterrupt:
    print("interrupted", flush=True)
    sys.exit(130)
"""


@pytest.mark.slow
def test_ctrl_c_leaves_a_run_that_can_go_on(home: Home, tmp_path: Path) -> None:
    from sage_ray.config import dump

    path = tmp_path / "config.yaml"
    path.write_text(dump(tiny("adversarial.epochs=400")))
    command = [sys.executable, "-c", INTERRUPTED, str(path), str(home.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        started = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to all of its processes
        said = process.stdout.read()
        assert process.wait(60) == 130, said
        assert time.monotonic() - started < 60
    folder = RunFolder.open(home.runs, "run")
    assert folder.read().state == "INTERRUPTED"
    assert 1 <= folder.read().epoch < 400


def test_an_unreachable_cluster_is_named_in_time(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys; from sage_ray.runtime.ray_cluster import connect; from sage_ray.errors import UserError\n"
        "try:\n    connect()\nexcept UserError as e:\n    print(e); sys.exit(2)"
    )
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    environment = {**os.environ, "RAY_ADDRESS": f"127.0.0.1:{port}"}
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    assert done.stdout.startswith("Ray cluster does not answer") and f"RAY_ADDRESS=127.0.0.1:{port}" in done.stdout
    assert time.monotonic() - started < 40


def test_buckets_keep_order_and_split_by_size_and_dtype() -> None:
    tensors = [torch.zeros(4), torch.zeros(4), torch.zeros(2, dtype=torch.float64), torch.zeros(100), torch.zeros(1)]
    groups = buckets(tensors, 40)
    assert [[t.numel() for t in group] for group in groups] == [[4, 4], [2], [100], [1]]
    assert sum(len(group) for group in groups) == len(tensors)
