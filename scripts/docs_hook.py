"""What `make docs` adds to the pages of docs/: the generated reference, pages from outside docs/, and working links.

MkDocs calls the functions `on_files`, `on_page_markdown` and `on_post_build` of this module. The pages of settings and
commands are made of the models and of the command line at each build, so that they cannot be out of date.
"""

from __future__ import annotations

import posixpath
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from docs_messages import messages_page  # noqa: E402

OUTSIDE = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/**/*.md")
"""Pages of the repository that the site has under project/."""
FOUND_LAST = ("project/", "results/", "ARCHITECTURE", "STATUS", "FROM_YAML", "reference/python")
"""Pages for whoever programs or checks a result: whatever is searched for, those for users come first."""
ROWS = "../method/DISCREPANCIES.md"
SETTINGS = f"""\
# Settings

Every setting of a config, made of the models at each build. `sage-ray config show --explain adversarial.lambda_cycle`
prints the same words, `sage-ray config show --preset sage_gan_paper` all values of a preset. A value is given by
`--set adversarial.lambda_cycle=2`, or in a YAML file. Where a preset of the paper (`sage_gan_paper`) or of its public
code (`sage_gan_public`) has another value than the default, it is told. Rows are those of
[the table of disagreements]({ROWS}) between paper, code and log.
"""
STUDY_FILES = """\
# Files of searches and ablations

Every key of the YAML file of a search (`sage-ray sweep FILE`) or of an ablation (`sage-ray ablate FILE`), made of the
models at each build. Words in capitals stand for names: `space.SETTING.float` is `float` of a setting that is searched,
such as `space.adversarial.lr.float`. The shipped files in `search_spaces/` are examples of all of it;
`sage-ray plan FILE` checks a file without training.
"""
COMMANDS = """\
# Commands

Every verb of `sage-ray` with its arguments and options, made of the command line itself at each build;
`sage-ray VERB --help` prints the same. What an exit code means is said in
[When something goes wrong](../howto/what_went_wrong.md).
"""
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
FENCE = re.compile(r"^(```.*?^```)", re.M | re.S)


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages and those of the repository."""
    made = {
        "reference/settings.md": settings_page(),
        "reference/study_files.md": study_files_page(),
        "reference/commands.md": commands_page(),
        "reference/messages.md": messages_page(),
    }
    for path, text in made.items():
        files.append(File.generated(config, path, content=text))
    for page in outside_pages():
        name = page.relative_to(ROOT).as_posix()
        files.append(File.generated(config, f"project/{name}", content=page.read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page with links that lead to the site's pages; what is no page of the site keeps its name without a link."""
    path = page.file.src_uri
    if path.startswith(FOUND_LAST):
        page.meta.setdefault("search", {"boost": 0.3})
    parts = FENCE.split(markdown)
    parts[::2] = [LINK.sub(lambda match: site_link(match, path), lists_set_apart(part)) for part in parts[::2]]
    return "".join(parts)


def on_post_build(config: Any, **_: Any) -> None:
    """Write what is searched as a script, too: a page that was opened from a disk may load scripts and nothing else."""
    folder = Path(config.site_dir) / "search"
    words = (folder / "search_index.json").read_text(encoding="utf-8")
    (folder / "search_index.js").write_text(f"var __index = {words}\n", encoding="utf-8")


def outside_pages() -> list[Path]:
    return sorted(page for pattern in OUTSIDE for page in ROOT.glob(pattern))


def repository_path(path: str) -> str:
    """Where a page of the site lies in the repository."""
    return path.removeprefix("project/") if path.startswith("project/") else f"docs/{path}"


def site_path(path: str) -> str | None:
    """Where a file of the repository lies in the site; None if it is no part of it."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"project/{path}" if ROOT / path in outside_pages() else None


def site_link(match: re.Match[str], page: str) -> str:
    picture, text, target = match.groups()
    target, hash_, anchor = target.partition("#")
    if not target or target.startswith(("http://", "https://", "mailto:")):
        return match[0]
    if page.startswith("reference/") and not (ROOT / "docs" / page).exists():
        return match[0]
    file = posixpath.normpath(posixpath.join(posixpath.dirname(repository_path(page)), target))
    found = site_path(file)
    if found is None:
        return text if text.startswith("`") or picture else f"{text} (`{file}`)"
    return f"{picture}[{text}]({posixpath.relpath(found, posixpath.dirname(page) or '.')}{hash_}{anchor})"


def lists_set_apart(text: str) -> str:
    """A blank line before each list, and four spaces for what belongs to its items, as Markdown of old wants it."""
    done: list[str] = []
    for line in text.split("\n"):
        item = re.match(r"( *)(?:[-*]|\d+\.) ", line)
        before = done[-1] if done else ""
        starts = item and before.strip() and not re.match(r" *(?:[-*]|\d+\.) |  ", before)
        done += [""] * bool(starts and not before.startswith(("|", "    ")))
        # Two or three spaces: the rest of an item, or a list inside it.
        done.append(re.sub(r"^ {2,3}(?=\S)", "    ", line))
    return "\n".join(done)


# The reference


def settings_page() -> str:
    from sage_ray.terminal.setting_reference import section_meanings, setting_rows

    sections = section_meanings()
    rows = [row for row in setting_rows() if row.kind == "config"]
    lines = [SETTINGS]
    by_section: dict[str, list[Any]] = {}
    for row in rows:
        by_section.setdefault(row.path.rpartition(".")[0], []).append(row)
    # A section's own settings, then those of the sections inside it.
    for section in sorted(by_section, key=lambda name: list(by_section).index(name.partition(".")[0])):
        lines += [f"{'##' if '.' not in section else '###'} {section or 'seed'} {{ #{section or 'of-seed'} }}", ""]
        lines += [in_markdown(sections[section]), ""] if section in sections else []
        for row in by_section[section]:
            lines += list(_setting(row))
    return linked_rows("\n".join(lines))


def study_files_page() -> str:
    from sage_ray.terminal.setting_reference import KINDS, setting_rows

    lines = [STUDY_FILES]
    for kind in ("study", "search", "ablation"):
        lines += [f"## Keys of {KINDS[kind]} {{ #of-{kind} }}", ""]
        for row in setting_rows():
            if row.kind == kind:
                lines += list(_setting(row))
    return linked_rows("\n".join(lines))


def _setting(row: Any) -> Iterator[str]:
    yield f"#### `{row.path}` {{ #{row.path} .setting }}"
    yield ""
    yield in_markdown(row.meaning)
    yield ""
    facts = [row.type + (f": {', '.join(f'`{each}`' for each in row.range.split(', '))}" if _words(row) else "")]
    facts += [row.range] if row.range and not _words(row) else []
    facts += [f"default `{row.default}`" if row.default else "must be given"]
    facts += [f"{name} `{value}`" for name, value in row.presets.items()]
    yield f'{"; ".join(facts)}. <span class="source">{row.source.replace("docs/method/DISCREPANCIES.md, ", "")}</span>'
    yield "{ .facts }"
    yield ""


def _words(row: Any) -> bool:
    return "word" in row.type


def in_markdown(text: str) -> str:
    """A docstring's words with signs that Markdown would take for its own, outside of code, made harmless."""
    parts = re.split(r"(`[^`]*`)", text)
    parts[::2] = [re.sub(r"([*_<{\[|])", r"\\\1", part) for part in parts[::2]]
    return "".join(parts)


def linked_rows(text: str) -> str:
    """`row 27` as a link to the table that it is a row of."""
    return re.sub(r"\b([Rr]ows? \d+(?:(?:, | and )\d+)*)", rf"[\1]({ROWS})", text)


def commands_page() -> str:
    import typer.main

    from sage_ray.terminal.cli import app

    lines = [COMMANDS]
    shared = {"--home", "--json", "--quiet", "--help"}
    verbs = dict(_verbs(typer.main.get_command(app), ""))
    first = next(iter(verbs.values()))
    lines += ["Every verb takes these:", "", *_options([p for p in first.params if set(p.opts) & shared]), ""]
    for name, verb in verbs.items():
        own = [parameter for parameter in verb.params if not set(parameter.opts) & shared]
        usage = " ".join(["sage-ray", name, *(_usage(p) for p in own if p.param_type_name == "argument")])
        lines += [f"## {name} {{ #{name.replace(' ', '-')} }}", "", "```", f"{usage} [OPTIONS]", "```", ""]
        lines += [in_markdown(" ".join(part.split())) + "\n" for part in (verb.help or "").split("\n\n")]
        lines += [*_options(own), ""]
    return "\n".join(lines)


def _verbs(command: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, verb in command.commands.items():
        if getattr(verb, "commands", None):
            yield from _verbs(verb, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", verb


def _usage(parameter: Any) -> str:
    name = parameter.metavar or parameter.name.upper()
    name = f"{name}..." if parameter.nargs != 1 and not name.endswith("...") else name
    return name if parameter.required else f"[{name}]"


def _options(parameters: list[Any]) -> list[str]:
    if not parameters:
        return []
    rows = []
    for each in parameters:
        if getattr(each, "hidden", False):
            continue
        words = ", ".join([*each.opts, *each.secondary_opts]) if each.param_type_name == "option" else _usage(each)
        takes = "" if each.param_type_name == "argument" or getattr(each, "is_flag", False) else f" {_value_of(each)}"
        text = in_markdown(each.help or "").replace("|", "\\|")
        default = each.default if isinstance(each.default, str | int | float | Path) else None
        if default is not None and not isinstance(default, bool) and str(default) and "default" not in text:
            text += f" Default: `{default}`."
        rows.append(f"| `{words}{takes}` | {text} |")
    return ["| option | meaning |", "|---|---|", *rows, ""]


def _value_of(parameter: Any) -> str:
    """What stands for the value of an option, as in `--help`."""
    import typer.main

    from sage_ray.terminal.cli import app

    if parameter.metavar:
        return str(parameter.metavar)
    return (
        str(parameter.display_type(typer.Context(typer.main.get_command(app))))
        .strip("<>")
        .upper()
        .replace("STR", "TEXT")
    )
