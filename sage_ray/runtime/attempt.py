"""One attempt at a run, written down by the worker that trains it: record, metrics and results are true at any time."""

from __future__ import annotations

import math
import os
import socket
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sage_ray.config import ExperimentConfig
from sage_ray.data.lineage import EXTRA_PAIRS_FILE
from sage_ray.data.manifest import write_manifest
from sage_ray.data.prepare import PreparedData
from sage_ray.errors import RunFailed, RunStopped, StageBusy, UserError
from sage_ray.files import replacing, write_json
from sage_ray.followed import exists
from sage_ray.pair_source import PairSource
from sage_ray.record import provenance
from sage_ray.record.run_folder import LOOK_S, RunFolder
from sage_ray.record.run_record import RunRecord, State
from sage_ray.runtime.products import write_products
from sage_ray.stages.keys import extra_pairs_key, stage_keys
from sage_ray.stages.pair_stages import pair_stages
from sage_ray.training.context import Arrays, Report, RunContext, computed_on, numerics
from sage_ray.training.extra_pairs import ExtraPairs
from sage_ray.training.loop import TrainResult
from sage_ray.training.report import MAKING
from sage_ray.training.scoring import SCORING_PRECISION

SAY_S = 60.0
"""Least seconds between two lines of a log about what is trained first."""


class Attempt:
    """Writes one attempt at a run to its folder. Only the holder of the folder's `writer` lock may have one.

    Args:
        folder: the run.
        gpus: GPUs that the attempt holds, for `gpu_seconds`.
        on_report: called with each report after it is on disk.
        on_maker: likewise with each epoch of what is trained first for extra pairs.
        pause_path: a file that, while it is there, asks the run to end and makes its early end a pause.
    """

    def __init__(
        self,
        folder: RunFolder,
        *,
        gpus: float,
        on_report: Callable[[Report], None] | None = None,
        on_maker: Callable[[Report], None] | None = None,
        pause_path: Path | None = None,
    ) -> None:
        self.folder, self._gpus, self._pause_path = folder, gpus, pause_path
        self._on_report, self._on_maker = on_report, on_maker
        self._record = folder.read()
        self._before = (self._record.seconds, self._record.gpu_seconds)
        self._started = time.monotonic()
        self._said = -math.inf

    def begin(self, data: PreparedData, config: ExperimentConfig, context: RunContext) -> RunRecord:
        """Start an attempt: state RUNNING, provenance, stage keys, manifest; earlier scores stay until replaced."""
        commit, dirty = provenance.code_version()
        places = dict.fromkeys([*self._record.computed_on, computed_on(context.device)])
        self.folder.artifacts.mkdir(exist_ok=True)  # a bucket keeps no empty folder
        write_json(self.folder.artifacts / "environment.json", provenance.environment(), durable=False)
        write_manifest(data, self.folder.artifacts / "manifest.parquet")
        process = f"process {os.getpid()} of {socket.gethostname()}"
        self.folder.log.line(f"attempt {self._record.attempt + 1} on {computed_on(context.device)}, {process}")
        numbers = numerics(config.runtime, context.device, context.world_size)
        pairs = _pairs_begun(
            self._record, config, extra_pairs_key(config, data.fingerprint, data.split.split_id, numbers)
        )
        return self._change(
            state="RUNNING",
            error=None,
            attempt=self._record.attempt + 1,
            commit=commit,
            dirty=dirty,
            data_fingerprint=data.fingerprint,
            split_id=data.split.split_id,
            parts=data.split.counts(),
            # From the start, so that `sage-ray gc` knows what a run needs that was cut off.
            stage_keys=stage_keys(config, data.fingerprint, data.split.split_id, numbers),
            pair_stages=pair_stages(config, data.fingerprint, data.split.split_id, numbers).keys(),
            extra_pairs=pairs,
            numerics=numbers,
            computed_on=list(places),
        )

    def report(self, report: Report) -> None:
        """Keep one epoch; the file first, then the record, then whoever else listens."""
        self.folder.append_metrics(report)
        pairs = self._record.extra_pairs
        self._change(
            durable=False,
            extra_pairs=None if pairs is None else {name: told for name, told in pairs.items() if name != "now"},
            epoch=int(report["epoch"]),
            metrics=_numbers(report),
            synthetic_steps=int(report.get("synthetic_steps", 0)),
            generator_updates=int(report.get("generator_updates", 0)),
        )
        if self._on_report is not None:
            self._on_report(report)

    def maker(self, progress: Report) -> None:
        """Note how far that is which is trained first for extra pairs, and the seconds that this run spends on it."""
        pairs = dict(self._record.extra_pairs or {})
        spent = 0.0 if progress["replayed"] else float(progress["seconds"])
        pairs["spent_seconds"] = round(float(pairs.get("spent_seconds", 0.0)) + spent, 3)
        pairs["now"] = {name: progress[name] for name in ("maker", "phase", "epoch", "epochs")}
        self._change(durable=False, extra_pairs=pairs)
        if progress["phase"] != MAKING and time.monotonic() - self._said >= SAY_S:
            self._said = time.monotonic()
            self.folder.log.line(f"extra pairs: {progress['maker']}: epoch {progress['epoch']} of {progress['epochs']}")
        if self._on_maker is not None:
            self._on_maker(progress)

    def keep(self, name: str, arrays: Arrays) -> None:
        """Write arrays as artifacts/NAME.npz; an epoch that is trained again replaces its own."""
        path = self.folder.artifacts / f"{name}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, durable=False) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, allow_pickle=False, **arrays)

    def complete(
        self, result: TrainResult, config: ExperimentConfig, data: PreparedData, device: torch.device
    ) -> RunRecord:
        """Write the results and the record of a finished training."""
        write_products(self.folder, config, data, result, device)
        selected = next((r for r in result.history if r["epoch"] == result.selected_epoch), result.metrics)
        return self._change(
            state="COMPLETE",
            error=None,
            epoch=result.epoch,
            selected_epoch=result.selected_epoch,
            metrics=_numbers(result.metrics),
            selected_metrics=_numbers(selected),
            stage_keys=result.stage_keys,
            numerics=result.numerics,
            computed_on=result.computed_on,
            synthetic_steps=result.synthetic_steps,
            generator_updates=result.generator_updates,
            weights_sha=result.weights_sha,
            parameters=_parameters(segmenter=result.segmenter, generator=result.generator),
            lr_drops=result.lr_drops,
            reused_epochs=result.reused_epochs,
            scoring=SCORING_PRECISION,
            extra_pairs=_told(self._record, self.folder, result.extra_pairs),
        )

    def end(self, error: BaseException) -> RunRecord:
        """Record how an attempt ended early: the state that the error stands for, its line, and its trace."""
        state, line = state_of(error)
        if state == "PRUNED" and self._pausing():
            state = "INTERRUPTED"
        if state == "FAIL":
            self.folder.write_error("".join(traceback.format_exception(error)))
        return self._change(state=state, error=line)

    def asked_to_end(self) -> bool:
        """Whether a file asks the run to end after its epoch: its own stop file, or `pause_path`."""
        return self.folder.stop_requested() or self._pausing()

    def _pausing(self) -> bool:
        return self._pause_path is not None and exists(self._pause_path, every_s=LOOK_S)

    def _change(self, *, durable: bool = True, **changes: Any) -> RunRecord:
        elapsed = time.monotonic() - self._started
        self._record = self.folder.update(
            durable=durable,
            seconds=round(self._before[0] + elapsed, 3),
            gpu_seconds=round(self._before[1] + elapsed * self._gpus, 3),
            **changes,
        )
        return self._record


def state_of(error: BaseException) -> tuple[State, str | None]:
    """The state in which an exception leaves a run, and the line that says why."""
    line = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, StageBusy):
        return "INTERRUPTED", f"{error.state}: {line}"
    if isinstance(error, RunStopped):
        return "PRUNED", None
    if isinstance(error, SystemExit):  # Tune stops a trial by raising it from tune.report
        return "PRUNED", None
    if isinstance(error, KeyboardInterrupt):
        return "INTERRUPTED", "interrupted; the same command goes on from the last snapshot"
    if isinstance(error, RunFailed):
        return "FAIL", f"{error.state}: {line}"
    if isinstance(error, UserError):
        return "FAIL", line
    return "FAIL", f"{type(error).__name__}: {line}"


def _pairs_begun(record: RunRecord, config: ExperimentConfig, key: str | None) -> dict[str, Any] | None:
    """What the record says of a run's extra pairs until they are all known.

    Raises:
        UserError: a folder of pairs has changed since the run began.
    """
    if key is None:
        return None
    source = PairSource.parse(config.data.extra_pairs)
    begun = (record.extra_pairs or {}).get("key", key)
    if begun != key and source.kind == "place":
        what = f"extra pairs have changed since the run began (now {key}, was {begun})"
        raise UserError(what, f"data.extra_pairs={source}", "restore them, or choose another run id")
    return {"source": str(source), "key": key, "spent_seconds": record.pair_seconds_spent}


def _told(record: RunRecord, folder: RunFolder, extra: ExtraPairs | None) -> dict[str, Any] | None:
    """What the record says of a run's extra pairs; what they were made from, image by image, lies beside its model."""
    if extra is None:
        return None
    told = {"format_version": 1, **extra.facts, "made_from": extra.lineage.plain(), "images": list(extra.images)}
    write_json(folder.artifacts / EXTRA_PAIRS_FILE, told)
    return {**extra.facts, "spent_seconds": record.pair_seconds_spent}


def _parameters(**networks: nn.Module | None) -> dict[str, int]:
    return {name: sum(p.numel() for p in net.parameters()) for name, net in networks.items() if net is not None}


def _numbers(report: Mapping[str, Any]) -> dict[str, float | None]:
    numbers = {k: v for k, v in report.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    return {k: float(v) if math.isfinite(v) else None for k, v in numbers.items() if k not in ("epoch", "phase_epoch")}
