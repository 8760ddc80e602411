"""Opening a study: its name is free or it may change as asked, its files are written, its storage is sound."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Sequence
from typing import Any

from sage_ray.config import dump
from sage_ray.errors import UserError
from sage_ray.files import write_text
from sage_ray.record.optuna_store import OptunaStore, same_place
from sage_ray.record.patient_storage import PATIENCE_S, Patience
from sage_ray.record.provenance import code_version
from sage_ray.record.run_folder import RunFolder
from sage_ray.search.changes import Change, check_changes
from sage_ray.search.earlier import earlier_trials
from sage_ray.search.rebuild import is_of, is_sound, rebuild, relabel, stamp
from sage_ray.search.storage import StudyStorage, TrialRow, is_divergence, read_rows
from sage_ray.search.study_folder import StudyFolder, stored_place
from sage_ray.search.study_note import metric_names, study_note
from sage_ray.search.study_status import study_rows
from sage_ray.study.spec import StudySpec
from sage_ray.watch import Watch


def refuse_taken_name(folder: StudyFolder, spec: StudySpec) -> None:
    """Raise UserError if a study that does not exist would find runs of its names, of an earlier study or of others."""
    if folder.exists:
        return
    for run_id in folder.home.run_ids():
        if not run_id.startswith(f"{folder.name}-"):
            continue
        record = RunFolder(folder.home.runs / run_id).read()
        if record.study == folder.name and record.parent in (None, folder.name):
            mend = f"`sage-ray forget {folder.name}` frees the name, or choose another --name"
            raise UserError(f"runs of an earlier study of this name are left ({run_id}, ...)", folder.name, mend)
    for place in (place for number in range(spec.trials) for place in spec.run_grid(number)):
        if (folder.home.runs / place.run_id / "record.json").is_file():
            mend = f"choose another --name, or free it with `sage-ray forget {place.run_id}`"
            raise UserError(f"run {place.run_id} is no part of this study", folder.name, mend)


def check_wish(folder: StudyFolder, spec: StudySpec) -> list[Change]:
    """What of a study that exists changes with this file; none of a new one.

    Raises:
        UserError: it must not change so.
    """
    if not folder.exists:
        return []
    old = folder.spec()
    same = folder.meta()["space_hash"] == spec.hash
    if same and spec.trials == old.trials:
        return []
    changes = check_changes(old, spec, study_rows(folder, old), folder)
    # A file that hashes like the study's own asks for the same trials, whatever defaults have come since.
    return [change for change in changes if not same or change.key == "trials"]


def failed_trials(folder: StudyFolder, *, all_crashed: bool, named: Collection[int]) -> set[str]:
    """First runs of the failed trials that shall be taken up again.

    Args:
        folder: the study.
        all_crashed: those that crashed or were silent for too long; what diverged would diverge again.
        named: numbers of trials, whatever they failed of.

    Raises:
        UserError: a named trial has not failed.
    """
    spec = folder.spec()
    failed = {row.number: row for row in study_rows(folder, spec) if row.state == "FAIL"}
    for number in named:
        if number not in failed:
            listed = ", ".join(map(str, failed)) or "none"
            raise UserError(f"trial {number} has not failed", folder.name, f"failed trials: {listed}")
    chosen = {n for n, row in failed.items() if n in named or (all_crashed and not is_divergence(row.error or ""))}
    return {spec.run_grid(number)[0].run_id for number in chosen}


def write_study(folder: StudyFolder, spec: StudySpec, fingerprint: str, changes: Sequence[Change]) -> None:
    """Write the file of the study, base.yaml and study.json, and count this start; the caller holds the lock."""
    refuse_taken_name(folder, spec)
    commit, dirty = code_version()
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    meta: dict[str, Any] = {
        "name": folder.name,
        "space_hash": spec.hash,
        "data_fingerprint": fingerprint,
        "commit": commit,
        "dirty": dirty,
        "created": now,
        "starts": 0,
        **stored_place(folder.store(spec.file.store)),
    }
    if folder.exists:
        meta = folder.meta()
    if meta["data_fingerprint"] != fingerprint:
        where = f"{spec.base.data.path} of study {folder.name}"
        raise UserError("the images changed since the study began", where, "restore them, or begin another study")
    if changes:
        if is_sound(folder):
            stamp(folder, meta["space_hash"])  # a kill between the two files is noticed by it
        made = {"time": now, "keys": {change.key: [change.old, change.new] for change in changes}}
        meta |= {"space_hash": spec.hash, "changes": [*meta.get("changes", []), made]}
    write_text(folder.base_path, dump(spec.base))
    if folder.spec_path.name != spec.file_name:
        folder.spec_path.unlink(missing_ok=True)  # of another study, killed before it was one
    write_text(folder.path / spec.file_name, spec.to_yaml(folder.base_path.name))
    folder.write_meta({**meta, **spec.facts(), "starts": meta["starts"] + 1, "commit_of_last_start": commit})


def open_storage(
    folder: StudyFolder,
    spec: StudySpec,
    fingerprint: str,
    watch: Watch,
    again: Collection[str],
) -> StudyStorage:
    """The study's storage; made anew if it is lost, damaged, moved, of an earlier file, or if failed trials go on.

    Args:
        folder: the study, locked by the caller, its files written.
        spec: what it runs.
        fingerprint: of its data.
        watch: told lines for the user.
        again: first runs of failed trials that are taken up again.

    Raises:
        UserError: a server cannot be used.
    """
    before, store = folder.store(), folder.store(spec.file.store)
    if not same_place(before.address, store.address):
        count = rebuild(folder, spec, known=_known(before, spec), again=again, store=store)
        folder.note_store(store)
        watch.line(f"trials were kept in {before.where}, are in {store.where} now: made anew from {count} trials")
    elif not store.is_sound(thorough=True):
        count = rebuild(folder, spec, again=again)
        if count:
            watch.line(f"{store.where} was lost or damaged: made anew from the records of {count} trials")
    elif again or not is_of(folder, spec.hash):
        rebuild(folder, spec, known=_known(store, spec), again=again)
        relabel(folder, spec)
    patience = Patience(store.where, PATIENCE_S, watch.line)
    earlier = earlier_trials(spec, folder.home, fingerprint, watch.line)
    storage = StudyStorage(folder.path, folder.name, spec, earlier, store=store, patience=patience)
    stamp(folder, spec.hash)
    storage.describe(metric_names(spec), study_note(spec))
    return storage


def _known(store: OptunaStore, spec: StudySpec) -> list[TrialRow]:
    """What a storage, if it can be read, knows of a search. Of an ablation its runs alone know which they are.

    The numbers of an ablation's trials move with its seeds and arms.
    """
    with contextlib.suppress(UserError):
        if spec.kind != "ablation" and store.is_sound():
            return read_rows(store.folder, store.study, store)
    return []
