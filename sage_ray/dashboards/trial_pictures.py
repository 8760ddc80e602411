"""Which runs and pictures a trial has, as Optuna's dashboard shows them: a note, and files read where they lie."""

from __future__ import annotations

import hashlib
import json
import mimetypes
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from sage_ray.files import read_json
from sage_ray.followed import pull
from sage_ray.record.home import Home

ARTIFACT = "artifacts:"
"""How the key of an attribute begins that describes a file of a trial (Optuna 5.0, `optuna.artifacts`)."""
LIST_S = 1.5
"""Runs are listed no more often."""


@dataclass(frozen=True)
class Picture:
    """A picture of a run, and the name under which the dashboard asks for it."""

    run_id: str
    file: Path
    id: str


def pictures_of(run_id: str, folder: Path) -> list[Picture]:
    """The pictures in `artifacts/pictures` of a run's folder, by name."""
    place = folder / "artifacts" / "pictures"
    pull(place)
    return [Picture(run_id, file, _id(run_id, file)) for file in sorted(place.glob("*.png"))]


def _id(run_id: str, file: Path) -> str:
    return hashlib.sha256(f"{run_id}/{file.name}".encode()).hexdigest()[:32]


class TrialRuns:
    """The runs of a home by study and trial, from their records; each record is asked once which trial it is of."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._places: dict[str, tuple[str | None, int | None]] = {}
        self._names: tuple[float, list[str]] = (float("-inf"), [])
        self._pictures: dict[str, Path] = {}

    def of_study(self, study: str) -> dict[int, list[str]]:
        """Run ids of a study's trials, by number."""
        found: dict[int, list[str]] = {}
        for run_id in self._run_ids():
            if not run_id.startswith(f"{study}-"):
                continue
            if run_id not in self._places:
                record = _record(self._home.runs / run_id)
                if not record:
                    continue  # it is only being made
                self._places[run_id] = (record.get("study"), record.get("trial"))
            of, trial = self._places[run_id]
            if of == study and trial is not None:
                found.setdefault(trial, []).append(run_id)
        return found

    def _run_ids(self) -> list[str]:
        """Names of all run folders, listed at most every `LIST_S`."""
        listed, names = self._names
        if time.monotonic() - listed >= LIST_S:
            pull(self._home.runs, every_s=LIST_S)
            names = sorted(os.listdir(self._home.runs)) if self._home.runs.is_dir() else []
            self._names = (time.monotonic(), names)
        return names

    def attributes(self, run_ids: Sequence[str]) -> dict[str, str]:
        """What describes the pictures of runs to Optuna."""
        attrs: dict[str, str] = {}
        pictures = [picture for run_id in run_ids for picture in pictures_of(run_id, self._home.runs / run_id)]
        for picture in pictures:
            self._pictures[picture.id] = picture.file
            kind = mimetypes.guess_type(picture.file.name)[0] or "application/octet-stream"
            name = f"{picture.run_id} {picture.file.name}"
            meta = {"artifact_id": picture.id, "filename": name, "mimetype": kind, "encoding": None}
            attrs[ARTIFACT + picture.id] = json.dumps(meta)
        return attrs

    def note(self, run_ids: Sequence[str], error: str | None) -> str:
        """Markdown on a trial: why it failed if it did, and how far its runs are."""
        lines = [f"Failed: {error}", ""] if error else []
        for run_id in run_ids:
            record = _record(self._home.runs / run_id)
            lines.append(f"- run `{run_id}`: {record.get('state', 'no record')}, epoch {record.get('epoch', 0)}")
        return "\n".join(lines)

    # The part of Optuna's ArtifactStore that shows files.

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """The bytes of a picture. Raises ValueError if there is none of that id."""
        if artifact_id not in self._pictures:
            raise ValueError(f"no picture {artifact_id}")
        return self._pictures[artifact_id].open("rb")

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Raise PermissionError: pictures are made by runs."""
        raise PermissionError("a home is shown, and not written to")

    def remove(self, artifact_id: str) -> None:
        """Raise PermissionError: pictures are removed with their run."""
        raise PermissionError("a home is shown, and not written to")


def _record(folder: Path) -> dict[str, Any]:
    try:
        return dict(read_json(folder / "record.json"))
    except (OSError, ValueError, TypeError):
        return {}
