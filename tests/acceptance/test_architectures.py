"""The daemon with bundles that are no DenseNet: one with a single finding, one with 15 outputs, one of them silent."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch

from cxrnode.core.findings import NIH14, Thresholds
from cxrnode.phantom.dicom import write_phantoms
from cxrnode.reading import manifest as m
from cxrnode.reading.bundle import write_bundle
from cxrnode.reading.network import Architecture, Shape, new_network, weights_of
from cxrnode.reading.plausibility import CELLS, Cloud, Clouds
from cxrnode.training.concepts import CONCEPTS
from tests.acceptance.conftest import MakeSite
from tests.peers import RecordingScp
from tests.unit.reading.conftest import card, label
from tests.unit.reading.test_architectures import settled

pytestmark = pytest.mark.acceptance


def write(folder: Path, name: str, shape: Shape, labels: tuple[str, ...], side: int) -> None:
    """A bundle with random weights to which every finding that it reports is present."""
    torch.manual_seed(6)
    network = settled(new_network(shape), side)
    random = np.random.default_rng(1)
    clouds = Clouds(
        layout=Cloud.fit(random.normal(0.0, 1.0, (40, CELLS * CELLS)), 8),
        features=Cloud.fit(random.normal(0.5, 0.5, (40, network.width)), 8),
    )
    whole = dataclasses.replace(
        card(
            tuple(
                dataclasses.replace(
                    label(one),
                    report=one in CONCEPTS,
                    concept=CONCEPTS.get(one),
                    thresholds=Thresholds(rule_out=1e-9, rule_in=1e-8),
                    map_floor=0.0,
                    map_ceiling=0.5,
                )
                for one in labels
            )
        ),
        name=name,
        architecture=shape.architecture,
        head=m.Head(hidden=shape.hidden, dropout=shape.dropout, flatten_to=shape.flatten_to),
        saliency=m.Saliency.GRADCAM,
        input=m.Input(
            size=side,
            channels=shape.channels,
            interpolation="bilinear",
            mean=(0.5,) * shape.channels,
            std=(0.25,) * shape.channels,
        ),
    )
    write_bundle(folder, whole, weights_of(network), clouds.tensors())


def said(document: pydicom.Dataset) -> str:
    """All that a document says, as one text."""
    return "\n".join(str(element.value) for element in document.iterall())


def test_each_bundle_delivers_a_report_of_its_findings_and_a_map_of_each(
    make_site: MakeSite, recording_scp: RecordingScp, tmp_path: Path
) -> None:
    binary = Shape(architecture=Architecture.CNN2, outputs=1, channels=1, hidden=(8,), dropout=0.3, flatten_to=224)
    many = Shape(architecture=Architecture.MOBILENET_V2, outputs=15, hidden=(512,), dropout=0.5)
    write(tmp_path / "binary", "binary", binary, ("Pneumonia",), 224)
    write(tmp_path / "many", "many", many, (*NIH14, "No Finding"), 224)
    site = make_site((recording_scp.aet, recording_scp.port), phantoms=True)
    text = site.config.read_text().replace('bundle = "demo"', f"bundle = {json.dumps(str(tmp_path / 'binary'))}")
    text = text.replace('models = ["chest"]', 'models = ["chest", "many"]')
    site.config.write_text(f"{text}\n[models.many]\nbundle = {json.dumps(str(tmp_path / 'many'))}\n")
    (film,) = write_phantoms(tmp_path / "film", range(1), rows=1024, cols=848)
    site.start(wait_for="infer")
    assert site.storescu(film)
    site.wait_at_rest(240)
    assert [(row.state, row.outcome) for row in site.jobs()] == [("delivered", "analysed")] * 2
    kinds = [[row.kind for row in site.outputs(one.id)] for one in site.jobs()]
    # A map is sent where the network has one: these random ones have none of some findings.
    assert (kinds[0], set(kinds[1])) == (["sr", "summary", "heatmap"], {"sr", "summary", "heatmap"})
    assert kinds[1].count("heatmap") <= 14
    stored = [one.dataset() for one in recording_scp.stored]
    assert len(stored) == len(kinds[0]) + len(kinds[1])
    single, whole = sorted((said(one) for one in stored if one.Modality == "SR"), key=len)
    assert ("Pneumonia" in single, "Lung mass" in single) == (True, False)
    assert all(CONCEPTS[finding].meaning in whole for finding in NIH14)
    assert "No Finding" not in single + whole
    assert all((one.Rows > 0, one.PhotometricInterpretation) == (True, "RGB") for one in stored if one.Modality != "SR")
    site.check_audit()
