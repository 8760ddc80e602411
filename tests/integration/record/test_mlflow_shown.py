"""What a person sees of runs and studies in MLflow: params, data sets, test scores, descriptions, reports, views."""

from __future__ import annotations

import contextlib
import json
import math
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from mlflow_cases import CONFIG, client, finish, free_port, make, runs, start, stop, the_run
from sqlalchemy import create_engine
from study_cases import Study, tiny_space

from sage_ray.config import ExperimentConfig, flatten
from sage_ray.errors import UserError
from sage_ray.files import read_json, write_json
from sage_ray.record import mlflow_client
from sage_ray.record.home import Home
from sage_ray.record.mlflow_calls import NOTE, SIGNED
from sage_ray.record.mlflow_inputs import data_title
from sage_ray.record.mlflow_mirror import Mirror
from sage_ray.record.mlflow_params import nearest_preset, own_settings
from sage_ray.record.mlflow_reports import attach
from sage_ray.record.mlflow_views import STUDIES
from sage_ray.record.run_folder import RunFolder
from sage_ray.runtime.launch import default_run_id
from sage_ray.search.reconcile import take_up
from sage_ray.upkeep.mlflow_sync import sync

REPO = Path(__file__).resolve().parents[3]
PRINT = "0123456789abcdef"
PARTS = {"train": 5, "validation": 2, "test": 3, "unlabelled": 0}
DEFINITION = "mean over images, at 32x32 pixels"


def with_data(folder: RunFolder) -> RunFolder:
    folder.update(data_fingerprint=PRINT, split_id="s", parts=PARTS)
    return folder


def score(folder: RunFolder, dice: list[float], *, read: bool = True) -> None:
    """Rows of a locked test as `evaluate` stores them, of the model and of Otsu's threshold."""
    named = {"dice": dice, "tp": [8.0, 0.0, 2.0], "fp": [2.0, 0.0, 0.0], "fn": [0.0, 4.0, 0.0]}
    named["size_ks"] = [0.5, float("nan"), 0.1]
    folder.write_per_image(
        {"part": "test", "checkpoint": checkpoint, "image_sha": str(k), "score": name, "definition": DEFINITION}
        | {"value": value if checkpoint == "selected" else 0.0}
        for checkpoint in ("selected", "otsu")
        for name, values in named.items()
        for k, value in enumerate(values)
    )
    folder.update(test_reads=int(read))


def ablation(home: Home, arms: dict[str, dict[str, Any]], **facts: Any) -> Path:
    """The files of an ablation as its driver leaves them, as far as MLflow is told of them."""
    folder = home.studies / "parts"
    folder.mkdir(parents=True)
    (folder / "design.yaml").write_text("objective: {metric: val/dice, reduce: last}\narms: {}\n")
    listed = [{"name": name, "not_run": None, "levels": {}, **arm} for name, arm in arms.items()]
    write_json(folder / "study.json", {"format_version": 1, "kind": "ablation", "arms": listed, **facts})
    return folder


def test_a_run_of_an_ablation_shows_what_varies_and_little_more(home: Home) -> None:
    ablation(home, {"full": {"values": {}}, "plain": {"values": {"adversarial.lr": 0.5}, "label": "Without mixing"}})
    folder = with_data(make(home, "parts-plain-s0", study="parts", trial=1, arm="plain"))
    Mirror(home).push(folder)
    run = the_run(home, "parts-plain-s0")
    assert run.info.run_name == "Without mixing, s0 of parts"
    lr = str(CONFIG.adversarial.lr)
    assert run.data.params == {
        **{"adversarial.lr": lr, "arm": "plain", "seed": "0"},
        **{"system": "sage_gan", "nearest_preset": "sage_gan_paper"},
    }
    inputs = {each.dataset.name: (each.dataset.digest, each.tags[0].value) for each in run.inputs.dataset_inputs}
    assert len(inputs) == 3 and set(inputs.values()) == {(PRINT, "training"), (PRINT, "validation"), (PRINT, "test")}
    assert any(name.endswith(", 5 training images") for name in inputs)
    # The study goes on with one more arm: its setting is shown from then on, and what is there is left.
    facts = dict(read_json(home.studies / "parts" / "study.json"))
    more = {"name": "slow", "not_run": None, "levels": {}, "values": {"pretrain.epochs": 9}}
    write_json(home.studies / "parts" / "study.json", facts | {"arms": [*facts["arms"], more]})
    assert Mirror(home).push(folder) and not Mirror(home).push(folder)
    assert the_run(home, "parts-plain-s0").data.params["pretrain.epochs"] == "2"
    # Its arm is given another label: the run is called by it, unless a person has named the run.
    plain = facts["arms"][1]
    write_json(home.studies / "parts" / "study.json", facts | {"arms": [plain | {"label": "No mixing"}]})
    assert Mirror(home).push(folder) and not Mirror(home).push(folder)
    assert the_run(home, "parts-plain-s0").info.run_name == "No mixing, s0 of parts"
    client(home).update_run(run.info.run_id, name="for the paper")
    write_json(home.studies / "parts" / "study.json", facts)
    assert Mirror(home).push(folder) and not Mirror(home).push(folder)
    assert the_run(home, "parts-plain-s0").info.run_name == "for the paper"
    (home.studies / "parts").rename(home.path / "gone")
    assert not Mirror(home).push(folder)


def test_a_run_of_its_own_shows_what_differs_from_its_preset(home: Home) -> None:
    Mirror(home).push(make(home, "alone"))
    params = the_run(home, "alone").data.params
    shown = {"pretrain.epochs": "2", "adversarial.epochs": "3", "nearest_preset": "sage_gan_paper"}
    assert shown.items() <= params.items() and len(params) < 8 and "preset" not in params
    assert nearest_preset(ExperimentConfig()) == "sage_gan_paper" and not own_settings(ExperimentConfig())


def test_the_preset_is_the_one_that_was_begun_from_or_is_called_the_nearest(home: Home) -> None:
    # A run of its own that was made from a preset has it in its id, whatever preset it resembles by now.
    run_id = default_run_id(CONFIG, "tiny_unet")
    Mirror(home).push(make(home, run_id))
    params = the_run(home, run_id).data.params
    assert params["preset"] == "tiny_unet" and "nearest_preset" not in params
    assert "segmenter.base_channels" in params or len(params) > 8, "what differs from that preset"
    Mirror(home).push(make(home, run_id.replace("tiny_unet", "mine")))
    assert the_run(home, run_id.replace("tiny_unet", "mine")).data.params["nearest_preset"] == "sage_gan_paper"
    # Of a study its file says it, for arms that have another preset as well.
    begun = {"base": "tiny_sage_gan", "arms": {"plain": "tiny_unet"}}
    ablation(home, {"full": {"values": {}}, "plain": {"values": {}}}, presets=begun)
    for arm, preset in (("full", "tiny_sage_gan"), ("plain", "tiny_unet")):
        Mirror(home).push(make(home, f"parts-{arm}-s0", study="parts", arm=arm))
        assert the_run(home, f"parts-{arm}-s0").data.params["preset"] == preset
    Mirror(home).push(make(home, "final-parts-s0", study="parts", arm="final", parent="final-parts"))
    assert "preset" not in the_run(home, "final-parts-s0").data.params, "nobody knows of which arm it is"


def test_locked_test_scores_are_told_once_they_were_read(home: Home) -> None:
    folder = make(home)
    score(folder, [0.9, 0.1, 0.8], read=False)
    finish(folder)
    Mirror(home).push(folder)
    assert not [name for name in the_run(home).data.metrics if name.startswith("test/")]
    score(folder, [0.9, 0.1, 0.8])
    assert Mirror(home).push(folder)
    found = {name: value for name, value in the_run(home).data.metrics.items() if name.startswith("test/")}
    # Pooled: hits 10, false 2, missed 4; the KS of the one image without particles is left out.
    assert found == pytest.approx({"test/dice": 0.6, "test/f1_pixel": 20 / 26, "test/size_ks": 0.3})


def test_runs_that_begin_together_all_have_their_data(home: Home) -> None:
    folders = [with_data(make(home, f"run-{number}")) for number in range(6)]
    _ = Mirror(home).client
    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(lambda folder: Mirror(home).push(folder), folders))
    assert {len(run.inputs.dataset_inputs) for run in runs(home)} == {3}


def as_before(folder: RunFolder, home: Home) -> None:
    """What an earlier release had sent of a run: every setting as a param, more tags, no data set."""
    Mirror(home).push(folder)
    run, cursor = the_run(home, folder.run_id), dict(read_json(folder.path / "mlflow.json"))
    for name, value in flatten(folder.config().identity()).items():
        if name not in run.data.params:
            client(home).log_param(run.info.run_id, name, value if isinstance(value, str) else json.dumps(value))
    client(home).set_tag(run.info.run_id, "sage.numerics", "{}")
    before = {name: value for name, value in cursor.items() if name not in ("asked", "inputs", "note", "name")}
    write_json(folder.path / "mlflow.json", {**before, "tags": {**cursor["tags"], "sage.numerics": "{}"}})


def test_what_an_earlier_release_sent_is_completed_and_not_doubled(home: Home) -> None:
    folder = make(home)
    finish(folder)
    as_before(folder, home)
    with_data(folder)
    before = the_run(home)
    assert sync(home).sent == ["run-1"] and sync(home).sent == []
    after = the_run(home)
    assert after.info.run_id == before.info.run_id and len(runs(home)) == 1
    assert before.data.params.items() <= after.data.params.items() and len(before.data.params) > 100
    assert after.data.metrics == before.data.metrics and len(after.inputs.dataset_inputs) == 3
    (folder.path / "mlflow.json").unlink()  # the cursor is lost, too
    assert sync(home).sent == ["run-1"] and sync(home).failed == {} and len(runs(home)) == 1


@pytest.fixture
def study(home: Home, tmp_path: Path) -> Study:
    """A search of one trial that has ended."""
    made = Study(home, tiny_space(tmp_path, trials=1, points=[{}]), running=1)
    made.train(0)
    take_up(made.storage, made.folder, made.space)
    return made


def parent_of(home: Home, name: str = "tiny") -> Any:
    (found,) = [run for run in runs(home) if run.info.run_name == name]
    return found


def test_a_study_says_what_was_asked_what_came_out_and_how_to_go_on(home: Home, study: Study, tmp_path: Path) -> None:
    score(RunFolder(home.runs / "tiny-t0000-s0"), [0.9, 0.1, 0.8])
    sync(home)
    parent = parent_of(home)
    assert parent.data.metrics["test/dice"] == pytest.approx(0.6)
    assert [parent.data.metrics[f"trials/{name}"] for name in ("wanted", "complete", "pruned", "failed")] == [
        1,
        1,
        0,
        0,
    ]
    assert parent.data.params["preset"] == "tiny_sage_gan" and parent.data.params["pretrain.epochs"] == "1"
    note = parent.data.tags[NOTE]
    for said in ("Best val/dice", "1 of 1 trials complete", "`adversarial.lr`: 1e-05 to 0.001, on a log scale", SIGNED):
        assert said in note
    assert "sage-ray final tiny" in note and "Its locked test: Dice 0.6000" in note and len(note) < 2000
    tags = client(home).get_experiment(parent.info.experiment_id).tags
    view = json.loads(json.loads(tags[f"mlflow.sharedViewState.{STUDIES}"])["state"])
    assert "metrics.`best/objective`" in view["selectedColumns"]
    # A score that is not one of the best trial any more is shown no longer.
    RunFolder(home.runs / "tiny-t0000-s0").update(test_reads=0)
    sync(home)
    now = parent_of(home).data.metrics
    assert math.isnan(now["test/dice"]) and now["best/objective"] == parent.data.metrics["best/objective"]
    assert sync(home).parents == []
    # What a person writes there stays.
    client(home).set_tag(parent.info.run_id, NOTE, "for the group meeting")
    (study.folder.path / "mlflow.json").unlink()
    sync(home)
    assert parent_of(home).data.tags[NOTE] == "for the group meeting"


def reports_of(home: Home) -> set[str]:
    return {file.path for file in client(home).list_artifacts(parent_of(home).info.run_id, "report")}


def test_reports_are_attached_and_survive_an_mlflow_that_is_away(
    home: Home, study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, outside = home.path / "reports" / "tiny.md", tmp_path / "tiny.html"
    inside.parent.mkdir()
    inside.write_text("# tiny\n")
    outside.write_text("<p>tiny</p>\n")
    said: list[str] = []
    attach(home, "tiny", [inside], say=said.append)  # nothing of the home has been sent yet
    assert said == []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    attach(home, "tiny", [outside], say=said.append)
    assert len(said) == 1 and "sage-ray sync" in said[0]
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    sync(home)
    assert reports_of(home) == {"report/tiny.md", "report/tiny.html"}
    assert sync(home).parents == []
    inside.write_text("# tiny, once more\n")
    attach(home, "tiny", [inside], say=said.append)
    stored = client(home).download_artifacts(parent_of(home).info.run_id, "report/tiny.md", str(tmp_path))
    assert Path(stored).read_text() == "# tiny, once more\n" and len(said) == 1
    with pytest.raises(UserError, match="no such study or final training: tiney"):
        attach(home, "tiney", [inside])
    with pytest.raises(UserError, match="no such report file"):
        attach(home, "tiny", [tmp_path / "gone.html"])


def test_every_search_of_the_docs_finds_what_it_says(home: Home, study: Study) -> None:
    text = (REPO / "docs" / "mlflow.md").read_text(encoding="utf-8")
    queries = re.findall(r"^\| `` (.+?) `` \|", text, re.MULTILINE)
    ablation(home, {"full": {"values": {}}, "no_mixing": {"values": {"pretrain.epochs": 2}}}, reference="full")
    for arm in ("full", "no_mixing"):
        folder = with_data(make(home, f"parts-{arm}-s0", study="parts", arm=arm, trial=0))
        score(folder, [0.9, 0.9, 0.9])
        finish(folder)
    failed = make(home, "failed")
    failed.set_state("FAIL", error="diverged: phase pretrain, epoch 2")
    finish(make(home, "alone"))
    sync(home)
    c = client(home)
    where = [mlflow_client.experiment_id(c, home)]
    assert len(queries) >= 10
    for query in queries:
        filled = query.replace("FINGERPRINT", PRINT).replace("DATA", data_title(CONFIG.data.path))
        filled = filled.replace("CONFIG_HASH", CONFIG.config_hash()).replace("STUDY", "tiny")
        filled = filled.replace("> 0.5", "> 0.001")  # of a training of two epochs
        assert c.search_runs(where, filled), f"{query} finds nothing"


def test_a_report_in_markdown_is_attached_with_its_pictures(home: Home, study: Study, tmp_path: Path) -> None:
    page, figures = home.path / "reports" / "tiny.md", home.path / "reports" / "tiny-1"
    figures.mkdir(parents=True)
    names = ("forest.svg", "a b.png", "unnamed.svg")
    for name in names:
        (figures / name).write_text(name)
    (tmp_path / "outside.svg").write_text("outside")
    pictures = "![Dice +.1 [0, .2].](tiny-1/forest.svg) and ![b](tiny-1/a%20b.png)\n![c](tiny-1/gone.svg)\n"
    page.write_text(f"# tiny\n{pictures}![d](../../outside.svg) ![e](https://example.org/e.svg)\n")
    attach(home, "tiny", [page])
    sync(home)
    run_id = parent_of(home).info.run_id
    assert reports_of(home) == {"report/tiny.md", "report/tiny-1"}
    sent = {file.path for file in client(home).list_artifacts(run_id, "report/tiny-1")}
    assert sent == {"report/tiny-1/forest.svg", "report/tiny-1/a b.png"}
    # What an earlier release has sent without its pictures, the next sync completes.
    noted = read_json(home.studies / "tiny" / "mlflow_reports.json")["files"]
    (text, mark), = noted.items()  # fmt: skip
    write_json(home.studies / "tiny" / "mlflow_reports.json", {"files": {text: " ".join(mark.split()[:3])}})
    assert sync(home).parents == ["tiny"] and sync(home).parents == []
    (figures / "forest.svg").write_text("drawn anew")
    assert sync(home).parents == ["tiny"]
    stored = client(home).download_artifacts(run_id, "report/tiny-1/forest.svg", str(tmp_path))
    assert Path(stored).read_text() == "drawn anew"


FORBIDDEN = ("View run", "View experiment", "alembic", "INFO mlflow", "WARNING mlflow", "UserWarning", "FutureWarning")
FORBIDDEN += ("urllib3", "Retrying", "Traceback", "SADeprecation", "psycopg.", "out-of-date")
FORBIDDEN += ("Downloading artifacts", "Uploading", "DeprecationWarning", "🏃", "🧪", "sqlalchemy", "Created version")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    uri = f"http://127.0.0.1:{free_port()}"
    process = start(uri, tmp_path)
    yield uri
    stop(process)


SENDS = """
import sys
from pathlib import Path
from sage_ray.record.home import Home
from sage_ray.record.mlflow_reports import attach
from sage_ray.terminal.cli import call
home, report = sys.argv[1:]
assert call(["sync", "--home", home]) == 0
attach(Home(home), "tiny", [Path(report)])
"""


@pytest.mark.timeout(400)
def test_lines_of_mlflow_are_never_printed(home: Home, server: str, tmp_path: Path) -> None:
    Study(home, tiny_space(tmp_path, trials=1), running=0)
    finish(with_data(make(home, "tiny-t0000-s0", study="tiny", trial=0)))
    report = tmp_path / "report.md"
    report.write_text("# tiny\n")
    train = ["-m", "sage_ray", "train", "--preset", "tiny_unet", "--set", "pretrain.epochs=1", "--home", str(home.path)]
    train += ["--set", "data.path=synthetic://ordered?num=8&size=32&seed=0", "--set", "data.image_size=[32,32]"]
    plain = {name: text for name, text in os.environ.items() if not name.startswith(("MLFLOW_", "GIT_PYTHON"))}
    # The first makes the database of the home, the second sends all of it to the server.
    for words, place in ((train, {}), (["-c", SENDS, str(home.path), str(report)], {"MLFLOW_TRACKING_URI": server})):
        done = subprocess.run(
            [sys.executable, *words], capture_output=True, text=True, env={**plain, **place}, timeout=180, check=False
        )
        said = done.stdout + done.stderr
        assert done.returncode == 0, said
        assert not [line for line in FORBIDDEN if line in said], said
    assert "2 runs sent" in said


EARLIER = "1b5f0d9ad7c1"
"""Version of the tables of an MLflow before the one that is installed."""
VERBS = (
    *("list", "status tiny", "sync", "compare", "promote", "best tiny", "export tiny -o {out}/t.csv", "report tiny"),
    *("evaluate tiny-t0000-s0", "predict models:/sage-gan@1 {out} -o {out}/p", "fidelity models:/sage-gan@1"),
    *("generate models:/sage-gan@1 {out} -o {out}/g", "forget tiny", "forget tiny --yes", "gc"),
)
CALLS = """
import sys
from sage_ray.terminal.cli import call
for line in sys.argv[1:]:
    print("now:", line, flush=True)
    call(line.split())
"""


def earlier_database(file: Path) -> None:
    """An MLflow database whose tables have to be brought up to date first."""
    from alembic import command
    from mlflow.store.db import utils

    file.parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(f"sqlite:///{file}")
    utils.InitialBase.metadata.create_all(engine)
    config = utils._get_alembic_config(f"sqlite:///{file}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, EARLIER)
    engine.dispose()


@pytest.mark.timeout(400)
@pytest.mark.parametrize("store", ["earlier elsewhere", "server away", "database away"])
def test_no_verb_prints_a_line_of_mlflow_whatever_its_store_is_like(home: Home, tmp_path: Path, store: str) -> None:
    Study(home, tiny_space(tmp_path, trials=1), running=0)
    finish(with_data(make(home, "tiny-t0000-s0", study="tiny", trial=0)))
    file = tmp_path / "elsewhere.db"
    places = {
        "earlier elsewhere": {"MLFLOW_TRACKING_URI": f"sqlite:///{file}"},
        "server away": {"MLFLOW_TRACKING_URI": f"http://ann:hush-hush@127.0.0.1:{free_port()}/?token=hush-too"},
        "database away": {"MLFLOW_TRACKING_URI": f"postgresql://ann:hush-hush@127.0.0.1:{free_port()}/x"},
    }
    if store == "earlier elsewhere":
        earlier_database(file)
        earlier_database(home.path / "mlflow.db")  # for the terminal
    plain = {name: text for name, text in os.environ.items() if not name.startswith(("MLFLOW_", "GIT_PYTHON"))}
    plain |= {"SAGE_HOME": str(home.path), **places[store]}
    words = [sys.executable, "-c", CALLS, *(line.format(out=tmp_path) for line in VERBS)]
    begun = time.monotonic()
    piped = subprocess.run(words, capture_output=True, text=True, env=plain, timeout=180, check=False)
    took, said = time.monotonic() - begun, piped.stdout + piped.stderr
    assert piped.returncode == 0 and "now: gc" in said, said
    if store == "earlier elsewhere":  # the same into a terminal, where MLflow would also show bars of progress
        said += in_a_terminal(words, {name: text for name, text in plain.items() if name != "MLFLOW_TRACKING_URI"})
        assert said.count("now: gc") == 2, said
    assert not [line for line in FORBIDDEN if line in said], said
    assert "hush" not in said and took < 150, said
    kept = [each for each in home.path.rglob("*") if each.is_file() and each.suffix in (".json", ".txt", ".md", ".log")]
    assert kept and not [each for each in kept if "hush" in each.read_text(errors="replace")]


def in_a_terminal(words: Sequence[str], environment: Mapping[str, str]) -> str:
    """All that a command writes to a terminal."""
    said, (ours, theirs) = b"", pty.openpty()
    with subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, env=environment):
        os.close(theirs)
        with contextlib.suppress(OSError):  # how a terminal says that its last program has ended
            while read := os.read(ours, 65536):
                said += read
        os.close(ours)
    return said.decode(errors="replace")
