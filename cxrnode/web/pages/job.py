"""One job: what the model said and why, what was sent where, every event; and what can be done about it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

from starlette.responses import RedirectResponse, Response

from cxrnode.core.access import Role
from cxrnode.core.findings import Finding, reach
from cxrnode.core.lifecycle import DELIVERY, JOB
from cxrnode.errors import Rejected
from cxrnode.store import feedback
from cxrnode.store.audit import Event
from cxrnode.store.details import JobDetail, instance_row, job_detail, reveal
from cxrnode.store.files import JobFiles, OutputFile, job_files, output_file
from cxrnode.store.listing import InstanceRow
from cxrnode.web import acts, documents, pictures
from cxrnode.web.asked import Asked
from cxrnode.web.console import Console, NotFound
from cxrnode.web.hindrances import hindrances
from cxrnode.web.view import View

#: Events that only say that people looked: they are counted, not listed.
_LOOKS = frozenset({"result_viewed", "identity_viewed"})
#: One line for people about each event, from the table of the life of a job.
_GLOSS: dict[str, str] = {}
for _table in (JOB, DELIVERY):
    for (_, _event), (_, _said) in _table.items():
        _GLOSS.setdefault(str(_event), _said)
_GLOSS |= {
    "received": "the film is durable, and its sender got Success",
    "accepted": "a rule wants it read",
    "ignored": "no rule wants it read",
    "received_again": "the same bytes came once more; nothing else happened",
    "bytes_removed": "retention took the bytes; the rows stay",
    "bytes_restored": "the film came again, and has its bytes back",
    "identity_changed": "the same pixels came under another identity",
    "identity_decided": "a person said whose film it is",
    "revision_asked": "a person asked for it to be read again",
    "not_analysed_said": "those who read it were told that it has no result",
    "study_summarised": "it stands in its study's summary",
    "delivery_released": "a held delivery may go",
    "withdrawal_asked": "what was sent is to be withdrawn",
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One line of the timeline, with the seconds since the one before."""

    event: Event
    after: float | None
    gloss: str
    destination: str


def detail_of(console: Console, job_id: int) -> JobDetail:
    """The job with all that belongs to it. Raises NotFound."""
    try:
        return job_detail(console.database, job_id)
    except Rejected as error:
        raise NotFound(str(error)) from None


def steps_of(detail: JobDetail) -> list[Step]:
    """The timeline without the looks."""
    destinations = {one.id: one.destination for one in detail.deliveries}
    found: list[Step] = []
    for event in detail.events:
        if event.name in _LOOKS:
            continue
        after = event.at - found[-1].event.at if found else None
        destination = destinations.get(event.delivery_id or 0, "")
        found.append(Step(event=event, after=after, gloss=_GLOSS.get(event.name, ""), destination=destination))
    return found


def _looks(events: Sequence[Event]) -> list[tuple[str, int, float]]:
    """(who, how often, when last) of those who looked."""
    counts = Counter(str(one.detail.get("by", "")) for one in events if one.name in _LOOKS)
    last = {str(one.detail.get("by", "")): one.at for one in events if one.name in _LOOKS}
    return sorted(((who, count, last[who]) for who, count in counts.items()), key=lambda one: -one[2])


def page(console: Console, asked: Asked) -> Response:
    """The page; that somebody looks is an event."""
    detail = detail_of(console, asked.number("id"))
    console.looked(asked, detail.job.id, detail.job.instance_id, how="console")
    return _shown(console, asked, detail)


def _shown(console: Console, asked: Asked, detail: JobDetail) -> Response:
    instance = instance_row(console.database, detail.job.instance_id)
    findings = detail.report.ranked() if detail.report else ()
    files = job_files(console.database, detail.job.id)
    return console.page(
        "job.html",
        asked,
        here="jobs",
        detail=detail,
        job=detail.job,
        instance=instance,
        header=coded(instance),
        findings=[(one, _reach(one)) for one in findings],
        has_film=files.preview_key is not None,
        has_maps=files.saliency_key is not None,
        steps=steps_of(detail),
        hindrances=hindrances(console, detail),
        looks=_looks(detail.events),
        rejections=acts.REJECTIONS,
        models=list(console.config.models),
        feedback=feedback.of_job(console.database, detail.job.id),
        others=[one for one in instance.jobs if one != detail.job.id],
    )


#: What of the routing header names nobody: codes and numbers (as `cxrnode instances show`).
_CODED = frozenset(
    (
        *("modality", "presentation_intent", "image_type", "photometric", "rows", "columns", "bits_stored", "samples"),
        *("frames", "region_codes", "view_codes", "view_modifier_codes", "patient_orientation", "manufacturer"),
        *("model_name", "age_years", "own_output"),
    )
)


def coded(film: InstanceRow) -> dict[str, Any]:
    """What the header says in codes and numbers: its free text may name the patient."""
    return {key: value for key, value in film.header.items() if key in _CODED and value not in ("", [], None)}


def _reach(finding: Finding) -> float | None:
    return None if finding.thresholds is None else reach(finding.score, finding.thresholds)


def identity(console: Console, asked: Asked) -> Response:
    """Whose film it is, for a reason that is written down before it is shown."""
    detail = detail_of(console, asked.number("id"))
    why = asked.fields.get("reason", "").strip()
    if not why:
        raise Rejected("say why you want to know whose film it is")
    seen = reveal(console.database, [detail.job.instance_id], by=asked.who.name, why=why)
    return console.page("identity.html", asked, seen=seen.get(detail.job.instance_id))


def act(console: Console, asked: Asked) -> Response:
    """Do something about this job."""
    job_id = asked.number("id")
    deed = acts.Deed(
        act=asked.fields.get("act", ""),
        reason=asked.fields.get("reason", ""),
        by=asked.who.name,
        rejection=asked.fields.get("rejection", ""),
        model=asked.fields.get("model", ""),
    )
    done = acts.perform(console, deed, [job_id])
    if not done[0].ok:
        raise Rejected(done[0].detail)
    return RedirectResponse(f"/jobs/{job_id}", 303)


def film(console: Console, asked: Asked) -> Response:
    """The preview that `infer` spooled."""
    files = _files(console, asked)
    return _picture(asked, files.preview(console.spool), "image/jpeg")


def film_with_map(console: Console, asked: Asked) -> Response:
    """The preview with the map of one finding, by its channel."""
    files = _files(console, asked)
    detail = detail_of(console, asked.number("id"))
    findings = detail.report.findings if detail.report else ()
    finding = next((one for one in findings if one.index == asked.number("index")), None)
    if finding is None:
        raise NotFound("the report has no such finding")
    shown = pictures.map_of(files.saliency(console.spool), finding)
    return _picture(asked, pictures.with_map(files.preview(console.spool), shown), "image/jpeg")


def _files(console: Console, asked: Asked) -> JobFiles:
    job_id = asked.number("id")
    files = job_files(console.database, job_id)
    console.looked(asked, job_id, files.instance_id, how="console")
    return files


def _picture(asked: Asked, content: bytes, kind: str) -> Response:
    """A picture, kept by the browser of this session alone for as long as nobody changes it."""
    tag = f'"{hashlib.sha256(content).hexdigest()[:24]}"'
    headers = {"Cache-Control": "private, max-age=600", "ETag": tag}
    if asked.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(content, 200, headers, kind)


def output(console: Console, asked: Asked) -> Response:
    """An output: a report as a tree, a capture as PNG, or the object itself."""
    job_id, output_id = asked.number("id"), asked.number("output")
    file: OutputFile = output_file(console.database, job_id, output_id)
    console.looked(asked, job_id, file.instance_id, how="console")
    data = console.spool.read(file.spool_key, digest=file.digest)
    name = f"job-{job_id}-{file.kind}-{file.instance_number}"
    match asked.parameters["form"]:
        case "png":
            headers = {"Content-Disposition": f'inline; filename="{name}.png"', "Cache-Control": "private, max-age=600"}
            return Response(pictures.capture_png(data), 200, headers, "image/png")
        case "tree":
            return console.page("tree.html", asked, here="jobs", item=documents.tree(data), job_id=job_id, file=file)
        case "dcm":
            headers = {"Content-Disposition": f'attachment; filename="{name}.dcm"', "Cache-Control": "no-store"}
            return Response(data, 200, headers, "application/dicom")
        case _:
            raise NotFound("an output is had as png, tree or dcm")


VIEWS = (
    View(path="/jobs/{id}", page=page),
    View(path="/jobs/{id}/identity", page=identity, method="POST"),
    View(path="/jobs/{id}/act", page=act, method="POST", role=Role.OPERATOR),
    View(path="/jobs/{id}/film.jpg", page=film),
    View(path="/jobs/{id}/map/{index}.jpg", page=film_with_map),
    View(path="/jobs/{id}/outputs/{output}.{form}", page=output),
)
