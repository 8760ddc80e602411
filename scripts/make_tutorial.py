"""The tutorial notebook as a page: runs docs/tutorial/first_study.py in a kernel, writes first_study.md and pictures.

python scripts/make_tutorial.py           run it, and write the page with what came out
python scripts/make_tutorial.py --check   run nothing: does the page belong to the notebook as it is?
"""

from __future__ import annotations

import base64
import io
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jupytext
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

REPO = Path(__file__).resolve().parents[1]
SOURCE = REPO / "docs" / "tutorial" / "first_study.py"
PAGE = SOURCE.with_suffix(".md")
PICTURES = SOURCE.with_suffix("")
COLOURS = 48
"""Of a picture of the page: grey micrographs and a few colours need no more."""
NOTE = "<!-- Made from first_study.py by scripts/make_tutorial.py: change that, and make this anew. -->"
TIMEOUT_S = 900


def notebook() -> NotebookNode:
    """The notebook, without outputs."""
    return jupytext.read(SOURCE, fmt="py:percent")


def run(book: NotebookNode) -> NotebookNode:
    """Run all cells in a kernel, where the notebook lies."""
    client = NotebookClient(book, timeout=TIMEOUT_S, kernel_name="python3")
    # A backend of somebody's environment would draw no picture in a notebook.
    env = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    return client.execute(cwd=str(SOURCE.parent), env=env)


def inputs(book: NotebookNode) -> list[str]:
    """What the page shows of each cell, without what came out."""
    return [cell.source if cell.cell_type == "markdown" else f"```python\n{cell.source}\n```" for cell in book.cells]


def page(book: NotebookNode) -> str:
    """The page of a notebook that has run; its pictures are written beside it."""
    shutil.rmtree(PICTURES, ignore_errors=True)
    PICTURES.mkdir()
    parts = [NOTE]
    for shown, cell in zip(inputs(book), book.cells, strict=True):
        parts.append(shown)
        parts += outputs(cell)
    return without_places("\n\n".join(parts)) + "\n"


def outputs(cell: NotebookNode) -> Iterator[str]:
    """What came out of a cell, as markdown."""
    said = ""
    for out in cell.get("outputs", []):
        if out.output_type == "stream":
            said += out.text
            continue
        yield from [fenced(said)] if said else []
        said = ""
        if "image/png" in out.data:
            yield picture(out.data["image/png"])
        elif out.data.get("text/html", "<pre").startswith("<pre"):
            yield fenced(out.data["text/plain"])
        else:
            yield re.sub(r"<style.*?</style>\s*|\n\s*", "", out.data["text/html"], flags=re.S)
    yield from [fenced(said)] if said else []


def fenced(text: str) -> str:
    """Text as it is."""
    return f"```text\n{text.rstrip()}\n```"


def picture(encoded: str) -> str:
    """Write a PNG with few colours; returns the markdown that shows it."""
    path = PICTURES / f"{len(list(PICTURES.iterdir())) + 1}.png"
    shown = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")
    shown.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    return f"![What the cell draws]({PICTURES.name}/{path.name})"


def without_places(text: str) -> str:
    """The page without names of folders that are of this machine alone."""
    return re.sub(r"/tmp/tmp\w+", "/tmp/study", text.replace(f"{REPO}/", ""))


def is_current() -> bool:
    """Whether the page shows the cells of the notebook as they are now, in their order."""
    text, place = PAGE.read_text(encoding="utf-8"), 0
    for shown in inputs(notebook()):
        place = text.find(shown, place)
        if place < 0:
            return False
    return True


def main(words: list[Any]) -> int:
    """Exit code."""
    if words == ["--check"]:
        if not is_current():
            print(f"{PAGE.relative_to(REPO)} is older than the notebook: python scripts/make_tutorial.py")
            return 1
        return 0
    text = page(run(notebook()))
    PAGE.write_text(text, encoding="utf-8")
    size = sum(path.stat().st_size for path in [PAGE, *PICTURES.iterdir()])
    print(f"{PAGE.relative_to(REPO)} and {len(list(PICTURES.iterdir()))} pictures, {size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
