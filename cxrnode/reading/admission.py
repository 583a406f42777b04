"""Which engine reads with a bundle on this machine: chosen once, by a command, and kept until the next command.

Without an admission the reference engine reads: torch in float32. `cxrnode model admit` tries the others beside it on
films that it is given: one is admitted only where its scores lie within `TOLERANCE` of the reference, and of these the
fastest is taken. A restart reads what was written down and measures nothing, so that it never changes a result.
"""

from __future__ import annotations

import hashlib
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from cxrnode.core.findings import decide
from cxrnode.cores import cores
from cxrnode.errors import BundleError, Rejected
from cxrnode.reading import onnx_engine, openvino_engine
from cxrnode.reading.bundle import Bundle
from cxrnode.reading.choice import Admission, EngineKind, Trial, read_choice, write_choice
from cxrnode.reading.engine import Arithmetic, Engine, Film, NetworkEngine, Reading, TorchEngine
from cxrnode.reading.onnx_engine import OnnxEngine, export
from cxrnode.reading.openvino_engine import OpenVinoEngine
from cxrnode.reading.remote import RemoteEngine

__all__ = [
    "Admission",
    "EngineKind",
    "Trial",
    "admission_of",
    "admit",
    "admit_remote",
    "compare",
    "load_engine",
    "open_engine",
]

#: The largest difference allowed between a score and the reference's, before and after calibration.
TOLERANCE = 0.005
#: The largest difference allowed between maps, in parts of the map's fixed scale (from its floor to its ceiling).
MAP_TOLERANCE = 0.05
_CPUINFO = Path("/proc/cpuinfo")
#: What a processor must have, one of them, for bf16 to be worth a try; the fastest first.
_BF16_FLAGS = ("amx_bf16", "avx512_bf16", "avx_ne_convert")
#: The engines that run the exported graph.
EXPORTED = frozenset({EngineKind.ONNX, EngineKind.OPENVINO})


def machine_digest() -> str:
    """SHA-256 over what arithmetic may depend on: the processor with its features, and the GPU if there is one."""
    said = [platform.machine(), _cpu("model name"), *sorted(_flags())]
    if torch.cuda.is_available():
        said.append(torch.cuda.get_device_name())
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def _cpu(key: str) -> str:
    try:
        lines = _CPUINFO.read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key), "")


def _flags() -> set[str]:
    return {one for one in _cpu("flags").split() if one.startswith(("avx", "amx", "fma"))}


def bf16_instructions() -> str:
    """The fastest instructions of this processor that multiply in bf16, as Linux names them; "" without any."""
    return next((one for one in _BF16_FLAGS if one in _flags()), "")


def admission_of(bundle: Bundle, data_dir: Path) -> Admission | None:
    """The admission of a bundle on this machine, or None. Raises BundleError where it cannot be read."""
    return read_choice(_path(bundle, data_dir))


def open_engine(
    bundle: Bundle, data_dir: Path, *, threads: int | None = None, beside_others: bool = False
) -> NetworkEngine:
    """The engine that this bundle was admitted with on this machine, else the reference. Raises BundleError.

    `beside_others`: films are decoded, drawn and sent while several are read, which takes half the cores then.
    """
    chosen = admission_of(bundle, data_dir)
    if chosen is None:
        return TorchEngine(bundle, threads=threads)
    if chosen.kind in EXPORTED:
        graph = _graph(bundle, data_dir)
        try:
            found = hashlib.sha256(graph.read_bytes()).hexdigest()
        except OSError as fault:
            raise BundleError(f"{graph.name}: cannot be read ({fault.strerror}); `cxrnode model admit` anew") from None
        if found != chosen.graph_sha256:
            raise BundleError(f"{graph.name} is not the file that was admitted; `cxrnode model admit` anew")
    half = max(1, (threads or cores()) // 2)
    return load_engine(
        chosen.kind, bundle, _graph(bundle, data_dir), threads=threads, beside=half if beside_others else None
    )


def load_engine(
    kind: EngineKind, bundle: Bundle, graph: Path, *, threads: int | None = None, beside: int | None = None
) -> NetworkEngine:
    """An engine, admitted or not. `graph`: what `onnx_engine.export` wrote, for those that run it. Raises BundleError.

    `beside`: threads for a pass of several films; torch has but one number for all.
    """
    match kind:
        case EngineKind.TORCH:
            return TorchEngine(bundle, threads=threads)
        case EngineKind.TORCH_BF16:
            return TorchEngine(bundle, threads=threads, arithmetic=Arithmetic.BF16)
        case EngineKind.ONNX:
            return OnnxEngine(bundle, graph, threads=threads, beside=beside)
        case EngineKind.OPENVINO:
            return OpenVinoEngine(bundle, graph, threads=threads, beside=beside)
        case EngineKind.KSERVE:
            raise BundleError("an inference server is named in the configuration; `cxrnode model admit` anew")


def _folder(data_dir: Path) -> Path:
    return data_dir / "engines"


def _path(bundle: Bundle, data_dir: Path) -> Path:
    return _folder(data_dir) / f"{bundle.digest[:16]}-{machine_digest()[:16]}.json"


def _graph(bundle: Bundle, data_dir: Path) -> Path:
    return _folder(data_dir) / f"{bundle.digest[:16]}.onnx"


def candidates() -> tuple[EngineKind, ...]:
    """The engines that are worth a try on this machine, the reference first."""
    found = [EngineKind.TORCH]
    if torch.cuda.is_available():
        return (*found, *([EngineKind.TORCH_BF16] if torch.cuda.is_bf16_supported() else []))
    bf16 = bool(bf16_instructions())
    if onnx_engine.exportable():
        found += [EngineKind.ONNX] if onnx_engine.available() else []
        found += [EngineKind.OPENVINO] if bf16 and openvino_engine.available() else []
    found += [EngineKind.TORCH_BF16] if bf16 else []
    return tuple(found)


def admit(
    bundle: Bundle,
    data_dir: Path,
    films: Sequence[Film],
    *,
    wanted: EngineKind | None = None,
    threads: int | None = None,
    rounds: int = 5,
    said: Callable[[str], None] = lambda _: None,
) -> Admission:
    """Try the engines beside the reference on `films`, take the fastest that agrees, or `wanted`, and write it down.

    Running roles read with what they loaded until they start again. Raises Rejected where `wanted` does not agree, and
    BundleError where it cannot be had.
    """
    folder = _folder(data_dir)
    folder.mkdir(parents=True, exist_ok=True, mode=0o750)
    kinds = candidates() if wanted is None else tuple(dict.fromkeys((EngineKind.TORCH, wanted)))
    engines: dict[EngineKind, NetworkEngine] = {}
    graph_sha256 = ""
    for kind in kinds:
        said(f"loading {kind}")
        try:
            if kind in EXPORTED and not graph_sha256:
                export(bundle, _graph(bundle, data_dir))
                graph_sha256 = hashlib.sha256(_graph(bundle, data_dir).read_bytes()).hexdigest()
            engines[kind] = load_engine(kind, bundle, _graph(bundle, data_dir), threads=threads)
        except BundleError:
            if kind is wanted:
                raise
    readings = {kind: engine.read(films) for kind, engine in engines.items()}
    said("timing")
    times = _timed(engines, films[:4], rounds)
    trials = tuple(
        _compared(bundle, kind, engine.name, times[kind], readings[EngineKind.TORCH], readings[kind])
        for kind, engine in engines.items()
    )
    good = [trial for trial in trials if not trial.refused]
    chosen = min(good, key=lambda trial: trial.ms)
    if wanted is not None:
        chosen = next(trial for trial in trials if trial.kind is wanted)
        if chosen.refused:
            raise Rejected(f"{wanted} is not admitted for this bundle: {chosen.refused}")
    made = Admission(
        bundle_digest=bundle.digest,
        machine_digest=machine_digest(),
        kind=chosen.kind,
        name=chosen.name,
        graph_sha256=graph_sha256 if chosen.kind in EXPORTED else "",
        trials=trials,
    )
    write_choice(_path(bundle, data_dir), made)
    return made


def admit_remote(
    bundle: Bundle, engine: RemoteEngine, films: Sequence[Film], *, threads: int | None = None, rounds: int = 3
) -> Admission:
    """Try what an inference server serves beside the reference on `films`, and write it down where it agrees.

    Raises Rejected where it does not, and Transient where the server is away or serves another model.
    """
    name = engine.look()
    engines: dict[EngineKind, Engine] = {
        EngineKind.TORCH: TorchEngine(bundle, threads=threads),
        EngineKind.KSERVE: engine,
    }
    readings = {kind: one.read(films) for kind, one in engines.items()}
    times = _timed(engines, films[:4], rounds)
    names = {EngineKind.TORCH: engines[EngineKind.TORCH].name, EngineKind.KSERVE: name}
    trials = tuple(
        _compared(bundle, kind, names[kind], times[kind], readings[EngineKind.TORCH], readings[kind])
        for kind in engines
    )
    if trials[1].refused:
        raise Rejected(f"{name} is not admitted for this bundle: {trials[1].refused}")
    made = Admission(bundle_digest=bundle.digest, machine_digest="", kind=EngineKind.KSERVE, name=name, trials=trials)
    write_choice(engine.path, made)
    return made


def _timed(engines: Mapping[EngineKind, Engine], films: Sequence[Film], rounds: int) -> dict[EngineKind, float]:
    """Milliseconds a film: medians over rounds in which the engines take turns, so that a disturbance meets all."""
    taken: dict[EngineKind, list[float]] = {kind: [] for kind in engines}
    for _ in range(rounds):
        for kind, engine in engines.items():
            began = time.perf_counter()
            engine.read(films)
            taken[kind].append(1000 * (time.perf_counter() - began) / len(films))
    return {kind: statistics.median(times) for kind, times in taken.items()}


def compare(bundle: Bundle, reference: Sequence[Reading], other: Sequence[Reading]) -> tuple[float, float, list[str]]:
    """The largest differences between scores and between maps of two engines, and the decisions that changed."""
    labels = bundle.manifest.labels
    scale = np.array([max(label.map_ceiling - label.map_floor, 1e-3) for label in labels])[:, None, None]
    scores = maps = 0.0
    changed = []
    for number, (ours, theirs) in enumerate(zip(reference, other, strict=True)):
        shown = [bundle.calibrated(one.scores) for one in (ours, theirs)]
        scores = max(scores, float(np.abs(ours.scores - theirs.scores).max()), float(np.abs(shown[0] - shown[1]).max()))
        if ours.saliency is not None and theirs.saliency is not None:
            apart = np.abs(ours.saliency.astype(np.float32) - theirs.saliency.astype(np.float32)) / scale
            maps = max(maps, float(apart.max()))
        for index, label in enumerate(labels):
            before, after = (decide(float(one[index]), label.assessed) for one in shown)
            if before is not after:
                changed.append(f"film {number}, {label.name}: {before} becomes {after} at {shown[0][index]:.4f}")
        verdicts = [bundle.plausibility_of(one).plausible for one in (ours, theirs)]
        if verdicts[0] is not verdicts[1]:
            changed.append(f"film {number}: plausible {verdicts[0]} becomes {verdicts[1]} at {ours.distance:.4f}")
    return scores, maps, changed


def _compared(
    bundle: Bundle, kind: EngineKind, name: str, ms: float, reference: Sequence[Reading], other: Sequence[Reading]
) -> Trial:
    scores, maps, changed = compare(bundle, reference, other)
    refused = ""
    if scores > TOLERANCE:
        refused = f"a score is {scores:.4f} from the reference's, {TOLERANCE} is allowed"
    elif maps > MAP_TOLERANCE:
        refused = f"a map is {maps:.3f} of its scale from the reference's, {MAP_TOLERANCE} is allowed"
    return Trial(
        kind=kind,
        name=name,
        ms=round(ms, 2),
        score_difference=round(scores, 6),
        map_difference=round(maps, 6),
        decisions=tuple(changed),
        refused=refused,
    )
