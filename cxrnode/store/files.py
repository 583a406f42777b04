"""Which file of the spool holds what of a job: its preview, its maps, its outputs. Reads alone."""

from __future__ import annotations

import dataclasses

import sqlalchemy as sa

from cxrnode.core.kept import Reads
from cxrnode.errors import Rejected
from cxrnode.store.database import Database
from cxrnode.store.schema import job, output


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JobFiles:
    """The keys of a job's preview and maps; None where there are none, or retention took them."""

    instance_id: int
    preview_key: str | None
    preview_digest: str
    saliency_key: str | None
    saliency_digest: str

    def preview(self, spool: Reads) -> bytes:
        """The preview, a grey JPEG. Raises Rejected where it is gone, Transient where the spool is away."""
        if self.preview_key is None:
            raise Rejected("there is no picture of this film: it was not decoded, or retention took it")
        return spool.read(self.preview_key, digest=self.preview_digest)

    def saliency(self, spool: Reads) -> bytes:
        """The maps, float16 (C, h, w) as .npy. Raises as `preview` does."""
        if self.saliency_key is None:
            raise Rejected("there are no maps of this film: it was not analysed, or retention took them")
        return spool.read(self.saliency_key, digest=self.saliency_digest)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OutputFile:
    """One output of a job, with the key of its bytes."""

    id: int
    instance_id: int
    kind: str
    label: str
    instance_number: int
    spool_key: str
    digest: str


def job_files(database: Database, job_id: int) -> JobFiles:
    """The files of a job. Raises Rejected where there is no such job."""
    digests = (job.c.preview_sha256.label("preview_digest"), job.c.saliency_sha256.label("saliency_digest"))
    with database.read() as transaction:
        row = transaction.row(
            sa.select(job.c.instance_id, job.c.preview_key, job.c.saliency_key, *digests).where(job.c.id == job_id)
        )
    if row is None:
        raise Rejected(f"there is no job {job_id}; `cxrnode jobs ls` shows those that are")
    return JobFiles(**row._mapping)


def output_file(database: Database, job_id: int, output_id: int) -> OutputFile:
    """One output of this job. Raises Rejected where there is none, or retention took it."""
    columns = (output.c.id, output.c.kind, output.c.label, output.c.instance_number, output.c.spool_key)
    with database.read() as transaction:
        row = transaction.row(
            sa.select(*columns, output.c.sha256.label("digest"), job.c.instance_id)
            .join(job, job.c.id == output.c.job_id)
            .where(output.c.id == output_id, output.c.job_id == job_id)
        )
    if row is None:
        raise Rejected(f"job {job_id} has no output {output_id}")
    if row.spool_key is None:
        raise Rejected("retention took the bytes of this output; `cxrnode jobs retry` makes it anew")
    return OutputFile(**row._mapping)
