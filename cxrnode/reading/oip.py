"""The Open Inference Protocol, version 2, over HTTP: what Triton, KServe, OpenVINO Model Server and MLServer speak.

One server and one model on it. A server that is away, slow, busy or still loading is Transient; a request that it finds
wrong is Rejected. It knows tensors, and neither films nor bundles. Redirections are not followed, and neither variables
nor files of the machine name a proxy. https://github.com/kserve/open-inference-protocol
"""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import ssl
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
import numpy.typing as npt
import urllib3

from cxrnode.errors import ConfigError, Rejected, Transient
from cxrnode.sections import Auth, ClientTls, Server

Array = npt.NDArray[Any]

#: Data types of the protocol, and what they are here.
_TYPES = {"UINT8": np.uint8, "FP16": np.float16, "FP32": np.float32, "FP64": np.float64, "INT64": np.int64}
_NAMES = {np.dtype(kind): name for name, kind in _TYPES.items()}
#: An answer larger than this is none of ours, in bytes.
_LARGEST = 256 << 20
_CHUNK = 1 << 20
#: What the server says when it cannot answer now, though the request is good: it, or the model, is away or busy.
_PASSING = frozenset({401, 403, 404, 407, 408, 425, 429, 502, 503, 504})


class Away(Transient):
    """The inference server does not answer, or does not have the model now."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What a server says of itself and of the model: names and versions, as they stand in a report."""

    server: str
    version: str
    platform: str
    binary: bool

    @property
    def name(self) -> str:
        """Server, version, and what runs the model there."""
        said = " ".join(part for part in ("kserve", self.server, self.version, self.platform) if part)
        return "".join(letter for letter in said if letter.isprintable())[:128]


class OipClient:
    """Asks one server for one model. Safe to use from one thread at a time."""

    def __init__(self, server: Server, model: str) -> None:
        """Connect lazily. Raises ConfigError where TLS files or the secret cannot be used."""
        parts = urlsplit(server.url)
        self.where = f"{model} at {parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"
        self._path = f"{parts.path.rstrip('/')}/v2"
        self._model = quote(model, safe="")
        self._seconds = server.timeout
        self._headers = {"User-Agent": "cxrnode", **_authorisation(server.auth)}
        options: dict[str, Any] = {"ssl_context": _context(server.tls)} if parts.scheme == "https" else {}
        kind = urllib3.HTTPSConnectionPool if options else urllib3.HTTPConnectionPool
        limits = urllib3.Timeout(connect=server.connect_timeout, read=server.timeout)
        self._pool = kind(parts.hostname or "", parts.port, timeout=limits, maxsize=2, retries=False, **options)
        self._binary = False

    def describe(self) -> Served:
        """Ask the server who it is, and for the model. Raises Away."""
        about = self._json("GET", "")
        model = self._json("GET", f"/models/{self._model}")
        extensions = about.get("extensions")
        self._binary = isinstance(extensions, list) and "binary_tensor_data" in extensions
        return Served(
            server=str(about.get("name", "")),
            version=str(about.get("version", "")),
            platform=str(model.get("platform", "")),
            binary=self._binary,
        )

    def ready(self) -> bool:
        """Whether the server says that the model can be asked now; never raises."""
        try:
            return self._exchange("GET", f"/models/{self._model}/ready", b"", {})[0] == 200
        except Transient:
            return False

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> Mapping[str, Array]:
        """Ask for these outputs of the model. Raises Away, or Rejected where it finds the request wrong."""
        parts, tail = [], b""
        for name, array in inputs.items():
            one: dict[str, Any] = {"name": name, "shape": list(array.shape), "datatype": _NAMES[array.dtype]}
            if self._binary:
                one["parameters"] = {"binary_data_size": array.nbytes}
                tail += np.ascontiguousarray(array).tobytes()
            else:
                one["data"] = array.ravel().tolist()
            parts.append(one)
        asked = [
            {"name": name, "parameters": {"binary_data": True}} if self._binary else {"name": name} for name in outputs
        ]
        head = json.dumps({"inputs": parts, "outputs": asked}, separators=(",", ":")).encode()
        headers = {"Content-Type": "application/json"}
        if self._binary:  # Triton's extension: JSON, then the tensors' bytes one after the other
            headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
        status, answer, body = self._exchange("POST", f"/models/{self._model}/infer", head + tail, headers)
        if status in _PASSING:
            raise Away(f"the inference server does not give {self.where} now (HTTP {status})")
        if 400 <= status < 500:
            raise Rejected(f"the inference server finds the request for {self.where} wrong (HTTP {status})")
        if status != 200:
            raise Away(f"the inference server failed at {self.where} (HTTP {status})")
        return self._tensors(body, answer.get("Inference-Header-Content-Length"))

    def _tensors(self, body: bytes, head: str | None) -> dict[str, Array]:
        found: dict[str, Array] = {}
        at = int(head) if head and head.isdigit() else len(body)
        try:
            for one in json.loads(body[:at])["outputs"]:
                kind, shape = np.dtype(_TYPES[one["datatype"]]), tuple(int(side) for side in one["shape"])
                size = (one.get("parameters") or {}).get("binary_data_size")
                if size is None:
                    # JSON has no NaN: servers write null, which must not become a number.
                    flat = [np.nan if value is None else value for value in one["data"]]
                    array = np.array(flat, np.float64).astype(kind) if kind.kind == "f" else np.array(flat, kind)
                else:
                    array = np.frombuffer(body[at : at + size], kind.newbyteorder("<"))
                    at += size
                found[str(one["name"])] = array.reshape(shape)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            raise Away(f"the inference server gave an answer of another form for {self.where}") from None
        return found

    def _json(self, method: str, path: str) -> dict[str, Any]:
        status, _, body = self._exchange(method, path, b"", {})
        try:
            said = json.loads(body) if status == 200 else None
        except (ValueError, RecursionError):
            said = None
        if not isinstance(said, dict):
            raise Away(f"the inference server does not know {self.where} (HTTP {status})")
        return said

    def _exchange(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str]
    ) -> tuple[int, Mapping[str, str], bytes]:
        """HTTP status, headers and body. A connection that the server ended meanwhile is made anew, once."""
        try:
            return self._request(method, path, body, headers)
        except urllib3.exceptions.ProtocolError:
            pass
        except (urllib3.exceptions.HTTPError, OSError) as fault:
            raise Away(f"the inference server with {self.where} is away: {_reason(fault)}") from None
        try:
            return self._request(method, path, body, headers)
        except (urllib3.exceptions.HTTPError, OSError) as fault:
            raise Away(f"the inference server with {self.where} is away: {_reason(fault)}") from None

    def _request(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str]
    ) -> tuple[int, Mapping[str, str], bytes]:
        until = time.monotonic() + self._seconds
        response = self._pool.urlopen(
            method,
            self._path + path,
            body=body or None,
            headers={**self._headers, **headers},
            redirect=False,
            preload_content=False,
        )
        found = b""
        try:
            # An answer that trickles keeps within the time-out of each read, and not of the whole.
            while piece := response.read1(_CHUNK):
                found += piece
                if time.monotonic() > until or len(found) > _LARGEST:
                    raise urllib3.exceptions.ReadTimeoutError(self._pool, path, "the answer took too long")
        except BaseException:
            response.close()
            raise
        response.release_conn()
        return response.status, response.headers, found

    def close(self) -> None:
        """End the connections."""
        self._pool.close()


def _authorisation(auth: Auth | None) -> dict[str, str]:
    if auth is None:
        return {}
    try:
        secret = auth.file.read_text().strip() if auth.file else os.environ[auth.variable].strip()
    except (OSError, KeyError, UnicodeDecodeError):
        raise ConfigError("the secret of the inference server cannot be read; look at server.auth") from None
    if not secret.isascii():
        raise ConfigError("the secret of the inference server is not in ASCII; look at server.auth")
    if not auth.user:
        return {"Authorization": f"Bearer {secret}"}
    return {"Authorization": "Basic " + base64.b64encode(f"{auth.user}:{secret}".encode()).decode()}


def _context(tls: ClientTls | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=tls.ca if tls else None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if tls is not None and tls.cert is not None:
            context.load_cert_chain(tls.cert, tls.key)
    except (OSError, ssl.SSLError) as fault:
        raise ConfigError(f"the TLS files of the inference server cannot be used: {fault}") from fault
    return context


def _reason(fault: Exception) -> str:
    """The kind of fault, without what a peer may have put into its text."""
    return type(fault.__cause__ or fault).__name__
