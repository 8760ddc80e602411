"""Commands of the documentation: each is taken by the real command line, and those that train nothing are run."""

from __future__ import annotations

import re
import shlex
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.main
import yaml

from sage_ray.config import resolve
from sage_ray.data.synth import write_dataset
from sage_ray.study.design import load_spec
from sage_ray.terminal.cli import app, call

REPO = Path(__file__).resolve().parents[2]
PAGES = [REPO / "README.md", *sorted((REPO / "docs").rglob("*.md"))]
NEW = [page for page in PAGES if page.parent.name in ("howto", "explanation", "tutorial")]
ARCHIVE = REPO / "tests" / "data" / "home-b73245d.tar.xz"
NAMES = {"first": "old-search", "parts": "old-ablation", "RUN": "old-run"}
"""Studies and runs of the documentation, and what stands for them in the home of the tests."""
TRAINS = ("train", "sweep", "ablate", "resume", "final", "fidelity", "predict", "generate", "evaluate", "promote")
"""Verbs that train, or need a model that was trained at some size; they have tests of their own."""
SLOW = ("data fetch", "doctor", "plan", "sync", "stop", "ui")
"""Verbs that ask a network or a machine, or measure; they have tests of their own, and `plan` one below."""


def shell_lines(text: str) -> Iterator[str]:
    """Lines of the blocks of shell commands, those that go on in the next line put together, without what follows #."""
    for block in re.findall(r"^```(?:bash|sh|shell)\n(.*?)^```", text, re.M | re.S):
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            yield re.split(r"\s#\s", line)[0].strip()


def words_of(page: Path) -> list[list[str]]:
    """Words after `sage-ray` of each command of a page; without those that have shell variables or are cut short."""
    lines = [line for line in shell_lines(page.read_text(encoding="utf-8")) if line.startswith("sage-ray ")]
    return [shlex.split(line)[1:] for line in lines if not any(sign in line for sign in ("$", "|", "..."))]


def taken(words: list[str]) -> None:
    """Have the command line read the words as it would, up to the point where the verb would begin."""
    command: Any = typer.main.get_command(app)
    context, rest = typer.Context(command, info_name="sage-ray"), list(words)
    while getattr(command, "commands", None):
        name, command, rest = command.resolve_command(context, rest)
        if getattr(command, "commands", None):
            context = typer.Context(command, info_name=name)
    command.make_context(words[0], rest)


ALL = [(page, words) for page in PAGES for words in words_of(page)]


def test_the_pages_have_commands() -> None:
    assert len(ALL) > 80 and len(NEW) > 12


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))
def test_the_command_line_takes_every_command_of_a_page(page: Path) -> None:
    refused = []
    for words in words_of(page):
        try:
            taken(words)
        except Exception as error:
            refused.append(f"sage-ray {shlex.join(words)}: {error}")
    assert refused == []


@pytest.mark.parametrize(
    "words", [["sweep"], ["data", "synth", "x", "--num", "many"], ["best", "a", "b"], ["list", "--x"]]
)
def test_a_command_that_is_not_taken_is_seen(words: list[str]) -> None:
    with pytest.raises(Exception, match=r"(?i)missing|invalid|valid|unexpected|no such|expected"):
        taken(words)


def test_every_setting_that_a_page_sets_is_taken_with_its_value() -> None:
    """`--set` of commands that start from a config, each with the preset of its command."""
    checked = 0
    for page, words in ALL:
        presets = [value for flag, value in zip(words, words[1:], strict=False) if flag == "--preset"]
        sets = [value for flag, value in zip(words, words[1:], strict=False) if flag == "--set"]
        if words[0] == "train" and presets:
            resolve(presets[0], sets=sets)
            checked += 1
        elif words[0] in ("plan", "sweep", "ablate") and re.fullmatch(r"(search|ablate)_\w+", words[1]):
            load_spec(words[1], [text for text in sets if not text.startswith("data.path")])
            checked += 1
        assert all("=" in text for text in sets), (page, words)
    assert checked >= 20


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the pages suppose it: images in my_data, a home with two studies."""
    folder = tmp_path_factory.mktemp("pages")
    with tarfile.open(ARCHIVE) as tar:
        tar.extractall(folder, filter="data")
    shutil.move(folder / "home", folder / "sage_runs")
    write_dataset(folder / "my_data", 8, 128, 0)
    return folder


def is_cheap(words: list[str]) -> bool:
    verb = " ".join(words[:2]) if words[0] in ("data", "config") else words[0]
    return verb not in TRAINS and verb not in SLOW


CHEAP = sorted({tuple(words) for page in NEW for words in words_of(page) if is_cheap(words)})


@pytest.mark.parametrize("words", CHEAP, ids=shlex.join)
def test_commands_that_train_nothing_end_well(
    words: tuple[str, ...], place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    code = call([NAMES.get(word, word) for word in words])
    said = capsys.readouterr()
    assert code == 0, said.err
    assert said.out.strip()


def test_the_files_that_a_page_shows_can_be_read(tmp_path: Path) -> None:
    """YAML of the how-tos: keys of a study's file, with a space or arms put beside them where the page has none."""
    from sage_ray.study.design_schema import DesignFile
    from sage_ray.study.file_schema import SpaceFile, parse_file

    shown = [block for page in NEW for block in re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.M | re.S)]
    assert len(shown) >= 2
    for block in shown:
        tree = yaml.safe_load(block)
        if "arms" in tree:
            parse_file(DesignFile, tree, "page")
        else:
            space = {"name": "page", "trials": 4, "space": {"pretrain.lr": {"float": [1e-5, 1e-3], "log": True}}}
            parse_file(SpaceFile, space | tree, "page")


def test_the_network_of_the_page_is_a_segmenter() -> None:
    """The class of docs/howto/own_network.md does what the page promises."""
    import torch

    page = (REPO / "docs" / "howto" / "own_network.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    names: dict[str, Any] = {}
    exec(compile(blocks[0], "own_network.md", "exec"), names)
    network = names["FlatNet"](width=4).eval()
    assert network(torch.zeros(1, 1, 17, 33)).shape == (1, 2, 17, 33)
    # As tests/contracts/test_models.py asks of every network, which the page tells its reader to run.
    image = torch.rand(1, 1, 29, 37)
    padded = torch.nn.functional.pad(image, (0, 11, 0, 3), mode="reflect")
    assert torch.equal(network(image), network(padded)[..., :29, :37])
    assert all(f"`{path}`" in page for path in ("sage_ray/models/__init__.py", "sage_ray/network_sections.py"))


def test_the_loss_of_the_page_is_zero_for_a_perfect_mask_and_finite_without_particles() -> None:
    import torch

    from sage_ray.losses.functional import OverlapSums

    page = (REPO / "docs" / "howto" / "own_loss.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {"OverlapSums": OverlapSums, "Tensor": torch.Tensor}
    exec(compile(re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)[0], "own_loss.md", "exec"), names)
    zero = torch.tensor(0.0)
    assert names["size_loss"](OverlapSums(torch.tensor(9.0), zero, zero)) == 0
    assert names["size_loss"](OverlapSums(zero, torch.tensor(3.0), zero)) == 9
    assert float(names["size_loss"](OverlapSums(torch.tensor(3.0), zero, torch.tensor(6.0)))) == pytest.approx(0.36)
