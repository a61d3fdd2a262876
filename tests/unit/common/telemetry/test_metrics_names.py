"""The table of metrics: names are a promise to dashboards and alerts of others, so a change shows here."""

from __future__ import annotations

import math
import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fog_common.telemetry.exposition import Exposition, render
from fog_common.telemetry.metrics import ACK_COUNTERS, ACK_LE, METRICS, Samples, ack_counter, add_histogram, series_names
from support.paths import TESTS

GOLDEN = TESTS / "golden" / "metric_names.txt"
LABELS = {"node", "site", "job", "role", "plane", "direction", "source", "state", "op", "use", "budget", "reason", "version", "name"}
UNITS = ("_seconds", "_bytes", "_joules", "_grams", "_watts", "_celsius", "_ratio", "_bytes_per_second", "_timestamp_seconds")


def test_the_names_are_those_of_the_golden_list():
    """A rename breaks dashboards: if it is meant, change tests/golden/metric_names.txt, deploy/ and the changelog with it."""
    assert series_names() == GOLDEN.read_text().split()


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_name_says_unit_and_kind(metric):
    assert re.fullmatch(r"fog_[a-z]+(_[a-z]+)*", metric.name)
    assert (metric.kind == "counter") == metric.name.endswith("_total")
    assert set(metric.labels) <= LABELS and len(set(metric.labels)) == len(metric.labels)
    assert metric.help.endswith(".")
    base = metric.name.removesuffix("_total")
    for word in ("milliseconds", "kilobytes", "percent", "mb", "ms", "kb"):
        assert word not in base.split("_")


def test_names_are_unique():
    names = series_names()
    assert len(names) == len(set(names))


def test_rendered_text_is_read_back_as_it_was():
    samples = {
        "fog_node_up": [(("pi-1", "home"), 1.0), (("pi-2", 'a"b\\c\nd'), 0.0)],
        "fog_node_cpu_ratio": [(("pi-1", "home"), 0.25), (("pi-2", "home"), math.nan)],
        "fog_job_bytes_total": [(("digits", "up", "sent"), 2.0**53)],
    }
    add_histogram(samples, "fog_ack_round_trip_seconds", (0.1, 1.0), [2, 1, 1], 7.5)
    families = {family.name: family for family in text_string_to_metric_families(render(samples).decode())}
    up = {tuple(sample.labels.values()): sample.value for sample in families["fog_node_up"].samples}
    assert up == {("pi-1", "home"): 1.0, ("pi-2", 'a"b\\c\nd'): 0.0}
    assert math.isnan(families["fog_node_cpu_ratio"].samples[1].value)
    assert families["fog_job_bytes"].type == "counter" and families["fog_job_bytes"].samples[0].value == 2.0**53
    buckets = {sample.labels.get("le", sample.name): sample.value for sample in families["fog_ack_round_trip_seconds"].samples}
    assert buckets == {"0.1": 2, "1": 3, "+Inf": 4, "fog_ack_round_trip_seconds_sum": 7.5, "fog_ack_round_trip_seconds_count": 4}


def test_what_is_not_in_the_table_is_refused():
    with pytest.raises(KeyError, match="fog_node_mood"):
        render({"fog_node_mood": [((), 1.0)]})
    with pytest.raises(ValueError, match="labels"):
        render({"fog_node_up": [(("pi-1",), 1.0)]})


def test_acknowledgements_fall_into_the_smallest_bucket_that_holds_them():
    assert ack_counter(0.0) == "ack_seconds_le_0.001" == ack_counter(0.001)
    assert ack_counter(0.0011) == "ack_seconds_le_0.0025"
    assert ack_counter(1e9) == "ack_seconds_le_inf"
    assert len(ACK_COUNTERS) == len(ACK_LE) + 1


def test_readers_within_a_second_get_the_same_text_and_the_owner_is_asked_once():
    now, asked = [0.0], []

    def look() -> Samples:
        asked.append(now[0])
        return {"fog_nodes": [(("online",), float(len(asked)))]}

    exposition = Exposition(look, clock=lambda: now[0])
    first = exposition.text()
    now[0] = 0.9
    assert exposition.text() == first and asked == [0.0]
    now[0] = 1.0
    assert exposition.text() != first and asked == [0.0, 1.0]


def test_counters_have_no_created_series():
    text = render({"fog_job_ideal_bytes_total": [(("digits",), 7.0)]}).decode()
    assert text.splitlines()[1:] == ["# TYPE fog_job_ideal_bytes_total counter", 'fog_job_ideal_bytes_total{job="digits"} 7.0']


def test_a_failed_look_is_not_kept():
    looks = iter([KeyError("x"), {"fog_broker_up": [((), 1.0)]}])

    def look() -> Samples:
        found = next(looks)
        if isinstance(found, Exception):
            raise found
        return found

    exposition = Exposition(look)
    with pytest.raises(KeyError):
        exposition.text()
    assert exposition.text().endswith(b"fog_broker_up 1.0\n")
