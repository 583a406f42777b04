"""The way to a destination, by its kind: an association, a web connection, or an MLLP connection."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from cxrnode.dicom import mllp, sender, stow
from cxrnode.dicom.destination import (
    AnyDestination,
    Destination,
    Hl7Destination,
    Sent,
    StowDestination,
    Timeouts,
    Way,
)
from cxrnode.errors import ConfigError, Rejected


def open_way(
    destination: AnyDestination,
    *,
    calling_aet: str,
    pairs: Iterable[tuple[str, str]],
    timeouts: Timeouts,
    to_ask: bool = False,
) -> Way:
    """Open the way for objects of these (SOP class, transfer syntax) pairs, and `to_ask` which there are already.

    Raises AssociationFault.
    """
    match destination:
        case Destination():
            return sender.open_association(
                destination, calling_aet=calling_aet, pairs=pairs, timeouts=timeouts, to_ask=to_ask
            )
        case StowDestination():
            return stow.open_stow(destination, timeouts=timeouts)
        case Hl7Destination():
            return mllp.open_mllp(destination, timeouts=timeouts)


def reach(destination: AnyDestination, *, calling_aet: str, timeouts: Timeouts) -> str:
    """Ask a destination whether it is there, and return in words what it answers. Raises AssociationFault."""
    match destination:
        case Destination():
            sender.echo(destination, calling_aet=calling_aet, timeouts=timeouts)
            return "answers C-ECHO"
        case StowDestination():
            return stow.reach(destination, timeouts=timeouts)
        case Hl7Destination():
            return mllp.reach(destination, timeouts=timeouts)


def send_files(
    paths: Iterable[Path], destination: AnyDestination, *, calling_aet: str, timeouts: Timeouts
) -> Iterator[tuple[Path, Sent | Rejected]]:
    """Send DICOM files in order and yield each with its answer, or why it cannot be sent.

    Raises AssociationFault, OSError for a file that cannot be read, ConfigError for a destination that takes none.
    """
    match destination:
        case Destination():
            yield from sender.send_files(paths, destination, calling_aet=calling_aet, timeouts=timeouts)
        case StowDestination():
            with stow.open_stow(destination, timeouts=timeouts) as way:
                for path in paths:
                    try:
                        yield path, way.store(path.read_bytes())
                    except Rejected as error:
                        yield path, error
        case Hl7Destination():
            raise ConfigError(f"[nodes.{destination.name}] takes HL7 messages, not DICOM files; name another node")
