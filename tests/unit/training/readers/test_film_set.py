"""Films at one side: as the engine makes them, in memory or from a cache that notices when a film changed."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxrnode.errors import UnreadableImage
from cxrnode.training.readers import BadList, FilmRow
from cxrnode.training.readers.film_set import load_films, read_film_set
from cxrnode.training.readers.picture import open_film, squashed
from tests.unit.training.readers.layouts import phantom, picture


def rows_of(folder: Path, count: int) -> list[FilmRow]:
    return [
        FilmRow(path=picture(folder / f"{n}.png", seed=n % 3), patient=str(n), findings=(0,), row=n + 1, image=f"{n}")
        for n in range(count)
    ]


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA"])
def test_a_picture_is_the_same_film_in_each_mode(tmp_path: Path, mode: str) -> None:
    np.testing.assert_array_equal(open_film(picture(tmp_path / "film.png", mode)), phantom())


def test_what_is_no_film_is_said_without_its_path(tmp_path: Path) -> None:
    torn, deep, strange = tmp_path / "torn.png", tmp_path / "deep.png", tmp_path / "strange.dcm"
    torn.write_bytes(picture(tmp_path / "a.png").read_bytes()[:-300])
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(deep)
    strange.write_bytes(b"\0" * 128 + b"DICM")
    faults = {torn: "no picture", deep: "mode I;16", tmp_path: "cannot be read", strange: "no DICOM film|missing"}
    for path, message in faults.items():
        with pytest.raises(UnreadableImage, match=message) as caught:
            open_film(path)
        assert str(tmp_path) not in str(caught.value)


def test_films_are_squashed_as_the_engine_does_it(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, 3)
    expected = [Image.fromarray(phantom(n)).resize((48, 48), Image.Resampling.BILINEAR) for n in range(3)]
    np.testing.assert_array_equal(load_films(rows, 48), np.stack([np.asarray(film) for film in expected]))
    np.testing.assert_array_equal(read_film_set(rows, 48).pixels, load_films(rows, 48))


@pytest.mark.parametrize("cached", [False, True])
def test_a_film_that_cannot_be_opened_is_named_and_the_others_keep_their_place(tmp_path: Path, cached: bool) -> None:
    rows = rows_of(tmp_path / "films", 5)
    rows[1].path.write_bytes(b"no picture")
    told: list[int] = []
    for _ in range(2):
        found = read_film_set(rows, 32, cache=tmp_path / "cache" if cached else None, done=told.append)
        assert [(bad.row, bad.image, bad.reason) for bad in found.bad] == [
            (2, "1", "no picture that can be read (UnidentifiedImageError)")
        ]
        assert found.places.tolist() == [0, 2, 3, 4]
        np.testing.assert_array_equal(found.pixels, load_films([rows[n] for n in (0, 2, 3, 4)], 32))
    assert sum(told) == 10
    for row in rows:
        row.path.write_bytes(b"")
    with pytest.raises(BadList, match="none of 5 films can be opened; the first: 0: no picture"):
        read_film_set(rows, 32, cache=tmp_path / "cache" if cached else None)


def test_the_cache_is_mapped_and_made_anew_where_a_film_changed(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "films", 4)
    first = read_film_set(rows, 32, cache=tmp_path / "cache")
    assert isinstance(first.pixels, np.memmap) and not first.pixels.flags.writeable
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    before = os.stat(rows[0].path)
    again = read_film_set(rows, 32, cache=tmp_path / "cache")
    np.testing.assert_array_equal(again.pixels, first.pixels)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()} == written
    picture(rows[0].path, seed=7)
    os.utime(rows[0].path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    changed = read_film_set(rows, 32, cache=tmp_path / "cache")
    np.testing.assert_array_equal(changed.pixels[0], squashed(phantom(7), 32))


def test_a_cache_that_was_cut_short_is_made_anew(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "films", 4)
    expected = np.array(read_film_set(rows, 32, cache=tmp_path / "cache").pixels)
    for path in (tmp_path / "cache").glob("*.u8"):
        path.write_bytes(path.read_bytes()[:100])
    np.testing.assert_array_equal(read_film_set(rows, 32, cache=tmp_path / "cache").pixels, expected)
    for path in (tmp_path / "cache").glob("*.json"):
        path.write_text('{"digest": 1}')
    np.testing.assert_array_equal(read_film_set(rows, 32, cache=tmp_path / "cache").pixels, expected)


@pytest.mark.slow  # torch itself, to be loaded
def test_torch_loads_batches_of_it(tmp_path: Path) -> None:
    from torch.utils.data import DataLoader

    rows = rows_of(tmp_path / "films", 6)
    found = read_film_set(rows, 32, cache=tmp_path / "cache")
    loader: DataLoader[np.ndarray] = DataLoader(found, batch_size=4, collate_fn=lambda batch: batch)  # type: ignore[arg-type]
    batches = list(loader)
    assert [batch.shape for batch in batches] == [(4, 32, 32), (2, 32, 32)]
    np.testing.assert_array_equal(np.concatenate(batches), found.pixels)
    np.testing.assert_array_equal(found.__getitems__([5, 0, 5]), found.pixels[[5, 0, 5]])
    # A worker that is started anew gets the place of the file, not a copy of all films.
    whole = pickle.dumps(found)
    assert len(whole) < found.pixels.nbytes
    np.testing.assert_array_equal(pickle.loads(whole).pixels, found.pixels)
