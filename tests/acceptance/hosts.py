"""Hosts with a network of their own on this machine: namespaces of the kernel, joined by one bridge.

A host can be cut off: its packets are dropped without a word, as by a switch that lost its port.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence

from tests.peers import require_tool

#: Names of links hold 15 characters; the number keeps two sessions on one machine apart.
_TAG = f"{os.getpid() % 46656:x}"


def _ip(*arguments: str) -> None:
    done = subprocess.run([require_tool("ip"), *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


class Host:
    """One host; `prefix` is what the command line of a program on it begins with."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.address = address
        self.space = f"cxr{_TAG}{name}"
        self.prefix = (require_tool("ip"), "netns", "exec", self.space)
        self._port = f"c{_TAG}p{name}"

    def kill_all(self) -> None:
        """SIGKILL of every process on the host at once: its power went away."""
        listed = subprocess.run(
            [require_tool("ip"), "netns", "pids", self.space], capture_output=True, text=True, check=False
        )
        for pid in listed.stdout.split():
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                continue

    def cut_off(self) -> None:
        """Drop every packet to and from the host; nobody is told."""
        _ip("link", "set", self._port, "nomaster")

    def join(self, bridge: str) -> None:
        """Let packets through, for the first time or again."""
        _ip("link", "set", self._port, "master", bridge)


class Network:
    """A bridge of this machine and the hosts on it. Raises OSError where the kernel does not let us."""

    def __init__(self, names: Sequence[str]) -> None:
        self.bridge = f"c{_TAG}br"
        net = f"10.{213 + os.getpid() % 40}.{os.getpid() % 250}"
        self.address = f"{net}.1"
        self.hosts = {name: Host(name, f"{net}.{number}") for number, name in enumerate(names, start=11)}
        try:
            _ip("link", "add", self.bridge, "type", "bridge")
            _ip("addr", "add", f"{self.address}/24", "dev", self.bridge)
            _ip("link", "set", self.bridge, "up")
            for host in self.hosts.values():
                _ip("netns", "add", host.space)
                _ip("link", "add", host._port, "type", "veth", "peer", "name", "eth0", "netns", host.space)
                _ip("link", "set", host._port, "up")
                host.join(self.bridge)
                for command in (
                    ("addr", "add", f"{host.address}/24", "dev", "eth0"),
                    ("link", "set", "eth0", "up"),
                    ("link", "set", "lo", "up"),
                ):
                    _ip("-n", host.space, *command)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Kill what still runs on the hosts, and take them away."""
        for host in self.hosts.values():
            host.kill_all()
            subprocess.run([require_tool("ip"), "netns", "del", host.space], capture_output=True, check=False)
            subprocess.run([require_tool("ip"), "link", "del", host._port], capture_output=True, check=False)
        subprocess.run([require_tool("ip"), "link", "del", self.bridge], capture_output=True, check=False)
