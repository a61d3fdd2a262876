"""Dashboards, rules and the compose file: what can be checked without running Grafana or Docker."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from msgspec.structs import replace

from fog_common.telemetry.metrics import METRICS, series_names
from fog_coordinator.shell.config import load_config
from fog_learning.methods import METHODS
from fog_learning.methods.base import LOSS, Headline
from support.panels import DASHBOARDS, DEPLOY, load, metric_names, queries
from support.prometheus import promtool

RULES = DEPLOY / "prometheus"
SHIPPED = [*RULES.glob("*.yml"), *(DEPLOY / "grafana").rglob("*.yaml"), DEPLOY / "compose.yaml", DEPLOY / "coordinator.yaml"]


def generator() -> Any:
    spec = importlib.util.spec_from_file_location("generate", DEPLOY / "grafana" / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_dashboards_are_what_the_generator_writes():
    assert {path.name: path.read_text() for path in DASHBOARDS} == generator().texts(), "run: python deploy/grafana/generate.py"


def test_a_headline_number_with_a_metric_of_its_own_has_a_panel_and_a_column(monkeypatch: pytest.MonkeyPatch):
    slow = Headline("delay", "delay of an answer", unit="s", better="less", metric="fog_job_round_seconds")
    fedavg = METHODS["fedavg"]
    module = generator()
    assert fedavg.headline == module.HEADLINES
    monkeypatch.setattr(module, "HEADLINES", module.headlines([fedavg, replace(fedavg, headline=(LOSS, Headline("pi", "pi"), slow))]))
    assert (*fedavg.headline, slow) == module.HEADLINES
    (panel,) = [panel for panel in module.job()["panels"] if panel["title"] == "Delay of an answer"]
    assert panel["fieldConfig"]["defaults"]["unit"] == "s" and panel["targets"][0]["expr"] == 'fog_job_round_seconds{job=~"$job"}'
    (jobs,) = [panel for panel in module.fleet()["panels"] if panel["title"] == "Jobs"]
    assert "delay" in jobs["transformations"][1]["options"]["renameByName"].values()


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_is_one_that_grafana_takes(path: Path):
    board = load(path)
    panels = board["panels"]
    assert re.fullmatch(r"foglearn-[a-z]+", board["uid"]) and board["schemaVersion"] == 36
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({(panel["title"], panel["type"]) for panel in panels}) == len(panels)
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        mine = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not mine & cells and at["x"] + at["w"] <= 24
        cells |= mine
        assert panel["datasource"]["uid"] == "${DS_PROMETHEUS}"
        assert all(target["datasource"]["uid"] == "${DS_PROMETHEUS}" for target in panel["targets"])
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]) > 0
    variables = {variable["name"] for variable in board["templating"]["list"]}
    used = set(re.findall(r"\$\{?([A-Za-z_]+)", path.read_text())) - {"__rate_interval", "__range", "__all"}
    assert used <= variables and "DS_PROMETHEUS" in variables


def test_a_table_has_one_row_for_a_node_however_often_its_labels_changed():
    """Its columns are joined by one label: a second one would come back once for every column, and twice after a node moved to another site."""
    for path in DASHBOARDS:
        for panel in load(path)["panels"]:
            if panel["type"] == "table":
                (field,) = {each["options"]["byField"] for each in panel["transformations"] if each["id"] == "joinByField"}
                kept = [re.match(r"max by \(([a-z, ]+)\)", target["expr"]) for target in panel["targets"]]
                labels = [set(each.group(1).split(", ")) if each is not None else set() for each in kept]
                assert all(field in each for each in labels), panel["title"]
                assert sum(len(each) > 1 for each in labels) <= 1, panel["title"]


def test_uids_are_unique():
    uids = [load(path)["uid"] for path in DASHBOARDS]
    assert uids == ["foglearn-energy", "foglearn-fleet", "foglearn-job", "foglearn-node"]


def test_panels_and_rules_ask_only_for_metrics_that_exist():
    known = set(series_names())
    for asked in queries():
        assert metric_names(asked.expression) and metric_names(asked.expression) <= known, asked
    for path in RULES.glob("*.yml"):
        for group in yaml.safe_load(path.read_text()).get("groups", []):
            for rule in group["rules"]:
                assert metric_names(re.sub(r"\w+:\w+:\w+", "", rule["expr"])) <= known, rule


def test_every_metric_is_on_a_dashboard():
    shown = set().union(*(metric_names(asked.expression) for asked in queries()))
    assert not [metric.name for metric in METRICS if metric.name not in shown and f"{metric.name}_bucket" not in shown]


def test_every_query_parses(tmp_path: Path):
    rules = [{"record": f"panel:{number}", "expr": asked.expression} for number, asked in enumerate(queries())]
    file = tmp_path / "panels.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    checked = promtool("check", "rules", str(file))
    assert checked.returncode == 0, checked.stderr.decode()
    assert f"{len(rules)} rules found".encode() in checked.stdout


def test_the_configuration_and_its_rules_pass_promtool():
    for arguments in (("check", "config", str(RULES / "prometheus.yml")), ("test", "rules", str(RULES / "alerts_test.yml"))):
        checked = promtool(*arguments)
        assert checked.returncode == 0, checked.stdout.decode() + checked.stderr.decode()


def test_every_alert_has_a_test_where_it_fires_and_one_where_it_does_not():
    alerts = {rule["alert"] for group in yaml.safe_load((RULES / "alerts.yml").read_text())["groups"] for rule in group["rules"]}
    tests = [case for group in yaml.safe_load((RULES / "alerts_test.yml").read_text())["tests"] for case in group.get("alert_rule_test", [])]
    assert alerts == {case["alertname"] for case in tests if case["exp_alerts"]} == {case["alertname"] for case in tests if not case["exp_alerts"]}


# -- compose -------------------------------------------------------------------------------


def compose() -> dict[str, Any]:
    body: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return body


def test_versions_are_pinned():
    services = compose()["services"]
    assert set(services) == {"mosquitto", "coordinator", "prometheus", "grafana"}
    for service in services.values():
        assert re.fullmatch(r"[a-z/-]+:v?\d+\.\d+\.\d+", service["image"]), service["image"]
    assert re.match(r"FROM python:\d+\.\d+\.\d+-", (DEPLOY / "coordinator.Dockerfile").read_text())


def test_what_is_mounted_is_there_and_nothing_listens_beyond_loopback():
    for name, service in compose()["services"].items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (DEPLOY / source).exists() if source.startswith(".") else source in compose()["volumes"], (name, volume)
    assert "0.0.0.0" not in "".join(path.read_text() for path in SHIPPED)


def test_the_coordinator_serves_where_prometheus_looks():
    config = load_config(DEPLOY / "coordinator.yaml")
    targets = yaml.safe_load((RULES / "prometheus.yml").read_text())["scrape_configs"][0]["static_configs"][0]["targets"]
    assert targets == [f"{config.metrics.host}:{config.metrics.port}"]


def test_the_documentation_names_every_metric_and_no_other():
    text = (DEPLOY.parent / "docs" / "observability.md").read_text()
    section = text[text.index("## What is exported") : text.index("How to read them")]
    named = {f"fog_{name}" for name in re.findall(r"`([a-z]+_[a-z_]+|nodes|jobs)(?:\{[a-z,]+\})?`", section) if not name.startswith("fog_")}
    assert named - {"fog_common"} == {metric.name for metric in METRICS}
