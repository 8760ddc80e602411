"""Progress: what a person sees on a terminal (a real pseudo-terminal), and what a log file gets."""

from __future__ import annotations

import io
import os
import pty
import re
import select
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sage_ray import console

CONTROL = re.compile(r"[^\n -~]")
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def trial(number: int, state: str, epoch: int = 0, value: float | None = None, **params: Any) -> dict[str, Any]:
    return {"number": number, "params": params, "value": value, "state": state, "epoch": epoch, "weights_sha": None}


def study(*trials: dict[str, Any], target: int = 4) -> SimpleNamespace:
    states = [t["state"] for t in trials]
    counts = {"done": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL", "running": "RUNNING"}
    numbers = {name: states.count(state) for name, state in counts.items()}
    return SimpleNamespace(study="demo", trials=list(trials), target=target, **numbers)


def report(epoch: int, **more: Any) -> dict[str, Any]:
    phase = "pretrain" if epoch <= 2 else "adversarial"
    scores = {"val/dice": 0.5 + epoch / 100, "val/f1_object_50": 0.25, "val/loss": 1.5}
    return {"epoch": epoch, "phase": phase, "seconds": 2.0, "replayed": False, **scores, **more}


def plain_lines(act: Any) -> list[str]:
    stream = io.StringIO()
    watch = console.make_watch(stream=stream)
    act(watch)
    watch.close()
    text = stream.getvalue()
    assert not CONTROL.search(text)
    return text.splitlines()


def test_a_log_gets_one_line_for_each_change_of_a_trial_and_none_for_an_epoch() -> None:
    def act(watch: console.Watch) -> None:
        watch.update(study(trial(0, "RUNNING")))
        for epoch in range(1, 5):
            watch.update(study(trial(0, "RUNNING", epoch, 0.5)))
        watch.update(study(trial(0, "COMPLETE", 5, 0.8125), trial(1, "RUNNING", **{"adversarial.lambda_cycle": 2.0})))
        watch.update(study(trial(0, "COMPLETE", 5, 0.8125), trial(1, "FAIL", 2)))

    lines = plain_lines(act)
    assert len(lines) == 4
    assert lines[0] == "trial 0 RUNNING untuned base"
    assert lines[1].startswith("trial 0 COMPLETE epoch 5 score 0.8125 | 1 of 4 done, 0 pruned, 0 failed, 1 running")
    assert lines[2] == "trial 1 RUNNING lambda_cycle=2"
    assert "trial 1 FAIL epoch 2 score -" in lines[3]


def test_a_log_gets_one_line_an_epoch_with_its_scores() -> None:
    lines = plain_lines(lambda watch: [watch.epoch(report(e), 10) for e in (1, 2, 3)])
    assert lines[0].startswith("epoch 1/10 pretrain dice 0.5100")
    assert lines[2].startswith("epoch 3/10 adversarial dice 0.5300") and " 2.00 s ETA " in lines[2]


def test_epochs_that_came_from_the_store_are_one_line() -> None:
    lines = plain_lines(lambda watch: [watch.epoch(report(e, replayed=e < 4), 5) for e in (1, 2, 3, 4)])
    assert lines[0] == "epochs 1 to 3 of 5, dice 0.5300  f1_object_50 0.2500  loss 1.5000 (from the stage store)"
    assert lines[1].startswith("epoch 4/5 adversarial") and len(lines) == 2
    whole = plain_lines(lambda watch: [watch.epoch(report(e, replayed=True), 3) for e in (1, 2, 3)])
    assert whole[0].startswith("epochs 1 to 2 of 3") and "epoch 3/3" in whole[1] and len(whole) == 2


def test_control_characters_of_others_never_reach_a_log() -> None:
    lines = plain_lines(lambda watch: watch.line("\x1b[31mred\x07 and\ttab\nsecond"))
    assert lines == [" [31mred  and tab second"]


def test_quiet_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    watch = console.make_watch(quiet=True)
    watch.line("event")
    watch.update(study(trial(0, "RUNNING")))
    watch.epoch(report(1), 2)
    watch.close()
    assert capsys.readouterr() == ("", "")


def test_remaining_time_of_a_trial_and_of_a_study() -> None:
    now = [0.0]
    pace = console.Pace(clock=lambda: now[0])
    assert pace.of_trial(trial(0, "RUNNING", 2), 10) is None
    now[0] = 6.0
    assert pace.of_trial(trial(0, "RUNNING", 5), 10) == pytest.approx(10.0)
    assert pace.of_study(3, 8) is None  # an earlier session ended these
    now[0] = 10.0
    assert pace.of_study(5, 8) == pytest.approx(3 * 10.0 / 2)
    assert pace.of_study(5, None) is None


def test_the_pace_of_a_run_forgets_epochs_that_came_from_the_store() -> None:
    clock = console.RunClock()
    assert clock.remaining(report(1, replayed=True, seconds=60.0), 4) is None
    assert clock.remaining(report(2, replayed=True), 4) is None
    assert clock.remaining(report(3), 4) < 1.0
    # The next seed begins: the first one's pace does not count, nor the pause between them.
    assert clock.remaining(report(1, seconds=5.0), 4) == 15.0


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "-"), (float("nan"), "-"), (7.4, "0:07"), (750, "12:30"), (10921, "3:02:01")]
)
def test_durations(seconds: float | None, text: str) -> None:
    assert console.duration(seconds) == text


def test_the_best_trial_follows_the_direction_and_ignores_unfinished_ones() -> None:
    trials = (
        trial(0, "COMPLETE", 5, 0.7),
        trial(1, "COMPLETE", 5, 0.9),
        trial(2, "PRUNED", 3, 0.99),
        trial(3, "FAIL", 1),
    )
    assert console.best_trial(study(*trials)) == 1
    lower = study(*trials)
    lower.direction = "minimize"
    assert console.best_trial(lower) == 0
    assert console.best_trial(study(trial(0, "RUNNING"))) is None


def in_terminal(code: str, tmp_path: Path, columns: int = 100, rows: int = 30) -> str:
    """All that a program writes to a pseudo-terminal of this size, bounded in time."""
    script = tmp_path / "show.py"
    script.write_text(textwrap.dedent(code), encoding="utf-8")
    main, side = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": str(rows)}
    shown, deadline = b"", time.monotonic() + 60
    with subprocess.Popen(
        [sys.executable, str(script)], stdin=side, stdout=side, stderr=side, env=environment
    ) as process:
        os.close(side)
        while time.monotonic() < deadline:
            ready, _, _ = select.select([main], [], [], 0.2)
            if not ready:
                continue
            try:
                chunk = os.read(main, 65536)
            except OSError:  # Linux: the other end is closed
                break
            if not chunk:
                break
            shown += chunk
        else:
            process.kill()
    os.close(main)
    assert process.returncode == 0, shown.decode()
    return shown.decode()


def last_picture(shown: str) -> str:
    """What stands on the screen at the end: text after the last move of the cursor to the top of the picture."""
    return ESCAPE.sub("", re.split(r"\x1b\[1A", shown)[-1]).replace("\r", "")


def test_a_terminal_gets_a_live_table(tmp_path: Path) -> None:
    shown = in_terminal(
        """
        import time
        from types import SimpleNamespace as S
        from sage_ray.console import LiveWatch, make_watch
        watch = make_watch()
        assert isinstance(watch, LiveWatch)
        def study(epoch, state, value):
            tuned = {"adversarial.lambda_cycle": 2.5}
            trials = [S(number=0, state="COMPLETE", epoch=24, value=0.8125, params={}),
                      S(number=1, state=state, epoch=epoch, value=value, params=tuned)]
            return S(study="demo", done=1 + (state == "COMPLETE"), pruned=0, failed=0, running=int(state == "RUNNING"),
                     trials=trials, target=2)
        watch.line("an event [with brackets]")
        for epoch in (1, 12):
            watch.update(study(epoch, "RUNNING", 0.5)); time.sleep(0.3)
        watch.update(study(24, "COMPLETE", 0.9))
        watch.close(); watch.close()
        print("after")
        """,
        tmp_path,
    )
    text = ESCAPE.sub("", shown)
    assert "an event [with brackets]" in text
    assert re.search(r"1 +RUNNING +12/24 +0\.5000 +0:\d\d +lambda_cycle=2\.5", text)
    assert re.search(r"\*1 +COMPLETE +24/24 +0\.9000", text)
    assert "demo: 2 of 2 done, 0 pruned, 0 failed, 0 running, ETA 0:00" in text
    assert "\x1b[?25l" in shown and shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l"), "the cursor comes back"
    assert text.rstrip().endswith("after")


def test_a_terminal_gets_a_bar_for_a_run_that_fits_its_width(tmp_path: Path) -> None:
    shown = in_terminal(
        """
        import time
        from sage_ray.console import make_watch
        watch = make_watch()
        for epoch in range(1, 5):
            phase = "pretrain" if epoch < 3 else "adversarial"
            scores = {"val/dice": epoch / 8, "seconds": 0.1, "synthetic_steps": 3}
            watch.epoch({"epoch": epoch, "phase": phase, **scores}, 4)
        watch.close()
        """,
        tmp_path,
    )
    text = ESCAPE.sub("", shown)
    assert re.search(r"pretrain +\S+ +1/4 dice 0\.1250 +synthetic 3 ETA 0:00", text)
    assert re.search(r"adversarial +\S+ +4/4 dice 0\.5000", text)
    assert all(len(line) <= 100 for line in re.split(r"[\r\n]+", text))


def test_a_dumb_terminal_gets_plain_lines(tmp_path: Path) -> None:
    shown = in_terminal(
        """
        import os
        os.environ["TERM"] = "dumb"
        from sage_ray.console import make_watch
        make_watch().line("one event")
        """,
        tmp_path,
    )
    assert shown == "one event\r\n"


def test_parameters_with_the_same_last_name_stay_apart() -> None:
    text = console.params_text({"pretrain.lr": 1e-3, "adversarial.lr": 5e-4, "adversarial.lambda_cycle": 2.0})
    assert text == "pretrain.lr=0.001 adversarial.lr=0.0005 lambda_cycle=2"
    assert console.params_text({}) == "untuned base"
