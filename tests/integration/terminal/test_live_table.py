"""The live table of a program in a real terminal."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

from terminals import Terminal


def show(code: str, tmp_path: Path) -> Terminal:
    """A program of these lines in a terminal of 100 x 30."""
    script = tmp_path / "show.py"
    script.write_text(textwrap.dedent(code), encoding="utf-8")
    return Terminal([script], 100, 30, program=(sys.executable,), deadline_s=60)


def test_what_others_print_stands_above_the_live_table(tmp_path: Path) -> None:
    program = """
        import sys
        from types import SimpleNamespace as S
        from sage_ray.terminal.progress import LiveWatch, make_watch
        watch = make_watch()
        assert isinstance(watch, LiveWatch)
        tuned = {"adversarial.lambda_cycle": 2.5}
        trials = [S(number=0, state="COMPLETE", epoch=24, value=0.8125, params=tuned)]
        watch.update(S(study="demo", done=1, pruned=0, failed=0, running=0, trials=trials, target=1))
        print("printed by somebody")
        print("warned by somebody", file=sys.stderr)
        watch.close(); watch.close()
        print("after")
        """
    with show(program, tmp_path) as terminal:
        assert terminal.end() == 0, terminal.screen
    assert terminal.screen[:2] == ["printed by somebody", "warned by somebody"]
    assert terminal.screen[3].split() == ["*0", "COMPLETE", "24/24", "0.8125", "2.5"]
    assert terminal.screen[4:6] == ["demo: 1 of 1 done, 0 pruned, 0 failed, 0 running, ETA -", "after"]
    assert b"\x1b[?25l" in terminal.raw and terminal.emulator.cursor_visible, "the cursor comes back"


def test_a_dumb_terminal_gets_plain_lines(tmp_path: Path) -> None:
    program = """
        import os
        os.environ["TERM"] = "dumb"
        from sage_ray.terminal.progress import make_watch
        make_watch().line("one event")
        """
    with show(program, tmp_path) as terminal:
        assert terminal.end() == 0 and terminal.raw == b"one event\r\n"
