"""A folder of TFRecord shards as the NIH films are shared in: `image` (an encoded picture) and a 0 or 1 each label."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from cxrnode.training.readers import labels as spelling
from cxrnode.training.readers.films import BadList, BadRow, FilmList, FilmRow, checked
from cxrnode.training.readers.progress import bar
from cxrnode.training.readers.records import BadExample, Damage, Record, Values, parse_example, read_records
from cxrnode.training.readers.splits import FOLDS
from cxrnode.training.readers.table import sex_of, years

SUFFIXES = frozenset((".tfrec", ".tfrecord", ".tfrecords"))

#: Names that writers of shards give to the same thing, by key.
_IMAGE = ("image", "image_encoded", "image_raw")
_NAME = ("image_index", "image_id", "image_name", "image_filename", "filename")
_PATIENT = ("patient_id", "patient")
_VIEW, _AGE, _SEX = ("view_position", "view"), ("patient_age", "age"), ("patient_gender", "patient_sex", "sex")
_ABOUT = frozenset((*_NAME, *_PATIENT, *_VIEW, *_AGE, *_SEX))
_NIH_FILE = re.compile(r"(\d{8})_\d{3}\.\w+")

_SHARDS_APART = (
    "the records name no patients: whole shards are kept together in a split, and a patient whose films lie in two "
    "shards may be on both sides; take the numbers as too good"
)
_NOT_APART = (
    "the records name no patients and the shards are few: films of one patient may be on both sides of a split; take "
    "the numbers as too good, or use the films with their table"
)


def shards_of(folder: Path) -> list[Path]:
    """Return the shards in a folder and all below it, in the order of their paths; [] for other layouts."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


def read_shards(folder: Path, labels: Sequence[str], *, show: bool = False) -> FilmList:
    """Read the shards of a folder for these labels. A damaged record is named by shard and number.

    `show` draws a progress bar on a terminal.
    Raises BadList for a label that the first good record does not tell, and where no record can be used.
    """
    shards = shards_of(folder)
    rows: list[FilmRow | BadRow] = []
    told = False
    with bar("records (bytes)", sum(path.stat().st_size for path in shards), fewest=2**28, show=show) as done:
        for path in shards:
            for record in read_records(path):
                name = f"{path.name}#{record.number}"
                features = _features(record)
                if isinstance(features, str):
                    rows.append(BadRow(row=len(rows) + 1, image=name, reason=features))
                    continue
                if not told:
                    _require_labels(folder.name, features, labels)
                    told = True
                rows.append(_row(path, record, name, len(rows) + 1, features, labels))
            done(path.stat().st_size)
    notes: tuple[str, ...] = ()
    films = [row for row in rows if isinstance(row, FilmRow)]
    if films and all(row.group for row in films):
        apart = len(shards) >= 2 * FOLDS
        notes = (_SHARDS_APART if apart else _NOT_APART,)
        if not apart:
            rows = [dataclasses.replace(row, group="") if isinstance(row, FilmRow) else row for row in rows]
    return checked(rows, labels, folder.name, notes)


def _features(record: Record | Damage) -> dict[str, Values] | str:
    """The features of a record by the key of their name; else what is wrong with it."""
    if isinstance(record, Damage):
        return record.reason
    try:
        return {spelling.key(name): values for name, values in parse_example(record.content).items()}
    except BadExample as error:
        return f"no tf.train.Example: {error}"


def _require_labels(name: str, features: Mapping[str, Values], labels: Sequence[str]) -> None:
    if missing := [label for label in labels if not spelling.sources(label, features)]:
        raise BadList(
            f"{name}: the records have no feature {', '.join(missing)}; spell the label as they do, or leave it out of "
            f"the recipe; they have {', '.join(sorted(features))}"
        )


def _row(
    path: Path, record: Record | Damage, name: str, number: int, features: Mapping[str, Values], labels: Sequence[str]
) -> FilmRow | BadRow:
    def bad(reason: str) -> BadRow:
        return BadRow(row=number, image=name, reason=reason)

    known: dict[str, int] = {}
    for label in labels:
        sources = spelling.sources(label, features)
        if not sources:
            return bad(f"no feature {label}")
        for key in sources:
            if features[key] not in ((0,), (1,)):
                return bad(f"the feature of {label} is not one 0 or 1")
            known[key] = int(features[key] == (1,))
    picture = next((features[key] for key in _IMAGE if features.get(key)), ())
    if not isinstance(record, Record) or len(picture) != 1 or not isinstance(span := picture[0], tuple):
        return bad("no feature image with one picture")
    words = {key: _word(record.content, values) for key, values in features.items() if key in _ABOUT}

    def said(keys: Sequence[str]) -> str:
        return next((words[key] for key in keys if words.get(key)), "")

    age = years(said(_AGE))
    if isinstance(age, str):
        return bad("its age is not a number of years")
    file = _NIH_FILE.fullmatch(said(_NAME))
    patient = said(_PATIENT) or (file[1] if file else "")
    return FilmRow(
        path=path,
        span=(record.offset + span[0], span[1] - span[0]),
        # Of records without a patient a whole shard is kept together; `read_shards` says so.
        patient=patient or name,
        group="" if patient else path.name,
        view=said(_VIEW).upper(),
        age=age,
        sex=sex_of(said(_SEX)),
        findings=tuple(spelling.value(label, known) for label in labels),
        row=number,
        image=name,
    )


def _word(content: bytes, values: Values) -> str:
    """The one value of a feature as text; "" where there is none or it is no text."""
    if len(values) != 1:
        return ""
    value = values[0]
    if isinstance(value, tuple):
        return content[value[0] : value[1]].decode("utf-8", "ignore").strip()
    return f"{value:g}" if isinstance(value, float) else str(value)
