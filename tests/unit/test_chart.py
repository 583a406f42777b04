"""The Helm chart: linted and rendered by Helm's own library, its objects before Kubernetes' own schemas."""

from __future__ import annotations

import functools
import json
import subprocess
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest

from cxrnode.cli import main
from cxrnode.config import parse_config
from cxrnode.sections.fields import RoleName
from tests.peers import REPOSITORY, require_deploy_tool

pytestmark = [pytest.mark.peers, pytest.mark.slow]

CHART = REPOSITORY / "deploy" / "helm" / "cxrnode"
ROLES = ("receive", "infer", "send", "tend", "worklist", "web")
#: Those that a site switches on.
OPTIONAL = ("worklist", "web")

#: As it ships; and with all that a site may switch on.
VALUES: dict[str, dict[str, Any]] = {
    "shipped": {},
    "whole": {
        "infer": {"gpu": {"count": 1}, "image": {"tag": "0.1.0-cuda"}, "nodeSelector": {"gpu": "yes"}},
        "autoscaling": {"enabled": True},
        "secretFiles": "tls",
        "imagePullSecrets": [{"name": "registry"}],
        "worklist": {"enabled": True, "replicas": 2},
        "web": {"enabled": True, "tlsSecret": "console"},
        "models": {"existingClaim": "bundles"},
        "spool": {"existingClaim": "films"},
        "receive": {"service": {"port": 104, "loadBalancerSourceRanges": ["10.0.0.0/8"], "annotations": {"a": "b"}}},
        "networkPolicy": {"dicomFrom": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "egress": [{"ports": [{"port": 5432}]}]},
    },
    "object store": {"spool": {"volume": False, "objectStoreSecret": "bucket"}},
}


def ran(*command: str | Path, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, input=given, capture_output=True, text=True, check=False, timeout=110)


@functools.cache
def rendered(name: str) -> list[dict[str, Any]]:
    python = require_deploy_tool("python")
    done = ran(python, REPOSITORY / "scripts" / "render-chart", CHART, given=json.dumps(VALUES[name]))
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["lint"] == []
    return list(said["manifests"])


def of_kind(kind: str, name: str = "whole") -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one for one in rendered(name) if one["kind"] == kind}


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("version", ["1.27", "1.37"])
def test_kubernetes_schemas_accept_every_object(values: str, version: str, tmp_path: Path) -> None:
    path = tmp_path / "objects.yaml"
    path.write_text("\n---\n".join(map(json.dumps, rendered(values))))
    done = ran(require_deploy_tool("kubernetes-validate"), "--strict", "-k", version, path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_values_that_the_schema_does_not_know_are_refused() -> None:
    python = require_deploy_tool("python")
    done = ran(python, REPOSITORY / "scripts" / "render-chart", CHART, given=json.dumps({"replica": 2}))
    assert done.returncode != 0
    assert "replica" in done.stderr


@pytest.mark.parametrize("values", VALUES)
def test_each_role_of_the_node_is_a_deployment_of_its_own(values: str) -> None:
    found = of_kind("Deployment", values)
    roles = [role for role in ROLES if values == "whole" or role not in OPTIONAL]
    assert set(ROLES) == set(get_args(RoleName))
    assert sorted(found) == sorted(f"site-cxrnode-{role}" for role in roles)
    for role in roles:
        [container] = found[f"site-cxrnode-{role}"]["spec"]["template"]["spec"]["containers"]
        environment = {one["name"]: one for one in container["env"]}
        assert json.loads(environment["CXRNODE__NODE__ROLES"]["value"]) == [role]
        assert container["args"] == ["serve"]


@pytest.mark.parametrize("values", VALUES)
def test_no_pod_may_more_than_the_restricted_standard_lets_it(values: str) -> None:
    """The Pod Security Standard "restricted", and a root that cannot be written to."""
    for one in [*of_kind("Deployment", values).values(), *of_kind("Job", values).values()]:
        pod = one["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert "limits" in container["resources"]


def test_probes_call_commands_that_there_are() -> None:
    for one in of_kind("Deployment").values():
        [container] = one["spec"]["template"]["spec"]["containers"]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            program, command, *options = container[probe]["exec"]["command"]
            assert (program, command) == ("cxrnode", "health")
            known = {option for parameter in main.commands[command].params for option in parameter.opts}
            assert set(options) <= known


def test_a_gpu_is_asked_for_and_never_twice_at_once() -> None:
    infer = of_kind("Deployment")["site-cxrnode-infer"]["spec"]
    [container] = infer["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert container["image"] == "cxrnode:0.1.0-cuda"
    assert infer["strategy"]["rollingUpdate"] == {"maxUnavailable": 1, "maxSurge": 0}


def test_the_number_of_readers_follows_the_age_of_the_queue() -> None:
    scaler = of_kind("HorizontalPodAutoscaler")["site-cxrnode-infer"]["spec"]
    [metric] = scaler["metrics"]
    assert metric["external"]["metric"]["name"] == "cxrnode_queue_age_seconds"
    assert scaler["scaleTargetRef"]["name"] in of_kind("Deployment")
    # Two that say how many there are would fight.
    assert "replicas" not in of_kind("Deployment")["site-cxrnode-infer"]["spec"]
    assert of_kind("HorizontalPodAutoscaler", "shipped") == {}


def test_selectors_find_the_pods_that_they_are_for() -> None:
    labels = {name: one["spec"]["template"]["metadata"]["labels"] for name, one in of_kind("Deployment").items()}

    def finds(selector: dict[str, str]) -> set[str]:
        return {name for name, has in labels.items() if selector.items() <= has.items()}

    for name, one in of_kind("PodDisruptionBudget").items():
        assert finds(one["spec"]["selector"]["matchLabels"]) == {name}
    for name, one in of_kind("Service").items():
        assert finds(one["spec"]["selector"]) == {name}
    policies = of_kind("NetworkPolicy")
    assert finds(policies["site-cxrnode"]["spec"]["podSelector"]["matchLabels"]) == set(labels)
    for name in ("site-cxrnode-receive", "site-cxrnode-web"):
        assert finds(policies[name]["spec"]["podSelector"]["matchLabels"]) == {name}


def test_the_shipped_configuration_is_one_and_its_port_is_the_pods() -> None:
    [settings] = of_kind("ConfigMap", "shipped").values()
    config = parse_config(tomllib.loads(settings["data"]["cxrnode.toml"]))
    [container] = of_kind("Deployment", "shipped")["site-cxrnode-receive"]["spec"]["template"]["spec"]["containers"]
    assert [port["containerPort"] for port in container["ports"]] == [config.listen.port]
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {str(config.node.data_dir), str(config.spool_dir), "/tmp"} <= mounts


def test_the_console_is_never_served_without_tls() -> None:
    python = require_deploy_tool("python")
    given = json.dumps({"web": {"enabled": True}})
    assert ran(python, REPOSITORY / "scripts" / "render-chart", CHART, given=given).returncode != 0
    [container] = of_kind("Deployment")["site-cxrnode-web"]["spec"]["template"]["spec"]["containers"]
    environment = {one["name"]: one.get("value") for one in container["env"]}
    [mount] = [mount for mount in container["volumeMounts"] if mount["name"] == "web-tls"]
    for key in ("CERT", "KEY"):
        assert str(environment[f"CXRNODE__WEB__TLS__{key}"]).startswith(mount["mountPath"] + "/tls.")
    [settings] = of_kind("ConfigMap").values()
    with_secret = {name: str(value) for name, value in environment.items() if value}
    config = parse_config(tomllib.loads(settings["data"]["cxrnode.toml"]), environ=with_secret)
    assert (config.web.host, config.web.port) == ("0.0.0.0", container["ports"][0]["containerPort"])


def test_what_was_acknowledged_outlives_the_release() -> None:
    [claim] = of_kind("PersistentVolumeClaim", "shipped").values()
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert of_kind("PersistentVolumeClaim", "whole") == {}


def test_with_an_object_store_there_is_no_volume_and_its_key_is_a_secret() -> None:
    assert of_kind("PersistentVolumeClaim", "object store") == {}
    for one in of_kind("Deployment", "object store").values():
        pod = one["spec"]["template"]["spec"]
        assert pod["containers"][0]["envFrom"] == [{"secretRef": {"name": "bucket"}}]
        named = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        assert named == {volume["name"] for volume in pod["volumes"]}
        assert "spool" not in named


def test_no_secret_is_written_into_an_object() -> None:
    assert of_kind("Secret") == {}
    for one in of_kind("Deployment").values():
        [container] = one["spec"]["template"]["spec"]["containers"]
        [url] = [each for each in container["env"] if each["name"] == "CXRNODE__DATABASE__URL"]
        assert url["valueFrom"]["secretKeyRef"] == {"name": "cxrnode", "key": "database-url"}
