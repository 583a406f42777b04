"""A folder of DICOM films with their labels in a CSV file, found by SOP Instance UID or by file name.

Training sees what serving sees: films that the header gate refuses (a lateral, a hand, one For Processing) are left
out with its reason, and so are those whose header contradicts itself; where it is merely silent the table vouches for
the film. Pixels come from the node's own decoder. Patients are known by a digest alone.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from cxrnode.core.gate import Answer, Reason, gate
from cxrnode.core.header import Identity
from cxrnode.core.views import View, view_of
from cxrnode.core.words import DEFAULT_WORDS
from cxrnode.dicom.header import identity_of, read_header, to_header
from cxrnode.errors import Rejected
from cxrnode.training.readers import labels as spelling
from cxrnode.training.readers.films import BadList, BadRow, FilmList, FilmRow, checked
from cxrnode.training.readers.plain import ABOUT, film_of, finding_columns, kept
from cxrnode.training.readers.progress import bar
from cxrnode.training.readers.table import read_table

#: What the column of SOP Instance UIDs may be called, by key.
_UIDS = ("sopinstanceuid", "sop_instance_uid")
#: Doubts of the gate over a header that is silent, not contradictory.
_SILENT = (Reason.INCOMPLETE, Reason.REGION_MISSING, Reason.VIEW_MISSING)
_VIEWS = {View.PA: "PA", View.AP: "AP", View.FRONTAL: "FRONTAL"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Header:
    """What the header of one film says; `fault` is why it is left out, `doubt` that it is silent."""

    uid: str
    patient: str
    view: str
    age: float | None
    sex: str
    fault: str
    doubt: bool


def uid_column(columns: Sequence[str]) -> str | None:
    """Return the column of SOP Instance UIDs."""
    return next((column for column in columns if spelling.key(column) in _UIDS), None)


def holds_dicom(folder: Path) -> bool:
    """Whether any file in the folder, or below it, is called a DICOM file."""
    return any(path.suffix.lower() == ".dcm" for path in folder.rglob("*"))


def read_dicom(
    table: Path,
    labels: Sequence[str],
    *,
    folds: Collection[str] = (),
    parts: Collection[str] = (),
    ignored: Collection[str] = (),
    show: bool = False,
) -> FilmList:
    """Read DICOM films in the folder of `table`, and all below it, with the labels of its rows.

    What the table does not say of patient, view, age and sex is taken from the header. `show` draws a progress bar on
    a terminal. Raises BadList.
    """
    columns, raw = read_table(table)
    uids = uid_column(columns)
    if uids is None and "image" not in columns:
        raise BadList(f"{table.name}: no column SOPInstanceUID or image; add one that names the film of each row")
    about = ABOUT | ({uids} if uids else set())
    told = finding_columns(table.name, columns, labels, about=about, ignored=ignored)
    files = sorted(path for path in table.parent.rglob("*") if path.is_file() and path != table)
    chosen = list(kept(table.name, columns, raw, folds, parts))
    headers: dict[Path, _Header | str] = {}
    with bar("headers", len(files), show=show) as done:
        for path in files:
            if path.suffix.lower() in (".dcm", "") or path.name[-1:].isdigit():
                headers[path] = _read(path)
            done(1)
    by_uid = {header.uid: path for path, header in headers.items() if isinstance(header, _Header) and header.uid}
    by_name = {path.name: path for path in headers} | {
        path.relative_to(table.parent).as_posix(): path for path in headers
    }

    seen: set[Path] = set()

    def rows() -> Iterator[FilmRow | BadRow]:
        for number, row in chosen:
            name = row[uids] if uids else row["image"]
            path = (by_uid if uids else by_name).get(name.strip())
            if path is None:
                what = "no DICOM file here has this SOP Instance UID" if uids else "no DICOM file here has this name"
                yield BadRow(row=number, image=name, reason=what if name else "no film is named")
            elif path in seen:
                yield BadRow(row=number, image=name, reason="the film is named twice")
            else:
                seen.add(path)
                film = film_of(path, number, {**row, "image": name}, told, labels)
                yield film if isinstance(film, BadRow) else described(film, headers[path])

    found = checked(rows(), labels, table.name)
    return dataclasses.replace(found, notes=_notes(found, headers, len(headers) - len(seen)))


def described(row: FilmRow, header: _Header | str | None = None) -> FilmRow | BadRow:
    """Return the row with what the header of its DICOM file adds; a BadRow where the node would not read the film."""
    header = _read(row.path) if header is None else header
    fault = header if isinstance(header, str) else header.fault
    if fault or isinstance(header, str):
        return BadRow(row=row.row, image=row.image, reason=fault)
    return dataclasses.replace(
        row,
        patient=header.patient if header.patient and row.patient == row.image else row.patient,
        view=row.view or header.view,
        age=header.age if row.age is None else row.age,
        sex=row.sex or header.sex,
    )


def _read(path: Path) -> _Header | str:
    """The header of a file, or why it has none."""
    try:
        dataset = read_header(path)
    except Rejected as error:
        return f"no DICOM film that can be read ({error})"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    header = to_header(dataset)
    identity, said = identity_of(dataset), gate(header)
    return _Header(
        uid=identity.sop_uid,
        patient=_patient(identity),
        view=_VIEWS.get(view_of(header, DEFAULT_WORDS), ""),
        age=header.age_years,
        sex=header.sex[:1].upper() if header.sex[:1].upper() in ("F", "M") else "",
        fault="" if said.answer is Answer.ACCEPT or said.reason in _SILENT else said.text,
        doubt=said.reason in _SILENT,
    )


def _patient(identity: Identity) -> str:
    """A digest that is the same for the films of one patient; of one study, where no patient is named."""
    who = f"{identity.issuer}\0{identity.patient_id}" if identity.patient_id else identity.study_uid
    return hashlib.sha256(who.encode()).hexdigest()[:16] if who else ""


def _notes(films: FilmList, headers: dict[Path, _Header | str], unnamed: int) -> tuple[str, ...]:
    doubts = sum(isinstance(header := headers[row.path], _Header) and header.doubt for row in films.rows)
    notes = []
    if doubts:
        notes.append(
            f"films whose header does not tell region or view, kept since the table vouches for them: {doubts}; "
            'the node ignores such films unless unsure = "read"'
        )
    if unnamed > 0:
        notes.append(f"DICOM files in the folder that no row of the table names: {unnamed}")
    return tuple(notes)
