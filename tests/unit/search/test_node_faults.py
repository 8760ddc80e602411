"""What a trial fails of because of its machine, and who is blamed for it."""

from __future__ import annotations

from typing import Any

import pytest

from sage_ray.search.faults import NODES_PER_TRIAL, NodeFaults, is_node_fault


@pytest.mark.parametrize(
    "error",
    [
        "RuntimeError: Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU",
        "RuntimeError: CUDA unknown error - this may be due to an incorrectly set up environment",
        "RuntimeError: Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before",
        "AcceleratorError: CUDA error: uncorrectable ECC error encountered",
        "RuntimeError: The NVIDIA driver on your system is too old (found version 11040).",
        "AcceleratorError: CUDA error: no kernel image is available for execution on the device",
        "OSError: [Errno 28] No space left on device: '/tmp/x'",
        "snapshot_failed: OSError: [Errno 30] Read-only file system: '/home/x'",
        "OSError: [Errno 116] Stale file handle",
        "ModuleNotFoundError: No module named 'kornia'",
        "ImportError: libgomp.so.1: cannot open shared object file",
    ],
)
def test_faults_of_a_machine(error: str) -> None:
    assert is_node_fault(error)


@pytest.mark.parametrize(
    "error",
    [
        "diverged: loss is nan at epoch 3",
        "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
        "AcceleratorError: CUDA error: device-side assert triggered",
        "AcceleratorError: CUDA error: an illegal memory access was encountered",
        "ValueError: image is 31 pixels",
        "FileNotFoundError: [Errno 2] No such file or directory: 'weights.pt'",
        "",
    ],
)
def test_faults_of_a_trial(error: str) -> None:
    """What a working GPU says of an operation is not its machine's: a bad trial would take out one after another."""
    assert not is_node_fault(error)


class Nodes:
    """The part of `NodeWatch` that is told who is to blame, over a fixed list of nodes."""

    def __init__(self, *node_ids: str, check: object | None = object()) -> None:
        self.there, self.bad, self.check = node_ids, dict[str, str](), check

    def blame(self, node_id: str, reason: str) -> None:
        self.bad[node_id] = reason

    def forgive(self, node_id: str) -> None:
        self.bad.pop(node_id, None)

    def exhausted(self) -> bool:
        return set(self.bad) >= set(self.there)

    def reasons(self) -> list[str]:
        return [f"node {node_id}: {reason}" for node_id, reason in self.bad.items()]


def judge(nodes: Any, sees: str | None = None) -> tuple[NodeFaults, list[str], list[int]]:
    stopped: list[str] = []
    own: list[int] = []
    faults = NodeFaults(nodes, lambda: sees, lambda number, reason: own.append(number), stopped.append)
    return faults, stopped, own


def test_trials_go_elsewhere_until_no_node_is_left() -> None:
    nodes = Nodes("a", "b")
    faults, stopped, own = judge(nodes)
    assert faults.blames(1, "a", "no driver", shared=False) and set(nodes.bad) == {"a"} and not stopped
    assert faults.blames(2, "b", "no driver", shared=False) and not own
    assert stopped == ["no node is left for trials: node a: no driver; node b: no driver"]


def test_what_the_driver_lacks_too_ends_the_study_and_blames_nobody() -> None:
    nodes = Nodes("a", "b")
    faults, stopped, _ = judge(nodes, sees="no such folder: data: mend it")
    assert faults.blames(1, "a", "data are not there", shared=True)
    assert stopped == ["no such folder: data: mend it"] and not nodes.bad
    faults, stopped, _ = judge(nodes)
    assert faults.blames(1, "a", "data are not there", shared=True)
    assert not stopped and set(nodes.bad) == {"a"}, "the driver has them: they are missing on that node alone"


def test_a_trial_that_fails_where_others_train_is_at_fault_itself() -> None:
    nodes = Nodes("a", "b", "c", "d")
    faults, stopped, own = judge(nodes)
    for node_id in nodes.there:
        faults.trained(7, node_id)
    going = [faults.blames(1, node_id, "CUDA initialization error", shared=False) for node_id in nodes.there[:2]]
    assert going == [True] * (NODES_PER_TRIAL - 1) + [False] and own == [1]
    assert not nodes.bad and not stopped, "the nodes are used again"
