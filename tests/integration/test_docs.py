"""README and docs stay alive: every command, option, make target, preset, path and link in them exists."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from sage_ray.config import known_paths, resolve, shipped
from sage_ray.search.changes import OF_SEARCH
from sage_ray.terminal.cli import app

REPO = Path(__file__).resolve().parents[2]
FOLDERS = (REPO / "benchmarks", REPO / "analysis")
PAGES = [*REPO.glob("*.md"), *(path for each in ("docs", "tests") for path in (REPO / each).rglob("*.md"))]
DOCS = [*PAGES, *(path for each in FOLDERS for path in each.glob("*.md"))]
CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)[^)]*\)")
PATH = re.compile(r"^\.?[\w.-]+(/[\w.-]+)*/?$")
TOP = {"sage_ray", "search_spaces", "tests", "docs", "benchmarks", "analysis", "scripts", "deploy", ".ci"}
# Folders that a command makes.
GENERATED = {"benchmarks/results/"}
# Pages of the site that `make docs` makes (scripts/docs_hook.py; tests/integration/test_docs_site.py finds them there).
MADE_PAGES = {f"docs/reference/{name}.md" for name in ("settings", "study_files", "commands", "messages")}
# In docs/ARCHITECTURE.md and docs/STATUS.md, folders of the package stand without their parent.
PARENTS = (REPO, REPO / "sage_ray", REPO / "tests")


def command_lines(text: str) -> Iterator[str]:
    """Every shell command of a document: indented or fenced lines, and code spans."""
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        if line.startswith(("    ", "sage-ray ", "make ", "$ ")):
            yield line.strip().removeprefix("$ ").removeprefix(".venv/bin/")
        yield from (span.strip().removeprefix(".venv/bin/") for span in CODE.findall(line))


def commands(text: str, program: str) -> list[list[str]]:
    """Words of each command of `program`, without what follows a shell sign or a comment."""
    found = []
    for line in command_lines(text):
        line = re.split(r"\s(?:#|\||>|&&|;)", f"{line} ")[0]
        words = shlex.split(line) if line.count("'") % 2 == 0 and line.count('"') % 2 == 0 else line.split()
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
            words = words[1:]
        if words and words[0] == program:
            found.append(words[1:])
    return found


def problems_of_verb(words: list[str]) -> list[str]:
    """What is wrong with the words after `sage-ray`."""
    command: Any = typer.main.get_command(app)
    rest = list(words)
    while getattr(command, "commands", None) and rest and not rest[0].startswith("-"):
        if rest[0] in ("VERB", "..."):
            return []
        if rest[0] not in command.commands:
            return [f"no verb {rest[0]}"]
        command = command.commands[rest.pop(0)]
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    found = [f"no option {word}" for word in rest if re.match(r"--?[a-z]", word) and word.split("=")[0] not in known]
    for flag, value in zip(rest, rest[1:], strict=False):
        if flag == "--preset" and value.islower() and value not in shipped("preset"):
            found.append(f"no preset {value}")
    return found


def targets() -> set[str]:
    return set(re.findall(r"^([a-z][\w-]*):", (REPO / "Makefile").read_text(encoding="utf-8"), re.M))


@pytest.mark.parametrize("path", DOCS, ids=lambda path: str(path.relative_to(REPO)))
def test_every_command_of_a_document_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    wrong = [
        f"sage-ray {' '.join(words)}: {p}" for words in commands(text, "sage-ray") for p in problems_of_verb(words)
    ]
    made = [word for words in commands(text, "make") for word in words[:1] if re.fullmatch(r"[a-z-]+", word)]
    wrong += [f"make {word}: no such target" for word in made if word not in targets()]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", DOCS, ids=lambda path: str(path.relative_to(REPO)))
def test_every_path_and_link_of_a_document_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    links = [link for link in LINK.findall(prose) if not link.startswith(("http://", "https://", "mailto:"))]
    made = {REPO / page for page in MADE_PAGES}
    dead = [link for link in links if not (path.parent / link).exists() and (path.parent / link).resolve() not in made]
    for span in CODE.findall(prose):
        word = span.split()[0]
        if word not in GENERATED and PATH.match(word) and word.split("/")[0] in TOP and "/" in word:
            dead += [word] if not any((parent / word).exists() for parent in PARENTS) else []
    assert not dead, "\n".join(dead)


def test_the_readme_names_every_verb_and_every_preset() -> None:
    text = (REPO / "README.md").read_text(encoding="utf-8")
    command: Any = typer.main.get_command(app)
    for name, verb in command.commands.items():
        inner = getattr(verb, "commands", None)
        names = [f"{name} {sub}" for sub in inner] if inner else [name]
        assert all(f"`sage-ray {full}`" in text for full in names), names
    assert all(f"`{name}`" in text for name in shipped("preset") if not name.startswith("tiny_"))


def test_the_settings_that_the_readme_recommends_resolve() -> None:
    text = (REPO / "README.md").read_text(encoding="utf-8")
    given = {pair.replace("=N", "=2") for pair in re.findall(r"--set ((?!base\.)[\w.]+=\w+)", text)}
    assert given
    # `resume --set` changes keys of a study's file beside.
    for pair in (pair for pair in given if pair.split("=")[0] not in OF_SEARCH):
        resolve("tiny_sage_gan", sets=[pair])


def test_the_rows_that_are_cited_lead_somewhere() -> None:
    """Rows of DISCREPANCIES.md: numbered without a gap, their settings exist, and no citation points past them."""
    text = (REPO / "docs" / "method" / "DISCREPANCIES.md").read_text(encoding="utf-8")
    rows = [re.split(r"\s*\|\s*", line.strip("| ")) for line in text.splitlines() if re.match(r"\| \d+ \|", line)]
    assert [int(row[0]) for row in rows] == list(range(1, len(rows) + 1))
    keys = known_paths()
    prefixes = {key.rsplit(".", depth)[0] for key in keys for depth in (1, 2)}
    for row in rows:
        assert len(row) == 5, row
        section = ""
        for name in re.findall(r"`([a-z]\w*\.[\w.*]+|\.\w+)`", row[4].partition("none")[0]):
            path = f"{section}{name}" if name.startswith(".") else name
            section = path.rpartition(".")[0]
            assert path in keys or path in prefixes or any(key.startswith(path.rstrip("*")) for key in keys), path
    sources = [p for top in ("sage_ray", "search_spaces", "analysis") for p in (REPO / top).rglob("*.[py]*")]
    cited = {
        int(number)
        for source in sources
        if source.suffix in (".py", ".yaml")
        for phrase in re.findall(r"\b[Rr]ows? (\d+(?:(?:, | and | to )\d+)*)", source.read_text(encoding="utf-8"))
        for number in re.findall(r"\d+", phrase)
    } - {0}  # "row 0" speaks of arrays
    assert len(cited) > 20 and max(cited) <= len(rows)


def test_the_pages_on_the_method_are_linked_from_the_readme() -> None:
    text = (REPO / "README.md").read_text(encoding="utf-8")
    assert all(f"(docs/method/{page.name})" in text for page in (REPO / "docs" / "method").glob("*.md"))


@pytest.mark.parametrize(
    "words",
    [["trian"], ["train", "--pre", "x"], ["data", "draw"], ["train", "--preset", "sage_gan"], ["sweep", "x", "-q"]],
)
def test_a_dead_command_is_seen(words: list[str]) -> None:
    assert problems_of_verb(words)


def test_commands_are_found_in_spans_blocks_and_behind_variables() -> None:
    block = "    SAGE_HOME=x sage-ray train --preset unet  # note\n\n```\nsage-ray list | head\n```\n"
    text = f"Run `sage-ray best first`.\n\n{block}"
    assert commands(text, "sage-ray") == [["best", "first"], ["train", "--preset", "unet"], ["list"]]


def test_every_make_target_is_described_and_every_script_parses() -> None:
    text = (REPO / "Makefile").read_text(encoding="utf-8")
    described = subprocess.run(["make", "-s", "help"], cwd=REPO, capture_output=True, text=True, check=True, timeout=30)
    for name in ("setup", "wheel", "demo", "docs", "test", "test-all", "bench", "tables", "lint"):
        assert re.search(rf"^{name} ", described.stdout, re.M)
    for script in re.findall(r"(?:scripts|benchmarks)/[\w/]+\.(?:py|sh)", text):
        assert (REPO / script).is_file(), script
    for shell in (REPO / ".ci" / "run", REPO / "scripts" / "setup.sh"):
        subprocess.run(["bash", "-n", str(shell)], check=True, timeout=30)
        assert shell.stat().st_mode & 0o111, f"{shell} is not executable"


def test_the_way_from_yaml_to_the_step_names_functions_that_are_where_it_says() -> None:
    page = (REPO / "docs" / "FROM_YAML_TO_STEP.md").read_text(encoding="utf-8")
    steps = re.findall(r"^\| \d+ \| `([\w/.]+)`(?: `(\w+)`)? \|", page, re.MULTILINE)
    assert len(steps) == 11
    for path, function in steps:
        source = (REPO / path).read_text(encoding="utf-8")
        assert not function or f"def {function}(" in source, (path, function)
