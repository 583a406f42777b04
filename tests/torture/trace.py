"""System calls as strace wrote them down: what a process did to its files and sockets, byte for byte, in order."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

#: What is traced: all by which a file, a folder's entry or a socket can change.
CALLS = (
    "openat,write,writev,pwrite64,fsync,fdatasync,rename,renameat,renameat2,ftruncate,unlink,unlinkat,"
    "mkdir,mkdirat,sendto,sendmsg"
)
#: -xx tells every string in hexadecimal, paths too; -s must be longer than anything that is written at once.
#: Of many pieces written at once strace would tell 32.
OPTIONS = ("-f", "-y", "-xx", "-s", "4000000", "-e", f"trace={CALLS}", "-e", "abbrev=none")

_LINE = re.compile(r"(?:(\d+) +)?(\w+)\((.*)\) += (-?\d+|\?)(.*)$", re.DOTALL)
_UNFINISHED = re.compile(r"(\d+) +(\w+)\((.*) <unfinished \.\.\.>$", re.DOTALL)
_RESUMED = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>(.*)$", re.DOTALL)
_HEX = re.compile(r"((?:\\x[0-9a-f]{2})+)")
_DESCRIPTOR = re.compile(r"(\d+)<([^>]*)>")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call that succeeded. `paths` are those that it names or whose descriptors it uses; `data` what it wrote."""

    pid: int
    name: str
    paths: tuple[str, ...]
    data: bytes
    flags: str
    number: int
    result: int


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def calls(trace: Path) -> Iterator[Call]:
    """Yield the calls that succeeded, in the order of their completion; those that send, in the order of their begin.

    An answer may be on the wire as soon as `sendto` begins, a file is safe only when `fsync` has returned.
    """
    begun: dict[str, str] = {}
    with trace.open(encoding="ascii", errors="replace") as lines:
        for line in lines:
            line = line.rstrip("\n")
            if unfinished := _UNFINISHED.match(line):
                pid, name, arguments = unfinished.groups()
                if name in ("sendto", "sendmsg"):
                    yield _call(int(pid), name, arguments, 0)
                else:
                    begun[pid] = f"{pid} {name}({arguments}"
                continue
            if resumed := _RESUMED.match(line):
                pid, name, rest = resumed.groups()
                if pid not in begun:
                    continue
                line = begun.pop(pid) + rest
            if (whole := _LINE.match(line)) and whole.group(4) != "?" and int(whole.group(4)) >= 0:
                pid, name, arguments, result, _ = whole.groups()
                yield _call(int(pid or 0), name, arguments, int(result))


def _call(pid: int, name: str, arguments: str, result: int) -> Call:
    strings = [_bytes(found) for found in _HEX.findall(re.sub(r"<[^>]*>", "", arguments))]
    held = [_bytes(found).decode() for _, found in _DESCRIPTOR.findall(arguments) if found.startswith("\\x")]
    last = arguments.rsplit(", ", 1)[-1]
    named = [one.decode(errors="replace") for one in strings]
    paths: tuple[str, ...] = tuple(held[:1])
    data = b"".join(strings)
    if name == "openat":
        paths, data = (named[0],), b""
    elif name in ("rename", "unlink", "mkdir", "renameat", "renameat2", "unlinkat", "mkdirat"):
        paths, data = tuple(named), b""
    elif name == "writev":
        assert len(data) >= result, "strace left something out"
        data = data[:result]
    return Call(
        pid=pid,
        name=name,
        paths=paths,
        data=data,
        flags=arguments,
        number=int(last) if last.isdigit() else -1,
        result=result,
    )
