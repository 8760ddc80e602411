"""Machines that are namespaces of this one: each with an address, a host name, process ids and a disk of its own.

They hang on a switch of their own, which the network of this machine does not reach. A machine is a process tree whose
first process holds its namespaces; whoever kills that process pulls the machine's plug.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil
import pytest

NETWORK = "10.77.0"
LIMIT_S = 60.0
NAMESPACES = ("--net", "--uts", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc")
FIRST = """
hostname "$1" && mount --bind "$2" /etc/hosts && mount -t tmpfs none "$3" && mount -t tmpfs none /dev/shm &&
ip link set lo up && mkdir "$3/home" "$3/tmp" && echo ready; cat; exit
"""
"""A machine's first process. It ends when this process closes its input, or is no more."""


class Machine:
    """A machine on the network.

    Attributes:
        address: its own.
    """

    def __init__(self, network: Network, host: str, number: int) -> None:
        self.address = f"{NETWORK}.{number}"
        self._network, self._link = network, f"port{number}"
        self._holder = subprocess.Popen(
            ["unshare", *NAMESPACES, "sh", "-c", FIRST, "sh", host, str(network.hosts), str(network.disk)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"ready\n", "no namespaces"
        (self.first,) = psutil.Process(self._holder.pid).children()
        network.call("ip", "link", "add", self._link, "type", "veth", "peer", "name", "eth0", "netns", str(self.pid))
        network.call("ip", "link", "set", self._link, "master", "switch", "up")
        self.call("ip", "address", "add", f"{self.address}/24", "dev", "eth0")
        self.call("ip", "link", "set", "eth0", "up")

    @property
    def pid(self) -> int:
        """Of the first process, as the test sees it."""
        return self.first.pid

    def enter(self, *words: str, user: int | None = None) -> list[str]:
        """The command line by which a command runs on the machine, as another user if one is given."""
        who = [] if user is None else ["-S", str(user)]
        return ["nsenter", "-t", str(self.pid), "-n", "-u", "-p", "-m", *who, "--", *words]

    def call(self, *words: str) -> str:
        """What a short command says."""
        return subprocess.run(self.enter(*words), check=True, capture_output=True, text=True, timeout=LIMIT_S).stdout

    def start(self, words: Sequence[str], environment: Mapping[str, str], *, log: Path | None = None) -> Command:
        """Start a command on the machine, whose home and temporary folder are on its own disk.

        Args:
            log: takes all output of a command that goes on; without it the output is captured, up to what a pipe holds
                as long as nobody reads it.
        """
        disk = self._network.disk
        places = {"HOME": str(disk / "home"), "TMPDIR": str(disk / "tmp"), "XDG_CACHE_HOME": str(disk / "home/.cache")}
        return Command(self.enter(*words), {**os.environ, **environment, **places}, log)

    def processes(self) -> list[psutil.Process]:
        """All processes of the machine but its first."""
        namespace = _namespace(self.pid)
        found = [process for process in psutil.process_iter() if _namespace(process.pid) == namespace]
        return [process for process in found if process.pid != self.pid and process.is_running()]

    @contextlib.contextmanager
    def unplugged(self) -> Iterator[None]:
        """Off the network in the body: what is sent to it is lost, and nobody is told."""
        self._network.call("ip", "link", "set", self._link, "down")
        try:
            yield
        finally:
            self._network.call("ip", "link", "set", self._link, "up")

    def listen(self) -> socket.socket:
        """A socket of this process that listens at the machine's address, on a port that is free."""
        with self._inside():
            made = socket.socket()
            made.bind((self.address, 0))
            made.listen(128)
        return made

    def answers(self, port: int) -> bool:
        """Whether something listens there, as the machine itself sees it."""
        with self._inside(), socket.socket() as probe:
            return probe.connect_ex((self.address, port)) == 0

    @contextlib.contextmanager
    def _inside(self) -> Iterator[None]:
        # A socket belongs for ever to the network in which it was made.
        with open("/proc/thread-self/ns/net") as outside, open(f"/proc/{self.pid}/ns/net") as inside:
            _enter_network(inside.fileno())
            try:
                yield
            finally:
                _enter_network(outside.fileno())

    def kill(self) -> None:
        """Pull its plug: all that runs on it is gone at once, and so is its disk."""
        self._holder.kill()
        self._holder.wait(LIMIT_S)
        deadline = time.monotonic() + LIMIT_S
        while self.first.is_running() and self.first.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline, "its processes have not ended"
            time.sleep(0.05)
        for stream in (self._holder.stdin, self._holder.stdout):
            assert stream is not None
            stream.close()


class Command(subprocess.Popen[str]):
    """A command on a machine. Its own process is a child of the one that entered the machine."""

    def __init__(self, words: list[str], environment: Mapping[str, str], log: Path | None) -> None:
        with contextlib.ExitStack() as files:
            out = subprocess.PIPE if log is None else files.enter_context(log.open("a"))
            super().__init__(
                words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, text=True, env=environment, cwd="/"
            )

    def signal_it(self, number: signal.Signals) -> None:
        """Send the command itself a signal."""
        (process,) = psutil.Process(self.pid).children()
        process.send_signal(number)


class Network:
    """The switch, and what its machines have in common.

    Attributes:
        hosts: their names and addresses, as each has them at /etc/hosts.
        disk: where each machine has a disk of its own.
    """

    def __init__(self, folder: Path, names: Mapping[str, int]) -> None:
        self.hosts, self.disk = folder / "hosts", folder / "d"
        self.disk.mkdir()
        lines = [f"{NETWORK}.{number} {name}" for name, number in names.items()]
        self.hosts.write_text("\n".join(["127.0.0.1 localhost", *lines]) + "\n")
        self._names, self.machines = dict(names), dict[str, Machine]()
        self._holder = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE)
        _wait_for_namespace(self._holder.pid)
        self.call("ip", "link", "add", "switch", "type", "bridge")
        self.call("ip", "link", "set", "switch", "up")

    def call(self, *words: str) -> None:
        """Run a short command where the switch is."""
        command = ["nsenter", "-t", str(self._holder.pid), "-n", "--", *words]
        subprocess.run(command, check=True, capture_output=True, timeout=LIMIT_S)

    def add(self, name: str, *, host: str | None = None) -> Machine:
        """Switch a machine on; one of that name that was killed comes back with an empty disk.

        Args:
            host: what it calls itself, if that is not the name by which the others reach it.
        """
        self.machines[name] = Machine(self, host or name, self._names[name])
        return self.machines[name]

    def kill(self, name: str) -> None:
        """Pull a machine's plug."""
        self.machines.pop(name).kill()

    def end(self) -> None:
        """End all machines and the switch."""
        for name in list(self.machines):
            self.kill(name)
        self._holder.kill()
        self._holder.wait(LIMIT_S)


@contextlib.contextmanager
def network(names: Mapping[str, int]) -> Iterator[Network]:
    """A network for machines of these names, each with the last number of its address; without any machine yet."""
    need_machines()
    folder = Path(tempfile.mkdtemp(prefix="sage-", dir="/tmp"))  # Ray's sockets need a short path
    made = Network(folder, names)
    try:
        yield made
    finally:
        made.end()
        shutil.rmtree(folder, ignore_errors=True)


def need_machines() -> None:
    """Skip, and say so loudly, where no namespaces can be made; with `SAGE_NEED_MACHINES=1` that is a failure."""
    test = 'ip link add switch type bridge && ip link add name one type veth peer name two && mount -t tmpfs none "$0"'
    _need(NAMESPACES, test, "networks, host names, processes and disks")


def need_own_disks() -> None:
    """The same, where each node has a disk of its own and all else in common."""
    _need(("--mount",), 'mount -t tmpfs none "$0"', "disks")


def _need(namespaces: Sequence[str], test: str, what: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        words = ["unshare", *namespaces, "sh", "-c", test, folder]
        missing = [name for name in ("unshare", "nsenter", "ip") if shutil.which(name) is None]
        can = None if missing else subprocess.run(words, capture_output=True, text=True, check=False)
    if can is not None and can.returncode == 0:
        return
    why = f"no {missing[0]}" if can is None else can.stderr.strip() or "refused"
    text = f"NOT TESTED: this machine makes no namespaces of {what} (it takes root): {why}"
    if os.environ.get("SAGE_NEED_MACHINES") == "1":
        pytest.fail(text)
    pytest.skip(text)


def _namespace(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""


def _wait_for_namespace(pid: int) -> None:
    own, deadline = os.readlink("/proc/self/ns/net"), time.monotonic() + LIMIT_S
    while os.readlink(f"/proc/{pid}/ns/net") == own:
        assert time.monotonic() < deadline, "no network of its own"
        time.sleep(0.01)


def _enter_network(descriptor: int) -> None:
    """Move this thread into another network namespace (setns; Python has it from 3.12 on)."""
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    assert library.setns(descriptor, 0x40000000) == 0, os.strerror(ctypes.get_errno())
