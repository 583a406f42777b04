"""`cxrnode check`: is everything that the configuration names really there? Looks, and changes nothing.

Each check is a function from the configuration to findings; a fault carries its remedy. No torch is loaded: the
forward pass of a model is looked at by `cxrnode model verify`.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import datetime
import errno
import os
import shutil
import tempfile
import time
import zoneinfo
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cxrnode.cli import ports, tables
from cxrnode.cli.options import config_option, connect, hush, json_option, load, told
from cxrnode.errors import ConfigError, CxrnodeError

if TYPE_CHECKING:
    from cxrnode.config import Config
    from cxrnode.dicom.sender import Timeouts
    from cxrnode.reading.bundle import Bundle
    from cxrnode.sections import Server

#: A clock further from the database's than this makes leases and times wrong, in seconds.
MOST_SKEW = 2.0
#: How long one node may take to answer C-ECHO, at each step, in seconds.
_PATIENCE = 5.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """One thing that was looked at; a fault says what to do."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


@click.command()
@json_option
@config_option
@click.pass_context
def check(ctx: click.Context, as_json: bool, config_path: Path | None) -> None:
    """Check configuration, database, spool, models, nodes, clock and ports. Exit status 1 for a fault."""
    found = list(checks(config_path))
    if as_json:
        tables.emit({"ok": all(one.ok for one in found), "checks": found})
    else:
        tables.table(
            ("what", "state", "seen", "what to do"),
            ((one.name, "ok" if one.ok else "FAULT", one.detail, one.remedy) for one in found),
        )
    ctx.exit(0 if all(one.ok for one in found) else 1)


def checks(config_path: Path | None) -> Iterator[Checked]:
    """Look at everything; without a configuration that is the one finding."""
    try:
        config = load(config_path)
    except CxrnodeError as error:
        for line in str(error).splitlines():
            fault = _fault("configuration", ConfigError(line))
            yield dataclasses.replace(fault, remedy=fault.remedy or "mend what is named in that file")
        return
    detail = f"{config.source}, AE title {config.node.ae_title}, digest {config.digest[:12]}"
    yield Checked(name="configuration", ok=True, detail=detail)
    parts: tuple[Callable[[Config], Iterator[Checked]], ...]
    parts = (_rules, _database, _spool, _models, _nodes, _worklists, _zone, _ports)
    for part in parts:
        yield from part(config)


def _fault(name: str, error: CxrnodeError, remedy: str = "") -> Checked:
    """A fault whose message ends in its remedy, as those of `cxrnode.errors` do: `what is wrong; what to do`."""
    said = " ".join(str(error).split())
    if not remedy:
        for mark in ("; ", ": run ", ". "):
            what, found, do = said.rpartition(mark)
            if found:
                return Checked(name=name, ok=False, detail=what, remedy=(found.strip(":;. ") + " " + do).strip())
    return Checked(name=name, ok=False, detail=said, remedy=remedy)


def _rules(config: Config) -> Iterator[Checked]:
    from cxrnode.roles.rules import configured_rules

    try:
        rules = configured_rules(config)
    except CxrnodeError as error:
        yield _fault("rules", error)
        return
    if not rules:
        yield Checked(
            name="rules",
            ok=False,
            detail="there are none: every film is ignored",
            remedy="add [[rules]]; see cxrnode init",
        )
        return
    yield Checked(name="rules", ok=True, detail=", ".join(rule.name for rule in rules))
    senders = sorted(name for name, node in config.peers.items() if node.can_send)
    if "receive" in config.node.roles and not senders and not config.listen.accept_unknown:
        yield Checked(
            name="senders",
            ok=False,
            detail="no node may send: every association is refused",
            remedy="set can_send = true in the [nodes.X] of each modality or router",
        )


def _database(config: Config) -> Iterator[Checked]:
    from cxrnode import readiness
    from cxrnode.store import upgrade

    try:
        database = connect(config, patience=int(_PATIENCE))
        asked = time.time()
        with told(database), database.read() as transaction:
            skew = transaction.now - (asked + time.time()) / 2
    except CxrnodeError as error:
        yield _fault("database", error, "" if ";" in str(error) else "start it, and check database.url and its rights")
        return
    try:
        with told(database):
            upgrade.require(database)
        # SQLite writes its journal beside the file: whoever made both as another user locked the service out.
        if database.file is not None and not all(
            os.access(place, os.W_OK) for place in (database.file, database.file.parent)
        ):
            detail = f"{database.file} or its folder cannot be written to by this user"
            yield Checked(name="database", ok=False, detail=detail, remedy="give both to the service's user (chown)")
        else:
            yield Checked(name="database", ok=True, detail=f"{database.url}, schema {upgrade.HEAD}")
        with told(database):
            look = readiness.queue(config, database)
        yield Checked(name="queue", ok=look.ok, detail=look.detail, remedy=look.remedy)
    except CxrnodeError as error:
        yield _fault("database", error, "cxrnode db upgrade")
    finally:
        database.close()
    far = abs(skew) > MOST_SKEW
    yield Checked(
        name="clock",
        ok=not far,
        detail=f"{tables.span(skew)} from the database's",
        remedy="let both machines follow the same time server (chrony, systemd-timesyncd)" if far else "",
    )


def _spool(config: Config) -> Iterator[Checked]:
    from cxrnode.readiness import size_text

    if config.spool.is_bucket:
        yield _bucket(config)
    folder = config.spool_dir
    # Before the first start the folder is not there: what counts is whether it can be made.
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    try:
        if there == folder:
            with tempfile.NamedTemporaryFile(dir=folder, prefix=".check-"):
                pass
        elif not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        free = shutil.disk_usage(there).free
    except OSError as error:
        yield Checked(
            name="spool",
            ok=False,
            detail=f"{folder} cannot be written to ({error.strerror})",
            remedy="give the folder to the service's user, or name another in spool.url or node.data_dir",
        )
        return
    short = free < config.spool.min_free
    made = "" if there == folder else " (not made yet)"
    yield Checked(
        name="spool",
        ok=not short,
        detail=f"{folder}{made}, {size_text(free)} free, {size_text(config.spool.min_free)} must be",
        remedy="free space, or lower spool.min_free: C-STORE is refused with 0xA700 meanwhile" if short else "",
    )


def _bucket(config: Config) -> Checked:
    """Whether what the roles do with an object store can be done: put, read, list, remove."""
    from cxrnode.node import open_spool

    where = f"{config.spool.url}{f' at {config.spool.endpoint}' if config.spool.endpoint else ''}"
    try:
        spool = open_spool(config)
        (kept,) = spool.put(b"cxrnode check")
        spool.read(kept.key, digest=kept.digest)
        next(spool.keys_older_than(0), None)
        removed = spool.remove(kept.key)
    except CxrnodeError as error:
        remedy = "check spool.url, spool.endpoint, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION"
        return Checked(name="spool", ok=False, detail=f"{where}: {error}", remedy=remedy)
    if not removed:
        remedy = "allow s3:DeleteObject: else nothing is ever removed"
        return Checked(name="spool", ok=False, detail=f"{where} keeps what is to go", remedy=remedy)
    return Checked(name="spool", ok=True, detail=f"{where} takes, gives and removes objects")


def _models(config: Config) -> Iterator[Checked]:
    from cxrnode.reading.bundle import find_bundle, load_bundle

    if not config.models and "infer" in config.node.roles:
        yield Checked(
            name="models", ok=False, detail="there are none", remedy='add [models.chest] with bundle = "demo"'
        )
    assessed: set[str] = set()
    for name, model in config.models.items():
        try:
            bundle = load_bundle(find_bundle(model.bundle, config.node.data_dir, config.folder))
        except CxrnodeError as error:
            yield _fault(f"model {name}", error)
            continue
        card = bundle.manifest
        words = [f"{card.name} {card.version}", f"digest {bundle.digest[:12]}", model.mode]
        words += ["DEMONSTRATION MODEL"] if card.demonstration else []
        yield Checked(name=f"model {name}", ok=True, detail=", ".join(words))
        if model.server is not None:
            yield _server(f"server of {name}", bundle, model.server, config.node.data_dir)
        if model.mode == "active" and not card.demonstration:
            assessed |= {label.name for label in card.labels if label.report and label.assessed is not None}
    # A misspelt finding would flag nothing, and nobody would miss it.
    for finding in config.key_object.findings if any("key_object" in rule.outputs for rule in config.rules) else ():
        if finding not in assessed:
            yield Checked(
                name=f"key object {finding}",
                ok=False,
                detail="no model in use assesses it; a demonstration or shadow model flags nothing",
                remedy="write key_object.findings as `cxrnode model show` writes the findings, or remove it",
            )


def _server(name: str, bundle: Bundle, server: Server, data_dir: Path) -> Checked:
    """Whether a model's inference server answers, is the one that was admitted, and serves this very bundle."""
    import numpy as np

    from cxrnode.reading.remote import RemoteEngine

    patient = server.model_copy(update={"timeout": min(server.timeout, _PATIENCE)})
    try:
        engine = RemoteEngine(bundle, patient, data_dir)
        engine.require_admission()
        if not engine.ready():
            return Checked(name=name, ok=False, detail=engine.trouble, remedy="start it, or see docs/scale.md")
        engine.read([np.full((512, 512), 128, np.uint8)])
    except CxrnodeError as error:
        return _fault(name, error, "" if ";" in str(error) else "start it, or see docs/scale.md")
    return Checked(name=name, ok=True, detail=f"{engine.name} serves digest {bundle.digest[:12]}")


def _nodes(config: Config) -> Iterator[Checked]:
    from cxrnode.dicom.sender import Timeouts

    hush()
    send = config.send
    timeouts = Timeouts(
        connect=min(send.connect_timeout, _PATIENCE),
        acse=min(send.acse_timeout, _PATIENCE),
        dimse=min(send.dimse_timeout, _PATIENCE),
    )
    with concurrent.futures.ThreadPoolExecutor(max_workers=16) as pool:
        yield from pool.map(lambda name: _node(config, name, timeouts), config.nodes)


def _node(config: Config, name: str, timeouts: Timeouts) -> Checked:
    from cxrnode.dicom.destination import AssociationFault
    from cxrnode.dicom.ways import reach
    from cxrnode.roles.destinations import destination_of

    started = time.monotonic()
    try:
        destination = destination_of(config, name)
        answer = reach(destination, calling_aet=config.node.ae_title, timeouts=timeouts)
    except AssociationFault as fault:
        why = f" ({fault.detail})" if fault.detail else ""
        said = f"{destination.address}: {fault.kind.value.replace('_', ' ')}{why}"
        peer = config.peers.get(name)
        if peer is not None and peer.can_send and not any(name in rule.send_to for rule in config.rules):
            # Many a modality is no Verification SCP.
            return Checked(name=f"node {name}", ok=True, detail=f"{said}; it only sends to us, and may be silent")
        return Checked(name=f"node {name}", ok=False, detail=said, remedy=fault.remedy)
    except CxrnodeError as error:
        return _fault(f"node {name}", error, f"check [nodes.{name}] tls")
    took = tables.span(time.monotonic() - started)
    return Checked(name=f"node {name}", ok=True, detail=f"{destination.address} {answer} in {took}")


def _worklists(config: Config) -> Iterator[Checked]:
    if not config.worklists:
        return
    from cxrnode.roles.worklist import reach

    if "worklist" not in config.node.roles:
        detail = "this machine works off none of [worklists]: its roles lack worklist"
        yield Checked(name="worklists", ok=True, detail=f"{detail}; another machine must, or add it to node.roles")
    for name in config.worklists:
        try:
            yield Checked(name=f"worklist {name}", ok=True, detail=reach(config, name))
        except CxrnodeError as error:
            yield _fault(f"worklist {name}", error, f"check worklists.{name}.url, auth and tls")


def _zone(config: Config) -> Iterator[Checked]:
    """Most films state no offset from UTC: the zone in which they are taken must have been set by somebody."""
    now = datetime.datetime.now(datetime.UTC)

    def there(zone: str) -> str:
        return f"{zone}, where it is {now.astimezone(zoneinfo.ZoneInfo(zone)).isoformat(timespec='seconds')}"

    if config.timezone:
        yield Checked(name="time zone", ok=True, detail=there(config.timezone))
    elif unzoned := sorted(name for name, node in config.peers.items() if node.can_send and not node.timezone):
        yield Checked(
            name="time zone",
            ok=False,
            detail=f"not set for films of {', '.join(unzoned)}; this machine's is {now.astimezone():%Z (UTC%z)}",
            remedy='set node.timezone, like "Europe/Berlin"; "UTC" if that is meant',
        )
    for name, node in config.peers.items():
        if node.timezone:
            yield Checked(name=f"time zone of {name}", ok=True, detail=there(node.timezone))


def _ports(config: Config) -> Iterator[Checked]:
    from cxrnode.supervisor import bind_remedy

    for role, name, section, answers in (
        ("receive", "port", "listen", ports.node_answers),
        ("web", "console", "web", ports.console_answers),
    ):
        if role not in config.node.roles:
            continue
        at = config.listen if section == "listen" else config.web
        where, fault = f"{at.host}:{at.port}", ports.fault(at.host, at.port)
        if fault is None:
            yield Checked(name=name, ok=True, detail=f"{where} is free")
        elif fault.errno == errno.EADDRINUSE and answers(config):
            yield Checked(name=name, ok=True, detail=f"{where}, this node answers there already")
        else:
            detail = f"{where} cannot be used ({fault.strerror})"
            yield Checked(name=name, ok=False, detail=detail, remedy=bind_remedy(fault, section))
