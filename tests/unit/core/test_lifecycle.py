"""The tables of the lives of a job and of a delivery: what they allow, what they forbid, and the picture of them."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from cxrnode.core import lifecycle
from cxrnode.core.lifecycle import (
    DELIVERY,
    DONE,
    JOB,
    RESTING,
    DeliveryEvent,
    DeliveryState,
    JobEvent,
    JobState,
    advance_delivery,
    advance_job,
    job_after,
)
from cxrnode.errors import IllegalTransition

ARCHITECTURE = Path(__file__).resolve().parents[3] / "ARCHITECTURE.md"

FORBIDDEN_JOB = [pair for pair in product([None, *JobState], JobEvent) if pair not in JOB]
FORBIDDEN_DELIVERY = [pair for pair in product([None, *DeliveryState], DeliveryEvent) if pair not in DELIVERY]


@pytest.mark.parametrize(("state", "event"), FORBIDDEN_JOB)
def test_a_job_has_no_step_that_the_table_does_not_have(state: JobState | None, event: JobEvent) -> None:
    with pytest.raises(IllegalTransition, match=f"a job that is {state or 'new'} has no event {event}"):
        advance_job(state, event)


@pytest.mark.parametrize(("state", "event"), FORBIDDEN_DELIVERY)
def test_a_delivery_has_no_step_that_the_table_does_not_have(state: DeliveryState | None, event: DeliveryEvent) -> None:
    with pytest.raises(IllegalTransition, match=f"a delivery that is {state or 'new'} has no event {event}"):
        advance_delivery(state, event)


def test_every_job_state_can_be_reached_and_every_event_can_happen() -> None:
    assert set(JobState) == {after for after, _ in JOB.values()}
    assert set(JobEvent) == {event for _, event in JOB}


def test_every_delivery_state_can_be_reached_and_every_event_can_happen() -> None:
    assert set(DeliveryState) == {after for after, _ in DELIVERY.values()}
    assert set(DeliveryEvent) == {event for _, event in DELIVERY}


def test_superseded_and_withdrawn_jobs_and_cancelled_deliveries_never_move_again() -> None:
    assert {JobState.SUPERSEDED, JobState.WITHDRAWN} == set(JobState) - {state for state, _ in JOB}
    assert {DeliveryState.CANCELLED} == set(DeliveryState) - {state for state, _ in DELIVERY}


def test_only_a_person_or_a_commitment_moves_a_delivery_that_rests() -> None:
    # A person makes a withdrawal graver: it is ordered anew.
    by_persons = {DeliveryEvent.RESENT, DeliveryEvent.ORDERED}
    commitment = {DeliveryEvent.COMMITTED, DeliveryEvent.UNCOMMITTED, DeliveryEvent.PARKED}
    assert by_persons | commitment == {e for state, e in DELIVERY if state in RESTING}
    assert commitment == {e for state, e in DELIVERY if state is DeliveryState.SENT} - by_persons
    assert {DeliveryState.SENT, DeliveryState.COMMITTED} == DONE


def test_no_event_of_a_delivery_has_the_name_of_a_jobs_event() -> None:
    assert set() == {str(e) for e in JobEvent} & {str(e) for e in DeliveryEvent}


def test_the_names_of_all_events_fit_their_column() -> None:
    assert [e for e in (*JobEvent, *DeliveryEvent) if len(e) > 32] == []


def test_a_life_is_walked_past_the_events_of_deliveries() -> None:
    life = ["enqueued", "claimed", "reported", "delivery_created", "delivery_sent", "identity_changed", "delivered"]
    assert JobState.DELIVERED is job_after(life)


def test_a_life_without_events_has_no_state() -> None:
    assert job_after([]) is None


def test_a_life_with_a_step_left_out_is_refused() -> None:
    with pytest.raises(IllegalTransition, match="a job that is queued has no event reported"):
        job_after(["enqueued", "reported"])


def test_the_picture_has_one_arrow_for_each_step() -> None:
    arrows = [line for line in lifecycle.as_mermaid().splitlines() if " --> " in line]
    assert len(JOB) + len(DELIVERY) == len(arrows)
    assert "    reading --> reported: reported" in arrows


def test_the_pictures_in_the_architecture_are_those_of_the_tables() -> None:
    text = ARCHITECTURE.read_text()
    assert lifecycle.as_mermaid() == text.split("<!-- lifecycle -->")[1].split("<!-- /lifecycle -->")[0].strip()
