"""The replay pool: what it shows, what it keeps, and that its choices depend on keys alone."""

from __future__ import annotations

import torch
from torch import Tensor

from sage_ray.training.draws import KeyedDraws
from sage_ray.training.replay_pool import ReplayPool


def fakes(first: int, count: int) -> Tensor:
    """Fakes that can be told apart: number n is n everywhere."""
    return torch.arange(first, first + count).float().view(-1, 1, 1, 1).expand(-1, 1, 2, 3)


def numbers(shown: Tensor | None) -> list[int]:
    assert shown is not None
    return [int(row.flatten()[0]) for row in shown]


def draws(step: int) -> KeyedDraws:
    return KeyedDraws(0, "adversarial", 0, step, [0, 1])


def test_while_it_fills_each_fake_enters_and_is_shown() -> None:
    pool = ReplayPool("image", 4)
    assert numbers(pool.show(fakes(0, 3), draws(0))) == [0, 1, 2]
    assert numbers(pool.held) == [0, 1, 2]
    pool.show(fakes(3, 1), draws(1))
    assert numbers(pool.held) == [0, 1, 2, 3]


def test_a_full_pool_shows_new_and_old_ones_in_equal_shares_and_loses_none() -> None:
    pool = ReplayPool("image", 10)
    pool.show(fakes(0, 10), draws(0))
    new, shown_old = 0, []
    for step in range(1, 501):
        before, (fake,) = set(numbers(pool.held)), [10 * step]
        (shown,) = numbers(pool.show(fakes(fake, 1), draws(step)))
        after = set(numbers(pool.held))
        if shown == fake:
            new += 1
            assert after == before
        else:
            shown_old.append(shown)
            assert after == before - {shown} | {fake}
    assert 200 < new < 300
    assert len(set(shown_old)) == len(shown_old), "what has been shown again has left the pool"


def test_its_choices_are_keyed_by_step_and_kind() -> None:
    def history(name: str, first_step: int = 1) -> list[list[int]]:
        pool = ReplayPool(name, 2)
        pool.show(fakes(0, 2), draws(0))
        return [numbers(pool.show(fakes(10 * step, 2), draws(step))) for step in range(first_step, first_step + 8)]

    assert history("image") == history("image") != history("mask")


def test_going_on_from_what_was_held_shows_the_same() -> None:
    whole, parts = ReplayPool("mask", 3), ReplayPool("mask", 3)
    shown = [numbers(whole.show(fakes(10 * step, 2), draws(step))) for step in range(6)]
    again = []
    for step in range(6):
        resumed = ReplayPool("mask", 3)
        resumed.held = None if parts.held is None else parts.held.clone()
        parts = resumed
        again.append(numbers(parts.show(fakes(10 * step, 2), draws(step))))
    assert shown == again and torch.equal(whole.held, parts.held)  # type: ignore[arg-type]


def test_what_is_shown_is_no_view_of_the_pool() -> None:
    pool = ReplayPool("image", 1)
    pool.show(fakes(0, 1), draws(0))
    shown = [pool.show(fakes(step, 1), draws(step)) for step in range(1, 20)]
    values = [numbers(each)[0] for each in shown]
    pool.show(fakes(99, 8), draws(20))
    assert [numbers(each)[0] for each in shown] == values
