"""The files that an administrator installs, each before a tool of its kind; and what they say against the code."""

from __future__ import annotations

import configparser
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from cxrnode.config import parse_config, template
from tests.peers import REPOSITORY, require_deploy_tool, require_tool

DEPLOY = REPOSITORY / "deploy"
UNIT = DEPLOY / "systemd" / "cxrnode.service"
SYSUSERS = DEPLOY / "systemd" / "cxrnode.sysusers"
DOCKERFILE = DEPLOY / "container" / "Dockerfile"
COMPOSE = DEPLOY / "compose"


def ran(*command: str | Path) -> str:
    """Run a checking program; its output. Fails the test on another exit status than 0."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode != 0:
        pytest.fail(f"{command}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def yaml(path: Path) -> Any:
    """A YAML file, parsed by the tools' environment: the product itself needs no YAML."""
    read = "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))"
    documents = json.loads(ran(require_deploy_tool("python"), "-c", read, path))
    return documents[0] if len(documents) == 1 else documents


# ------------------------------------------------------------------------------------------------ systemd


@pytest.mark.peers
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    tool = Path("/usr/bin/systemd-analyze")
    if not tool.is_file():
        pytest.skip("systemd-analyze is not installed: a container without systemd")
    program = Path(require_tool("true"))  # the unit names a program that is not installed here
    text = UNIT.read_text().replace("/opt/cxrnode/bin/cxrnode", str(program))
    (tmp_path / UNIT.name).write_text(text)
    assert ran(tool, "verify", tmp_path / UNIT.name) == ""


@pytest.mark.peers
def test_systemd_calls_the_unit_hardened() -> None:
    """`systemd-analyze security` counts exposure from 0 to 10; the threshold is ten times that."""
    tool = Path("/usr/bin/systemd-analyze")
    if not tool.is_file():
        pytest.skip("systemd-analyze is not installed: a container without systemd")
    ran(tool, "security", "--offline=true", "--no-pager", "--threshold=20", UNIT)


@pytest.mark.peers
def test_systemd_would_make_the_user() -> None:
    tool = Path("/usr/bin/systemd-sysusers")
    if not tool.is_file():
        pytest.skip("systemd-sysusers is not installed: a container without systemd")
    assert "cxrnode" in ran(tool, "--dry-run", SYSUSERS)


def test_the_unit_runs_as_its_own_user_and_writes_where_the_shipped_configuration_says() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(UNIT)
    service = unit["Service"]
    assert (service["User"], service["Type"], service["ProtectSystem"]) == ("cxrnode", "notify", "strict")
    assert service["NoNewPrivileges"] == "true"
    assert f'data_dir = "{service["ReadWritePaths"]}"' in template()
    assert SYSUSERS.read_text().splitlines()[-1].split()[:2] == ["u", service["User"]]


# ---------------------------------------------------------------------------------------------- container


@pytest.mark.peers
def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    assert ran(require_deploy_tool("hadolint"), "--failure-threshold", "style", DOCKERFILE) == ""


def test_each_target_runs_as_nobody_in_particular_and_says_how_it_is() -> None:
    text = DOCKERFILE.read_text()
    stages = re.findall(r"^FROM (\S+)(?: AS (\S+))?", text, re.MULTILINE)
    assert [(base, name) for base, name in stages if name in ("cpu", "cuda")] == [("base", "cuda"), ("base", "cpu")]
    assert re.findall(r"^USER (.*)$", text, re.MULTILINE) == ["10001:10001"]
    assert len(re.findall(r'HEALTHCHECK .* CMD \["cxrnode", "health"\]', text)) == 2
    copied = set(re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE))
    wanted = {name for line in copied for name in line.split()}
    ignored = (DOCKERFILE.parent / "Dockerfile.dockerignore").read_text().splitlines()
    assert {f"!{name}" for name in wanted} == {line for line in ignored if line.startswith("!")}
    assert {name for name in wanted if not (REPOSITORY / name).exists()} == set()


@pytest.mark.peers
def test_the_compose_file_is_one_of_the_compose_specification() -> None:
    ran(require_deploy_tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", COMPOSE / "compose.yaml")


@pytest.mark.peers
def test_the_trial_s_parts_know_each_other() -> None:
    services = yaml(COMPOSE / "compose.yaml")["services"]
    config = parse_config(tomllib.loads((COMPOSE / "cxrnode.toml").read_text()))
    archive = json.loads((COMPOSE / "orthanc.json").read_text())
    pacs, us = config.peers["PACS"], archive["DicomModalities"]["cxrnode"]
    assert (pacs.aet, pacs.port) == (archive["DicomAet"], archive["DicomPort"])
    assert (us["AET"], us["Port"]) == (config.node.ae_title, config.listen.port)
    assert {pacs.host, us["Host"]} <= set(services)
    node = services["cxrnode"]
    assert f"{config.listen.port}:{config.listen.port}" in node["ports"]
    assert (node["read_only"], node["cap_drop"]) == (True, ["ALL"])
    for path in ("cxrnode.toml", "orthanc.json"):
        mounted = [volume for service in services.values() for volume in service.get("volumes", ())]
        assert any(volume.startswith(f"./{path}:") and volume.endswith(":ro") for volume in mounted)
    assert (COMPOSE / node["build"]["context"] / node["build"]["dockerfile"]).resolve() == DOCKERFILE


# --------------------------------------------------------------------------------------------------- SBOM


#: Wheels whose metadata name no licence, in some builds at least; by their repositories MIT and BSD-3-Clause.
_NO_LICENCE_SAID = {"pylibjpeg-openjpeg", "torchvision"}


@pytest.mark.peers
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_bill_of_materials_has_each_library_that_is_asked_for_with_its_version_and_licence(tmp_path: Path) -> None:
    bill = tmp_path / "sbom.json"
    command = ("environment", "--output-reproducible", "--of", "JSON", "--output-file", bill, sys.executable)
    ran(require_deploy_tool("cyclonedx-py"), *command)
    components = {_canonical(one["name"]): one for one in json.loads(bill.read_text())["components"]}
    asked = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["dependencies"]
    for requirement in asked:
        one = components[_canonical(re.split(r"[ <>=\[]", requirement)[0])]
        assert one["version"] and (one.get("licenses") or one["name"] in _NO_LICENCE_SAID), one["name"]
    assert "pylibjpeg-libjpeg" not in components  # GPL v3


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


# ------------------------------------------------------------------------------------------------ complete

#: Each file of deploy/, as a pattern, and the test above, or the module, that puts it before a tool.
_CHECKED = {
    "helm/cxrnode/**": "tests/unit/test_chart.py",
    "monitoring/cxrnode.rules.yaml": "tests/unit/test_monitoring.py",
    "monitoring/cxrnode.rules.test.yaml": "tests/unit/test_monitoring.py",
    "monitoring/prometheus.yaml": "tests/unit/test_monitoring.py",
    "monitoring/dashboard.json": "tests/unit/test_monitoring.py",
    "systemd/cxrnode.service": "test_systemd_accepts_the_unit",
    "systemd/cxrnode.sysusers": "test_systemd_would_make_the_user",
    "container/Dockerfile": "test_hadolint_finds_nothing_in_the_dockerfile",
    "container/Dockerfile.dockerignore": "test_each_target_runs_as_nobody_in_particular_and_says_how_it_is",
    "compose/compose.yaml": "test_the_compose_file_is_one_of_the_compose_specification",
    "compose/orthanc.json": "tests/integration/test_pacs_recipes.py",
    "compose/cxrnode.toml": "test_the_trial_s_parts_know_each_other",
}


def test_every_file_of_deploy_is_checked() -> None:
    files = {path for path in DEPLOY.rglob("*") if path.is_file()}
    covered = {path for pattern in _CHECKED for path in DEPLOY.glob(_files(pattern))}
    assert {str(path.relative_to(DEPLOY)) for path in files - covered} == set()
    for name, by in _CHECKED.items():
        module = REPOSITORY / by
        # A pattern is for what one program takes as a whole; a file is named by what checks it.
        assert by in globals() or "*" in name or Path(name).name in module.read_text(), name


def test_the_installation_guide_says_of_each_file_what_checks_it() -> None:
    section = (REPOSITORY / "docs" / "install.md").read_text().split("## What checks these files")[1].split("\n## ")[0]
    said = {
        name
        for row in section.splitlines()
        if row.startswith("| `")
        for name in re.findall(r"`([^`]+)`", row.split("|")[1])
    }
    assert said == set(_CHECKED)


def _files(pattern: str) -> str:
    return pattern + "/*" if pattern.endswith("**") else pattern
