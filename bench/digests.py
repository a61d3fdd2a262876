"""Seeded jobs of every method, and the digests of the weights that they end with: what a change of the code may not change by accident.

    python -m bench.digests [--live] [--json] [--only NAME ...]

Each job runs on one site with quorum 1, no deadline and no constraint on placement, so that its weights follow from its file alone:
in the simulator, or with --live by `fogctl demo` over a broker. A digest is BLAKE3 over the tensors in the order of their names: name,
dtype, shape, bytes. The file's own header stays out, for it carries the version.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from blake3 import blake3

from fog_common.wire import tensors

NODES: Final = 3
"""Nodes with data, beside one in the cloud."""
COMMON: Final[dict[str, Any]] = {
    "model": {"name": "mlp", "hidden": [16]},
    "data": {"name": "digits", "partition": {"kind": "dirichlet", "alpha": 0.5}},
    "train": {"rounds": 3, "batch_size": 16, "lr": 0.1, "momentum": 0.9},
    "stragglers": {"quorum": 1.0, "deadline_s": None},
    "seed": 7,
}
_FEDAVG: Final[dict[str, Any]] = {"name": "fedavg", "local_steps": 4}
_FOG: Final[dict[str, Any]] = {"name": "fog", "local_steps": 4, "consensus": {"graph": "ring", "turns": 2}}
_FCDDT: Final[dict[str, Any]] = {"name": "fcddt", "cut": 1, "round_steps": 4}
_DEEP: Final[dict[str, Any]] = {"model": {"name": "mlp", "hidden": [16, 16]}}
_EDGE: Final[dict[str, Any]] = {"nodes": {"select": {"tier": ["thing", "edge"]}}}
_GOSSIP: Final[dict[str, Any]] = {"name": "gossip", "local_steps": 4, "consensus": {"graph": "ring", "turns": 1}}
JOBS: Final[dict[str, dict[str, Any]]] = {
    "fedavg": {"method": _FEDAVG},
    "fedavg-momentum": {"method": {**_FEDAVG, "server_optimizer": "momentum"}},
    "fedavg-adam": {"method": {**_FEDAVG, "server_optimizer": "adam", "server_lr": 0.01}},
    "fedavg-prox": {"method": {**_FEDAVG, "prox_mu": 0.1}},
    "fedavg-layers": {"method": {**_FEDAVG, "layers": ["fc2", "head"]}, "evaluation": {"where": "federated"}, **_DEEP},
    "fog-up": {"method": {**_FOG, "mode": "vertical"}, **_EDGE},
    "fog-sideways": {"method": {**_FOG, "mode": "d2d"}, **_EDGE},
    "gossip": {"method": _GOSSIP, **_EDGE},
    "gossip-tracking": {"method": {**_GOSSIP, "tracking": True}, "train": {**COMMON["train"], "momentum": 0.0}, **_EDGE},
    "fcddt": {"method": {**_FCDDT, "sync_every": 1}, **_DEEP},
    "fcddt-frozen": {"method": {**_FCDDT, "backward": "frozen_front"}, **_DEEP},
    "fcddt-u-shaped": {"method": {**_FCDDT, "u_shaped": True}, **_DEEP},
    "fcddt-sync-2": {"method": {**_FCDDT, "sync_every": 2}, **_DEEP},
    "centralized": {"method": {"name": "centralized", "round_steps": 4}, "privacy": {"share_samples": True}},
}


def spec_of(name: str) -> dict[str, Any]:
    """The job file of a row."""
    return {"name": f"d-{name}", **COMMON, **JOBS[name]}


def digest_of(content: bytes) -> str:
    """BLAKE3 of the tensors in a result, as hex."""
    found = blake3()
    for tensor in sorted(tensors.unpack(content), key=lambda each: each.name):
        found.update(json.dumps([tensor.name, tensor.dtype, list(tensor.shape)]).encode())
        found.update(bytes(tensor.buffer))
    return str(found.hexdigest())


def simulated(name: str) -> bytes:
    """The weights that the job ends with in the simulator."""
    from fog_learning.job.reading import job_from
    from fog_sim.costs import torch_backend
    from fog_sim.links import fleet
    from fog_sim.shape import shape_for
    from fog_sim.world import Simulation

    spec = spec_of(name)
    world = Simulation(shape_for(job_from(spec, name), NODES), fleet("wifi"), torch_backend, seed=0)
    job = world.submit(spec)
    status = world.run(job, 3600.0)
    if status["state"] != "finished":
        raise SystemExit(f"{name}: {status['state']} after {status['round']} rounds: {status['line']}; {status['why']}")
    return world.coordinator.results[job]


def live(name: str) -> bytes:
    """The weights that the job ends with on a fleet of processes, over mosquitto if there is one."""
    with tempfile.TemporaryDirectory(prefix="foglearn-digests-") as folder:
        file = Path(folder) / "job.json"  # JSON is YAML
        file.write_text(json.dumps(spec_of(name)))
        command = [str(Path(sys.executable).with_name("fogctl")), "demo", "--job", str(file), "--agents", str(NODES), "--keep"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env={**os.environ, "TMPDIR": folder})
        if done.returncode:
            raise SystemExit(f"{name}: fogctl demo ended with {done.returncode}: {(done.stderr or done.stdout)[-1000:]}")
        return next(Path(folder).rglob(f"d-{name}*.safetensors")).read_bytes()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.digests", description="Digests of the weights of small seeded jobs.")
    parser.add_argument("--live", action="store_true", help="a fleet of processes over a broker, in place of the simulator")
    parser.add_argument("--json", action="store_true", help="one JSON object: name -> rounds and digest")
    parser.add_argument("--only", nargs="+", choices=list(JOBS), default=list(JOBS), metavar="NAME", help=", ".join(JOBS))
    options = parser.parse_args()
    rows: dict[str, dict[str, Any]] = {}
    for name in options.only:
        began = time.perf_counter()
        digest = digest_of((live if options.live else simulated)(name))
        rows[name] = {"method": spec_of(name)["method"]["name"], "rounds": spec_of(name)["train"]["rounds"], "digest": digest}
        sys.stderr.write(f"{name}: {time.perf_counter() - began:.1f} s\n")
        if not options.json:
            sys.stdout.write(f"{name:16} {rows[name]['method']:12} {rows[name]['rounds']:3} {digest}\n")
    if options.json:
        sys.stdout.write(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
