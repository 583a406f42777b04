"""From a network and films to a bundle that the node reads: every architecture, one label or fifteen."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from cxrnode.core.findings import NIH14, Decision, Scale
from cxrnode.errors import BundleError, UnreadableImage
from cxrnode.reading.bundle import load_bundle
from cxrnode.reading.engine import Film, TorchEngine
from cxrnode.reading.manifest import Evidence, Input, IntendedUse, Saliency
from cxrnode.reading.network import Network, new_network
from cxrnode.reading.shape import Architecture, Shape
from cxrnode.training.export import LIMIT, Aims, Apart, CannotExport, Card, Exported, export_bundle
from cxrnode.training.prevalence import NIH, Prevalence
from cxrnode.training.readers import FilmRow
from cxrnode.training.statistics import operating_point

pytestmark = pytest.mark.slow  # networks, and torch itself, to be loaded

AIMS = Aims(feature_components=4, layout_components=4)
FIFTEEN = (*NIH14, "No Finding")


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


def opened(row: FilmRow) -> Film:
    """A film of noise, brighter on the right; bright below where it has the first finding: in four of five."""
    if row.image == "torn":
        raise UnreadableImage("no picture")
    film = np.random.default_rng(row.row).integers(0, 80, (80, 72), np.uint8)
    film[:, 36:] += np.uint8(50)
    film[40:] += np.uint8(120 if row.row * 7 % 10 < (8 if row.findings[0] else 2) else 0)
    return film


def rows(count: int, labels: int, *, start: int = 0, every: int = 2) -> list[FilmRow]:
    """Films of as many patients; the first finding on one of `every`, the second on one film of all, no other."""
    return [
        FilmRow(
            path=Path(str(i)),
            patient=f"{start}-{i}",
            row=start + i,
            image=str(i),
            findings=tuple(int((k == 0 and i % every == 0) or (k == 1 and i == 1)) for k in range(labels)),
        )
        for i in range(count)
    ]


def card(labels: tuple[str, ...], *, side: int = 64, channels: int = 3, saliency: Saliency = Saliency.CLOSED) -> Card:
    return Card(
        name="tiny",
        version="1",
        labels=labels,
        input=Input(
            size=side, channels=channels, interpolation="bilinear", mean=(0.5,) * channels, std=(0.25,) * channels
        ),
        intended_use=IntendedUse(age_min=18.0, age_max=100.0, views=("PA", "AP"), modalities=("CR", "DX")),
        description="Random weights.",
        demonstration=True,
        licence="MIT",
        data="films of noise",
        held="more films of noise",
        recipe="none",
        saliency=saliency,
    )


def settled(network: Network, side: int) -> Network:
    """A network whose norms have seen films: without it values grow from layer to layer past what float16 holds."""
    noise = torch.rand(4, network.shape.channels, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for _ in range(12):
            network.train()(noise)
    return network.eval()


@pytest.mark.parametrize(
    ("shape", "side", "labels"),
    [
        (Shape(architecture=Architecture.DENSENET121, outputs=14), 64, NIH14),
        (
            Shape(
                architecture=Architecture.INCEPTION_V3, outputs=15, hidden=(512, 128, 32), batch_norm=True, dropout=0.2
            ),
            80,
            FIFTEEN,
        ),
        (Shape(architecture=Architecture.DENSENET121, outputs=1, hidden=(512,)), 64, ("Abnormal",)),
        (Shape(architecture=Architecture.MOBILENET_V2, outputs=15, hidden=(512,), dropout=0.5), 64, FIFTEEN),
        (Shape(architecture=Architecture.RESNET50, outputs=1), 64, ("Pneumonia",)),
        (Shape(architecture=Architecture.CNN2, outputs=15, channels=1, hidden=(32,), flatten_to=32), 32, FIFTEEN),
    ],
    ids=["densenet121", "inceptionv3", "densenet121-one", "mobilenetv2", "resnet50", "cnn2"],
)
def test_every_architecture_becomes_a_bundle_that_reads_films(
    tmp_path: Path, shape: Shape, side: int, labels: tuple[str, ...]
) -> None:
    torch.manual_seed(1)
    saliency = Saliency.CLOSED if shape.closed else Saliency.GRADCAM
    given = card(labels, side=side, channels=shape.channels, saliency=saliency)
    network = settled(new_network(shape), side)
    held = rows(10, len(labels), start=100)
    done = export_bundle(
        tmp_path / "bundle", network, shape, rows(12, len(labels)), held, given, aims=AIMS, threads=1, opened=opened
    )
    bundle = load_bundle(tmp_path / "bundle")
    assert bundle.digest == done.bundle.digest
    assert [label.name for label in bundle.manifest.labels] == list(labels)
    assert [label.report for label in bundle.manifest.labels if label.name in NIH14] == [True] * (
        len(set(labels) & set(NIH14))
    )
    assert not any(label.report for label in bundle.manifest.labels if label.name == "No Finding")
    assert all(label.assessed is None for label in bundle.manifest.labels), "five positives are no calibration"
    assert (done.scores.shape, done.truth.shape, done.unreadable) == ((10, len(labels)), (10, len(labels)), 0)
    readings = TorchEngine(bundle, device="cpu", threads=1).read([opened(row) for row in held])
    assert np.stack([reading.scores for reading in readings]) == pytest.approx(done.scores, abs=1e-5)
    # The reference is the farthest of good films but a few per thousand: here the very farthest.
    assert max(reading.distance for reading in readings) == pytest.approx(1.0, abs=1e-4)
    plausibility = bundle.manifest.plausibility
    assert (plausibility.limit, plausibility.features) == (LIMIT, Evidence.MIDDLE)
    (seen,) = TorchEngine(bundle, device="cpu", threads=1).observe([opened(held[0])])
    assert seen.features.shape == (bundle.manifest.evidence,)
    assert all(reading.saliency is not None and reading.saliency.shape[0] == len(labels) for reading in readings)


SMALL = Shape(architecture=Architecture.CNN2, outputs=2, channels=1)
LABELS = ("Effusion", "Mass")


def network() -> Network:
    """Its first logit rises with the film's brightness below, well enough to be calibrated."""
    torch.manual_seed(0)
    made = new_network(SMALL).eval()
    with torch.no_grad():
        for parameter in made.classifier.parameters():
            parameter.mul_(30.0)
    return made


def exported(
    folder: Path,
    *,
    held: list[FilmRow] | None = None,
    prevalence: Prevalence | None = NIH,
    representative: bool = False,
) -> Exported:
    return export_bundle(
        folder,
        network(),
        SMALL,
        rows(20, 2),
        held or rows(150, 2, start=1000),
        card(LABELS, side=32, channels=1),
        aims=AIMS,
        prevalence=prevalence,
        representative=representative,
        threads=1,
        opened=opened,
    )


def test_thresholds_reach_their_aims_on_the_scale_that_is_shown(tmp_path: Path) -> None:
    done = exported(tmp_path)
    effusion, mass = done.bundle.manifest.labels
    assert effusion.assessed is not None and mass.assessed is None
    shown = done.bundle.calibrated(done.scores)[:, 0]
    truth = done.truth[:, 0]
    assert (operating_point(shown, truth, effusion.assessed.rule_out).sensitivity.value or 0) >= 0.95
    assert (operating_point(shown, truth, effusion.assessed.rule_in).specificity.value or 0) >= 0.95
    calibration = done.bundle.manifest.calibration
    assert (calibration.sensitivity, calibration.specificity, calibration.films) == (0.95, 0.95, 150)
    assert "where they cross both at the largest sum" in calibration.method
    assert calibration.weights_sha256 == done.bundle.weights_digest


def test_scores_are_moved_to_the_published_prevalence_and_the_bundle_says_so(tmp_path: Path) -> None:
    """Half of the films have the finding, and one in eight of NIH's."""
    done = exported(tmp_path / "moved")
    plain = exported(tmp_path / "plain", prevalence=None)
    effusion, mass = done.bundle.manifest.labels
    assert effusion.calibration is not None and mass.calibration is not None
    assert (effusion.calibration.prevalence, effusion.calibration.shown_prevalence) == (0.5, NIH.of("Effusion"))
    assert effusion.calibration.ece_after is not None
    assert mass.calibration.positives == 1
    assert done.bundle.scale is plain.bundle.scale is Scale.SCORE
    assert done.bundle.manifest.calibration.population == NIH.name
    assert plain.bundle.manifest.calibration.population == ""
    assert plain.bundle.calibrated(plain.scores)[:, 0].mean() == pytest.approx(0.5, abs=0.02)
    assert done.bundle.calibrated(done.scores)[:, 0].mean() < 0.35
    # Thresholds move with the scores: every decision stays what it was.
    films = [opened(row) for row in rows(30, 2, start=5000)]
    decisions = []
    for one in (done.bundle, plain.bundle):
        readings = TorchEngine(one, device="cpu", threads=1).read(films)
        decisions.append([finding.decision for reading in readings for finding in one.findings(reading)])
    assert decisions[0] == decisions[1]
    assert set(decisions[0][1::2]) == {Decision.NOT_ASSESSED}


def test_a_representative_set_keeps_its_prevalence_and_gives_probabilities(tmp_path: Path) -> None:
    done = exported(tmp_path, representative=True)
    assert done.bundle.scale is Scale.PROBABILITY
    assert done.bundle.manifest.calibration.population == ""
    assert all(
        label.calibration and label.calibration.shown_prevalence is None for label in done.bundle.manifest.labels
    )


def test_what_a_list_does_not_know_is_left_out_and_what_cannot_be_opened_too(tmp_path: Path) -> None:
    held = rows(150, 2, start=1000)
    held[0] = dataclasses.replace(held[0], image="torn")
    held[2:10] = [dataclasses.replace(row, findings=(None, row.findings[1])) for row in held[2:10]]
    done = exported(tmp_path, held=held)
    assert (done.unreadable, len(done.scores), int(np.isnan(done.truth[:, 0]).sum())) == (1, 149, 8)
    effusion = done.bundle.manifest.labels[0].calibration
    assert effusion is not None and effusion.positives == 70
    assert done.bundle.manifest.calibration.films == 149


@pytest.mark.parametrize(
    ("train", "held", "labels", "message"),
    [
        (rows(8, 2), rows(8, 2), LABELS, "8 patients have films among the training films and the held-out"),
        (rows(8, 2), [], LABELS, "there is no held-out film; choose other folds"),
        (rows(8, 2), rows(8, 3, start=9), LABELS, "the held-out films are read for 3 labels, not 2"),
        (rows(8, 2), rows(8, 2, start=9), ("Mass",), "the network has 2 outputs for 1 labels"),
    ],
)
def test_what_cannot_be_exported_is_said(
    tmp_path: Path, train: list[FilmRow], held: list[FilmRow], labels: tuple[str, ...], message: str
) -> None:
    with pytest.raises(CannotExport, match=message):
        export_bundle(
            tmp_path, network(), SMALL, train, held, card(labels, side=32, channels=1), aims=AIMS, opened=opened
        )


def test_a_network_of_a_fold_that_saw_a_patient_of_the_fold_measures_nothing(tmp_path: Path) -> None:
    films = rows(24, 2)
    sides = [Apart(fold=0, network=network(), train=films[11:], held=films[:12])]
    with pytest.raises(CannotExport, match="1 patients have films among the training films and the held-out"):
        export_bundle(
            tmp_path / "bundle",
            network(),
            SMALL,
            films,
            films[:12],
            card(LABELS, side=32, channels=1),
            apart=sides,
            aims=AIMS,
            opened=opened,
        )


def test_weights_that_are_not_finite_are_refused_by_their_name_before_a_film_is_read(tmp_path: Path) -> None:
    broken = network()
    with torch.no_grad():
        for parameter in broken.classifier.parameters():
            parameter[0] = torch.nan
    with pytest.raises(BundleError, match=r"classifier\.(bias|weight) holds values that float16 cannot"):
        export_bundle(
            tmp_path / "bundle",
            broken,
            SMALL,
            rows(8, 2),
            rows(8, 2, start=9),
            card(LABELS, side=32, channels=1),
            aims=AIMS,
            opened=opened,
        )
    assert not (tmp_path / "bundle").exists()
