"""TFRecord shards, written by protobuf and google-crc32c, read without TensorFlow."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from cxrnode.core.findings import NIH14
from cxrnode.training.readers import BadList, read_films
from cxrnode.training.readers.film_set import open_row
from cxrnode.training.readers.splits import with_folds
from tests.unit.training.readers.layouts import example, framed, jpeg, phantom, record

LABELS = ("No Finding", "Mass", "Pleural_Thickening")
NONE = dict.fromkeys(NIH14, 0)


def shard(folder: Path, *records: bytes, name: str = "000-2.tfrec") -> Path:
    path = folder / "data" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"".join(records))
    return path


def test_records_are_read_with_labels_and_pixels(tmp_path: Path) -> None:
    shard(tmp_path, record(0, No_Finding=1, **NONE), record(1, No_Finding=0, **NONE | {"Mass": 1}))
    found = read_films(tmp_path, (*LABELS, "Abnormal"))
    assert [(row.image, row.findings) for row in found.rows] == [
        ("000-2.tfrec#1", (1, 0, 0, 0)),
        ("000-2.tfrec#2", (0, 1, 0, 1)),
    ]
    film = open_row(found.rows[1])
    assert film.shape == phantom(1).shape
    assert np.abs(film.astype(int) - phantom(1)).mean() < 3  # JPEG loses a little


def test_a_damaged_record_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    good = record(0, **NONE)
    torn = bytearray(good)
    torn[200] ^= 0xFF
    no_example, no_picture = framed(b"\x0a\x7f"), framed(example({name: [0] for name in NIH14}))
    odd = record(0, **NONE | {"Mass": 2})
    shard(tmp_path, good, bytes(torn), good, no_example, no_picture, odd, good)
    found = read_films(tmp_path, ("Mass",))
    assert [row.image for row in found.rows] == [f"000-2.tfrec#{number}" for number in (1, 3, 7)]
    assert [(bad.row, bad.image, bad.reason) for bad in found.bad] == [
        (2, "000-2.tfrec#2", "the bytes of this record do not match their check"),
        (4, "000-2.tfrec#4", "no tf.train.Example: a field that is longer than its message"),
        (5, "000-2.tfrec#5", "no feature image with one picture"),
        (6, "000-2.tfrec#6", "the feature of Mass is not one 0 or 1"),
    ]


def test_a_shard_that_cannot_be_followed_costs_its_rest_and_no_other_shard(tmp_path: Path) -> None:
    good = record(0, **NONE)
    lost = bytearray(good)
    lost[3] ^= 1
    shard(tmp_path, good, bytes(lost), good, name="0.tfrec")
    shard(tmp_path, good, good[:-5], name="1.tfrecord")
    shard(tmp_path, good, name="2.tfrecords")
    found = read_films(tmp_path, ("Mass",))
    assert [row.image for row in found.rows] == ["0.tfrec#1", "1.tfrecord#1", "2.tfrecords#1"]
    assert [(bad.image, bad.reason) for bad in found.bad] == [
        ("0.tfrec#2", "the length of this record is damaged; it and all after it in this shard are left out"),
        ("1.tfrecord#2", "the shard ends within this record"),
    ]


def test_a_label_that_the_records_do_not_have_is_named(tmp_path: Path) -> None:
    shard(tmp_path, record(0, Mass=1))
    with pytest.raises(BadList, match=r"the records have no feature Hernia; spell .* they have image, mass"):
        read_films(tmp_path, ("Mass", "Hernia"))
    with pytest.raises(BadList, match=r"this layout knows no folds"):
        read_films(tmp_path, ("Mass",), folds=["0"])


def test_patients_are_known_where_the_records_say_so(tmp_path: Path) -> None:
    def film(number: int, **more: bytes | float | list[int]) -> bytes:
        return framed(example({"image": jpeg(number), "Mass": [number % 2], **more}))

    shard(
        tmp_path,
        film(0, Patient_ID=[17], View_Position=b"ap", Patient_Age=b"058Y", Patient_Gender=b"F"),
        film(1, Image_Index=b"00000042_003.png", Patient_Age=[31]),
        film(2, filename=b"x.png", patient=b"18", age=44.0),
        film(3, patient=b"18", age=b"old"),
    )
    found = read_films(tmp_path, ("Mass",))
    assert [(row.patient, row.view, row.age, row.sex, row.group) for row in found.rows] == [
        ("17", "AP", 58.0, "F", ""),
        ("00000042", "", 31.0, "", ""),
        ("18", "", 44.0, "", ""),
    ]
    assert found.bad[0].reason == "its age is not a number of years"
    assert found.notes == ()


def test_without_patients_whole_shards_stay_together_and_the_list_says_so(tmp_path: Path) -> None:
    for number in range(10):
        shard(tmp_path, record(0, Mass=1), record(1, Mass=0), name=f"{number}.tfrec")
    found = with_folds(read_films(tmp_path, ("Mass",)))
    assert all(len({row.fold for row in found.rows if row.group == f"{n}.tfrec"}) == 1 for n in range(10))
    assert {row.fold for row in found.rows} == set(range(5))
    assert "whole shards are kept together" in found.notes[0]
    (tmp_path / "data" / "9.tfrec").unlink()
    few = read_films(tmp_path, ("Mass",))
    assert "the shards are few" in few.notes[0]
    assert {row.group for row in few.rows} == {""}


def test_a_compressed_shard_is_named_with_the_remedy(tmp_path: Path) -> None:
    shard(tmp_path, gzip.compress(record(0, Mass=1)))
    with pytest.raises(BadList, match=r"000-2\.tfrec: the shard is compressed; unpack it with gunzip"):
        read_films(tmp_path, ("Mass",))
