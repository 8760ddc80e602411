"""The command line that the scripts share: options, and user errors as one line on stderr with exit code 2."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from sage_ray.analysis.figure_style import twins
from sage_ray.analysis.study_facts import StudyFacts, study_facts, study_runs
from sage_ray.analysis.tidy import Tidy, collect
from sage_ray.errors import UserError
from sage_ray.followed import in_words, push
from sage_ray.metrics.definitions import GENERATED_LABELS, LABELS
from sage_ray.record.run_record import FINISHED


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError("bad command line", self.prog, f"{message}; --help lists what it takes")


def script_parser(
    name: str, doc: str | None, *, studies: bool = True, part: bool = False, scores: Sequence[str] = ()
) -> argparse.ArgumentParser:
    """The parser of `python analysis/NAME.py`.

    Args:
        name: of the script.
        doc: its docstring.
        studies: whether it takes --study and --out.
        part: whether it takes --part.
        scores: default of --score; () if it takes none.
    """
    parser = _Parser(prog=f"analysis/{name}.py", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", help="folder of all runs and studies [default: $SAGE_HOME or ./sage_runs]")
    parser.add_argument("--tracking-uri", help="fetch the runs from this MLflow store instead")
    if studies:
        parser.add_argument("--study", action="append", default=[], help="name of a study; may be repeated")
        parser.add_argument("--out", type=Path, help="folder for the files [default: HOME/tables/STUDY]")
    if part:
        parser.add_argument(
            "--part", choices=("test", "val", "generated"), help="images compared [default: test if read]"
        )
        parser.add_argument("--level", type=_level, default=0.95, help="of the intervals [default: 0.95]")
    if scores:
        parser.add_argument(
            "--score", action="append", default=[], choices=sorted({*LABELS, *GENERATED_LABELS}), help="may be repeated"
        )
        parser.set_defaults(scores=tuple(scores))
    return parser


def run_command(parser: argparse.ArgumentParser, work: Callable[[argparse.Namespace], int]) -> int:
    """Exit code of a script: what `work` returns, or 2 after a user error, which is one line on stderr."""
    try:
        return work(parser.parse_args())
    except UserError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return UserError.exit_code


def tell(line: object) -> None:
    """Print a line on stdout; when the reader (`| head`) has gone, the script goes on without one."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def chosen_scores(options: argparse.Namespace) -> tuple[str, ...]:
    """The scores asked for, or the script's default."""
    return tuple(dict.fromkeys(options.score)) or tuple(options.scores)


Beside = Callable[[Tidy, argparse.Namespace], list[StudyFacts]]
"""What a script tabulates beside studies, as the options say."""


def chosen_studies(
    options: argparse.Namespace,
    applies: Callable[[Tidy, StudyFacts], str | None],
    beside: Beside = lambda tidy, options: [],
) -> tuple[Tidy, list[StudyFacts]]:
    """The tidy table, and the studies to tabulate: those named, or all that the script applies to.

    Args:
        options: of the command line.
        applies: None, or why a study is nothing for the script.
        beside: further things that are tabulated like a study.

    Raises:
        UserError: a named study does not exist, or is nothing for the script.
    """
    tidy = collect(options.home, options.study or None, tracking_uri=options.tracking_uri, say=_say)
    others = beside(tidy, options)
    found = []
    for name in dict.fromkeys(options.study or ([] if getattr(options, "final", None) else tidy.studies())):
        facts = study_facts(tidy, name)
        reason = unfinished(tidy, name) or applies(tidy, facts)
        if reason is None:
            found.append(facts)
        elif options.study:
            raise UserError(reason, f"study {name}", "finish it, name another study, or leave --study out")
    found += others
    if not found:
        tell(f"nothing here for this script: no study of {tidy.home.address} fits")
    return tidy, found


def unfinished(tidy: Tidy, study: str) -> str | None:
    """Why a study has nothing to show yet; None if it has a finished run."""
    states = study_runs(tidy, study)["state"].value_counts()
    told = ", ".join(f"{count} {state}" for state, count in states.items())
    return None if FINISHED in states else f"study has no finished run ({told})"


def each_study(
    options: argparse.Namespace,
    applies: Callable[[Tidy, StudyFacts], str | None],
    make: Callable[[Tidy, StudyFacts, Path], Sequence[Path]],
    beside: Beside = lambda tidy, options: [],
) -> int:
    """Make the files of every chosen study and name them; exit code.

    With studies named, the first error ends the script. Otherwise a study that cannot be tabulated does not keep the
    others from being made, and the exit code says so at the end.
    """
    tidy, found = chosen_studies(options, applies, beside)
    failed = 0
    for facts in found:
        out = options.out or tidy.home.path / "tables" / facts.name
        if options.out and len(found) > 1:
            out = options.out / facts.name
        try:
            out.mkdir(parents=True, exist_ok=True)
            for path in make(tidy, facts, out):
                for file in twins(path):
                    push(file)
                    tell(in_words(file))
        except UserError as error:
            if options.study:
                raise
            failed = UserError.exit_code
            print(" ".join(str(error).split()), file=sys.stderr)
        except OSError as error:
            raise UserError("cannot be written", out, f"give another folder with --out ({error.strerror})") from None
    return failed


def study_script(
    parser: argparse.ArgumentParser,
    applies: Callable[[Tidy, StudyFacts], str | None],
    make: Callable[[Tidy, StudyFacts, Path, argparse.Namespace], Sequence[Path]],
    beside: Beside = lambda tidy, options: [],
) -> int:
    """Exit code of a script that makes files of each study that it applies to, as its options say."""
    return run_command(
        parser,
        lambda options: each_study(options, applies, lambda tidy, facts, out: make(tidy, facts, out, options), beside),
    )


def score_script(
    name: str,
    doc: str | None,
    scores: Sequence[str],
    applies: Callable[[Tidy, StudyFacts], str | None],
    make: Callable[[Tidy, StudyFacts, Path, Sequence[str]], Sequence[Path]],
) -> int:
    """Exit code of a script whose only choices are studies and scores; `scores` are its default."""
    parser = script_parser(name, doc, scores=scores)
    return study_script(
        parser, applies, lambda tidy, facts, out, options: make(tidy, facts, out, chosen_scores(options))
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _level(text: str) -> float:
    value = float(text)
    if not 0.5 <= value < 1:
        raise argparse.ArgumentTypeError("must be at least 0.5 and below 1")
    return value
