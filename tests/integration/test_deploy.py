"""deploy/: every file is one that its program takes, names what exists, and pins this version."""

from __future__ import annotations

import copy
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer.main
import yaml
from deploy_schemas import KINDS

from sage_ray import __version__
from sage_ray.config import shipped
from sage_ray.record.home import place_of_home
from sage_ray.record.store_uris import is_http
from sage_ray.terminal.cli import app

REPO = Path(__file__).resolve().parents[2]
DEPLOY = REPO / "deploy"
SHELL = sorted([*DEPLOY.rglob("*.sh"), *DEPLOY.rglob("*.sbatch")])
YAML = sorted(DEPLOY.rglob("*.yaml"))
FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file())
SOURCED = {"drive.sh"}
BIN = Path(sys.executable).parent
PINS = dict(line.split("==") for line in (REPO / "constraints.txt").read_text().splitlines() if "==" in line)


def named(path: Path) -> str:
    return str(path.relative_to(DEPLOY))


def objects_of(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def check_object(tree: dict[str, Any]) -> None:
    """Raise jsonschema.ValidationError if Kubernetes or KubeRay would refuse it."""
    jsonschema.Draft202012Validator(KINDS[tree["kind"]]).validate(tree)


@pytest.mark.parametrize("path", SHELL, ids=named)
def test_a_script_parses_is_executable_and_is_sound(path: Path) -> None:
    subprocess.run(["bash", "-n", str(path)], check=True, timeout=30)
    assert path.name in SOURCED or path.stat().st_mode & 0o111, f"{path} is not executable"
    words = [str(BIN / "shellcheck"), "--external-sources", "--source-path=SCRIPTDIR", str(path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


def test_shellcheck_sees_an_unquoted_variable(tmp_path: Path) -> None:
    (tmp_path / "bad.sh").write_text("#!/usr/bin/env bash\nrm -rf $1/\n")
    done = subprocess.run([str(BIN / "shellcheck"), str(tmp_path / "bad.sh")], capture_output=True, check=False)
    assert done.returncode == 1 and b"SC2086" in done.stdout


@pytest.mark.parametrize("path", [p for p in YAML if p.parent.name == "kubernetes"], ids=named)
def test_every_object_of_kubernetes_is_one_that_it_takes(path: Path) -> None:
    for tree in objects_of(path):
        check_object(tree)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("spec.backofLimit", 3),
        ("spec.submissionMode", "JobMode"),
        ("spec.rayClusterSpec.rayVersion", 2.60),
        ("spec.rayClusterSpec.autoscalerOptions.version", "v3"),
        ("spec.rayClusterSpec.headGroupSpec.rayStartParams.num-cpus", 0),
        ("spec.rayClusterSpec.headGroupSpec.template.spec.restartPolicy", "Always"),
        ("metadata.name", "Sage_First"),
    ],
)
def test_what_kuberay_would_refuse_is_seen(place: str, value: Any) -> None:
    tree = copy.deepcopy(objects_of(DEPLOY / "kubernetes" / "rayjob.yaml")[0])
    *parents, key = place.split(".")
    inner = tree
    for parent in parents:
        inner = inner[parent]
    inner[key] = value
    with pytest.raises(jsonschema.ValidationError):
        check_object(tree)


def test_the_ray_job_resumes_scales_from_zero_and_keeps_its_secrets_elsewhere() -> None:
    (job,) = objects_of(DEPLOY / "kubernetes" / "rayjob.yaml")
    spec = job["spec"]
    cluster = spec["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    head = cluster["headGroupSpec"]
    assert spec["backoffLimit"] > 0 and spec["submissionMode"] == "K8sJobMode" and spec["shutdownAfterJobFinishes"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert (workers["minReplicas"], workers["replicas"]) == (0, 0) and workers["maxReplicas"] > 0
    assert cluster["enableInTreeAutoscaling"] and cluster["autoscalerOptions"]["version"] == "v2"
    assert cluster["authOptions"] == {"mode": "token", "secretName": "sage-ray-token"}
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]
    pods = [group["template"]["spec"] for group in (head, workers)]
    (first, second) = (pod["containers"][0] for pod in pods)
    assert first["image"] == second["image"] and first["envFrom"] == second["envFrom"]
    assert "nvidia.com/gpu" in second["resources"]["limits"] and "nvidia.com/gpu" not in first["resources"]["limits"]
    # What the pods refer to is made by home.yaml, or by the commands of docs/cluster.md.
    made = {(tree["kind"], tree["metadata"]["name"]) for tree in objects_of(DEPLOY / "kubernetes" / "home.yaml")}
    assert made == {("PersistentVolumeClaim", "sage-home"), ("ConfigMap", "sage-environment")}
    assert all({"name": "home", "persistentVolumeClaim": {"claimName": "sage-home"}} in pod["volumes"] for pod in pods)
    assert all({"name": "home", "mountPath": "/sage"} in pod["containers"][0]["volumeMounts"] for pod in pods)
    page = (REPO / "docs" / "cluster.md").read_text(encoding="utf-8")
    for secret in ("sage-ray-token", "sage-secrets"):
        assert f"kubectl create secret generic {secret}" in page
    # The grace of the pod is longer than what the driver gets, which is more than an epoch.
    (wait,) = (int(item["value"]) for item in first["env"] if item["name"] == "RAY_JOB_STOP_WAIT_TIME_S")
    assert 60 <= wait < pods[0]["terminationGracePeriodSeconds"]


def test_the_same_ray_job_runs_without_a_volume_where_the_home_is_in_a_bucket() -> None:
    """As the command of its first lines, and of docs/cluster.md, makes it."""
    text = (DEPLOY / "kubernetes" / "rayjob.yaml").read_text(encoding="utf-8")
    page = (REPO / "docs" / "cluster.md").read_text(encoding="utf-8")
    command = "sed '/# home on a volume$/d' deploy/kubernetes/rayjob.yaml | kubectl apply -f -"
    assert command in text and command in page and "kubectl apply -f deploy/kubernetes/home-in-bucket.yaml" in page
    made = subprocess.run(shlex.split(command.split("|")[0]), cwd=REPO, capture_output=True, text=True, check=True)
    (job,) = yaml.safe_load_all(made.stdout)
    check_object(job)
    cluster = job["spec"]["rayClusterSpec"]
    (environment,) = objects_of(DEPLOY / "kubernetes" / "home-in-bucket.yaml")
    assert environment["kind"] == "ConfigMap" and environment["metadata"]["name"] == "sage-environment"
    variables = environment["data"]
    home, server = place_of_home(variables["SAGE_HOME"]), variables["MLFLOW_TRACKING_URI"]
    assert str(home).startswith("s3://") and is_http(server) and "SAGE_OPTUNA_URL" not in variables
    for pod in (group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])):
        (container,), (volume,) = pod["containers"], pod["volumes"]
        assert container["volumeMounts"] == [{"name": volume["name"], "mountPath": variables["SAGE_CACHE_DIR"]}]
        assert volume["emptyDir"]["sizeLimit"]
        assert {"secretRef": {"name": "sage-secrets", "optional": True}} in container["envFrom"]
    # What the Secret has to hold is in the command that makes it.
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "SAGE_OPTUNA_URL"):
        assert re.search(rf"kubectl create secret generic sage-secrets[^`]*--from-literal={name}=", page)


@pytest.mark.parametrize(
    "volume",
    [
        {"name": "cache", "emptyDir": {"sizelimit": "1Gi"}},
        {"name": "cache", "emptyDir": {}, "persistentVolumeClaim": {"claimName": "sage-home"}},
        {"name": "cache"},
    ],
)
def test_a_volume_that_kubernetes_would_refuse_is_seen(volume: dict[str, Any]) -> None:
    tree = copy.deepcopy(objects_of(DEPLOY / "kubernetes" / "rayjob.yaml")[0])
    tree["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["volumes"] = [volume]
    with pytest.raises(jsonschema.ValidationError):
        check_object(tree)


def test_ray_up_takes_its_file() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    (tree,) = objects_of(DEPLOY / "aws-or-any" / "cluster.yaml")
    whole = prepare_config(copy.deepcopy(tree))
    validate_config(whole)
    assert not whole["file_mounts"] and not whole["cluster_synced_files"]
    types = whole["available_node_types"]
    assert types[whole["head_node_type"]]["resources"]["CPU"] == 0
    assert (types["gpu"]["min_workers"], types["gpu"]["resources"]["GPU"]) == (0, 1)
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config({**copy.deepcopy(tree), "idle_minutes": 3}))


@pytest.mark.parametrize("path", FILES, ids=named)
def test_versions_are_those_of_this_checkout_and_no_secret_is_written_down(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    images = re.findall(r"rayproject/ray:([\w.-]+)", text)
    assert all(re.fullmatch(re.escape(PINS["ray"]) + r"-py312-(cpu|gpu)", tag) for tag in images), images
    assert set(re.findall(r"rayVersion: (\S+)", text)) <= {PINS["ray"]}
    versions = re.findall(r"sage_ray-(\d[\w.]*)-py3|sage-ray:(\d[\w.]*)|SAGE_VERSION=(\d\S*)", text)
    assert {version for found in versions for version in found if version} <= {__version__}
    assert not re.search(r"(?i)(password|secret|token)\w*\s*[:=]\s*['\"]?[a-z0-9]{12,}", text)


def test_the_image_is_made_of_files_that_are_here_and_of_the_wheel() -> None:
    text = (DEPLOY / "kubernetes" / "Dockerfile").read_text(encoding="utf-8")
    wheel = f"dist/sage_ray-{__version__}-py3-none-any.whl"
    copied = [word for line in re.findall(r"^COPY (.*)$", text, re.M) for word in line.split()[:-1]]
    sources = [word.replace("${SAGE_VERSION}", __version__) for word in copied if not word.startswith("--")]
    assert sources == ["constraints.txt", wheel, "deploy/entrypoint.sh"]
    assert all((REPO / source).is_file() for source in sources if source != wheel)
    kept = (DEPLOY / "kubernetes" / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    allowed = [line.removeprefix("!") for line in kept if line.startswith("!")]
    assert all(any(Path(source).match(pattern) for pattern in allowed) for source in sources)


def entrypoints(text: str) -> list[list[str]]:
    """Words after each `entrypoint.sh`, `sweep.sbatch` or `one_node.sbatch` that is called with a verb."""
    call = r"(?:entrypoint\.sh|\.sbatch) ((?:sweep|ablate) [^'`\n]+)"
    return [shlex.split(re.split(r"\s(?:#|\||>|&&|;)", found)[0]) for found in re.findall(call, text)]


def test_every_study_that_is_started_there_is_one_that_ships() -> None:
    page = REPO / "docs" / "cluster.md"
    calls = [words for path in [*FILES, page] for words in entrypoints(path.read_text(encoding="utf-8"))]
    assert len(calls) >= 6
    command: Any = typer.main.get_command(app)
    for verb, file, name, *rest in calls:
        assert file.endswith(".yaml") or f"{file}.yaml" in {p.name for p in (REPO / "search_spaces").glob("*.yaml")}
        assert re.fullmatch(r"[a-z][\w-]*", name), name
        known = {option for parameter in command.commands[verb].params for option in parameter.opts}
        assert {word for word in rest if word.startswith("--")} <= known
    assert shipped("preset")


@pytest.mark.parametrize("words", [[], ["sweep", "search_tiny"], ["train", "search_tiny", "first"]])
def test_a_bad_call_of_the_entrypoint_is_one_line_and_2(words: list[str]) -> None:
    command = [str(DEPLOY / "entrypoint.sh"), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "sweep|ablate FILE NAME" in done.stderr


@pytest.fixture
def driven(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """A batch script that drives a command in place of a study; `scontrol` writes down what it is asked."""
    shim = tmp_path / "bin" / "scontrol"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    shim.chmod(0o755)

    def start(driver: str, grace_s: int = 60) -> subprocess.Popen[str]:
        (tmp_path / "driver").write_text(f"#!/usr/bin/env bash\n{driver}\n")
        (tmp_path / "driver").chmod(0o755)
        batch = f'set -euo pipefail; source "{DEPLOY}/slurm/drive.sh"; status=0\n'
        batch += f"drive {tmp_path}/driver || status=$?\nback_into_the_queue $status"
        own = {"PATH": f"{shim.parent}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SAGE_GRACE_S": str(grace_s)}
        return subprocess.Popen(
            ["bash", "-c", batch],
            env={**os.environ, **own},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL),
        )

    return start


@pytest.mark.parametrize("path", sorted(DEPLOY.rglob("*.sbatch")), ids=named)
def test_slurm_is_told_to_warn_the_script_alone_and_to_take_the_job_back(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", text, re.M))
    assert asked["signal"] == "B:TERM@180" and "requeue" in asked and asked["open-mode"] == "append"
    assert int(asked["gpus-per-node"]) > 0 and "%j" in asked["output"]
    (grace,) = re.findall(r"SAGE_GRACE_S:-(\d+)", (DEPLOY / "slurm" / "drive.sh").read_text(encoding="utf-8"))
    assert int(grace) <= 180 - 30, "the rest is for Ray to end in"
    commands = [line for line in text.splitlines() if not line.startswith("#")]
    assert not [line for line in commands if "symmetric-run" in line or "ray stop" in line]


CLEAN = "trap 'sleep 1; exit 130' TERM; echo begun; while true; do sleep 0.1; done"
STUBBORN = "trap '' TERM; echo begun; while true; do sleep 0.1; done"


@pytest.mark.parametrize(
    ("driver", "term", "code", "asked"),
    [
        (CLEAN, True, 130, ["requeue 7"]),
        (STUBBORN, True, 137, ["requeue 7"]),
        ("echo begun; exit 0", False, 0, []),
        ("echo begun; exit 2", False, 2, []),
        # `sage-ray stop` and limits of the study end it so, and the job shall not come back.
        ("echo begun; exit 130", False, 130, []),
        # Finished while it was asked to end.
        ("trap 'exit 0' TERM; echo begun; while true; do sleep 0.1; done", True, 0, []),
    ],
)
def test_a_job_goes_back_into_the_queue_only_if_slurm_ended_it(
    driver: str, term: bool, code: int, asked: list[str], driven: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = driven(driver, grace_s=2 if driver == STUBBORN else 60)
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    began = time.monotonic()
    if term:
        os.kill(process.pid, signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == code, out
    heard = (tmp_path / "asked").read_text().splitlines() if (tmp_path / "asked").exists() else []
    assert heard == asked and time.monotonic() - began < 20


def test_a_signal_before_the_driver_began_counts_too(
    driven: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    batch = f'source "{DEPLOY}/slurm/drive.sh"; echo ready; sleep 2; drive false || back_into_the_queue $?'
    shims = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    process = subprocess.Popen(
        ["bash", "-c", batch], env={**os.environ, **shims}, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    os.kill(process.pid, signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 130 and (tmp_path / "asked").read_text() == "requeue 7\n"


def test_ports_are_free_ones_and_the_folder_has_a_short_path() -> None:
    import socket

    def first(job: int) -> int:
        command = [str(DEPLOY / "slurm" / "node.sh"), "ports"]
        own = {"SLURM_JOB_ID": str(job), "PATH": f"{BIN}:{os.environ['PATH']}"}
        return int(subprocess.check_output(command, env={**os.environ, **own}, text=True, timeout=60))

    folder = [str(DEPLOY / "slurm" / "node.sh"), "folder"]
    for given, place in (
        ("/tmp", "/tmp/ray-7\n"),
        (f"/scratch/{'long' * 20}", "/tmp/ray-7\n"),
        ("/own", "/own/ray-7\n"),
    ):
        own = {**os.environ, "SLURM_JOB_ID": "7", "TMPDIR": given}
        assert subprocess.check_output(folder, env=own, text=True, timeout=30) == place
    port, following = first(64 * 9000), first(64 * 9000 + 1)
    assert following != port and all(10000 <= p < 32768 - 340 for p in (port, following))
    with socket.socket() as taken:
        taken.bind(("127.0.0.9", port + 5))
        taken.listen()
        assert first(64 * 9000) == following


def test_the_wheel_has_the_package_and_its_spaces(tmp_path: Path) -> None:
    """What `make wheel` runs, into another folder; it is built without network, and imported from where it is put."""
    rule = re.search(r"^wheel:.*\n\t@(.*)$", (REPO / "Makefile").read_text(encoding="utf-8"), re.M)
    assert rule is not None
    command = rule[1].replace("$(BIN)/python", sys.executable).replace("--wheel-dir dist", f"--wheel-dir {tmp_path}")
    offline = {**os.environ, "PIP_NO_INDEX": "1"}
    subprocess.run(shlex.split(command), cwd=REPO, env=offline, check=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name == f"sage_ray-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
        names = archive.namelist()
    assert "sage_ray/search_spaces/search_tiny.yaml" in names and "sage_ray/py.typed" in names
    assert not [name for name in names if name.startswith(("tests", "deploy", "docs"))]
    words = [sys.executable, "-m", "sage_ray", "list", "--json", "--home", str(tmp_path / "home")]
    own = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(words, cwd=tmp_path, env=own, capture_output=True, text=True, check=True, timeout=120)
    assert json.loads(done.stdout.splitlines()[-1])["studies"] == []
    where = [sys.executable, "-c", "import sage_ray; print(sage_ray.__file__)"]
    place = subprocess.run(where, cwd=tmp_path, env=own, capture_output=True, text=True, check=True, timeout=60)
    assert str(tmp_path / "site") in place.stdout
