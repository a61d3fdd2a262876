"""Writes the dashboards beside it: `python deploy/grafana/generate.py`. Classic schema, so that Grafana 9 to 12 take them.

A panel is a title, a unit, and queries; where it stands follows from the order. Panel ids are numbered within a dashboard, uids are fixed:
links of people stay valid. Names of metrics are those of fog_common.telemetry.metrics; tests check that all exist and that all are shown.
Panels of headline numbers follow from the methods.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, Literal

from fog_learning.methods import METHODS
from fog_learning.methods.base import Headline, Method

FOLDER: Final = Path(__file__).with_name("dashboards")
DATASOURCE: Final = {"type": "prometheus", "uid": "${DS_PROMETHEUS}"}
Json = dict[str, Any]
Query = tuple[str, str]
"""(expression, legend)"""

# -- panels --------------------------------------------------------------------------------


def series(title: str, unit: str, *queries: Query, about: str = "", width: int = 12, top: float | None = None, stack: bool = False) -> Json:
    """Lines over time."""
    custom = {"drawStyle": "line", "fillOpacity": 20 if stack else 5, "showPoints": "never", "stacking": {"mode": "normal" if stack else "none"}}
    defaults = {"unit": unit, "min": 0, "custom": custom, **({"max": top} if top is not None else {})}
    options = {"legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull"]}, "tooltip": {"mode": "multi", "sort": "desc"}}
    return _panel("timeseries", title, about, width, 8, queries, {"fieldConfig": {"defaults": defaults, "overrides": []}, "options": options})


def stat(
    title: str,
    unit: str,
    query: str,
    about: str = "",
    legend: str = "",
    red_below: float | None = None,
    red_above: float | None = None,
    text: Literal["auto", "name"] = "auto",
) -> Json:
    """One number now; text: `name` shows the legend in its place."""
    steps: list[Json] = [{"color": "green", "value": None}]
    if red_below is not None:
        steps = [{"color": "red", "value": None}, {"color": "green", "value": red_below}]
    if red_above is not None:
        steps.append({"color": "red", "value": red_above})
    defaults = {"unit": unit, "thresholds": {"mode": "absolute", "steps": steps}}
    options = {"reduceOptions": {"calcs": ["lastNotNull"], "values": False}, "colorMode": "value", "graphMode": "area" if text == "auto" else "none"}
    options["textMode"] = text
    return _panel("stat", title, about, 4, 4, [(query, legend)], {"fieldConfig": {"defaults": defaults, "overrides": []}, "options": options})


def bars(title: str, unit: str, *queries: Query, about: str = "", width: int = 12) -> Json:
    """A bar for each series now, red from 80 %."""
    steps = [{"color": "green", "value": None}, {"color": "orange", "value": 0.8}, {"color": "red", "value": 1}]
    defaults = {"unit": unit, "min": 0, "max": 1, "thresholds": {"mode": "absolute", "steps": steps}}
    options = {"orientation": "horizontal", "displayMode": "basic", "reduceOptions": {"calcs": ["lastNotNull"]}}
    return _panel("bargauge", title, about, width, 8, queries, {"fieldConfig": {"defaults": defaults, "overrides": []}, "options": options})


def heatmap(title: str, unit: str, query: str, about: str = "") -> Json:
    """Buckets of a histogram over time."""
    extra = {"options": {"calculate": False, "yAxis": {"unit": unit}, "color": {"mode": "scheme", "scheme": "Oranges"}, "cellGap": 1}}
    return _panel("heatmap", title, about, 12, 8, [(query, "{{le}}")], extra, heat=True)


def table(title: str, columns: dict[str, tuple[str, str]], about: str = "", by: str = "node") -> Json:
    """A row for each value of the label `by`. columns: name -> (query, unit).

    Labels beside `by` are taken away, or a row would have each of them once for every column; a query that keeps one says so (`max by`).
    """
    queries = [(query if query.startswith("max by") else f"max by ({by}) ({query})", "") for query, _ in columns.values()]
    letters = {f"Value #{_letter(index)}": name for index, name in enumerate(columns)}
    units = [
        {"matcher": {"id": "byName", "options": name}, "properties": [{"id": "unit", "value": unit}]} for name, (_, unit) in columns.items() if unit
    ]
    hidden = dict.fromkeys(("Time", "__name__", "instance", "fleet", "job" if by != "job" else "node"), True)
    extra = {
        "fieldConfig": {"defaults": {}, "overrides": units},
        "transformations": [
            {"id": "joinByField", "options": {"byField": by, "mode": "outer"}},
            {"id": "organize", "options": {"excludeByName": hidden, "renameByName": letters}},
        ],
    }
    return _panel("table", title, about, 24, 9, queries, extra, instant=True)


def _panel(kind: str, title: str, about: str, width: int, height: int, queries: Any, extra: Json, instant: bool = False, heat: bool = False) -> Json:
    targets = []
    for index, (expression, legend) in enumerate(queries):
        target: Json = {"refId": _letter(index), "datasource": DATASOURCE, "expr": expression, "legendFormat": legend or "__auto"}
        if instant:
            target |= {"instant": True, "range": False, "format": "table"}
        if heat:
            target["format"] = "heatmap"
        targets.append(target)
    return {
        "type": kind,
        "title": title,
        "description": about,
        "datasource": DATASOURCE,
        "gridPos": {"w": width, "h": height},
        "targets": targets,
        **extra,
    }


def _letter(index: int) -> str:
    return "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[index]


# -- dashboards ----------------------------------------------------------------------------


def dashboard(uid: str, title: str, about: str, variables: list[Json], panels: list[Json]) -> Json:
    x = y = row = 0
    for number, panel in enumerate(panels, 1):
        at = panel["gridPos"]
        if x + at["w"] > 24:
            x, y, row = 0, y + row, 0
        panel["id"], panel["gridPos"] = number, {"x": x, "y": y, **at}
        x, row = x + at["w"], max(row, at["h"])
    source = {"name": "DS_PROMETHEUS", "label": "Prometheus", "type": "datasource", "query": "prometheus", "current": {}, "hide": 0, "refresh": 1}
    links = [{"type": "dashboards", "tags": ["foglearn"], "title": "foglearn", "asDropdown": True, "includeVars": True, "keepTime": True}]
    return {
        "uid": uid,
        "title": title,
        "description": about,
        "tags": ["foglearn"],
        "schemaVersion": 36,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "",
        "annotations": {"list": []},
        "links": links,
        "templating": {"list": [source, *variables]},
        "panels": panels,
    }


def variable(name: str, query: str, label: str) -> Json:
    """A choice, all by default."""
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


SITE: Final = variable("site", "label_values(fog_node_up, site)", "Site")
NODE: Final = variable("node", 'label_values(fog_node_up{site=~"$site"}, node)', "Node")
JOB: Final = variable("job", "label_values(fog_job_state, job)", "Job")

N: Final = '{node=~"$node",site=~"$site"}'
J: Final = '{job=~"$job"}'
S: Final = '{site=~"$site"}'
RATE: Final = "[$__rate_interval]"


def by(labels: str, inner: str) -> str:
    return f"sum by ({labels}) ({inner})"


def rate(metric: str, labels: str, selector: str) -> str:
    return by(labels, f"rate({metric}{selector}{RATE})")


def sent(selector: str, direction: str = "sent") -> str:
    return f'{{{selector},direction="{direction}"}}' if selector else f'{{direction="{direction}"}}'


def quantile(q: float, metric: str) -> str:
    return f"histogram_quantile({q}, sum by (le) (rate({metric}_bucket{RATE})))"


UNITS: Final = {"": "short", "s": "s", "J": "joule", "B": "bytes"}
"""Unit of a headline number -> Grafana's."""


def headlines(methods: Iterable[Method]) -> tuple[Headline, ...]:
    """The numbers of these methods that have a metric of their own, each once."""
    return tuple(dict.fromkeys(each for method in methods for each in method.headline if each.metric))


HEADLINES: Final = headlines(METHODS.values())


def unit_of(number: Headline) -> str:
    return "percentunit" if number.most == 1 and not number.unit else UNITS[number.unit]


def fleet() -> Json:
    return dashboard(
        "foglearn-fleet",
        "Fleet",
        "Who is there, what runs, how much moves.",
        [SITE],
        [
            stat("Nodes up", "short", f"sum(fog_node_up{S})", red_below=1),
            stat("Nodes gone", "short", f"sum(1 - fog_node_up{S})", red_above=1),
            stat("Jobs running", "short", 'fog_jobs{state="running"}'),
            stat("Broker", "bool_on_off", "fog_broker_up", "Whether the coordinator is connected to it.", red_below=1),
            stat("Power", "watt", f"sum(fog_node_power_watts{S})", "Of the nodes that know theirs."),
            stat("Traffic", "Bps", f"sum(rate(fog_job_bytes_total{sent('')}{RATE}))", "Payload of all jobs, as sent."),
            table(
                "Nodes",
                {
                    "up": (f"max by (node, site) (fog_node_up{S})", "bool_yes_no"),
                    "last seen": (f"time() - fog_node_last_seen_timestamp_seconds{S}", "s"),
                    "CPU": (f"fog_node_cpu_ratio{S}", "percentunit"),
                    "memory used": (f"fog_node_memory_used_bytes{S}", "bytes"),
                    "temperature": (f"fog_node_temperature_celsius{S}", "celsius"),
                    "power": (f"fog_node_power_watts{S}", "watt"),
                    "battery": (f"fog_node_battery_ratio{S}", "percentunit"),
                    "round trip": (f"fog_link_rtt_seconds{S}", "s"),
                    "link": (f"fog_link_bandwidth_bytes_per_second{S}", "Bps"),
                },
            ),
            table(
                "Jobs",
                {
                    "state": ("max by (job, state) (fog_job_state == 1)", ""),
                    "round": ("fog_job_round", "short"),
                    "of": ("fog_job_rounds", "short"),
                    **{each.name: (each.metric, unit_of(each)) for each in HEADLINES},
                    "stragglers": ("fog_job_stragglers", "short"),
                    "no progress for": ("time() - fog_job_progress_timestamp_seconds", "s"),
                },
                by="job",
            ),
            series("Traffic by plane", "Bps", (rate("fog_job_bytes_total", "plane", sent("")), "{{plane}}"), stack=True),
            series(
                "Acknowledgement round trip",
                "s",
                (quantile(0.5, "fog_ack_round_trip_seconds"), "median"),
                (quantile(0.95, "fog_ack_round_trip_seconds"), "95 %"),
                about="From sending a letter until its receiver has it, tensors included. By the sender's clock alone.",
            ),
            series(
                "Duration of rounds",
                "s",
                (quantile(0.5, "fog_round_duration_seconds"), "median"),
                (quantile(0.95, "fog_round_duration_seconds"), "95 %"),
                ("fog_job_round_seconds", "{{job}}, last"),
            ),
            series("CPU", "percentunit", (f"fog_node_cpu_ratio{S}", "{{node}}"), top=1),
            series(
                "Memory used",
                "percentunit",
                (f"fog_node_memory_used_bytes{S} / (fog_node_memory_used_bytes{S} + fog_node_memory_free_bytes{S})", "{{node}}"),
                top=1,
            ),
            series("Nodes and jobs by state", "short", ("fog_nodes", "nodes {{state}}"), ("fog_jobs", "jobs {{state}}")),
            series(
                "Messages that the coordinator dropped",
                "short",
                (rate("fog_coordinator_rejected_messages_total", "reason", ""), "{{reason}}"),
                about="Malformed, forged, unknown: per second.",
            ),
            table(
                "Coordinator",
                {"version": ("max by (instance, version) (fog_build_info)", ""), "up for": ("time() - fog_coordinator_start_timestamp_seconds", "s")},
                by="instance",
            ),
        ],
    )


def job() -> Json:
    plane = 'job=~"$job"'
    return dashboard(
        "foglearn-job",
        "Job",
        "How a job learns, what it waits for, what it costs.",
        [JOB],
        [
            stat("State", "short", f"fog_job_state{J} == 1", legend="{{job}}: {{state}}", text="name"),
            stat("Round", "short", f"fog_job_round{J}", legend="{{job}}"),
            stat("Done", "percentunit", f"fog_job_round{J} / fog_job_rounds{J}", legend="{{job}}"),
            stat(
                HEADLINES[0].name.capitalize(), unit_of(HEADLINES[0]), f"{HEADLINES[0].metric}{J}", HEADLINES[0].title.capitalize() + ".", "{{job}}"
            ),
            stat("Time", "s", f"fog_job_wall_seconds{J}", "Since training began.", legend="{{job}}"),
            stat("No progress for", "s", f"time() - fog_job_progress_timestamp_seconds{J}", legend="{{job}}", red_above=300),
            *(series(each.title.capitalize(), unit_of(each), (f"{each.metric}{J}", "{{job}}"), top=each.most) for each in HEADLINES),
            series("Headline numbers of the method", "short", (f"fog_job_headline{J}", "{{job}} {{name}}")),
            series("Duration of rounds", "s", (f"fog_job_round_seconds{J}", "{{job}}")),
            series(
                "Round of each task", "short", (f"fog_task_round{J}", "{{node}} {{role}}"), about="As last reported: reports come some seconds apart."
            ),
            series(
                "Who is behind",
                "short",
                (f"fog_job_stragglers{J}", "{{job}}: tasks that the round waits for"),
                (f"fog_job_staleness_rounds{J}", "{{job}}: rounds that a counted update was late"),
            ),
            series(
                "Waited for",
                "percentunit",
                (f"avg_over_time(fog_worker_awaited{J}[5m])", "{{job}} {{node}}"),
                about="Part of the time in which the root had answers of others and none of this node.",
                top=1,
            ),
            series(
                "Time of a training step",
                "s",
                (f"fog_job_step_seconds{J}", "{{job}} measured"),
                (f"fog_job_predicted_step_seconds{J}", "{{job}} predicted"),
                (f"fog_worker_step_seconds{J}", "{{node}} computes"),
            ),
            series("Seconds of computing per second", "short", (rate("fog_job_op_seconds_total", "job, op", J), "{{job}} {{op}}"), stack=True),
            series(
                "Traffic by plane and direction",
                "Bps",
                (rate("fog_job_bytes_total", "job, plane, direction", f"{{{plane}}}"), "{{job}} {{plane}} {{direction}}"),
            ),
            series("Messages", "short", (rate("fog_job_messages_total", "job, plane, direction", f"{{{plane}}}"), "{{job}} {{plane}} {{direction}}")),
            series(
                "Wire over payload",
                "short",
                (f"{by('job', f'fog_job_bytes_total{sent(plane)}')} / {by('job', f'fog_job_ideal_bytes_total{J}')}", "{{job}}"),
                about="All bytes that were sent over those of the tensors alone.",
            ),
            series("Updates that did not count", "short", (rate("fog_job_refused_updates_total", "job, reason", J), "{{job}} {{reason}}")),
            series(
                "Repairs",
                "short",
                (rate("fog_job_repaired_chunks_total", "job", J), "{{job}} chunks sent again"),
                (rate("fog_job_rejected_letters_total", "job", J), "{{job}} letters refused"),
                (rate("fog_job_restored_tasks_total", "job", J), "{{job}} tasks restored"),
            ),
            series("Disagreement after averaging", "short", (f"fog_job_consensus_error{J}", "{{job}}")),
            series("Views", "short", (f"fog_job_view{J}", "{{job}}"), about="Rises with every change of the placement."),
            series("Spool", "bytes", (f"fog_worker_spool_bytes{J}", "{{node}}"), about="Updates that the root has not saved yet."),
            series("Computations that wait", "short", (f"fog_worker_queued_ops{J}", "{{node}}")),
            series("Memory of workers", "bytes", (f"fog_worker_resident_bytes{J}", "{{node}}")),
            bars("Budgets", "percentunit", (f"fog_job_budget_used_ratio{J}", "{{job}} {{budget}}"), about="At 100 % the job ends with its model."),
            series("Energy", "joule", (by("job, source", f"fog_job_energy_joules_total{J}"), "{{job}} {{source}}"), stack=True),
            series("Power by role", "watt", (rate("fog_job_energy_joules_total", "job, role", J), "{{job}} {{role}}"), stack=True),
            series("Power by use", "watt", (rate("fog_job_energy_joules_total", "job, use, source", J), "{{job}} {{use}} {{source}}"), stack=True),
        ],
    )


def node() -> Json:
    return dashboard(
        "foglearn-node",
        "Node",
        "One machine, or several side by side.",
        [SITE, NODE],
        [
            stat("Up", "bool_yes_no", f"min(fog_node_up{N})", red_below=1),
            stat("Last seen", "s", f"max(time() - fog_node_last_seen_timestamp_seconds{N})", red_above=60),
            stat("CPU", "percentunit", f"max(fog_node_cpu_ratio{N})", red_above=0.95),
            stat("Temperature", "celsius", f"max(fog_node_temperature_celsius{N})", red_above=80),
            stat("Battery", "percentunit", f"min(fog_node_battery_ratio{N})", red_below=0.2),
            stat("Power", "watt", f"sum(fog_node_power_watts{N})"),
            series("Up", "bool_yes_no", (f"fog_node_up{N}", "{{node}}"), top=1),
            series("CPU", "percentunit", (f"fog_node_cpu_ratio{N}", "{{node}}"), top=1),
            series("Memory", "bytes", (f"fog_node_memory_used_bytes{N}", "{{node}} used"), (f"fog_node_memory_free_bytes{N}", "{{node}} free")),
            series("Free disk", "bytes", (f"fog_node_disk_free_bytes{N}", "{{node}}")),
            series("Temperature", "celsius", (f"fog_node_temperature_celsius{N}", "{{node}}")),
            series("Battery", "percentunit", (f"fog_node_battery_ratio{N}", "{{node}}"), top=1),
            series("Power", "watt", (f"fog_node_power_watts{N}", "{{node}}")),
            series("Power by use", "watt", (rate("fog_node_energy_joules_total", "node, use, source", N), "{{node}} {{use}} {{source}}"), stack=True),
            series("Round trip to the broker", "s", (f"fog_link_rtt_seconds{N}", "{{node}}")),
            series("Bandwidth", "Bps", (f"fog_link_bandwidth_bytes_per_second{N}", "{{node}}")),
            series(
                "Memory of the program",
                "bytes",
                (f"fog_node_agent_resident_bytes{N}", "{{node}} agent"),
                ('fog_worker_resident_bytes{node=~"$node"}', "{{node}} worker of {{job}}"),
            ),
            series("Traffic", "Bps", (rate("fog_node_bytes_total", "node, plane, direction", N), "{{node}} {{plane}} {{direction}}")),
            series("Training step", "s", ('fog_worker_step_seconds{node=~"$node"}', "{{node}} {{job}}")),
            series("Round", "short", ('fog_task_round{node=~"$node"}', "{{node}} {{job}} {{role}}")),
        ],
    )


def energy() -> Json:
    return dashboard(
        "foglearn-energy",
        "Energy & network",
        "Joules by how they are known and what they were used for; bytes by plane; what links can do.",
        [SITE, JOB],
        [
            stat("Power", "watt", f"sum(rate(fog_node_energy_joules_total{S}{RATE}))"),
            stat("Energy", "joule", f"sum(increase(fog_node_energy_joules_total{S}[$__range]))", "In the time that is shown."),
            stat("CO₂ (derived)", "massg", f"sum(fog_site_carbon_grams_total{S})", "Joules times the factor in the agents' configurations."),
            stat("Sent", "decbytes", f"sum(increase(fog_job_bytes_total{sent('')}[$__range]))", "In the time that is shown."),
            stat("Round trip, median", "s", quantile(0.5, "fog_ack_round_trip_seconds")),
            stat(
                "Wire over payload", "short", f"sum(fog_job_bytes_total{sent('')}) / sum(fog_job_ideal_bytes_total)", "Over all jobs that are shown."
            ),
            series("Power by node", "watt", (rate("fog_node_energy_joules_total", "node", S), "{{node}}"), stack=True),
            series(
                "Power by how it is known",
                "watt",
                (rate("fog_node_energy_joules_total", "source", S), "{{source}}"),
                about="measured: a sensor; fitted: a sensor with a correction; modelled: computed from load and bytes.",
                stack=True,
            ),
            series("Power by use", "watt", (rate("fog_node_energy_joules_total", "use, source", S), "{{use}} {{source}}"), stack=True),
            series("Energy of jobs", "joule", (by("job, source", f"fog_job_energy_joules_total{J}"), "{{job}} {{source}}")),
            series(
                "Energy per round",
                "joule",
                (f"{by('job', f'fog_job_energy_joules_total{J}')} / {by('job', f'fog_job_round{J}')}", "{{job}}"),
                about="Mean since the job began.",
            ),
            series("CO₂ by site (derived)", "massg", (f"fog_site_carbon_grams_total{S}", "{{site}}")),
            series("Sent by plane", "Bps", (rate("fog_job_bytes_total", "plane", sent('job=~"$job"')), "{{plane}}"), stack=True),
            series("Received by plane", "Bps", (rate("fog_job_bytes_total", "plane", sent('job=~"$job"', "received")), "{{plane}}"), stack=True),
            heatmap("Acknowledgement round trips", "s", f"sum by (le) (increase(fog_ack_round_trip_seconds_bucket{RATE}))"),
            series("Round trip to the broker", "s", (f"fog_link_rtt_seconds{S}", "{{node}}")),
            series("Bandwidth", "Bps", (f"fog_link_bandwidth_bytes_per_second{S}", "{{node}}")),
            series(
                "Traffic by node", "Bps", (rate("fog_node_bytes_total", "node, plane, direction", S), "{{node}} {{plane}} {{direction}}"), stack=True
            ),
            series("Coordinator", "Bps", (rate("fog_coordinator_bytes_total", "direction", ""), "{{direction}}"), about="Results included."),
        ],
    )


DASHBOARDS: Final = {"fleet": fleet, "job": job, "node": node, "energy": energy}


def texts() -> dict[str, str]:
    """File name -> content."""
    return {f"{name}.json": json.dumps(make(), indent=1, ensure_ascii=False) + "\n" for name, make in DASHBOARDS.items()}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in texts().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
