"""The pixels of many films at one side: in memory, or memory-mapped from a cache folder so that any number fits.

A film that cannot be opened is counted and named, not fatal. The cache is made anew where a film or its list changed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cxrnode.cores import cores
from cxrnode.errors import UnreadableImage
from cxrnode.training.readers.films import BadList, BadRow, FilmRow
from cxrnode.training.readers.picture import open_row, squashed

__all__ = ["FilmSet", "load_films", "open_row", "read_film_set"]

#: Films that are decoded at a time: so many may wait for their place in the file.
_CHUNK = 256
_FORMAT = "cxrnode films 1"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FilmSet:
    """Films at one side, for a loop of training or torch's DataLoader. Index i gives picture i.

    pixels: uint8 (M, side, side), a read-only memory map where there is a cache; places: int (M,), which of the given
    rows they are; bad: the rows that could not be opened.
    """

    pixels: npt.NDArray[np.uint8]
    places: npt.NDArray[np.intp]
    bad: tuple[BadRow, ...]

    def __reduce__(self) -> tuple[object, ...]:
        """Another process maps the file of its own: numpy would send a copy of all films."""
        mapped = isinstance(self.pixels, np.memmap)
        pixels = (str(self.pixels.filename), self.pixels.shape) if isinstance(self.pixels, np.memmap) else self.pixels
        return _unpickled, (mapped, pixels, self.places, self.bad)

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> npt.NDArray[np.uint8]:
        return np.asarray(self.pixels[index])

    def __getitems__(self, indices: Sequence[int]) -> npt.NDArray[np.uint8]:
        """A batch, uint8 (B, side, side), in one piece: what DataLoader asks where it is there."""
        order = np.argsort(indices)  # the file is read from its beginning to its end
        batch = np.empty((len(indices), *self.pixels.shape[1:]), np.uint8)
        batch[order] = self.pixels[np.asarray(indices)[order]]
        return batch


def load_films(rows: Sequence[FilmRow], side: int) -> npt.NDArray[np.uint8]:
    """Return uint8 (N, side, side) in memory, each film squashed as the node does it. Raises UnreadableImage."""
    return np.stack([squashed(open_row(row), side) for row in rows])


def read_film_set(
    rows: Sequence[FilmRow],
    side: int,
    *,
    cache: Path | None = None,
    threads: int | None = None,
    done: Callable[[int], None] = lambda count: None,
) -> FilmSet:
    """Open all films once and return them at `side`, in memory or from the folder `cache`.

    `done` is told how many more films are over. Raises BadList where no film can be opened, or where the disk of the
    cache is too small.
    """
    if cache is None:
        pixels = np.empty((len(rows), side, side), np.uint8)
        bad = _decode(rows, side, threads, done, lambda at, film: pixels.__setitem__(at, film))
        return _film_set(rows, pixels[: len(rows) - len(bad)], bad)
    digest = _digest(rows, side)
    path = cache / f"films-{side}-{digest[:16]}.u8"
    said = path.with_suffix(".json")
    kept = _kept(said, digest)
    if kept is None or not path.is_file() or path.stat().st_size != (len(rows) - len(kept)) * side * side:
        kept = _write(rows, side, path, threads, done)
        _replace(said, json.dumps({"digest": digest, "bad": kept}).encode())
    else:
        done(len(rows))
    shape = (len(rows) - len(kept), side, side)
    if not shape[0]:
        return _film_set(rows, np.empty(shape, np.uint8), kept)
    return _film_set(rows, np.memmap(path, np.uint8, "r", shape=shape), kept)


def _unpickled(mapped: bool, pixels: Any, places: npt.NDArray[np.intp], bad: tuple[BadRow, ...]) -> FilmSet:
    if mapped:
        pixels = np.memmap(pixels[0], np.uint8, "r", shape=pixels[1])
    return FilmSet(pixels=pixels, places=places, bad=bad)


def _write(
    rows: Sequence[FilmRow], side: int, path: Path, threads: int | None, done: Callable[[int], None]
) -> dict[int, str]:
    """Write the pictures one after another, whole or not at all; return what could not be opened, by its place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    needed, free = len(rows) * side * side, shutil.disk_usage(path.parent).free
    if needed > free:
        raise BadList(
            f"{len(rows)} films at {side} px need {needed / 2**30:.1f} GiB of disk, {free / 2**30:.1f} GiB are free; "
            "make room, or take fewer films or a smaller side"
        )
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with part.open("wb") as file:
            bad = _decode(rows, side, threads, done, lambda at, film: file.write(np.ascontiguousarray(film).data))
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:  # an interrupt too: half a file of films is worth nothing, and nobody would know whose it is
        part.unlink(missing_ok=True)
        raise
    return bad


def _decode(
    rows: Sequence[FilmRow],
    side: int,
    threads: int | None,
    done: Callable[[int], None],
    put: Callable[[int, npt.NDArray[np.uint8]], object],
) -> dict[int, str]:
    """Open films in their order and put each good one at the next place; return the reasons of the others."""

    def opened(row: FilmRow) -> npt.NDArray[np.uint8] | str:
        try:
            return squashed(open_row(row), side)
        except UnreadableImage as error:
            return str(error)

    bad: dict[int, str] = {}
    with ThreadPoolExecutor(threads or cores()) as pool:
        for start in range(0, len(rows), _CHUNK):
            for place, film in enumerate(pool.map(opened, rows[start : start + _CHUNK]), start):
                if isinstance(film, str):
                    bad[place] = film
                else:
                    put(place - len(bad), film)
                done(1)
    return bad


def _film_set(rows: Sequence[FilmRow], pixels: npt.NDArray[np.uint8], bad: dict[int, str]) -> FilmSet:
    named = tuple(BadRow(row=rows[place].row, image=rows[place].image, reason=why) for place, why in bad.items())
    if not len(pixels):
        first = f"; the first: {named[0].image}: {named[0].reason}" if named else ""
        raise BadList(f"none of {len(rows)} films can be opened{first}")
    places = np.array([place for place in range(len(rows)) if place not in bad], np.intp)
    return FilmSet(pixels=pixels, places=places, bad=named)


def _digest(rows: Sequence[FilmRow], side: int) -> str:
    """What the cache is the cache of: each film's file, size, time of change and bytes in it, in their order."""
    digest = hashlib.sha256(f"{_FORMAT}\n{side}\n".encode())
    stats: dict[Path, tuple[int, int]] = {}
    for row in rows:
        if row.path not in stats:
            with contextlib.suppress(OSError):
                stat = row.path.stat()
                stats[row.path] = stat.st_size, stat.st_mtime_ns
        digest.update(f"{row.path}\0{stats.get(row.path)}\0{row.span}\n".encode())
    return digest.hexdigest()


def _kept(said: Path, digest: str) -> dict[int, str] | None:
    """The films that the cache could not open; None where there is no such cache."""
    try:
        found = json.loads(said.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or found.get("digest") != digest or not isinstance(found.get("bad"), dict):
        return None
    return {int(place): str(why) for place, why in found["bad"].items()}


def _replace(path: Path, content: bytes) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_bytes(content)
    part.replace(path)
