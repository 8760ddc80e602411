"""Every message of bad input with its remedy, read from the source: the page reference/messages.md.

`UserError(what, where, mend)` stands in the code as literals and f-strings. What the program puts into them is shown
as a word in capitals that is made of the expression.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "sage_ray"
ERRORS = {"UserError", "NoSpace", "NoRoom", "CannotWrite", "StoreRefused", "NodeUnfit", "bad_file", "Problem"}
"""What is called with what is wrong and how to mend it as its first and third arguments."""

INTRODUCTION = """\
# Every message

The {} messages of bad input (exit code 2), read from the source at each build. A line on the terminal has three parts,
`what: where: how to mend`; the table has the first and the last, and one message may have several remedies. Words in
capitals stand for what the program puts there. An empty remedy is one that depends on the case. Messages stand in the
order of the alphabet, by the first words of the line that you see. What to do about the usual ones, and about runs that
fail, is said in [When something goes wrong](../howto/what_went_wrong.md).
"""


def messages() -> list[tuple[str, str]]:
    """(what is wrong, how to mend it) of every message whose first part begins with words of its own, sorted.

    What stands in several places of the source is one message, with the remedies of all.
    """
    remedies: dict[str, list[str]] = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        for what, mend in _of_file(file):
            known = remedies.setdefault(what, [])
            known += [mend] if mend and mend not in known else []
    return sorted(((what, "; or: ".join(sorted(mends))) for what, mends in remedies.items()), key=_by_words)


def _by_words(row: tuple[str, str]) -> tuple[str, str, str]:
    return _letter(row), row[0].lower(), row[1]


def _of_file(file: Path) -> Iterator[tuple[str, str]]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        named = [
            (node.lineno, node.targets[0].id, _text(node.value))
            for node in ast.walk(function)
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        ]
        for call in ast.walk(function):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in ERRORS:
                what = _resolved(call.args[0] if call.args else None, named)
                mend = _resolved(call.args[2] if len(call.args) > 2 else None, named)
                if what and re.match(r"[a-z\"'`(A-Z]", what) and not re.match(r"[A-Z_]{3,}$", what):
                    yield what, mend if re.search("[a-z]", mend) else ""


def _resolved(node: ast.expr | None, named: list[tuple[int, str, str]]) -> str:
    """Words of an argument, or those that its variable was last set to above the call."""
    if isinstance(node, ast.Name):
        return max(
            ((line, text) for line, name, text in named if name == node.id and line < node.lineno), default=(0, "")
        )[1]
    return _text(node)


def _text(node: ast.expr | None) -> str:
    """Words of a string expression; empty for anything that is none."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return " ".join(node.value.split())
    if isinstance(node, ast.JoinedStr):
        return " ".join("".join(_piece(part) for part in node.values).split())
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return (_text(node.left) or "...") + (_text(node.right) or "...")
    if isinstance(node, ast.IfExp):
        return " or: ".join(part for part in (_text(node.body), _text(node.orelse)) if part)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "did_you_mean":
        otherwise = _text(node.args[2]) if len(node.args) > 2 else ""
        return f"did you mean NAME? or: {otherwise}" if otherwise else "did you mean NAME?"
    return ""


def _piece(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    inner = node.value if isinstance(node, ast.FormattedValue) else node
    words = re.findall(r"[a-z]+", ast.unparse(inner).split("(")[-1].split("[")[0])
    return words[-1].upper() if words else "..."


def messages_page() -> str:
    """The page, in Markdown."""
    rows = messages()
    lines = [INTRODUCTION.format(len(rows))]
    for letter, alike in groupby(rows, key=_letter):
        lines += [f"## {letter}", "", "| what is wrong | how to mend it |", "|---|---|"]
        lines += [f"| {_cell(what)} | {_cell(mend)} |" for what, mend in alike]
        lines.append("")
    return "\n".join(lines)


def _letter(row: tuple[str, str]) -> str:
    return next((letter.upper() for letter in row[0] if letter.isalpha()), "")


def _cell(text: str) -> str:
    parts = re.split(r"(`[^`]*`)", text)
    parts[::2] = [re.sub(r"([*_<{\[|])", r"\\\1", part) for part in parts[::2]]
    parts[1::2] = [part.replace("|", "\\|") for part in parts[1::2]]
    return "".join(parts)
