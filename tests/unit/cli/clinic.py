"""A small site for the tests of the command line: a configuration, a store filled by the store's own functions."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner, Result

from cxrnode.cli import main
from cxrnode.core.findings import Concept, Finding, Outcome, Reader, Report, Scale, Thresholds, decide
from cxrnode.core.header import Header
from cxrnode.core.kept import Kept
from cxrnode.reading.bundle import write_bundle
from cxrnode.reading.manifest import (
    Calibration,
    Input,
    IntendedUse,
    Label,
    LabelCalibration,
    LabelMetrics,
    Manifest,
    Metrics,
    PlausibilityLimit,
    Saliency,
    Training,
)
from cxrnode.reading.shape import Architecture
from cxrnode.store import deliveries, jobs, receipt, reports, settlements, upgrade
from cxrnode.store.database import Database
from cxrnode.store.receipt import Arrival, Order
from cxrnode.store.reports import StoredOutput

#: Whose films they are: none of this may stand in an answer that did not ask for it.
IDENTITY = {
    "patient_id": "PID-4711",
    "issuer": "HOSPITAL-X",
    "patient_name": "Mustermann^Erika",
    "birth_date": "19640812",
    "sex": "F",
    "accession": "ACC-0815",
    "study_instance_uid": "1.2.3.4.5.6.7.1",
    "series_instance_uid": "1.2.3.4.5.6.7.2",
}
SOP_UID = "1.2.3.4.5.6.7.8"
OUTPUT_UID = "2.25.123456789"
STUDY_TEXT = "Thorax Mustermann Erika"
SECRETS = (
    *(value for value in IDENTITY.values() if len(value) > 1),
    SOP_UID,
    OUTPUT_UID,
    STUDY_TEXT,
    "a" * 64,
    "b" * 64,
)

TEMPLATE = """
[node]
ae_title = "CXRNODE"
data_dir = "data"
timezone = "UTC"

[listen]
host = "127.0.0.1"
port = {listen}

[spool]
min_free = "1 MiB"

[nodes.PACS]
aet = "ARCHIVE"
host = "127.0.0.1"
port = {archive}
can_send = true

[models.chest]
bundle = "tiny"

[[rules]]
name = "chest films"
when = {{ Modality = ["CR", "DX"] }}
models = ["chest"]
send_to = ["PACS"]

[web]
port = {web}
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Clinic:
    """The site's folder, and its database."""

    folder: Path
    database: Database

    @classmethod
    def found(cls, folder: Path, *, listen: int = 1, archive: int = 1, web: int = 1) -> Clinic:
        """Write the configuration and a bundle, and make the database."""
        (folder / "data").mkdir(parents=True)
        (folder / "cxrnode.toml").write_text(TEMPLATE.format(listen=listen, archive=archive, web=web))
        tiny_bundle(folder / "data" / "models" / "tiny")
        clinic = cls.at(folder)
        upgrade.upgrade(clinic.database)
        return clinic

    @classmethod
    def at(cls, folder: Path) -> Clinic:
        """The site that was founded in this folder."""
        return cls(folder=folder, database=Database(f"sqlite+pysqlite:///{folder / 'data' / 'cxrnode.sqlite'}"))

    @property
    def config(self) -> Path:
        return self.folder / "cxrnode.toml"

    def run(self, *arguments: str | Path | int, stdin: str | None = None) -> Result:
        """Run a command with this site's configuration."""
        return run("--config", self.config, *arguments, stdin=stdin)

    def json(self, *arguments: str | Path | int, status: int = 0) -> Any:
        """Run a command with `--json` and parse all of its stdout."""
        result = self.run(*arguments, "--json")
        assert result.exit_code == status, result.output
        return json.loads(result.stdout)

    def receive(self, number: int = 1, *, accepted: bool = True, calling_aet: str = "ARCHIVE") -> receipt.Receipt:
        """Record one film as `receive` does, with one job where it is accepted."""
        arrival = Arrival(
            sop_instance_uid=f"{SOP_UID}.{number}",
            dataset_digest=f"{number:064x}",
            sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1",
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            calling_aet=calling_aet,
            called_aet="CXRNODE",
            accepted=accepted,
            reason="frontal chest radiograph" if accepted else "BodyPartExamined names another region",
            rule="chest films" if accepted else "",
            header=Header(modality="DX", rows=2500, columns=2048, study_description=STUDY_TEXT).as_json(),
            identity=IDENTITY,
            spool_key=f"{number:032x}",
            size=1000 + number,
        )
        orders = [Order(model="chest", mode="active", outputs=("sr", "heatmap"), send_to=("PACS",))] if accepted else []
        return receipt.record(self.database, arrival, orders, ageing=600.0, config_digest="c" * 64)

    def claim(self) -> jobs.Claim:
        """Claim the next job."""
        (claim,) = jobs.claim(
            self.database,
            owner="worker",
            models={"chest": "d" * 64},
            engine="torch-cpu",
            limit=1,
            lease=60.0,
            limits=jobs.Limits(),
        )
        return claim

    def report(
        self, *, demonstration: bool = True, scale: Scale = Scale.SCORE, number: int = 1, pixels: str = ""
    ) -> int:
        """Read the next job as `infer` does; return its number. `pixels`: of a film that came before, as another's."""
        claim = self.claim()
        thresholds = Thresholds(rule_out=0.2, rule_in=0.6)
        scores = (("Effusion", 0.91, thresholds), ("Nodule", 0.4, thresholds), ("Hernia", 0.05, None))
        report = Report(
            outcome=Outcome.ANALYSED,
            reason="",
            read_at=claim.claimed_at,
            revision=claim.revision,
            reader=Reader(
                name="tiny",
                version="1.0",
                bundle_digest="d" * 64,
                weights_digest="e" * 64,
                calibration="phantoms (10 films, not representative)",
                demonstration=demonstration,
                engine="torch-cpu",
            ),
            scale=scale,
            findings=tuple(
                Finding(label=label, index=index, score=score, decision=decide(score, limits), thresholds=limits)
                for index, (label, score, limits) in enumerate(scores)
            ),
            pixel_digest=pixels or ("a" * 64 if number == 1 else f"{number:064x}"),
            identity_digest="b" * 64 if not pixels else f"{number:064x}",
        )
        output = StoredOutput(
            kind="sr",
            label="",
            sop_class_uid="1.2.840.10008.5.1.4.1.1.88.33",
            sop_instance_uid=f"{OUTPUT_UID}{number}",
            series_instance_uid=f"{OUTPUT_UID}{number}.1",
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            instance_number=1,
            file=Kept(key=f"{number + 100:032x}", digest="f" * 64, size=5000),
        )
        before = reports.predecessor_sent(self.database, claim.job_id)
        assert reports.settle_report(
            self.database, claim, report, [output], saliency=None, preview=None, predecessors=before
        ).stands
        return claim.job_id

    def deliver(self, *, status: int = 0x0000, comment: str = "") -> None:
        """Settle the next delivery as `send` does: sent for Success, else parked."""
        (claim,) = deliveries.claim(self.database, destination="PACS", owner="sender", limit=1, lease=60.0)
        answers = [
            settlements.Answer(output_id=parcel.output_id, status=status, done=status == 0, comment=comment)
            for parcel in claim.parcels
        ]
        if status == 0:
            settlements.settle_sent(self.database, claim, answers)
        else:
            settlements.settle_parked(self.database, claim, answers, f"sr answered 0x{status:04X}")

    def fail(self, reason: str = "the film cannot be decoded") -> int:
        """Park the next job as `infer` does."""
        claim = self.claim()
        jobs.park(self.database, claim, reason)
        return claim.job_id


def run(*arguments: str | Path | int, stdin: str | None = None) -> Result:
    """Run `cxrnode` in this process."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin, prog_name="cxrnode")


def tiny_bundle(folder: Path) -> str:
    """Write a bundle whose files are in order and whose weights are no network."""
    concept = Concept(value="60046008", scheme="SCT", meaning="Pleural effusion")
    manifest = Manifest(
        format=1,
        name="tiny",
        version="1.0",
        architecture=Architecture.DENSENET121,
        activation="sigmoid",
        saliency=Saliency.CLOSED,
        licence="MIT",
        demonstration=True,
        description="for tests",
        input=Input(size=64, channels=1, interpolation="bilinear", mean=(0.5,), std=(0.25,)),
        intended_use=IntendedUse(age_min=18, age_max=120, views=("PA", "AP"), modalities=("CR", "DX")),
        calibration=Calibration(data_set="none", method="none", films=0, representative=False, weights_sha256=""),
        plausibility=PlausibilityLimit(limit=2.0, false_alarm_rate=0.01, films=0, weights_sha256=""),
        training=Training(data="none", films=0, patients=0, recipe="none"),
        metrics=Metrics(data_set="none", films=0, mean_auc=0.5),
        files=(),
        labels=(
            Label(
                name="Effusion",
                report=True,
                concept=concept,
                calibration=LabelCalibration(positives=60, prevalence=0.1),
                thresholds=Thresholds(rule_out=0.2, rule_in=0.6),
                metrics=LabelMetrics(auc=0.8, auc_low=0.7, auc_high=0.9, positives=60),
            ),
            Label(name="Hernia", report=False),
        ),
    )
    weights = {"classifier.weight": np.ones((2, 4), np.float32)}
    return write_bundle(folder, manifest, weights, {"mean": np.zeros(4, np.float32)})
