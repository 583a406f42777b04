"""A spool in an object store that speaks S3: what is kept is what the store acknowledged.

Received data sets wait in a folder of this machine until their PUT is acknowledged; a machine that dies before that
has not answered its sender. Credentials come from the environment (AWS_ACCESS_KEY_ID and the like) or from the
machine's own role, never from the configuration.
"""

from __future__ import annotations

import contextlib
import datetime
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cxrnode.core.digests import Kind, digest_of, matches
from cxrnode.core.kept import Content, Kept, is_key
from cxrnode.errors import ConfigError, Rejected, Transient

if TYPE_CHECKING:
    from obstore.store import ClientConfig, S3Config

#: How long one request may take, how long its answer may be silent, and how long it is tried again.
REQUEST_SECONDS = 120
SILENT_SECONDS = 15
RETRY_SECONDS = 10
_CODE = re.compile(r"<Code>(\w{1,64})</Code>")
#: Requests at a time of one `put`: a film makes half a dozen objects.
_AT_ONCE = 6


class BucketSpool:
    """Objects `PREFIX/ab/abcd...` of one bucket, laid out as the folder `objects` of a FolderSpool is."""

    def __init__(
        self, url: str, *, scratch: Path, endpoint: str = "", ca: Path | None = None, digests: Kind = Kind.BLAKE3
    ) -> None:
        """Use `s3://bucket/prefix`, by way of `endpoint` where it is not Amazon's; `scratch` is a folder of our own.

        Raises ConfigError where the URL names no bucket or a file cannot be read, Transient where `scratch` cannot be
        made. Asks the store nothing yet.
        """
        try:
            import obstore
            from obstore.store import S3Store
        except ImportError:
            raise ConfigError("spool.url names an object store: pip install 'cxrnode[s3]'") from None
        parts = urlsplit(url)
        client: ClientConfig = {
            "connect_timeout": "5s",
            "read_timeout": f"{SILENT_SECONDS}s",
            "timeout": f"{REQUEST_SECONDS}s",
            "allow_http": endpoint.startswith("http://"),
        }
        # The store compares what arrived with this before it acknowledges.
        settings: S3Config = {"checksum_algorithm": "SHA256"}
        if endpoint:
            settings["endpoint"] = endpoint
        try:
            if ca is not None:
                client["root_certificate"] = ca.read_bytes()
            self._store = S3Store(
                parts.netloc,
                prefix=parts.path.strip("/") or None,
                client_options=client,
                retry_config={"max_retries": 3, "retry_timeout": datetime.timedelta(seconds=RETRY_SECONDS)},
                config=settings,
            )
        except OSError as error:
            raise ConfigError(f"spool.ca: cannot read {ca}: {error.strerror}") from None
        except (obstore.exceptions.BaseError, ValueError) as error:
            raise ConfigError(
                f"spool.url, spool.endpoint or spool.ca cannot be used ({type(error).__name__})"
            ) from None
        self.digests = digests
        self._obstore = obstore
        self._faults = (obstore.exceptions.BaseError, OSError)
        self._requests = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="spool")
        self.incoming = scratch / "incoming"
        try:
            self.incoming.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise Transient(f"the spool folder {self.incoming} cannot be made: {error.strerror}") from error

    def adopt(self, received: Path, *, digest: str) -> Kept:
        """Make a file in `incoming` durable under a new key: its PUT is acknowledged. Raises Transient."""
        key = secrets.token_hex(16)
        try:
            size = received.stat().st_size
            self._obstore.put(self._store, _place(key), received)
        except self._faults as fault:
            raise self._away("cannot keep a file", fault) from None
        received.unlink(missing_ok=True)
        return Kept(key=key, digest=digest, size=size)

    def put(self, *contents: Content) -> tuple[Kept, ...]:
        """Make some contents durable, each under a new key: all or none. Raises Transient."""
        return self.put_each(contents)

    def put_each(self, contents: Iterable[Content]) -> tuple[Kept, ...]:
        """As `put`, of what is still being made: each is kept while the next is. What `contents` raises comes out."""
        asked: list[tuple[str, Future[Kept]]] = []
        try:
            for content in contents:
                key = secrets.token_hex(16)
                asked.append((key, self._requests.submit(self._put, key, content)))
        except BaseException:  # an interrupt too: a part of what was to come is wanted by nobody; it goes on
            self._undo(asked)
            raise
        faults = [fault for _, one in asked if (fault := one.exception()) is not None]
        if faults:
            self._undo(asked)
            if isinstance(faults[0], self._faults):
                raise self._away("cannot keep a file", faults[0])
            raise faults[0]
        return tuple(one.result() for _, one in asked)

    def _put(self, key: str, content: Content) -> Kept:
        whole = content if isinstance(content, bytes) else b"".join(content)
        self._obstore.put(self._store, _place(key), whole)
        return Kept(key=key, digest=digest_of(whole, self.digests), size=len(whole))

    def _undo(self, asked: Sequence[tuple[str, Future[Kept]]]) -> None:
        for key, one in asked:
            one.exception()  # waits for it
            self.remove(key)

    @contextlib.contextmanager
    def borrow(self, key: str) -> Iterator[Path]:
        """A copy of a key's bytes in `incoming`, for as long as the block lasts. Raises as `read` does."""
        copy = self.incoming / f"borrowed-{secrets.token_hex(16)}"
        try:
            try:
                with copy.open("xb") as file:
                    for piece in self._obstore.get(self._store, _place(key)):
                        file.write(piece)
            except self._faults as fault:
                raise self._missing_or_away(key, fault) from None
            yield copy
        finally:
            copy.unlink(missing_ok=True)

    def read(self, key: str, *, digest: str) -> bytes:
        """Return a file's bytes. Raises Rejected where it is missing or altered, Transient where the spool is away."""
        try:
            content = bytes(self._obstore.get(self._store, _place(key)).bytes())
        except self._faults as fault:
            raise self._missing_or_away(key, fault) from None
        if not matches(content, digest):
            raise Rejected(f"the spool's file {key} was altered: its digest is not the recorded one")
        return content

    def has(self, key: str) -> bool:
        """Whether there is a file of this key; where the spool is away, it is taken to have it."""
        try:
            self._obstore.head(self._store, _place(key))
        except self._faults as fault:
            return not isinstance(self._missing_or_away(key, fault), Rejected)
        return True

    def remove(self, key: str) -> bool:
        """Remove a file; False where the store did not acknowledge that. S3 does not say whether there was one."""
        try:
            self._obstore.delete(self._store, _place(key))
        except self._faults:
            return False
        return True

    def keys_older_than(self, seconds: float) -> Iterator[str]:
        """The keys of objects last changed more than `seconds` ago by the store's clock. Raises Transient."""
        before = time.time() - seconds
        try:
            for page in self._obstore.list(self._store):
                for one in page:
                    name = str(one["path"]).rpartition("/")[2]
                    if is_key(name) and one["last_modified"].timestamp() < before:
                        yield name
        except self._faults as fault:
            raise self._away("does not answer", fault) from None

    def sweep_incoming(self, seconds: float) -> int:
        """Remove what a lost association or a killed process left in `incoming` longer than `seconds` ago."""
        before, swept = time.time() - seconds, 0
        for file in self.incoming.iterdir():
            with contextlib.suppress(OSError):  # its owner was faster
                if file.stat().st_mtime < before:
                    file.unlink()
                    swept += 1
        return swept

    def answers(self) -> bool:
        """Whether the bucket can be listed."""
        try:
            next(iter(self._obstore.list(self._store, chunk_size=1)), None)
        except self._faults:
            return False
        return True

    def free(self) -> int:
        """Free bytes of the folder that receives: an object store tells none of its own. Raises Transient."""
        try:
            return shutil.disk_usage(self.incoming).free
        except OSError as error:
            raise Transient(f"the spool folder does not answer: {error.strerror}") from error

    def _missing_or_away(self, key: str, fault: BaseException) -> Rejected | Transient:
        if not isinstance(fault, FileNotFoundError) or "NoSuchBucket" in str(fault):
            return self._away("does not answer", fault)
        if not self.answers():  # a HEAD has no body that says what is missing, the key or the whole bucket
            return self._away("does not answer", fault)
        return Rejected(f"the spool has no file {key}: restore it from the backup, or send the film again")

    def _away(self, what: str, fault: BaseException) -> Transient:
        """The library's own text holds addresses and whole answers: S3's word for it is enough."""
        code = _CODE.search(str(fault))
        return Transient(f"the spool {what}: {code[1] if code else type(fault).__name__}")


def _place(key: str) -> str:
    if not is_key(key):
        raise Rejected("this is no key of the spool")
    return f"{key[:2]}/{key}"
