"""A device of the emergency room is replaced, and its films look otherwise: QA sees it in the browser, by finding.

The history is made up (benchmarks.history); what the page says is computed here once more, from the findings.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from playwright.sync_api import expect

from benchmarks.console import visiting
from benchmarks.history import Size, build
from benchmarks.population import DRIFT_LABEL, DRIFTING, Change
from cxrnode.core.quality import PSI_LIMIT, SCORE_BINS, score_bin
from cxrnode.store import accounts
from cxrnode.store.database import Database
from cxrnode.store.schema import finding, job
from cxrnode.web.passwords import hashed
from cxrnode.web.words import title
from tests.acceptance.browser import PASSWORD, Window, chromium

DAY = 86400


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """Three thousand jobs of forty days; in the last seven Effusion is scored higher on the films of one sender."""
    database = Database(f"sqlite+pysqlite:///{tmp_path_factory.mktemp('history') / 'history.sqlite'}")
    change = Change(days=7.0, odds=4.0)
    build(database, Size(jobs=3000, events=30_000, waiting=0, days=40, change=change))
    accounts.add(database, "quinn", "viewer", hashed(PASSWORD), by="test")
    yield database
    database.close()


def stability(database: Database, label: str) -> float:
    """The PSI of a finding's scores, the last seven days against the 23 before, from the findings themselves.

    Half a film is added to each bin, as core.quality.psi says.
    """
    with database.read() as transaction:
        today = int(transaction.now // DAY)
        rows = transaction.rows(
            sa.select(job.c.created_at, finding.c.score)
            .join(finding, finding.c.job_id == job.c.id)
            .where(finding.c.label == label, job.c.model == "chest", job.c.outcome == "analysed")
        )
    sides: tuple[Counter[int], Counter[int]] = (Counter(), Counter())
    for row in rows:
        age = today - int(row.created_at // DAY)
        if age < 30:
            sides[age < 7][score_bin(row.score)] += 1
    before, after = ([(side[n] + 0.5) / (side.total() + 0.5 * SCORE_BINS) for n in range(SCORE_BINS)] for side in sides)
    return sum((b - a) * math.log(b / a) for a, b in zip(before, after, strict=True))


def test_the_finding_whose_scores_moved_is_shifted_on_the_page_and_no_other_is(history: Database) -> None:
    with visiting(history, http=True) as (client, _), chromium() as browser:
        window = Window(browser, str(client.base_url).rstrip("/"))
        window.login("quinn")
        page = window.open(f"/qa?model=chest&days=30&finding={DRIFT_LABEL}&by=aet")
        table = page.locator("section").filter(has=page.get_by_role("heading", name="Drift of the scores"))
        row = table.get_by_role("row").filter(has_text=title(DRIFT_LABEL))
        expect(row.locator(".pill")).to_have_text("shifted")
        assert table.locator(".pill", has_text="shifted").count() == 1
        assert table.locator(".pill", has_text="steady").count() > 5
        psi = float(row.locator("td").nth(2).inner_text())
        assert psi > PSI_LIMIT and psi == pytest.approx(stability(history, DRIFT_LABEL), abs=0.0006)
        groups = page.locator("section").filter(has=page.get_by_role("heading", name=re.compile("by sender")))
        expect(groups).to_contain_text(DRIFTING)
        window.shot("drift")
        assert window.barriers() == [] and window.complaints == []
        window.page.set_viewport_size({"width": 390, "height": 844})
        assert window.sideways() <= 0
        answer = client.get("/api/v1/quality?model=chest&days=30").json()
    moved = {one["label"]: one for one in answer["drift"]}
    assert [label for label, one in moved.items() if one["shifted"]] == [DRIFT_LABEL]
    assert moved[DRIFT_LABEL]["psi"] == pytest.approx(psi, abs=0.001)
    assert moved[DRIFT_LABEL]["ks"] > moved[DRIFT_LABEL]["ks_limit"]
