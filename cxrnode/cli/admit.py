"""`cxrnode model admit`: choose the engine that reads with a bundle on this machine. Nothing else ever changes it."""

from __future__ import annotations

from pathlib import Path

import click

from cxrnode.cli import tables
from cxrnode.cli.models import folder_of
from cxrnode.cli.options import config_option, json_option, load


@click.command("admit")
@click.argument("name")
@click.option(
    "--engine",
    "wanted",
    type=click.Choice(["fastest", "torch-float32", "torch-bf16", "onnxruntime", "openvino-bf16", "kserve"]),
    default="fastest",
    show_default=True,
    help="The fastest that agrees with the reference, or this one if it does.",
)
@click.option("--threads", type=click.IntRange(1), help="Threads of the engines; all cores by default.")
@json_option
@config_option
def admit_command(name: str, wanted: str, threads: int | None, as_json: bool, config_path: Path | None) -> None:
    """Choose the engine that reads with a bundle on this machine, and write it down in data_dir/engines.

    NAME is a model of the configuration, a bundle's name, or a path. Each engine is compared with torch in float32 on
    made films: scores within 0.005, maps within 0.05 of their scale; decisions that change are listed. It takes effect
    when the node starts the next time, and no restart ever changes it. For a model of the configuration with
    engine = "kserve" what its server serves is compared, and nothing else.
    """
    config = load(config_path)
    from cxrnode.bench.films import comparison_films
    from cxrnode.reading.admission import EngineKind, admit, admit_remote
    from cxrnode.reading.bundle import load_bundle
    from cxrnode.reading.remote import RemoteEngine

    bundle = load_bundle(folder_of(config, name))
    films = comparison_films(bundle.manifest.input.size)
    server = config.models[name].server if name in config.models else None
    if (wanted == "kserve" and server is None) or (server is not None and wanted not in ("fastest", "kserve")):
        raise click.UsageError(f'--engine {wanted}: [models.{name}] says engine = "{"kserve" if server else "local"}"')
    if server is not None:
        made = admit_remote(bundle, RemoteEngine(bundle, server, config.node.data_dir), films, threads=threads)
    else:
        chosen = None if wanted == "fastest" else EngineKind(wanted)
        made = admit(bundle, config.node.data_dir, films, wanted=chosen, threads=threads, said=tables.aside)
    if as_json:
        tables.emit(made)
        return
    tables.table(
        ("engine", "ms a film", "scores differ by", "maps differ by", "decisions changed", ""),
        (
            (
                trial.name,
                f"{trial.ms:.1f}",
                f"{trial.score_difference:.6f}",
                f"{trial.map_difference:.4f}",
                "; ".join(trial.decisions) or "none",
                trial.refused or ("TAKEN" if trial.kind is made.kind else ""),
            )
            for trial in made.trials
        ),
        numbers="ms a film",
    )
    tables.say(f"{bundle.folder.name} is read by {made.name} from the next start on.")
