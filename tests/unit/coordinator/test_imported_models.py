"""The coordinator runs beside the broker on small machines: its process has neither torch nor numpy, whatever it is asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from support.paths import TESTS

PROGRAM = """
import json, sys
from pathlib import Path
import fog_coordinator.shell.app, fog_coordinator.shell.service, fog_coordinator.shell.scrape, fog_coordinator.reading.exporter
from fog_learning.job.sections import job_spec
from fog_learning.job.reading import load_job
from support.stand_ins import StandIn, World

world = World(StandIn("cloud-1", "cloud", "cloud"), StandIn("fog-1", "fog"), *(StandIn(f"pi-{n}") for n in range(4)))
world.run(1.0)
ended = []
for path in sorted(Path(sys.argv[1]).glob("*.yaml")):
    spec = job_spec(load_job(path))
    world.body("job.plan", spec=spec)
    job = world.submit(**spec)
    world.run(3.0)
    assert world.status(job)["state"] == "running", world.status(job)["line"]
    world.body("topology", job=job)
    world.train(job)
    world.ask("job.cancel", job=job)
    world.run(3.0)
    ended.append(job)
world.body("top")
try:
    fog_coordinator.shell.app.main(["check", "--state-dir", sys.argv[2], "--json"])
except SystemExit as end:
    assert end.code == 0
print(json.dumps({"jobs": ended, "modules": sorted(sys.modules)}))
"""


def test_the_coordinators_process_has_neither_torch_nor_numpy(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", PROGRAM, str(TESTS.parent / "examples"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert {"digits", "fcddt-auto", "fog"} <= set(told["jobs"])
    heavy = {"torch", "numpy", "sklearn", "scipy", "onnxruntime"}
    assert not heavy & {name.partition(".")[0] for name in told["modules"]}
    assert "fog_coordinator.placement.planner" in told["modules"], "it did what it does"
