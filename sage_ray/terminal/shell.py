"""What all verbs share: home, --json and --quiet, how an answer is printed, and which exit code an error becomes."""

from __future__ import annotations

import dataclasses
import errno
import inspect
import json
import math
import os
import shlex
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sage_ray.errors import RunFailed, UserError
from sage_ray.followed import in_words, push
from sage_ray.record.store_uris import redacted
from sage_ray.termination import terminated_as_interrupted

if TYPE_CHECKING:
    from sage_ray.record.home import Home
    from sage_ray.watch import Watch

EXIT_DONE, EXIT_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 0, 1, 2, 130

_NO_FAULT_OF_OURS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""A disk without room, a quota that is used up, a file system that cannot be written."""

# typer keeps the class of command-line mistakes private; it is the parent of the one that it exports.
UsageError: type[Exception] = typer.BadParameter.__bases__[0]

HomeOption = Annotated[
    str | None,
    typer.Option("--home", help="Folder, or s3://BUCKET/PREFIX, of all runs [default: $SAGE_HOME or ./sage_runs]."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Make the last line on stdout one JSON object.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="Only the result, no progress.")]


@dataclass
class Answer:
    """What a verb found: text for a person, fields for a script, where things lie, and what to run next."""

    lines: list[str] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)
    paths: dict[str, Any] = field(default_factory=dict)
    next: list[str] = field(default_factory=list)
    exit_code: int = EXIT_DONE
    error: str | None = None
    verbatim: bool = False
    """The lines are a file's text, which a terminal's width must not change."""
    replaces_picture: bool = False
    """The lines tell all that the live table of a study shows, which then need not stand above them."""


class Session:
    """One call of a verb: its home and its way to show progress, each made when first asked for."""

    def __init__(self, verb: str, home: str | Path | None, quiet: bool) -> None:
        self.verb, self.quiet = verb, quiet
        self._named = str(home or os.environ.get("SAGE_HOME") or "sage_runs")
        self.resumable: str | None = None
        self.as_json = False

    @cached_property
    def home(self) -> Home:
        """The home that --home or SAGE_HOME names."""
        from sage_ray.record.home import Home

        home = Home(self._named).look()
        news = home.settle_identity()
        if news is not None:
            self.watch.line(news)
        if home.in_bucket:
            from sage_ray.evaluation.shared_reads import bring_in

            bring_in(home)
        return home

    @property
    def home_name(self) -> str:
        """The home as a command names it: an absolute path, or the address of a bucket."""
        return _absolute(self._named)

    @property
    def errors(self) -> Path:
        """Folder for traces: in the home, which need not be there; a temporary one if a bucket was not reached."""
        if "home" in self.__dict__:
            return self.home.path / "errors"
        return Path(tempfile.gettempdir() if "://" in self.home_name else f"{self.home_name}/errors")

    @cached_property
    def watch(self) -> Watch:
        """What progress is shown by: a live picture, plain lines, or nothing with --quiet."""
        from sage_ray.terminal.progress import make_watch

        return make_watch(quiet=self.quiet)

    def close(self, *, replaced: bool = False) -> None:
        """Leave the terminal as it was found, without the live table where what is printed next replaces it."""
        if "watch" in self.__dict__:
            self.watch.close(replaced=replaced)
        if "home" in self.__dict__:
            push(self.home.path)

    def command(self, text: str) -> str:
        """`sage-ray TEXT`, without passwords, and with --home when a bare command would use another home."""
        tail = "" if self._usual else f" --home {quoted(_shortest(self.home_name))}"
        return f"sage-ray {redacted(text)}{tail}"

    def make(self, target: str) -> str:
        """`make TARGET`, with SAGE_HOME when a bare command would look at another home."""
        return f"make {target}" if self._usual else f"SAGE_HOME={quoted(_shortest(self.home_name))} make {target}"

    @property
    def begun(self) -> bool:
        """Whether what `resumable` names is in the home already, so that `sage-ray resume` finds it."""
        name = self.resumable
        places = (f"studies/{name}/study.json", f"runs/{name}/record.json", f"finals/{name}.json")
        return name is not None and any((self.home.path / place).is_file() for place in places)

    @property
    def _usual(self) -> bool:
        return self.home_name == _absolute(os.environ.get("SAGE_HOME") or "sage_runs")


def quoted(value: object) -> str:
    """The value as one word of a shell's command line; a path that begins with a dash is not taken for an option."""
    text = str(value)
    return shlex.quote(f"./{text}" if isinstance(value, Path) and text.startswith("-") else text)


def assignment(key: str, value: object) -> str:
    """`--set KEY=VALUE`, quoted for a shell where need be."""
    return f"--set {quoted(f'{key}={value}')}"


def verb(app: typer.Typer, name: str, full_name: str | None = None) -> Callable[[Callable[..., Answer]], None]:
    """Register `work(session, **options) -> Answer` as a command that also takes --home, --json and --quiet.

    The command's help is the docstring of `work`; its options are the parameters of `work` after `session`.
    """

    def register(work: Callable[..., Answer]) -> None:
        signature = inspect.signature(work, eval_str=True)
        own = [p for p in signature.parameters.values() if p.name != "session"]
        shared = [
            inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=d, annotation=a)
            for n, d, a in (("home", None, HomeOption), ("as_json", False, JsonOption), ("quiet", False, QuietOption))
        ]

        @wraps(work)
        def command(*, home: str | None = None, as_json: bool = False, quiet: bool = False, **options: Any) -> None:
            session = Session(full_name or name, home, quiet)
            raise typer.Exit(perform(session, lambda: work(session, **options), as_json))

        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + shared
        command.__signature__ = signature.replace(parameters=parameters, return_annotation=None)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        del command.__wrapped__
        app.command(name)(command)

    return register


def perform(session: Session, work: Callable[[], Answer], as_json: bool) -> int:
    """Exit code of a verb, after its answer or its error has been printed."""
    session.as_json = as_json
    try:
        with terminated_as_interrupted():
            answer = work()
        session.close(replaced=answer.replaces_picture)
    except typer.Exit:
        session.close()
        raise
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        session.close()
        answer = answer_to(error, session)
    show(answer, session, as_json)
    return answer.exit_code


def answer_to(error: BaseException, session: Session) -> Answer:
    """The one place where an exception becomes an exit code and a line on stderr."""
    # Ray hands an error of a worker on inside its own; the cause is the line that a user can act on.
    cause = getattr(error, "cause", None)
    if isinstance(cause, UserError | RunFailed):
        error = cause
    if isinstance(error, UserError | UsageError):
        return Answer(exit_code=EXIT_BAD_INPUT, error=one_line(_text(error)))
    if isinstance(error, KeyboardInterrupt) or (isinstance(error, SystemExit) and error.code == EXIT_INTERRUPTED):
        again = session.command(f"resume {session.resumable}") if session.begun else None
        begun = "; nothing was begun" if session.resumable else "; give the same command again"
        tail = f"; go on with: {again}" if again else begun
        return Answer(exit_code=EXIT_INTERRUPTED, error=f"interrupted{tail}", next=[again] if again else [])
    if isinstance(error, OSError) and error.errno in _NO_FAULT_OF_OURS:
        where = error.filename or f"home {session.home_name}, or where results go"
        mend = "make room (`sage-ray gc` shows what can go) or write elsewhere, then give the same command again"
        return Answer(exit_code=EXIT_BAD_INPUT, error=one_line(f"cannot write ({error.strerror}): {where}: {mend}"))
    trace = getattr(error, "trace", None) or write_trace(error, session)
    kind = "failed" if isinstance(error, RunFailed) else f"failed unexpectedly: {type(error).__name__}"
    return Answer(
        exit_code=EXIT_FAILED, error=one_line(f"{kind}: {error} (trace: {in_words(trace)})"), paths={"trace": trace}
    )


def write_trace(error: BaseException, session: Session) -> Path:
    """Path of a file with the full trace: under the home if it can be written, else in the temporary folder."""
    text = redacted("".join(traceback.format_exception(error)))
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{session.verb.replace(' ', '-')}-{os.getpid()}.txt"
    for folder in (session.errors, Path(tempfile.gettempdir())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
            push(folder / name)
        except OSError:
            continue
        return folder / name
    sys.stderr.write(text)
    return Path("above")


def show(answer: Answer, session: Session, as_json: bool) -> None:
    """Print an answer: text and hints on stdout, an error as one line on stderr, JSON as the last line on stdout."""
    try:
        _print(answer, session, as_json)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (`| head`) has gone: nothing is wrong, and the interpreter must not complain at its end either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print(answer: Answer, session: Session, as_json: bool) -> None:
    from sage_ray.terminal.display import wrapped
    from sage_ray.terminal.progress import width_of

    width = None if answer.verbatim else width_of()
    for line in answer.lines:
        for part in wrapped(line, width):
            print(part)
    if answer.error is not None:
        print(answer.error, file=sys.stderr, flush=True)
    else:
        for name, path in answer.paths.items():
            print(f"{name}: {_shortest(in_words(path)) if isinstance(path, Path) else path}")
        for position, command in enumerate(answer.next):
            print(f"{'next' if position == 0 else '  or'}: {command}")
    if not as_json:
        return
    tree = {
        "verb": session.verb,
        "ok": answer.exit_code == EXIT_DONE,
        "home": session.home_name,
        "paths": answer.paths,
        "next": answer.next,
        **answer.fields,
    }
    if answer.error is not None:
        tree |= {"error": answer.error, "exit_code": answer.exit_code}
    print(json.dumps(plain(tree), allow_nan=False))


def plain(value: Any) -> Any:
    """JSON-ready data of dataclasses, pydantic models, numpy scalars, paths and containers; non-finite is null.

    Paths in a home in a bucket, in texts too, are its addresses.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if hasattr(value, "model_dump"):
        return plain(value.model_dump())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value) if not f.name.startswith("_")}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return in_words(str(value))


def one_line(text: str) -> str:
    """The text without line breaks, control characters or passwords, and with addresses in place of a view's paths."""
    return " ".join("".join(c if c.isprintable() else " " for c in redacted(in_words(text))).split())


def _text(error: BaseException) -> str:
    if isinstance(error, UserError):
        return str(error)
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "sage-ray"
    message = getattr(error, "format_message", error.__str__)()
    return f"bad command line: {path}: {message.rstrip('.')}; `{path} --help` lists what it takes"


def _absolute(home: str) -> str:
    return home.rstrip("/") if "://" in home else str(Path(home).expanduser().absolute())


def _shortest(place: str) -> str:
    try:
        return place if "://" in place else str(Path(place).relative_to(Path.cwd()))
    except ValueError:
        return place
