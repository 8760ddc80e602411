"""The run of a study in MLflow, which holds the runs of its trials."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from sage_ray.errors import UserError
from sage_ray.record.mlflow_client import MirrorUnavailable
from sage_ray.record.mlflow_mirror import Mirror
from sage_ray.record.run_folder import RunFolder
from sage_ray.record.run_record import State
from sage_ray.search.study_folder import StudyFolder
from sage_ray.search.study_status import StudyStatus
from sage_ray.watch import Watch


class ParentRun:
    """The study's run in MLflow; a server that is away never holds up the study."""

    def __init__(self, folder: StudyFolder, watch: Watch) -> None:
        self._folder, self._watch = folder, watch
        self._thread: threading.Thread | None = None

    def say(self, state: State, status: StudyStatus | None = None, runs: Sequence[RunFolder] = ()) -> None:
        """Put the parent run into `state`: in the background at the start, waiting for it at the end."""
        if self._thread is not None:
            self._thread.join(timeout=30)
        self._thread = threading.Thread(target=self._send, args=(state, status, runs), daemon=True)
        self._thread.start()
        if state != "RUNNING":
            self._thread.join(timeout=30)

    def _send(self, state: State, status: StudyStatus | None, runs: Sequence[RunFolder]) -> None:
        tags = {"sage.home": str(self._folder.home.path)}
        if status is not None:
            counts = ("target", "done", "pruned", "failed", "metric", "direction")
            tags |= {f"sage.{name}": str(getattr(status, name)) for name in counts}
        mirror = Mirror(self._folder.home)
        try:
            mirror.parent_run(self._folder.name, state=state, tags=tags)
            for run in runs:
                mirror.push(run)
            if status is not None:
                for path in (self._folder.spec_path, self._folder.base_path, self._folder.path / "study.json"):
                    mirror.log_parent_artifact(self._folder.name, path)
        except (MirrorUnavailable, UserError) as error:
            self._watch.line(f"MLflow does not have the study itself ({error}); `sage-ray sync` sends its runs")
