"""Which engine was admitted for a bundle, as it stands in data_dir/engines. Loads no torch; decides nothing."""

from __future__ import annotations

import dataclasses
import json
import os
from enum import StrEnum
from pathlib import Path
from typing import Any

from cxrnode.errors import BundleError


class EngineKind(StrEnum):
    """The engines that a bundle can be admitted with."""

    TORCH = "torch-float32"
    TORCH_BF16 = "torch-bf16"
    ONNX = "onnxruntime"
    OPENVINO = "openvino-bf16"
    KSERVE = "kserve"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What one engine did beside the reference. `ms`: per film, at the batch that was tried; differences as above;
    `decisions`: those that came out otherwise, as people read them; `refused`: why it cannot be taken, "" if it can.
    """

    kind: EngineKind
    name: str
    ms: float
    score_difference: float
    map_difference: float
    decisions: tuple[str, ...]
    refused: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """The choice for one bundle on one machine. `graph_sha256`: of the exported file, "" where there is none."""

    bundle_digest: str
    machine_digest: str
    kind: EngineKind
    name: str
    graph_sha256: str = ""
    trials: tuple[Trial, ...] = ()


def read_choice(path: Path) -> Admission | None:
    """The admission that stands in a file, or None. Raises BundleError where it cannot be read."""
    try:
        raw: dict[str, Any] = json.loads(path.read_text())
        trials = tuple(
            Trial(**{**t, "kind": EngineKind(t["kind"]), "decisions": tuple(t["decisions"])}) for t in raw["trials"]
        )
        return Admission(**{**raw, "kind": EngineKind(raw["kind"]), "trials": trials})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as fault:
        raise BundleError(
            f"{path.name}: the choice of an engine cannot be read ({type(fault).__name__}); `cxrnode model admit` anew"
        ) from None


def write_choice(path: Path, made: Admission) -> None:
    """Write an admission down, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(dataclasses.asdict(made), indent=1, sort_keys=True))
    os.replace(part, path)
