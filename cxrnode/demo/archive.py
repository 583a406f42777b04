"""The demonstration's archive: a small storage SCP that keeps what it gets in a folder. It stands in for the PACS."""

from __future__ import annotations

import dataclasses
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from cxrnode.dicom.listener import Answer, Listener, Received
from cxrnode.dicom.statuses import SUCCESS

AE_TITLE = "ARCHIVE"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Archived:
    """An object as it came: its file, where files are kept, and when, in seconds of the monotonic clock."""

    sop_instance_uid: str
    sop_class_uid: str
    path: Path
    at: float


class Archive:
    """Keeps every object that it gets. Use as a context manager; `port` is known once it runs."""

    def __init__(self, folder: Path, *, keep: bool = True) -> None:
        """Keep objects in `folder`, made when it is missing; or only know of them, their files gone once they came."""
        self.folder = folder
        self._keep = keep
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._objects: list[Archived] = []
        self._listener = Listener(
            ae_title=AE_TITLE, folder=folder, admit=lambda *_: None, receive=self._receive, host="127.0.0.1"
        )

    @property
    def port(self) -> int:
        """The port that the archive listens on."""
        return self._listener.address[1]

    @property
    def objects(self) -> tuple[Archived, ...]:
        """What has come so far, in order."""
        with self._lock:
            return tuple(self._objects)

    def _receive(self, received: Received) -> Answer:
        with self._lock:
            path = self.folder / f"{len(self._objects) + 1:04d}.dcm"
            if self._keep:
                received.path.rename(path)
            else:
                received.path.unlink()
            self._objects.append(
                Archived(
                    sop_instance_uid=received.sop_instance_uid,
                    sop_class_uid=received.sop_class_uid,
                    path=path,
                    at=time.monotonic(),
                )
            )
        return Answer(status=SUCCESS)

    def __enter__(self) -> Self:
        self._listener.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
