"""The pixels of films at one side, while a phase needs them. What cannot be opened is told, and stops nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from cxrnode.errors import UnreadableImage
from cxrnode.training.readers import BadRow, FilmRow
from cxrnode.training.readers.film_set import FilmSet, read_film_set
from cxrnode.training.readers.picture import Film, open_row

#: Bytes of pictures that are held in memory; more are mapped from a file in the folder of the run.
MOST = 4 * 2**30


class Pixels:
    """Opens films and remembers what could not be opened. `done` is told how many more films are over."""

    def __init__(
        self, folder: Path, *, threads: int | None = None, done: Callable[[int], None] = lambda count: None
    ) -> None:
        self._folder, self._threads, self._done = folder, threads, done
        self._kept: dict[tuple[int, tuple[FilmRow, ...]], FilmSet] = {}
        self._bad: dict[tuple[Path, tuple[int, int] | None], BadRow] = {}

    @property
    def bad(self) -> tuple[BadRow, ...]:
        """The films that could not be opened so far, each once."""
        return tuple(self._bad.values())

    def open(self, row: FilmRow) -> Film:
        """Return a film at its own size, uint8 (H, W). Raises UnreadableImage, and remembers the film."""
        try:
            return open_row(row)
        except UnreadableImage as error:
            bad = BadRow(row=row.row, image=row.image, reason=str(error))
            self._bad.setdefault((row.path, row.span), bad)
            raise

    def load(self, rows: Sequence[FilmRow], side: int) -> FilmSet:
        """Return the films of these rows, squashed to a side as the node does it. Raises BadList.

        What was loaded for another side is forgotten.
        """
        key = (side, tuple(rows))
        self._kept = {known: films for known, films in self._kept.items() if known[0] == side}
        if key not in self._kept:
            large = len(rows) * side * side > MOST
            cache = self._folder / "films" if large else None
            self._kept[key] = read_film_set(rows, side, cache=cache, threads=self._threads, done=self._done)
            for bad in self._kept[key].bad:
                row = next(row for row in rows if (row.row, row.image) == (bad.row, bad.image))
                self._bad.setdefault((row.path, row.span), bad)
        return self._kept[key]
