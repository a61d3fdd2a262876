"""A worker without torch: speaks the daemon's pipe and does what the job's spec says under `do`.

ready (default): reports ready and its pid, ends when asked    crash: complains and exits with 3
refuse: reports problems                                       deaf: reports ready, then hears nothing, not even the end
"""

from __future__ import annotations

import os
import socket
import sys
import threading

from fog_agent.worker import pipe
from fog_agent.worker.frames import Assign, State, Stop, WorkerSetup
from fog_common.wire.messages import Planes, WorkerState


def main(fd: int) -> int:
    sock = socket.socket(fileno=fd)
    setup = pipe.receive(sock)
    assert isinstance(setup, WorkerSetup)
    while True:
        frame = pipe.receive(sock)
        if frame is None or isinstance(frame, Stop):
            return 0
        assert isinstance(frame, Assign)
        do = frame.desired.spec.get("do", "ready")
        if do == "nonsense":
            sock.sendall(b"\xff" * 64)
            threading.Event().wait()
        if do == "crash":
            sys.stderr.write("first line\nout of cheese\n")
            return 3
        state = WorkerState(
            setup.job,
            setup.incarnation,
            "refused" if do == "refuse" else "ready",
            view=frame.desired.placement.view,
            problems=("no data here",) if do == "refuse" else (),
            sent=Planes(up=1000),
            counters={"cpu_seconds": 1.5},
            gauges={"pid": float(os.getpid())},
        )
        pipe.send(sock, State(state, urgent=True))
        if do == "deaf":
            threading.Event().wait()


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[sys.argv.index("--fd") + 1])))
