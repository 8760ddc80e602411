"""What all tests share: few threads, quiet Ray and MLflow, a throw-away home, the folders of real data."""

from __future__ import annotations

import functools
import os
import re
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before torch, numpy and Ray are imported: threads are read once, and nobody phones home.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
os.environ.setdefault("MPLBACKEND", "Agg")
# Tests kill many processes, and whoever goes on with their work waits for so long.
os.environ.setdefault("SAGE_LEASE_SECONDS", "5")

import hypothesis
import pytest

from sage_ray.startup import start_quickly

if TYPE_CHECKING:
    from emps_cases import EmpsFacts
    from node_cases import ClusterOfProcesses
    from postgres_cases import PostgresServer
    from s3_cases import S3Server

    from sage_ray.record.home import Home

start_quickly()
REPO = Path(__file__).resolve().parent.parent

# The same examples in every run, so that a change is judged by what it changes; no time limit an example, which a busy
# machine would break. `pytest --hypothesis-profile=explore` looks for new examples.
hypothesis.settings.register_profile("steady", derandomize=True, deadline=None)
hypothesis.settings.register_profile("explore", deadline=None)
hypothesis.settings.load_profile("steady")


SURROUNDINGS = ("SAGE_HOME", "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "RAY_ADDRESS")
SURROUNDINGS += ("MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID", "SAGE_OPTUNA_URL")
SURROUNDINGS += ("PGHOST", "PGPORT", "PGUSER", "PGDATABASE", "PGPASSWORD", "PGPASSFILE", "PGSERVICE", "PGOPTIONS")
for _name in SURROUNDINGS:
    # A user's servers and homes never leak into a test, nor into a fixture of a module or the session.
    os.environ.pop(_name, None)


@pytest.fixture(autouse=True)
def _clean_surroundings(request: pytest.FixtureRequest) -> Iterator[None]:
    """What one test leaves in the process never reaches the next, nor the fixtures of the next module.

    MLflow writes `set_tracking_uri` into the environment, and puts a loaded model's own copy of the package in front of
    `sys.path`; spawned processes inherit both. A TorchTrainer called in the main thread, as in some tests, leaves
    its handler of SIGINT and a connected Ray, by which later tests would count CPUs.
    """
    path = list(sys.path)
    ray = sys.modules.get("ray")
    if ray is not None and request.node.get_closest_marker("ray") is None and ray.is_initialized():
        ray.shutdown()
    # Also what fixtures of a module left, and where the tests run in the background of a shell.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    sys.path[:] = path
    for name in SURROUNDINGS:
        os.environ.pop(name, None)


@pytest.fixture(autouse=True, scope="module")
def _no_session_outlives_its_module() -> Iterator[None]:
    """The threads that show this process alive in each home that a test has made end with the tests of the module.

    There would be hundreds by the end, each writing twice a second: a third of the time of both processors.
    """
    yield
    leases = sys.modules.get("sage_ray.leases")
    if leases is not None:
        leases.end_sessions(wait_s=1.0)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A fresh, writable home of this test alone."""
    from sage_ray.record.home import Home

    return Home(tmp_path / "home")


@pytest.fixture(scope="module")
def connected() -> Iterator[None]:
    """A local Ray that a module's sweeps and final trainings take as it is, since each start of one takes seconds.

    What they do with a Ray of their own is seen where they are commands.
    """
    from sage_ray.runtime.ray_cluster import connect, disconnect
    from sage_ray.search.ray_session import environment

    with environment():
        connect()
    yield
    disconnect()


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    """A Postgres server of a module's tests; one that stops it starts it again."""
    from postgres_cases import postgres_server

    with postgres_server() as server:
        yield server


@pytest.fixture(scope="module")
def s3_of_module() -> Iterator[S3Server]:
    """A server of the S3 protocol, as a module's tests share it."""
    from s3_cases import s3_server

    with s3_server() as server:
        yield server


@pytest.fixture
def s3(s3_of_module: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """That server as this process reaches it, with no request counted yet and none refused."""
    from s3_cases import use

    from sage_ray.stages import store

    use(s3_of_module, monkeypatch)
    monkeypatch.setattr(store, "SECOND_LOOK_S", 0.05)
    s3_of_module.requests.clear()
    yield s3_of_module
    s3_of_module.refuse = lambda method, path: None


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterOfProcesses]:
    """A cluster whose nodes are processes of this machine, which a test starts and ends."""
    from node_cases import cluster_of_processes

    with cluster_of_processes(monkeypatch, tmp_path_factory) as made:
        yield made


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run a script's main in this process with a command line."""

    def call(module: object, *words: str | Path) -> int:
        start = f"from {getattr(module, '__name__', '')} import main\n"
        path = next(path for path in (REPO / "analysis").glob("*.py") if start in path.read_text(encoding="utf-8"))
        monkeypatch.setattr(sys, "argv", [str(path), *map(str, words)])
        code: int = module.main()  # type: ignore[attr-defined]
        return code

    return call


@pytest.fixture(scope="session")
def repo() -> Path:
    """Root of the checkout."""
    return REPO


@pytest.fixture(scope="session")
def emps() -> Path:
    """Folder of real micrographs with masks: `SAGE_EMPS_DIR`, or the dozen of the repository.

    Tests that use it carry `@pytest.mark.real`, and hold on any part of the EMPS set.
    """
    folder = Path(os.environ.get("SAGE_EMPS_DIR") or REPO / "tests" / "data" / "emps")
    if not folder.is_dir():
        pytest.fail(f"no real micrographs at {folder}: set SAGE_EMPS_DIR to a folder with images/ and segmaps/")
    return folder


@pytest.fixture(scope="session")
def emps_facts(emps: Path) -> EmpsFacts | None:
    """What is known of the micrographs of `emps`; None if nothing is, as of another part of the set."""
    from emps_cases import EMPS_FACTS

    from sage_ray.data.pairs import folder_fingerprint

    return EMPS_FACTS.get(folder_fingerprint(emps)[0])


RAY = "tests that start Ray"


@functools.cache
def _group_of(path: str) -> str:
    """Which tests stay in one process: those of a module, since they share its fixtures, and all tests that start Ray.

    Ray takes all CPUs of the machine, and some of its tests count seconds or press Ctrl-C; two of them at a time take
    longer than one after the other. Tests on several nodes mostly wait: for servers that are away, for dead nodes.
    """
    text = (REPO / path).read_text(encoding="utf-8")
    if re.search(r"^pytestmark = .*\bpytest\.mark\.cluster\b", text, re.MULTILINE):
        return path
    marked = re.search(r"^(@|pytestmark = \[?)pytest\.mark\.ray\b", text, re.MULTILINE)
    return RAY if marked or path.startswith("tests/ray/") else path


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In several processes the tests that start Ray come first: they take longest."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: _group_of(item.nodeid.split("::")[0]) != RAY)


NICENESS = 15
"""Of the processes that share the machine with those that start Ray: its workers have it too, its drivers have 0."""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Beside tests that start Ray, which are the longest chain, others take the time that these leave."""
    if not hasattr(item.config, "workerinput") or item.get_closest_marker("cluster") is not None:
        return
    if _group_of(item.nodeid.split("::")[0]) != RAY and os.getpriority(os.PRIO_PROCESS, 0) < NICENESS:
        os.setpriority(os.PRIO_PROCESS, 0, NICENESS)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Spread groups of tests over processes, in the order of collection.

    xdist's own `--dist loadgroup` groups by a private attribute that pytest 9.2 does not have any more.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _group_of(nodeid.split("::")[0])

    return Groups(config, log)


# What these tests need lies in the repository, so that a skip could only hide that formulas or real data went unseen.
NEVER_SKIP = ("golden", "real")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A skipped test that is marked golden or real has failed."""
    report = yield
    marks = [name for name in NEVER_SKIP if item.get_closest_marker(name)]
    if report.skipped and marks and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"a test marked {' and '.join(marks)} never skips, but: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A module that skips as a whole has failed if it holds such tests."""
    report = yield
    if report.skipped and isinstance(collector, pytest.Module):
        source = collector.path.read_text(encoding="utf-8")
        marked = "golden" in collector.path.parts or any(f"mark.{name}" in source for name in NEVER_SKIP)
        if marked:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
            report.outcome = "failed"
            report.longrepr = f"{collector.path}: tests marked golden or real never skip, but: {reason}"
    return report
