"""What the workers of a run leave for the process that started them: where they were placed, and that they wait."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from pathlib import Path

import ray
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

from sage_ray.files import read_json, write_json
from sage_ray.followed import pull, push
from sage_ray.record.home import Home

LOOK_S = 1.0
"""Signs are left, and in a bucket looked for, no more often."""


def train_storage(home: Home) -> Path:
    """Ray Train's folder in a home; each run has one of its name in it while it is trained."""
    return home.path / "ray"


class WorkerSigns:
    """Files beside those of Ray Train, in a folder that goes when the run has ended.

    Args:
        home: where it is; all nodes see it.
        run_id: the run.
    """

    def __init__(self, home: Home, run_id: str) -> None:
        self._folder = train_storage(home) / run_id
        self._placed, self._waiting = self._folder / "placed.json", self._folder / "waiting"
        self._signed = -LOOK_S

    def place(self, launch: str) -> None:
        """Note, in a worker, that `launch` has its workers, and which resources Ray holds for them."""
        group = ray.util.get_current_placement_group()
        self._folder.mkdir(parents=True, exist_ok=True)
        write_json(self._placed, {"launch": launch, "group": None if group is None else group.id.hex()})
        push(self._placed)

    def is_placed(self, launch: str) -> bool:
        """Whether `launch` has its workers."""
        return self._read().get("launch") == launch

    def wait(self) -> None:
        """Leave a sign, in a worker, that it is alive and has no epoch to report; at most one every `LOOK_S`."""
        if time.monotonic() - self._signed < LOOK_S:
            return
        self._signed = time.monotonic()
        self._waiting.write_text(str(time.time()))
        push(self._waiting)

    def waited_at(self) -> float:
        """When the last such sign was left, in seconds since the epoch; 0: never."""
        pull(self._folder, every_s=LOOK_S)
        try:
            return float(self._waiting.read_text())
        except (FileNotFoundError, ValueError):
            return 0.0

    def free(self) -> None:
        """Give back what Ray still holds for the workers of an earlier process, which was killed.

        Ray Train has an actor for this; it asks Ray's dashboard, which a Ray that we start ourselves has not.
        """
        held = self._read().get("group")
        if held is None:
            return
        group = PlacementGroup(ray.PlacementGroupID(bytes.fromhex(held)))
        if placement_group_table(group).get("state", "REMOVED") != "REMOVED":
            with contextlib.suppress(Exception):  # gone in the meantime
                remove_placement_group(group)

    def clear(self) -> None:
        """Remove the folder: the run has ended."""
        shutil.rmtree(self._folder, ignore_errors=True)
        push(self._folder)

    def _read(self) -> dict[str, str | None]:
        pull(self._folder, every_s=LOOK_S)
        try:
            value: dict[str, str | None] = read_json(self._placed)
        except (FileNotFoundError, json.JSONDecodeError):
            return {}
        return value
