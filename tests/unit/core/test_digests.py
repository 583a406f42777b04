"""Digests say what they are, and are what other tools print."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from cxrnode.core.digests import Digest, Kind, digest_of, kind_of, matches
from tests.peers import require_tool

CONTENTS = (b"", b"film", bytes(range(256)) * 4096)


@pytest.mark.parametrize("content", CONTENTS, ids=len)
def test_sha_256_is_hashlibs(content: bytes) -> None:
    assert digest_of(content, Kind.SHA256) == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("content", CONTENTS, ids=len)
def test_blake3_is_what_b3sum_prints(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "film"
    path.write_bytes(content)
    command = [require_tool("b3sum"), "-l", "28", "--no-names", str(path)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert digest_of(content, Kind.BLAKE3) == f"blake3:{printed}"


def test_blake3_of_nothing_is_the_published_one() -> None:
    published = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"  # the algorithm's test vectors
    assert digest_of(b"", Kind.BLAKE3) == f"blake3:{published[:56]}"


@pytest.mark.parametrize("kind", Kind)
def test_pieces_give_the_digest_of_the_whole(kind: Kind) -> None:
    whole = os.urandom(300_001)
    made = Digest(kind)
    for start in range(0, len(whole), 4097):
        made.update(memoryview(whole)[start : start + 4097])
    assert str(made) == digest_of(whole, kind)


@pytest.mark.parametrize("kind", Kind)
def test_a_recorded_digest_is_known_by_itself_and_fits_its_column(kind: Kind) -> None:
    digest = digest_of(b"film", kind)
    assert kind_of(digest) is kind
    assert len(digest) <= 64
    assert matches(b"film", digest)
    assert not matches(b"Film", digest)
    assert not matches(b"film", digest.upper())
    assert not matches(b"film", digest[:-1])
    assert not matches(b"film", "")
