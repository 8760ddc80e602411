"""Which failures are a trial's own, and which are of all: the judges of failures and crashes, and of silent trials."""

from __future__ import annotations

from typing import Any

from sage_ray.search.crashes import Crashes
from sage_ray.search.faults import SHARED, Faults
from sage_ray.search.silence import EPOCHS, FIRST_S, LEAST_S, START_S, Silence


class Judged:
    def __init__(self, in_a_row: int | None = 10) -> None:
        self.failed: dict[int, str] = {}
        self.stops: list[str] = []
        self.faults = Faults(self.failed.__setitem__, self.stops.append, in_a_row)


def missing(number: int) -> str:
    return f"ModuleNotFoundError in s-t{number:04d}-s0: No module named 'sage_ray' at 0x{number:x}f"


def test_what_ends_all_trials_before_their_first_epoch_stops_the_study_and_costs_none() -> None:
    judged = Judged()
    for number in range(SHARED):
        assert not judged.stops
        judged.faults.failed(number, missing(number))
    assert "No module named" in judged.stops[0] and not judged.failed
    assert judged.faults.close(stopped=True) == list(range(SHARED))


def test_trials_that_fail_of_different_things_fail_each_of_its_own() -> None:
    judged = Judged()
    judged.faults.failed(0, missing(0))
    judged.faults.failed(1, "UserError: the weights of VGG19 are missing")
    assert set(judged.failed) == {0, 1} and not judged.stops


def test_one_trial_that_trains_shows_that_the_others_failed_by_themselves() -> None:
    judged = Judged()
    judged.faults.failed(0, missing(0))
    judged.faults.failed(1, missing(1))
    assert not judged.failed
    judged.faults.epoch(2)
    assert set(judged.failed) == {0, 1}
    for number in range(3, 3 + SHARED):
        judged.faults.failed(number, missing(number))
    assert not judged.stops and len(judged.failed) == 2 + SHARED


def test_a_study_of_few_trials_that_all_fail_ends_with_failed_trials() -> None:
    judged = Judged()
    judged.faults.failed(0, missing(0))
    assert judged.faults.close(stopped=False) == [] and set(judged.failed) == {0}


def test_failures_in_a_row_stop_a_study_and_one_good_trial_begins_the_count_anew() -> None:
    judged = Judged(in_a_row=3)
    judged.faults.epoch(0)
    for number in (1, 2):
        judged.faults.failed(number, "diverged")
    judged.faults.ended_well()
    for number in (3, 4):
        judged.faults.failed(number, "diverged")
    assert not judged.stops
    judged.faults.failed(5, "diverged")
    assert "3 trials in a row failed" in judged.stops[0] and set(judged.failed) == {1, 2, 3, 4, 5}
    never = Judged(in_a_row=None)
    never.faults.epoch(0)
    for number in range(1, 50):
        never.faults.failed(number, "diverged")
    assert not never.stops


class FakeTrial:
    """What the watch reads of a trial of Tune's, whose actor is gone."""

    def __init__(self, name: str, status: str = "RUNNING") -> None:
        self.trial_id, self.status, self.config = name, status, {"number": 0}
        self.temporary_state = type("State", (), {"ray_actor": None})()
        self.run_metadata = type("Metadata", (), {"num_failures": 0})()
        self.max_failures = 2


def test_silence_is_judged_by_the_studys_own_epochs_or_by_the_setting() -> None:
    now = [0.0]
    said: list[str] = []
    silence = Silence(None, said.append, Crashes(lambda number: 0).would_go_on, clock=lambda: now[0])
    trial: Any = FakeTrial("a")
    silence.started(trial)
    assert silence.allowed_s() == FIRST_S
    silence.heard(trial, {"epoch_seconds": 1.0})
    assert silence.allowed_s() == LEAST_S
    silence.heard(trial, {"epoch_seconds": 100.0})
    silence.heard(trial, {"waits": 1})
    assert silence.allowed_s() == EPOCHS * 100
    for seconds in range(0, 2000, 50):
        now[0] = float(seconds)
        silence.look([trial])
    assert not said
    for seconds in range(2000, 2200, 50):
        now[0] = float(seconds)
        silence.look([trial])
    assert len(said) == 1 and "nothing was reported for" in said[0] and "a" in silence.ended
    assert Silence(0.5, said.append, Crashes(lambda number: 0).would_go_on).allowed_s() == 30


def test_an_attempt_has_time_to_begin_however_short_the_setting_is() -> None:
    now = [0.0]
    said: list[str] = []
    silence = Silence(0.5, said.append, Crashes(lambda number: 0).would_go_on, clock=lambda: now[0])
    trial: Any = FakeTrial("a")
    for attempt in range(2):
        silence.started(trial)
        began = now[0]
        while now[0] < began + START_S:
            now[0] += 10
            silence.look([trial])
        assert len(said) == attempt, "a process that begins is not silent"
        silence.heard(trial, {"waits": 1})
        silence.look([trial])
        silence.heard(trial, {"epoch_seconds": 1.0, "spent": 0.0})  # taken from the store
        for _ in range(4):
            now[0] += 10
            silence.look([trial])
        assert len(said) == attempt, "it has not trained yet"
        silence.heard(trial, {"epoch_seconds": 1.0, "spent": 1.0})
        for _ in range(4):
            now[0] += 10
            silence.look([trial])
        assert len(said) == attempt + 1, "once it trains, the setting holds"
    silence.started(trial)
    for _ in range(40):
        now[0] += 10
        silence.look([trial])
    assert len(said) == 3, "and a start has an end"


def test_who_waits_for_a_shared_stage_or_is_paused_is_not_silent() -> None:
    now = [0.0]
    said: list[str] = []
    silence = Silence(1.0, said.append, Crashes(lambda number: 0).would_go_on, clock=lambda: now[0])
    waiting: Any = FakeTrial("waiting")
    pending: Any = FakeTrial("pending", "PENDING")
    silence.started(waiting)
    silence.started(pending)
    for seconds in range(0, 600, 20):
        now[0] = float(seconds)
        silence.heard(waiting, {"waits": 1})
        silence.look([waiting, pending])
    assert not said


def test_a_driver_that_was_itself_asleep_blames_nobody() -> None:
    now = [0.0]
    said: list[str] = []
    silence = Silence(1.0, said.append, Crashes(lambda number: 0).would_go_on, clock=lambda: now[0])
    trial: Any = FakeTrial("a")
    silence.started(trial)
    silence.look([trial])
    now[0] = 7200.0
    silence.look([trial])
    assert not said


def test_a_trial_that_tune_gives_up_goes_on_if_it_got_further_since_its_last_crash() -> None:
    epochs = [0]
    crashes = Crashes(lambda number: epochs[0])
    trial: Any = FakeTrial("a")
    trial.max_failures = 1
    crashes.began(0)
    trial.run_metadata.num_failures = 1
    crashes.tried_again(trial)
    assert trial.run_metadata.num_failures == 1, "it died before its first epoch"
    assert not crashes.would_go_on(trial)
    epochs[0] = 4
    assert crashes.would_go_on(trial)
    assert not crashes.given_up(0) and crashes.goes_on(0)
    crashes.began(0)
    assert not crashes.goes_on(0)
    assert crashes.given_up(0) and not crashes.goes_on(0), "no further since"
    epochs[0] = 5
    crashes.tried_again(trial)
    assert trial.run_metadata.num_failures == 0


def test_epochs_of_an_earlier_start_are_no_progress_of_this_one() -> None:
    crashes = Crashes(lambda number: 7)
    crashes.began(3)
    assert crashes.given_up(3)
