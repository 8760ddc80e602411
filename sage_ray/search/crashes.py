"""How often a trial may crash: as often as it gets further in between, and `runtime.max_retries` times if not."""

from __future__ import annotations

from collections.abc import Callable

from ray.tune.experiment import Trial


class Crashes:
    """Judges the crashes of a start's trials by their epochs on disk, whatever was heard of them by then.

    Tune counts crashes and knows nothing of epochs. Where it tries a trial again, its count is set right. Where it
    gives one up that got further since its last crash, the trial is taken up again as one more of Tune's.

    Args:
        epochs: how many epochs a trial has on disk, over all its runs.
    """

    def __init__(self, epochs: Callable[[int], int]) -> None:
        self._epochs = epochs
        self._reached: dict[int, int] = {}
        """Epochs that a trial had when it first began, or crashed last. A process may die before its trial begins."""
        self._goes_on: set[int] = set()

    def began(self, number: int) -> None:
        """A trial begins, or begins again."""
        self._reached.setdefault(number, self._epochs(number))
        self._goes_on.discard(number)

    def tried_again(self, trial: Trial) -> None:
        """Tune tries a trial again, and has counted its crash: the count starts anew if the trial had got further."""
        if self._got_further(int(trial.config["number"])):
            trial.run_metadata.num_failures = 0

    def given_up(self, number: int) -> bool:
        """Tune gives a trial up; returns whether that is right, as the trial got no further since its last crash."""
        if self._got_further(number):
            self._goes_on.add(number)
        return number not in self._goes_on

    def goes_on(self, number: int) -> bool:
        """Whether a trial that Tune gave up last goes on nevertheless."""
        return number in self._goes_on

    def would_go_on(self, trial: Trial) -> bool:
        """Whether a trial that crashed now would be tried again."""
        number = int(trial.config["number"])
        further = self._epochs(number) > self._reached.get(number, 0)
        return further or trial.run_metadata.num_failures < trial.max_failures

    def _got_further(self, number: int) -> bool:
        now = self._epochs(number)
        further = now > self._reached.get(number, now)
        self._reached[number] = now
        return further
