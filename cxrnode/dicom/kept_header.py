"""What the store keeps of a film's header, so that a notice can be made when the film itself is gone or unreadable.

It is what outputs copy of a film, byte for byte, as a small data set in Explicit VR Little Endian: about a kilobyte.
It names the patient, so that it stands in the erasable `identity` table alone.
"""

from __future__ import annotations

import io

import pydicom.filereader
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID

from cxrnode.dicom.header import quiet
from cxrnode.dicom.outputs.encoding import Attributes, tag_and_vr
from cxrnode.dicom.outputs.source import COPIED_SEQUENCES, COPIED_TEXT, copied_items, raw_value
from cxrnode.dicom.values import number

#: What outputs read of a film besides what they copy: which film it is, when and how it was taken.
_TEXT = (
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "Modality", "TimezoneOffsetFromUTC", "ViewPosition"),
    *("PatientOrientation", "SeriesNumber", "InstanceNumber", "LossyImageCompression", "LossyImageCompressionRatio"),
    *("LossyImageCompressionMethod", "AcquisitionDate", "AcquisitionTime", "ContentDate", "ContentTime"),
    *("SeriesDate", "SeriesTime"),
)
_NUMBERS = ("Rows", "Columns")
_SEQUENCES = ("ViewCodeSequence", "RequestAttributesSequence")
#: A value longer than this, in bytes, is left out: no header is so long for a good reason.
LONGEST_VALUE = 1024
#: Sequences that are longer together, in bytes, are left out.
LONGEST_SEQUENCES = 16 * 1024


def keep_header(source: Dataset) -> bytes:
    """What is to be kept of a freshly read header; it never raises for what the header says.

    source: undecoded, as `build_outputs` wants it, and for the same reason.
    """
    target = Attributes()
    with quiet():
        for keyword in (*COPIED_TEXT, *_TEXT):
            tag, vr = tag_and_vr(keyword)
            value = raw_value(source, keyword)
            if value and len(value) <= LONGEST_VALUE:
                target.put_raw(tag, vr, value)
        for keyword in _NUMBERS:
            count = number(source, keyword)
            if count is not None and 0 <= count <= 0xFFFF:
                target.put(keyword, int(count))
        _keep_sequences(source, target)
    return target.encode()


def _keep_sequences(source: Dataset, target: Attributes) -> None:
    length = 0
    for keyword in (*_SEQUENCES, *COPIED_SEQUENCES):
        try:
            items = copied_items(source, keyword)
        except ValueError:  # a value in an item that no explicit length can state
            continue
        length += sum(len(item.encode()) for item in items)
        if items and length <= LONGEST_SEQUENCES:
            target.put_items(keyword, items)


def read_kept_header(kept: bytes, *, transfer_syntax_uid: str) -> Dataset:
    """The kept header as `build_outputs` wants its source, undecoded; `transfer_syntax_uid` is the film's."""
    with quiet():
        dataset = pydicom.filereader.read_dataset(io.BytesIO(kept), is_implicit_VR=False, is_little_endian=True)
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = UID(transfer_syntax_uid)
    dataset.file_meta = meta
    return dataset
