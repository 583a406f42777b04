"""Tables of the results: what is made of a reading, how it looks, and how it is sent."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cxrnode.quantities import Duration
from cxrnode.sections.fields import Hl7Name, Section, Words


class Send(Section):
    """`[send]`: how deliveries are tried, and tried again. Durations in seconds."""

    batch: Annotated[int, Field(ge=1, le=256)] = 8
    lease: Duration = 120.0
    connect_timeout: Duration = 5.0
    acse_timeout: Duration = 15.0
    dimse_timeout: Duration = 60.0
    max_attempts: Annotated[int, Field(ge=1)] = 10
    max_age: Duration = 7 * 86400.0
    backoff_base: Duration = 5.0
    backoff_cap: Duration = 900.0
    #: How often a destination whose circuit is open is tried with one delivery.
    probe_every: Duration = 60.0
    #: How long a destination's report on storage commitment is waited for before it is asked again.
    commitment_wait: Duration = 3600.0
    #: How long results wait for their film, where a node has `require_source`.
    source_wait: Duration = 86400.0


class Corrections(Section):
    """`[corrections]`: what becomes of a result when its film is read again, or comes under another identity."""

    withdraw_superseded: bool = True
    on_identity_change: Literal["hold", "reissue"] = "hold"


class Heatmap(Section):
    """`[heatmap]`: which findings get a picture, and how it looks. `max_px` bounds the longer edge, legend included.

    `contour` is for destinations that show grey only; `jpeg` is baseline and lossy, `raw` is not compressed.
    """

    max_findings: Annotated[int, Field(ge=0, le=14)] = 6
    min_findings: Annotated[int, Field(ge=0, le=14)] = 0
    style: Literal["colour", "contour"] = "colour"
    encoding: Literal["raw", "jpeg"] = "raw"
    max_px: Annotated[int, Field(ge=1000, le=1600)] = 1200


class Sr(Section):
    """`[sr]`: the document class, its title, and the coding scheme of the findings (SNOMED CT, or our own 99CXRNODE).

    Under the title "measurement-report" programs find the measurements; OHIF 3.13.2 opens the one under "ai-reading".
    """

    sop_class: Literal["comprehensive", "comprehensive3d"] = Field(default="comprehensive", alias="class")
    title: Literal["measurement-report", "ai-reading"] = "measurement-report"
    scheme: Literal["SCT", "99CXRNODE"] = "SCT"


class KeyObject(Section):
    """`[key_object]`: the findings, by their labels in the bundle, whose presence flags a film as urgent."""

    findings: Words = ()


class Hl7(Section):
    """`[hl7]`: how messages are addressed, MSH-4 to MSH-6; the sending application is node.ae_title."""

    sending_facility: Hl7Name = ""
    receiving_application: Hl7Name = ""
    receiving_facility: Hl7Name = ""


class Notices(Section):
    """`[notices]`: what is said of an accepted film that has no result, parked or later than `late_after`."""

    not_analysed: bool = True
    late_after: Duration = 1800.0


class Study(Section):
    """`[study]`: a page that puts the films of a study side by side, once none came for `quiet` seconds."""

    summary: bool = False
    quiet: Duration = 60.0
