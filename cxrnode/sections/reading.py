"""Tables of the reading: models, the rules that choose films for them, and how films are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from cxrnode.quantities import Duration, Size
from cxrnode.sections.fields import OutputKind, Section, Words
from cxrnode.sections.peers import Server


class Model(Section):
    """`[models.X]`: a bundle in use. A shadow one reads and is recorded, and never sends.

    `engine`: "local" for one of this machine, "kserve" for the one that `server` names.
    """

    bundle: Annotated[str, Field(min_length=1)]
    mode: Literal["active", "shadow"] = "active"
    engine: Literal["local", "kserve"] = "local"
    server: Server | None = None

    @model_validator(mode="after")
    def _has_its_server(self) -> Self:
        if (self.engine == "kserve") != (self.server is not None):
            raise ValueError('engine = "kserve" and server belong together; give both or neither')
        return self


class Rule(Section):
    """`[[rules]]`: what the site wants read. The first rule that matches decides.

    `when` maps a DICOM keyword, `calling_aet`, `called_aet`, `host`, `study_age` or `patient_age` to its allowed
    values, one or several; `core.routing` knows which keys there are and refuses others.
    """

    name: Annotated[str, Field(min_length=1, max_length=64)]
    when: Mapping[str, Words] = Field(default_factory=dict)
    unsure: Literal["ignore", "read"] = "ignore"
    models: Annotated[tuple[str, ...], Field(min_length=1)]
    outputs: tuple[OutputKind, ...] = ("sr", "heatmap")
    send_to: tuple[str, ...] = ()
    priority: Annotated[int, Field(ge=-100, le=100)] = 0


class Reading(Section):
    """`[reading]`: how films are claimed, decoded and read. `decode_memory` in bytes, durations in seconds."""

    batch: Annotated[int, Field(ge=1, le=256)] = 8
    lease: Duration = 120.0
    max_attempts: Annotated[int, Field(ge=1, le=100)] = 3
    decode_timeout: Duration = 20.0
    decode_memory: Size = 2 * 1024**3
    implausible: Literal["refuse", "read"] = "refuse"
    unknown_age: Literal["read", "ignore"] = "read"


class WordLists(Section):
    """`[words]`: what this site's free text says of region and view, beside the words that are built in."""

    chest: Words = ()
    not_chest: Words = ()
    frontal: Words = ()
    lateral: Words = ()
