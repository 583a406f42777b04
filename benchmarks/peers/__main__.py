"""`python -m benchmarks.peers`: cxrnode beside what a site would otherwise run, on the same films and machine."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import click

from benchmarks.peers import orthanc
from benchmarks.peers.reception import reception
from benchmarks.peers.script import Script
from benchmarks.yardstick import yardstick
from cxrnode.bench.archive import archive_in
from cxrnode.bench.endtoend import Bench
from cxrnode.bench.figures import Figure, cpu_seconds, machine, take_turns
from cxrnode.bench.films import SIZES, comparison_films, write_films
from cxrnode.dicom.sender import Destination, send_files
from cxrnode.reading.admission import admit
from cxrnode.reading.bundle import load_bundle
from cxrnode.reading.engine import TorchEngine


def maps_beside_grad_cam(folder: Path, rounds: int) -> Figure:
    """What all maps cost more than the bare pass, by pytorch-grad-cam and by us: how many times cheaper ours are."""
    import numpy as np
    import torch

    from cxrnode.reading.oracle import oracle_maps

    bundle = load_bundle(folder)
    engine, script = TorchEngine(bundle, device="cpu"), Script(folder)
    side = bundle.manifest.input.size
    inputs = np.random.default_rng(1).standard_normal((1, 3, side, side)).astype(np.float32)
    tensor = torch.from_numpy(inputs)

    def ours() -> None:
        with torch.inference_mode():
            engine._maps(engine.run(inputs))

    labels = len(bundle.manifest.labels)
    steps = {"ours": ours, "theirs": lambda: oracle_maps(script.network, script.network.relu, tensor, labels)}
    cost = take_turns(steps, rounds=rounds)
    return Figure(
        group="ratios",
        name=f"{labels} maps and scores: pytorch-grad-cam to ours, processor",
        value=cost["theirs"].cpu / cost["ours"].cpu,
        unit="",
        better="more",
        note="at least 20",
    )


def whole(folder: Path, bundle: Path, films: Sequence[Path], size: str) -> list[Figure]:
    """The same films through cxrnode, through the script, and through Orthanc with the script's model."""
    rate: dict[str, float] = {}
    cost: dict[str, float] = {}
    loaded = load_bundle(bundle)
    admit(loaded, folder / "admitted", comparison_films(loaded.manifest.input.size), rounds=3)
    with Bench(folder / "node", bundle, folder / "admitted") as bench:
        bench.burst(films[:2])
        burst = bench.burst(films[2:])
        rate["cxrnode"], cost["cxrnode"] = burst.films / burst.whole, burst.core_ms
    some = films[2 : 2 + max(4, len(films) // 4)]  # it is slow: a part of them is enough
    with archive_in(folder / "script-archive") as archive:
        port = orthanc.free_port()
        command = [sys.executable, "-m", "benchmarks.peers.script", "--port", str(port), "--archive", str(archive.port)]
        command += ["--bundle", str(bundle)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            _until_listens(port)
            _send([films[0]], port)
            before, began = cpu_seconds(process.pid), time.monotonic()
            _send(some, port)
            rate["script"] = len(some) / (time.monotonic() - began)
            cost["script"] = 1000 * (cpu_seconds(process.pid) - before) / len(some)
        finally:
            process.kill()
            process.wait()
    if orthanc.installed():
        script = Script(bundle)
        with (
            archive_in(folder / "orthanc-archive") as archive,
            orthanc.Orthanc(folder / "orthanc", archive_port=archive.port) as server,
        ):
            began, before, own = time.monotonic(), cpu_seconds(server.pid), time.process_time()
            feeder = threading.Thread(target=_send, args=(some, server.port))
            feeder.start()
            orthanc.follow(server, script, len(some), seconds=600)
            feeder.join()
            rate["Orthanc"] = len(some) / (time.monotonic() - began)
            cost["Orthanc"] = 1000 * (cpu_seconds(server.pid) - before + time.process_time() - own) / len(some)
    figures = []
    for name in rate:
        figures += [
            Figure(group=f"whole way, {size}", name=name, value=rate[name], unit="films/s", better="more"),
            Figure(group=f"whole way, {size}", name=f"{name}: cost", value=cost[name], unit="core-ms a film"),
        ]
        if name != "cxrnode":
            note = "at least 6" if name == "script" else ""
            figures += [
                Figure(group="ratios", name=f"throughput to {name}, {size}", value=rate["cxrnode"] / rate[name],
                       unit="", better="more", note=note),
                Figure(group="ratios", name=f"cost of {name} to ours, processor, {size}",
                       value=cost[name] / cost["cxrnode"], unit="", better="more"),
            ]  # fmt: skip
    return figures


def _send(films: Sequence[Path], port: int) -> None:
    destination = Destination(name="peer", aet="SCRIPT", host="127.0.0.1", port=port)

    def work(part: Sequence[Path]) -> None:
        for _ in send_files(part, destination, calling_aet="MODALITY"):
            pass

    threads = [threading.Thread(target=work, args=(films[i::4],)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _until_listens(port: int) -> None:
    import socket

    until = time.monotonic() + 240
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--films", default=42, show_default=True, help="Films of the whole way, of each size.")
@click.option("--large", default=24, show_default=True, help="Films of 15 MB for reception alone.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--size", "sizes", type=click.Choice(["small", "large", "both"]), default="both", show_default=True)
@click.option("--part", type=click.Choice(["all", "maps", "whole", "reception"]), default="all", show_default=True)
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the figures here.")
def main(films: int, large: int, rounds: int, sizes: str, part: str, path: Path | None) -> None:
    """Compare cxrnode with its peers in one run."""
    facts, figures = machine(), []
    names = list(SIZES) if sizes == "both" else [list(SIZES)[sizes == "large"]]
    with tempfile.TemporaryDirectory(prefix="cxrnode-peers-") as name:
        folder = Path(name)
        bundle = yardstick(folder / "yardstick")
        if part in ("all", "maps"):
            figures.append(maps_beside_grad_cam(bundle, rounds))
        if part in ("all", "reception"):
            films_of = write_films(folder / "large", large, list(SIZES)[1])
            figures += reception(folder / "reception", films_of, rounds=rounds)
        for size in names if part in ("all", "whole") else ():
            some = write_films(folder / size.split()[0], films, size)
            figures += whole(folder / f"whole-{size.split()[0]}", bundle, some, size)
    for one in figures:
        click.echo(f"{one.group:28} {one.name:58} {one.value:10.2f} {one.unit:16} {one.note}")
    if path is not None:
        said = {"machine": facts, "figures": [dataclasses.asdict(one) for one in figures]}
        path.write_text(json.dumps(said, indent=1))


if __name__ == "__main__":
    main()
