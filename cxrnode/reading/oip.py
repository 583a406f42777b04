"""The Open Inference Protocol, version 2, over HTTP: what Triton, KServe, OpenVINO Model Server and MLServer speak.

One server and one model on it. A server that is away, slow, busy or still loading is Transient; a request that it finds
wrong is Rejected. It knows tensors, and neither films nor bundles.
https://github.com/kserve/open-inference-protocol
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from cxrnode.errors import Rejected, Transient
from cxrnode.https import Away, HttpClient
from cxrnode.sections import Server

Array = npt.NDArray[Any]

#: Data types of the protocol, and what they are here.
_TYPES = {"UINT8": np.uint8, "FP16": np.float16, "FP32": np.float32, "FP64": np.float64, "INT64": np.int64}
_NAMES = {np.dtype(kind): name for name, kind in _TYPES.items()}
#: An answer larger than this is none of ours, in bytes.
_LARGEST = 256 << 20
#: What the server says when it cannot answer now, though the request is good: it, or the model, is away or busy.
_PASSING = frozenset({401, 403, 404, 407, 408, 425, 429, 502, 503, 504})


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
        self._model = quote(model, safe="")
        self._http = HttpClient(
            server.url,
            what="the inference server",
            auth=server.auth,
            tls=server.tls,
            connect_timeout=server.connect_timeout,
            timeout=server.timeout,
        )
        self.where = f"{model} at {self._http.where}"
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
        """HTTP status, headers and body."""
        answer = self._http.ask(method, f"/v2{path}", body=body, headers=headers, largest=_LARGEST)
        return answer.status, answer.headers, answer.body

    def close(self) -> None:
        """End the connections."""
        self._http.close()
