"""Processes of ours collect garbage less often while they begin, and change nothing in somebody else's."""

from __future__ import annotations

import subprocess
import sys

import pytest

SHOW = "import gc; print(gc.get_threshold()[0])"


def threshold(*words: str, first: str = "", code: str = "import sage_ray") -> int:
    """The threshold in a fresh process that runs `code`, with more words on its command line."""
    done = subprocess.run([sys.executable, "-c", f"{first}\n{code}\n{SHOW}", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.splitlines()[-1])


def test_who_imports_the_package_keeps_the_threshold() -> None:
    assert threshold() == threshold(code="")


@pytest.mark.parametrize("chosen", [0, 5000])
def test_a_command_and_a_trial_have_another_unless_somebody_chose_one(chosen: int) -> None:
    call = "import sys; from sage_ray.terminal import cli\nsys.exit = print\ncli.main(['config', 'list'])"
    usual, ours = threshold(), threshold(code=call)
    assert usual < ours == threshold("default_worker.py")
    mine = f"import gc; gc.set_threshold({chosen})"
    assert threshold(first=mine, code=call) == chosen == threshold("default_worker.py", first=mine)
