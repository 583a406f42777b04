"""The script that a site's engineer writes in an afternoon, one thing after the other, on good libraries.

pynetdicom hands over `event.dataset`, pydicom decodes, torch reads in eager float32, pytorch-grad-cam draws the two
highest findings, highdicom makes the SR and the captures, pynetdicom sends them. Nothing is durable, nothing is
checked, nothing is tried again. It runs the same bundle's network as the node, so that only the way around it differs.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import click
import highdicom as hd
import numpy as np
import torch
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_voi_lut
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.image import show_cam_on_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from cxrnode.reading.bundle import load_bundle
from cxrnode.reading.network import build_network

_SHOWN = 2
_PX = 1024


class Script:
    """The model and what is made of a film."""

    def __init__(self, bundle: Path) -> None:
        """Load the network as torchvision would have it."""
        loaded = load_bundle(bundle)
        self.labels = [label.name for label in loaded.manifest.labels]
        self.size = loaded.manifest.input.size
        self._mean, self._std = loaded.manifest.input.mean[0], loaded.manifest.input.std[0]
        self.network = build_network(loaded.weights, loaded.manifest.shape)

    def analyse(self, dataset: Dataset) -> list[Dataset]:
        """The objects made of one film: an SR, and a capture for each finding shown."""
        grey = self._display(dataset)
        tensor = torch.from_numpy(self._input(grey))
        with torch.no_grad():
            scores = self.network(tensor).sigmoid()[0].numpy()
        shown = [int(i) for i in np.argsort(-scores)[:_SHOWN]]
        made: list[Dataset] = [self._report(dataset, scores)]
        for label in shown:
            with GradCAM(model=self.network, target_layers=[self.network.relu]) as cam:
                map_ = cam(input_tensor=tensor, targets=[ClassifierOutputTarget(label)])[0]
            made.append(self._capture(dataset, grey, map_, self.labels[label], len(made)))
        return made

    def _display(self, dataset: Dataset) -> np.ndarray:
        values = apply_voi_lut(dataset.pixel_array.astype(np.float32), dataset).astype(np.float32)
        values -= values.min()
        values /= max(float(values.max()), 1.0)
        if dataset.PhotometricInterpretation == "MONOCHROME1":
            values = 1 - values
        return np.asarray(values * 255, np.uint8)

    def _input(self, grey: np.ndarray) -> np.ndarray:
        small = np.asarray(Image.fromarray(grey).resize((self.size, self.size)), np.float32) / 255
        normal = (np.stack([small] * 3) - self._mean) / self._std
        return np.asarray(normal[None], np.float32)

    def _report(self, film: Dataset, scores: np.ndarray) -> Dataset:
        observer = hd.sr.ObserverContext(
            observer_type=codes.DCM.Device,
            observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(uid=generate_uid()),
        )
        groups = [
            hd.sr.MeasurementsAndQualitativeEvaluations(
                tracking_identifier=hd.sr.TrackingIdentifier(uid=generate_uid(), identifier=name),
                measurements=[
                    hd.sr.Measurement(name=codes.DCM.ProbabilityOfCancer, value=float(score), unit=codes.UCUM.NoUnits)
                ],
            )
            for name, score in zip(self.labels, scores, strict=True)
        ]
        content = hd.sr.MeasurementReport(
            observation_context=hd.sr.ObservationContext(observer_device_context=observer),
            procedure_reported=codes.LN.XRayChest
            if hasattr(codes.LN, "XRayChest")
            else codes.cid100.RoutineChestXRay
            if hasattr(codes, "cid100") and hasattr(codes.cid100, "RoutineChestXRay")
            else hd.sr.CodedConcept("399208008", "SCT", "Plain chest X-ray"),
            imaging_measurements=groups,
            title=codes.DCM.ImagingMeasurementReport,
        )
        return hd.sr.ComprehensiveSR(
            evidence=[film],
            content=content,
            series_instance_uid=generate_uid(),
            series_number=900,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer="A site",
        )

    def _capture(self, film: Dataset, grey: np.ndarray, map_: np.ndarray, label: str, number: int) -> Dataset:
        scale = _PX / max(grey.shape)
        size = (round(grey.shape[1] * scale), round(grey.shape[0] * scale))
        base = np.asarray(Image.fromarray(grey).resize(size), np.float32) / 255
        wide = np.asarray(Image.fromarray(map_).resize(size), np.float32)
        pixels = show_cam_on_image(np.stack([base] * 3, -1), wide, use_rgb=True)
        return hd.sc.SCImage.from_ref_dataset(
            ref_dataset=film,
            pixel_array=pixels,
            photometric_interpretation="RGB",
            bits_allocated=8,
            coordinate_system="PATIENT",
            patient_orientation=("L", "F"),
            series_instance_uid=generate_uid(),
            series_number=901,
            sop_instance_uid=generate_uid(),
            instance_number=number,
            manufacturer="A site",
            transfer_syntax_uid=ExplicitVRLittleEndian,
        )


def send(objects: list[Dataset], port: int) -> None:
    """Send objects to the archive in one association. Raises RuntimeError where one is not stored."""
    entity = AE("SCRIPT")
    for one in objects:
        entity.add_requested_context(one.SOPClassUID, ExplicitVRLittleEndian)
    association = entity.associate("127.0.0.1", port, ae_title="ARCHIVE")
    try:
        for one in objects:
            if association.send_c_store(one).Status != 0:
                raise RuntimeError("the archive did not store it")
    finally:
        association.release()


@click.command()
@click.option("--port", type=int, required=True)
@click.option("--archive", type=int, required=True)
@click.option("--bundle", type=click.Path(path_type=Path), required=True)
def main(port: int, archive: int, bundle: Path) -> None:
    """Serve on PORT until killed; results go to the ARCHIVE's port."""
    script, turn = Script(bundle), threading.Lock()

    def on_store(event: Any) -> int:
        dataset = event.dataset
        dataset.file_meta = event.file_meta
        with turn:
            send(script.analyse(dataset), archive)
        return 0

    entity = AE("SCRIPT")
    entity.supported_contexts = AllStoragePresentationContexts
    entity.maximum_associations = 20
    entity.network_timeout = entity.dimse_timeout = None
    entity.start_server(("127.0.0.1", port), block=True, evt_handlers=[(evt.EVT_C_STORE, on_store)])


if __name__ == "__main__":
    main()
