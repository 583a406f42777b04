"""A bundle: the folder that holds a model and its card. Verified whole before use; never unpickles, never loads torch.

`manifest.toml` names the SHA-256 of every other file; the bundle's digest is the SHA-256 of the manifest's bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import safetensors
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from cxrnode.core.findings import Finding, Plausibility, Reader, Scale, decide
from cxrnode.errors import BundleError
from cxrnode.reading.manifest import NAME, BundleFile, IntendedUse, Label, Manifest, Saliency
from cxrnode.reading.manifest_text import format_manifest, parse_manifest

if TYPE_CHECKING:
    from cxrnode.reading.readings import Engine, Reading

WEIGHTS = "weights.safetensors"
PLAUSIBILITY = "plausibility.safetensors"

#: The bundles that ship with cxrnode.
SHIPPED = Path(__file__).resolve().parent.parent / "bundles"

Tensors = Mapping[str, npt.NDArray[np.generic]]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A verified bundle. `weights` are as on disk (float16); `plausibility` as `reading.plausibility` reads them."""

    folder: Path
    manifest: Manifest
    digest: str
    weights: Tensors
    plausibility: Tensors

    @property
    def intended_use(self) -> IntendedUse:
        """What the node checks before it lets the model speak."""
        return self.manifest.intended_use

    @property
    def weights_digest(self) -> str:
        """SHA-256 of the file of weights."""
        return self.manifest.sha256_of(WEIGHTS)

    @property
    def scale(self) -> Scale:
        """What the scores may be called: a probability only after a representative calibration."""
        return Scale.PROBABILITY if self.manifest.calibration.representative else Scale.SCORE

    def calibrated(self, scores: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Return what is shown for scores (..., C) of the network: `calibrated` by the manifest's labels."""
        return calibrated(self.manifest.labels, scores)

    def findings(self, reading: Reading) -> tuple[Finding, ...]:
        """Return the findings of one film, for the labels that are reported, in the network's order.

        Raises ValueError for a score that is not in [0, 1].
        """
        shown = self.calibrated(reading.scores)
        return tuple(
            Finding(
                label=label.name,
                index=index,
                score=(score := float(shown[index])),
                decision=decide(score, label.assessed),
                thresholds=label.assessed,
                map_floor=label.map_floor,
                map_ceiling=label.map_ceiling,
            )
            for index, label in enumerate(self.manifest.labels)
            if label.report
        )

    def plausibility_of(self, reading: Reading) -> Plausibility:
        """Return how far the film lies from the training films, with the bundle's limit."""
        return Plausibility(distance=float(reading.distance), limit=self.manifest.plausibility.limit)

    def reader(self, engine: Engine) -> Reader:
        """Return the provenance that every output carries."""
        calibration = self.manifest.calibration
        kind = "representative" if calibration.representative else "not representative"
        return Reader(
            name=self.manifest.name,
            version=self.manifest.version,
            bundle_digest=self.digest,
            weights_digest=self.weights_digest,
            calibration=f"{calibration.data_set} ({calibration.films} films, {kind})"
            + (f"; shown at the prevalence of {calibration.population}" if calibration.population else ""),
            demonstration=self.manifest.demonstration,
            engine=engine.name,
        )


def calibrated(labels: Sequence[Label], scores: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Return what is shown for scores (..., C) of the network, float64 (..., C) in [0, 1]: the scale of the thresholds.

    Rises with the score; it is the score itself where a label was not calibrated. Raises ValueError for a score that
    is not in [0, 1]: what is made of it would be invented.
    """
    if not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError("a score must lie in [0, 1]")
    slopes = np.array([label.calibration.slope if label.calibration else 1.0 for label in labels])
    shifts = np.array([label.calibration.shift if label.calibration else 0.0 for label in labels])
    # float32 holds nothing between 1 - 2**-24 and 1: without the bound a score of 1 would be infinite.
    raw = np.clip(scores.astype(np.float64), 1e-12, 1 - 2**-25)
    moved = 1 / (1 + np.exp(-np.clip(slopes * np.log(raw / (1 - raw)) + shifts, -700, 700)))
    shown: npt.NDArray[np.float64] = np.where((slopes == 1) & (shifts == 0), scores, moved)
    return shown


def read_manifest(folder: Path) -> tuple[Manifest, str]:
    """Return the manifest and the bundle's digest without opening the weights. Raises BundleError."""
    data = _bytes(folder, NAME)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BundleError(f"{folder.name}/{NAME}: not UTF-8; copy the bundle again") from error
    try:
        return parse_manifest(text), hashlib.sha256(data).hexdigest()
    except BundleError as error:
        raise BundleError(f"{folder.name}/{error}") from error


def load_bundle(folder: Path) -> Bundle:
    """Read a bundle and verify it: every digest, every weight finite. Raises BundleError."""
    manifest, digest = read_manifest(folder)
    contents: dict[str, bytes] = {}
    for file in manifest.files:
        contents[file.name] = data = _bytes(folder, file.name)
        if (found := hashlib.sha256(data).hexdigest()) != file.sha256:
            raise BundleError(
                f"{folder.name}/{file.name}: SHA-256 is {found[:12]}..., the manifest says {file.sha256[:12]}...; "
                "the file was altered or cut short, copy the bundle again"
            )
    tensors = {}
    for name in (WEIGHTS, PLAUSIBILITY):
        manifest.sha256_of(name)  # raises where the manifest does not vouch for it
        try:
            tensors[name] = load_tensors(contents[name])
        except safetensors.SafetensorError as error:
            raise BundleError(f"{folder.name}/{name}: not safetensors ({error}); export the bundle again") from error
        for key, tensor in tensors[name].items():
            if not np.isfinite(tensor).all():
                raise BundleError(f"{folder.name}/{name}: {key} holds values that are not finite; export it again")
    return Bundle(
        folder=folder,
        manifest=manifest,
        digest=digest,
        weights=tensors[WEIGHTS],
        plausibility=tensors[PLAUSIBILITY],
    )


def find_bundle(name: str, data_dir: Path, start: Path | None = None) -> Path:
    """Return the folder of a bundle: a name in `data_dir`/models, else a shipped one, else a path.

    A relative path starts at `start`, the folder of the configuration that names it, else at the working folder.
    Raises BundleError that says where it looked.
    """
    places = [] if not name or Path(name).name != name or name == ".." else [data_dir / "models" / name, SHIPPED / name]
    path = (start or Path()) / Path(name).expanduser()
    for place in (*places, path):
        if (place / NAME).is_file():
            return place
    looked = ", ".join(str(place) for place in (data_dir / "models", SHIPPED))
    raise BundleError(f"no bundle {name!r}: looked in {looked} and {path}; see `cxrnode model ls`")


def list_bundles(data_dir: Path) -> tuple[Path, ...]:
    """Return the folders of the bundles known by name: installed ones hide shipped ones of the same name."""
    found: dict[str, Path] = {}
    for place in (data_dir / "models", SHIPPED):
        if place.is_dir():
            for folder in sorted(place.iterdir()):
                if (folder / NAME).is_file():
                    found.setdefault(folder.name, folder)
    return tuple(found[name] for name in sorted(found))


def write_bundle(folder: Path, manifest: Manifest, weights: Tensors, plausibility: Tensors) -> str:
    """Write a bundle and return its digest; `files` and both `weights_sha256` of the manifest are filled in here.

    Floats of `weights` are stored as float16. Raises BundleError for weights that float16 or safetensors cannot hold.
    """
    halves = {}
    for key, tensor in weights.items():
        with np.errstate(over="ignore"):  # what overflows is refused below, by name
            halves[key] = np.ascontiguousarray(tensor.astype(np.float16) if tensor.dtype.kind == "f" else tensor)
        if not np.isfinite(halves[key]).all():
            raise BundleError(
                f"{WEIGHTS}: {key} holds values that float16 cannot: too large or not finite. Nothing was written; "
                "take other weights, or train them again at a lower rate"
            )
    contents = {
        WEIGHTS: save_tensors(halves),
        PLAUSIBILITY: save_tensors({k: np.ascontiguousarray(t) for k, t in plausibility.items()}),
    }
    files = tuple(BundleFile(name=n, sha256=hashlib.sha256(data).hexdigest()) for n, data in contents.items())
    made_for = files[0].sha256
    manifest = dataclasses.replace(
        manifest,
        files=files,
        calibration=dataclasses.replace(manifest.calibration, weights_sha256=made_for),
        plausibility=dataclasses.replace(manifest.plausibility, weights_sha256=made_for),
    )
    text = format_manifest(manifest)
    parse_manifest(text)  # what is written can be read, or nothing is written
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in (*contents.items(), (NAME, text.encode())):
        part = folder / f".{name}.part"
        part.write_bytes(data)
        os.replace(part, folder / name)
    return hashlib.sha256(text.encode()).hexdigest()


def _bytes(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise BundleError(f"{folder.name}/{name}: cannot be read ({error.strerror}); copy the bundle again") from error


__all__ = [
    "PLAUSIBILITY",
    "SHIPPED",
    "WEIGHTS",
    "Bundle",
    "Saliency",
    "find_bundle",
    "list_bundles",
    "load_bundle",
    "read_manifest",
    "write_bundle",
]
