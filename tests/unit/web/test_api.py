"""The API: its document against its routes, pages, ETags, deeds."""

from __future__ import annotations

import sqlalchemy as sa
from openapi_spec_validator import validate
from starlette.routing import Route

from cxrnode.store import accounts, changes, receipt
from cxrnode.store.schema import event
from cxrnode.web.app import application, views
from tests.stores import IDENTITY, arrival, delivered, enqueue, reported
from tests.unit.web.conftest import House, Visitor

TOKEN = "t" * 43


def program(house: House, name: str = "anna") -> Visitor:
    """A program that asks as this user."""
    accounts.open_session(house.database, name, TOKEN, kind=accounts.TOKEN, purpose="a script", seconds=600.0)
    visitor = house.visitor()
    visitor.client.headers["Authorization"] = f"Bearer {TOKEN}"
    return visitor


def test_the_document_is_valid_and_names_every_route_and_no_other(house: House) -> None:
    document = house.visitor().get("/api/v1/openapi.json").json()
    validate(document)
    named = {(path, method.upper()) for path, methods in document["paths"].items() for method in methods}
    routes = {
        (route.path, method)
        for route in application(house.console).routes
        if isinstance(route, Route) and route.path.startswith("/api/")
        for method in route.methods or ()
        if method != "HEAD"
    }
    assert named == routes
    names = [one["operationId"] for methods in document["paths"].values() for one in methods.values()]
    assert len(names) == len(set(names))


def test_every_get_answers_what_the_document_promises(house: House) -> None:
    delivered(house.database)
    asking = program(house)
    document = asking.get("/api/v1/openapi.json").json()
    for path, methods in document["paths"].items():
        if "get" not in methods:
            continue
        query = "?job=1" if path.endswith("/events") else ""
        answer = asking.get(path.replace("{id}", "1") + query)
        assert answer.status_code == 200, path
        promised = methods["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        assert set(promised["required"]) <= set(answer.json()), path


def test_an_answer_that_the_asker_has_is_not_sent_again(house: House) -> None:
    reported(house.database)
    asking = program(house)
    first = asking.get("/api/v1/jobs")
    again = asking.get("/api/v1/jobs", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    reported(house.database, 2)
    assert asking.get("/api/v1/jobs", headers={"If-None-Match": first.headers["etag"]}).status_code == 200


def test_pages_follow_each_other_without_a_gap_or_a_repetition(house: House) -> None:
    for number in range(7):
        enqueue(house.database, number)
    asking, seen, before = program(house), [], ""
    while True:
        page = asking.get(f"/api/v1/jobs?limit=3{before}").json()
        seen += [one["id"] for one in page["jobs"]]
        if page["next"] is None:
            break
        before = f"&before={page['next']}"
    assert seen == sorted(seen, reverse=True) and len(seen) == len(set(seen)) == 7


def test_a_finding_is_looked_for_in_whatever_case(house: House) -> None:
    job_id = reported(house.database)
    asking = program(house)
    for written in ("Effusion", "effusion", "EFFUSION"):
        assert [one["id"] for one in asking.get(f"/api/v1/jobs?finding={written}").json()["jobs"]] == [job_id]
        # The form keeps what was asked for.
        assert '<option value="Effusion" selected' in house.visitor("anna").get(f"/jobs?finding={written}").text


def test_what_cannot_be_asked_is_said_in_json(house: House) -> None:
    asking = program(house)
    for path, status in (
        ("/api/v1/jobs?state=lost", 409),
        ("/api/v1/jobs?least=2", 409),
        ("/api/v1/jobs?limit=0", 409),
        ("/api/v1/jobs/999", 404),
        ("/api/v1/jobs/x", 409),
        ("/api/v1/nothing", 404),
        ("/api/v1/events", 409),
    ):
        answer = asking.get(path)
        assert (path, answer.status_code) == (path, status)
        assert answer.json()["error"]
    assert (
        asking.client.post("/api/v1/jobs/act", content=b"{", headers={"content-type": "application/json"}).status_code
        == 409
    )


def test_whose_film_it_is_needs_a_reason_and_is_written_down_with_it(house: House) -> None:
    job_id = reported(house.database)
    asking = program(house)
    path = f"/api/v1/jobs/{job_id}/identity"
    assert asking.client.post(path, json={}).status_code == 409
    answer = asking.client.post(path, json={"reason": "a call from the ward"}).json()
    assert answer["identity"]["patient_id"] == IDENTITY["patient_id"]
    with house.database.read() as transaction:
        said = transaction.scalar(sa.select(event.c.detail).where(event.c.name == "identity_viewed"))
    assert "a call from the ward" in said and "anna" in said and IDENTITY["patient_id"] not in said


def test_no_other_answer_names_the_patient(house: House) -> None:
    job_id = delivered(house.database)
    asking = program(house)
    paths = ("overview", "jobs", f"jobs/{job_id}", f"events?job={job_id}", "associations", "models", "changes")
    said = "".join(asking.get(f"/api/v1/{path}").text for path in paths) + asking.get("/metrics").text
    assert [value for key, value in IDENTITY.items() if key != "sex" and value in said] == []


def test_a_patient_is_looked_for_in_a_body_and_the_search_is_an_event(house: House) -> None:
    job_id = reported(house.database)
    asking = program(house)
    body = {"patient_id": IDENTITY["patient_id"], "reason": "a complaint"}
    found = asking.client.post("/api/v1/jobs/search", json=body).json()
    assert [one["id"] for one in found["jobs"]] == [job_id]
    assert asking.client.post("/api/v1/jobs/search", json={"accession": "none", "reason": "r"}).json()["jobs"] == []
    assert asking.client.post("/api/v1/jobs/search", json={"patient_id": "x"}).status_code == 409
    with house.database.read() as transaction:
        said = [row[0] for row in transaction.rows(sa.select(event.c.detail).where(event.c.name == "searched"))]
    assert len(said) == 2 and IDENTITY["patient_id"] not in "".join(said)


def test_a_change_is_asked_for_and_consented_to_by_another(house: House) -> None:
    asking = program(house)
    body = {"subject": "model:candidate", "value": "active", "reason": "better on our films"}
    made = asking.client.post("/api/v1/changes", json=body).json()["changes"]
    assert [one["state"] for one in made] == ["applied"]
    assert changes.in_force(house.database).mode("candidate", "shadow") == "active"
    assert asking.client.post("/api/v1/changes", json=body).status_code == 409


def test_every_view_of_the_console_has_a_docstring_and_the_apis_a_summary() -> None:
    assert [view.path for view in views() if not view.page.__doc__] == []
    assert [view.path for view in views() if view.is_api and not view.summary] == []


def test_films_are_listed_with_those_that_no_rule_wanted_page_by_page(house: House) -> None:
    for number in range(5):
        receipt.record(
            house.database, arrival(number, accepted=number % 2 == 0), (), ageing=60.0, config_digest="c" * 64
        )
    asking, seen, before = program(house), [], ""
    while True:
        page = asking.get(f"/api/v1/films?limit=2{before}").json()
        seen += [(one["id"], one["verdict"]) for one in page["films"]]
        if page["next"] is None:
            break
        before = f"&before={page['next']}"
    words = {0: "ignored", 1: "accepted"}
    assert seen == [(number, words[number % 2]) for number in (5, 4, 3, 2, 1)]
    ignored = asking.get("/api/v1/films?verdict=ignored&since=1h")
    assert [(one["id"], one["reason"], one["jobs"]) for one in ignored.json()["films"]] == [
        (4, "no rule wants it", []),
        (2, "no rule wants it", []),
    ]
    again = asking.get("/api/v1/films?verdict=ignored&since=1h", headers={"If-None-Match": ignored.headers["etag"]})
    assert again.status_code == 304
    assert asking.get("/api/v1/films?verdict=lost").status_code == 409
    assert asking.get("/api/v1/films/999").status_code == 404
    one = asking.get("/api/v1/films/4").json()
    assert [event["name"] for event in one["events"]] == ["received", "ignored"]


def test_a_film_is_found_by_its_patient_in_a_body_and_names_nobody(house: House) -> None:
    made = delivered(house.database)
    asking = program(house)
    body = {"patient_id": IDENTITY["patient_id"], "reason": "a complaint"}
    answer = asking.client.post("/api/v1/films/search", json=body)
    assert [one["jobs"] for one in answer.json()["films"]] == [[made]]
    assert asking.client.post("/api/v1/films/search", json={"patient_id": "x"}).status_code == 409
    with house.database.read() as transaction:
        said = [row[0] for row in transaction.rows(sa.select(event.c.detail).where(event.c.name == "searched"))]
    assert len(said) == 1 and "a complaint" in said[0]
    text = answer.text + asking.get("/api/v1/films").text + asking.get("/api/v1/films/1").text
    assert [value for key, value in IDENTITY.items() if key != "sex" and value in text] == []
