"""`cxrnode model`: the bundles on this machine, their cards, and whether they hold what they promise.

Only `verify` loads torch.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cxrnode.cli import tables
from cxrnode.cli.options import config_option, json_option, load, load_if_there
from cxrnode.errors import BundleError

if TYPE_CHECKING:
    from cxrnode.config import Config
    from cxrnode.reading.manifest import Manifest

_DEMONSTRATION = "DEMONSTRATION MODEL: not for patients"


@click.group()
def model() -> None:
    """The model bundles."""


@model.command("ls")
@json_option
@config_option
def ls_command(as_json: bool, config_path: Path | None) -> None:
    """List the bundles that are installed or shipped, and the models that use them."""
    config = load(config_path)
    from cxrnode.reading.bundle import find_bundle, list_bundles, read_manifest

    used: dict[Path, list[str]] = {}
    rows: list[dict[str, Any]] = []
    for name, one in config.models.items():
        try:
            folder = find_bundle(one.bundle, config.node.data_dir, config.folder)
            used.setdefault(folder.resolve(), []).append(f"{name} ({one.mode})")
        except BundleError as fault:
            rows.append({"bundle": one.bundle, "used_as": [f"{name} ({one.mode})"], "problem": str(fault)})
    known = {folder.resolve(): folder for folder in list_bundles(config.node.data_dir)}
    for folder in [*known.values(), *(path for path in used if path not in known)]:
        row: dict[str, Any] = {"bundle": folder.name, "used_as": used.get(folder.resolve(), []), "folder": str(folder)}
        try:
            card, digest = read_manifest(folder)
            row |= {"name": card.name, "version": card.version, "demonstration": card.demonstration, "digest": digest}
            row |= {"mean_auc": card.metrics.mean_auc, "labels": len(card.labels), "problem": ""}
        except BundleError as fault:
            row["problem"] = str(fault)
        rows.append(row)
    if as_json:
        tables.emit(rows)
        return
    tables.table(
        ("bundle", "version", "used as", "mean AUC", "digest", "", "problem"),
        (
            (
                row["bundle"],
                row.get("version", ""),
                ", ".join(row["used_as"]) or "-",
                f"{row['mean_auc']:.3f}" if "mean_auc" in row else "",
                row.get("digest", "")[:12],
                "DEMONSTRATION" if row.get("demonstration") else "",
                row["problem"],
            )
            for row in rows
        ),
    )


@model.command("show")
@click.argument("name")
@json_option
@config_option
def show_command(name: str, as_json: bool, config_path: Path | None) -> None:
    """Show the card of a bundle. NAME is a model of the configuration, a bundle's name, or a path."""
    from cxrnode.reading.bundle import read_manifest

    folder = folder_of(load_if_there(config_path), name)
    card, digest = read_manifest(folder)
    if as_json:
        tables.emit({"folder": str(folder), "digest": digest, **dataclasses.asdict(card)})
        return
    if card.demonstration:
        tables.say(_DEMONSTRATION, style="bold red")
    _show(card, digest, folder)


@model.command("verify")
@click.argument("name")
@json_option
@config_option
@click.pass_context
def verify_command(ctx: click.Context, name: str, as_json: bool, config_path: Path | None) -> None:
    """Check a bundle's files, its forward pass and its maps against pytorch-grad-cam. Exit status 1 for a fault."""
    folder = folder_of(load_if_there(config_path), name)
    from cxrnode.reading.oracle import verify_bundle

    found = verify_bundle(folder)
    good = all(one.ok for one in found)
    if as_json:
        tables.emit({"bundle": folder.name, "ok": good, "checks": found})
    else:
        tables.table(("what", "state", "seen"), ((one.name, "ok" if one.ok else "FAULT", one.detail) for one in found))
    ctx.exit(0 if good else 1)


def folder_of(config: Config | None, name: str) -> Path:
    """The folder behind a model's or a bundle's name. Raises BundleError where there is none."""
    from cxrnode.config import Node
    from cxrnode.reading.bundle import find_bundle

    if config is None:
        return find_bundle(name, Node().data_dir)
    if name in config.models:
        return find_bundle(config.models[name].bundle, config.node.data_dir, config.folder)
    return find_bundle(name, config.node.data_dir)


def _architecture(card: Manifest) -> str:
    size, widths = card.input.size, (*card.head.hidden, len(card.labels))
    head = f"head {'-'.join(map(str, widths))}" + (" on all positions" if card.head.flatten_to else "")
    return f"{card.architecture}, {head}, {size} x {size} x {card.input.channels}, saliency {card.saliency}"


def _show(card: Manifest, digest: str, folder: Path) -> None:
    use, calibration, training = card.intended_use, card.calibration, card.training
    tables.pairs(
        [
            ("version", card.version),
            ("description", card.description),
            ("folder", folder),
            ("digest", digest),
            ("architecture", _architecture(card)),
            (
                "intended use",
                f"{use.age_min:g} to {use.age_max:g} years; {', '.join(use.views)}; {', '.join(use.modalities)}",
            ),
            ("training", f"{training.data}: {training.films} films of {training.patients} patients; {training.recipe}"),
            (
                "calibration",
                f"{calibration.method} on {calibration.data_set}, {calibration.films} films, "
                + ("representative" if calibration.representative else "not representative: it gives scores")
                + (f"; shown at the prevalence of {calibration.population}" if calibration.population else ""),
            ),
            ("metrics", f"mean AUC {card.metrics.mean_auc:.3f} on {card.metrics.data_set}, {card.metrics.films} films"),
            ("licence", card.licence),
        ],
        title=f"Bundle {card.name}",
    )
    tables.table(
        ("finding", "AUC", "95 %", "rule-out", "rule-in", "positives", "assessed"),
        (
            (
                label.name.replace("_", " "),
                f"{label.metrics.auc:.3f}" if label.metrics else "-",
                f"{label.metrics.auc_low:.3f} to {label.metrics.auc_high:.3f}" if label.metrics else "-",
                f"{label.thresholds.rule_out:.4f}" if label.thresholds else "-",
                f"{label.thresholds.rule_in:.4f}" if label.thresholds else "-",
                label.calibration.positives if label.calibration else "-",
                "not reported" if not label.report else ("yes" if label.assessed else "no"),
            )
            for label in card.labels
        ),
        numbers="AUC rule-out rule-in positives",
    )
