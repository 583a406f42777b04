"""Times of what is sent: in the zone of the node that the film came from, as the configuration has it."""

from __future__ import annotations

import io
from pathlib import Path

import pydicom
import pytest
import sqlalchemy as sa

from cxrnode.config import parse_config
from cxrnode.store.schema import output
from tests.integration.test_faults import MakeSite, Site, films, make_site, reading

__all__ = ["films", "make_site"]

#: `Site.receive` stores from this AE title.
SENDER = "MODALITY"


def with_zones(site: Site, *, node: dict[str, str], sender: dict[str, str]) -> None:
    """Give the site these zones before anything is received."""
    site.config = parse_config(
        {
            "node": {"data_dir": str(site.folder), "roles": ["receive", "infer"], "purpose": "demo", **node},
            "nodes": {"ROOM": {"aet": SENDER, "host": "127.0.0.1", "port": 104, **sender}},
            "models": {"chest": {"bundle": "demo"}},
            "rules": [{"name": "all", "unsure": "read", "models": ["chest"]}],
            "reading": {"implausible": "read"},
            "spool": {"min_free": "1 MiB"},
        }
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("node", "sender", "offset"),
    [({"timezone": "Asia/Kolkata"}, {"timezone": "Asia/Kathmandu"}, "+0545"), ({}, {}, None)],
)
def test_a_film_without_an_offset_is_answered_in_the_zone_of_its_sender(
    make_site: MakeSite,
    films: list[Path],
    tmp_path: Path,
    node: dict[str, str],
    sender: dict[str, str],
    offset: str | None,
) -> None:
    site = make_site()
    with_zones(site, node=node, sender=sender)
    bare = pydicom.dcmread(films[0])
    bare.pop("TimezoneOffsetFromUTC", None)
    bare.save_as(tmp_path / "bare.dcm")
    site.receive(tmp_path / "bare.dcm")
    with reading(site) as (reader, keeper):
        reader.turn(keeper)
    keys = [row[0] for row in site.all(sa.select(output.c.spool_key).order_by(output.c.id))]
    made = [pydicom.dcmread(io.BytesIO(site.spool.find(key).read_bytes())) for key in keys]
    assert len(made) >= 2
    assert {ds.get("TimezoneOffsetFromUTC") for ds in made} == {offset}
