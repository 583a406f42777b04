"""The coded concept of each label that a recipe reports: a table. Check it against your SNOMED CT release before use.

SCT codes of Edema, Effusion and Pneumothorax and DCM 112121 stand in PS3.16 context groups (CID 3700, 645, 6105,
6102); the other SCT codes are in public use with that meaning. Pleural thickening and an abnormal film have no
code that could be verified.
"""

from __future__ import annotations

from cxrnode.core.findings import Concept


def _concept(value: str, scheme: str, meaning: str) -> Concept:
    return Concept(value=value, scheme=scheme, meaning=meaning)


CONCEPTS = {
    "Atelectasis": _concept("46621007", "SCT", "Atelectasis"),
    "Cardiomegaly": _concept("8186001", "SCT", "Cardiomegaly"),
    "Effusion": _concept("60046008", "SCT", "Pleural effusion"),
    "Infiltration": _concept("112121", "DCM", "Infiltrate"),
    "Mass": _concept("309529002", "SCT", "Lung mass"),
    "Nodule": _concept("786838002", "SCT", "Nodule of lung"),
    "Pneumonia": _concept("233604007", "SCT", "Pneumonia"),
    "Pneumothorax": _concept("36118008", "SCT", "Pneumothorax"),
    "Consolidation": _concept("95436008", "SCT", "Lung consolidation"),
    "Edema": _concept("19242006", "SCT", "Pulmonary edema"),
    "Emphysema": _concept("87433001", "SCT", "Pulmonary emphysema"),
    "Fibrosis": _concept("51615001", "SCT", "Fibrosis of lung"),
    "Pleural_Thickening": _concept("PLEURAL_THICKENING", "99CXRNODE", "Pleural thickening"),
    "Hernia": _concept("39839004", "SCT", "Diaphragmatic hernia"),
    "Abnormal": _concept("ABNORMAL_FILM", "99CXRNODE", "Abnormal chest radiograph"),
}
