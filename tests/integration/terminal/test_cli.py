"""The command line: verbs and options of the contract, exit codes, one-line errors, JSON, and a quick --help."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

from sage_ray.config import resolve
from sage_ray.errors import NonFiniteLoss, RunFailed, UserError
from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder
from sage_ray.record.run_record import RunLabels
from sage_ray.terminal import shell
from sage_ray.terminal.cli import app, call
from sage_ray.terminal.shell import Answer, Session, answer_to, perform, plain
from sage_ray.terminal.verb_answers import status_of

COMMAND: Any = typer.main.get_command(app)
VERBS = (
    *("doctor", "config.show", "data.synth", "data.check", "data.fetch", "train", "plan", "sweep", "ablate", "resume"),
    *("stop", "gc", "list", "status", "sync", "best", "final", "compare", "promote", "evaluate", "generate"),
    *("predict", "report", "ui", "forget", "export", "fidelity"),
)


def command_of(verb: str) -> Any:
    command = COMMAND
    for part in verb.split("."):
        command = command.commands[part]
    return command


def run_cli(*args: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sage_ray", *args]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, cwd=cwd, stdin=subprocess.DEVNULL,
        env=os.environ | environment,
    )  # fmt: skip


# What scripts rely on: frozen here, so that a rename is a decision and no accident.
OPTIONS = {
    "doctor": {"--gradients", "--set"},
    "train": {"--preset", "-c", "--set", "--run-id"},
    "config.show": {"--preset", "-c", "--set"},
    "plan": {"--set", "--name", "--price", "--pilot", "--budget-gpu-hours", "--svg"},
    "sweep": {"--set", "--name"},
    "ablate": {"--set", "--name"},
    "final": {"--trial", "--seeds", "--model-name", "--preset", "-c", "--set"},
    "compare": {"--model-name"},
    "promote": {"--force", "--model-name"},
    "data.synth": {"--num", "--size", "--seed"},
    "data.check": {"--crop-bottom", "--masks", "--sheet"},
    "data.fetch": {"--sha256", "--from"},
    "export": {"-o", "--runs"},
    "gc": {"--yes", "--ends", "--cache", "--store"},
    "forget": {"--yes"},
    "fidelity": {
        "--data",
        "--draws",
        "--seed",
        "--features",
        "--feature-weights",
        "--lpips",
        "--judge",
        "--allow-seen",
    },
    "generate": {"-o", "--seed", "--count"},
    "ui": {"--mlflow-port", "--optuna-port"},
    "predict": {"-o", "--nm-per-pixel", "--crop-bottom", "--split"},
}


def test_the_verbs_are_those_of_the_contract() -> None:
    found = set()
    for name, command in COMMAND.commands.items():
        inner = getattr(command, "commands", None)
        found |= {f"{name}.{sub}" for sub in inner} if inner else {name}
    assert found == set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_has_its_options_and_a_help_text(verb: str) -> None:
    command = command_of(verb)
    options = {option for parameter in command.params for option in parameter.opts}
    assert {"--home", "--json", "--quiet"} | OPTIONS.get(verb, set()) <= options
    assert command.help and len(command.help.splitlines()[0]) > 20


IN_ORDER = (
    *("doctor", "train", "plan", "sweep", "ablate", "resume", "stop", "list", "status", "export", "gc", "forget"),
    *("sync", "best", "final", "compare", "promote", "evaluate", "fidelity"),
    *("generate", "predict", "report", "ui", "config", "data"),
)
"""As a study uses them, then the groups."""


def test_help_lists_the_verbs_in_the_order_of_a_study() -> None:
    done = subprocess.run([sys.executable, "-m", "sage_ray", "--help"], capture_output=True, text=True, timeout=60)
    words = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ") and line.split()]
    verbs = [word for word in words if word in IN_ORDER]
    assert verbs == list(IN_ORDER)


def test_help_answers_without_loading_what_only_verbs_need() -> None:
    """What makes `--help` quick: libraries that take seconds to import are imported inside the verbs that use them."""
    script = Path(sys.executable).with_name("sage-ray")
    done = subprocess.run([str(script), "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "sweep" in done.stdout
    code = "import sys; from sage_ray.terminal.cli import call; call(['--help']); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60).stdout.split()
    heavy = {"torch", "ray", "mlflow", "optuna", "numpy", "pandas", "pyarrow", "matplotlib", "scipy", "skimage"}
    assert "sage_ray.terminal.cli" in loaded and not heavy & set(loaded)
    ours = {name for name in loaded if name.startswith("sage_ray.")}
    rooms = {"models", "losses", "stages", "training", "runtime", "search", "registry", "analysis"}
    assert not {name.split(".")[1] for name in ours} & rooms, ours


def test_config_show_is_a_config_file_that_tells_origins(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert call(["config", "show", "--preset", "tiny_sage_gan", "--set", "seed=3", "--json"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    answer = json.loads(last)
    assert (answer["verb"], answer["ok"], answer["config"]["seed"]) == ("config show", True, 3)
    assert answer["origins"]["seed"] == "--set"
    path = tmp_path / "shown.yaml"
    path.write_text("\n".join(lines), encoding="utf-8")
    assert call(["config", "show", "-c", str(path), "--json"]) == 0
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert again["config_hash"] == answer["config_hash"]
    assert any("next: sage-ray train --preset tiny_sage_gan" in line for line in lines)


@pytest.mark.parametrize(
    "args",
    [
        ["report", "x"], ["report", "x", "--figures", "figures"], ["ui"], ["fidelity", "x"], ["best", "x"],
        ["final", "x"], ["compare"], ["promote"], ["evaluate", "x"], ["evaluate", "models:/x/1"], ["status", "x"],
        ["export", "x", "-o", "x.csv"], ["gc"], ["forget", "x"], ["sync"], ["predict", "x", "in", "-o", "out"],
        ["generate", "x", "in", "-o", "out"], ["resume", "x"], ["stop", "x"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_mistyped_home_is_not_made_by_what_only_reads(
    args: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path)
    assert call([*args, "--home", "mistyped"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["config", "show", "--preset", "sage_gan_papr"], "did you mean sage_gan_paper?"),
        (["config", "show", "--set", "segmenter.widht=3"], "did you mean segmenter.width?"),
        (["config", "show", "--set", "seed"], "section.key=value"),
        (["config", "show", "-c", "absent.yaml"], "absent.yaml"),
        (["train", "--preset", "tiny_sage_gan", "--set", "adversarial.lr=nan"], "adversarial.lr"),
        (["train", "--preset", "tiny_sage_gan", "--set", "data.path=nowhere"], "nowhere"),
        (["doctor", "--gradients", "sage_gan_publc"], "did you mean sage_gan_public?"),
        (["doctor", "--gradients", "absent.yaml"], "absent.yaml"),
        (["doctor", "--gradients", "tiny_unet", "--set", "segmenter.widht=3"], "did you mean segmenter.width?"),
        (["doctor", "--set", "seed=1"], "--gradients PRESET"),
        (["plan", "absent.yaml"], "absent.yaml"),
        (["sweep", "no_such_space"], "unknown space"),
        (["sweep", "ablate_tiny"], "run it with `sage-ray ablate`"),
        (["ablate", "search_tiny"], "run it with `sage-ray sweep`"),
        (["ablate", "ablate_tinny"], "did you mean ablate_tiny?"),
        (["ablate", "ablate_tiny", "--set", "reference=whole"], "unknown reference whole"),
        (["plan", "ablate_tiny", "--set", "arms.full.sett=3"], "did you mean set?"),
        (["final"], "give a study"),
        (["final", "study", "--preset", "unet"], "give a study"),
        (["final", "study", "--seeds", "a,b"], "such as 0,1,2"),
        (["final", "study", "--trial", "worst"], "best, base, or a trial's number"),
        (["resume", "nothing"], "no such study, run or final training"),
        (["status", "nothing"], "no such study, run or final training"),
        (["stop", "nothing"], "no such study"),
        (["best", "nothing"], "no such study"),
        (["report", "nothing"], "no such study"),
        (["data", "check", "nowhere"], "nowhere"),
        (["data", "fetch", "http://127.0.0.1:9/x.zip", "out"], "no check sum"),
        (["data", "fetch", "http://127.0.0.1:9/x.zip"], "no folder"),
        (["data", "fetch", "http://127.0.0.1:9/x.zip", "out", "--from", "x.zip"], "two addresses"),
        (["data", "fetch", "ftp://127.0.0.1/x.zip", "out", "--sha256", "0" * 64], "unsupported address"),
        (["data", "fetch", "emsp"], "did you mean emps?"),
        (["data", "fetch", "my.zip"], "known are emps, emps-140"),
        (["data", "fetch", "emps", "--sha256", "0" * 64], "needs no check sum"),
        (["data", "fetch", "emps", "--from", "no.zip"], "no such file"),
        (["evaluate", "no_such_model", "test"], "no_such_model"),
        (["predict", "no_such_model", "nowhere", "-o", "out"], "no such"),
        (["generate", "no_such_model", "nowhere", "-o", "out"], "no such"),
        (["compare"], "sage-gan"),
        (["promote"], "sage-gan"),
        (["trian"], "Did you mean 'train'?"),
        (["train", "--pressets", "x"], "--pressets"),
        (["data", "synth"], "OUT"),
        (["data", "synth", "out", "--num", "0"], "--num"),
        (["predict", "m", "i", "-o", "o", "--nm-per-pixel", "wide"], "nm-per-pixel"),
        (["predict", "m", "i", "-o", "o", "--nm-per-pixel", "0"], "nm-per-pixel"),
        (["predict", "m", "i", "-o", "o", "--nm-per-pixel", "1,117"], "decimals have a point"),
        (["predict", "m", "i", "-o", "o", "--crop-bottom", "some"], "give rows such as 64, or auto"),
    ],
)
def test_bad_input_is_one_line_on_stderr_and_exit_code_2(
    args: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call([*args, "--json"]) == 2
    out, err = capsys.readouterr()
    assert said in err
    assert len(err.splitlines()) == 1 and err.count(": ") >= 2, err
    assert "Traceback" not in out + err
    answer = json.loads(out.splitlines()[-1])
    assert answer["ok"] is False and answer["exit_code"] == 2 and answer["error"] == err.strip()


def test_a_home_that_cannot_be_written_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("a file where a folder should be")
    assert call(["train", "--preset", "tiny_unet", "--home", str(blocker / "home")]) == 2
    assert "home cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize(("preset", "verb"), [("tiny_gan", "generate"), ("tiny_unet", "predict")])
def test_status_of_a_run_advises_what_its_system_can_do(preset: str, verb: str, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.check_writable()
    run = RunFolder.create(home.runs, "done", resolve(preset=preset).config, RunLabels())
    run.set_state("COMPLETE", epoch=1, parameters={"generator" if preset == "tiny_gan" else "segmenter": 5})
    advised = status_of("done", Session("status", home.path, quiet=True)).next
    assert [words.split()[1] for words in advised] == [verb, *(["evaluate"] if verb == "predict" else [])]


@pytest.mark.parametrize("verb", ["report", "best", "stop"])
def test_a_run_where_a_study_is_wanted_is_told_as_what_it_is(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Home(tmp_path / "home")
    home.check_writable()
    RunFolder.create(home.runs, "done", resolve(preset="tiny_unet").config, RunLabels())
    assert call([verb, "done", "--home", str(home.path)]) == 2
    assert "it is a run, which `sage-ray status done` shows" in capsys.readouterr().err


def in_session(error: BaseException, tmp_path: Path, resumable: str | None = None) -> Answer:
    session = Session("train", tmp_path / "home", quiet=True)
    session.resumable = resumable
    return answer_to(error, session)


def test_each_kind_of_error_has_its_exit_code(tmp_path: Path) -> None:
    assert in_session(UserError("bad", "there", "mend"), tmp_path).exit_code == 2
    assert in_session(NonFiniteLoss("phase pretrain, epoch 3, step 7"), tmp_path).exit_code == 1
    assert in_session(RunFailed("worker died"), tmp_path).exit_code == 1
    assert in_session(KeyboardInterrupt(), tmp_path).exit_code == 130
    assert in_session(SystemExit(130), tmp_path).exit_code == 130
    assert in_session(ZeroDivisionError("bug"), tmp_path).exit_code == 1


def test_a_disk_that_takes_nothing_is_told_in_one_line_without_a_trace(tmp_path: Path) -> None:
    """Writing to a device that is always full, as a report, a figure or a table does on a full disk."""
    with pytest.raises(OSError, match="No space left") as full, open("/dev/full", "w") as device:
        device.write("a page")
        device.flush()
    answer = in_session(full.value, tmp_path)
    assert answer.error is not None and answer.error.startswith("cannot write (No space left on device): ")
    assert (answer.exit_code, answer.paths) == (2, {}) and "same command again" in answer.error
    assert not (tmp_path / "home").exists(), "no trace is written, for which there is no room either"


def test_an_interruption_where_nothing_is_resumed_says_what_to_do(tmp_path: Path) -> None:
    assert in_session(KeyboardInterrupt(), tmp_path).error == "interrupted; give the same command again"


def test_an_error_that_a_worker_raised_is_told_as_its_cause(tmp_path: Path) -> None:
    wrapped = RuntimeError("ray::train() many\nlines")
    wrapped.cause = UserError("bad", "there", "mend")  # type: ignore[attr-defined]
    answer = in_session(wrapped, tmp_path)
    assert (answer.exit_code, answer.error) == (2, "bad: there: mend")


def test_an_interruption_says_how_to_go_on(tmp_path: Path) -> None:
    answer = in_session(KeyboardInterrupt(), tmp_path, resumable="first")
    assert (answer.error, answer.next) == ("interrupted; nothing was begun", []), "there is nothing to resume yet"
    (tmp_path / "home" / "runs" / "first").mkdir(parents=True)
    (tmp_path / "home" / "runs" / "first" / "record.json").write_text("{}")
    answer = in_session(KeyboardInterrupt(), tmp_path, resumable="first")
    assert answer.error is not None and "sage-ray resume first --home" in answer.error
    assert answer.next == [f"sage-ray resume first --home {tmp_path / 'home'}"]


def test_an_unexpected_error_keeps_its_trace_under_the_home_or_elsewhere(tmp_path: Path) -> None:
    def broken() -> Answer:
        raise ZeroDivisionError("two\nlines")

    session = Session("train", tmp_path / "home", quiet=True)
    assert perform(session, broken, as_json=False) == 1
    trace = next((tmp_path / "home" / "errors").iterdir())
    assert "ZeroDivisionError: two" in trace.read_text() and "in broken" in trace.read_text()
    (tmp_path / "file").write_text("")
    elsewhere = in_session(ZeroDivisionError("x"), tmp_path / "file").paths["trace"]
    assert elsewhere.is_file()
    elsewhere.unlink()


def test_json_is_the_last_line_and_holds_plain_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np = pytest.importorskip("numpy")
    fields = {"value": float("nan"), "array": np.arange(3), "number": np.float32(0.5), "path": tmp_path, "t": (1, None)}
    session = Session("verb", tmp_path, quiet=False)
    assert perform(session, lambda: Answer(["a line"], fields, {"out": tmp_path}, ["sage-ray list"]), as_json=True) == 0
    out = capsys.readouterr().out.splitlines()
    answer = json.loads(out[-1])
    assert out[0] == "a line" and any(line.startswith("next: sage-ray list") for line in out)
    assert answer["value"] is None and answer["array"] == [0, 1, 2] and answer["number"] == 0.5
    assert answer["t"] == [1, None] and answer["path"] == answer["paths"]["out"] == str(tmp_path)
    assert {"verb", "ok", "home", "paths", "next"} <= set(answer)


def test_plain_reads_dataclasses_models_and_nested_containers() -> None:
    from sage_ray.sections import SplitConfig

    tree = plain({"a": Answer(["x"]), "split": SplitConfig(), "set": {1}})
    assert tree["a"]["lines"] == ["x"] and tree["split"]["test"] == 0.2 and tree["set"] == [1]


def test_control_characters_of_an_error_do_not_reach_the_terminal() -> None:
    assert shell.one_line("a\x1b[31m\nb\tc") == "a [31m b c"


def test_the_hint_names_the_home_only_if_it_is_not_the_usual_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Session("v", None, False).command("best s") == "sage-ray best s"
    assert Session("v", tmp_path / "other", False).command("best s") == "sage-ray best s --home other"
    monkeypatch.setenv("SAGE_HOME", str(tmp_path / "mine"))
    assert Session("v", None, False).command("best s") == "sage-ray best s"


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -m sage_ray config show | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.stdout.splitlines() == ["data:", "0"] and done.stderr == ""


def test_synth_then_check_end_by_naming_folder_and_next_step(tmp_path: Path) -> None:
    done = run_cli("data", "synth", "drawn", "--num", "3", "--size", "32", "--seed", "4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "data: drawn" in done.stdout and "next: sage-ray data check drawn" in done.stdout
    done = run_cli("data", "check", "drawn", "--json", cwd=tmp_path)
    answer = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0 and answer["pairs"] == 3 and answer["problems"] == []
    next((tmp_path / "drawn" / "masks").iterdir()).unlink()
    done = run_cli("data", "check", "drawn", cwd=tmp_path)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "image without mask" in done.stdout.lower() or "no mask" in done.stdout.lower(), done.stdout


def test_a_quiet_verb_prints_its_result_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    session = Session("verb", tmp_path, quiet=True)

    def work() -> Answer:
        session.watch.line("progress")
        return Answer(["result"])

    stdout = sys.stdout
    assert perform(session, work, as_json=False) == 0
    assert capsys.readouterr().out == "result\n" and sys.stdout is stdout
    loud = Session("verb", tmp_path, quiet=False)
    loud.watch.line("progress")
    assert capsys.readouterr().out == "progress\n"
