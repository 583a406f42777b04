"""Prometheus' rules and Grafana's dashboard: promtool reads them, and they name metrics that there are."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.peers import REPOSITORY, require_deploy_tool, require_tool

FOLDER = REPOSITORY / "deploy" / "monitoring"
RULES = FOLDER / "cxrnode.rules.yaml"
DASHBOARD = FOLDER / "dashboard.json"
METRICS = (REPOSITORY / "cxrnode" / "web" / "metrics.py").read_text()
OPERATIONS = (REPOSITORY / "docs" / "operations.md").read_text()

#: How the text format ends the names of each kind (Prometheus' exposition format).
_ENDINGS = {"_gauge": ("",), "CounterMetricFamily": ("_total",), "_histogram": ("_bucket", "_sum", "_count")}


def exported() -> set[str]:
    """The names of all series that /metrics gives."""
    named = re.findall(r'\b(_gauge|CounterMetricFamily|_histogram)\(\s*"(cxrnode_[a-z_]+)"', METRICS)
    return {name + ending for kind, name in named for ending in _ENDINGS[kind]}


def expressions() -> list[str]:
    """Each expression of the dashboard."""
    panels: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def used(text: str) -> set[str]:
    return set(re.findall(r"\bcxrnode_[a-z_]+", text))


def promtool(*arguments: str | Path) -> str:
    done = subprocess.run(
        [require_tool("promtool"), *arguments], cwd=FOLDER, capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_metric_of_the_rules_and_the_dashboard_is_exported() -> None:
    assert {"cxrnode_queue_age_seconds", "cxrnode_events_total"} <= exported()
    assert used(" ".join(expressions())) - exported() == set()
    named = set(re.findall(r"expr:(.*?)(?=\n +(?:for|labels):)", RULES.read_text(), re.DOTALL))
    assert len(named) == RULES.read_text().count("- alert:")
    assert used(" ".join(named)) - exported() == set()


def test_the_chart_scales_by_a_metric_that_is_exported() -> None:
    values = (REPOSITORY / "deploy" / "helm" / "cxrnode" / "values.yaml").read_text()
    assert used(values) - exported() == set()


@pytest.mark.peers
def test_promtool_accepts_the_rules_and_the_configuration() -> None:
    assert "SUCCESS" in promtool("check", "rules", RULES.name)
    assert "SUCCESS" in promtool("check", "config", "prometheus.yaml")


@pytest.mark.peers
def test_each_alert_is_raised_by_what_it_is_for_and_not_by_a_node_that_is_well() -> None:
    assert "SUCCESS" in promtool("test", "rules", "cxrnode.rules.test.yaml")
    tried = (FOLDER / "cxrnode.rules.test.yaml").read_text()
    alerts = re.findall(r"- alert: (\w+)", RULES.read_text())
    assert [alert for alert in alerts if f"alertname: {alert}\n        exp_alerts:" not in tried] == []


@pytest.mark.peers
def test_promtool_accepts_each_expression_of_the_dashboard(tmp_path: Path) -> None:
    """As a recording rule: that is how promtool reads an expression."""
    rules = [{"record": f"panel:{number}", "expr": expr} for number, expr in enumerate(expressions())]
    path = tmp_path / "expressions.yaml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"SUCCESS: {len(rules)} rules found" in promtool("check", "rules", path)


#: Reads a dashboard as Grafana's own types and prints it as they write it: what they do not know is gone.
_THROUGH_GRAFANA = """
import json, sys
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
register_default_plugins()
print(JSONEncoder().encode(Dashboard.from_json(json.load(sys.stdin))))
"""


def through_grafana(dashboard: dict[str, Any]) -> dict[str, Any]:
    """A dashboard after Grafana's types. Raises CalledProcessError where they cannot read it."""
    done = subprocess.run(
        [require_deploy_tool("python"), "-c", _THROUGH_GRAFANA],
        input=json.dumps(dashboard),
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    read: dict[str, Any] = json.loads(done.stdout)
    return read


def lost(ours: Any, theirs: Any, at: str = "") -> list[str]:
    """Where the second lacks what the first has, or has another value."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return [one for key, value in ours.items() for one in lost(value, theirs.get(key), f"{at}.{key}")]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        return [one for n, (a, b) in enumerate(zip(ours, theirs, strict=True)) for one in lost(a, b, f"{at}[{n}]")]
    return [] if ours == theirs else [at]


@pytest.mark.peers
def test_grafana_s_schema_knows_every_key_and_type_of_the_dashboard() -> None:
    ours = json.loads(DASHBOARD.read_text())
    assert lost(ours, through_grafana(ours)) == []
    wrong = json.loads(DASHBOARD.read_text())
    wrong["panels"][0]["gridPoss"] = wrong["panels"][0]["gridPos"]
    assert lost(wrong, through_grafana(wrong)) == [".panels[0].gridPoss"]


def test_the_dashboard_s_panels_lie_side_by_side() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert cells & taken == set()
        taken |= cells
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_each_alert_stands_in_the_runbook_where_it_says() -> None:
    for name in re.findall(r"- alert: (\w+)", RULES.read_text()):
        assert f"runbook: docs/operations.md#{name.lower()}\n" in RULES.read_text()
        assert f"\n### {name}\n" in OPERATIONS


def test_the_node_s_own_alerts_stand_in_the_runbook() -> None:
    conditions = (REPOSITORY / "cxrnode" / "roles" / "conditions.py").read_text()
    rules = set(re.findall(r'rule="(\w+)"', conditions))
    assert "queue_age" in rules
    assert {rule for rule in rules if f"\n| `{rule}` |" not in OPERATIONS} == set()
