"""Reports of a study in MLflow: files under `report/` of the run that holds those of its trials, with their pictures.

Which files they are is noted beside the study before any is sent; `sage-ray sync` sends what MLflow did not take.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote

from sage_ray.errors import UserError
from sage_ray.files import read_json, write_json
from sage_ray.followed import push
from sage_ray.locks import locked
from sage_ray.record.home import Home
from sage_ray.record.mlflow_client import LOCK_TIMEOUT_S, MirrorUnavailable
from sage_ray.record.mlflow_mirror import Mirror

_PICTURE = re.compile(r"!\[.*?\]\(<?([^()<>\s]+\.(?:svg|png|jpe?g|gif|webp))>?\)", re.IGNORECASE)
"""A picture in markdown, and its place."""
NOTED = "mlflow_reports.json"
"""In the folder of a study or final training: each report file, and what says that it has been sent ("": nothing)."""


def attach(home: Home, study: str, files: Sequence[Path], *, say: Callable[[str], None] | None = None) -> None:
    """Put report files under `report/` of the MLflow run of a study or final training.

    A file that has the name of an earlier one takes its place. If MLflow does not take them, or has no run of the study
    yet, they are noted, and `sage-ray sync` sends them.

    Args:
        home: of the study.
        study: name of the study, or id of the final training.
        files: the report files, which stay where they are.
        say: told if they could not be sent.

    Raises:
        UserError: no such study, or a file that is not there.
    """
    folder = _folder(home, study)
    if folder is None:
        raise UserError("no such study or final training", study, "`sage-ray list` shows them")
    for file in files:
        if not file.is_file():
            raise UserError("no such report file", file, "give files that have been written")
    try:
        _add(home, folder, files)
        if home.database is None or home.database.is_file():
            send_reports(Mirror(home), study)
    except MirrorUnavailable as error:
        if say is not None:
            say(f"MLflow did not take the report ({error}); `sage-ray sync` sends it later")


def _add(home: Home, folder: Path, files: Sequence[Path]) -> None:
    """Note files that are to be sent."""
    with _alone(folder):
        noted = _noted(folder)
        names = {file.name for file in files}
        kept = {text: sent for text, sent in noted.items() if Path(text).name not in names}
        _note(folder, kept | {(text := _text(home, file)): noted.get(text, "") for file in files})


def send_reports(mirror: Mirror, study: str) -> bool:
    """Send the noted reports of a study or final training that MLflow lacks; returns whether there were any.

    Raises:
        MirrorUnavailable: as `Mirror.push`; what was sent is noted.
    """
    folder = _folder(mirror.home, study)
    if folder is None or not (folder / NOTED).is_file():
        return False
    changed = False
    with _alone(folder):
        noted = _noted(folder)
        for text, sent in list(noted.items()):
            file = mirror.home.path / text
            if not file.is_file():
                continue  # it was removed: MLflow keeps what it has of it
            mark = mirror.send_report(study, file, sent, pictures_of(file))
            if mark is not None and mark != sent:
                noted[text], changed = mark, True
                _note(folder, noted)
    return changed


def pictures_of(file: Path) -> list[Path]:
    """The pictures that a report in markdown refers to, those of them that lie below its folder; of HTML none."""
    if file.suffix != ".md":
        return []
    named = dict.fromkeys(unquote(place) for place in _PICTURE.findall(file.read_text(encoding="utf-8")))
    found = [(file.parent / place, place) for place in named if "://" not in place]
    return [picture for picture, place in found if ".." not in Path(place).parts and picture.is_file()
            and picture.is_relative_to(file.parent)]  # fmt: skip


def _folder(home: Home, study: str) -> Path | None:
    """Folder of the study or final training of that name; that of a final training is made with what comes first."""
    if (home.studies / study).is_dir():
        return home.studies / study
    folder = home.finals / study
    if not folder.is_dir() and (home.finals / f"{study}.json").is_file():
        folder.mkdir(exist_ok=True)
    return folder if folder.is_dir() else None


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    with locked(folder / ".reports.lock", LOCK_TIMEOUT_S) as held:
        if not held:
            raise MirrorUnavailable(f"another process is sending the reports of {folder.name}")
        yield


def _noted(folder: Path) -> dict[str, str]:
    try:
        return {str(text): str(sent) for text, sent in read_json(folder / NOTED)["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _note(folder: Path, files: dict[str, str]) -> None:
    write_json(folder / NOTED, {"files": files}, durable=False)
    push(folder / NOTED)


def _text(home: Home, file: Path) -> str:
    """The place of a file: below the home by its path in the home, which may move."""
    whole, root = file.resolve(), home.path.resolve()
    return str(whole.relative_to(root)) if whole.is_relative_to(root) else str(whole)
