"""`cxrnode demo`: the main job, seen happen. Films go to a node over DICOM; what comes back is shown.

Nothing here takes a short cut: the films are C-STOREd, the results are what the archive got.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pydicom
import sqlalchemy as sa
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from cxrnode.contact_sheet import Sheet, SheetFilm, SheetPicture, SheetRow, write_html, write_png
from cxrnode.core.findings import Decision, Outcome, Report, Scale
from cxrnode.core.lifecycle import JobState
from cxrnode.demo.archive import Archive, Archived
from cxrnode.demo.served import SENDER_AET, ServedNode
from cxrnode.dicom.sender import Destination, Sent, send_files
from cxrnode.dicom.statuses import StatusClass
from cxrnode.errors import Rejected
from cxrnode.phantom.dicom import write_phantoms
from cxrnode.store.database import Database
from cxrnode.store.schema import instance, job, output

BANNER = "Research software, not a medical device. DEMONSTRATION MODEL: not for diagnosis."
#: Columns where the answer goes into a pipe or file.
_PIPED = 320
_RESTING = {JobState.DELIVERED, JobState.FAILED, JobState.SUPERSEDED, JobState.WITHDRAWN}
_WORDS = {
    Decision.PRESENT: "[bold red]present[/]",
    Decision.UNDETERMINED: "[yellow]undetermined[/]",
    Decision.ABSENT: "[dim]absent[/]",
    Decision.NOT_ASSESSED: "[dim italic]not assessed[/]",
}


@dataclasses.dataclass(slots=True, kw_only=True)
class Shown:
    """One film of the demonstration, from its sending to its results. Times are of the monotonic clock."""

    path: Path
    sop_instance_uid: str
    answer: str = ""
    success_at: float | None = None
    verdict: str = ""
    state: str = ""
    outcome: str = ""
    reason: str = ""
    report: Report | None = None
    outputs: tuple[tuple[str, str, str], ...] = ()  # kind, label, SOP Instance UID
    objects: dict[str, Archived] = dataclasses.field(default_factory=dict)

    @property
    def rests(self) -> bool:
        """Whether nothing more will happen to it."""
        done = self.state in _RESTING or self.outcome == Outcome.DUPLICATE
        return self.success_at is None or self.verdict == "ignored" or done

    def seconds_to(self, kind: str) -> float | None:
        """From C-STORE Success to the last object of this kind in the archive, or None."""
        times = [self.objects[uid].at for k, _, uid in self.outputs if k == kind and uid in self.objects]
        return max(times) - self.success_at if times and self.success_at is not None else None


def console_of_stdout() -> Console:
    """As wide as its terminal; into a pipe or file so wide that lines stay lines."""
    return Console(width=None if sys.stdout.isatty() else _PIPED)


def run(files: Sequence[Path], *, folder: Path | None = None, console: Console | None = None) -> bool:
    """Show the main job with the user's films, or with phantoms; True where every film came to rest as it should.

    `folder` is made where it is missing and left behind: it holds everything that is shown. Raises Transient where
    the node cannot be started.
    """
    console = console or console_of_stdout()
    folder = folder or Path(tempfile.mkdtemp(prefix="cxrnode-demo-"))
    folder.mkdir(parents=True, exist_ok=True)
    console.print(f"[bold]cxrnode demo[/] - {BANNER}")
    began = time.monotonic()
    with Archive(folder / "archive") as archive, ServedNode(folder, archive_port=archive.port) as node:
        with console.status("starting the node"):
            listening = node.wait_ready("receive", 60)
        console.print(f"The node takes films after {listening:.1f} s on 127.0.0.1 port {node.port}, AE title CXRNODE.")
        if not files:
            with console.status("drawing phantoms: synthetic films, no patients"):
                files = write_phantoms(folder / "phantoms")
        with console.status("loading the model"):
            node.wait_ready("infer", 180)
        films = _send(files, node.port, console)
        database = Database(f"sqlite+pysqlite:///{node.data_dir / 'cxrnode.sqlite'}")
        try:
            _follow(films, archive, database, console)
        finally:
            database.close()
    _show_table(films, console)
    pictures = _sheet(films, folder, time.monotonic() - began)
    console.print(f"\nContact sheet  {pictures[0]}\n               {pictures[1]}")
    kept = len(archive.objects)
    console.print(f"Objects        {folder / 'archive'}  ({kept} DICOM objects as the archive got them)")
    console.print(f"Audit trail    cxrnode audit query --config {node.config_path}")
    console.print(f"Everything lies in {folder}; remove it when you have seen enough.")
    return all(film.rests and film.state != JobState.FAILED for film in films)


def _send(files: Sequence[Path], port: int, console: Console) -> list[Shown]:
    """C-STORE the films one after the other, as a modality would."""
    films: dict[Path, Shown] = {}
    destination = Destination(name="cxrnode", aet="CXRNODE", host="127.0.0.1", port=port)
    with _progress(console) as progress:
        bar = progress.add_task("sending films by C-STORE", total=len(files))
        for path, answer in send_files(files, destination, calling_aet=SENDER_AET):
            at = time.monotonic()
            films[path] = film = Shown(path=path, sop_instance_uid="")
            if isinstance(answer, Sent):
                film.answer = f"0x{answer.status:04X} {answer.comment}".strip()
                film.sop_instance_uid = str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)
                film.success_at = at if answer.kind is StatusClass.SUCCESS else None
            elif isinstance(answer, Rejected):
                film.answer = str(answer)
            progress.advance(bar)
    return list(films.values())


def _progress(console: Console) -> Progress:
    columns = (SpinnerColumn(), TextColumn("{task.description:<34}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), console=console)


def _follow(films: Sequence[Shown], archive: Archive, database: Database, console: Console) -> None:
    """Watch the audit database and the archive until every film rests."""
    taken = [film for film in films if film.success_at is not None]
    with _progress(console) as progress:
        routed = progress.add_task("routed", total=len(taken))
        read = progress.add_task("read: findings and maps", total=len(taken))
        delivered = progress.add_task("delivered: SR and SC in the archive", total=len(taken))
        until = time.monotonic() + 120 + 10 * len(taken)
        while time.monotonic() < until:
            _look(films, database)
            got = {one.sop_instance_uid: one for one in archive.objects}
            for film in taken:
                film.objects = {uid: got[uid] for _, _, uid in film.outputs if uid in got}
            progress.update(routed, completed=sum(bool(f.verdict) for f in taken))
            progress.update(read, completed=sum(bool(f.outcome) or f.verdict == "ignored" for f in taken))
            progress.update(delivered, completed=sum(f.rests for f in taken))
            if all(film.rests for film in taken):
                return
            time.sleep(0.1)


def _look(films: Sequence[Shown], database: Database) -> None:
    with database.read() as transaction:
        for film in films:
            if film.success_at is None:
                continue
            row = transaction.row(
                sa.select(instance.c.verdict, instance.c.reason.label("why"), job)
                .outerjoin(job, job.c.instance_id == instance.c.id)
                .where(instance.c.sop_instance_uid == film.sop_instance_uid)
                .order_by(instance.c.id.desc())
            )
            if row is None:
                continue
            film.verdict, film.state, film.outcome = row.verdict, row.state or "", row.outcome or ""
            film.reason = row.reason or row.why
            film.report = Report.from_json(row.report) if row.report else None
            outputs = transaction.rows(
                sa.select(output.c.kind, output.c.label, output.c.sop_instance_uid)
                .where(output.c.job_id == row.id)
                .order_by(output.c.id)
            )
            film.outputs = tuple((one.kind, one.label, one.sop_instance_uid) for one in outputs)


def _show_table(films: Sequence[Shown], console: Console) -> None:
    for film in films:
        # By itself: a table's own title is broken at the table's width. A film's name may look like markup.
        console.print(Text(f"\n{film.path.name}: {_verdict(film)}", style="bold"))
        if film.report is None or film.report.outcome is not Outcome.ANALYSED:
            continue
        table = Table()
        word = str(film.report.scale)
        for column in ("finding", word, "rule out below", "rule in from", "decision"):
            table.add_column(column, justify="right" if column not in ("finding", "decision") else "left")
        for one in film.report.ranked():
            limits = one.thresholds
            table.add_row(
                one.title,
                f"{100 * one.score:.1f} %" if film.report.scale is Scale.PROBABILITY else f"{one.score:.3f}",
                f"{limits.rule_out:.3f}" if limits else "-",
                f"{limits.rule_in:.3f}" if limits else "-",
                _WORDS[one.decision],
            )
        console.print(table)
        sr, pictures = film.seconds_to("sr"), film.seconds_to("heatmap") or film.seconds_to("summary")
        if sr is not None and pictures is not None:
            console.print(f"C-STORE Success to SR in the archive {sr:.2f} s, to the last picture {pictures:.2f} s")


def _verdict(film: Shown) -> str:
    if film.success_at is None:
        return f"refused, {film.answer}"
    if film.verdict == "ignored":
        return f"ignored, {film.reason}"
    if film.outcome == Outcome.ANALYSED:
        present = ", ".join(f.title for f in film.report.having(Decision.PRESENT)) if film.report else ""
        return present or "no finding at or above threshold; this does not exclude disease"
    return f"{film.outcome.replace('_', ' ') or film.state or 'not received'}, {film.reason}"


def _sheet(films: Sequence[Shown], folder: Path, seconds: float) -> tuple[Path, Path]:
    """Write the contact sheet from the objects that the archive got."""
    cards = []
    for film in films:
        pictures = []
        for kind, label, uid in film.outputs:
            if kind in ("summary", "heatmap") and uid in film.objects:
                pixels = pydicom.dcmread(film.objects[uid].path).pixel_array
                pictures.append(SheetPicture(caption=label.replace("_", " ") or "Summary", source=pixels))
        sr = film.seconds_to("sr")
        facts = [("From C-STORE Success to SR", f"{sr:.2f} s")] if sr is not None else []
        report = film.report
        cards.append(
            SheetFilm(
                title=film.path.name,
                verdict=_verdict(film),
                pictures=tuple(pictures),
                rows=tuple(SheetRow.of(f, report.scale) for f in report.ranked()) if report else (),
                facts=tuple(facts),
                scale=report.scale if report else Scale.SCORE,
            )
        )
    readers = {film.report.reader.name + " " + film.report.reader.version for film in films if film.report}
    sheet = Sheet(
        title="cxrnode demo",
        banner=BANNER,
        films=tuple(cards),
        facts=(("Films", str(len(films))), ("Model", ", ".join(sorted(readers)) or "-"), ("Run", f"{seconds:.0f} s")),
    )
    paths = folder / "contact-sheet.html", folder / "contact-sheet.png"
    write_html(sheet, paths[0])
    write_png(sheet, paths[1])
    return paths
