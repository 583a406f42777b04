"""The engine that is somewhere else: an inference server runs the network, and this one judges what it gives.

The graph that `reading.triton` exports takes squashed films of grey and gives logits, maps, features and the digest of
the bundle it was made of, with each film anew: a server that serves another model is found out by its first answer.
What passes (a server away, slow, or with another model) makes films wait, and parks none. Loads no torch.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cxrnode.errors import BundleError, Transient
from cxrnode.reading.bundle import Bundle
from cxrnode.reading.choice import EngineKind, read_choice
from cxrnode.reading.manifest import Saliency
from cxrnode.reading.oip import OipClient
from cxrnode.reading.plausibility import Clouds, layouts_of
from cxrnode.reading.readings import Film, NotFinite, Observation, Reading, judged, squashed
from cxrnode.sections import Server

#: What the graph takes and gives: `film` uint8 (N, size, size), 0 = black; `logits` float32 (N, C); `maps` float32
#: (N, C, h, w), >= 0, where the bundle makes any; `features` float32 (N, K), as in `Observation`; `digest` uint8
#: (N, 32).
LOGITS, MAPS, FEATURES, DIGEST = "logits", "maps", "features", "digest"
#: After a fault the server is left alone for so long, doubling up to the second, in seconds.
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0


class WrongModel(Transient):
    """The inference server serves another model, or another version of itself, than was admitted."""


def outputs_of(bundle: Bundle) -> tuple[str, ...]:
    """The outputs of a bundle's graph, in order."""
    maps = () if bundle.manifest.saliency is Saliency.NONE else (MAPS,)
    return (LOGITS, *maps, FEATURES, DIGEST)


def require_remote(bundle: Bundle) -> None:
    """Raise BundleError for a bundle whose maps need a gradient: those are made where the network is."""
    if bundle.manifest.saliency is not Saliency.NONE and not bundle.manifest.shape.closed:
        raise BundleError(
            f"{bundle.manifest.name}: its maps need a gradient, which no inference server gives; read it locally"
        )


class RemoteEngine:
    """Reads with what a server serves, once it was admitted (`cxrnode model admit`)."""

    def __init__(self, bundle: Bundle, server: Server, data_dir: Path, *, batch: int = 16) -> None:
        """Ask nothing yet. Raises BundleError for a bundle that cannot be read so, ConfigError for TLS or secret."""
        require_remote(bundle)
        self.batch = batch
        self._bundle = bundle
        self._client = OipClient(server, server.model or bundle.manifest.name)
        self._clouds = Clouds.from_tensors(bundle.plausibility, bundle.manifest.evidence)
        place = hashlib.sha256(self._client.where.encode()).hexdigest()
        #: Where its admission stands: for this bundle, at this server.
        self.path = data_dir / "engines" / f"{bundle.digest[:16]}-kserve-{place[:16]}.json"
        #: The connection is for one at a time: films are read in one thread, and another asks who the server is.
        self._asking = threading.Lock()
        self._admitted = ""
        self._pause = 0.0
        self._again = 0.0
        self._good = False
        #: Why it cannot read now, "" where it can.
        self.trouble = "not asked yet"

    @property
    def name(self) -> str:
        """Server, version, and what runs the model there, as they were admitted."""
        return self._admitted or f"kserve {self._client.where}, not admitted"

    def require_admission(self) -> None:
        """Read the admission. Raises BundleError where there is none."""
        chosen = read_choice(self.path)
        if chosen is None or chosen.kind is not EngineKind.KSERVE or chosen.bundle_digest != self._bundle.digest:
            raise BundleError(
                f"{self._client.where} was not admitted for this bundle; `cxrnode model admit NAME` compares it with "
                "the reference"
            )
        self._admitted = chosen.name

    def look(self) -> str:
        """Ask the server who it is; return that. Raises Away."""
        return self._client.describe().name

    def ready(self) -> bool:
        """Whether films may be claimed for it: after a fault it asks the server now and then, and first who it is."""
        if self._good:
            return True
        if time.monotonic() < self._again or not self._asking.acquire(blocking=False):  # what is read now will tell
            return False
        try:
            found = self.look()
            if found != self._admitted:
                raise WrongModel(f"{found} answers, {self._admitted} was admitted; `cxrnode model admit` anew")
            if not self._client.ready():
                raise Transient(f"{self._client.where} is not ready")
            self._good, self._pause, self.trouble = True, 0.0, ""
        except Transient as fault:
            self._failed(fault)
        finally:
            self._asking.release()
        return self._good

    def _failed(self, fault: Transient) -> None:
        self._good, self.trouble = False, str(fault)
        self._pause = min(max(2 * self._pause, _FIRST_PAUSE), _LONGEST_PAUSE)
        self._again = time.monotonic() + self._pause

    def read(self, films: Sequence[Film]) -> list[Reading]:
        """Read films, each uint8 (H, W), 0 = black, row 0 = top.

        Raises NotFinite or UnreadableImage; Transient where the server cannot be asked or serves another model.
        """
        return judged(self.observe(films), self._clouds)

    def observe(self, films: Sequence[Film]) -> list[Observation]:
        """Return what the network gives for films before plausibility is judged. Raises as `read` does."""
        seen: list[Observation] = []
        for start in range(0, len(films), self.batch):
            grey = np.stack(
                [squashed(one, self._bundle.manifest.input.size) for one in films[start : start + self.batch]]
            )
            try:
                with self._asking:
                    seen += self._asked(grey)
            except Transient as fault:
                self._failed(fault)
                raise
        return seen

    def _asked(self, grey: npt.NDArray[np.uint8]) -> list[Observation]:
        wanted = outputs_of(self._bundle)
        found = self._client.infer({"film": grey}, wanted)
        manifest = self._bundle.manifest
        count, labels = len(grey), len(manifest.labels)
        shapes = {LOGITS: (count, labels), FEATURES: (count, manifest.evidence), DIGEST: (count, 32)}
        for name in wanted:
            array = found.get(name)
            if array is None:
                raise WrongModel(f"{self._client.where} gives no {name}; serve what `cxrnode model export` wrote")
            good = (
                array.shape[:2] == (count, labels) and array.ndim == 4 if name == MAPS else array.shape == shapes[name]
            )
            if not good:
                raise WrongModel(f"{self._client.where} gives {name} as {array.shape}; serve what was exported")
        served = {bytes(row).hex() for row in found[DIGEST].astype(np.uint8)}
        if served != {self._bundle.digest}:
            other = next(iter(served - {self._bundle.digest}))
            raise WrongModel(
                f"{self._client.where} serves the bundle {other[:12]}, {self._bundle.digest[:12]} is wanted"
            )
        logits, features = (found[name].astype(np.float32) for name in (LOGITS, FEATURES))
        with np.errstate(over="ignore"):  # exp of a large number: the score is 0
            scores = (1 / (1 + np.exp(-logits))).astype(np.float32)
            maps = found[MAPS].astype(np.float16) if MAPS in wanted else None
        if not (
            np.isfinite(logits).all() and np.isfinite(features).all() and (maps is None or np.isfinite(maps).all())
        ):
            raise NotFinite
        layouts = layouts_of(grey.astype(np.float32) / np.float32(255))
        return [
            Observation(
                scores=scores[i],
                saliency=None if maps is None else maps[i],
                layout=layouts[i],
                features=features[i],
            )
            for i in range(count)
        ]
