"""A network of real flashget nodes on this machine, for the scripts that measure: started, asked, and always cleaned up.

Imported by the benches beside it. Standard library only. Nodes live on loopback, or each in a network namespace of its
own behind a link of a given rate (needs root).
"""
import atexit
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TRACKER_PORT = 7440


def target():
    """Where cargo puts what it builds."""
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))


def binary():
    """The release build; built if need be."""
    given = os.environ.get("FLASHGET_BIN")
    if given:
        return given
    subprocess.run(["cargo", "build", "--release", "--quiet"], cwd=ROOT, check=True)
    return str(target() / "release/flashget")


def free_port(address="127.0.0.1"):
    with socket.socket() as probe:
        probe.bind((address, 0))
        return probe.getsockname()[1]


class Failed(Exception):
    """Something that should have worked did not."""


class Node:
    """One home, and the daemon that runs on it."""

    def __init__(self, lab, name, namespace=None, address="127.0.0.1", port=None):
        self.lab, self.name, self.namespace = lab, name, namespace
        self.home = lab.dir / "homes" / name
        self.address, self.port = address, port or free_port(address)
        self.daemon, self.mounts = None, []

    def command(self, *words):
        prefix = ["nsenter", f"--net=/run/netns/{self.namespace}"] if self.namespace else []
        return [*prefix, self.lab.binary, "--home", str(self.home), *map(str, words)]

    def run(self, *words, stdin=None, timeout=600):
        done = subprocess.run(self.command(*words), input=stdin, capture_output=True, text=True, timeout=timeout)
        if done.returncode != 0:
            raise Failed(f"{self.name}: flashget {' '.join(map(str, words))}: {done.stderr.strip()}")
        return done.stdout

    def ask(self, *words):
        return json.loads(self.run(*words, "--json"))

    def start(self, *words):
        log = open(self.lab.dir / f"{self.name}.log", "ab")
        listen = f"{self.address}:{self.port}"
        command = self.command("daemon", "--listen", listen, "--name", self.name, *words)
        self.daemon = self.lab.spawn(command, stdout=log, stderr=log)
        wait_for(lambda: self.answers(), f"the daemon of {self.name}")

    def answers(self):
        if self.daemon.poll() is not None:
            raise Failed(f"the daemon of {self.name} has ended: see {self.lab.dir / (self.name + '.log')}")
        try:
            self.ask("status")
            return True
        except Failed:
            return False

    def share(self, folder, *words):
        self.run("share", "add", folder, *words)

    def mount(self, *words):
        point = self.lab.dir / "mounts" / f"{self.name}-{len(self.mounts)}"
        point.mkdir(parents=True, exist_ok=True)
        self.mounts.append(point)
        self.run("mount", "lab", point, *words)
        return point

    def umount(self, point):
        self.run("umount", point)
        self.mounts.remove(point)

    def stop(self):
        if self.daemon and self.daemon.poll() is None:
            self.daemon.terminate()
            self.daemon.wait(20)
        self.daemon = None

    def peak_memory(self):
        """Largest resident size of the daemon so far, in MiB."""
        status = Path(f"/proc/{self.ask('status')['pid']}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) // 1024

    def cpu_seconds(self):
        """Processor time that the daemon has used."""
        fields = Path(f"/proc/{self.ask('status')['pid']}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Lab:
    """A folder, a network called `lab`, its tracker, and its nodes. Use it as a context."""

    def __init__(self, where=None):
        self.binary = binary()
        self.dir = Path(tempfile.mkdtemp(prefix="flashget-lab-", dir=where))
        self.processes, self.nodes, self.namespaces, self.extra_dirs = [], [], [], []
        self.invite, self.tracker_at, self.tracker = None, None, None
        atexit.register(self.clean)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: sys.exit(1))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.clean()

    def spawn(self, command, **more):
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, **more)
        self.processes.append(process)
        return process

    def shm(self):
        """A folder in RAM, gone with the lab."""
        made = Path(tempfile.mkdtemp(prefix="flashget-lab-", dir="/dev/shm"))
        self.extra_dirs.append(made)
        return made

    def node(self, name, **more):
        node = Node(self, name, **more)
        if self.invite is None:
            tracker = self.tracker_at or f"127.0.0.1:{free_port()}"
            self.tracker_at = tracker
            self.invite = node.run("network", "create", "lab", "--tracker", tracker)
        else:
            node.run("network", "join", "-", stdin=self.invite)
        self.nodes.append(node)
        return node

    def start_tracker(self, node):
        log = open(self.dir / "tracker.log", "ab")
        self.tracker = self.spawn(node.command("tracker", "--listen", self.tracker_at), stdout=log, stderr=log)

    def clean(self):
        for node in self.nodes:
            for point in list(node.mounts):
                subprocess.run(["umount", "-l", str(point)], stderr=subprocess.DEVNULL)
            node.mounts.clear()
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for process in self.processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()
        for node in self.nodes:
            self.end_by_mount(node)
        self.nodes.clear()
        for namespace in self.namespaces:
            subprocess.run(["ip", "netns", "del", namespace], stderr=subprocess.DEVNULL)
        self.namespaces.clear()
        if not os.environ.get("FLASHGET_KEEP"):
            for folder in [self.dir, *self.extra_dirs]:
                shutil.rmtree(folder, ignore_errors=True)

    def end_by_mount(self, node):
        """Ends a daemon that a mount has started."""
        try:
            node.run("stop", timeout=10)
        except (Failed, subprocess.TimeoutExpired):
            pass


def wait_for(condition, what, limit=30.0):
    until = time.monotonic() + limit
    while not condition():
        if time.monotonic() > until:
            raise Failed(f"{what}: not within {limit:.0f} s")
        time.sleep(0.02)


def random_file(path, size):
    """Random bytes; one MiB of them over and over would be compressible, so they are all drawn."""
    with open(path, "wb") as out:
        left = size
        while left > 0:
            block = os.urandom(min(left, 1 << 24))
            out.write(block)
            left -= len(block)


def copy(source, target, block=1 << 20):
    """Copies by reading and writing, as cp does; returns seconds. Fails if bytes are missing."""
    began = time.monotonic()
    subprocess.run(["cp", str(source), str(target)], check=True)
    return time.monotonic() - began


def same(one, other):
    return subprocess.run(["cmp", "-s", str(one), str(other)]).returncode == 0


def drop_caches():
    """Makes the kernel forget what it has cached. Needs root; says whether it did."""
    try:
        subprocess.run(["sync"], check=True)
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
        return True
    except OSError:
        return False


def median(values):
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
