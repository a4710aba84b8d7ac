"""Nodes in network namespaces of their own, each behind a link of a given rate. Needs root.

All namespaces hang on one bridge in a hub namespace; a link's rate is what its node can send (`tbf`, burst 64 KiB).
"""
import os
import socket
import subprocess
import sys
import threading
import time

import lab

BURST = "64kb"
LATENCY = "50ms"

SENDER = """
import socket, sys
server = socket.create_server((sys.argv[1], 7000))
block = bytes(1 << 18)
print('ready', flush=True)
for _ in range(int(sys.argv[2])):
    peer, _ = server.accept()
    try:
        while True:
            peer.sendall(block)
    except OSError:
        pass
"""

RECEIVER = """
import socket, sys, threading, time
seconds = float(sys.argv[1])
counts = [0] * len(sys.argv[2:])
def take(number, address):
    peer = socket.create_connection((address, 7000))
    while True:
        got = len(peer.recv(1 << 20))
        counts[number] += got
for number, address in enumerate(sys.argv[2:]):
    threading.Thread(target=take, args=(number, address), daemon=True).start()
time.sleep(1.0)
before, began = sum(counts), time.monotonic()
time.sleep(seconds)
print((sum(counts) - before) / (time.monotonic() - began))
"""


def need_root():
    if os.geteuid() != 0:
        sys.exit("this script makes network namespaces: run it as root")


def ip(*words):
    subprocess.run(["ip", *words], check=True)


class NetLab(lab.Lab):
    """A lab whose nodes are behind links."""

    def __init__(self, where=None):
        need_root()
        super().__init__(where)
        self.tag = f"fg{os.getpid() % 100000}"
        self.hub = self.namespace("hub")
        ip("-n", self.hub, "link", "add", "br0", "type", "bridge")
        ip("-n", self.hub, "addr", "add", "10.77.0.1/16", "dev", "br0")
        ip("-n", self.hub, "link", "set", "br0", "up")
        self.tracker_at = "10.77.0.1:7440"
        self.links = 0

    def namespace(self, name):
        full = f"{self.tag}-{name}"
        ip("netns", "add", full)
        self.namespaces.append(full)
        ip("-n", full, "link", "set", "lo", "up")
        return full

    def linked(self, name, mbit=None):
        """A node in a namespace of its own that sends at most `mbit` Mbit/s."""
        self.links += 1
        number = self.links
        namespace = self.namespace(name)
        address = f"10.77.{number // 200 + 1}.{number % 200 + 10}"
        inside, outside = "eth0", f"v{number}"
        ip("-n", self.hub, "link", "add", outside, "type", "veth", "peer", "name", inside, "netns", namespace)
        ip("-n", self.hub, "link", "set", outside, "master", "br0", "up")
        ip("-n", namespace, "addr", "add", f"{address}/16", "dev", inside)
        ip("-n", namespace, "link", "set", inside, "up")
        if mbit:
            self.set_rate(namespace, mbit)
        return self.node(name, namespace=namespace, address=address, port=7450)

    def set_rate(self, namespace, mbit):
        command = ["tc", "-n", namespace, "qdisc", "replace", "dev", "eth0", "root", "tbf"]
        subprocess.run([*command, "rate", f"{mbit}mbit", "burst", BURST, "latency", LATENCY], check=True)

    def start_tracker(self, node):
        log = open(self.dir / "tracker.log", "ab")
        command = [self.binary, "--home", str(node.home), "tracker", "--listen", self.tracker_at]
        self.spawn(["nsenter", f"--net=/run/netns/{self.hub}", *command], stdout=log, stderr=log)

    def plain_tcp(self, sources, sink, seconds=4.0):
        """Bytes per second that plain TCP brings from all `sources` at once to `sink`."""
        senders = []
        for source in sources:
            command = ["nsenter", f"--net=/run/netns/{source.namespace}", sys.executable, "-c", SENDER, source.address, "1"]
            sender = self.spawn(command, stdout=subprocess.PIPE)
            sender.stdout.readline()
            senders.append(sender)
        command = ["nsenter", f"--net=/run/netns/{sink.namespace}", sys.executable, "-c", RECEIVER, str(seconds)]
        done = subprocess.run([*command, *[source.address for source in sources]], capture_output=True, text=True, check=True)
        for sender in senders:
            sender.terminate()
            sender.wait()
        return float(done.stdout)


class Meter(threading.Thread):
    """Copies a file by reading it, and notes how many bytes had come when."""

    def __init__(self, path, target):
        super().__init__(daemon=True)
        self.path, self.target = path, target
        self.marks, self.error, self.begun = [], None, None

    def run(self):
        self.begun = time.monotonic()
        try:
            with open(self.path, "rb", buffering=0) as source, open(self.target, "wb", buffering=0) as out:
                total = 0
                self.marks.append((time.monotonic(), 0))
                while block := source.read(1 << 18):
                    out.write(block)
                    total += len(block)
                    self.marks.append((time.monotonic(), total))
        except OSError as error:
            self.error = error

    def bytes(self):
        return self.marks[-1][1] if self.marks else 0

    def at(self, moment):
        """Bytes that had come by then."""
        return max((total for when, total in self.marks if when <= moment), default=0)

    def rate(self, since, until):
        return (self.at(until) - self.at(since)) / (until - since)

    def longest_stall(self):
        gaps = [later[0] - earlier[0] for earlier, later in zip(self.marks, self.marks[1:])]
        return max(gaps, default=0.0)

    def seconds(self):
        return self.marks[-1][0] - self.begun
