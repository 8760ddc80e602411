"""Home and run folder, shared by processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

from sage_ray.locks import is_locked, locked
from sage_ray.record import provenance
from sage_ray.record.home import Home


def _identity(path: str) -> str:
    return Home(path).identity


def test_identity_is_one_for_all_processes(tmp_path: Path) -> None:
    home = str(tmp_path / "home")
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        found = set(pool.map(_identity, [home] * 6))
    assert found == {Home(home).identity}
    assert Home(tmp_path / "other").identity not in found


def test_lock_outlives_its_process_for_the_time_of_a_lease(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    code = (
        "import sys,time; from pathlib import Path; from sage_ray.locks import locked\n"
        "with locked(Path(sys.argv[1]), 5) as held:\n    print(held is not None, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        assert is_locked(path)
        with locked(path, 0.1) as held:
            assert held is None
        holder.kill()
        holder.wait(10)
    with locked(path, 0.1) as held:
        assert held is not None, "once it has given no sign for long enough"
    assert not is_locked(path)


def test_provenance_names_commit_and_packages(repo: Path) -> None:
    commit, dirty = provenance.code_version()
    head = subprocess.run(["git", "-C", repo, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if head.returncode == 0:
        assert commit is not None and len(commit) == 40 and isinstance(dirty, bool)
    else:
        assert commit is None and dirty is None
    environment = provenance.environment()
    assert environment["packages"]["torch"].split("+")[0] == sys.modules["torch"].__version__.split("+")[0]
    assert environment["cpus"] == os.cpu_count()
    json.dumps(environment)
