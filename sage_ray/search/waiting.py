"""Waiting for room: what is shown while no node can hold a trial, what is asked of an autoscaler, and when it ends."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence

from ray.tune.experiment import Trial

from sage_ray.files import write_json
from sage_ray.followed import push
from sage_ray.runtime.node_watch import NodeWatch
from sage_ray.runtime.room import Awaited, ask_for, await_room, in_words
from sage_ray.search.placement import trials_at_once, worker_resources
from sage_ray.search.study_folder import StudyFolder
from sage_ray.study.spec import StudySpec

LOOK_S = 2.0


class Waiting:
    """Says how many trials fit on the nodes of a study, and waits aloud while none does.

    Args:
        folder: the study; what it awaits is noted there for `status`.
        spec: what it runs, placed.
        nodes: its nodes.
        stop: called with the reason for which the study has to stop.
        say: told one line when the wait begins or ends.
    """

    def __init__(
        self,
        folder: StudyFolder,
        spec: StudySpec,
        nodes: NodeWatch,
        stop: Callable[[str], None],
        say: Callable[[str], None],
    ) -> None:
        self._folder, self._spec, self._nodes, self._stop, self._say = folder, spec, nodes, stop, say
        self._since: float | None = None
        self._awaited: Awaited | None = None
        self._looked = 0.0
        self._pending: tuple[int, ...] | None = None

    def limit(self) -> int:
        """How many trials there may be now; 0 while no node can hold one."""
        fits = self._room()
        self._note(fits, self._pending or ())
        return trials_at_once(self._spec, self._nodes.usable()) if fits else 0

    def look(self, trials: Sequence[Trial]) -> None:
        """Show the trials that wait for a node, if any does; at most every `LOOK_S` seconds."""
        if time.monotonic() - self._looked < LOOK_S:
            return
        self._looked = time.monotonic()
        pending = tuple(sorted(int(t.config["number"]) for t in trials if t.status == Trial.PENDING))
        self._note(self._room(), pending)

    def close(self) -> None:
        """Nothing is awaited any more."""
        self._folder.awaiting_path.unlink(missing_ok=True)
        push(self._folder.awaiting_path)
        self._pending = None

    def _room(self) -> bool:
        """Whether a trial fits on the nodes of the study, busy or not."""
        resources, bundle = self._spec.file.resources, worker_resources(self._spec)
        cpu, gpu = bundle["CPU"], bundle.get("GPU", 0.0)
        return sum(node.workers(cpu, gpu) for node in self._nodes.usable()) >= resources.workers

    def _note(self, fits: bool, pending: tuple[int, ...]) -> None:
        """Begin, go on with or end the wait."""
        if fits:
            if self._since is not None:
                self._say(f"waited {time.monotonic() - self._since:.0f} s: a node for trials is here")
                ask_for([])
                self._since, self._awaited = None, None
                self.close()
            return
        if self._since is None:
            self._begin()
        assert self._awaited is not None and self._since is not None
        if pending != self._pending:
            self._pending = pending
            with contextlib.suppress(OSError):
                write_json(self._folder.awaiting_path, {"what": self._awaited.what, "trials": pending}, durable=False)
        limit = self._awaited.limit_s
        if limit is not None and time.monotonic() - self._since > limit:
            self._stop(f"no node for {self._awaited.what} within {limit / 60:g} minutes (SAGE_WAIT_FOR_NODES)")

    def _begin(self) -> None:
        bundle, workers = worker_resources(self._spec), self._spec.file.resources.workers
        # Nodes that were there have left: some may come back, even where nothing starts new ones.
        self._awaited = await_room(bundle, workers) or Awaited(in_words(bundle, workers), None)
        self._since = time.monotonic()
        ask_for([bundle] * workers)
        self._say(self._awaited.line)
