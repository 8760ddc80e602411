"""Claim: a snapshot in a bucket costs few requests, and one copy of memory. Requests, seconds, copies; folder and S3.

The server is moto, a Python process on the same machine: its seconds say what differs between two releases of ours, not
how fast a store of yours is. Requests and copies are the same on every server.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from s3_cases import KEY, SECRET, s3_server

from benchmarks.record import save
from sage_ray.stages.store import Snapshot, StageStore
from sage_ray.stages.writer import SnapshotWriter

MB = 1_000_000
LARGE_MB = 50
"""From here on memory is measured too, and fewer snapshots are written."""
BEST_EVERY = 5
"""Epochs between two changes of the best weights, which are a third of a state."""


@contextmanager
def counting_server() -> Iterator[Callable[[], int]]:
    """A server in a process of its own, for this process's memory alone is measured; yields "requests since"."""
    command = [sys.executable, __file__, "--serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None

        def requests() -> int:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            return int(process.stdout.readline())

        os.environ |= {"AWS_ENDPOINT_URL": process.stdout.readline().strip(), "AWS_REGION": "us-east-1"}
        os.environ |= {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
        try:
            yield requests
        finally:
            process.stdin.close()


def serve() -> None:
    """Print the address, then for each line on stdin the number of requests since the one before."""
    with s3_server() as server:
        print(server.address, flush=True)
        for _ in sys.stdin:
            print(len(server.requests), flush=True)
            server.requests.clear()


def state(megabytes: float) -> dict[str, torch.Tensor]:
    count = int(megabytes * MB / 4 / 6)
    return {name: torch.rand(count) for name in ("network.a", "network.b", "adam.a", "adam.b", "best.a", "best.b")}


def measured(action: Callable[[], Any], requests: Callable[[], int]) -> tuple[float, int, float]:
    """Seconds, requests, and bytes of memory at the peak above those before."""
    gc.collect()
    requests()
    Path("/proc/self/clear_refs").write_text("5")
    before, began = resident("VmRSS"), time.perf_counter()
    result = action()
    seconds = time.perf_counter() - began
    peak = resident("VmHWM") - before
    del result
    return seconds, requests(), peak


def resident(what: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(what)).split()[1])


def rows_of(place: str, root: str, megabytes: float, requests: Callable[[], int]) -> dict[str, Any]:
    store, tensors = StageStore(root), state(megabytes)
    writer = SnapshotWriter(StageStore(root))

    def put(epoch: int) -> None:
        best = epoch - epoch % BEST_EVERY
        if epoch == best:
            tensors["best.a"] += 1
        writer.put(Snapshot("k", epoch, tensors, {"best_epoch": best}))
        writer.flush()

    put(1)  # takes the buffers that later ones use again
    large = megabytes >= LARGE_MB
    saves = [measured(lambda epoch=epoch: put(epoch), requests) for epoch in range(2, 7 if large else 22)]
    loads = [measured(lambda: StageStore(root).load_latest("k", 99), requests) for _ in range(3)]
    looks = [measured(lambda: store.latest("k", 99), requests) for _ in range(10)]
    writer.close()
    size = megabytes * MB
    return {
        "store": place,
        "state MB": megabytes,
        "requests per snapshot (median)": statistics.median(count for _, count, _ in saves),
        "most": max(count for _, count, _ in saves),
        "s per snapshot": statistics.median(seconds for seconds, _, _ in saves),
        "copies of the state": round(max(peak for _, _, peak in saves) / size, 2) if large else None,
        "requests per load": loads[-1][1],
        "s per load": statistics.median(seconds for seconds, _, _ in loads),
        "copies with the result": round(max(peak for _, _, peak in loads) / size, 2) if large else None,
        "requests per look": looks[-1][1],
        "s per look": statistics.median(seconds for seconds, _, _ in looks),
    }


def main() -> None:
    """Measure both stores and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--megabytes", type=float, nargs="*", default=[1, 100])
    options = parser.parse_args()
    if options.serve:
        serve()
        return
    rows = []
    with counting_server() as requests, tempfile.TemporaryDirectory() as folder:
        for megabytes in options.megabytes:
            name = f"{megabytes:g}"
            rows.append(rows_of("folder", f"{folder}/{name}", megabytes, requests))
            rows.append(rows_of("S3 (moto)", f"s3://stages/{name}", megabytes, requests))
    notes = [
        "20 snapshots (5 large ones) one after another by a `SnapshotWriter`, each pruned to the newest two; the best "
        f"weights, a third of a state, change every {BEST_EVERY} epochs. Each part of a large object is a request.",
        "Copies are memory at the peak above that before, in states: while a snapshot is written, and while one is "
        "read, the tensors that are the result included.",
        "The release before 0.4 made 38 requests per snapshot, with pyarrow.",
    ]
    save("object_store", "Snapshots in a folder and in a bucket", rows, notes)


if __name__ == "__main__":
    main()
