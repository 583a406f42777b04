"""Who comes into the console, and who does not."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from starlette.testclient import TestClient

from cxrnode.config import parse_config
from cxrnode.errors import ConfigError
from cxrnode.store import accounts, changes
from cxrnode.store.attempts import FREE
from cxrnode.store.database import Database
from cxrnode.store.schema import event
from cxrnode.web import throttle
from cxrnode.web.app import application
from cxrnode.web.console import Console
from cxrnode.web.gate import COOKIE
from cxrnode.web.server import _shared_key
from tests.stores import Clock
from tests.unit.web.conftest import PASSWORD, House, Make, Visitor

BASE = "http://127.0.0.1:8042"
PAGES = ("/", "/jobs", "/jobs/1", "/associations", "/models", "/nodes")


def noted(house: House, name: str) -> list[str]:
    with house.database.read() as transaction:
        return [row[0] for row in transaction.rows(sa.select(event.c.detail).where(event.c.name == name))]


@pytest.fixture
def consoles(house: House) -> Iterator[list[Callable[[str], Visitor]]]:
    """Two consoles of one store, whose clock stands still: for each, what makes a visitor from an address."""
    databases = [Database(f"sqlite+pysqlite:///{house.database.file}") for _ in range(2)]

    def visitors(number: int) -> Callable[[str], Visitor]:
        Clock(databases[number])
        console = Console(config=house.config, database=databases[number], spool=house.spool, key=house.console.key)
        app = application(console)
        return lambda address: Visitor(TestClient(app, base_url=BASE, client=(address, 50000 + number)))

    yield [visitors(number) for number in range(2)]
    for database in databases:
        database.close()


@pytest.mark.parametrize("path", PAGES)
def test_nobody_sees_a_page_without_logging_in(house: House, path: str) -> None:
    answer = house.visitor().get(path)
    assert (answer.status_code, answer.headers["location"].partition("?")[0]) == (303, "/login")


def test_a_program_without_a_token_is_told_so_in_json(house: House) -> None:
    answer = house.visitor().get("/api/v1/jobs")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")


def test_a_wrong_password_is_refused_and_written_down_without_what_was_typed(house: House) -> None:
    visitor = house.visitor()
    assert visitor.login("anna", "not the password").status_code == 401
    assert visitor.login("my-secret-typed-as-name", PASSWORD).status_code == 401
    said = noted(house, "login_refused")
    assert len(said) == 2 and '"account":"anna"' in said[0]
    assert "typed" not in "".join(said) and "not the password" not in "".join(said)
    assert COOKIE not in visitor.client.cookies


def test_failures_cost_time_and_the_right_password_too_meanwhile(house: House) -> None:
    Clock(house.database)  # stands still: the first pause is over in five seconds
    visitor = house.visitor()
    for _ in range(FREE):
        visitor.login("anna", "wrong password")
    answer = visitor.login("anna")
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1


def test_failures_at_one_console_cost_time_at_the_other_of_the_same_store(
    consoles: list[Callable[[str], Visitor]],
) -> None:
    for number in range(FREE):
        assert consoles[number % 2]("192.0.2.7").login("anna", "wrong password").status_code == 401
    for console in consoles:
        assert console("192.0.2.7").login("anna").status_code == 429
    assert consoles[0]("192.0.2.8").login("bert").status_code == 303


def test_two_consoles_at_once_give_a_guesser_no_more_tries_than_one(consoles: list[Callable[[str], Visitor]]) -> None:
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda n: consoles[n % 2]("192.0.2.7").login("anna", f"guess {n}"), range(16)))
    statuses = Counter(answer.status_code for answer in answers)
    assert statuses == {401: FREE, 429: 16 - FREE}


def test_a_stranger_who_fails_under_a_name_never_locks_its_own_browser_out_nor_others_for_good(
    house: House,
) -> None:
    own = house.visitor(address="192.0.2.1")
    assert own.login("anna").status_code == 303
    own.post("/logout")
    clock, waited = Clock(house.database), 0.0
    stranger, elsewhere = (house.visitor(address=address) for address in ("198.51.100.66", "192.0.2.99"))
    for _ in range(FREE):
        assert stranger.login("anna", "guess").status_code == 401
    assert stranger.login("anna", "guess").status_code == 429
    while (answer := elsewhere.login("anna")).status_code == 429:
        assert waited < 300.0
        pause = float(answer.headers["retry-after"])
        assert own.login("anna").status_code == 303
        own.post("/logout")
        clock.turn(pause)
        waited += pause
        stranger.login("anna", "guess")  # it is there first each time
    assert answer.status_code == 303 and waited > 0
    assert stranger.login("anna", "guess").status_code == 429


def test_a_browser_that_somebody_was_let_in_by_gives_no_free_tries_under_another_name_and_few_under_theirs(
    house: House,
) -> None:
    Clock(house.database)
    own = house.visitor(address="192.0.2.1")
    assert own.login("bert").status_code == 303
    own.client.cookies.delete(COOKIE)
    answers = [own.login("bert", "wrong password").status_code for _ in range(FREE + 1)]
    assert answers == [401] * FREE + [429]
    answers = [own.login("anna", "wrong password").status_code for _ in range(FREE + 1)]
    assert answers == [401] * FREE + [429]
    (name,) = (one for one in own.client.cookies if one.startswith("cxrnode_device_"))
    own.client.cookies[throttle.cookie_of("anna", house.console.key)] = own.client.cookies[name]
    assert own.login("anna").status_code == 429


def test_the_session_cookie_is_kept_from_scripts_and_other_sites(house: House) -> None:
    cookie = house.visitor().login("anna").headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=lax" in cookie


def test_a_form_without_the_sessions_token_does_nothing(house: House) -> None:
    anna = house.visitor("anna")
    for csrf in ("", "0" * 40, house.visitor("bert").csrf):
        anna.csrf = csrf
        assert anna.post("/stop", {"reason": "a reason"}).status_code == 403
    assert changes.in_force(house.database).switches == {}


def test_another_sites_page_makes_a_browser_do_nothing(house: House) -> None:
    anna = house.visitor("anna")
    fields = {"reason": "a reason"}
    assert anna.post("/stop", fields, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert anna.post("/stop", fields, headers={"Origin": "https://evil.example.org"}).status_code == 403
    assert changes.in_force(house.database).switches == {}


@pytest.mark.parametrize(
    ("who", "path", "fields", "status"),
    [
        ("vera", "/stop", {"reason": "r"}, 403),
        ("otto", "/stop", {"reason": "r"}, 303),
        ("vera", "/jobs/act", {"act": "retry", "job": "1", "reason": "r"}, 403),
        ("otto", "/models/change", {"subject": "model:chest", "value": "shadow", "reason": "r"}, 403),
        ("anna", "/models/change", {"subject": "model:chest", "value": "shadow", "reason": "r"}, 303),
    ],
)
def test_a_role_may_what_it_may(house: House, who: str, path: str, fields: dict[str, str], status: int) -> None:
    assert house.visitor(who).post(path, fields).status_code == status


def test_a_session_ends_with_the_logout_the_account_and_its_time(make_house: Make) -> None:
    house = make_house(web={"session": "12h", "idle": "30m"})
    anna = house.visitor("anna")
    kept = anna.client.cookies[COOKIE]
    assert anna.post("/logout").status_code == 303
    assert accounts.session_of(house.database, kept, idle=1800.0) is None
    bert = house.visitor("bert")
    accounts.change(house.database, "bert", by="test", disabled=True)
    assert bert.get("/").status_code == 303
    assert house.visitor().login("bert").status_code == 401
    otto = house.visitor("otto")
    secret = otto.client.cookies[COOKIE]
    with house.database.write() as transaction:
        transaction.connection.execute(sa.text("UPDATE session SET seen_at = seen_at - 1801"))
    assert accounts.session_of(house.database, secret, idle=1800.0) is None


def test_a_token_asks_the_api_and_needs_no_form(house: House) -> None:
    accounts.open_session(house.database, "otto", "t" * 43, kind=accounts.TOKEN, purpose="a script", seconds=60.0)
    headers = {"Authorization": "Bearer " + "t" * 43}
    visitor = house.visitor()
    assert visitor.get("/api/v1/jobs", headers=headers).status_code == 200
    body = {"act": "retry", "jobs": [1], "reason": "r"}
    assert visitor.client.post("/api/v1/jobs/act", json=body, headers=headers).json()["done"][0]["ok"] is False
    assert visitor.get("/api/v1/jobs", headers={"Authorization": "Bearer wrong"}).status_code == 401


PROXY = {"host": "0.0.0.0", "proxy": {"addresses": ["192.0.2.2"], "default_role": "viewer"}}


def test_a_proxys_word_is_believed_from_its_address_alone(make_house: Make) -> None:
    house = make_house(web=PROXY)
    said = {"X-Remote-User": "anna"}
    assert house.visitor(address="192.0.2.3").get("/", headers=said).status_code == 303
    through = house.visitor(address="192.0.2.2")
    assert "anna</b> admin" in through.get("/", headers=said).text
    assert "nobody-known</b> viewer" in through.get("/", headers={"X-Remote-User": "nobody-known"}).text
    accounts.change(house.database, "anna", by="test", disabled=True)
    assert through.get("/", headers=said).status_code == 303


def test_beyond_this_machine_there_is_tls_or_a_proxy() -> None:
    with pytest.raises(ConfigError, match=r"web: host 0\.0\.0\.0 would show patients' results"):
        parse_config({"web": {"host": "0.0.0.0"}})
    assert parse_config({"web": PROXY}).web.host == "0.0.0.0"
    assert parse_config({}).web.host == "127.0.0.1"


def test_a_name_that_was_rebound_to_this_machine_is_refused(house: House) -> None:
    assert house.visitor(base="http://rebound.example.org:8042").get("/metrics").status_code == 403
    assert house.visitor(base="http://localhost:8042").get("/healthz").status_code == 200


def test_metrics_are_for_this_machine_and_the_addresses_named(make_house: Make) -> None:
    house = make_house(web={**PROXY, "metrics_from": ["192.0.2.9"]})
    answers = {
        at: house.visitor(address=at).get("/metrics").status_code for at in ("127.0.0.1", "192.0.2.9", "192.0.2.8")
    }
    assert answers == {"127.0.0.1": 200, "192.0.2.9": 200, "192.0.2.8": 403}


def test_every_answer_has_the_security_headers_and_no_page_has_inline_script_or_style(house: House) -> None:
    anna = house.visitor("anna")
    for path in ("/login", "/healthz", "/nothing", "/static/console.css", *PAGES):
        answer = anna.get(path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy, path
        assert answer.headers["x-content-type-options"] == "nosniff"
        if "text/html" in answer.headers.get("content-type", ""):
            assert "<script>" not in answer.text and " style=" not in answer.text and " onclick" not in answer.text
            assert answer.headers["cache-control"] == "no-store"


def test_a_login_goes_on_to_a_page_of_ours_alone(house: House) -> None:
    for target in ("https://evil.example.org/", "//evil.example.org", "/\\evil.example.org", "javascript:alert(1)"):
        assert house.visitor().login("anna", next=target).headers["location"] == "/"
    assert house.visitor().login("anna", next="/jobs").headers["location"] == "/jobs"


def test_a_body_that_is_too_large_is_not_read(house: House) -> None:
    answer = house.visitor("anna").client.post(
        "/jobs", content=b"a=" + b"x" * (2 << 20), headers={"content-type": "application/x-www-form-urlencoded"}
    )
    assert answer.status_code == 413


def test_a_node_without_room_is_not_ready_and_tells_a_stranger_no_more(make_house: Make) -> None:
    house = make_house(spool={"min_free": "1000000 GiB"})
    near, far = house.visitor().get("/readyz"), house.visitor(address="10.0.0.9").get("/readyz")
    assert (near.status_code, far.status_code) == (503, 503)
    assert far.json() == {"ok": False}
    checks = {one["name"]: one for one in near.json()["checks"]}
    assert {name: one["ok"] for name, one in checks.items()} == {
        "database": True,
        "spool": True,
        "disk": False,
        "queue": True,
    }
    assert "0xA700" in checks["disk"]["remedy"]
    assert make_house().visitor().get("/readyz").status_code == 200


def test_a_form_of_one_console_is_taken_by_another_of_the_same_store(
    house: House, consoles: list[Callable[[str], Visitor]]
) -> None:
    """Behind a balancer each request may come to another machine."""
    keys = [_shared_key(house.database, threading.Event(), lambda: None) for _ in range(2)]
    assert keys[0] is not None and keys[0] == keys[1]
    first, second = (console("127.0.0.1").client for console in consoles)
    visitor = Visitor(first)
    assert visitor.login("anna").status_code == 303
    second.cookies = first.cookies
    other = Visitor(second, csrf=visitor.csrf)
    assert other.get("/").status_code == 200
    answer = other.post("/models/change", {"subject": "queue:reading", "value": "paused", "reason": "a test"})
    assert answer.status_code == 303, answer.text
    assert house.console.in_force().paused("queue:reading")
