"""UIDs and digests: the same for the same input for ever, and different where anything differs."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from cxrnode.core.identity import IMPLEMENTATION_CLASS_UID, derived_uid, identity_digest

parts = st.lists(st.text(max_size=8) | st.integers(), max_size=4)


def test_the_uids_sent_so_far_stay_what_they_are() -> None:
    # Frozen by hand: a change here gives every output a second life in the archives.
    assert derived_uid("sr", "1.2.3", "a" * 64, 1) == "2.25.180067137615943342473460905386164816885"
    assert IMPLEMENTATION_CLASS_UID == "2.25.173140278694638885008727179752426644042"


def test_the_digest_of_an_identity_stays_what_it_is() -> None:
    given_identity = identity_digest(patient_id="1", issuer="", accession="2", study_uid="1.2.3")
    assert given_identity == "18de99d19271e5b0302709c96df594a74e1940f95f2f022df833261f25358381"


@given(st.text(max_size=8), parts)
def test_a_derived_uid_is_a_legal_uid(kind: str, values: list[str | int]) -> None:
    uid = derived_uid(kind, *values)
    assert len(uid) <= 64
    assert re.fullmatch(r"2\.25\.(0|[1-9][0-9]*)", uid)
    assert uid == derived_uid(kind, *values)


@given(parts, parts)
def test_different_parts_give_different_uids(one: list[str | int], other: list[str | int]) -> None:
    same = [str(p) for p in one] == [str(p) for p in other]
    assert same == (derived_uid("sr", *one) == derived_uid("sr", *other))


def test_the_border_between_two_parts_counts() -> None:
    assert derived_uid("sr", "ab", "c") != derived_uid("sr", "a", "bc")
    assert derived_uid("sr", "a,b") != derived_uid("sr", "a", "b")


def test_padding_is_no_part_of_an_identity_and_everything_else_is() -> None:
    base = identity_digest(patient_id="P1", issuer="I", accession="A", study_uid="1.2")
    assert base == identity_digest(patient_id=" P1 ", issuer="I ", accession=" A", study_uid="1.2 ")
    others = {
        identity_digest(patient_id="P2", issuer="I", accession="A", study_uid="1.2"),
        identity_digest(patient_id="P1", issuer="J", accession="A", study_uid="1.2"),
        identity_digest(patient_id="P1", issuer="I", accession="B", study_uid="1.2"),
        identity_digest(patient_id="P1", issuer="I", accession="A", study_uid="1.3"),
        identity_digest(patient_id="p1", issuer="I", accession="A", study_uid="1.2"),
    }
    assert len(others - {base}) == 5
