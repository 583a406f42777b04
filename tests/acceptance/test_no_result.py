"""Why has this film no result? An administrator who has a browser alone finds out, for every cause, and mends it.

Each test makes the cause, looks for the patient in the console, reads what it says, and does what it says. What is
mended outside the console (a PACS, a file, the configuration) is done as the page tells; the result then arrives.
"""

from __future__ import annotations

import random
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
import sqlalchemy as sa
from playwright.sync_api import Browser, Page, expect
from pydicom.uid import generate_uid

from cxrnode.reading.bundle import SHIPPED, WEIGHTS
from cxrnode.spool import FolderSpool
from cxrnode.store import accounts, circuits
from cxrnode.store.schema import delivery, identity, instance, job
from cxrnode.web.passwords import hashed
from tests.acceptance.browser import PASSWORD, Window, chromium
from tests.acceptance.site import Site
from tests.peers import RecordingScp, wait_until

#: A second room, whose films another model reads; its bundle is damaged.
_ICU = """
[nodes.ICU]
aet = "ICU"
host = "127.0.0.1"
port = 104
can_send = true

[nodes.WARD]
aet = "WARD"
host = "127.0.0.1"
port = 104
can_send = true

[models.second]
bundle = "second"

[[rules]]
name = "intensive care"
when = { calling_aet = "ICU" }
unsure = "read"
models = ["second"]
outputs = ["sr"]
send_to = ["PACS"]
"""


@pytest.fixture(scope="module")
def archive() -> Iterator[RecordingScp]:
    made = RecordingScp()
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def site(archive: RecordingScp) -> Iterator[Site]:
    """A node that reads what MODALITY sends by one model, what ICU sends by another, and what WARD sends not at all."""
    with tempfile.TemporaryDirectory() as folder:
        made = Site(Path(folder), pacs=(archive.aet, archive.port), web=True)
        text = made.config.read_text()
        assert 'name = "films"\n' in text
        text = text.replace('name = "films"\n', 'name = "films"\nwhen = { calling_aet = "MODALITY" }\n')
        made.config.write_text(text.replace("[reading]", f"{_ICU}\n[reading]", 1))
        second = made.data_dir / "models" / "second"
        shutil.copytree(SHIPPED / "demo", second)
        damaged = bytearray((second / WEIGHTS).read_bytes())
        damaged[-1] ^= 1
        (second / WEIGHTS).write_bytes(damaged)
        try:
            start(made)
            accounts.add(made.database, "anna", "admin", hashed(PASSWORD), by="test")
            yield made
        finally:
            made.stop()
            made.database.close()


def start(site: Site) -> None:
    """Serve, until films are taken and read and the console answers."""
    before = site.log.stat().st_size if site.log.exists() else 0
    site.start()

    def ready() -> set[str]:
        return {one["role"] for one in site.logged("role_ready", since=before)}

    wait_until(lambda: {"receive", "infer", "web"} <= ready(), seconds=120, what="all roles")


@pytest.fixture(scope="module")
def anna(site: Site) -> Iterator[Window]:
    with chromium() as browser:
        yield _window(site, browser)


def _window(site: Site, browser: Browser) -> Window:
    window = Window(browser, f"http://127.0.0.1:{site.web}")
    expect(window.login("anna").get_by_role("heading", name="CXRNODE")).to_be_visible()
    return window


class Films:
    """A real chest radiograph again and again, each time of another patient and with another corner."""

    def __init__(self, film: Path, folder: Path) -> None:
        self._film, self._folder, self._count = film, folder, 0

    def make(self, patient: str, *, same_pixels: bool = False, noise: bool = False, age: str = "050Y") -> Path:
        """A film of this patient; with `same_pixels` those of the one before, as another instance."""
        ds: Any = pydicom.dcmread(self._film)
        self._count += not same_pixels
        pixels = bytearray(random.Random(1).randbytes(len(ds.PixelData)) if noise else ds.PixelData)
        pixels[:2] = self._count.to_bytes(2, "little")
        ds.PixelData = bytes(pixels)
        ds.PatientID, ds.AccessionNumber = patient, f"ACC-{self._count}"
        ds.PatientAge = age
        ds.StudyInstanceUID = f"1.2.826.0.1.3680043.10.1.77.{self._count}"
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        path = self._folder / f"{ds.SOPInstanceUID}.dcm"
        ds.save_as(path)
        return path


@pytest.fixture(scope="module")
def films(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Films:
    return Films(data_dir / "dicom" / "chest" / "nih_00000002_000.dcm", tmp_path_factory.mktemp("films"))


def job_of(site: Site, patient: str, *, of: int = 1) -> int:
    """The newest job of a patient, once there are so many."""
    chosen = sa.select(job.c.id).join(identity, identity.c.instance_id == job.c.instance_id)
    chosen = chosen.where(identity.c.patient_id == patient).order_by(job.c.id.desc())
    wait_until(lambda: len(site.rows(chosen)) == of, seconds=30, what="the job")
    return int(site.rows(chosen)[0].id)


def wait_for(site: Site, job_id: int, state: str, seconds: float = 120) -> None:
    chosen = sa.select(job.c.state).where(job.c.id == job_id)
    wait_until(lambda: site.rows(chosen)[0].state == state, seconds=seconds, what=f"job {job_id} {state}")


def find(anna: Window, patient: str, *, nth: int = 0) -> Page:
    """Look for the patient, as somebody does whom the ward has called, and open the newest job."""
    page = anna.open("/jobs")
    page.get_by_label("Patient ID").fill(patient)
    page.get_by_role("button", name="Whose film").click()
    expect(page.locator("tbody tr").first).to_contain_text(patient)
    page.locator("tbody tr a").nth(nth).click()
    expect(page.get_by_label("Verdict")).to_be_visible()
    return page


def change(page: Page, row: str, button: str, why: str) -> None:
    """Press a button of the page of the models, and say why."""
    page.get_by_role("row").filter(has_text=row).get_by_role("button", name=button).click()
    page.locator("#change").get_by_label("Why").fill(why)
    page.locator("#change").get_by_role("button", name="Do it").click()
    expect(page.get_by_role("row").filter(has_text=why).first).to_be_visible()
    time.sleep(1.5)  # the page says so: in force within a second


def act(page: Page, button: str, why: str) -> None:
    """Press a button of the job's page, and say why."""
    page.get_by_role("button", name=button).click()
    page.locator("#deed").get_by_label("Why").fill(why)
    page.locator("#deed").get_by_role("button", name="Do it").click()


def expect_sent(site: Site, anna: Window, job_id: int) -> None:
    """The result is in the archive, and the page says so."""
    wait_for(site, job_id, "delivered")
    page = anna.open(f"/jobs/{job_id}")
    expect(page.get_by_label("Verdict")).to_contain_text("Analysed.")
    expect(page.locator(".timeline")).to_contain_text("delivery sent")


def test_reading_is_paused(site: Site, anna: Window, films: Films) -> None:
    change(anna.open("/models"), "Reading", "Pause", "a disk is replaced")
    assert site.storescu(films.make("PID-PAUSED"))
    number = job_of(site, "PID-PAUSED")
    page = find(anna, "PID-PAUSED")
    expect(page.get_by_label("Verdict")).to_contain_text("Reading is paused by anna: a disk is replaced")
    anna.shot("why-paused")
    page.get_by_role("link", name="Go there").click()
    change(page, "Reading", "Resume", "the disk is back")
    expect_sent(site, anna, number)


def test_sending_is_paused(site: Site, anna: Window, films: Films) -> None:
    change(anna.open("/models"), "Sending", "Pause", "the archive is moved")
    assert site.storescu(films.make("PID-HELD-BACK"))
    number = job_of(site, "PID-HELD-BACK")
    wait_for(site, number, "reported")
    page = find(anna, "PID-HELD-BACK")
    expect(page.get_by_label("Verdict")).to_contain_text("Sending is paused.")
    page.get_by_role("link", name="Go there").click()
    change(page, "Sending", "Resume", "it is there")
    expect_sent(site, anna, number)


def test_its_model_is_disabled(site: Site, anna: Window, films: Films) -> None:
    change(anna.open("/models"), "bundle demo", "Disable", "strange results")
    assert site.storescu(films.make("PID-DISABLED"))
    number = job_of(site, "PID-DISABLED")
    page = find(anna, "PID-DISABLED")
    expect(page.get_by_label("Verdict")).to_contain_text("The model chest is disabled.")
    page.get_by_role("link", name="Go there").click()
    change(page, "bundle demo", "Activate", "looked at")
    expect_sent(site, anna, number)


def test_its_file_is_gone_and_it_was_parked(site: Site, anna: Window, films: Films) -> None:
    change(anna.open("/models"), "Reading", "Pause", "to make the cause")
    assert site.storescu(films.make("PID-PARKED"))
    number = job_of(site, "PID-PARKED")
    key = site.rows(
        sa.select(instance.c.spool_key).join(job, job.c.instance_id == instance.c.id).where(job.c.id == number)
    )[0][0]
    file, kept = FolderSpool(site.data_dir / "spool").path(key), site.folder / "kept.dcm"
    shutil.move(file, kept)
    change(anna.open("/models"), "Reading", "Resume", "to make the cause")
    wait_for(site, number, "failed")
    page = anna.open("/")
    expect(page.get_by_label("What wants a person")).to_contain_text("failed in 30 days")
    page = find(anna, "PID-PARKED")
    expect(page.get_by_label("Verdict")).to_contain_text("the spool has no file")
    shutil.move(kept, file)
    act(page, "Read again", "the file was brought back")
    expect_sent(site, anna, number)


def test_the_archive_is_down(site: Site, anna: Window, films: Films, archive: RecordingScp) -> None:
    archive.stop()
    assert site.storescu(films.make("PID-PACS-DOWN"))
    number = job_of(site, "PID-PACS-DOWN")
    wait_until(lambda: bool(circuits.down(site.database)), seconds=60, what="the circuit to open")
    page = anna.open("/")
    expect(page.get_by_label("What wants a person")).to_contain_text("PACS is down")
    page = find(anna, "PID-PACS-DOWN")
    expect(page.get_by_label("Verdict")).to_contain_text("Nothing is lost: it is tried again and again")
    anna.shot("why-down")
    archive.start()
    expect_sent(site, anna, number)


def test_the_archive_refuses_an_object(site: Site, anna: Window, films: Films, archive: RecordingScp) -> None:
    archive.answer = lambda number, uid: 0xA900
    assert site.storescu(films.make("PID-REFUSED"))
    number = job_of(site, "PID-REFUSED")
    wait_for(site, number, "failed")
    archive.answer = lambda number, uid: 0x0000
    page = find(anna, "PID-REFUSED")
    expect(page.get_by_label("Verdict")).to_contain_text("It failed.")
    expect(page.get_by_role("row").filter(has_text="PACS")).to_contain_text("0xA900")
    act(page, "Send again", "the archive's list of SOP classes was mended")
    expect_sent(site, anna, number)


@pytest.mark.parametrize(
    ("patient", "noise", "age", "expected"),
    [
        ("PID-NOISE", True, "050Y", "does not look like those the model was made for"),
        ("PID-CHILD", False, "003Y", "outside the model's intended use"),
    ],
)
def test_the_model_was_not_made_for_it(
    site: Site, anna: Window, films: Films, patient: str, noise: bool, age: str, expected: str
) -> None:
    """There is nothing to mend, and the page says so, and what the archive was told."""
    assert site.storescu(films.make(patient, noise=noise, age=age))
    number = job_of(site, patient)
    wait_for(site, number, "delivered")
    page = find(anna, patient)
    expect(page.get_by_label("Verdict")).to_contain_text("Not analysed.")
    expect(page.get_by_label("Verdict")).to_contain_text(expected)
    expect(page.get_by_label("Verdict")).to_contain_text("The archive was told that it is not analysed")
    anna.shot(f"why-{patient[4:].lower()}")


def test_it_came_before_and_has_its_result_there(site: Site, anna: Window, films: Films) -> None:
    assert site.storescu(films.make("PID-TWICE"))
    first = job_of(site, "PID-TWICE")
    wait_for(site, first, "delivered")
    assert site.storescu(films.make("PID-TWICE", same_pixels=True))
    second = job_of(site, "PID-TWICE", of=2)
    chosen = sa.select(job.c.outcome).where(job.c.id == second)
    wait_until(lambda: site.rows(chosen)[0].outcome == "duplicate", seconds=60, what="the duplicate")
    page = find(anna, "PID-TWICE")
    expect(page.get_by_label("Verdict")).to_contain_text(f"was read before, as job {first}")
    page.get_by_role("link", name="Go there").click()
    expect(page.get_by_label("Verdict")).to_contain_text("Analysed.")


def test_it_came_under_two_identities(site: Site, anna: Window, films: Films) -> None:
    change(anna.open("/models"), "Sending", "Pause", "to make the cause")
    assert site.storescu(films.make("PID-WRONG-ONE"))
    wrong = job_of(site, "PID-WRONG-ONE")
    wait_for(site, wrong, "reported")
    assert site.storescu(films.make("PID-RIGHT-ONE", same_pixels=True))
    right = job_of(site, "PID-RIGHT-ONE")
    wait_for(site, right, "reported")
    change(anna.open("/models"), "Sending", "Resume", "to make the cause")
    expect(anna.open("/").get_by_label("What wants a person")).to_contain_text("came under two identities")
    page = find(anna, "PID-RIGHT-ONE")
    expect(page.get_by_label("Verdict")).to_contain_text("The same film came under another identity")
    act(page, "This identity is right", "the modality was asked")
    expect_sent(site, anna, right)
    held = sa.select(delivery.c.state).where(delivery.c.job_id == wrong, delivery.c.act == "report")
    assert [row.state for row in site.rows(held)] == ["cancelled"]


def test_what_the_configuration_and_the_disk_forbade_is_mended_as_the_pages_say_with_one_restart(
    site: Site, anna: Window, films: Films
) -> None:
    """A sender whom no rule names, one who is not let in at all, and one whose model's bundle is damaged."""
    ignored, refused, unread = films.make("PID-IGNORED"), films.make("PID-REJECTED"), films.make("PID-UNREAD")
    assert site.storescu(ignored, "-aet", "WARD")
    assert not site.storescu(refused, "-aet", "NEWROOM")
    assert site.storescu(unread, "-aet", "ICU")

    # No rule wanted it: there is no job; the page of the films has it, and says which rules there are.
    page = anna.open("/jobs")
    page.get_by_label("Patient ID").fill("PID-IGNORED")
    page.get_by_role("button", name="Whose film").click()
    page.locator("main").get_by_role("link", name="Films", exact=True).click()
    page.get_by_label("Patient ID").fill("PID-IGNORED")
    page.get_by_role("button", name="Whose film").click()
    page.locator("tbody tr a").first.click()
    verdict = page.get_by_label("Verdict")
    expect(verdict).to_contain_text("Ignored. no rule")
    expect(verdict).to_contain_text("change [[rules]] of the configuration and restart")
    expect(verdict.locator(".rules")).to_contain_text("intensive care")
    anna.shot("why-ignored")

    # It never came: its sender was refused, and the lines are there to be copied.
    page = anna.open("/")
    page.get_by_role("listitem").filter(has_text="refused in the last hour").get_by_role("link").click()
    row = page.get_by_role("row").filter(has_text="NEWROOM")
    expect(row).to_contain_text("no node has this AE title")
    lines = row.locator("pre").inner_text()

    # Its model is not there: the bundle's file is named.
    page = find(anna, "PID-UNREAD")
    expect(page.get_by_label("Verdict")).to_contain_text("The model second could not be loaded by")
    expect(page.get_by_label("Verdict")).to_contain_text(WEIGHTS)
    expect(anna.open("/").get_by_label("What wants a person")).to_contain_text("model second could not be loaded")
    anna.shot("why-not-loaded")

    number = job_of(site, "PID-UNREAD")
    text = site.config.read_text() + f"\n{lines}\n"
    text = text.replace(
        'when = { calling_aet = "MODALITY" }', 'when = { calling_aet = ["MODALITY", "WARD", "NEWROOM"] }'
    )
    site.config.write_text(text)
    shutil.copyfile(SHIPPED / "demo" / WEIGHTS, site.data_dir / "models" / "second" / WEIGHTS)
    assert site.stop() == 0
    start(site)
    assert site.storescu(refused, "-aet", "NEWROOM")
    assert site.storescu(ignored, "-aet", "WARD")
    for patient in ("PID-REJECTED", "PID-IGNORED", "PID-UNREAD"):
        expect_sent(site, anna, job_of(site, patient))
    assert number == job_of(site, "PID-UNREAD")
    expect(anna.open("/").locator("main")).not_to_contain_text(re.compile("model second could not be loaded"))
    site.check_audit()
    assert anna.complaints == []
