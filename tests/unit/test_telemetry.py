"""Log lines: what they hold, and above all what never stands in one."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import sys
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
import structlog
from pydicom.valuerep import validate_value

from cxrnode import telemetry
from cxrnode.errors import ConfigError

NAME, NUMBER, UID = "O'Brien^Käte^^Dr", "PAT-4711", "1.3.6.1.4.1.5962.1.2.0.1175775771.5711.0"

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """Logging as `infer` sets it up, at the loudest level; returns what was written, parsed."""
    stream = io.StringIO()
    root = logging.getLogger()
    kept = (root.handlers[:], root.level, sys.excepthook, threading.excepthook)
    levels = {name: logging.getLogger(name).level for name in telemetry._QUIET}
    telemetry.configure(level="debug", format="json", role="infer", stream=stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers[:], sys.excepthook, threading.excepthook = kept[0], kept[2], kept[3]
    root.setLevel(kept[1])
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


def assert_clean(text: str) -> None:
    for piece in (NAME, "O'Brien", "Brien", "Käte", NUMBER, "4711", UID, "5962"):
        assert piece not in text


def test_a_line_holds_time_level_logger_role_and_its_keys(lines: Lines) -> None:
    telemetry.get_logger("cxrnode.roles.infer").info("claimed", job=12, node="PACS", seconds=0.25)
    (line,) = lines()
    assert line.pop("time").endswith("Z")
    assert line.pop("pid") > 0
    assert line == {
        "event": "claimed",
        "level": "info",
        "logger": "cxrnode.roles.infer",
        "role": "infer",
        "job": 12,
        "node": "PACS",
        "seconds": 0.25,
    }


def test_the_role_stands_in_the_lines_of_other_threads_too(lines: Lines) -> None:
    thread = threading.Thread(target=lambda: logging.getLogger("pynetdicom.acse").warning("late"))
    thread.start()
    thread.join()
    assert [(line["role"], line["event"]) for line in lines()] == [("infer", "late")]


@pytest.mark.parametrize(
    "key",
    [
        "patient_name",
        "PatientName",
        "patient_id",
        "PatientID",
        "accession",
        "AccessionNumber",
        "study_uid",
        "birth_date",
    ],
)
def test_the_value_of_an_identifiers_key_is_never_written(lines: Lines, key: str) -> None:
    telemetry.get_logger("cxrnode").warning("routed", **{key: NUMBER}, header={key: NUMBER, "Modality": "CR"})
    (line,) = lines()
    assert line[key] == telemetry.REDACTED
    assert line["header"] == {key: telemetry.REDACTED, "Modality": "CR"}


def test_values_are_scrubbed_by_their_shape_under_any_key(lines: Lines) -> None:
    telemetry.get_logger("cxrnode").info(f"film {UID} of {NAME}", a=UID, b=[f"x {NAME}"], c={"d": ("2.25.123456789",)})
    (line,) = lines()
    assert_clean(json.dumps(line, ensure_ascii=False))
    assert line["c"] == {"d": [telemetry.REDACTED]}


def test_numbers_versions_addresses_and_dicoms_own_uids_stay(lines: Lines) -> None:
    keys = {
        "job": 4711,
        "host": "192.0.2.17",
        "version": "3.0.4",
        "sop_class": "1.2.840.10008.5.1.4.1.1.1.1",
        "status": "0xA700",
        "path": Path("/var/lib/cxrnode/spool"),
        "empty": None,
    }
    telemetry.get_logger("cxrnode").info("checked", **keys)
    (line,) = lines()
    assert {key: line[key] for key in keys} == {**keys, "path": "/var/lib/cxrnode/spool"}


def test_an_object_is_shown_by_its_type_alone(lines: Lines) -> None:
    @dataclasses.dataclass
    class Row:
        whose: str = NUMBER

    film = pydicom.Dataset()
    film.PatientID = NUMBER
    telemetry.get_logger("cxrnode").info("odd", film=film, row=Row(), raw=NUMBER.encode(), key=uuid.UUID(int=1))
    (line,) = lines()
    assert (line["film"], line["row"], line["raw"]) == ("<Dataset>", "<Row>", "<bytes>")
    assert line["key"] == "00000000-0000-0000-0000-000000000001"


def test_pydicoms_warnings_lose_the_value_they_quote(lines: Lines) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        validate_value("UI", "PAT-4711.x", pydicom.config.WARN)
        validate_value("DA", "4711-O'Brien", pydicom.config.WARN)
        validate_value("CS", "käte o'brien", pydicom.config.WARN)
    written = lines()
    assert [line["logger"] for line in written] == ["pydicom", "py.warnings"] * 3  # it says each twice
    assert all("Invalid value for VR" in line["event"] for line in written)
    for line in written:
        assert_clean(line["event"])
        assert "käte" not in line["event"]


@pytest.mark.parametrize("origin", ["pydicom", "pynetdicom.events", "sqlalchemy.engine", "highdicom.sr"])
def test_libraries_lose_every_value_they_quote(lines: Lines, origin: str) -> None:
    logging.getLogger(origin).warning("(0010,0020) Patient's ID LO: '%s' and \"%s\"", NUMBER, NUMBER)
    logging.getLogger(origin).error("Patient's number is '%s' or '%s'", "O'Brien", NUMBER)
    for line in lines():
        assert_clean(line["event"])


def test_pynetdicom_is_not_heard_below_warning_at_any_level(lines: Lines) -> None:
    logging.getLogger("pynetdicom.assoc").info("Patient ID %s", NUMBER)
    logging.getLogger("pydicom").debug("%s", NUMBER)
    assert lines() == []


def test_a_librarys_traceback_keeps_its_frames_and_loses_its_values(lines: Lines) -> None:
    try:
        try:
            float(NUMBER)
        except ValueError as error:
            raise LookupError(f"no film of {NAME}, {UID},\n'{NUMBER}' nor (0010,0020) LO: {NUMBER}") from error
    except LookupError:
        telemetry.get_logger("cxrnode").exception("bug", job=3)
    (line,) = lines()
    assert_clean(line["exception"])
    assert "float(NUMBER)" in line["exception"]
    assert "test_telemetry.py" in line["exception"]
    assert "LookupError" in line["exception"]


def test_our_own_errors_keep_the_names_they_quote(lines: Lines) -> None:
    try:
        raise ConfigError(f"rule 'films' names the model 'chset'; nothing of {UID}")
    except ConfigError as error:
        telemetry.get_logger("cxrnode").exception("refused", why=error)
    (line,) = lines()
    assert "rule 'films' names the model 'chset'" in line["exception"]
    assert line["why"].startswith("cxrnode.errors.ConfigError: rule 'films' names")
    assert_clean(json.dumps(line))


def test_sql_parameters_are_taken_out_of_an_error(lines: Lines) -> None:
    telemetry.get_logger("cxrnode").error("(sqlite3.IntegrityError)\n[SQL: INSERT]\n[parameters: ('PAT-4711', 1)]\n(x)")
    assert lines()[0]["event"] == "(sqlite3.IntegrityError)\n[SQL: INSERT]\n[parameters: [redacted]]\n(x)"


def test_an_uncaught_exception_is_a_scrubbed_line_in_any_thread(lines: Lines) -> None:
    def fails() -> None:
        raise RuntimeError(f"film of {NAME}")

    thread = threading.Thread(target=fails)
    thread.start()
    thread.join()
    try:
        fails()
    except RuntimeError as error:
        sys.excepthook(type(error), error, error.__traceback__)
    written = lines()
    assert [(line["level"], line["event"]) for line in written] == [("critical", "uncaught exception")] * 2
    assert_clean(json.dumps(written, ensure_ascii=False))


def test_the_console_format_is_scrubbed_too(lines: Lines) -> None:
    stream = io.StringIO()
    telemetry.configure(level="info", format="console", role="send", stream=stream)
    telemetry.get_logger("cxrnode").info("sent", node="PACS", patient_id=NUMBER, what=NAME)
    telemetry.get_logger("cxrnode").debug("not heard")
    assert "node=PACS" in stream.getvalue()
    assert "not heard" not in stream.getvalue()
    assert_clean(stream.getvalue())


def test_the_caret_marks_of_a_traceback_are_no_names() -> None:
    text = 'Traceback (most recent call last):\n  File "x.py", line 1, in f\n    a + b\n    ~~^~~\nTypeError: no'
    assert telemetry.scrub_traceback(text) == text
