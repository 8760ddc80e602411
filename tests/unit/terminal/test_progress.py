"""Progress: what a person sees on a terminal (a real pseudo-terminal), and what a log file gets."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import re
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from terminals import BAR, ROW, Emulator, Screen, set_size

from sage_ray.terminal import display, progress

CONTROL = re.compile(r"[^\n -~]")


def trial(number: int, state: str, epoch: int = 0, value: float | None = None, **params: Any) -> dict[str, Any]:
    return {"number": number, "params": params, "value": value, "state": state, "epoch": epoch, "weights_sha": None}


def study(*trials: dict[str, Any], target: int = 4) -> SimpleNamespace:
    states = [t["state"] for t in trials]
    counts = {"done": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL", "running": "RUNNING"}
    numbers = {name: states.count(state) for name, state in counts.items()}
    return SimpleNamespace(study="demo", trials=list(trials), target=target, **numbers)


def report(epoch: int, **more: Any) -> dict[str, Any]:
    phase = "pretrain" if epoch <= 2 else "adversarial"
    scores = {"val/dice": 0.5 + epoch / 1000, "val/f1_object_50": 0.25, "val/loss": 1.5}
    return {"epoch": epoch, "phase": phase, "seconds": 2.0, "replayed": False, **scores, **more}


def plain_lines(act: Any) -> list[str]:
    stream = io.StringIO()
    watch = progress.make_watch(stream=stream)
    act(watch)
    watch.close()
    text = stream.getvalue()
    assert not CONTROL.search(text)
    return text.splitlines()


def test_a_log_gets_one_line_for_each_change_of_a_trial_and_none_for_an_epoch() -> None:
    def act(watch: progress.Watch) -> None:
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


def test_a_log_gets_the_epochs_of_a_short_run_with_their_scores() -> None:
    lines = plain_lines(lambda watch: [watch.epoch(report(e), 10) for e in (1, 2, 3)])
    assert lines[0].startswith("epoch 1/10 pretrain dice 0.5010")
    assert lines[2].startswith("epoch 3/10 adversarial dice 0.5030") and " 2.00 s ETA " in lines[2]


def epochs_told(lines: list[str]) -> list[int]:
    return [int(match[1]) for line in lines if (match := re.match(r"epoch (\d+)/", line))]


@pytest.mark.parametrize("total", [1, 9, 31, 700])
def test_a_log_gets_each_tenth_of_a_run_and_of_the_next(total: int) -> None:
    lines = plain_lines(lambda watch: [watch.epoch(report(e), total) for _ in range(2) for e in range(1, total + 1)])
    told = epochs_told(lines)[: len(lines) // 2]
    assert epochs_told(lines) == told * 2 and told[0] == 1 and told[-1] == total
    assert (
        len(told) == min(total, 11)
        and max(b - a for a, b in zip(told, told[1:] + [total], strict=True)) <= total // 10 + 1
    )


def test_a_log_of_long_epochs_is_never_silent_for_long() -> None:
    now, stream = [0.0], io.StringIO()
    watch = progress.PlainWatch(stream, clock=lambda: now[0])
    for epoch in range(1, 41):
        now[0] += 250.0
        watch.epoch(report(epoch), 1000)
    assert epochs_told(stream.getvalue().splitlines()) == list(range(1, 41, 3))


def test_a_run_that_goes_on_tells_its_stored_epochs_once_and_then_tenths() -> None:
    lines = plain_lines(lambda watch: [watch.epoch(report(e, replayed=e <= 45), 100) for e in range(1, 101)])
    assert lines[0].startswith("epochs 1 to 45 of 100") and epochs_told(lines) == [46, 50, 60, 70, 80, 90, 100]


def test_epochs_that_came_from_the_store_are_one_line() -> None:
    lines = plain_lines(lambda watch: [watch.epoch(report(e, replayed=e < 4), 5) for e in (1, 2, 3, 4)])
    assert lines[0] == "epochs 1 to 3 of 5, dice 0.5030  f1_object_50 0.2500  loss 1.5000 (from the stage store)"
    assert lines[1].startswith("epoch 4/5 adversarial") and len(lines) == 2
    whole = plain_lines(lambda watch: [watch.epoch(report(e, replayed=True), 3) for e in (1, 2, 3)])
    assert whole[0].startswith("epochs 1 to 2 of 3") and "epoch 3/3" in whole[1] and len(whole) == 2


def test_runs_side_by_side_are_told_apart_in_a_log() -> None:
    def both(watch: progress.PlainWatch) -> None:
        for epoch in range(1, 101):
            for name in ("s0", "s1"):
                watch.epoch(report(epoch, replayed=name == "s1" and epoch <= 45), 100, name)

    lines = plain_lines(both)
    mine = [line.removeprefix("s0 ") for line in lines if line.startswith("s0 ")]
    theirs = [line.removeprefix("s1 ") for line in lines if line.startswith("s1 ")]
    assert len(mine) + len(theirs) == len(lines)
    assert epochs_told(mine) == [1, *range(10, 101, 10)] and epochs_told(theirs) == [46, *range(50, 101, 10)]
    assert theirs[0].startswith("epochs 1 to 45 of 100")


def test_control_characters_of_others_never_reach_a_log() -> None:
    lines = plain_lines(lambda watch: watch.line("\x1b[31mred\x07 and\ttab\nsecond"))
    assert lines == [" [31mred  and tab second"]


def test_quiet_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    watch = progress.make_watch(quiet=True)
    watch.line("event")
    watch.update(study(trial(0, "RUNNING")))
    watch.epoch(report(1), 2)
    watch.close()
    assert capsys.readouterr() == ("", "")


def test_remaining_time_of_a_trial_and_of_a_study() -> None:
    now = [0.0]
    pace = display.Pace(clock=lambda: now[0])
    assert pace.of_trial(trial(0, "RUNNING", 2), 10) is None
    now[0] = 6.0
    assert pace.of_trial(trial(0, "RUNNING", 5), 10) == pytest.approx(10.0)
    assert pace.of_study(3, 8) is None  # an earlier session ended these
    now[0] = 10.0
    assert pace.of_study(5, 8) == pytest.approx(3 * 10.0 / 2)
    assert pace.of_study(5, None) is None


def test_the_pace_of_a_run_forgets_epochs_that_came_from_the_store() -> None:
    clock = display.RunClock()
    assert clock.remaining(report(1, replayed=True, seconds=60.0), 4) is None
    assert clock.remaining(report(2, replayed=True), 4) is None
    assert clock.remaining(report(3, phase="pretrain"), 4) < 1.0
    # The next seed begins: the first one's pace does not count, nor the pause between them.
    assert clock.remaining(report(1, seconds=5.0), 4) == 15.0
    # Nor does the pace of phase 1 for phase 2.
    assert clock.remaining(report(3, seconds=7.0), 4) == 7.0


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "-"), (float("nan"), "-"), (7.4, "0:07"), (750, "12:30"), (10921, "3:02:01")]
)
def test_durations(seconds: float | None, text: str) -> None:
    assert display.duration(seconds) == text


def test_the_best_trial_follows_the_direction_and_ignores_unfinished_ones() -> None:
    trials = (
        trial(0, "COMPLETE", 5, 0.7),
        trial(1, "COMPLETE", 5, 0.9),
        trial(2, "PRUNED", 3, 0.99),
        trial(3, "FAIL", 1),
    )
    assert display.best_trial(study(*trials)) == 1
    lower = study(*trials)
    lower.direction = "minimize"
    assert display.best_trial(lower) == 0
    assert display.best_trial(study(trial(0, "RUNNING"))) is None


class OnTerminal:
    """A live watch on a pseudo-terminal within this process, and the screen that a person would see."""

    def __init__(self, columns: int, rows: int) -> None:
        self._main, side = pty.openpty()
        os.set_blocking(self._main, False)
        set_size(self._main, columns, rows)
        self.emulator = Emulator(columns, rows)
        self._stream = os.fdopen(side, "w", encoding="utf-8")
        self.watch = progress.LiveWatch(self._stream)

    def resize(self, columns: int, rows: int) -> None:
        self.screen()
        set_size(self._main, columns, rows)
        self.emulator.resize(columns, rows)

    def screen(self) -> Screen:
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._main, 65536):
                self.emulator.feed(data)
        return self.emulator.lines()

    def until_rows(self, number: int) -> Screen:
        deadline = time.monotonic() + 20
        while len([line for line in self.screen() if ROW.match(line)]) != number:
            assert time.monotonic() < deadline, self.screen()
            time.sleep(0.05)
        return self.screen()

    def end(self) -> Screen:
        self.watch.close()
        screen = self.screen()
        self._stream.close()
        os.close(self._main)
        return screen


@pytest.fixture
def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, int], OnTerminal]]:
    """Makes terminals; every update is drawn."""
    monkeypatch.setattr(progress, "REDRAW_S", 0.0)
    monkeypatch.setattr(progress, "LOOK_S", 0.02)
    monkeypatch.setenv("TERM", "xterm-256color")
    made: list[OnTerminal] = []

    def make(columns: int, rows: int) -> OnTerminal:
        made.append(OnTerminal(columns, rows))
        return made[-1]

    yield make
    for each in made:
        each.watch.close()


TUNED = (
    *("pretrain.lr", "adversarial.lr", "adversarial.lambda_cycle", "adversarial.mask_path"),
    *(f"segmentation_loss.{name}" for name in ("w_ce", "w_focal", "w_dice", "w_tversky", "alpha", "gamma")),
    "evaluation.ema_decay",
)


def long_study(number: int = 500) -> SimpleNamespace:
    """Trials of a study of eleven parameters, the last three running; the second is the best."""
    states = ["COMPLETE"] * (number - 3) + ["RUNNING"] * 3
    values = [{path: ((k + 3) * 37 % 101) / 7 for path in TUNED} for k in range(number)]
    trials = [trial(k, state, 123, 0.5 + k / 1e4, **values[k]) for k, state in enumerate(states)]
    trials[1]["value"] = 0.99
    found = study(*trials, target=600)
    found.epochs = 700
    return found


@pytest.mark.parametrize(("columns", "rows"), [(120, 40), (80, 24), (60, 24), (40, 24)])
def test_numbers_of_trials_are_whole_at_any_width(
    on_terminal: Callable[[int, int], OnTerminal], columns: int, rows: int
) -> None:
    terminal = on_terminal(columns, rows)
    terminal.watch.line("an event [with brackets]")
    terminal.watch.update(long_study())
    screen = terminal.end()
    found = [match for line in screen if (match := ROW.match(line))]
    assert screen[0] == "an event [with brackets]"
    assert screen[1].split()[:5] == ["trial", "state", "epoch", "score", "ETA"]
    assert len(found) == rows - 8, "as many trials as there is room for"
    assert [int(match["number"]) for match in found[:5]] == [499, 498, 497, 1, 496]
    assert [match["state"] for match in found[:4]] == ["RUNNING", "RUNNING", "RUNNING", "COMPLETE"]
    assert all((match["epoch"], match["total"]) == ("123", "700") for match in found)
    assert [match["score"] for match in found[:4]] == ["0.5499", "0.5498", "0.5497", "0.9900"]
    assert screen[5].lstrip().startswith("*1 ")
    told = " ".join(line for line in screen if line)
    assert "497 of 600 done, 0 pruned, 0 failed, 3 running, " in told and f"{500 - len(found)} not shown" in told
    shown = screen[1].split()[5:]
    shown = [name for name in shown if any(path.endswith(name) for path in TUNED)]
    hidden = re.search(r"\+(\d+)$", screen[1])
    assert columns < 60 or int(hidden[1] if hidden else 0) + len(shown) == len(TUNED)
    assert len(shown) >= {120: 5, 80: 2, 60: 1, 40: 0}[columns]


def test_only_parameters_that_vary_are_shown(on_terminal: Callable[[int, int], OnTerminal]) -> None:
    terminal = on_terminal(80, 24)
    same = {"pretrain.lr": 0.001, "adversarial.mask_path": "soft"}
    runs = [trial(k, "RUNNING", 0, None, arm="no_freeze" if k else "full", seed=k, **same) for k in range(2)]
    terminal.watch.update(study(*runs))
    screen = terminal.end()
    assert screen[0].split() == ["trial", "state", "epoch", "score", "ETA", "arm", "seed"]
    assert screen[1].split() == ["1", "RUNNING", "0", "-", "-", "no_freeze", "1"]


def test_a_terminal_that_changes_its_size_keeps_lines_and_numbers(
    on_terminal: Callable[[int, int], OnTerminal],
) -> None:
    terminal = on_terminal(120, 40)
    terminal.watch.line("said before")
    terminal.watch.update(long_study())
    assert any("not shown" in line for line in terminal.screen())
    for columns, rows in ((80, 24), (50, 12), (132, 50)):
        terminal.resize(columns, rows)
        # Nothing is told meanwhile: the watch sees the change itself.
        screen = terminal.until_rows(max(rows - 8, 3))
        assert screen[0] == "said before" and sum("state" in line for line in screen) == 1, screen
    terminal.watch.line("said after")
    assert [line for line in terminal.end() if "said" in line] == ["said before", "said after"]


def test_a_failing_trial_says_why_above_the_table(on_terminal: Callable[[int, int], OnTerminal]) -> None:
    terminal = on_terminal(80, 24)
    old = trial(0, "FAIL", 1) | {"error": "of an earlier session"}
    terminal.watch.update(study(old, trial(1, "RUNNING", 2)))
    terminal.watch.update(study(old, trial(1, "FAIL", 2) | {"error": "diverged at epoch 3"}))
    screen = terminal.end()
    assert screen[0] == "trial 1 FAIL epoch 2 score - (diverged at epoch 3)"
    assert not any("earlier session" in line for line in screen)


def test_the_table_goes_when_the_answer_tells_the_study_anew(on_terminal: Callable[[int, int], OnTerminal]) -> None:
    terminal = on_terminal(80, 24)
    terminal.watch.line("said")
    terminal.watch.update(study(trial(0, "COMPLETE", 2, 0.5)))
    terminal.watch.close(replaced=True)
    assert [line for line in terminal.end() if line] == ["said"]
    assert terminal.emulator.cursor_visible


@pytest.mark.parametrize(("columns", "rows"), [(120, 40), (80, 24), (60, 24), (40, 24)])
def test_the_bar_of_a_run_keeps_its_epochs(
    on_terminal: Callable[[int, int], OnTerminal], columns: int, rows: int
) -> None:
    for epoch, phase in ((12, "pretrain"), (123, "adversarial")):
        terminal = on_terminal(columns, rows)
        terminal.watch.epoch(report(epoch, phase=phase, synthetic_steps=1234, seconds=17.0), 700)
        screen = [line for line in terminal.end() if line]
        assert len(screen) == 1 and len(screen[0]) <= columns
        found = BAR.match(screen[0])
        assert found and (found["phase"], found["epoch"], found["total"]) == (
            phase if columns > 40 else phase[:3],
            str(epoch),
            "700",
        )
        assert found["eta"] == {12: "3:14:56", 123: "2:43:29"}[epoch] and "dice 0." in screen[0]
        assert ("f1_object_50" in screen[0]) == (columns >= 80) and ("loss" in screen[0]) == (columns >= 120)


@pytest.mark.parametrize(("columns", "rows"), [(120, 40), (40, 24)])
def test_runs_side_by_side_have_a_bar_each(
    on_terminal: Callable[[int, int], OnTerminal], columns: int, rows: int
) -> None:
    terminal = on_terminal(columns, rows)
    for epoch in range(1, 31):
        for seed in (10, 2, 0):
            if epoch <= 30 - seed:
                terminal.watch.epoch(report(epoch, phase="adversarial"), 30, f"s{seed}")
                terminal.screen()
    screen = [line for line in terminal.end() if line]
    found = [BAR.match(line) for line in screen]
    assert all(found) and all(len(line) <= columns for line in screen), screen
    assert [(m["seed"], m["epoch"]) for m in found if m] == [("0", "30"), ("2", "28"), ("10", "20")]


def test_a_terminal_without_utf_8_ends_no_run() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    watch = progress.PlainWatch(stream)
    watch.line("särö.tif is read")
    stream.seek(0)
    assert stream.read() == "s?r?.tif is read\n"


def test_parameters_with_the_same_last_name_stay_apart() -> None:
    text = display.params_text({"pretrain.lr": 1e-3, "adversarial.lr": 5e-4, "adversarial.lambda_cycle": 2.0})
    assert text == "pretrain.lr=0.001 adversarial.lr=0.0005 lambda_cycle=2"
    assert display.params_text({}) == "untuned base"


@pytest.mark.parametrize("width", [None, 200, 80, 40, 12, 1])
def test_long_lines_of_an_answer_break_between_columns_or_words(width: int | None) -> None:
    for text in (
        "val/dice 0.4126  val/iou 0.2659  val/precision 0.3306  val/f1_object_50 0.1111  val/f1_object_75 0.0000",
        "  rule: of the complete trials within one standard error of the top the cheapest: fewest epochs, then lowest",
        "  dice  0.9177 [0.8844, 0.9511]  Dice of foreground pixels, mean over images, both empty 1, as wide as it is",
    ):
        lines = display.wrapped(text, width)
        assert " ".join(text.split()) == " ".join(" ".join(lines).split()), "nothing is lost"
        assert width is None or all(len(line) <= width or len(line.split()) == 1 for line in lines)
        assert width != 200 or lines == [text]
        if width == 80 and "iou" in text:
            assert all(re.search(r" \d\.\d{4}$", line) for line in lines), "a score stays with its name"
