"""Every message of bad input with its remedy, read from the source: the page reference/messages.md.

`UserError(what, where, mend)` stands in the code as literals and f-strings. What the program puts into them is shown
as a word in capitals that is made of the expression.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "sage_ray"
ERRORS = {"UserError", "NoSpace", "NoRoom", "CannotWrite", "StoreRefused", "NodeUnfit", "bad_file", "Problem"}
"""What is called with what is wrong and how to mend it as its first and third arguments."""
OF_ANOTHER = {
    "mend": "as the message of that setting or file says",
    "how_to_go_on": "give a file of them, or do without: the message names the settings",
}
"""Attributes that hold a remedy which another part of the package words."""

INTRODUCTION = """\
# Every message

The {} messages of bad input (exit code 2), read from the source at each build. A line on the terminal has three parts,
`what: where: how to mend`; the table has the first and the last, and one message may have several remedies. Words in
capitals stand for what the program puts there. Messages stand in the order of the alphabet, by the first words of the
line that you see. What to do about the usual ones, and about runs that fail, is said in
[When something goes wrong](../howto/what_went_wrong.md).
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
    words = _Words(tree)
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        words.enter(function)
        for call in ast.walk(function):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in ERRORS:
                if len(call.args) > 2 and isinstance(call.args[2], ast.Constant) and not call.args[2].value:
                    continue  # a reason that another message gives, and no line of its own
                what = words.of(call.args[0] if call.args else None, call.lineno)
                mend = words.of(call.args[2] if len(call.args) > 2 else None, call.lineno)
                if what and re.match(r"[a-z\"'`(A-Z]", what) and not re.match(r"[A-Z_]{3,}$", what):
                    yield what, mend if re.search("[a-z]", mend) else ""


class _Words:
    """Words of the expressions of a module: literals, its constants, local variables, and what its functions return."""

    def __init__(self, tree: ast.Module) -> None:
        self._functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
        self._local: list[tuple[int, str, ast.expr]] = []
        self._constants: dict[str, ast.expr] = {
            target.id: node.value
            for node in tree.body
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
            if isinstance(target, ast.Name)
        }

    def enter(self, function: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        """Take names as this function has them."""
        self._local = []
        for node in ast.walk(function):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self._local.append((node.lineno, node.targets[0].id, node.value))
            if isinstance(node, ast.For) and isinstance(node.target, ast.Tuple):
                self._local += [
                    (node.lineno, name.id, node.iter) for name in node.target.elts if isinstance(name, ast.Name)
                ]

    def of(self, node: ast.expr | None, line: int, depth: int = 0) -> str:
        """Words of an expression on a line; empty for anything that has none."""
        if depth > 5:
            return ""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return " ".join(node.value.split())
        if isinstance(node, ast.JoinedStr):
            return " ".join("".join(_piece(part) for part in node.values).split())
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            left, right = (self.of(side, line, depth + 1) for side in (node.left, node.right))
            return (left or "...") + (right or ("..." if left[-1:] in ",:;(" else ""))
        if isinstance(node, ast.IfExp):
            return _either(self.of(part, line, depth + 1) for part in (node.body, node.orelse))
        if isinstance(node, ast.Attribute):
            return OF_ANOTHER.get(node.attr, "")
        if isinstance(node, ast.Call):
            return self._of_call(node, line, depth)
        if isinstance(node, ast.Name):
            above = [(at, value) for at, name, value in self._local if name == node.id and at < line]
            value = max(above, key=lambda one: one[0])[1] if above else self._constants.get(node.id)
            return self.of(value, line, depth + 1) if value is not node else ""
        if isinstance(node, ast.Dict):
            return _either(self.of(value, line, depth + 1) for value in node.values)
        return ""

    def _of_call(self, call: ast.Call, line: int, depth: int) -> str:
        if isinstance(call.func, ast.Attribute) and call.func.attr in ("format", "items"):
            return self.of(call.func.value, line, depth + 1).replace("{}", "...")
        if not isinstance(call.func, ast.Name):
            return ""
        if call.func.id in ("did_you_mean", "instead_of", "leaf_instead_of"):
            otherwise = self.of(call.args[2], line, depth + 1) if len(call.args) > 2 else ""
            return _either(["did you mean NAME?", otherwise])
        function = self._functions.get(call.func.id)
        returned = [node for node in ast.walk(function) if isinstance(node, ast.Return)] if function else []
        return _either(self.of(node.value, line, depth + 1) for node in returned)


def _either(texts: Iterable[str]) -> str:
    """Remedies of which one is said, each once."""
    return " or: ".join(dict.fromkeys(text for text in texts if text))


def _piece(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    inner = node.value if isinstance(node, ast.FormattedValue) else node
    if isinstance(inner, ast.Attribute) and inner.attr in OF_ANOTHER:
        return OF_ANOTHER[inner.attr]
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
