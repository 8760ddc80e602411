"""`make demo`: its commands run in a terminal, live where a person looks, as plain lines where nobody does."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from terminals import BAR, Terminal
from tiny_cases import SMALLEST, as_sets

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "demo.py"
WRITTEN = (
    b"\x1b[?25lepoch 1\r\x1b[2K\x1b[1Aepoch 2\r\n\x1b[?25hrun COMPLETE\r\nout: there\r\nnext: sage-ray best\r\n"
    b"  or: sage-ray stop\r\nnearly {\r\n\r\nreport: here\r\n" + b'{"verb": "x", "ok": true}\r\n'
)
SHOWN = b"\x1b[?25lepoch 1\r\x1b[2K\x1b[1Aepoch 2\r\n\x1b[?25hrun COMPLETE\r\nnearly {\r\n\r\nreport: here\r\n"
STEP = f"""
import os, sys
sys.path.insert(0, {str(SCRIPT.parent)!r})
import demo
from pathlib import Path
demo.HOME = Path(sys.argv[1])
answer = demo.Demo().sage(sys.argv[2])
print("answered", answer["state"], answer["epoch"])
"""


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("demo", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["demo"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_the_sieve_shows_what_a_person_needs_however_the_bytes_come(demo: ModuleType, size: int) -> None:
    sieve = demo.Sieve()
    passed = b"".join(sieve(WRITTEN[k : k + size]) for k in range(0, len(WRITTEN), size)) + sieve.end()
    assert passed == SHOWN and sieve.answer == {"verb": "x", "ok": True}
    only = demo.Sieve("report: ")
    passed = b"".join(only(WRITTEN[k : k + size]) for k in range(0, len(WRITTEN), size)) + only.end()
    assert b"report: here" in passed and b"COMPLETE" not in passed and only.answer["ok"]


def test_a_picture_without_an_end_of_line_is_not_held_back(demo: ModuleType) -> None:
    sieve = demo.Sieve()
    assert sieve(b"\x1b[2Kpretrain 1/3 ETA 0:01") == b"\x1b[2Kpretrain 1/3 ETA 0:01"
    assert sieve(b"\r\x1b[2Kpretrain 2/3") == b"\r\x1b[2Kpretrain 2/3"
    assert sieve(b"\r\nnext") == b"\r\n" and sieve(b" line") == b"next line" and sieve.end() == b""


def test_a_piped_demo_prints_what_a_terminal_would_be_left_with(
    demo: ModuleType, capfd: pytest.CaptureFixture[str]
) -> None:
    window = demo.UnseenTerminal()
    for data in (b"said\r\npretrain 1/2", b"\r\x1b[2Kpretrain 2/2", b"\r\n\x1b[1m" + b"x" * 300 + b"\x1b[0m\r\n"):
        window.show(data)
    window.show(b"".join(b"%d\r\n" % k for k in range(50)))
    window.close()
    lines = capfd.readouterr().out.splitlines()
    assert lines == ["  said", "  pretrain 2/2", "  " + "x" * 300, *(f"  {k}" for k in range(50))]


def test_a_step_is_live_in_a_terminal_and_plain_in_a_pipe(
    tmp_path: Path, demo: ModuleType, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = SMALLEST | {"pretrain.epochs": 2, "adversarial.epochs": 6}
    words = "train --preset tiny_sage_gan --run-id r " + " ".join(f"--set '{text}'" for text in as_sets(chosen))
    with Terminal(["-c", STEP, tmp_path / "home", words], program=(sys.executable,)) as terminal:
        terminal.until(r"^\[1/14\] sage-ray train --preset")
        terminal.until(BAR)
        terminal.resize(60, 24)
        assert terminal.end() == 0, terminal.screen
    assert any(re.search(r"8/8 .*ETA 0:00", line) for line in terminal.screen)
    assert "answered COMPLETE 8" in terminal.screen and terminal.emulator.cursor_visible
    assert not any("verb" in line or line.startswith("next") for line in terminal.screen)

    monkeypatch.setattr(demo, "HOME", tmp_path / "home")
    assert demo.Demo().sage("resume r")["epoch"] == 8
    out = capfd.readouterr().out
    first, data, ended = out.splitlines()[:3]
    assert first == "[1/14] sage-ray resume r" and data.startswith("  data: drawn particles") and "next:" not in out
    assert ended.startswith("  r COMPLETE: 8 epochs")
    assert "\x1b" not in out and "\r" not in out


def test_a_step_that_fails_ends_the_demo(
    tmp_path: Path, demo: ModuleType, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "HOME", tmp_path)
    with pytest.raises(demo.DemoFailed, match="`sage-ray status nothing` ended with 2"):
        demo.Demo().sage("status nothing")
    assert "no such study, run or final training: nothing" in capfd.readouterr().out
