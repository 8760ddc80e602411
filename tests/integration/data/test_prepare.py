"""`prepare` in many processes at once, and on a disk that is full."""

from __future__ import annotations

import multiprocessing
import resource
from pathlib import Path

import numpy as np
import pytest
from prepare_cases import NUM, config_of, entries, pairs_in

from sage_ray.data.prepare import prepare
from sage_ray.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return pairs_in(tmp_path / "data")


def _prepare_in_process(folder: str, cache: str, barrier: object, results: object) -> None:
    barrier.wait(timeout=60)  # type: ignore[attr-defined]
    lines: list[str] = []
    data = prepare(config_of(Path(folder)), Path(cache), say=lines.append)
    (entry,) = entries(Path(cache))
    stamp = (Path(cache) / entry / "meta.json").stat()
    digest = (int(data.images.astype(np.int64).sum()), data.fingerprint, stamp.st_ino, len(lines))
    results.put(digest)  # type: ignore[attr-defined]


def test_processes_that_start_at_once_build_the_cache_once(folder: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(4), context.Queue()
    arguments = (str(folder), str(tmp_path / "cache"), barrier, results)
    workers = [context.Process(target=_prepare_in_process, args=arguments) for _ in range(4)]
    for worker in workers:
        worker.start()
    found = {results.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join(timeout=60)
        assert worker.exitcode == 0
    assert len(found) == 1, "all see one entry, written once"
    assert len(entries(tmp_path / "cache")) == 1


def _prepare_on_a_small_disk(folder: str, cache: str, results: object) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
    try:
        prepare(config_of(Path(folder)), Path(cache))
    except UserError as error:
        results.put(str(error))  # type: ignore[attr-defined]
    else:
        results.put("no error")  # type: ignore[attr-defined]


def test_full_disk_is_said_and_leaves_nothing_behind(folder: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    worker = context.Process(target=_prepare_on_a_small_disk, args=(str(folder), str(tmp_path / "cache"), results))
    worker.start()
    said = results.get(timeout=60)
    worker.join(timeout=60)
    assert said.startswith("cannot write the cache (File too large): ") and worker.exitcode == 0
    assert entries(tmp_path / "cache") == []
    assert len(prepare(config_of(folder), tmp_path / "cache").images) == NUM
