"""The rows of one film's life, as the store would have written them: an instance, its jobs and all that hangs on them.

Every chain of events holds by `audit.broken_link`, every report is the canonical JSON of `core.findings`. The bytes
that the rows speak of were never in any spool; UIDs, people and digests are invented.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from benchmarks.form import IMPLAUSIBLE, Form
from benchmarks.population import DECISIONS, Fate
from benchmarks.tallied import Reading, Tallied
from cxrnode.core.findings import Decision, Reader
from cxrnode.core.header import Header
from cxrnode.core.identity import identity_digest
from cxrnode.store.schema import (
    delivery,
    delivery_output,
    event,
    film,
    finding,
    identity,
    instance,
    job,
    output,
)

_SR, _SC = "1.2.840.10008.5.1.4.1.1.88.33", "1.2.840.10008.5.1.4.1.1.7"
_DX, _EXPLICIT = "1.2.840.10008.5.1.4.1.1.1.1", "1.2.840.10008.1.2.1"
_ROOT = "1.2.826.0.1.3680043.10.1.9"  # of invented objects
_WANTED = json.dumps({"outputs": ["sr", "heatmap"], "send_to": ["PACS"]})
_KEPT_DAYS = 30.0

#: The columns that are written of each table, in the order of the tuples below; the others get their defaults.
COLUMNS: dict[sa.Table, tuple[str, ...]] = {
    instance: (
        *("id", "sop_instance_uid", "dataset_sha256", "sop_class_uid", "transfer_syntax_uid", "calling_aet"),
        *("called_aet", "received_at", "verdict", "reason", "rule", "header", "spool_key", "size"),
    ),
    identity: (
        *("instance_id", "patient_id", "issuer", "patient_name", "birth_date", "sex", "accession"),
        *("study_instance_uid", "series_instance_uid"),
    ),
    job: (
        *("id", "instance_id", "model", "revision", "mode", "state", "outcome", "reason", "rank", "created_at"),
        *("claimed_at", "settled_at", "wanted", "token", "bundle_digest", "config_digest", "engine", "pixel_digest"),
        *("identity_digest", "duplicate_of", "predecessor", "rejection", "rejection_note", "rejected_at", "report"),
        *("report_sha256", "saliency_key", "saliency_sha256", "preview_key", "preview_sha256", "chain_head"),
        "counted",
    ),
    film: ("pixel_digest", "identity_digest", "model", "job_id"),
    finding: ("job_id", "label", "score", "scale", "decision", "rule_out", "rule_in"),
    output: (
        *("id", "job_id", "kind", "label", "sop_class_uid", "sop_instance_uid", "series_instance_uid"),
        *("transfer_syntax_uid", "instance_number", "spool_key", "sha256", "size"),
    ),
    delivery: (
        *("id", "job_id", "destination", "act", "state", "reason", "rank", "created_at", "settled_at", "token"),
        "attempts",
    ),
    delivery_output: ("delivery_id", "output_id", "status", "done", "had"),
    event: ("id", "at", "instance_id", "job_id", "delivery_id", "name", "detail", "hash"),
}


#: As `store.audit` writes a detail and the text under a link's hash; a test holds the chains against it.
_text = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


@functools.cache
def _header(sender: str, accepted: bool, anterior: bool, sex: str, age: int) -> str:
    header = Header(
        sop_class_uid=_DX,
        modality="DX" if accepted else "CT",
        presentation_intent="FOR PRESENTATION",
        image_type=("ORIGINAL", "PRIMARY"),
        rows=2500,
        columns=2048,
        bits_stored=12,
        photometric="MONOCHROME2",
        body_part="CHEST",
        view_position="AP" if anterior else "PA",
        study_description="Chest",
        series_description="Chest",
        manufacturer="INVENTED",
        station_name=sender,
        sex=sex,
        age_years=float(age),
    )
    return json.dumps(header.as_json(), sort_keys=True)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model of the history: its name and mode, who reads under it, and the form of its reports."""

    name: str
    mode: str
    reader: Reader
    form: Form


class Records:
    """Collects the rows of films; `take` hands them over and begins anew. Ids count up over the whole history."""

    def __init__(self, *, until: float, events: float, reports: bool, tallied: Tallied | None = None) -> None:
        """`events`: how many a job is to have in the mean; what is missing are tries at a PACS that was busy.

        `until`: the end of the history, seconds since 1970. `reports`: whether jobs keep their report's JSON.
        `tallied` counts what was reported.
        """
        self._tallied = tallied
        self._film: dict[str, Any] = {}  # of the film at hand, what its readings are counted by
        self._active: Reading | None = None  # what was read of it first
        self.jobs = self.events = 0
        self._until, self._per_job, self._reports = until, events, reports
        self._instances = self._outputs = self._deliveries = 0
        self._rows: dict[sa.Table, list[tuple[Any, ...]]] = defaultdict(list)
        self._trail: list[tuple[Any, ...]] = []
        self._last: tuple[int, str, str] | None = None  # the last film delivered: job, pixels, identity

    def film(self, at: float, sender: str, fate: Fate) -> tuple[int, str, str]:
        """An instance and its receipt; return its id, pixel digest and identity digest."""
        self._instances += 1
        one, random = self._instances, os.urandom(96).hex()
        patient = (one * 7919) % 400_000
        study = f"{_ROOT}.1.{one - one % 2}"  # two films a study
        accession, number, accepted = f"A{one - one % 2:09d}", f"P{patient:07d}", fate is not Fate.IGNORED
        age = 18 + patient % 78
        header = _header(sender, accepted, one % 3 == 0, "MF"[patient % 2], age)
        self._film = {"sender": sender, "view": "AP" if one % 3 == 0 else "PA", "sex": "MF"[patient % 2], "age": age}
        self._film["received"], self._active = at, None
        reason = "rule `frontal chest films`" if accepted else "no rule matches: Modality is CT"
        key = random[:32] if at > self._until - _KEPT_DAYS * 86400 else None
        self._rows[instance].append(
            (
                *(one, f"{_ROOT}.3.{one}", random[:64], _DX, _EXPLICIT, sender, "CXRNODE", at),
                *("accepted" if accepted else "ignored", reason, "frontal chest films" if accepted else ""),
                *(header, key, 10_241_536),
            )
        )
        name, born = f"Invented{patient % 9973}^Patient{patient}", f"{2025 - age}0101"
        self._rows[identity].append((one, number, "", name, born, "MF"[patient % 2], accession, study, f"{study}.1"))
        self._note("", at, "received", one, calling_aet=sender, size=10_241_536)
        verdict = "accepted" if accepted else "ignored"
        self._note("", at, verdict, one, reason=reason, rule="frontal chest films" if accepted else "")
        whose = identity_digest(patient_id=number, issuer="", accession=accession, study_uid=study)
        if fate is Fate.DUPLICATE and self._last is not None:
            return one, self._last[1], self._last[2]
        return one, random[64:128], whose

    def read(
        self,
        film_of: tuple[int, str, str],
        at: float,
        model: Model,
        fate: Fate,
        scores: Sequence[float],
        decided: Sequence[int],
        *,
        waits: bool = False,
        predecessor: int | None = None,
        revision: int = 1,
    ) -> int:
        """A job on a film and what became of it; return its id. `waits`: it was not claimed yet."""
        self.jobs += 1
        one, (instance_id, pixels, whose) = self.jobs, film_of
        claimed, read = round(at + 0.004, 3), round(at + 0.31, 3)
        values: dict[str, Any] = dict.fromkeys(COLUMNS[job])
        values |= {"id": one, "instance_id": instance_id, "model": model.name, "revision": revision}
        values |= {"mode": model.mode, "state": "queued", "outcome": "", "reason": "", "rank": at, "created_at": at}
        values |= {"wanted": _WANTED, "token": 0, "bundle_digest": "", "config_digest": "c" * 64, "engine": ""}
        values |= {"pixel_digest": "", "identity_digest": "", "predecessor": predecessor, "rejection": ""}
        values |= {"rejection_note": "", "report_sha256": "", "saliency_sha256": "", "preview_sha256": "", "counted": 0}
        said: dict[str, Any] = {"model": model.name, "mode": model.mode, "revision": revision}
        head = self._note("", at, "enqueued", instance_id, one, **said)
        if not waits:
            values |= {"token": 1, "claimed_at": claimed, "settled_at": read, "engine": model.reader.engine}
            values |= {"bundle_digest": model.reader.bundle_digest, "pixel_digest": pixels, "identity_digest": whose}
            owner = f"node/infer/{one % 97:012x}"
            bundle = model.reader.bundle_digest
            head = self._note(head, claimed, "claimed", None, one, owner=owner, token=1, alone=False, bundle=bundle)
            head = self._settle(head, one, values, film_of, read, model, fate, scores, decided)
            if values["report"] is not None and self._tallied is not None:
                self._tally(self._tallied, values, read, model, film_of[0], scores, decided)
        self._rows[job].append(tuple({**values, "chain_head": head}.values()))
        return one

    def _settle(
        self,
        head: str,
        one: int,
        values: dict[str, Any],
        film_of: tuple[int, str, str],
        at: float,
        model: Model,
        fate: Fate,
        scores: Sequence[float],
        decided: Sequence[int],
    ) -> str:
        if fate is Fate.PARKED:
            values |= {"state": "failed", "reason": "the decoder was ended by signal 11 on this film (3 attempts)"}
            return self._note(head, at, "parked", None, one, reason=values["reason"])
        if fate is Fate.DUPLICATE and self._last is not None:
            twin = self._last[0]
            values |= {"state": "reported", "outcome": "duplicate", "duplicate_of": twin}
            values["reason"] = f"duplicate of job {twin}: same pixels, patient, accession and study"
            return self._note(head, at, "duplicate_found", None, one, duplicate_of=twin)
        analysed = fate is not Fate.NOT_ANALYSED
        outcome = "analysed" if analysed else "not_analysed"
        reason = "" if analysed else IMPLAUSIBLE
        text = model.form.fill(values, film_of, scores, decided) if analysed else model.form.refuse(values, film_of)
        values |= {"state": "reported", "outcome": outcome, "reason": reason}
        values |= {
            "report": text if self._reports else None,
            "report_sha256": hashlib.sha256(text.encode()).hexdigest(),
        }
        kept = at > self._until - _KEPT_DAYS * 86400
        for what in ("saliency", "preview") if analysed else ():
            values |= {f"{what}_key": os.urandom(16).hex() if kept else None, f"{what}_sha256": os.urandom(32).hex()}
        sent = model.mode == "active"
        shown = [model.form.labels[i] for i, found in enumerate(decided) if DECISIONS[found] is Decision.PRESENT]
        made = self._outputs_of(one, shown[:3] if analysed else (), kept) if sent else []
        said: dict[str, Any] = {"outcome": outcome, "report_sha256": values["report_sha256"], "outputs": len(made)}
        head = self._note(head, at, "reported", None, one, **said)
        if analysed:
            self._rows[finding] += model.form.findings(one, scores, decided)
        if sent:
            if fate is not Fate.READ_AGAIN or values["revision"] > 1:  # the film is the later reading's
                self._rows[film].append((film_of[1], film_of[2], model.name, one))
            head = self._deliver(head, one, values, made, at, fate)
            if fate is Fate.DELIVERED:
                self._last = (one, film_of[1], film_of[2])
        return head

    def _tally(
        self,
        tallied: Tallied,
        values: dict[str, Any],
        read: float,
        model: Model,
        film_id: int,
        scores: Sequence[float],
        decided: Sequence[int],
    ) -> None:
        """Count a reading as `tend` would have."""
        delivered = values["settled_at"] if values["state"] == "delivered" else None
        one = Reading(
            **self._film,
            model=model.name,
            mode=model.mode,
            bundle=values["bundle_digest"],
            revision=values["revision"],
            analysed=values["outcome"] == "analysed",
            ratio=model.form.ratio(film_id, analysed=values["outcome"] == "analysed"),
            created=values["created_at"],
            claimed=values["claimed_at"],
            reported=read,
            delivered=delivered,
            scores=scores,
            decided=decided,
        )
        tallied.add(one)
        if model.mode == "active":
            self._active = one
        elif self._active is not None:
            tallied.pair(self._active, one)
        values["counted"] = 1 if values["state"] == "failed" else 2

    def _outputs_of(self, one: int, shown: Sequence[str], kept: bool) -> list[int]:
        kinds = [("sr", "", _SR, 9_000), ("summary", "", _SC, 700_000)]
        kinds += [("heatmap", label, _SC, 900_000) for label in shown]
        made, random = [], os.urandom(64 * len(kinds)).hex()
        for number, (kind, label, sop_class, size) in enumerate(kinds, start=1):
            self._outputs += 1
            made.append(self._outputs)
            piece = random[128 * (number - 1) : 128 * number]
            uids = (f"{_ROOT}.4.{self._outputs}", f"{_ROOT}.5.{one}.{min(number, 2)}")
            key = piece[:32] if kept else None
            numbered = 1 if kind == "sr" else number - 1
            self._rows[output].append(
                (made[-1], one, kind, label, sop_class, *uids, _EXPLICIT, numbered, key, piece[64:], size)
            )
        return made

    def _deliver(self, head: str, one: int, values: dict[str, Any], made: Sequence[int], at: float, fate: Fate) -> str:
        self._deliveries += 1
        this, owner = self._deliveries, f"node/send/{one % 89:012x}"

        def note(when: float, name: str, **detail: Any) -> None:
            nonlocal head
            head = self._note(head, round(when, 3), name, None, one, this, **detail)

        note(at, "delivery_created", destination="PACS", act="report", held=False)
        tries, now = max(0, min(40, int(self._per_job * self.jobs - self.events - 3) // 2)), at + 0.02
        for attempt in range(1, tries + 1):
            note(now, "delivery_claimed", owner=owner, token=attempt, probe=False)
            busy = "sr answered 0xA700, out of resources"
            note(now + 0.1, "delivery_faulted", statuses={"0xA700": 1}, attempts=attempt, reason=busy)
            now += 5.0 * attempt
        note(now, "delivery_claimed", owner=owner, token=tries + 1, probe=False)
        done = round(now + 0.1, 3)
        sent = fate is not Fate.UNDELIVERED
        if sent:
            note(done, "delivery_sent", statuses={"0x0000": len(made)}, warnings=[])
            head = self._note(head, done, "delivered", None, one)
        else:
            note(
                done, "delivery_parked", statuses={"0xA900": len(made)}, reason="sr answered 0xA900, data set does not"
            )
            head = self._note(head, done, "undelivered", None, one)
        values |= {"state": "delivered" if sent else "failed", "settled_at": done}
        reason = "" if sent else "sr answered 0xA900, data set does not match SOP class"
        state = "sent" if sent else "failed"
        self._rows[delivery].append(
            (this, one, "PACS", "report", state, reason, values["rank"], at, done, tries + 1, tries)
        )
        status = 0 if sent else 0xA900
        self._rows[delivery_output] += [(this, output_id, status, sent, sent) for output_id in made]
        if fate is Fate.WITHDRAWN:
            taken: dict[str, Any] = {"rejection": "quality", "reason": "patient turned", "by": "pacs-admin"}
            later = round(done + 3600, 3)
            head = self._note(head, later, "withdrawn", None, one, **taken)
            values |= {"state": "withdrawn", "settled_at": later, "rejection": "quality", "rejected_at": later}
            values["rejection_note"] = taken["reason"]
        elif fate is Fate.READ_AGAIN and values["revision"] == 1:
            asked: dict[str, Any] = {
                "reason": "a better film",
                "by": "pacs-admin",
                "revision": 2,
                "job": one + 1,
                "model": "chest",
            }
            head = self._note(head, round(done + 600, 3), "revision_asked", None, one, **asked)
            head = self._note(head, round(done + 601, 3), "superseded", None, one, by=one + 1, withdraw=True)
            values["state"] = "superseded"
        return head

    def _note(
        self,
        head: str,
        at: float,
        name: str,
        instance_id: int | None,
        job_id: int | None = None,
        delivery_id: int | None = None,
        **detail: Any,
    ) -> str:
        text = _text(detail)
        link = hashlib.sha256(_text([head, repr(at), job_id, delivery_id, name, text]).encode()).hexdigest()
        self._trail.append((at, instance_id, job_id, delivery_id, name, text, link))
        self.events += 1
        return link

    def take(self) -> dict[sa.Table, list[tuple[Any, ...]]]:
        """The rows collected so far, the events in order of time."""
        taken = dict(self._rows)
        first = self.events - len(self._trail) + 1
        ordered = sorted(self._trail, key=lambda row: row[0])
        taken[event] = [(number, *row) for number, row in enumerate(ordered, start=first)]
        self._rows, self._trail = defaultdict(list), []
        return taken
