"""The agent's own /metrics on loopback, with the figures of its last heartbeat. Imports neither numpy nor torch."""

from __future__ import annotations

from fog_agent.config import AgentConfig
from fog_agent.core import AgentCore
from fog_common.telemetry.exposition import CONTENT_TYPE, Exposition
from fog_common.telemetry.metrics import Samples, add_node, add_worker
from fog_common.telemetry.pages import Page, Pages

HOST = "127.0.0.1"


def serve(config: AgentConfig, core: AgentCore) -> Pages:
    """Serve /metrics and /healthz. ConfigError if the port is not free. Only reads values that the daemon's thread replaces as a whole."""
    exposition = Exposition(lambda: samples_of(config, core))
    pages = {"/metrics": lambda: Page(200, exposition.text(), CONTENT_TYPE), "/healthz": lambda: Page(200, b"ok\n")}
    return Pages(HOST, config.metrics_port, pages, "metrics_port")


def samples_of(config: AgentConfig, core: AgentCore) -> Samples:
    """Samples of the node and its running workers."""
    sample, samples = core.sample, Samples()
    samples["fog_build_info"] = [((core.profile.version or "unknown",), 1.0)]
    samples["fog_node_up"] = [((config.node, config.site), 1.0)]
    gauges = dict(sample.gauges)
    if core.rtt_s is not None:
        gauges["rtt_seconds"] = core.rtt_s
    states = [slot.state for slot in list(core.slots.values()) if slot.running and slot.state is not None]
    for state in states:
        add_worker(samples, state.job, config.node, state.gauges)
    if core.profile.bandwidth_bytes_s is not None:
        gauges["bandwidth_bytes_per_second"] = core.profile.bandwidth_bytes_s
    elif bandwidths := [state.gauges["bandwidth_bytes_per_second"] for state in states if "bandwidth_bytes_per_second" in state.gauges]:
        gauges["bandwidth_bytes_per_second"] = max(bandwidths)
    add_node(samples, config.node, config.site, gauges, sample.counters)
    return samples
