"""What a reader thinks of a result: agree or disagree, on the page of a job. It never changes a result."""

from __future__ import annotations

from typing import Literal

from starlette.responses import RedirectResponse, Response

from cxrnode.errors import Rejected
from cxrnode.store.feedback import Given, Taken, give
from cxrnode.web.asked import Asked
from cxrnode.web.console import Console
from cxrnode.web.view import View

_VERDICTS: dict[str, Literal["", "agree", "disagree"]] = {"": "", "agree": "agree", "disagree": "disagree"}
_TRUTHS: dict[str, bool | None] = {"": None, "true": True, "false": False, "1": True, "0": False}


def taken(console: Console, asked: Asked, *, job_id: int | None) -> Taken:
    """Store what is said. Raises Rejected where it cannot be used."""
    verdict, truth = asked.fields.get("verdict", ""), asked.fields.get("truth", "").lower()
    if verdict not in _VERDICTS or truth not in _TRUTHS:
        raise Rejected("verdict is agree or disagree, and truth true or false")
    one = Given(
        label=asked.fields.get("finding", ""),
        by=asked.who.name,
        verdict=_VERDICTS[verdict],
        truth=_TRUTHS[truth],
        source=asked.fields.get("source", "")[:64],
        job_id=job_id,
        accession=asked.fields.get("accession", "") if job_id is None else "",
        sop_instance_uid=asked.fields.get("sop_instance_uid", "") if job_id is None else "",
    )
    done = give(console.database, [one])
    if done.refused:
        raise Rejected(done.refused[0][1])
    return done


def say(console: Console, asked: Asked) -> Response:
    """Agree or disagree with a finding of this job, or with the result as a whole."""
    job_id = asked.number("id")
    taken(console, asked, job_id=job_id)
    return RedirectResponse(f"/jobs/{job_id}", 303)


VIEWS = (View(path="/jobs/{id}/feedback", page=say, method="POST"),)
