"""Log lines: structlog over the standard library, one scrubber for all, JSON or console on one stream.

No patient identifier leaves through here, whoever wrote the line: our loggers, pynetdicom, pydicom, SQLAlchemy,
a warning or the traceback of an uncaught exception. It scrubs too much rather than too little; a job is named by
its number.
It never opens a file and sends nothing anywhere.
"""

from __future__ import annotations

import datetime
import enum
import logging
import os
import re
import sys
import threading
import uuid
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

REDACTED = "[redacted]"

#: Keys whose value is never written, without case and underscores: PatientName and patient_name are one.
IDENTIFIER_KEYS = frozenset(
    key.replace("_", "")
    for key in (
        *("patient", "patient_id", "patient_name", "patient_birth_date", "patient_birth_time", "patient_address"),
        *("patient_comments", "other_patient_ids", "other_patient_names", "person_name", "mrn", "issuer"),
        *("issuer_of_patient_id", "birth_date", "date_of_birth", "dob", "identity", "identity_digest", "pixel_digest"),
        *("accession", "accession_number", "study_id", "study_uid", "study_instance_uid", "series_uid", "sop_uid"),
        *("series_instance_uid", "sop_instance_uid", "source_uid", "uid", "uids", "institution", "institution_name"),
        *("operators_name", "performing_physician_name", "referring_physician_name", "requesting_physician"),
        *("protocol_name", "performed_procedure", "requested_procedure", "series_description", "study_description"),
    )
)

#: Libraries that put values of the data set or of SQL statements into their messages, always in quotes.
_QUOTING = ("pydicom", "pynetdicom", "highdicom", "sqlalchemy", "py.warnings", "PIL", "gdcm")
#: Louder than this they print identifiers (pynetdicom at INFO, urllib3 the paths that it asks for) or every poll
#: (APScheduler, Alembic).
_QUIET = (
    *("pydicom", "pynetdicom", "highdicom", "sqlalchemy", "alembic", "apscheduler", "PIL", "asyncio", "py.warnings"),
    "urllib3",
)

_UID = re.compile(r"(?<![\w.])(?!1\.2\.840\.10008\.)(?:2\.25\.\d{6,}|[0-2](?:\.\d+){5,})(?![\w])")
# Either quote, so that a name with an apostrophe ends where it ends; the s in Patient's opens nothing.
_QUOTED = re.compile(r"(?<!\w)'.*?'(?!\w)|\"[^\"]*\"", re.DOTALL)
_PERSON_NAME = re.compile(r"[^'\"\n\[\](){}<>:=,;|]*(?:\w\^|\^\w)[^'\"\n\[\](){}<>:=,;|]*")
_PATIENT_GROUP = re.compile(r"(\(0010, ?[0-9a-fA-F]{4}\)).*")
_MESSAGE = re.compile(r"([A-Za-z_][\w.]*)(?::|$)")
_SQL_PARAMETERS = re.compile(r"\[parameters: .*?\](?=$|\n)", re.DOTALL)


def configure(
    *,
    level: Literal["debug", "info", "warning", "error"] = "info",
    format: Literal["json", "console"] = "json",
    role: str = "",
    stream: TextIO | None = None,
) -> None:
    """Set up the process's logging, once per process and again after a fork; `role` stands in every line."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        _bound(role=role, pid=os.getpid()),
    ]
    renderer: Processor = (
        structlog.processors.JSONRenderer()
        if format == "json"
        else structlog.dev.ConsoleRenderer(colors=(stream or sys.stderr).isatty())
    )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.StackInfoRenderer(),
                structlog.processors.format_exc_info,
                scrub,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _QUIET:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.setLevel(logging.WARNING)
    logging.captureWarnings(True)
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """Return the logger of a module. Its events are short constants; what varies goes into keys."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


def scrub(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Take identifiers out of one event: by key, by the shape of a value, and by who wrote it."""
    origin = str(event.get("logger", ""))
    quoting = origin.split(".")[0] in _QUOTING or origin in _QUOTING
    scrubbed: dict[str, Any] = {}
    for key, value in event.items():
        if key in ("level", "time", "logger", "role", "pid"):
            scrubbed[key] = value
        elif key in ("exception", "stack"):
            scrubbed[key] = scrub_traceback(str(value))
        elif key == "event" and quoting:
            scrubbed[key] = scrub_text(_QUOTED.sub(REDACTED, str(value)))
        else:
            scrubbed[key] = _scrubbed(key, value)
    return scrubbed


def scrub_text(text: str) -> str:
    """Return the text without UIDs other than DICOM's own, person names, group 0010 values and SQL parameters."""
    text = _SQL_PARAMETERS.sub(f"[parameters: {REDACTED}]", text)
    text = _PATIENT_GROUP.sub(rf"\1 {REDACTED}", text)
    if "^" in text:
        text = _PERSON_NAME.sub(REDACTED, text)
    return _UID.sub(REDACTED, text)


def scrub_traceback(text: str) -> str:
    """Return a traceback with its frames, and its messages without quoted values unless they are our own.

    The messages of `cxrnode.errors` are written to hold no identifier; those of a library may quote the data set.
    """
    lines: list[str] = []
    ours = False
    source_follows = False
    for line in text.split("\n"):
        frame = line.startswith("  File ")
        if frame or source_follows or line.startswith("Traceback ") or not line.strip(" ^~"):
            lines.append(scrub_text(line))
        else:
            # A message may go on over several lines: they belong to whoever began it.
            if begins := _MESSAGE.match(line):
                ours = begins[1].startswith("cxrnode.")
            lines.append(scrub_text(line if ours else _QUOTED.sub(REDACTED, line)))
        source_follows = frame
    return "\n".join(lines)


def _scrubbed(key: str, value: Any) -> Any:
    if key.lower().replace("_", "") in IDENTIFIER_KEYS:
        return REDACTED
    match value:
        case enum.Enum():
            return scrub_text(str(value))
        case None | bool() | int() | float():
            return value
        case str():
            return scrub_text(value)
        case Mapping():
            return {str(k): _scrubbed(str(k), v) for k, v in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_scrubbed("", v) for v in value]
        case BaseException():
            text = f"{type(value).__module__}.{type(value).__qualname__}: {value}"
            return scrub_traceback(text)
        case os.PathLike() | datetime.date() | datetime.timedelta() | uuid.UUID():
            return scrub_text(str(value))
        case _:  # a data set, a row, an array: whatever it holds, its type is enough
            return f"<{type(value).__name__}>"


def _bound(**values: object) -> Processor:
    """Values of the whole process. Context variables would not reach the threads that pynetdicom starts."""

    def bind(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        for key, value in values.items():
            if value != "":
                event.setdefault(key, value)
        return event

    return bind


def _log_uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
        return
    logging.getLogger("cxrnode").critical("uncaught exception", exc_info=(kind, error, traceback))


def _log_uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and not issubclass(args.exc_type, SystemExit):
        _log_uncaught(args.exc_type, args.exc_value, args.exc_traceback)
