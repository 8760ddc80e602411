"""`sage-ray`: one command line from its words to its exit code. The verbs are in `run_verbs` and `model_verbs`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial

from sage_ray.startup import start_quickly

# The order of these is that of the verbs in `sage-ray --help`.
from sage_ray.terminal import run_verbs  # noqa: F401

# isort: split
from sage_ray.terminal import model_verbs  # noqa: F401

# isort: split
from sage_ray.terminal import ui_verb  # noqa: F401
from sage_ray.terminal.apps import app
from sage_ray.terminal.shell import Answer, Session, UsageError, perform

__all__ = ["app", "call", "main"]


def main(args: Sequence[str] | None = None) -> None:
    """Run one command line and exit with 0 done, 1 failed, 2 bad input, or 130 interrupted."""
    start_quickly()
    sys.exit(call(list(sys.argv[1:] if args is None else args)))


def call(args: list[str]) -> int:
    """Exit code of one command line."""
    mistake: BaseException
    try:
        return int(app(args, prog_name="sage-ray", standalone_mode=False) or 0)
    except (UsageError, KeyboardInterrupt) as error:
        mistake = error
    if type(mistake).__name__ == "NoArgsIsHelpError":
        print(str(getattr(mistake, "message", "")))
        return 0
    return perform(Session("sage-ray", None, quiet=False), partial(_raise, mistake), as_json="--json" in args)


def _raise(error: BaseException) -> Answer:
    raise error
