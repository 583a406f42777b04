"""`cxrnode rules test`: what would become of these films, and why? Reads headers alone, and stores nothing.

It says which attributes speak, never what their text holds: that may name the patient.
"""

from __future__ import annotations

import dataclasses
import datetime
import zoneinfo
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cxrnode.cli import tables
from cxrnode.cli.options import config_option, json_option, load
from cxrnode.errors import BundleError, Rejected

if TYPE_CHECKING:
    from cxrnode.config import Config
    from cxrnode.core.header import Header
    from cxrnode.core.routing import Association, Rule
    from cxrnode.core.words import WordList


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Follows:
    """One model that would read the film. `refusal`: why it would not speak about it, "" where it would."""

    model: str
    mode: str
    refusal: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tested:
    """What would become of one file. `verdict` is accepted, ignored, or refused: no DICOM object at all."""

    file: str
    verdict: str
    reason: str
    rule: str = ""
    gate: str = ""
    gate_reason: str = ""
    region: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    view: str = ""
    view_evidence: Mapping[str, Mapping[str, tuple[str, ...]]] = dataclasses.field(default_factory=dict)
    models: tuple[Follows, ...] = ()
    outputs: tuple[str, ...] = ()
    send_to: tuple[str, ...] = ()


@click.group()
def rules() -> None:
    """The rules that decide what is read."""


@rules.command("test")
@click.argument(
    "files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False)
)
@click.option("--calling-aet", default="", metavar="AET", help="As if this AE had sent it.")
@click.option("--called-aet", metavar="AET", help="As if it had called us so; else node.ae_title.")
@click.option("--host", default="", metavar="ADDRESS", help="As if it came from this address.")
@json_option
@config_option
@click.pass_context
def test_command(
    ctx: click.Context,
    files: tuple[Path, ...],
    calling_aet: str,
    called_aet: str | None,
    host: str,
    as_json: bool,
    config_path: Path | None,
) -> None:
    """Say the verdict on each FILE, its reason, the evidence, and what would follow.

    Exit status 1 if any is not accepted.
    """
    config = load(config_path)
    from cxrnode.core.routing import Association
    from cxrnode.roles.rules import configured_rules, configured_words

    association = Association(calling_aet=calling_aet, called_aet=called_aet or config.node.ae_title, host=host)
    known, words = configured_rules(config), configured_words(config)
    tested = [judge(file, config, association, known, words) for file in files]
    admitted = _admitted(config, calling_aet, host)
    if as_json:
        tables.emit({"admitted": admitted, "files": tested})
    else:
        for one in tested:
            _show(one)
        if admitted is False:
            tables.aside(
                f"Note: {calling_aet} may not send here: no node with can_send = true has this AE title and address."
            )
    ctx.exit(0 if all(one.verdict == "accepted" for one in tested) else 1)


def judge(file: Path, config: Config, association: Association, known: tuple[Rule, ...], words: WordList) -> Tested:
    """Route one file as `receive` would. Never raises for a bad file."""
    from cxrnode.core import views
    from cxrnode.core.routing import route
    from cxrnode.dicom.header import read_header, to_header

    try:
        header = to_header(read_header(file))
    except (Rejected, OSError) as fault:
        said = str(fault) if isinstance(fault, Rejected) else f"it cannot be read ({fault.strerror})"
        return Tested(file=str(file), verdict="refused", reason=said)
    today = datetime.datetime.now(zoneinfo.ZoneInfo(config.node.timezone)).date()
    verdict = route(header, association, known, words, today)
    region = dataclasses.asdict(views.region_evidence(header, words))
    evidence = views.view_evidence(header, words)
    rule = verdict.rule if verdict.accepted else None
    return Tested(
        file=str(file),
        verdict="accepted" if verdict.accepted else "ignored",
        reason=verdict.reason,
        rule=verdict.rule_name,
        gate=verdict.gate.answer,
        gate_reason=verdict.gate.reason,
        region={key: value for key, value in region.items() if value},
        view=views.view_of(header, words),
        view_evidence={
            source: {str(view): names for view, names in found.items()}
            for source, found in (("tags", evidence.tags), ("image", evidence.image), ("study", evidence.study))
            if found
        },
        models=tuple(_follows(name, header, config, words) for name in rule.models) if rule else (),
        outputs=rule.outputs if rule else (),
        send_to=rule.send_to if rule else (),
    )


def _follows(name: str, header: Header, config: Config, words: WordList) -> Follows:
    """What this model's card says of such a film, without its weights."""
    from cxrnode.core.routing import IntendedUse, within_intended_use
    from cxrnode.reading.bundle import find_bundle, read_manifest

    model = config.models[name]
    try:
        card, _ = read_manifest(find_bundle(model.bundle, config.node.data_dir, config.folder))
    except BundleError as fault:
        return Follows(model=name, mode=model.mode, refusal=str(fault))
    use = IntendedUse(
        age_min=card.intended_use.age_min,
        age_max=card.intended_use.age_max,
        views=card.intended_use.views,
        modalities=card.intended_use.modalities,
        unknown_age=config.reading.unknown_age,
    )
    outside = within_intended_use(header, use, words)
    return Follows(model=name, mode=model.mode, refusal=f"outside its intended use: {outside}" if outside else "")


def _admitted(config: Config, calling_aet: str, host: str) -> bool | None:
    """Whether this AE may send at all, from this address where one was named; None where no AE was."""
    from cxrnode.roles.senders import Senders

    if not calling_aet:
        return None
    if host:
        return Senders(config).may_store(calling_aet, host)
    return config.listen.accept_unknown or calling_aet in {n.aet for n in config.peers.values() if n.can_send}


def _show(one: Tested) -> None:
    region = "; ".join(
        f"{key.replace('_', ' ')}: {', '.join(names) if isinstance(names, tuple) else 'yes'}"
        for key, names in one.region.items()
    )
    view = "; ".join(
        f"{view} by {', '.join(names)}" for found in one.view_evidence.values() for view, names in found.items()
    )
    models = [f"{m.model} ({m.mode})" + (f", not analysed: {m.refusal}" if m.refusal else "") for m in one.models]
    tables.pairs(
        [
            ("verdict", one.verdict),
            ("reason", one.reason),
            ("rule", one.rule or "none"),
            ("gate", f"{one.gate} ({one.gate_reason})" if one.gate else ""),
            ("region", (region or "nothing says") if one.gate else ""),
            ("view", f"{one.view}" + (f" ({view})" if view else "") if one.gate else ""),
            ("models", "; ".join(models)),
            ("outputs", ", ".join(one.outputs)),
            ("send to", ", ".join(one.send_to) or ("nobody" if one.models else "")),
        ],
        title=one.file,
    )
    tables.say("")
