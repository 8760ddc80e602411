"""A run under Ray Train: the same loop in one or more workers; the driver watches the run folder."""

from __future__ import annotations

import json
import os
import socket
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch

from sage_ray.config import ExperimentConfig
from sage_ray.data.prepare import prepare
from sage_ray.errors import NodeUnfit, NonFiniteLoss, RunFailed, RunStopped, StageBusy, UserError
from sage_ray.files import read_json, write_json
from sage_ray.followed import push
from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder
from sage_ray.record.run_log import RunLog
from sage_ray.record.run_record import RunRecord
from sage_ray.runtime.attempt import Attempt
from sage_ray.runtime.devices import gpus_held
from sage_ray.runtime.disk_space import check_space, need_of
from sage_ray.runtime.gpu_models import preference
from sage_ray.runtime.home_signs import CheckedNodes, sign_missing
from sage_ray.runtime.maker_news import maker_news
from sage_ray.runtime.named_epochs import named_epochs
from sage_ray.runtime.node_check import NodeCheck
from sage_ray.runtime.node_watch import NodeWatch, selector_without
from sage_ray.runtime.ray_cluster import check_resources, connect, disconnect, self_started
from sage_ray.runtime.ray_context import RayContext
from sage_ray.runtime.ray_lines import folded
from sage_ray.runtime.run_hooks import RunHooks
from sage_ray.runtime.surroundings import surroundings_of
from sage_ray.runtime.train_fit import Fit
from sage_ray.runtime.worker_signs import WorkerSigns, train_storage
from sage_ray.stages.store import StageStore
from sage_ray.training.context import Report
from sage_ray.training.loop import run_training

POLL_S = 0.1
STOP_TIMEOUT_S = 120.0
WRITER_TIMEOUT_S = 60.0
COLLECTIVE_TIMEOUT_S = 6 * 3600  # rank 0 may wait for a stage that another trial computes
ENDED_FILE = ".ended.json"


@dataclass(frozen=True)
class WorkerJob:
    """What a worker needs to know; Ray pickles it, the config included, so that it is not built again."""

    config: ExperimentConfig
    home: str
    run_id: str
    launch: str
    """Names one call of `run_under_ray`, so that a restarted worker knows whether the run has ended within it."""
    working_dir: str
    gpus_per_worker: float
    pause_path: str | None
    stage_patience_s: float | None = None
    sign: str | None = None
    """Sign that the driver has left in the home, by which a machine knows it; None: it is the driver's machine."""
    surroundings: Any = None
    """Ray's reference of the `Surroundings` that the workers need; what is named here is shown to nobody."""


def run_under_ray(
    config: ExperimentConfig,
    home: Home,
    folder: RunFolder,
    hooks: RunHooks,
    *,
    launch: str,
    say: Callable[[str], None] = lambda line: None,
    checked: CheckedNodes | None = None,
) -> RunRecord:
    """Train under Ray Train and return the record that rank 0 wrote.

    A killed worker restarts all of them, as often as they get further in between, and `runtime.max_retries` times if
    they do not; they go on from the stage store. Reports are read from the run folder, so that this process sees what
    is on disk and nothing else.

    Args:
        config, home, folder: the run.
        hooks: who hears of it.
        launch: names this call.
        say: told lines for the user.
        checked: what is known of the nodes; None: they are checked here.

    Raises:
        UserError: no Ray, too few CPUs or GPUs, a node that is not as it should be, or what a worker found wrong with
            the input.
        BaseException: whatever `hooks.on_report` raises, after the workers have stopped.
    """
    connect()
    gpus = gpus_held(config.runtime) / config.runtime.workers
    check_resources(config.runtime, gpus, say)
    watch = partial(_fit_and_watch, config, home, folder, hooks, launch, gpus, say)
    if checked is not None or self_started():
        return watch(checked or CheckedNodes())
    with checked_nodes(config, home, say) as nodes:
        return watch(nodes)


def _fit_and_watch(
    config: ExperimentConfig,
    home: Home,
    folder: RunFolder,
    hooks: RunHooks,
    launch: str,
    gpus: float,
    say: Callable[[str], None],
    checked: CheckedNodes,
) -> RunRecord:
    job = WorkerJob(
        config=config,
        home=home.address,
        run_id=folder.run_id,
        launch=launch,
        working_dir=os.getcwd(),
        gpus_per_worker=gpus,
        pause_path=None if hooks.pause_path is None else _within(home, hooks.pause_path),
        stage_patience_s=hooks.stage_patience_s,
        sign=checked.sign,
        surroundings=None if self_started() else ray.put(surroundings_of(home)),
    )
    signs = WorkerSigns(home, folder.run_id)
    signs.free()
    reports, waits, news = _new_reports(folder), _waits(signs, launch), maker_news(folder, config)
    reached, starts_left = folder.count_epochs(), config.runtime.max_retries
    while True:
        fit = Fit(_trainer(config, home, job, gpus, _places(folder, config, gpus, checked, say)))
        try:
            with folded(say):
                while fit.running(POLL_S):
                    _hand_on(reports, news, hooks)
                    if hooks.on_waiting is not None and next(waits):
                        hooks.on_waiting()
                    if hooks.should_stop is not None and hooks.should_stop():
                        folder.request_stop()
            folder.refresh(now=True)
            _hand_on(reports, news, hooks)
            if hooks.should_stop is not None:
                hooks.should_stop()  # one that raises may itself be why the workers have gone
        except KeyboardInterrupt:
            disconnect()  # ends the workers at once; what they computed is in the stage store
            raise
        except BaseException:
            folder.request_stop()
            fit.join(STOP_TIMEOUT_S)
            raise
        if _ended(folder, launch) is not None or not (fit.crashed or fit.died_at_start):
            break
        if reached < (reached := folder.count_epochs()):
            starts_left = config.runtime.max_retries
        elif fit.died_at_start and starts_left:
            starts_left -= 1
        else:
            break
    signs.clear()
    return _outcome(folder, launch, fit)


def _within(home: Home, path: Path) -> str:
    """A path as workers can resolve it: below the home, whose folder is another one on their machines, or as it is."""
    return str(path.relative_to(home.path)) if path.is_relative_to(home.path) else str(path)


def _places(
    folder: RunFolder, config: ExperimentConfig, gpus: float, checked: CheckedNodes, say: Callable[[str], None]
) -> dict[str, str]:
    """Label selector of the nodes that the workers shall be on."""
    bundle = {"CPU": float(config.runtime.cpus_per_worker), "GPU": gpus}
    wish = preference(folder.run_id, folder.read().computed_on, bundle, config.runtime.workers, checked.avoid)
    if wish.missed is not None:
        say(wish.missed)
    return selector_without(checked.avoid) | wish.selector


@contextmanager
def checked_nodes(config: ExperimentConfig, home: Home, say: Callable[[str], None]) -> Iterator[CheckedNodes]:
    """What is known of the connected cluster's nodes, checked for a run; in the body the driver's sign is in the home.

    Raises:
        UserError: one that could get a worker is not as it should be, or none is left.
    """
    gpus = gpus_held(config.runtime) / config.runtime.workers
    check = NodeCheck(home, [config], gpu=gpus > 0)
    cpus = float(config.runtime.cpus_per_worker)
    nodes = NodeWatch(check, lambda node: node.workers(cpus, gpus) > 0, say)
    try:
        nodes.begin()
        yield CheckedNodes(check.signs.token, nodes.avoided())
    finally:
        nodes.close()


def _trainer(config: ExperimentConfig, home: Home, job: WorkerJob, gpus: float, selector: dict[str, str]) -> Any:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig

    from sage_ray.runtime.held_places import GivingTrainer

    runtime = config.runtime
    resources = {"CPU": runtime.cpus_per_worker} | ({"GPU": gpus} if gpus else {})
    # NCCL refuses two workers on one GPU.
    backend = "nccl" if gpus >= 1 else "gloo"
    return GivingTrainer(
        train_worker,
        train_loop_config={"job": job},
        torch_config=TorchConfig(backend=backend, timeout_s=COLLECTIVE_TIMEOUT_S),
        scaling_config=ScalingConfig(
            num_workers=runtime.workers,
            use_gpu=gpus > 0,
            resources_per_worker=resources,
            label_selector=selector or None,  # type: ignore[call-arg]  # of Ray Train V2, which its stubs do not show
        ),
        run_config=RunConfig(
            name=job.run_id,
            storage_path=str(train_storage(home)),
            failure_config=FailureConfig(max_failures=runtime.max_retries),
        ),
    )


def train_worker(given: dict[str, WorkerJob]) -> None:
    """The training function of every worker; rank 0 also keeps the record."""
    job = given["job"]
    if job.surroundings is not None:
        ray.get(job.surroundings).take_on()
    elif Path(job.working_dir).is_dir():
        os.chdir(job.working_dir)
    _refuse_node(job)
    home = Home(job.home)
    folder = RunFolder.open(home.runs, job.run_id)
    if _ended(folder, job.launch) is not None:
        return  # an error that a restart cannot mend was recorded; all workers leave
    context = RayContext(job.config.runtime, say=folder.log.line)
    if context.rank == 0:
        WorkerSigns(home, job.run_id).place(job.launch)
    log = folder.log if context.rank == 0 else RunLog(folder.log.path, who=f"worker {context.rank}")
    with log.recording():
        _work(job, home, folder, context)


def _refuse_node(job: WorkerJob) -> None:
    """Raise NodeUnfit if this machine has another home, or no GPU where one is needed."""
    found = None if job.sign is None else sign_missing(job.home, job.sign)
    wrong = None if found is None else (f"home {found}", "mount the driver's home there")
    if wrong is None and job.gpus_per_worker and not torch.cuda.is_available():
        wrong = ("torch sees no CUDA device", "mend its driver, or the torch that is installed there")
    if wrong is not None:
        node_id = str(ray.get_runtime_context().get_node_id())
        raise NodeUnfit(wrong[0], f"node {socket.gethostname()}", wrong[1], node_id)


def _work(job: WorkerJob, home: Home, folder: RunFolder, context: RayContext) -> None:
    config = job.config
    if context.rank:
        _train(config, home, folder, context, None)
        return
    with folder.lock("writer", WRITER_TIMEOUT_S):
        pause_path = None if job.pause_path is None else home.path / job.pause_path
        attempt = Attempt(folder, gpus=job.gpus_per_worker * context.world_size, pause_path=pause_path)
        try:
            _train(config, home, folder, context, attempt, job.stage_patience_s)
        except StageBusy as error:
            # Rank 0's alone: raising makes Ray end the others, which wait for this one.
            attempt.end(error)
            _note_end(folder, job.launch, error)
            raise
        except (RunStopped, NonFiniteLoss) as error:
            # All workers agreed on these, so all of them return and nothing is tried again.
            attempt.end(error)
            _note_end(folder, job.launch, error)
        except (RunFailed, UserError) as error:
            # Perhaps rank 0's alone: raising makes Ray end the others, which may be waiting for this one.
            attempt.end(error)
            _note_end(folder, job.launch, error)
            raise


def _train(
    config: ExperimentConfig,
    home: Home,
    folder: RunFolder,
    context: RayContext,
    attempt: Attempt | None,
    stage_patience_s: float | None = None,
) -> None:
    data = prepare(config.data, home.cache)
    store = StageStore(config.runtime.stage_store or home.stage_store, say=context.say)
    named = named_epochs(config, home)
    if attempt is not None:
        record = attempt.begin(data, config, context)
        check_space(need_of(record, config, data, home, store, named), home, store, context.say)
        context.listen(
            on_report=attempt.report,
            on_maker=attempt.maker,
            on_arrays=attempt.keep,
            should_stop=attempt.asked_to_end,
            on_waiting=WorkerSigns(home, folder.run_id).wait,
            stage_patience_s=stage_patience_s,
        )
    try:
        result = run_training(config, data, context, store, cache_dir=home.cache, named=named)
    except (RunStopped, NonFiniteLoss):
        if attempt is None:
            return
        raise
    if attempt is not None:
        attempt.complete(result, config, data, context.device)


def _note_end(folder: RunFolder, launch: str, error: BaseException) -> None:
    parts = [error.what, error.where, error.mend] if isinstance(error, UserError) else None
    write_json(folder.path / ENDED_FILE, {"launch": launch, "user_error": parts})
    push(folder.path / ENDED_FILE)


def _ended(folder: RunFolder, launch: str) -> dict[str, Any] | None:
    try:
        value: dict[str, Any] = read_json(folder.path / ENDED_FILE)
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return value if value.get("launch") == launch else None


def _outcome(folder: RunFolder, launch: str, fit: Fit) -> RunRecord:
    folder.refresh(now=True)
    ended = _ended(folder, launch)
    if ended is not None:
        (folder.path / ENDED_FILE).unlink(missing_ok=True)
        push(folder.path / ENDED_FILE)
        if ended["user_error"] is not None:
            raise UserError(*ended["user_error"])
        return folder.read()
    if fit.error is None:
        return folder.read()
    own = fit.refusals
    if own and isinstance(own[0], NodeUnfit):
        folder.set_state("INTERRUPTED", error=str(own[0]))
        raise own[0]
    if own:
        folder.set_state("FAIL", error=str(own[0]))
        raise UserError(own[0].what, own[0].where, own[0].mend)
    folder.write_error("".join(traceback.format_exception(fit.error)))
    return folder.set_state("FAIL", error=fit.blame())


def _new_reports(folder: RunFolder) -> Iterator[list[Report]]:
    """An endless iterator over the reports added since the last call; those of an earlier attempt count as replayed."""
    path = folder.path / "metrics.jsonl"
    known = {line["epoch"] for line in folder.metrics()}
    last, size = 0, -1
    while True:
        folder.refresh()
        now = path.stat().st_size if path.exists() else 0
        fresh: list[Report] = []
        if now != size:
            size = now
            fresh = [line for line in folder.metrics() if line["epoch"] > last]
            last = fresh[-1]["epoch"] if fresh else last
        yield [{**line, "replayed": line.get("replayed", False) or line["epoch"] in known} for line in fresh]


def _waits(signs: WorkerSigns, launch: str) -> Iterator[bool]:
    """An endless iterator: whether workers are not placed yet, or have waited for a stage since the last call.

    It looks at what they leave on disk, and so says nothing of workers that hang.
    """
    last = signs.waited_at()
    while not signs.is_placed(launch):
        yield True
    while True:
        now = signs.waited_at()
        yield now != last
        last = now


def _hand_on(reports: Iterator[list[Report]], news: Iterator[Report | None], hooks: RunHooks) -> None:
    if hooks.on_maker is not None and (told := next(news)) is not None:
        hooks.on_maker(told)
    for report in next(reports):
        if hooks.on_report is not None:
            hooks.on_report(report)
