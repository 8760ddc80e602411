"""Every verb that shows progress, in a real terminal of 80 x 24 and of 120 x 40, Ctrl-C included."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import re
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from sweep_cases import BASE, TOO_MUCH, write_space
from terminals import BAR, ROW, Screen, Terminal
from tiny_cases import as_sets

from sage_ray.record.run_folder import RunFolder

# Each test is two sessions, most with a Ray of their own.
pytestmark = pytest.mark.timeout(600)

SMALL, LARGE = (80, 24), (120, 40)
EPOCHS, RUN_EPOCHS = 30, 20
"""Of a study and of a single run: seconds on an idle machine, to look, change the size and press Ctrl-C in time."""
LONG = BASE | {"adversarial.epochs": EPOCHS - 2}
RUN = BASE | {"adversarial.epochs": RUN_EPOCHS - 2}
ROW_BEGINS = re.compile(r"^ *\*?\d+ +[A-Z…]")
TALLY = re.compile(r": \d+ of \d+ done, .* running")
TOLD = "interrupted; go on with: sage-ray resume {} --home"


def rows(screen: Screen) -> dict[int, re.Match[str]]:
    """Rows of the table of trials by number; fails if one of them lacks a number or shows it cut."""
    found = [(line, ROW.match(line)) for line in screen if ROW_BEGINS.match(line)]
    assert all(match for _, match in found), screen
    return {int(match["number"]): match for _, match in found if match}


def check_tables(terminal: Terminal) -> None:
    """Every whole picture that was ever seen had whole numbers, fitted its terminal and had one table."""
    pictures = [screen for screen in terminal.screens if any(TALLY.search(line) for line in screen)]
    assert len(pictures) > 2
    for screen in pictures:
        rows(screen)
        assert sum(line.startswith("trial ") and " state " in line for line in screen) <= 1, screen


def check_ended(terminal: Terminal, code: int, *words: str) -> None:
    """The exit code, the words on the screen though lines wrap, no trace of a programming error, a visible cursor."""
    assert terminal.end() == code, terminal.screen
    text = "".join(terminal.emulator.everything())
    for word in words:
        assert word.replace(" ", "") in text.replace(" ", ""), terminal.emulator.everything()
    assert "Traceback" not in text and "Error" not in text, terminal.emulator.everything()
    assert terminal.emulator.cursor_visible


def both_sizes(terminal: Terminal, pattern: str, other: tuple[int, int]) -> tuple[Screen, Screen]:
    """A screen with the pattern at the size of the start, and one at the other size, to which the terminal changes."""
    first = terminal.until(pattern)
    width = terminal.emulator.screen.columns
    assert all(len(line) <= width for line in first)
    terminal.resize(*other)
    terminal.until_drawn()
    return first, terminal.until(pattern)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One home for all verbs: to make MLflow's database takes seconds. Seeds differ, so that each verb trains."""
    return tmp_path_factory.mktemp("h")


def sets(values: dict[str, object]) -> list[str]:
    return [word for text in as_sets(values) for word in ("--set", text)]


def test_train_and_resume_of_a_run(home: Path) -> None:
    words = ["--preset", "tiny_sage_gan", "--run-id", "r", "--home", home, *sets(RUN | {"seed": 5})]
    with Terminal(["train", *words], *SMALL) as terminal:
        first, second = both_sizes(terminal, BAR.pattern, LARGE)
        terminal.until(r"^adversarial .* \d+/20 ")
        terminal.press_ctrl_c()
        check_ended(terminal, 130, TOLD.format("r"))
    bars = [match for screen in terminal.screens for line in screen if (match := BAR.match(line))]
    assert {match["total"] for match in bars} == {str(RUN_EPOCHS)} and {match["phase"] for match in bars} >= {
        "adversarial"
    }
    assert any("dice 0." in line and "━" in line for line in first) and any("loss" in line for line in second)

    with Terminal(["resume", "r", "--home", home], *LARGE) as terminal:
        both_sizes(terminal, BAR.pattern, SMALL)
        check_ended(terminal, 0, "r COMPLETE: 20 epochs", "val/dice 0.", "next: sage-ray predict r")
    assert any(re.search("20/20 .*ETA 0:00", line) for line in terminal.screen)
    with Terminal(["sync", "--home", home], *SMALL) as terminal:
        check_ended(terminal, 0, "1 up to date")


@pytest.mark.ray
def test_sweep_and_resume_of_a_study(home: Path, tmp_path: Path) -> None:
    points = [{}, {"adversarial.lambda_cycle": TOO_MUCH}]
    path = write_space(tmp_path, base=LONG, trials=3, points=points, scheduler={"name": "fifo"})
    with Terminal(["sweep", path, "--home", home], *SMALL) as terminal:
        first, second = both_sizes(terminal, r"^ +0  RUNNING +[1-9]\d*/30 +0\.\d{4} ", LARGE)
        assert "lambda_cycle" in " ".join(first) and rows(first)[0]["total"] == rows(second)[0]["total"] == str(EPOCHS)
        terminal.press_ctrl_c()
        check_ended(terminal, 130, TOLD.format("tiny"), "SIGINT received")
    check_tables(terminal)

    with Terminal(["resume", "tiny", "--home", home], *LARGE) as terminal:
        both_sizes(terminal, r"^ +\*?\d  (RUNNING|COMPLETE) +[1-9]\d*/30 +0\.\d{4} ", SMALL)
        terminal.until(r"^ +\d  RUNNING +\d+/30 +0\.\d{4} +\d+:\d\d ")
        check_ended(
            terminal, 0, "tiny finished: 2 of 3 done, 0 pruned, 1 failed, 0 running", "next: sage-ray best tiny"
        )
    check_tables(terminal)
    # The answer tells the study anew, so the live table is gone.
    assert [rows(terminal.screen)[n]["state"] for n in (0, 1, 2)] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert sum("state" in line for line in terminal.screen) == 1


@pytest.mark.ray
def test_ablate_twice_interrupted_and_resume_of_an_ablation(home: Path, tmp_path: Path) -> None:
    arms = {"full": {}, "soft": {"set": {"adversarial.mask_path": "soft"}}}
    base = {"preset": "tiny_sage_gan", "set": LONG}
    tree = {"name": "ab", "base": base, "reference": "full", "arms": arms, "seeds": [3], "concurrency": 2}
    path = tmp_path / "ab.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    with Terminal(["ablate", path, "--home", home], *SMALL) as terminal:
        first, second = both_sizes(terminal, r"^ +0  RUNNING +[1-9]\d*/30 +0\.\d{4} .* full", LARGE)
        assert next(line for line in first if "state" in line).split()[5:] in (["arm"], ["arm", "seed"])
        terminal.press_ctrl_c()
        terminal.until("^interrupted: SIGINT received, once more ends at once")
        terminal.press_ctrl_c()
        check_ended(terminal, 130, TOLD.format("ab"))
    check_tables(terminal)

    with Terminal(["resume", "ab", "--home", home], *LARGE) as terminal:
        both_sizes(terminal, r"^ +\*?0  (RUNNING|COMPLETE) +\d+/30 +0\.\d{4} .* full", SMALL)
        check_ended(terminal, 0, "ab finished: 2 of 2 done", "locked test read by ab-soft-s3 (2 of 2 runs)")
    check_tables(terminal)
    assert any(re.match(r"full \* +1/1 +0 +0\.\d{4} +0\.\d{4}$", line) for line in terminal.screen)


@pytest.mark.ray
def test_final_and_resume_of_a_final_training(home: Path) -> None:
    """Its two seeds are trained side by side; Ctrl-C ends both, and both go on."""
    words = ["--preset", "tiny_sage_gan", "--seeds", "1,0", "--home", home, *sets(RUN)]
    with Terminal(["final", *words], *SMALL) as terminal:
        both_sizes(terminal, BAR.pattern, LARGE)
        for seed in (0, 1):
            terminal.until(rf"^s{seed} adversarial .* \d+/20 ")
        terminal.press_ctrl_c()
        assert terminal.end() == 130, terminal.emulator.everything()
        (name,) = (path.stem for path in (home / "finals").glob("*.json"))
        check_ended(terminal, 130, TOLD.format(name))
    before = {seed: RunFolder(home / "runs" / f"{name}-s{seed}").read() for seed in (0, 1)}
    assert {record.state for record in before.values()} == {"INTERRUPTED"}

    with Terminal(["resume", name, "--home", home], *LARGE) as terminal:
        both_sizes(terminal, BAR.pattern, SMALL)
        check_ended(terminal, 0, "registered models:/sage-gan/1", "next: sage-ray compare", "objectF1(IoU>.5)")
    for seed, was in before.items():
        now = RunFolder(home / "runs" / f"{name}-s{seed}").read()
        assert (now.state, now.attempt) == ("COMPLETE", 2) and was.epoch >= 1


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """(address on this machine, sha256) of a zip archive of one file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("images/a.txt", "a")
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "a.zip").write_bytes(buffer.getvalue())

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None: ...

    served = functools.partial(Quiet, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), served) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/a.zip", hashlib.sha256(buffer.getvalue()).hexdigest()
        server.shutdown()


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_data_fetch(archive: tuple[str, str], tmp_path: Path, size: tuple[int, int]) -> None:
    address, check_sum = archive
    with Terminal(["data", "fetch", address, tmp_path / "out", "--sha256", check_sum], *size) as terminal:
        check_ended(terminal, 0, f"fetching {address}", "fetched 0.0 MB", "1 files", "next: sage-ray data check")
