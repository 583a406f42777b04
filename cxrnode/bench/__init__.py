"""`cxrnode bench`: what this machine can do, what each stage costs, and what the whole node makes of it.

Every claim is a ratio in one run. Nothing here is used by a node.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from cxrnode.bench import ceilings
from cxrnode.bench.endtoend import PAUSE, Bench, burst_figures, memory_figures, quantiles
from cxrnode.bench.figures import Cost, Figure, machine, take_turns
from cxrnode.bench.films import SIZES, comparison_films, write_films
from cxrnode.bench.stages import stages
from cxrnode.cores import cores
from cxrnode.reading.admission import EngineKind, admit, open_engine
from cxrnode.reading.bundle import Bundle, load_bundle

__all__ = ["Plan", "Result", "run"]

#: The engine whose raw pass the others, and the whole node, are measured by.
_YARDSTICK = EngineKind.ONNX


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is measured: films in a burst, single films for latency, rounds of what takes turns, sizes of films.

    `memory`: so many films more, over which each role's memory is followed.
    """

    burst: int = 60
    single: int = 40
    rounds: int = 7
    sizes: tuple[str, ...] = tuple(SIZES)
    whole: bool = True
    memory: int = 0
    threads: int | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The figures, and the ratios that say how good they are."""

    machine: dict[str, str]
    engine: str
    figures: tuple[Figure, ...]
    ratios: tuple[Figure, ...]


def run(bundle_folder: Path, plan: Plan, said: Callable[[str], None]) -> Result:
    """Measure. Raises CxrnodeError where the node does not do its work."""
    facts = machine()
    bundle = load_bundle(bundle_folder)
    figures: list[Figure] = []
    ratios: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="cxrnode-bench-") as name:
        folder = Path(name)
        said("choosing the engine")
        data_dir = folder / "admitted"
        made = admit(bundle, data_dir, comparison_films(bundle.manifest.input.size), threads=plan.threads, rounds=3)
        for trial in made.trials:
            note = trial.refused or ("taken" if trial.kind is made.kind else "agrees with the reference")
            figures.append(
                Figure(group="admission", name=trial.name, value=trial.ms, unit="ms a film", better="less", note=note)
            )
        said("ceilings")
        figures += [ceilings.memory_bandwidth(), ceilings.fsync_rate(folder)]
        found = ceilings.engines(bundle, folder, threads=plan.threads)
        costs = ceilings.forward(found, bundle, rounds=plan.rounds)
        figures += _forward_figures(costs)
        ratios += _forward_ratios(costs, made.kind)
        said("maps")
        ratios.append(_maps_ratio(bundle, plan))
        for size in plan.sizes:
            said(f"films of {size}")
            films = write_films(folder / "films" / size.replace(" ", ""), 2 * plan.burst + plan.single, size)
            loopback = ceilings.loopback_dicom(folder, films[:8])
            if loopback is not None:
                figures.append(dataclasses.replace(loopback, name=f"{loopback.name}, {size}"))
            engine = open_engine(bundle, data_dir, threads=plan.threads)
            figures += stages(films[0], bundle, engine, folder, size=size, rounds=plan.rounds)
            if plan.whole:
                said(f"the whole node, {size}")
                raw = ceilings.single_pass(found.get(_YARDSTICK, found[EngineKind.TORCH]), bundle)
                node = folder / f"node-{size.split()[0]}"
                more, shares = _whole(node, bundle_folder, data_dir, films, plan, costs, size, raw)
                figures += more
                ratios += shares
            for film in films:
                film.unlink()
    return Result(machine=facts, engine=made.name, figures=tuple(figures), ratios=tuple(ratios))


def _forward_figures(costs: dict[tuple[str, int], Cost]) -> list[Figure]:
    return [
        Figure(group="ceilings: bare forward pass", name=f"{name}, batch {batch}", value=cost.wall, unit="ms a film",
               better="less", note=f"{cost.cpu:.1f} core-ms")
        for (name, batch), cost in costs.items()
    ]  # fmt: skip


def best(costs: dict[tuple[str, int], Cost], name: str) -> Cost:
    """The cheapest batch of an engine by the processor, or of torch as it comes where the engine is missing."""
    mine = [cost for (engine, _), cost in costs.items() if engine == name]
    return min(mine or [cost for (engine, _), cost in costs.items() if engine.startswith("torch eager")],
               key=lambda cost: cost.cpu)  # fmt: skip


def _forward_ratios(costs: dict[tuple[str, int], Cost], taken: EngineKind) -> list[Figure]:
    ours, eager = best(costs, str(taken)), best(costs, "torch eager float32")
    return [
        Figure(group="ratios", name=f"{taken} to torch eager float32, clock", value=ours.wall / eager.wall, unit="",
               better="less", note="at most 0.70"),
        Figure(group="ratios", name=f"{taken} to torch eager float32, processor", value=ours.cpu / eager.cpu, unit="",
               better="less", note="at most 0.70"),
    ]  # fmt: skip


def _maps_ratio(bundle: Bundle, plan: Plan) -> Figure:
    """What all maps add to the bare pass, in torch float32 on one film."""
    import numpy as np
    import torch

    from cxrnode.reading.engine import TorchEngine

    engine = TorchEngine(bundle, device="cpu", threads=plan.threads)
    given = bundle.manifest.input
    inputs = np.zeros((1, given.channels, given.size, given.size), np.float32)

    def bare() -> None:
        with torch.inference_mode():
            engine.run(inputs)

    def with_maps() -> None:
        with torch.inference_mode():
            engine._maps(engine.run(inputs))

    cost = take_turns({"bare": bare, "maps": with_maps}, rounds=3 * plan.rounds)
    return Figure(
        group="ratios",
        name="forward with all maps to the bare forward, processor",
        value=cost["maps"].cpu / cost["bare"].cpu,
        unit="",
        better="less",
        note="at most 1.05",
    )


def _by_turns(bench: Bench, films: list[Path], raw: Callable[[], object]) -> tuple[list[float], list[float]]:
    """Seconds that single films take, and a bare pass by turns with them: both after the same pause.

    A pass behind another one is quicker, by a fifth or by half: clocks and caches, and in a virtual machine the memory
    itself, are not the same after a rest, and a film on an idle node always comes after one.
    """
    taken: list[float] = []
    passes: list[float] = []
    for film in films:
        taken += bench.latencies([film])  # which ends with a pause
        began = time.perf_counter()
        raw()
        passes.append(time.perf_counter() - began)
        time.sleep(PAUSE)
    return taken, passes


def _whole(
    folder: Path,
    bundle: Path,
    data_dir: Path,
    films: list[Path],
    plan: Plan,
    costs: dict[tuple[str, int], Cost],
    size: str,
    raw: Callable[[], object],
) -> tuple[list[Figure], list[Figure]]:
    group = f"whole node, {size}"
    with Bench(folder, bundle, data_dir) as bench:
        bench.latencies(films[:2])  # the first film finds cold caches
        singles, passes = _by_turns(bench, films[2 : plan.single], raw)
        started = bench.started(len(singles))
        steps = bench.steps()
        burst = bench.burst(films[plan.single : plan.single + plan.burst])
        waited = bench.backlog(films[plan.single + plan.burst :])
        out = bench.bytes_out()
        followed = bench.memory(plan.memory, size, first=len(films)) if plan.memory else None
    p50, p95, p99 = quantiles(singles)
    bare, _, _ = quantiles(passes)
    figures = burst_figures(group, burst)
    figures.append(
        Figure(group=group, name="throughput of films already sent", value=plan.burst / waited, unit="films/s",
               better="more", note="from when they may be read to the last SR in the archive")
    )  # fmt: skip
    figures += [
        Figure(group=group, name=f"latency of single films, {q}", value=v, unit="ms", better="less")
        for q, v in (("P50", p50), ("P95", p95), ("P99", p99))
    ]
    figures.append(
        Figure(group=group, name="raw single forward by turns with them, P50", value=bare, unit="ms", better="less")
    )
    figures += [
        Figure(group=group, name=f"receipt to claim of single films, {q}", value=v, unit="ms", better="less",
               note="at most 10 from Success")
        for q, v in zip(("P50", "P95", "P99"), quantiles(started), strict=True)
    ]  # fmt: skip
    figures += [Figure(group=group, name=f"step: {k}", value=v, unit="ms", better="less") for k, v in steps.items()]
    figures.append(Figure(group=group, name="outputs", value=out, unit="MB a film"))
    figures += memory_figures(size, followed) if followed else []
    yardstick = best(costs, _YARDSTICK)
    single = next((c for (name, batch), c in costs.items() if name == _YARDSTICK and batch == 1), yardstick)
    floor = 0.5 if size.startswith("1024") else 0.35
    most = 1000 / min(c.wall for (name, _), c in costs.items() if name in (_YARDSTICK, "torch eager float32"))
    ratios = [
        Figure(group="ratios", name=f"throughput to raw float32 forward, {size}",
               value=burst.films / burst.whole / most, unit="", better="more",
               note="the films still to be sent, on the same cores"),
        Figure(group="ratios", name=f"throughput of films already sent to raw float32 forward, {size}",
               value=plan.burst / waited / most, unit="", better="more", note=f"at least {floor}"),
        Figure(group="ratios", name=f"raw forward to cost in all roles, processor, {size}",
               value=yardstick.cpu / burst.core_ms, unit="", better="more",
               note=f"what the throughput would be on {cores()} cores that are always busy; at least {floor}"),
        Figure(group="ratios", name=f"latency P50 to raw single forward, {size}", value=p50 / bare, unit="",
               better="less", note="each after a pause, as single films come; at most 4"),
        Figure(group="ratios", name=f"latency P95 to raw single forward, {size}", value=p95 / bare, unit="",
               better="less", note="at most 6"),
        Figure(group="ratios", name=f"latency P50 to raw single forward without a pause, {size}",
               value=p50 / single.wall, unit="", better="less", note="one pass behind the other, before the node"),
    ]  # fmt: skip
    return figures, ratios
