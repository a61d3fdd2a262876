"""Critical and learning traffic on one network, in virtual time: a small deterministic model for FCDDT's Table 4.

    FN_i ==access== switch ==trunk== cloud        all links full duplex, each direction a queue, first in first out

A message is cut into frames that enter the sender's queue at once; a frame enters the next queue when it has arrived whole and the
switch has processed it (store and forward). Without priorities a critical frame waits behind all earlier frames.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from math import ceil, gcd, lcm
from statistics import fmean
from typing import Final, Literal

from msgspec import Struct

from fog_sim.kernel import Kernel

Method = Literal["none", "FCDDT", "FCDDT as the paper counts", "FL", "CC"]
PERIODS_MS: Final = (200, 300, 400)
CLOUD_PERIOD_MS: Final = 400
STEP_MS: Final = 1000
BEAT_MS: Final = 100
"""Common divisor of all periods."""
HYPERPERIOD_S: Final = lcm(*PERIODS_MS, CLOUD_PERIOD_MS, STEP_MS) / 1000
STEPS: Final = round(1000 * HYPERPERIOD_S) // STEP_MS
"""Steps of learning in a hyperperiod."""
REQUEST: Final = 1400
CLOUD_REPLY: Final = 5000
NEIGHBOUR_REPLY: Final = 4000
LEARNING_REQUEST: Final = 1200


class Network(Struct, frozen=True, kw_only=True):
    """The network, which the paper does not describe."""

    access_bits_s: float = 1e9
    trunk_bits_s: float = 10e9
    switch_s: float = 10e-6
    """Time from the arrival of a frame's last bit until the frame may leave."""
    frame_bytes: int = 1500
    learning_frame_bytes: int = 9000
    """Jumbo frames, for fewer events; with first in, first out the delay of others hardly depends on their size."""
    overhead_bytes: int = 38
    """Overhead of each frame: preamble, header, check sum, gap."""


class Learning(Struct, frozen=True, kw_only=True):
    """A two-layer MLP on MNIST, cut behind its hidden layer."""

    batch: int = 200
    hidden: int = 64
    value_bytes: int = 4
    sync_every: int = 2
    inputs: int = 784
    classes: int = 10

    @property
    def local(self) -> int:
        return (self.inputs + 1) * self.hidden

    @property
    def cycle(self) -> int:
        """Hyperperiods after which syncs fall on the same steps again; a mean over a multiple of them has the right share of syncs."""
        return self.sync_every // gcd(STEPS, self.sync_every)

    @property
    def weights(self) -> int:
        return self.local + (self.hidden + 1) * self.classes

    def values(self, method: Method) -> float:
        """Values that one FN sends and receives per step, on average."""
        match method:
            case "FCDDT":
                return 2 * self.batch * self.hidden + 2 * self.local / self.sync_every
            case "FCDDT as the paper counts":
                return self.batch * self.hidden + self.local
            case "FL":
                return 2 * self.weights
            case "CC":
                return self.batch * self.inputs
            case "none":
                return 0

    def up_down(self, method: Method, step: int) -> tuple[int, int]:
        """(bytes up, bytes down) of one FN in this step (1, 2 …). FCDDT syncs the fronts in every sync_every-th step."""
        sync = self.local if step % self.sync_every == 0 else 0
        up, down = {
            "none": (0, 0),
            "FCDDT": (self.batch * self.hidden + sync, self.batch * self.hidden + sync),
            "FCDDT as the paper counts": (self.batch * self.hidden, self.local),
            "FL": (self.weights, self.weights),
            "CC": (self.batch * self.inputs, 0),
        }[method]
        return self.value_bytes * up, self.value_bytes * down

    def in_order(self) -> bool:
        """Whether FCDDT < FL < CC in values per step."""
        return self.values("FCDDT") < self.values("FL") < self.values("CC")


class TrafficResult(Struct, frozen=True):
    """Means over one hyperperiod."""

    delay_us: float
    """Mean delay of critical messages, from their release until the arrival of their last bit."""
    load: float
    """Bytes carried divided by the capacity of all links."""
    mbit_s: float
    """Bytes that entered the network, per second."""
    messages: int
    learning_bytes: float
    """Tensors of learning that one FN sends and receives per step."""
    header_bytes: float
    """Further bytes of learning per FN and step: the cloud's request and the overhead of all frames."""


class _Queue:
    """One direction of a link."""

    __slots__ = ("bits_s", "carried", "free")

    def __init__(self, bits_s: float) -> None:
        self.bits_s, self.free, self.carried = bits_s, 0.0, 0

    def pass_on(self, now: float, size: int) -> float:
        """Queue a frame that enters now; returns the time at which its last bit is at the other end."""
        self.free = max(self.free, now) + 8 * size / self.bits_s
        self.carried += size
        return self.free


class _Model:
    def __init__(self, nodes: int, network: Network) -> None:
        self.kernel, self.network = Kernel(), network
        self.up = [_Queue(network.access_bits_s) for _ in range(nodes)]
        self.down = [_Queue(network.access_bits_s) for _ in range(nodes)]
        self.to_cloud, self.from_cloud = _Queue(network.trunk_bits_s), _Queue(network.trunk_bits_s)
        self.delays: list[float] = []
        self.entered = self.learned = self.headers = 0

    def send(self, source: int, target: int, size: int, arrived: Callable[[], None] | None, critical: bool) -> None:
        """Send a message from FN `source` to FN `target`; -1 is the cloud. arrived: called when its last bit has arrived."""
        first = self.from_cloud if source < 0 else self.up[source]
        second = self.to_cloud if target < 0 else self.down[target]
        released, left = self.kernel.now, size
        self.entered += size
        most = self.network.frame_bytes if critical else self.network.learning_frame_bytes
        if not critical:
            self.learned += size
            self.headers += self.network.overhead_bytes * ceil(size / most)
        while left > 0:
            part, left = min(left, most), left - most
            whole = part + self.network.overhead_bytes
            at = first.pass_on(released, whole) + self.network.switch_s
            self.kernel.at(at, lambda whole=whole, last=left <= 0: self._forward(second, whole, released if last else None, arrived, critical))  # type: ignore[misc]

    def _forward(self, queue: _Queue, size: int, released: float | None, arrived: Callable[[], None] | None, critical: bool) -> None:
        end = queue.pass_on(self.kernel.now, size)
        if released is None:
            return
        if critical:
            self.delays.append(end - released)
        if arrived is not None:
            self.kernel.at(end, arrived)

    def exchange(self, source: int, target: int, reply: int, period_s: float, phase_s: float) -> None:
        """Send requests of REQUEST bytes, each answered at once, from phase_s on within one hyperperiod."""

        def release() -> None:
            self.send(source, target, REQUEST, lambda: self.send(target, source, reply, None, True), True)

        for k in range(round(HYPERPERIOD_S / period_s)):
            self.kernel.at(phase_s + k * period_s, release)

    def learn(self, nodes: int, learning: Learning, method: Method, done: int) -> None:
        """Run a step every second, the first at 0: the cloud asks all FNs at once; when all have answered, it sends each its part.

        done: steps before this hyperperiod, because sync steps are counted over the whole run.
        """

        def step(number: int) -> None:
            up, down = learning.up_down(method, number)
            waiting = set(range(nodes))

            def heard(node: int) -> None:
                waiting.discard(node)
                if not waiting and down:
                    for other in range(nodes):
                        self.send(-1, other, down, None, False)

            for node in range(nodes):
                self.send(-1, node, LEARNING_REQUEST, lambda node=node: self.send(node, -1, up, lambda: heard(node), False), False)  # type: ignore[misc]

        for number in range(STEPS):
            self.kernel.at(number * STEP_MS / 1000, lambda number=number: step(done + number + 1))  # type: ignore[misc]


class Phases:
    """Periods and phases of the critical exchanges, the same for all methods: a function of (seed, nodes, samples).

    All periods and the step of learning are multiples of BEAT_MS, so that only the place of a phase within the beat matters. Over
    the `samples` hyperperiods of a mean each exchange takes each of `samples` parts of the beat once (a Latin hypercube), so that
    rare collisions with the short bursts of learning occur in their right proportion.
    """

    def __init__(self, seed: int, nodes: int, samples: int) -> None:
        self._dice = random.Random(f"mixed-{seed}-{nodes}-{samples}")
        self.samples = samples
        self.exchanges: list[tuple[int, int, int, float, list[float]]] = []
        """(source, target, reply, period, phase in each sample)"""
        for node in range(nodes):
            self._add(node, -1, CLOUD_REPLY, CLOUD_PERIOD_MS)
            for other in sorted({(node - 1) % nodes, (node + 1) % nodes} - {node}):
                self._add(node, other, NEIGHBOUR_REPLY, self._dice.choice(PERIODS_MS))

    def _add(self, source: int, target: int, reply: int, period_ms: int) -> None:
        parts = self._dice.sample(range(self.samples), self.samples)
        beats = period_ms // BEAT_MS
        phases = [BEAT_MS / 1000 * ((part + self._dice.random()) / self.samples + self._dice.randrange(beats)) for part in parts]
        self.exchanges.append((source, target, reply, period_ms / 1000, phases))


def simulate(
    nodes: int, method: Method, learning: Learning = Learning(), network: Network = Network(), *, seed: int = 0, samples: int = 60
) -> TrafficResult:
    """The mean over `samples` hyperperiods, each from an empty network and with other phases. Bytes are exact if `samples` is a multiple of
    `learning.cycle`."""
    phases = Phases(seed, nodes, samples)
    each = [_hyperperiod(nodes, method, learning, network, phases, sample) for sample in range(samples)]
    return TrafficResult(
        delay_us=fmean(result.delay_us for result in each),
        load=fmean(result.load for result in each),
        mbit_s=fmean(result.mbit_s for result in each),
        messages=sum(result.messages for result in each),
        learning_bytes=fmean(result.learning_bytes for result in each),
        header_bytes=fmean(result.header_bytes for result in each),
    )


def _hyperperiod(nodes: int, method: Method, learning: Learning, network: Network, phases: Phases, sample: int) -> TrafficResult:
    model = _Model(nodes, network)
    for source, target, reply, period_s, at in phases.exchanges:
        model.exchange(source, target, reply, period_s, at[sample])
    if method != "none":
        model.learn(nodes, learning, method, STEPS * sample)
    model.kernel.run(HYPERPERIOD_S + 10.0)
    queues = [*model.up, *model.down, model.to_cloud, model.from_cloud]
    asked = 0 if method == "none" else LEARNING_REQUEST * nodes * STEPS
    capacity = sum(queue.bits_s for queue in queues) / 8 * HYPERPERIOD_S
    return TrafficResult(
        delay_us=1e6 * fmean(model.delays),
        load=sum(queue.carried for queue in queues) / capacity,
        mbit_s=8e-6 * model.entered / HYPERPERIOD_S,
        messages=len(model.delays),
        learning_bytes=(model.learned - asked) / nodes / STEPS,
        header_bytes=(model.headers + asked) / nodes / STEPS,
    )
