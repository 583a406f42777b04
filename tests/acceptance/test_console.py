"""The console in a real browser, before a node that has read real films: what people do with it, page by page."""

from __future__ import annotations

import re
import shutil
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
import sqlalchemy as sa
from playwright.sync_api import Browser, expect

from cxrnode.phantom.dicom import write_phantoms
from cxrnode.spool import FolderSpool
from cxrnode.store import accounts, series
from cxrnode.store.schema import association, event, identity, instance, job
from cxrnode.web.passwords import hashed
from tests.acceptance.browser import PASSWORD, PHONE, WIDE, Window, chromium
from tests.acceptance.site import Site
from tests.peers import Dcmtk, RecordingScp, wait_until

PAGES = (
    "/",
    "/jobs",
    "/jobs/1",
    "/films",
    "/films/1",
    "/qa",
    "/associations",
    "/models",
    "/nodes",
    "/models/compare",
    "/alerts",
)


@pytest.fixture(scope="module")
def archive() -> Iterator[RecordingScp]:
    made = RecordingScp()
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def site(archive: RecordingScp, data_dir: Path) -> Iterator[Site]:
    """A node that has read the real chest films, by an active and a shadow model."""
    with tempfile.TemporaryDirectory() as folder:
        made = Site(Path(folder), pacs=(archive.aet, archive.port), shadow=True, web=True)
        made.start()
        try:
            password = hashed(PASSWORD)
            for name, role in (("vera", "viewer"), ("anna", "admin")):
                accounts.add(made.database, name, role, password, by="test")
            films = sorted((data_dir / "dicom" / "chest").glob("*.dcm"))
            Dcmtk(Path(folder)).send(made.port, *films, calling="MODALITY", called="CXRNODE")
            made.wait_at_rest(600)
            yield made
        finally:
            made.stop()
            made.database.close()


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """Three drawn films, beside the real ones."""
    return write_phantoms(tmp_path_factory.mktemp("films"), range(3), rows=1024, cols=848)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture
def anna(site: Site, browser: Browser) -> Window:
    window = Window(browser, f"http://127.0.0.1:{site.web}")
    expect(window.login("anna").get_by_role("heading", name="CXRNODE")).to_be_visible()
    return window


def first_job(site: Site) -> int:
    """The first film that the active model analysed."""
    return int(
        site.rows(sa.select(job.c.id).where(job.c.mode == "active", job.c.outcome == "analysed").order_by(job.c.id))[0][
            0
        ]
    )


def test_somebody_without_the_password_is_refused_and_a_viewer_changes_nothing(site: Site, browser: Browser) -> None:
    window = Window(browser, f"http://127.0.0.1:{site.web}")
    page = window.login("anna", "not the password")
    expect(page.get_by_role("alert")).to_contain_text("do not belong together")
    page = window.open("/jobs/1")
    expect(page).to_have_url(re.compile("/login"))
    page = window.login("vera")
    expect(page.get_by_text("Waiting to be read")).to_be_visible()
    assert page.get_by_role("button", name="Emergency stop").count() == 0
    page = window.open(f"/jobs/{first_job(site)}")
    assert page.get_by_role("button", name="Withdraw").count() == 0
    window.open("/models")
    assert page.get_by_role("button", name="Disable").count() == 0


def test_the_overview_says_what_to_type_and_how_the_node_does(site: Site, anna: Window) -> None:
    page = anna.page
    expect(page.locator(".typed")).to_contain_text(str(site.port))
    expect(page.get_by_role("row").filter(has_text="PACS")).to_contain_text("up")
    expect(page.get_by_role("img", name="Films received")).to_be_visible()
    expect(page.get_by_text("Demonstration model: not for patients").first).to_be_visible()
    anna.shot("overview")


def test_a_film_is_found_by_its_accession_number_which_stands_in_no_address(
    site: Site, anna: Window, data_dir: Path
) -> None:
    rows = site.rows(sa.select(identity.c.accession, identity.c.instance_id).where(identity.c.accession != ""))
    patients = site.rows(sa.select(identity.c.patient_id, identity.c.instance_id).where(identity.c.patient_id != ""))
    (value, instance_id), label = (rows[0], "Accession number") if rows else (patients[0], "Patient ID")
    page = anna.open("/jobs")
    page.get_by_label(label).fill(value)
    page.get_by_role("button", name="Whose film").click()
    wanted = site.rows(sa.select(job.c.id).where(job.c.instance_id == instance_id))
    for row in wanted:
        expect(page.get_by_role("link", name=str(row[0]), exact=True)).to_be_visible()
    assert [url for url in anna.asked if value in url] == []
    assert site.rows(sa.select(sa.func.count()).where(event.c.name == "searched"))[0][0] >= 1
    page = anna.open("/jobs?state=delivered&finding=Effusion&least=0&model=chest")
    assert page.locator("tbody tr").count() == len(
        site.rows(sa.select(job.c.id).where(job.c.state == "delivered", job.c.outcome == "analysed"))
    )
    anna.shot("jobs")


def test_a_job_shows_its_film_with_the_map_of_a_finding_as_strongly_as_the_slider_says(
    site: Site, anna: Window
) -> None:
    job_id = first_job(site)
    page = anna.open(f"/jobs/{job_id}")
    film, over = page.locator("#film"), page.locator("#map")
    expect(film).to_be_visible()
    anna.wait_for_picture("film")
    second = page.locator("input[name=shown][data-map]").nth(1)
    second.check()
    anna.wait_for_picture("map")
    expect(over).to_have_attribute("src", str(second.get_attribute("data-map")))
    page.get_by_label("Map", exact=True).fill("40")
    expect(over).to_have_css("opacity", "0.4")
    page.get_by_label("Map", exact=True).press("ArrowRight")
    expect(over).to_have_css("opacity", "0.41")
    page.get_by_text("the film alone").click()
    expect(over).to_be_hidden()
    page.locator("input[name=shown][data-map]").first.check()
    expect(page.locator(".timeline")).to_contain_text("delivery sent")
    assert "-" not in page.locator(".step .after").all_inner_texts()
    anna.shot("job")
    page.get_by_role("link", name="Tree").click()
    expect(page.locator(".tree")).to_contain_text("Image Library")
    picture = page.request.get(page.url.replace(".tree", ".png").replace("/outputs/", "/outputs/"))
    assert picture.status == 409  # a report is no picture
    page.go_back()
    shown = page.request.get(anna.url + str(page.get_by_role("link", name="Picture").first.get_attribute("href")))
    assert shown.body().startswith(b"\x89PNG")
    looks = site.rows(sa.select(event.c.detail).where(event.c.name == "result_viewed"))
    assert any('"by":"anna"' in row[0] and '"why":"running the service"' in row[0] for row in looks)
    assert anna.complaints == []


def test_whose_film_it_is_is_shown_for_a_reason(site: Site, anna: Window) -> None:
    job_id = first_job(site)
    patient = site.rows(
        sa.select(identity.c.patient_id)
        .join(job, job.c.instance_id == identity.c.instance_id)
        .where(job.c.id == job_id)
    )[0][0]
    page = anna.open(f"/jobs/{job_id}")
    assert patient not in page.content()
    page.get_by_label("Why you want to know").fill("a call from the ward")
    page.get_by_role("button", name="Show").click()
    expect(page.locator("#whose")).to_contain_text(patient)
    assert any(
        "a call from the ward" in r[0]
        for r in site.rows(sa.select(event.c.detail).where(event.c.name == "identity_viewed"))
    )
    page.get_by_role("button", name="Disagree").click()
    expect(page.get_by_label("Feedback")).to_contain_text("anna disagrees")


def test_an_administrator_with_the_console_alone_finds_out_why_a_film_has_no_result_and_mends_it(
    site: Site, anna: Window, films: tuple[Path, ...]
) -> None:
    """The spool loses a film before it is read; the administrator sees why it failed, brings it back, and retries."""
    page = anna.open("/models")
    page.get_by_role("row").filter(has_text="Reading").get_by_role("button", name="Pause").click()
    page.locator("#change").get_by_label("Why").fill("a disk is replaced")
    page.locator("#change").get_by_role("button", name="Do it").click()
    expect(page.get_by_role("row").filter(has_text="Reading").first).to_contain_text("paused")
    assert site.storescu(films[0])
    number, key = site.rows(
        sa.select(job.c.id, instance.c.spool_key)
        .join(instance, instance.c.id == job.c.instance_id)
        .where(job.c.mode == "active")
        .order_by(job.c.id.desc())
        .limit(1)
    )[0]
    file = FolderSpool(site.data_dir / "spool").path(key)
    kept = site.folder / "kept.dcm"
    shutil.move(file, kept)
    page = anna.open("/models")
    page.get_by_role("row").filter(has_text="Reading").get_by_role("button", name="Resume").click()
    page.locator("#change").get_by_label("Why").fill("the disk is back")
    page.locator("#change").get_by_role("button", name="Do it").click()
    wait_until(
        lambda: site.rows(sa.select(job.c.state).where(job.c.id == number))[0][0] == "failed",
        seconds=120,
        what="the job to fail",
    )
    page = anna.open("/")
    expect(page.get_by_label("What wants a person")).to_contain_text("failed in 30 days")
    page = anna.open("/jobs?state=failed")
    page.get_by_role("link", name=str(number), exact=True).click()
    expect(page.get_by_label("Verdict")).to_contain_text("the spool has no file")
    shutil.move(kept, file)
    page.get_by_role("button", name="Read again").click()
    page.locator("#deed").get_by_label("Why").fill("the file was brought back")
    page.locator("#deed").get_by_role("button", name="Do it").click()
    site.wait_at_rest(180)
    page.reload()
    expect(page.locator(".timeline")).to_contain_text("retried")
    expect(page.get_by_label("Verdict")).to_contain_text("nalysed")
    assert site.rows(sa.select(job.c.state).where(job.c.id == number))[0][0] == "delivered"
    site.check_audit()


def test_a_model_is_changed_without_a_restart_and_all_is_stopped_at_once(
    site: Site, anna: Window, films: tuple[Path, ...]
) -> None:
    page = anna.open("/models")
    page.get_by_role("row").filter(has_text="candidate").get_by_role("link", name="Compare and activate").click()
    expect(page.get_by_role("heading", name="candidate beside chest")).to_be_visible()
    anna.shot("compare")
    anna.open("/")
    page.get_by_role("button", name="Emergency stop").click()
    page.locator("#stop").get_by_label("Why").fill("strange results")
    page.locator("#stop").get_by_role("button", name="Stop").click()
    expect(page.get_by_label("What wants a person")).to_contain_text("Reading is paused by anna: strange results")
    anna.shot("stopped")
    assert site.storescu(films[1])
    waiting = site.rows(sa.select(job.c.id, job.c.rules_digest).order_by(job.c.id.desc()).limit(2))
    assert all(len(row.rules_digest) == 64 for row in waiting)
    for queue in ("Reading", "Sending"):
        page = anna.open("/models")
        page.get_by_role("row").filter(has_text=queue).get_by_role("button", name="Resume").click()
        page.locator("#change").get_by_label("Why").fill("looked at")
        page.locator("#change").get_by_role("button", name="Do it").click()
    expect(page.get_by_role("button", name="Resume")).to_have_count(0)
    anna.shot("models")
    site.wait_at_rest(180)
    states = {row[0] for row in site.rows(sa.select(job.c.state).where(job.c.id.in_([w.id for w in waiting])))}
    assert states <= {"delivered", "reported"}


def test_the_drift_page_shows_what_was_counted(site: Site, anna: Window) -> None:
    wait_until(lambda: bool(series.models(site.database)), seconds=60, what="the first tallies")
    page = anna.open("/qa?model=chest")
    expect(page.get_by_role("heading", name="Drift of the scores")).to_be_visible()
    expect(page.get_by_role("row").filter(has_text="Effusion").first).to_be_visible()
    expect(page.get_by_role("row").filter(has_text="MODALITY").first).to_be_visible()
    anna.shot("qa")


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_no_page_has_a_serious_barrier_and_none_is_wider_than_its_window(
    site: Site, browser: Browser, size: tuple[int, int]
) -> None:
    window = Window(browser, f"http://127.0.0.1:{site.web}", size=size)
    window.open("/login")
    found = {"/login": window.barriers()}
    window.login("anna")
    for path in PAGES:
        window.open(path)
        found[path] = window.barriers()
        assert window.sideways() <= 0, path
        window.shot("look" + path.replace("/", "-"))
    window.page.evaluate("document.documentElement.dataset.theme = 'light'")
    found["light"] = window.barriers()
    assert {path: barriers for path, barriers in found.items() if barriers} == {}
    assert window.complaints == []


def test_every_page_is_reached_and_left_by_the_keyboard(site: Site, anna: Window) -> None:
    page = anna.open("/")
    page.keyboard.press("Tab")
    expect(page.get_by_text("To the content")).to_be_focused()
    seen = []
    for _ in range(12):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.textContent.trim()"))
    assert [
        name for name in ("Overview", "Jobs", "Films", "QA", "Associations", "Models", "Alerts") if name not in seen
    ] == []
    page.get_by_role("button", name="Emergency stop").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#stop")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#stop")).to_be_hidden()


def test_a_rejected_modality_is_admitted_by_the_lines_that_the_console_shows(
    site: Site, anna: Window, films: tuple[Path, ...]
) -> None:
    assert not site.storescu(films[2], "-aet", "NEWROOM")
    wait_until(
        lambda: bool(site.rows(sa.select(association.c.id).where(association.c.calling_aet == "NEWROOM"))),
        seconds=30,
        what="the refusal in the store",
    )
    page = anna.open("/associations?outcome=rejected")
    row = page.get_by_role("row").filter(has_text="NEWROOM")
    expect(row).to_contain_text("no node has this AE title")
    lines = row.locator("pre").inner_text()
    anna.shot("associations")
    text = site.config.read_text() + "\n" + lines + "\n"
    assert tomllib.loads(text)["nodes"]["NEWROOM"]["can_send"] is True
    site.config.write_text(text)
    assert site.stop() == 0
    before = site.log.stat().st_size
    site.start()
    assert site.storescu(films[2], "-aet", "NEWROOM")
    # Those that come after need the console, which starts beside the listener.
    wait_until(
        lambda: any(one["role"] == "web" for one in site.logged("role_ready", since=before)),
        seconds=60,
        what="the console",
    )
    assert pydicom.dcmread(films[2]).SOPInstanceUID in {
        row[0] for row in site.rows(sa.select(instance.c.sop_instance_uid).where(instance.c.calling_aet == "NEWROOM"))
    }


def test_no_metric_names_a_patient_a_film_or_a_study(site: Site, anna: Window) -> None:
    text = anna.page.request.get(f"{anna.url}/metrics").text()
    assert "cxrnode_jobs_queued" in text and "cxrnode_destination_up" in text
    columns = [c for c in identity.c if c.name not in ("instance_id", "sex", "header")]
    values = {str(value) for row in site.rows(sa.select(*columns)) for value in row if len(str(value or "")) > 3}
    values |= {row[0] for row in site.rows(sa.select(instance.c.sop_instance_uid))}
    assert len(values) > 20
    assert [value for value in values if value in text] == []
