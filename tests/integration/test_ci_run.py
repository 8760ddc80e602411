""".ci/run: a clone with nothing beside it, the exit code of what failed, and no folder left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
MAKEFILE = """\
setup lint test test-cluster:
\t@echo "$@ in $$PWD beside $$(ls ..) with $$(cat word)" >> $(LOG)
\t@echo "$@ was run"
\t@if [ "$@" = "$(FAIL)" ]; then exit 3; fi
\t@if [ "$@" = "$(HANG)" ]; then sleep 600; fi
"""
IDENTITY = ("-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false")


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", *IDENTITY, *words], cwd=folder, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A small repository with this .ci/run and a Makefile that tells what was asked of it; `shared` lies beside it."""
    folder = tmp_path / "outer" / "repo"
    (folder / ".ci").mkdir(parents=True)
    (folder.parent / "shared").mkdir()
    (folder / ".ci" / "run").write_bytes((REPO / ".ci" / "run").read_bytes())
    (folder / ".ci" / "run").chmod(0o755)
    (folder / "Makefile").write_text(MAKEFILE)
    (folder / "word").write_text("committed")
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "first")
    return folder


def _heed_signals() -> None:
    """Under nohup, or in the background of a shell, they are ignored, and a shell cannot trap what it inherits so."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start .ci/run of a checkout, without a git identity and with a temporary folder of its own."""
    (tmp_path / "tmp").mkdir()
    (tmp_path / "nobody").mkdir()

    def run(folder: Path, **extra: str) -> subprocess.Popen[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "MAKE"))}
        own = {"TMPDIR": str(tmp_path / "tmp"), "HOME": str(tmp_path / "nobody"), "LOG": str(tmp_path / "log")}
        words = {"CI": "true", "FAIL": "", "HANG": ""} | extra
        return subprocess.Popen(
            ["bash", str(folder / ".ci" / "run")],
            cwd=tmp_path,
            env=kept | own | words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=_heed_signals,
        )

    return run


def ran(tmp_path: Path) -> list[str]:
    path = tmp_path / "log"
    return path.read_text().splitlines() if path.exists() else []


def test_lint_and_tests_run_in_a_clone_with_nothing_beside_it(
    checkout: Path, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    child = start(checkout)
    out = child.communicate(timeout=60)[0]
    assert child.returncode == 0, out
    lines = ran(tmp_path)
    assert [line.split()[0] for line in lines] == ["setup", "lint", "test", "test-cluster"]
    assert all("beside repo with committed" in line and str(tmp_path / "tmp") in line for line in lines), lines
    assert out.splitlines()[-1] == "test-cluster was run" and git(checkout, "rev-parse", "HEAD") in out
    assert not list((tmp_path / "tmp").iterdir()) and git(checkout, "status", "--porcelain") == ""


def test_what_is_not_committed_is_not_tested_and_said(
    checkout: Path, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    (checkout / "word").write_text("changed")
    for number in range(2000):
        (checkout / f"new-{number:04}-with-a-name-that-is-long-enough-to-fill-a-pipe").touch()
    child = start(checkout)
    out = child.communicate(timeout=60)[0]
    assert child.returncode == 0 and all("with committed" in line for line in ran(tmp_path))
    assert "not committed, so not tested" in out and " M word" in out and out.count("?? new") == 4


@pytest.mark.parametrize("fails", ["setup", "lint", "test", "test-cluster"])
def test_what_fails_ends_it_with_its_exit_code(
    fails: str, checkout: Path, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    child = start(checkout, FAIL=fails)
    child.communicate(timeout=60)
    assert child.returncode == 2 and ran(tmp_path)[-1].split()[0] == fails  # 2 is make's, whatever its recipe gave
    assert not list((tmp_path / "tmp").iterdir())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_at_once_and_leaves_nothing(
    number: signal.Signals, checkout: Path, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    child = start(checkout, HANG="test")
    deadline = time.monotonic() + 60
    while len(ran(tmp_path)) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    child.send_signal(number)
    child.communicate(timeout=120)  # what hangs would go on for far longer
    assert child.returncode == 128 + number
    assert not list((tmp_path / "tmp").iterdir())


def shallow(checkout: Path) -> Path:
    (checkout / "word").write_text("second")
    git(checkout, "commit", "-q", "-am", "second")
    other = checkout.parent / "shallow"
    git(checkout, "clone", "-q", "--depth", "1", f"file://{checkout}", str(other))
    return other


def detached(checkout: Path) -> Path:
    (checkout / "word").write_text("second")
    git(checkout, "checkout", "-q", "--detach")
    git(checkout, "commit", "-q", "-am", "second")
    return checkout


def worktree(checkout: Path) -> Path:
    other = checkout.parent / "worktree"
    git(checkout, "worktree", "add", "-q", "-b", "side", str(other))
    (other / "word").write_text("second")
    git(other, "commit", "-q", "-am", "second")
    return other


@pytest.mark.parametrize("kind", [shallow, detached, worktree])
def test_every_kind_of_checkout_tests_its_own_commit(
    kind: Callable[[Path], Path], checkout: Path, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    folder = kind(checkout)
    child = start(folder)
    out = child.communicate(timeout=60)[0]
    assert child.returncode == 0, out
    assert len(ran(tmp_path)) == 4 and all("with second" in line for line in ran(tmp_path)), ran(tmp_path)


def test_from_a_hook_of_git(checkout: Path, start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    """Git exports its own folder to hooks; the clone must not write there."""
    child = start(checkout, GIT_DIR=str(checkout / ".git"), GIT_INDEX_FILE=str(checkout / ".git" / "index"))
    out = child.communicate(timeout=60)[0]
    assert child.returncode == 0 and len(ran(tmp_path)) == 4, out
    assert git(checkout, "status", "--porcelain") == ""


def test_without_git_it_runs_in_place(
    checkout: Path, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    (checkout / ".git").rename(tmp_path / "gone")
    child = start(checkout)
    out = child.communicate(timeout=60)[0]
    assert child.returncode == 0 and "tested in place" in out
    begun = [line for line in ran(tmp_path) if line.startswith(("setup", "lint", "test"))]
    assert len(begun) == 4 and all(f" in {checkout} " in line for line in begun)
