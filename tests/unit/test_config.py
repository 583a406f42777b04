"""The configuration: what is read from where, and what is said of what is wrong."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cxrnode.config import Config, load_config, parse_config, template, without_secrets
from cxrnode.core import routing
from cxrnode.errors import ConfigError
from cxrnode.sections import NODE_KINDS, StowNode, Worklist
from tests.peers import REPOSITORY

PACS = {"aet": "ORTHANC", "host": "127.0.0.1", "port": 4242}
RULE = {"name": "films", "models": ["chest"], "send_to": ["PACS"]}
SITE: Mapping[str, Any] = {"nodes": {"PACS": PACS}, "models": {"chest": {"bundle": "demo"}}, "rules": [RULE]}


def complaint(raw: Mapping[str, Any], **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(raw, source=Path("site.toml"), environ=environ)
    return str(caught.value)


def written(folder: Path, text: str, name: str = "cxrnode.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


# ------------------------------------------------------------------------------------------- the shipped file


def test_the_shipped_file_is_valid_and_gives_nothing_but_its_site_and_the_defaults(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, template()), environ={})
    assert list(config.nodes) == ["PACS"]
    assert list(config.models) == ["chest"]
    assert [rule.name for rule in config.rules] == ["frontal chest films"]
    default = Config()
    for section in set(Config.model_fields) - {"nodes", "models", "rules"}:
        assert getattr(config, section) == getattr(default, section)


def test_every_commented_out_default_of_the_shipped_file_is_the_default() -> None:
    """Uncommenting a line of a section must change nothing, except where it shows an example."""
    examples = {"timezone", "tls", "ca", "proxy", "chest", "not_chest", "frontal", "lateral"}
    examples |= {"seals", "email", "webhook", "syslog", "server"}
    section, lines, shown = "", [], []
    for line in template().splitlines():
        if heading := re.match(r"\[(\w+)\]", line):
            section = heading[1]
            lines.append(f"[{section}]")
        elif re.match(r"\[", line) or re.match(r"# \[", line):
            section = ""
        elif section and (setting := re.match(r"(?:# )?(\w+) = .*", line)) and setting[1] not in examples:
            lines.append(line.removeprefix("# "))
            shown.append(f"{section}.{setting[1]}")
    assert parse_config(tomllib.loads("\n".join(lines))) == Config()
    keys = {
        f"{name}.{field.alias or key}"
        for name, section_field in Config.model_fields.items()
        if name not in ("nodes", "worklists", "models", "rules") and section_field.annotation is not None
        for key, field in section_field.annotation.model_fields.items()
        if key not in examples
    }
    assert keys == set(shown)


def test_every_key_of_a_node_and_of_a_worklist_stands_in_the_shipped_file() -> None:
    text = template()
    shown = {setting for setting in re.findall(r"^(?:# )?(\w+) = ", text, re.MULTILINE)}
    assert [key for kind in NODE_KINDS.values() for key in kind.model_fields if key not in shown] == []
    block = text[text.index("# [worklists.READING]") :].split("\n\n")[0]
    raw = tomllib.loads(re.sub(r"^# ?", "", block, flags=re.MULTILINE))["worklists"]["READING"]
    assert set(raw) == set(Worklist.model_fields)
    defaults = {key: field.default for key, field in Worklist.model_fields.items() if not field.is_required()}
    given = Worklist.model_validate(raw)
    examples = {"match", "auth", "tls"}
    assert {key: getattr(given, key) for key in defaults if key not in examples} == {
        key: value for key, value in defaults.items() if key not in examples
    }


# ---------------------------------------------------------------------------------------------- where it is found


def test_the_named_file_wins_over_the_variable_and_this_over_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    here = written(tmp_path, "[listen]\nport = 1\n")
    by_variable = written(tmp_path, "[listen]\nport = 2\n", "variable.toml")
    named = written(tmp_path, "[listen]\nport = 3\n", "named.toml")
    environ = {"CXRNODE_CONFIG": str(by_variable)}
    assert load_config(named, environ=environ).listen.port == 3
    assert load_config(environ=environ).listen.port == 2
    assert load_config(environ={}).listen.port == 1
    assert load_config(environ={}).source == here


def test_without_a_file_the_message_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cxrnode.config.SEARCH", (Path("cxrnode.toml"),))
    with pytest.raises(ConfigError, match=re.escape("./cxrnode.toml; `cxrnode init` writes one")):
        load_config(environ={})


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*gone\.toml: No such file"):
        load_config(tmp_path / "gone.toml", environ={})
    with pytest.raises(ConfigError, match=r"cxrnode\.toml is not valid TOML: .*line 2"):
        load_config(written(tmp_path, "[node]\nae_title = CXR"), environ={})
    (tmp_path / "latin.toml").write_bytes(b"# \xe4\n")
    with pytest.raises(ConfigError, match=r"latin\.toml is not UTF-8"):
        load_config(tmp_path / "latin.toml", environ={})


def test_relative_paths_start_at_the_files_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site"
    site.mkdir()
    path = written(site, '[node]\ndata_dir = "var"\n')
    monkeypatch.chdir(tmp_path)
    config = load_config(Path("site") / path.name, environ={})
    assert config.node.data_dir == site / "var"
    assert config.spool_dir == site / "var" / "spool"
    assert config.database_url == f"sqlite+pysqlite:///{site}/var/cxrnode.sqlite"


@pytest.mark.parametrize(
    ("written_as", "meant"),
    [
        ("sqlite:///x.sqlite", "sqlite:///{site}/x.sqlite"),
        ("sqlite+pysqlite:///../var/x.sqlite?timeout=5", "sqlite+pysqlite:///{site}/../var/x.sqlite?timeout=5"),
        ("sqlite:////var/lib/x.sqlite", "sqlite:////var/lib/x.sqlite"),
        ("sqlite://", "sqlite://"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("sqlite:///file:x?mode=ro&uri=true", "sqlite:///file:x?mode=ro&uri=true"),
        ("postgresql+psycopg://cxr@db/cxrnode", "postgresql+psycopg://cxr@db/cxrnode"),
    ],
)
@pytest.mark.parametrize("by_variable", [False, True])
def test_a_relative_url_of_sqlite_starts_at_the_files_folder_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written_as: str, meant: str, by_variable: bool
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    path = written(site, "" if by_variable else f'[database]\nurl = "{written_as}"\n')
    monkeypatch.chdir(tmp_path)
    config = load_config(path, environ={"CXRNODE__DATABASE__URL": written_as} if by_variable else {})
    assert config.database_url == meant.format(site=site)


@pytest.mark.parametrize(
    ("written_as", "meant"),
    [
        ("films", "{site}/films"),
        ("file://films", "{site}/films"),
        ("/mnt/films", "/mnt/films"),
        ("file:///mnt/films", "/mnt/films"),
        ("s3://bucket/films", "/var/lib/cxrnode/spool"),
    ],
)
def test_a_relative_spool_starts_at_the_files_folder_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written_as: str, meant: str
) -> None:
    path = written(tmp_path, f'[spool]\nurl = "{written_as}"\n')
    monkeypatch.chdir("/")
    assert load_config(path, environ={}).spool_dir == Path(meant.format(site=tmp_path))


# ---------------------------------------------------------------------------------------------------- variables


def test_a_variable_overrides_the_file_in_the_files_own_spelling() -> None:
    config = parse_config(
        SITE,
        environ={
            "CXRNODE__LISTEN__PORT": "104",
            "CXRNODE__NODES__PACS__HOST": "pacs.example.org",
            "CXRNODE__NODE__ROLES": '["receive"]',
            "CXRNODE__NODE__AE_TITLE": "AI 1",
            "CXRNODE__LISTEN__ACCEPT_UNKNOWN": "true",
            "CXRNODE_CONFIG": "no setting",
        },
    )
    assert config.listen.port == 104
    assert (list(config.nodes), config.peers["PACS"].host) == (["PACS"], "pacs.example.org")
    assert config.node.roles == ("receive",)
    assert config.node.ae_title == "AI 1"
    assert config.listen.accept_unknown is True


def test_a_wrong_variable_is_named_itself() -> None:
    assert complaint(SITE, CXRNODE__LISTEN__PORT="x").startswith("CXRNODE__LISTEN__PORT: listen.port: ")
    assert complaint(SITE, CXRNODE__LISTENN__PORT="1") == (
        "CXRNODE__LISTENN__PORT: unknown key listenn; did you mean listen?"
    )
    assert "CXRNODE__RULES__0__NAME: rules is not a table" in complaint(SITE, CXRNODE__RULES__0__NAME="x")


# ---------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"listen": {"prot": 104}}, "site.toml: unknown key listen.prot; did you mean port?"),
        ({"lissten": {}}, "site.toml: unknown key lissten; did you mean listen?"),
        ({"sr": {"klass": "x"}}, "site.toml: unknown key sr.klass; did you mean class?"),
        ({"spool": {"zzz": 1}}, "site.toml: unknown key spool.zzz; known here: ca, endpoint, min_free, url"),
        ({"nodes": {"A": {"aet": "A", "host": "h"}}}, "site.toml: nodes.A.port is missing; add it"),
        (
            {"rules": [{"name": "r", "models": ["m"], "send": []}], "models": {"m": {"bundle": "demo"}}},
            "site.toml: unknown key rules[0].send; did you mean send_to?",
        ),
        (
            {"nodes": {"A": {**PACS, "tls": {"ca": "a", "cert": "b", "kee": "c", "key": "d"}}}},
            "site.toml: unknown key nodes.A.tls.kee; did you mean key?",
        ),
        (
            {"send": {"lease": 30}},
            "site.toml: send.lease: a duration needs its unit: write it like 30s, 5m or PT5M, not 30",
        ),
        (
            {"spool": {"min_free": 30}},
            "site.toml: spool.min_free: a size needs its unit: write it like 512 MiB or 5 GiB, not 30",
        ),
        (
            {"node": {"timezone": "Berlin"}},
            "site.toml: node.timezone: 'Berlin' is no time zone; write it like Europe/Berlin or UTC",
        ),
        ({"listen": {"port": 65536}}, "site.toml: listen.port: Input should be less than or equal to 65535"),
        ({"send": {"lease": "0s"}}, "site.toml: send.lease: Input should be greater than 0"),
        ({"node": {"roles": ["recieve"]}}, "site.toml: node.roles[0]: Input should be 'receive', 'infer', "),
    ],
)
def test_a_wrong_key_is_named_with_its_place_and_its_remedy(raw: Mapping[str, Any], message: str) -> None:
    assert message in complaint(raw)


@pytest.mark.parametrize("title", ["", "    ", "A" * 17, "A\\B", "A\tB", "ÄRZTE"])
def test_what_is_no_ae_title_is_refused(title: str) -> None:
    assert "is no AE title" in complaint({"node": {"ae_title": title}})


@pytest.mark.parametrize("title", ["A", "A" * 16, "AI NODE-1_x", " CXR "])
def test_an_ae_title_is_kept_without_its_padding(title: str) -> None:
    assert parse_config({"node": {"ae_title": title}}).node.ae_title == title.strip()


def test_a_rule_that_names_what_is_not_there_is_refused_with_what_is() -> None:
    raw = {**SITE, "rules": [{"name": "films", "models": ["chset"], "send_to": ["PACSS", "PACS"]}]}
    assert complaint(raw) == (
        "site.toml: rule 'films' names the model 'chset', which is not configured; did you mean chest?; "
        "rule 'films' names the node 'PACSS', which is not configured; did you mean PACS?"
    )
    assert "add [models.chest]" in complaint({"rules": [{"name": "films", "models": ["chest"]}]})


def test_the_configuration_in_the_readme_is_one() -> None:
    [block] = re.findall(r"```toml\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    config = parse_config(tomllib.loads(block))
    assert [rule.send_to for rule in config.rules] == [("PACS",)]
    assert len(block.strip().splitlines()) <= 12


WEB = {"kind": "stow", "url": "https://pacs.example.org/dicom-web/"}
RIS = {"kind": "hl7", "host": "ris", "port": 2575}


def test_a_node_is_of_the_kind_it_says_and_a_dicom_node_without_saying() -> None:
    config = parse_config({"nodes": {"PACS": PACS, "WEB": WEB, "RIS": RIS, "stow": {**PACS, "kind": "dicom"}}})
    assert {name: node.kind for name, node in config.nodes.items()} == {
        "PACS": "dicom",
        "WEB": "stow",
        "RIS": "hl7",
        "stow": "dicom",
    }
    assert (sorted(config.peers), set(config.message_receivers)) == (["PACS", "stow"], {"RIS"})
    web = config.nodes["WEB"]
    assert isinstance(web, StowNode) and web.url == "https://pacs.example.org/dicom-web"


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({**WEB, "kind": "stowe"}, 'site.toml: nodes.A: kind is "dicom", "stow" or "hl7"'),
        ({**WEB, "ulr": "x"}, "site.toml: unknown key nodes.A.ulr; did you mean url?"),
        ({"kind": "stow"}, "site.toml: nodes.A.url is missing; add it"),
        ({**WEB, "url": "pacs.example.org"}, "nodes.A.url: 'pacs.example.org' is no http:// or https:// url"),
        ({**WEB, "url": "http://pacs.example.org:99999"}, "nodes.A.url: Port out of range"),
        ({**PACS, "host": "pacs..example.org"}, "nodes.A.host: 'pacs..example.org' is no host name"),
        ({**WEB, "url": "https://ann:pw@pacs/x"}, "nodes.A.url: the url holds more than host, port and path"),
        ({**WEB, "url": "https://pacs/x?key=1"}, "nodes.A.url: the url holds more than host, port and path"),
        ({**WEB, "auth": {"user": "a"}}, "nodes.A.auth: name one place of the secret, file or variable"),
        ({**WEB, "auth": {"file": "a", "variable": "B"}}, "nodes.A.auth: name one place of the secret"),
        (
            {**WEB, "url": "http://pacs/x", "auth": {"variable": "TOKEN"}},
            "nodes.A: auth over http:// tells the secret to the network; give an https:// url",
        ),
        ({**WEB, "tls": {"cert": "c"}}, "nodes.A.tls: cert and key belong together"),
        ({**WEB, "url": "http://pacs/x", "tls": {"ca": "c"}}, "nodes.A: tls is for https:// urls"),
        ({**RIS, "aet": "X"}, "site.toml: unknown key nodes.A.aet; known here: host, kind, port, tls"),
    ],
)
def test_what_is_wrong_with_another_kind_of_node_is_named(node: Mapping[str, Any], message: str) -> None:
    said = complaint({"nodes": {"A": node}})
    assert message in said
    assert "pw" not in said


def test_messages_and_their_receivers_belong_together() -> None:
    site = {**SITE, "nodes": {"PACS": PACS, "RIS": RIS}}
    assert "makes no message" in complaint({**site, "rules": [{**RULE, "send_to": ["RIS"]}]})
    lonely = {**RULE, "outputs": ["sr", "hl7"]}
    assert "makes HL7 messages for nobody" in complaint({**site, "rules": [lonely]})
    assert parse_config({**site, "rules": [{**lonely, "send_to": ["PACS", "RIS"]}]}).rules[0].send_to == ("PACS", "RIS")
    assert "holds a delimiter" in complaint({"hl7": {"sending_facility": "A^B"}})


def test_two_rules_of_one_name_are_refused() -> None:
    assert "two rules are called 'films'" in complaint({**SITE, "rules": [RULE, RULE]})


def test_two_active_models_of_one_bundle_are_refused_and_a_shadow_beside_one_is_not() -> None:
    twins = {"a": {"bundle": "demo"}, "b": {"bundle": "demo"}}
    assert "two active models use the bundle 'demo'" in complaint({"models": twins})
    assert parse_config({"models": {**twins, "b": {"bundle": "demo", "mode": "shadow"}}}).models["b"].mode == "shadow"


def test_a_name_longer_than_the_database_takes_is_refused() -> None:
    assert "longer than 64 characters" in complaint({"models": {"m" * 65: {"bundle": "demo"}}})


def test_reading_implausible_films_is_for_demo_and_bench_alone() -> None:
    reading = {"implausible": "read"}
    assert 'reading.implausible = "read" would give findings' in complaint({"reading": reading})
    for purpose in ("demo", "bench"):
        config = parse_config({"reading": reading, "node": {"purpose": purpose}})
        assert config.reading.implausible == "read"


FLAGGING = {"name": "all", "models": ["m"], "outputs": ["sr", "key_object"]}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"heatmap": {"min_findings": 7}}, "heatmap.min_findings is above"),
        ({"send": {"backoff_base": "1h"}}, "send.backoff_base is above"),
        ({"reading": {"decode_timeout": "2m"}}, "reading.decode_timeout must end before"),
        ({"models": {"m": {"bundle": "demo"}}, "rules": [FLAGGING]}, "key_object.findings names no finding"),
        ({"spool": {"url": "gs://bucket/prefix"}}, "spool.url is a folder or s3://BUCKET/PREFIX"),
    ],
)
def test_values_that_contradict_each_other_are_refused(raw: Mapping[str, Any], message: str) -> None:
    assert message in complaint(raw)


def test_all_that_is_wrong_is_said_at_once() -> None:
    assert len(complaint({"listen": {"prot": 1}, "node": {"ae_tite": "A"}, "web": {"port": 0}}).splitlines()) == 3


# ------------------------------------------------------------------------------------------------------ the value


def test_it_is_frozen_and_survives_the_way_to_a_child_process(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, template()), environ={})
    with pytest.raises(ValidationError, match="frozen"):
        config.listen.port = 1  # type: ignore[misc]
    again = pickle.loads(pickle.dumps(config))
    assert (again, again.source, again.digest) == (config, config.source, config.digest)


def test_the_digest_changes_with_a_setting_and_not_with_a_password() -> None:
    def digest(password: str, port: int) -> str:
        url = f"postgresql+psycopg://cxr:{password}@db/cxrnode"
        return parse_config({"database": {"url": url}, "listen": {"port": port}}).digest

    assert digest("one", 104) == digest("two", 104)
    assert digest("one", 104) != digest("one", 105)
    assert re.fullmatch("[0-9a-f]{64}", digest("one", 104))


def test_no_secret_stands_in_a_repr_or_a_shown_url() -> None:
    url = "postgresql+psycopg://cxr:s3cr@t@db:5432/cxrnode?sslpassword=s3cr@t"
    config = parse_config({"database": {"url": url}})
    assert "s3cr" not in repr(config)
    assert without_secrets(url) == "postgresql+psycopg://cxr@db:5432/cxrnode"
    assert config.database_url == url


def test_no_secret_stands_in_a_complaint() -> None:
    assert "s3cret" not in complaint({"database": {"url": ["s3cret"], "urll": "s3cret"}})


def test_it_does_not_load_what_it_does_not_need() -> None:
    """Every process imports it first; receive must answer two seconds after its start."""
    heavy = "('torch', 'numpy', 'pydicom', 'sqlalchemy')"
    code = f"import sys, cxrnode.config; print(*(m for m in {heavy} if m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


def test_routing_knows_every_condition_that_the_shipped_file_shows() -> None:
    shown = re.findall(r"^#? ?when = (\{.*?\})", template(), re.MULTILINE)
    assert len(shown) == 2
    for condition in shown:
        when = tomllib.loads(f"when = {condition}")["when"]
        routing.Rule.from_mapping({"name": "shown", "when": when})


def test_films_are_dated_in_the_zone_of_their_sender_then_of_the_node_and_else_in_none() -> None:
    nodes = {
        "HERE": {"aet": "HERE", "host": "h", "port": 104},
        "ISLAND": {"aet": "ISLAND", "host": "h", "port": 104, "timezone": "Atlantic/Azores"},
    }
    set_here = parse_config({"node": {"timezone": "Europe/Lisbon"}, "nodes": nodes})
    unset = parse_config({"nodes": nodes})
    zones = [[config.timezone_of(aet) for aet in ("HERE", "ISLAND", "STRANGER")] for config in (set_here, unset)]
    assert zones == [["Europe/Lisbon", "Atlantic/Azores", "Europe/Lisbon"], ["", "Atlantic/Azores", ""]]
