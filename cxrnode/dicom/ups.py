"""Working off a worklist over the web: UPS-RS (PS3.18 chapter 11, PS3.4 annex CC), as its performer.

A workitem names films to be read. It is claimed with a Transaction UID of ours, which from then on is the key to it:
progress is told under it, and at the end what was made, or why nothing was. Payloads are DICOM JSON (PS3.18 annex F).
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from urllib.parse import quote, urlencode

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.uid import UID

from cxrnode.core.findings import Concept
from cxrnode.dicom.destination import Place
from cxrnode.dicom.header import PARSE_FAULTS
from cxrnode.errors import ConfigError, Transient
from cxrnode.https import Answer, HttpClient

_JSON = "application/dicom+json"
_LARGEST = 16 << 20
#: What a server says when it cannot answer now, though the request is good.
_PASSING = frozenset({401, 403, 407, 408, 425, 429, 500, 502, 503, 504})
#: Instances that one workitem may name: a study has a handful of films, and a series of a thousand slices is none.
MOST_INPUTS = 200

#: Why a workitem is given up (PS3.16 CID 9300, 9301 and 9305).
OBJECTS_MISSING = Concept(value="110523", scheme="DCM", meaning="Object Set incomplete")
OBJECTS_NOT_SUPPORTED = Concept(value="110522", scheme="DCM", meaning="Object Types not supported")
UNSPECIFIED = Concept(value="110513", scheme="DCM", meaning="Discontinued for unspecified reason")
#: What was done where the workitem does not say what is to be done (PS3.16 CID 9231).
DETECTION = Concept(value="110004", scheme="DCM", meaning="Computer Aided Detection")


class StepState(StrEnum):
    """Procedure Step State (0074,1000)."""

    SCHEDULED = "SCHEDULED"
    IN_PROGRESS = "IN PROGRESS"
    COMPLETED = "COMPLETED"
    CANCELED = "CANCELED"


class NotOurs(Exception):
    """Somebody else claimed the workitem, it is over, or it is no more."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Workitem:
    """One step of a worklist: the films that it names, and what kind of work it says it is.

    `inputs` is empty where it names no instance by its UIDs.
    """

    uid: str
    state: StepState
    inputs: tuple[Place, ...]
    kind: Concept | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """One object that was made: its place, its class, and where it can be had: AE titles and URLs of archives."""

    place: Place
    sop_class_uid: str
    ae_titles: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()


class Worklist:
    """One worklist of one server, as the node `ae_title` works it off."""

    def __init__(self, server: HttpClient, *, ae_title: str, match: Mapping[str, str]) -> None:
        """`match` maps keywords, dotted into sequences, to what scheduled workitems must say (PS3.18 8.3.4).

        Raises ConfigError for a keyword that there is not.
        """
        unknown = [key for key in match if not _known(key)]
        if unknown:
            raise ConfigError(f"worklists match: {unknown[0]!r} is no DICOM keyword, such as WorklistLabel; correct it")
        self._server = server
        self._ae_title = ae_title
        self._match = dict(match)
        #: Some servers want to be told who asks in the path (dcm4chee), where the standard has nothing there.
        self._requester_in_path = False

    def scheduled(self, *, limit: int) -> list[Workitem]:
        """Up to `limit` workitems that nobody has claimed. Raises Transient."""
        keys = {"ProcedureStepState": StepState.SCHEDULED, **self._match}
        query = [*keys.items(), ("includefield", "all"), ("limit", str(limit))]
        answer = self._server.ask(
            "GET", f"/workitems?{urlencode(query, quote_via=quote)}", headers={"Accept": _JSON}, largest=_LARGEST
        )
        if answer.status == 204:
            return []
        found = [_workitem(one) for one in self._listed(answer)]
        return [one for one in found if one.uid and one.state is StepState.SCHEDULED][:limit]

    def look(self, uid: str) -> Workitem:
        """One workitem as it is now. Raises NotOurs where there is none, Transient."""
        answer = self._server.ask("GET", f"/workitems/{in_path(uid)}", headers={"Accept": _JSON}, largest=_LARGEST)
        if answer.status in (404, 410):
            raise NotOurs
        found = self._listed(answer)
        if len(found) != 1:
            raise Transient(f"the worklist at {self._server.where} gave no workitem where one was asked for")
        return dataclasses.replace(_workitem(found[0]), uid=uid)

    def claim(self, uid: str, transaction_uid: str) -> None:
        """Take a workitem; under the same Transaction UID it may be taken again. Raises NotOurs, Transient."""
        answer = self._change(uid, transaction_uid, StepState.IN_PROGRESS)
        if answer.status in (200, 204):
            return
        if answer.status in (404, 410):
            raise NotOurs
        # It is in progress: with this key, if an earlier claim landed whose answer was lost, or with another's.
        self.tell(uid, transaction_uid, "claimed", percent=0)

    def tell(self, uid: str, transaction_uid: str, words: str, *, percent: int) -> None:
        """Say how far the work is. Raises NotOurs, Transient."""
        progress = Dataset()
        progress.ProcedureStepProgress = str(percent)
        progress.ProcedureStepProgressDescription = words[:1024]
        change = Dataset()
        change.ProcedureStepProgressInformationSequence = [progress]
        self._update(uid, transaction_uid, change)

    def complete(
        self, workitem: Workitem, transaction_uid: str, made: Sequence[Made], *, began: float, ended: float
    ) -> None:
        """Say what was made, times in seconds since 1970, and that the step is completed. Raises NotOurs, Transient."""
        done = Dataset()
        done.PerformedStationNameCodeSequence = [
            _coded(Concept(value=self._ae_title, scheme="99CXRNODE", meaning=self._ae_title))
        ]
        done.PerformedProcedureStepStartDateTime = _moment(began)
        done.PerformedProcedureStepEndDateTime = _moment(ended)
        done.PerformedWorkitemCodeSequence = [_coded(workitem.kind or DETECTION)]
        done.OutputInformationSequence = _output_information(made)
        change = Dataset()
        change.UnifiedProcedureStepPerformedProcedureSequence = [done]
        self._finish(workitem.uid, transaction_uid, change, StepState.COMPLETED)

    def cancel(self, uid: str, transaction_uid: str, why: Concept, words: str, *, at: float) -> None:
        """Give the step up, and say why. Raises NotOurs, Transient."""
        progress = Dataset()
        progress.ProcedureStepCancellationDateTime = _moment(at)
        progress.ReasonForCancellation = words[:10240]
        progress.ProcedureStepDiscontinuationReasonCodeSequence = [_coded(why)]
        change = Dataset()
        change.ProcedureStepProgressInformationSequence = [progress]
        self._finish(uid, transaction_uid, change, StepState.CANCELED)

    def _finish(self, uid: str, transaction_uid: str, change: Dataset, state: StepState) -> None:
        """Done before, of which the answer was lost, it is done."""
        with contextlib.suppress(NotOurs):
            self._update(uid, transaction_uid, change)
            if self._change(uid, transaction_uid, state).status in (200, 204):
                return
        if self.look(uid).state is not state:
            raise NotOurs

    def _update(self, uid: str, transaction_uid: str, change: Dataset) -> None:
        # The key stands in the query (PS3.18 11.6.1), and in the payload for servers that look there (PS3.4 CC.2.6).
        change.TransactionUID = UID(transaction_uid)
        answer = self._send("POST", f"/workitems/{in_path(uid)}?{in_path(transaction_uid)}", change)
        if answer.status not in (200, 204):
            raise NotOurs

    def _change(self, uid: str, transaction_uid: str, state: StepState) -> Answer:
        change = Dataset()
        change.TransactionUID = UID(transaction_uid)
        change.ProcedureStepState = str(state)
        path = f"/workitems/{in_path(uid)}/state"
        named = f"{path}/{in_path(self._ae_title)}"
        answer = self._send("PUT", named if self._requester_in_path else path, change)
        if answer.status == 405 or (answer.status == 404 and not self._requester_in_path):
            other = self._send("PUT", path if self._requester_in_path else named, change)
            if other.status not in (404, 405):
                self._requester_in_path = not self._requester_in_path
                return other
        return answer

    def _send(self, method: str, path: str, change: Dataset) -> Answer:
        body = json.dumps([change.to_json_dict()]).encode()
        headers = {"Accept": _JSON, "Content-Type": _JSON}
        answer = self._server.ask(method, path, body=body, headers=headers, largest=_LARGEST)
        if answer.status in _PASSING:
            raise Transient(f"the worklist at {self._server.where} does not take it now (HTTP {answer.status})")
        return answer

    def _listed(self, answer: Answer) -> list[Dataset]:
        try:
            said = json.loads(answer.body) if answer.status == 200 else None
            several = said if isinstance(said, list) else [said]
            return [Dataset.from_json(one) for one in several if isinstance(one, dict)]
        except (*PARSE_FAULTS, RecursionError):
            pass
        raise Transient(f"the worklist at {self._server.where} does not give a list (HTTP {answer.status})")


def _known(keyword: str) -> bool:
    """Whether a key of `match` names attributes that there are, dotted into sequences."""
    return all(tag_for_keyword(part) is not None for part in keyword.split("."))


def in_path(text: str) -> str:
    """Text as a segment of a URL's path."""
    return quote(text, safe="")


def _workitem(said: Dataset) -> Workitem:
    """What counts of a workitem; what cannot be read of it is as if it were not there."""
    inputs: list[Place] = []
    for series in _items(said, "InputInformationSequence"):
        for one in _items(series, "ReferencedSOPSequence"):
            uids = (
                text_of(series, "StudyInstanceUID"),
                text_of(series, "SeriesInstanceUID"),
                text_of(one, "ReferencedSOPInstanceUID"),
            )
            if all(UID(uid).is_valid for uid in uids) and len(inputs) < MOST_INPUTS:
                inputs.append(Place(study_instance_uid=uids[0], series_instance_uid=uids[1], sop_instance_uid=uids[2]))
    kinds = [
        Concept(
            value=text_of(one, "CodeValue"),
            scheme=text_of(one, "CodingSchemeDesignator"),
            meaning=text_of(one, "CodeMeaning"),
        )
        for one in _items(said, "ScheduledWorkitemCodeSequence")
    ]
    state = text_of(said, "ProcedureStepState")
    uid = text_of(said, "SOPInstanceUID")
    return Workitem(
        uid=uid if UID(uid).is_valid else "",
        state=StepState(state) if state in list(StepState) else StepState.CANCELED,
        inputs=tuple(dict.fromkeys(inputs)),
        kind=kinds[0] if kinds and kinds[0].value and kinds[0].scheme else None,
    )


def _items(said: Dataset, keyword: str) -> list[Dataset]:
    try:
        return list(said.get(keyword) or ())
    except PARSE_FAULTS:
        return []


def text_of(said: Dataset, keyword: str) -> str:
    """The value of an attribute as text; empty where it is not there, or cannot be read."""
    try:
        return str(said.get(keyword) or "").strip()
    except PARSE_FAULTS:
        return ""


def _output_information(made: Sequence[Made]) -> list[Dataset]:
    """The objects, an item a series (PS3.3 C.4.12, Output Information Sequence)."""
    several: dict[tuple[str, str], list[Made]] = {}
    for one in made:
        several.setdefault((one.place.study_instance_uid, one.place.series_instance_uid), []).append(one)
    items = []
    for (study, series), objects in several.items():
        item = Dataset()
        item.TypeOfInstances = "DICOM"
        item.StudyInstanceUID, item.SeriesInstanceUID = study, series
        item.ReferencedSOPSequence = [_referenced(one) for one in objects]
        if titles := list(dict.fromkeys(title for one in objects for title in one.ae_titles)):
            item.DICOMRetrievalSequence = [_with("RetrieveAETitle", title) for title in titles]
        if urls := list(dict.fromkeys(url for one in objects for url in one.urls)):
            item.WADORSRetrievalSequence = [
                _with("RetrieveURL", f"{url}/studies/{study}/series/{series}") for url in urls
            ]
        items.append(item)
    return items


def _referenced(one: Made) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = UID(one.sop_class_uid)
    item.ReferencedSOPInstanceUID = UID(one.place.sop_instance_uid)
    return item


def _with(keyword: str, value: str) -> Dataset:
    item = Dataset()
    setattr(item, keyword, value)
    return item


def _coded(concept: Concept) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator = concept.value, concept.scheme
    item.CodeMeaning = concept.meaning
    return item


def _moment(seconds: float) -> str:
    """A DT in UTC with its offset (PS3.5 6.2)."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y%m%d%H%M%S.%f+0000")
