"""A process that holds leases in a bucket ends in seconds, whether or not its store still answers."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
from s3_cases import s3_server

from sage_ray.leases import END_S

HOLDS = """
import sys
from sage_ray.leases import Lease
from sage_ray.object_store import open_object_store

print(Lease(open_object_store("s3://stages"), "a/x").take(0), flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("gone", [False, True])
def test_a_process_ends_though_its_store_is_gone(gone: bool) -> None:
    with s3_server() as server:
        environment = {**os.environ, **server.environment}
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert process.stdout is not None and process.stdout.readline() == "True\n"
        if not gone:
            server.requests.clear()
            assert process.communicate(timeout=60) == ("", "") and process.returncode == 0
            assert [query for _, path, query in server.requests if "delete" in query], "its sign of life is taken away"
    if gone:
        began = time.monotonic()
        assert process.communicate(timeout=100) == ("", "") and process.returncode == 0
        assert time.monotonic() - began < END_S + 20
