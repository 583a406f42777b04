"""Small layouts of films, as they lie on disk: phantoms as pictures, NIH's folder, Kermany's folders, shards."""

from __future__ import annotations

import functools
import io
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from PIL import Image

from cxrnode.phantom.film import draw_film


@functools.cache
def phantom(seed: int = 0) -> npt.NDArray[np.uint8]:
    """A film of nobody: uint8 (96, 80)."""
    return (draw_film(seed, rows=96, cols=80) >> 4).astype(np.uint8)


def picture(path: Path, mode: str = "L", seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(phantom(seed)).convert(mode).save(path)
    return path


def jpeg(seed: int = 0) -> bytes:
    file = io.BytesIO()
    Image.fromarray(phantom(seed)).save(file, "JPEG")
    return file.getvalue()


NIH_HEAD = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position\n"


def nih(folder: Path, rows: Mapping[str, str], *, head: str = NIH_HEAD) -> Path:
    """NIH's layout with a film for each name, in twelve folders in turn; the value holds its cells."""
    for number, name in enumerate(rows):
        picture(folder / f"images_{number % 12 + 1:03}" / "images" / name, seed=number)
    (folder / "Data_Entry_2017.csv").write_text(head + "".join(f"{name},{rest}\n" for name, rest in rows.items()))
    return folder


def kermany(folder: Path, names: Mapping[str, str]) -> Path:
    """Kermany's layout: the folder of the class for each name, such as `train/NORMAL`."""
    for number, (name, place) in enumerate(names.items()):
        picture(folder / place / name, seed=number % 4)
    return folder


def _example_class() -> Any:
    """tf.train.Example, made by protobuf itself from a description of the messages."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="t", syntax="proto3")
    lists = (("Bytes", field.TYPE_BYTES), ("Float", field.TYPE_FLOAT), ("Int64", field.TYPE_INT64))
    for name, kind in lists:
        message = file.message_type.add(name=f"{name}List")
        message.field.add(name="value", number=1, label=field.LABEL_REPEATED, type=kind)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, (name, _) in enumerate(lists, 1):
        feature.field.add(
            name=f"{name.lower()}_list",
            number=number,
            label=field.LABEL_OPTIONAL,
            type=field.TYPE_MESSAGE,
            type_name=f".t.{name}List",
            oneof_index=0,
        )
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=field.LABEL_OPTIONAL, type=field.TYPE_STRING)
    entry.field.add(name="value", number=2, label=field.LABEL_OPTIONAL, type=field.TYPE_MESSAGE, type_name=".t.Feature")
    features.field.add(
        name="feature",
        number=1,
        label=field.LABEL_REPEATED,
        type=field.TYPE_MESSAGE,
        type_name=".t.Features.FeatureEntry",
    )
    example = file.message_type.add(name="Example")
    example.field.add(
        name="features", number=1, label=field.LABEL_OPTIONAL, type=field.TYPE_MESSAGE, type_name=".t.Features"
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Example"))


EXAMPLE = _example_class()


def example(features: Mapping[str, bytes | float | list[int]]) -> bytes:
    """A serialised tf.train.Example: bytes, one float, or integers for each name."""
    made = EXAMPLE()
    for name, value in features.items():
        feature = made.features.feature[name]
        if isinstance(value, bytes):
            feature.bytes_list.value.append(value)
        elif isinstance(value, float):
            feature.float_list.value.append(value)
        else:
            feature.int64_list.value.extend(value)
    whole: bytes = made.SerializeToString()
    return whole


def masked(content: bytes) -> bytes:
    """The check of some bytes as it stands in a shard."""
    crc = google_crc32c.value(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def framed(content: bytes) -> bytes:
    """The record as it stands in a shard: length, its check, the bytes, their check."""
    length = struct.pack("<Q", len(content))
    return length + masked(length) + content + masked(content)


def record(seed: int = 0, **labels: int) -> bytes:
    """A framed film with these labels; `No_Finding` becomes `No Finding`, as the shards of NIH's films spell it."""
    features: dict[str, bytes | float | list[int]] = {"image": jpeg(seed)}
    return framed(example(features | {name.replace("No_", "No "): [value] for name, value in labels.items()}))
