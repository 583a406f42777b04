"""What people do to jobs from the console and its API: the store's own deeds, one job after the other.

What is refused for one job stops no other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from cxrnode.errors import Rejected
from cxrnode.rousing import rouse
from cxrnode.store import disputes, jobs, resend, withdrawals
from cxrnode.store.details import job_detail
from cxrnode.store.jobs import Reader
from cxrnode.store.withdrawals import Cause
from cxrnode.web.console import Console

#: Jobs that one request may act on.
MOST = 500
REJECTIONS: Mapping[str, str] = {
    "quality": "rejected for quality reasons",
    "patient-safety": "rejected for patient safety reasons",
    "worklist": "the film is not this patient's, or not of this order",
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Deed:
    """What is to be done: `act` is retry, resend, withdraw, decide or all_right; `rejection` is of a withdrawal."""

    act: str
    reason: str
    by: str
    rejection: str = ""
    model: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What became of one job."""

    job_id: int
    ok: bool
    detail: str


def require(deed: Deed) -> None:
    """Refuse a deed without a reason or of no known kind. Raises Rejected."""
    if deed.act not in _ACTS:
        raise Rejected(f"{deed.act!r} is nothing that can be done to a job")
    if not deed.reason.strip():
        raise Rejected("say why: the reason stands in the audit trail")
    if deed.act == "withdraw" and deed.rejection not in REJECTIONS:
        raise Rejected(f"a withdrawal is for {', '.join(REJECTIONS)}")


def perform(console: Console, deed: Deed, job_ids: Sequence[int]) -> list[Done]:
    """Do it for each job. Raises Rejected as `require` does, and for too many jobs."""
    require(deed)
    act = _ACTS[deed.act]
    if not job_ids:
        raise Rejected("no job is chosen")
    if len(job_ids) > MOST:
        raise Rejected(f"at most {MOST} jobs at a time")
    done = []
    for job_id in dict.fromkeys(job_ids):
        try:
            done.append(Done(job_id=job_id, ok=True, detail=act(console, job_id, deed)))
        except Rejected as refusal:
            done.append(Done(job_id=job_id, ok=False, detail=str(refusal)))
    rouse(console.config.node.data_dir, console.database, "infer", "send")
    return done


def _retry(console: Console, job_id: int, deed: Deed) -> str:
    name = deed.model or job_detail(console.database, job_id).job.model
    configured = console.config.modes
    if deed.model and deed.model not in configured:
        raise Rejected(f"the configuration has no model {deed.model!r}; it has {', '.join(configured)}")
    reader = None
    if name in configured:
        mode = console.in_force().mode(name, configured[name])
        if mode == "disabled":
            raise Rejected(f"the model {name} is disabled; activate it first")
        reader = Reader(model=name, mode=mode)
    new = jobs.retry(console.database, job_id, reason=deed.reason, by=deed.by, reader=reader)
    return f"queued as job {new}"


def _resend(console: Console, job_id: int, deed: Deed) -> str:
    return f"deliveries to send: {resend.resend(console.database, job_id, reason=deed.reason, by=deed.by)}"


def _withdraw(console: Console, job_id: int, deed: Deed) -> str:
    done = withdrawals.withdraw(console.database, job_id, Cause(rejection=deed.rejection, note=deed.reason, by=deed.by))
    return f"withdrawn; deliveries cancelled: {done.cancelled}, destinations to be told: {done.ordered}"


def _decide(console: Console, job_id: int, deed: Deed) -> str:
    made = disputes.decide(console.database, job_id, reason=deed.reason, by=deed.by, all_right=deed.act == "all_right")
    withdrawn = ", ".join(map(str, made.withdrawn)) or "none"
    return f"deliveries released: {made.released}, jobs withdrawn: {withdrawn}"


_ACTS: Mapping[str, Callable[[Console, int, Deed], str]] = {
    "retry": _retry,
    "resend": _resend,
    "withdraw": _withdraw,
    "decide": _decide,
    "all_right": _decide,
}
