"""run and train: one experiment from its config to a finished record, in this process or under Ray Train.

The local record is written first, whatever happens to MLflow. A finished run is not computed again; one that was cut
off goes on from the stage store.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from sage_ray.config import ExperimentConfig
from sage_ray.data.labelling import labelling_line
from sage_ray.data.prepare import PreparedData, headline, prepare
from sage_ray.errors import RunFailed, RunStopped, UserError
from sage_ray.followed import push
from sage_ray.object_store import check_writable, open_object_store
from sage_ray.record.home import Home
from sage_ray.record.mlflow_follower import Follower, wait_for_left
from sage_ray.record.mlflow_mirror import Mirror
from sage_ray.record.model_reference import located_pairs, segmenter_file
from sage_ray.record.run_folder import RunFolder
from sage_ray.record.run_record import RunLabels, RunRecord
from sage_ray.runtime.at_hand import check_pairs, check_run, computes_here
from sage_ray.runtime.attempt import Attempt
from sage_ray.runtime.devices import (
    Machines,
    describe_device,
    gpus_held,
    gpus_of_worker,
    idle_gpus,
    ray_machines,
    resolve_runtime,
    take_up_runtime,
    this_machine,
)
from sage_ray.runtime.disk_space import check_space, need_of
from sage_ray.runtime.home_signs import CheckedNodes
from sage_ray.runtime.named_epochs import named_epochs
from sage_ray.runtime.ray_cluster import connect
from sage_ray.runtime.run_hooks import RunHooks
from sage_ray.sections import RuntimeConfig
from sage_ray.stages.store import StageStore
from sage_ray.training.context import LocalContext, Report, choose_device
from sage_ray.training.loop import run_training
from sage_ray.training.precision import resolve_precision
from sage_ray.training.scoring import check_scores

Launcher = Literal["auto", "inline", "ray"]
DRIVER_TIMEOUT_S = 60.0
"""Longest wait for another process that still holds the run; one that was killed takes a moment to end."""


def run(
    config: ExperimentConfig,
    home: Home,
    run_id: str,
    *,
    labels: RunLabels | None = None,
    on_report: Callable[[Report], None] | None = None,
    on_maker: Callable[[Report], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    on_waiting: Callable[[], None] | None = None,
    pause_path: Path | None = None,
    stage_patience_s: float | None = None,
    mirror: bool | Literal["behind"] = True,
    launcher: Launcher = "auto",
    say: Callable[[str], None] | None = None,
    checked: CheckedNodes | None = None,
    beside: int = 0,
) -> RunRecord:
    """Train `config` as run `run_id` and return its record.

    Args:
        config, home: the run, and where its folder, the stage store and the cache are.
        run_id, labels: of the folder (a finished run of this name and config is returned), and where it belongs.
        on_report: called with each epoch's report once it is on disk, also with replayed ones. What it raises ends the
            run: SystemExit (Tune's wish) and RunStopped as PRUNED, anything else as FAIL.
        on_maker: likewise with each `MakerProgress` of what is trained first for its extra pairs.
        should_stop: asked after each epoch; true ends the run as PRUNED. So does a file `stop` in the run's folder.
        on_waiting: called often while the run is alive and has no epoch to report.
        pause_path: while that file is there the run ends after its epoch, as INTERRUPTED like any early end then.
        stage_patience_s: how long another run's stage is waited for; then the run ends as INTERRUPTED, by StageBusy.
        mirror: send the run to MLflow from a thread; "behind": do not wait for the end of it, as more runs follow.
        launcher: inline (this process, one worker), ray (TorchTrainer), or auto: ray for more than one worker.
        say: told lines for the user.
        checked, beside: the nodes (None: looked at where workers go to a cluster); how many such runs train meanwhile.

    Returns:
        The record: COMPLETE, PRUNED, INTERRUPTED, or FAIL (why is in it, the trace in error.txt).

    Raises:
        UserError: bad input; nothing was trained.
        KeyboardInterrupt, SystemExit: passed on after the record says INTERRUPTED or PRUNED.
    """
    said: list[str] = []
    say = _both(say or _silent, said.append)  # for the log, which does not exist yet
    under_ray = _under_ray(config, launcher)
    config, machines = _settled(config, home, run_id, under_ray)
    resolved = located_pairs(with_checkpoint(config, home), home)
    data = _prepared(resolved, home, say)
    folder = RunFolder.create(home.runs, run_id, config, labels or RunLabels())
    with folder.lock("driver", DRIVER_TIMEOUT_S, say):
        record = _record_of_same_data(folder, data, checked)
        if record.finished:
            with _mirrored(home, folder, False if Mirror(home).up_to_date(folder) else mirror, say):
                return record
        _begin(folder)
        _say_device(config, machines, say, under_ray=under_ray, runs=1 + beside)
        with _logged(folder, said, say) as tell, _mirrored(home, folder, mirror, tell):
            hooks = RunHooks(on_report, should_stop, on_waiting, pause_path, stage_patience_s, on_maker)
            work = partial(_run_under_ray, checked=checked) if under_ray else partial(_run_inline, data=data)
            return work(resolved, home, folder, hooks, tell)


def _prepared(config: ExperimentConfig, home: Home, say: Callable[[str], None]) -> PreparedData:
    """The run's data, after the line that says what they are."""
    data = prepare(config.data, home.cache, say=say)
    say(headline(data, config.data))
    labelling = labelling_line(data.split, config)
    if labelling is not None:
        say(labelling)
    return data


def _begin(folder: RunFolder) -> None:
    """Mark the run as running; an old wish to stop is not one for this attempt."""
    if folder.stop_requested():
        folder.stop_path.unlink(missing_ok=True)
    folder.set_state("RUNNING")


@contextmanager
def _logged(folder: RunFolder, said: list[str], say: Callable[[str], None]) -> Iterator[Callable[[str], None]]:
    """Keeps the run's log in the body, from what was `said` before on; yields who tells the user and the log."""
    log = folder.log
    with log.recording():
        for line in said:
            log.line(line)
        yield _both(say, log.line)


def _record_of_same_data(folder: RunFolder, data: PreparedData, checked: CheckedNodes | None) -> RunRecord:
    """The run's record. Raises UserError if it, or the study that it belongs to, has begun with other data."""
    record = folder.read()
    begun = record.data_fingerprint or (None if checked is None else checked.fingerprint)
    if begun not in (None, data.fingerprint):
        what = f"data have changed since the run began (now {data.fingerprint}, was {begun})"
        raise UserError(what, record.run_id, "restore the images, or choose another run id")
    return record


def train(
    config: ExperimentConfig,
    home: Home | str | Path | None = None,
    run_id: str | None = None,
    *,
    name: str | None = None,
    on_report: Callable[[Report], None] | None = None,
    on_maker: Callable[[Report], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    mirror: bool = True,
    launcher: Launcher = "auto",
    say: Callable[[str], None] | None = None,
) -> RunRecord:
    """`run` with a run id made from the config: the same config again takes up, or returns, the same run.

    Args:
        config: the run.
        home: a Home or its folder; None: `SAGE_HOME` or ./sage_runs.
        run_id: another name for the run.
        name: start of the made run id, such as the preset's name.
        on_report, on_maker, should_stop, mirror, launcher, say: as `run`.

    Raises:
        UserError: bad input.
    """
    place = home if isinstance(home, Home) else Home(home)
    chosen = run_id or default_run_id(config, name)
    told: dict[str, Any] = {"on_report": on_report, "on_maker": on_maker, "say": say}
    return run(config, place, chosen, should_stop=should_stop, mirror=mirror, launcher=launcher, **told)


def default_run_id(config: ExperimentConfig, name: str | None = None) -> str:
    """The run id that a config gets by itself: NAME-HASH-sSEED."""
    return f"{name or 'run'}-{config.config_hash()[:8]}-s{config.seed}"


def with_checkpoint(config: ExperimentConfig, home: Home) -> ExperimentConfig:
    """The config with `pretrain.checkpoint` as an absolute path of a file.

    It may name a file, a model folder, a run of this home, or a registered model (models:/...): its segmenter is taken.

    Raises:
        UserError: none of them exists.
    """
    named = config.pretrain.checkpoint
    if named is None:
        return config
    pretrain = config.pretrain.model_copy(update={"checkpoint": str(segmenter_file(named, home))})
    return config.with_sections(pretrain=pretrain)


def _under_ray(config: ExperimentConfig, launcher: Launcher) -> bool:
    if launcher == "inline" and config.runtime.workers > 1:
        raise UserError("one process has one worker", f"runtime.workers={config.runtime.workers}", "use launcher ray")
    return launcher == "ray" or config.runtime.workers > 1


def _settled(
    config: ExperimentConfig, home: Home, run_id: str, under_ray: bool
) -> tuple[ExperimentConfig, Machines | None]:
    """The config with device, GPUs and precision in place of `auto`, and the machines if they had to be looked at.

    A run that exists keeps what it began with. Refuses what cannot run, before anything is made.
    """
    home.check_writable()
    check_scores(config)
    looked: list[Machines] = []

    def machines() -> Machines:
        if not looked and under_ray:
            connect()
        if not looked:
            looked.append(ray_machines() if under_ray else this_machine())
        return looked[0]

    runtime = config.runtime
    begun = _begun(config, home, run_id)
    if begun is not None:
        runtime = take_up_runtime(runtime, begun)
    runtime = resolve_runtime(runtime, machines)
    if config.runtime.stage_store is not None:
        check_writable(open_object_store(config.runtime.stage_store))
    if not under_ray:  # the driver of a cluster may itself have no GPU; Ray's are checked once it is connected
        _check_here(config.runtime, runtime, run_id if begun is not None else None)
    config = config.with_sections(runtime=runtime)
    if begun is None or not RunFolder(home.runs / run_id).read().epoch:  # one that has trained had all it needs
        here = not under_ray or computes_here()
        check_run(config, home, here=here)
        if here:
            check_pairs(config, home)
    return config, looked[0] if looked else None


def _begun(config: ExperimentConfig, home: Home, run_id: str) -> RuntimeConfig | None:
    """The runtime that a run of this name and config began with; None if there is none."""
    folder = RunFolder(home.runs / run_id)
    if not (folder.path / "config.yaml").is_file() or not (folder.path / "record.json").is_file():
        return None
    begun = folder.config()
    return begun.runtime if begun.config_hash() == config.config_hash() else None


def _check_here(asked: RuntimeConfig, runtime: RuntimeConfig, begun: str | None) -> None:
    """Refuse a GPU, or a precision, that this machine does not have; `begun` names a run that is taken up."""
    missing = runtime.device == "cuda" and not torch.cuda.is_available()
    if missing and begun is not None:
        mend = "go on with it on a GPU machine, or train it anew under another run id"
        raise UserError(f"no GPU here, and the run began on one, in {runtime.precision}", begun, mend)
    if gpus_of_worker(runtime) and (runtime.device == "cpu" or (missing and asked.device == "auto")):
        where = f"runtime.gpus_per_worker={gpus_of_worker(runtime):g}"
        raise UserError("no GPU here", where, "set it to 0, or run on a GPU machine")
    resolve_precision(runtime.precision, choose_device(runtime.device))


def _say_device(
    config: ExperimentConfig,
    machines: Machines | None,
    say: Callable[[str], None],
    *,
    under_ray: bool = False,
    runs: int = 1,
) -> None:
    """Tell what the run computes on, and GPUs that stand idle meanwhile."""
    runtime = config.runtime
    if machines is None and torch.cuda.is_available():
        machines = this_machine()
    gpu = machines.gpu if machines else None
    say(f"computing on {describe_device(runtime, gpu, under_ray=under_ray)}")
    idle = 0 if machines is None or machines.gpu is None else machines.gpus - runs * gpus_held(runtime)
    if idle >= 1 and runtime.device == "cpu":
        why = "the run computes on the CPU (runtime.device, runtime.gpus_per_worker)"
        say(f"warning: {idle_gpus(idle)}: {why}")
    elif idle >= 1 and machines is not None:
        company = f", of {runs} runs" if runs > 1 else ""
        say(f"warning: {idle_gpus(idle, machines.gpus)}: runtime.workers is {runtime.workers}{company}")


@contextmanager
def _mirrored(
    home: Home, folder: RunFolder, mirror: bool | Literal["behind"], say: Callable[[str], None]
) -> Iterator[None]:
    if not mirror:
        yield
        return
    wait_for_left()
    follower = Follower(home, folder, say)
    try:
        yield
    finally:
        if mirror == "behind":
            follower.leave()
        else:
            follower.close()
            push(folder.path)


def _run_inline(
    config: ExperimentConfig,
    home: Home,
    folder: RunFolder,
    hooks: RunHooks,
    say: Callable[[str], None],
    *,
    data: PreparedData,
) -> RunRecord:
    with folder.lock("writer", DRIVER_TIMEOUT_S):
        runtime = config.runtime
        heard: dict[str, Any] = {"on_report": hooks.on_report, "on_maker": hooks.on_maker}
        attempt = Attempt(folder, gpus=gpus_held(runtime), pause_path=hooks.pause_path, **heard)

        def wished() -> bool:
            return attempt.asked_to_end() or (hooks.should_stop is not None and hooks.should_stop())

        context = LocalContext(
            runtime,
            on_report=attempt.report,
            on_maker=attempt.maker,
            on_arrays=attempt.keep,
            should_stop=wished,
            on_waiting=hooks.on_waiting,
            stage_patience_s=hooks.stage_patience_s,
            say=say,
        )
        store = StageStore(runtime.stage_store or home.stage_store, say=say)
        try:
            record = attempt.begin(data, config, context)
            named = named_epochs(config, home)
            check_space(need_of(record, config, data, home, store, named), home, store, say)
            result = run_training(config, data, context, store, cache_dir=home.cache, named=named)
            return attempt.complete(result, config, data, context.device)
        except (UserError, KeyboardInterrupt, SystemExit) as error:
            attempt.end(error)
            raise
        except (RunFailed, RunStopped, Exception) as error:  # every other end is a state of the run, with its trace
            return attempt.end(error)


def _run_under_ray(
    config: ExperimentConfig,
    home: Home,
    folder: RunFolder,
    hooks: RunHooks,
    say: Callable[[str], None],
    *,
    checked: CheckedNodes | None,
) -> RunRecord:
    from sage_ray.runtime.ray_train import run_under_ray

    launch = uuid.uuid4().hex
    try:
        return run_under_ray(config, home, folder, hooks, launch=launch, say=say, checked=checked)
    except BaseException as error:
        Attempt(folder, gpus=0.0, pause_path=hooks.pause_path).end(error)
        if isinstance(error, UserError | KeyboardInterrupt | SystemExit) or not isinstance(error, Exception):
            raise
        return folder.read()


def _both(first: Callable[[str], None], second: Callable[[str], None]) -> Callable[[str], None]:
    def say(line: str) -> None:
        first(line)
        second(line)

    return say


def _silent(_: str) -> None: ...
