"""The spool: durable before it is said to be kept, checked when it is read, and deaf to names from outside."""

from __future__ import annotations

import os
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cxrnode.core.digests import Kind, digest_of, kind_of
from cxrnode.errors import Rejected, Transient
from cxrnode.spool import FolderSpool
from tests.peers import require_tool


@pytest.fixture
def spool(tmp_path: Path) -> FolderSpool:
    return FolderSpool(tmp_path / "spool")


def files(spool: FolderSpool) -> list[Path]:
    return [path for path in spool.root.rglob("*") if path.is_file()]


def test_what_is_put_is_read_as_it_was(spool: FolderSpool) -> None:
    contents = (b"film", b"", os.urandom(100_000))
    kept = spool.put(*contents)
    assert contents == tuple(spool.read(one.key, digest=one.digest) for one in kept)
    assert [digest_of(c, Kind.BLAKE3) for c in contents] == [one.digest for one in kept]
    assert [one.size for one in kept] == [4, 0, 100_000]
    assert list(spool.incoming.iterdir()) == []


def test_the_same_bytes_twice_are_two_files(spool: FolderSpool) -> None:
    one, other = spool.put(b"same"), spool.put(b"same")
    assert one[0].key != other[0].key
    assert spool.remove(one[0].key)
    assert spool.read(other[0].key, digest=one[0].digest) == b"same"


def test_a_received_file_is_moved_under_a_new_key(spool: FolderSpool) -> None:
    received = spool.incoming / "association-1"
    received.write_bytes(b"film")
    kept = spool.adopt(received, digest="d" * 64)
    assert (kept.digest, kept.size) == ("d" * 64, 4)
    assert not received.exists()
    assert spool.path(kept.key).read_bytes() == b"film"


def test_a_received_file_that_is_gone_is_a_passing_fault(spool: FolderSpool) -> None:
    with pytest.raises(Transient, match="the spool cannot keep a file: No such file"):
        spool.adopt(spool.incoming / "gone", digest="")


def test_bytes_and_folders_are_on_the_disk_before_a_key_is_told(
    spool: FolderSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def noted_fsync(descriptor: int) -> None:
        steps.append("fsync folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "fsync file")
        fsync(descriptor)

    def noted_rename(path: Path, target: Path) -> Path:
        steps.append("rename")
        return rename(path, target)

    monkeypatch.setattr("cxrnode.spool.folder.os.fsync", noted_fsync)
    monkeypatch.setattr(Path, "rename", noted_rename)
    spool.put(b"a", b"b")
    # The first folder fsync is for the new folder of the keys, the last for the two names in it.
    assert steps == ["fsync file", "fsync file", "fsync folder", "rename", "rename", "fsync folder"]
    steps.clear()
    received = spool.incoming / "association-1"
    received.write_bytes(b"film")
    spool.adopt(received, digest="")
    assert (steps[0], *steps[-2:]) == ("fsync file", "rename", "fsync folder")


def test_a_folder_that_another_made_a_moment_ago_is_on_the_disk_before_a_key_in_it_is_told(
    spool: FolderSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who made it had not come to its fsync: the film was answered, and a power cut took the folder with it."""
    monkeypatch.setattr("cxrnode.spool.folder.secrets.token_hex", lambda size: "a" * 2 * size)
    held_up, go_on = threading.Event(), threading.Event()
    fsync = os.fsync
    lasting: list[int] = []

    def noted(descriptor: int) -> None:
        if os.path.samestat(os.fstat(descriptor), (spool.root / "objects").stat()):
            if threading.current_thread() is first:
                held_up.set()
                assert go_on.wait(30)
            lasting.append(threading.get_ident())
        fsync(descriptor)

    monkeypatch.setattr("cxrnode.spool.folder.os.fsync", noted)
    received = [spool.incoming / "association-1", spool.incoming / "association-2"]
    for one in received:
        one.write_bytes(b"film")
    first = threading.Thread(target=spool.adopt, args=(received[0],), kwargs={"digest": ""})
    first.start()
    assert held_up.wait(30)
    FolderSpool(spool.root).adopt(received[1], digest="")  # as another process does
    assert lasting == [threading.get_ident()]
    go_on.set()
    first.join()


def test_a_full_disk_is_a_passing_fault_that_leaves_nothing(
    spool: FolderSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cxrnode.spool.folder.os.fsync", full)
    with pytest.raises(Transient, match="the spool cannot keep a file: No space left on device"):
        spool.put(b"a", b"b")
    assert files(spool) == []


def test_what_is_made_badly_leaves_nothing(spool: FolderSpool) -> None:
    def contents() -> Iterator[bytes]:
        yield b"a"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        spool.put_each(contents())
    assert files(spool) == [] and spool.put_each(()) == ()


def in_memory(path: Path) -> int:
    """Bytes of a file that the kernel keeps in its cache, by util-linux."""
    command = [require_tool("fincore"), "-n", "-b", "-o", "RES", str(path)]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(told.stdout)


@pytest.mark.peers
def test_what_is_large_leaves_the_memory_once_it_was_read(spool: FolderSpool) -> None:
    large, other, small = spool.put(bytes(2 << 20), bytes(2 << 20), bytes(4096))
    paths = [spool.path(one.key) for one in (large, other, small)]
    assert [in_memory(path) for path in paths] == [2 << 20, 2 << 20, 4096]
    spool.read(large.key, digest=large.digest)
    spool.read(small.key, digest=small.digest)
    with spool.borrow(other.key) as path:
        assert path.read_bytes() == bytes(2 << 20)
    assert [in_memory(path) for path in paths] == [0, 0, 4096]


def test_an_altered_file_is_refused(spool: FolderSpool) -> None:
    (kept,) = spool.put(b"film")
    spool.path(kept.key).write_bytes(b"Film")
    with pytest.raises(Rejected, match=f"the spool's file {kept.key} was altered"):
        spool.read(kept.key, digest=kept.digest)


def test_files_of_either_digest_are_read_whichever_new_ones_get(tmp_path: Path) -> None:
    before, after = FolderSpool(tmp_path / "spool", Kind.SHA256), FolderSpool(tmp_path / "spool", Kind.BLAKE3)
    (old,), (new,) = before.put(b"film"), after.put(b"film")
    assert (kind_of(old.digest), kind_of(new.digest)) == (Kind.SHA256, Kind.BLAKE3)
    for spool in (before, after):
        assert spool.read(old.key, digest=old.digest) == spool.read(new.key, digest=new.digest) == b"film"
        with pytest.raises(Rejected, match="its digest is not the recorded one"):
            spool.read(old.key, digest=digest_of(b"Film", Kind.SHA256))


def test_a_missing_file_is_refused_with_what_to_do(spool: FolderSpool) -> None:
    with pytest.raises(Rejected, match="restore it from the backup, or send the film again"):
        spool.read("0" * 32, digest="")


@pytest.mark.parametrize("key", ["", "..", "../../etc/passwd", "A" * 32, "0" * 31, "0" * 33, "0" * 32 + "\n", "/" * 32])
def test_what_is_no_key_reaches_no_file(spool: FolderSpool, key: str) -> None:
    with pytest.raises(Rejected, match="this is no key of the spool"):
        spool.path(key)


def test_removing_says_whether_there_was_a_file(spool: FolderSpool) -> None:
    (kept,) = spool.put(b"film")
    assert [spool.remove(kept.key) for _ in range(2)] == [True, False]


def test_only_old_files_with_a_key_for_a_name_are_listed(spool: FolderSpool) -> None:
    old, young = spool.put(b"old")[0], spool.put(b"young")[0]
    os.utime(spool.path(old.key), (0, 0))
    stranger = spool.path(old.key).with_name("README")
    stranger.write_text("not ours")
    os.utime(stranger, (0, 0))
    assert [old.key] == list(spool.keys_older_than(3600))
    assert {old.key, young.key} == set(spool.keys_older_than(-5))


def test_only_old_remains_are_swept_from_incoming(spool: FolderSpool) -> None:
    for name in ("old", "young"):
        (spool.incoming / name).write_bytes(b"part")
    os.utime(spool.incoming / "old", (0, 0))
    assert spool.sweep_incoming(900) == 1
    assert [file.name for file in spool.incoming.iterdir()] == ["young"]


def test_files_removed_while_they_are_listed_are_passed_over(spool: FolderSpool) -> None:
    kept = [one.key for _ in range(5) for one in spool.put(b"a", b"b")]
    for key in kept:
        os.utime(spool.path(key), (0, 0))
    listing = spool.keys_older_than(3600)
    first = next(listing)
    for key in kept:
        spool.remove(key)
    assert [key for key in listing if key == first] == []


def test_nobody_else_may_look_into_the_spool(spool: FolderSpool) -> None:
    (kept,) = spool.put(b"film")
    folders = (spool.incoming, spool.path(kept.key).parent, spool.path(kept.key).parent.parent)
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in folders] == [0o700] * 3


def test_a_spool_that_cannot_be_made_is_a_passing_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Transient, match="cannot be made: Not a directory"):
        FolderSpool(tmp_path / "file" / "spool")


def test_a_spool_opened_again_has_what_it_had(spool: FolderSpool) -> None:
    (kept,) = spool.put(b"film")
    assert FolderSpool(spool.root).read(kept.key, digest=kept.digest) == b"film"


def test_the_free_bytes_are_those_of_the_file_system(spool: FolderSpool) -> None:
    assert spool.free() > 0
