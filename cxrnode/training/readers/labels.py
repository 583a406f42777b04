"""The spelling of labels, and what one label says of another: no finding, abnormal. Pure."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Mapping

from cxrnode.core.findings import NIH14

NO_FINDING, ABNORMAL = "no_finding", "abnormal"

#: NIH's own list of boxes spells one finding otherwise than its table of films.
_OTHERWISE = {"infiltrate": "infiltration", "normal": NO_FINDING, "pleural_thicken": "pleural_thickening"}


@functools.cache
def key(label: str) -> str:
    """Return the label without its spelling: `No Finding`, `No_Finding` and `no_finding` are one."""
    plain = re.sub(r"[^a-z0-9]+", "_", label.casefold()).strip("_")
    return _OTHERWISE.get(plain, plain)


#: The keys of the fourteen findings: who knows all of them knows whether there is none.
FOURTEEN = frozenset(key(label) for label in NIH14)


def sources(label: str, known: Collection[str]) -> tuple[str, ...]:
    """Return the keys out of `known` that tell this label; () where they do not."""
    own = key(label)
    if own in known:
        return (own,)
    if own in (NO_FINDING, ABNORMAL):
        other = ABNORMAL if own == NO_FINDING else NO_FINDING
        if other in known:
            return (other,)
        if all(finding in known for finding in FOURTEEN):
            return tuple(sorted(FOURTEEN))
    return ()


def value(label: str, known: Mapping[str, int]) -> int | None:
    """Return 0 or 1 for the label from what is known by key; None where that does not tell."""
    own = key(label)
    if own in known:
        return known[own]
    if not (found := sources(label, known)):
        return None
    abnormal = any(known[key] for key in found)
    if found[0] == NO_FINDING:
        abnormal = not abnormal
    return int(abnormal if own == ABNORMAL else not abnormal)
