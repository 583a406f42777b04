"""The published DenseNet-121 checkpoints: a table of public addresses with pinned digests, and the way to fetch one.

What is fetched is never opened here. Git's own digest of a file (SHA-1 over its length and bytes) is what their
repositories are pinned by; it tells another file, not one forged by somebody able to make SHA-1 collide.
"""

from __future__ import annotations

import dataclasses
import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

from cxrnode.errors import Rejected, Transient

#: No published file is larger; what keeps on coming is not one.
LARGEST = 512 * 1024 * 1024

_PIECE = 1 << 20
_SECONDS = 30


class WrongDigest(Rejected):
    """A file is not the one whose digest was given; the message names both."""


class Offline(Transient):
    """A published file could not be fetched; the message says from where, and what to do without a network."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One checkpoint. `addresses` are tried in order; `blob` is git's SHA-1 of the file, in lower-case hex.

    `auc` is the mean AUC that its authors report, on the films that `measured` names, None where none is stated.
    """

    name: str
    repository: str
    addresses: tuple[str, ...]
    blob: str
    licence: str
    auc: float | None
    measured: str
    note: str


def _on_github(repository: str, commit: str, path: str, blob: str) -> tuple[str, str]:
    """The file in its commit, and the same bytes by their digest alone (which cannot be resumed)."""
    return (
        f"https://github.com/{repository}/raw/{commit}/{path}",
        f"https://api.github.com/repos/{repository}/git/blobs/{blob}",
    )


_NO_LICENCE = "no licence file: all rights are with its authors; ask them before you use it"
_TEN_CROPS = "published with ten crops of 224 from 256 pixels; one squashed film is read here, so the figure differs"

_ROWS = (
    Published(
        name="jrzech-2022",
        repository="jrzech/reproduce-chexnet",
        addresses=_on_github(
            "jrzech/reproduce-chexnet",
            "a011a9ab",
            "pretrained/checkpoint",
            "637c09c2e4295febb266679b18036db052c40f79",
        ),
        blob="637c09c2e4295febb266679b18036db052c40f79",
        licence="BSD-3-Clause",
        auc=0.8383,
        measured="its own test split, 22,433 films of ChestX-ray14",
        note="a whole pickled model: needs --trust",
    ),
    Published(
        name="jrzech-2018",
        repository="jrzech/reproduce-chexnet",
        addresses=_on_github(
            "jrzech/reproduce-chexnet",
            "a011a9ab",
            "pretrained-old/checkpoint",
            "0fb3335f92897149d3a52ce69eb84c03be8dbc82",
        ),
        blob="0fb3335f92897149d3a52ce69eb84c03be8dbc82",
        licence="BSD-3-Clause",
        auc=None,
        measured="its own test split",
        note="a whole model pickled by torch 0.4: needs --trust",
    ),
    Published(
        name="arnoweng",
        repository="arnoweng/CheXNet",
        addresses=_on_github(
            "arnoweng/CheXNet",
            "3d45ee77e2cfe6ec81bf1b87e2ed4e3fc10af6c1",
            "model.pth.tar",
            "14922ae7de18767793f6ac85cf51df950327d96c",
        ),
        blob="14922ae7de18767793f6ac85cf51df950327d96c",
        licence=_NO_LICENCE,
        auc=0.8427,
        measured="the official test split, as its README states",
        note=_TEN_CROPS,
    ),
    Published(
        name="zoogzog",
        repository="zoogzog/chexnet",
        addresses=_on_github(
            "zoogzog/chexnet",
            "bbe30b5e0d2941491a2c5a095cb572dca1d27158",
            "models/m-25012018-123527.pth.tar",
            "003f3dc833b89d4f0b4e2b7307d93e1761785fb7",
        ),
        blob="003f3dc833b89d4f0b4e2b7307d93e1761785fb7",
        licence=_NO_LICENCE,
        auc=0.8508,
        measured="its own test split, as its README states",
        note=_TEN_CROPS,
    ),
)

PUBLISHED: Mapping[str, Published] = {row.name: row for row in _ROWS}


def blob_digest(path: Path) -> str:
    """Return what `git hash-object FILE` prints."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def pinned_as(path: Path) -> Published | None:
    """Return the row of the table that this file is, by its digest."""
    digest = blob_digest(path)
    return next((row for row in PUBLISHED.values() if row.blob == digest), None)


def require_digest(path: Path, digest: str) -> None:
    """Check a file against a SHA-256 (64 hex digits) or git's digest (40). Raises WrongDigest."""
    wanted = digest.lower()
    if len(wanted) not in (40, 64) or set(wanted) - set("0123456789abcdef"):
        raise WrongDigest("a digest is a SHA-256 of 64 hex digits, or what `git hash-object` prints, of 40")
    if len(wanted) == 40:
        found = blob_digest(path)
    else:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != wanted:
        raise WrongDigest(f"{path.name}: its digest is {found}, not {wanted}: another file, do not open it")


def pull(
    published: Published, folder: Path, *, progress: Callable[[int, int | None], None] = lambda done, whole: None
) -> Path:
    """Fetch a published file into a folder and return its path; one that is there and right is not fetched again.

    What came before a break stays in `NAME.part` and is gone on from, where the server can. `progress` is told the
    bytes so far and in all. Raises Offline, or WrongDigest after removing what came.
    """
    target, part = folder / published.name, folder / f"{published.name}.part"
    if target.is_file() and blob_digest(target) == published.blob:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    faults = []
    for address in published.addresses:
        try:
            _fetch(address, part, progress)
        except urllib.error.HTTPError as error:
            if error.code == 416:  # what lies there is as long as the file, or longer: not a part of it
                part.unlink(missing_ok=True)
            faults.append(f"{address}: HTTP {error.code}")
            continue
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            faults.append(f"{address}: {reason}")
            continue
        try:
            require_digest(part, published.blob)
        except WrongDigest:
            part.unlink()
            faults.append(f"{address}: gave another file than the pinned one, which was removed")
            continue
        os.replace(part, target)
        return target
    if any("another file" in fault for fault in faults):
        raise WrongDigest(f"{published.name}: " + "; ".join(faults))
    raise Offline(
        f"{published.name} could not be fetched ({'; '.join(faults)}). Try again: what came is kept. Without a "
        f"network, fetch it elsewhere, check that `git hash-object` prints {published.blob}, and import the file"
    )


def _fetch(address: str, part: Path, progress: Callable[[int, int | None], None]) -> None:
    """Append to what is there; a server that begins anew makes this begin anew. Raises OSError, HTTPException."""
    there = part.stat().st_size if part.is_file() else 0
    headers = {"Accept": "application/vnd.github.raw", "User-Agent": "cxrnode"}
    if there:
        headers["Range"] = f"bytes={there}-"
    request = urllib.request.Request(address, headers=headers)
    with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
        goes_on = answer.status == 206 and (answer.headers["Content-Range"] or "").startswith(f"bytes {there}-")
        done = there if goes_on else 0
        length = answer.headers["Content-Length"]
        whole = done + int(length) if length else None
        with part.open("ab" if goes_on else "wb") as file:
            while piece := answer.read(_PIECE):
                done += len(piece)
                if done > LARGEST:
                    raise OSError(f"more than {LARGEST} bytes came")
                file.write(piece)
                progress(done, whole)
    if whole is not None and done < whole:
        raise OSError(f"broke off after {done} of {whole} bytes")
