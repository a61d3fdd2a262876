"""Fog learning against plain federated learning: uplink bytes and device energy with the same data, local work and target accuracy.

star:  device ---- LTE ---- cloud
tree:  devices of a cluster ==== WiFi (D2D consensus) ====; one of them -- LTE -- edge node; edge nodes ==== among themselves; one -- cloud
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean
from typing import Any, Final

from msgspec import Struct

from fog_common.energy.radios import LTE, OLD_WIFI, WIFI, Radio
from fog_sim.experiments.base import ExperimentSettings, Line, Outcome, Plot, ResultTable, TableRow, find_data, held, mean_std
from fog_sim.experiments.stage import CLOUD, Finished, Stage, StageTask, star
from fog_sim.links import LinkModel, NodeModel

PAPER: Final = {"uplink_saved": 0.8, "energy_saved": 0.5, "accuracy_gap": 0.0}
CLUSTERS: Final = 5


WIRE: Final = LinkModel(up_bytes_s=100e6, down_bytes_s=100e6, latency_s=0.001)
DEVICE: Final = NodeModel()


class Case(Struct, frozen=True, kw_only=True):
    """One comparison."""

    size: int
    """Devices in a cluster."""
    graph: dict[str, Any]
    """The `consensus` section."""
    data: str
    model: dict[str, Any]
    rounds: int
    target: float
    lr: float
    batch: int
    local_steps: int = 1
    clusters: int = CLUSTERS
    test_limit: int | None = None

    @property
    def devices(self) -> int:
        return self.clusters * self.size

    def spec(self, method: dict[str, Any], seed: int) -> dict[str, Any]:
        data: dict[str, Any] = {"name": self.data, "partition": {"kind": "shards", "shards_per_node": 2}}
        return {
            "name": f"paper-{method['name']}",
            "method": {**method, "local_steps": self.local_steps},
            "model": self.model,
            "data": {**data, **({"test_limit": self.test_limit} if self.test_limit else {})},
            "train": {"rounds": self.rounds, "batch_size": self.batch, "lr": self.lr},
            "seed": seed,
        }

    def fog(self) -> dict[str, Any]:
        """The `method` section that is compared with fedavg."""
        return {"name": "fog", "mode": "d2d", "uplink": "sample", "downlink": "relay", "consensus": self.graph}

    def tree(self) -> list[StageTask]:
        """Tasks of the tree: a site per cluster of devices, an edge node for each, all edge nodes in one site, the cloud."""
        tasks = [StageTask("server", "server", tier="cloud", site="cloud")]
        for cluster in range(self.clusters):
            tasks.append(StageTask(f"aggregator-{cluster}", "aggregator", parent="server", tier="fog", site="edge"))
            slots = range(cluster * self.size, (cluster + 1) * self.size)
            tasks += [StageTask(f"trainer-{slot}", "trainer", slot, f"aggregator-{cluster}", "thing", f"cluster-{cluster}") for slot in slots]
        return tasks


class Spent(Struct, frozen=True):
    """Costs of one run, per round."""

    rated: tuple[float, ...]
    """Accuracy after each round."""
    uplink: float
    """Bytes between layers: device - edge node (or cloud), edge node - cloud; up and down."""
    device_far: tuple[float, float]
    """(bytes sent, bytes received) by the devices' LTE."""
    device_near: tuple[float, float]
    """(bytes sent, bytes received) by the devices' WiFi."""
    edge_near: float
    """Bytes sent among the edge nodes."""
    compute_j: float
    seconds: float

    @property
    def accuracy(self) -> float:
        """Mean of the last five ratings."""
        return fmean(self.rated[-5:])

    def reached(self, target: float) -> int | None:
        """The first round with a rating of at least `target`; None without one."""
        return next((number for number, accuracy in enumerate(self.rated, 1) if accuracy >= target), None)

    def joules(self, d2d: Radio = WIFI) -> float:
        """Modelled joules of all devices per round: LTE, D2D and computing."""
        return LTE.joules(*self.device_far) + d2d.joules(*self.device_near) + self.compute_j


def spent(case: Case, run: Finished) -> Spent:
    """Costs of a run per round: all rounds cost the same, so its totals are divided by their number."""
    devices = [name for name in run.far if name.startswith("trainer")]
    edges = [name for name in run.far if name.startswith("aggregator")]
    far, near = [run.far[name] for name in devices], [run.near[name] for name in devices]
    rounds = case.rounds
    top = run.far["server"].total if edges else 0
    return Spent(
        rated=tuple(record.numbers["accuracy"] for record in run.history),
        uplink=(sum(moved.total for moved in far) + top) / rounds,
        device_far=(sum(moved.sent for moved in far) / rounds, sum(moved.received for moved in far) / rounds),
        device_near=(sum(moved.sent for moved in near) / rounds, sum(moved.received for moved in near) / rounds),
        edge_near=sum(run.near[name].sent for name in edges) / rounds,
        compute_j=sum(run.op_joules[name] for name in devices) / rounds,
        seconds=run.virtual_s / rounds,
    )


def play(case: Case, method: dict[str, Any], tasks: list[StageTask] | None, seed: int) -> Spent:
    """Run a method in the simulator. tasks: None for a star."""
    spec = case.spec(method, seed)
    lte = LinkModel(up_bytes_s=LTE.send_bytes_s, down_bytes_s=LTE.receive_bytes_s, latency_s=0.04)
    wifi = LinkModel(up_bytes_s=WIFI.send_bytes_s, down_bytes_s=WIFI.receive_bytes_s, latency_s=0.003)

    def links(task: StageTask) -> tuple[LinkModel, LinkModel | None]:
        return (lte, wifi) if task.role == "trainer" else (WIRE, WIRE)

    stage = Stage(
        spec, tasks or star(spec, case.devices), links=links, model=lambda task: DEVICE if task.tier in ("thing", "edge") else CLOUD, seed=seed
    )
    return spent(case, stage.run())


def cases(settings: ExperimentSettings) -> list[Case]:
    # exact averaging in small clusters, otherwise four neighbours: with two (a ring) rounds are cheaper, but many more may be needed by chance
    few, many = {"graph": "full", "turns": 1}, {"graph": "small_world", "degree": 4, "rewire": 0.5, "turns": 1}
    if settings.quick:
        common: dict[str, Any] = {"data": "digits", "model": {"name": "mlp", "hidden": [256]}, "rounds": 50, "lr": 0.1, "batch": 16}
    else:
        data = find_data(("mnist",), settings.env)
        common = {"data": data, "model": {"name": "mlp", "hidden": [32]}, "rounds": 110, "lr": 0.1, "batch": 16, "test_limit": 5000}
    return [Case(size=size, graph=few if size <= 5 else many, target=0.9, **common) for size in (5, 10, 25)]


def run(settings: ExperimentSettings, chosen: list[Case] | None = None) -> Outcome:
    """chosen: for tests."""
    compared, seeds = chosen or cases(settings), settings.repeat(full=2, quick=1)
    one = compared[0]
    outcome = Outcome(
        setting={
            "data": one.data,
            "model": one.model,
            "devices": [case.devices for case in compared],
            "clusters": one.clusters,
            "layers": "devices, edge nodes, cloud",
            "rounds": one.rounds,
            "local steps": one.local_steps,
            "batch": one.batch,
            "learning rate": one.lr,
            "target accuracy": one.target,
            "seeds": list(seeds),
        },
        assumptions=_assumptions(compared),
        simulated=[
            "Training is real (torch); both methods are the state machines that run on a fleet, with the real transfer and messages.",
            "Network and time are simulated; bytes are those of real frames, headers and acknowledgements included, shown as parameters of 4 bytes.",
            "Energy is modelled: joules per byte of the radios, and joules per floating-point operation. Nothing was measured on a device.",
        ],
    )
    pairs = {case.size: [_compare(settings, case, seed) for seed in seeds] for case in compared}
    for case in compared:
        _rows(outcome, case, pairs[case.size])
    _judge(outcome)
    _targets(outcome, compared, pairs)
    _limits(outcome, compared, pairs)
    if settings.live is not None:
        live(outcome, settings.say, settings.live, LIVE)
    return outcome


def _compare(settings: ExperimentSettings, case: Case, seed: int) -> tuple[Spent, Spent]:
    settings.say(f"{case.devices} devices, seed {seed}: fedavg, a star")
    flat = play(case, {"name": "fedavg"}, None, seed)
    settings.say(f"{case.devices} devices, seed {seed}: fog, {case.clusters} clusters of {case.size}")
    return flat, play(case, case.fog(), case.tree(), seed)


def saved(flat: Spent, fog: Spent, target: float, d2d: Radio = WIFI) -> tuple[float, float] | None:
    """(uplink, energy) saved at the target, as fractions of fedavg's; None if either did not reach it."""
    ratio = rounds_ratio(flat, fog, target)
    return None if ratio is None else (1 - ratio * fog.uplink / flat.uplink, 1 - ratio * fog.joules(d2d) / flat.joules(d2d))


def rounds_ratio(flat: Spent, fog: Spent, target: float) -> float | None:
    """Rounds of fog for each of fedavg, until the target."""
    mine, theirs = fog.reached(target), flat.reached(target)
    return None if mine is None or theirs is None else mine / theirs


def _rows(outcome: Outcome, case: Case, pairs: list[tuple[Spent, Spent]]) -> None:
    name = f"{case.clusters} clusters of {case.size}"
    both = [saving for flat, fog in pairs if (saving := saved(flat, fog, case.target)) is not None]
    figures = {"uplink_saved": [each[0] for each in both], "energy_saved": [each[1] for each in both]} if len(both) == len(pairs) else {}
    figures["accuracy_gap"] = [flat.accuracy - fog.accuracy for flat, fog in pairs]
    means = {key: mean_std(values) for key, values in figures.items()}
    more = {"cluster_size": case.size, "devices": case.devices, **{key: mean for key, (mean, _) in means.items()}}
    for key, paper in PAPER.items():
        mean, std = means.get(key, (None, None))
        note = "" if mean is not None else f"accuracy {case.target:g} not reached in {case.rounds} rounds"
        outcome.rows.append(TableRow(row=name, column=key, paper=paper, ours=mean, std=std, unit="fraction", note=note, more=more))
    for index, method in enumerate(("fedavg", "fog")):
        runs = [pair[index] for pair in pairs]
        reached = [number for each in runs if (number := each.reached(case.target)) is not None]
        if len(reached) == len(runs):
            values: dict[str, tuple[list[float], str]] = {
                "rounds to target": ([float(n) for n in reached], "rounds"),
                "time to target": ([n * each.seconds for n, each in zip(reached, runs, strict=True)], "s, simulated"),
                "up": ([n * _parameters(each)["up"] for n, each in zip(reached, runs, strict=True)], "parameters"),
                "down": ([n * _parameters(each)["down"] for n, each in zip(reached, runs, strict=True)], "parameters"),
                "d2d": ([n * _parameters(each)["d2d"] for n, each in zip(reached, runs, strict=True)], "parameters"),
                "total with d2d": ([n * sum(_parameters(each).values()) for n, each in zip(reached, runs, strict=True)], "parameters"),
                "device energy": ([n * each.joules() for n, each in zip(reached, runs, strict=True)], "J, modelled"),
            }
            for what, (numbers, unit) in values.items():
                mean, std = mean_std(numbers)
                outcome.rows.append(TableRow(row=name, column=f"{method} {what}", ours=mean, std=std, unit=unit, more={"cluster_size": case.size}))


def _parameters(each: Spent) -> dict[str, float]:
    """Parameters of 4 bytes sent per round, by plane. Between edge nodes and cloud as many go up as down."""
    sent, received = each.device_far
    top = each.uplink - sent - received
    return {"up": (sent + top / 2) / 4, "down": (received + top / 2) / 4, "d2d": (each.device_near[0] + each.edge_near) / 4}


def _judge(outcome: Outcome) -> None:
    for key, least, bar in (("uplink_saved", 10, 0.8), ("energy_saved", 5, 0.5)):
        asked = [row for row in outcome.rows if row.column == key and row.more["cluster_size"] >= least]
        if asked:
            shown = ", ".join(
                f"{row.more['cluster_size']}: {row.ours:.1%}" if row.ours is not None else f"{row.more['cluster_size']}: -" for row in asked
            )
            outcome.findings.append(
                held(f"{key} >= {bar:g} for clusters of at least {least}", all(row.ours is not None and row.ours >= bar for row in asked), shown)
            )


def _targets(outcome: Outcome, compared: list[Case], pairs: dict[int, list[tuple[Spent, Spent]]]) -> None:
    """Add the savings of the same runs at other targets, because the target is our choice."""
    targets = sorted({0.8, 0.85, 0.88, 0.9, *(case.target for case in compared)})
    rows = []
    for case in compared:
        cells = [str(case.size)]
        for target in targets:
            ratios = [rounds_ratio(flat, fog, target) for flat, fog in pairs[case.size]]
            savings = [saved(flat, fog, target) for flat, fog in pairs[case.size]]
            known = [saving for saving in savings if saving is not None]
            uplink, energy = (fmean(saving[index] for saving in known) if known else 0.0 for index in (0, 1))
            ratio = fmean(each for each in ratios if each is not None) if known else 0.0
            cells.append(f"{uplink:.0%} / {energy:.0%} / {ratio:.2f}" if len(known) == len(savings) else "not reached")
        rows.append(cells)
    columns = ["cluster size", *(f"at {target:g}" for target in targets)]
    outcome.tables.append(ResultTable("Uplink saved / energy saved / rounds of fog per round of fedavg, by target accuracy", columns, rows))


def _limits(outcome: Outcome, compared: list[Case], pairs: dict[int, list[tuple[Spent, Spent]]]) -> None:
    """Add the limits of the advantage: with other radios, from the measured bytes; with more consensus, by formula."""
    rows, lines = [], []
    for case in compared:
        known = [(flat, fog, ratio) for flat, fog in pairs[case.size] if (ratio := rounds_ratio(flat, fog, case.target)) is not None]
        if not known:
            continue
        half, none = (fmean(break_even(flat, fog, ratio, left) for flat, fog, ratio in known) for left in (0.5, 1.0))
        worse = fmean(1 - ratio * fog.joules(OLD_WIFI) / flat.joules(OLD_WIFI) for flat, fog, ratio in known)
        total = fmean(ratio * sum(_parameters(fog).values()) / sum(_parameters(flat).values()) for flat, fog, ratio in known)
        rows.append([str(case.size), f"{1e6 * half:.2f}", f"{1e6 * none:.2f}", f"{worse:.0%}", f"{total:.1f}x"])
        shares = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
        points = [(share, fmean(_saving_at(flat, fog, ratio, share) for flat, fog, ratio in known)) for share in shares]
        lines.append(Line(f"clusters of {case.size}", points))
    columns: list[str] = [
        "cluster size",
        "50 % saved up to (uJ per D2D byte, both ends)",
        "anything saved up to",
        "energy saved with the WiFi of 2012",
        "parameters sent in total with D2D, against fedavg",
    ]
    outcome.tables.append(ResultTable(f"Where the advantage ends: energy per D2D byte (here {1e6 * WIFI.pair_j:.2f} uJ)", columns, rows))
    most = [[str(size), *(_allowed(size, left) for left in (0.5, 1.0))] for size in (2, 3, 5, 10, 15, 20, 25, 50)]
    columns = ["cluster size", "50 % saved", "anything saved"]
    outcome.tables.append(ResultTable("By formula, equal rounds, tensors only: neighbours x turns of the consensus, at most", columns, most))
    outcome.plots.append(
        Plot(
            name="energy",
            title="Device energy saved at equal accuracy (modelled)",
            x="joules of a D2D byte over those of an uplink byte (both: sent + received)",
            y="fraction saved",
            lines=lines,
            log_x=True,
        )
    )


def break_even(flat: Spent, fog: Spent, ratio: float, left: float) -> float:
    """Joules per D2D byte (sent and received) at which fog costs the fraction `left` of fedavg; 0 if it always costs more."""
    budget = left * flat.joules() / ratio - LTE.joules(*fog.device_far) - fog.compute_j
    return max(0.0, budget / fmean(fog.device_near))


def _saving_at(flat: Spent, fog: Spent, ratio: float, share: float) -> float:
    """Fraction of energy saved if a D2D byte costs `share` of the uplink's joules per byte."""
    energy = LTE.joules(*fog.device_far) + fog.compute_j + share * LTE.pair_j * fmean(fog.device_near)
    return 1 - ratio * energy / flat.joules()


def _allowed(size: int, left: float) -> str:
    """Largest neighbours x turns with LTE.pair_j / n + WIFI.pair_j ((n - 1) / n + neighbours turns) <= left LTE.pair_j, per device and model."""
    most = (LTE.pair_j * (left - 1 / size)) / WIFI.pair_j - (size - 1) / size
    return f"{most:.1f}" if most > 0 else "never"


def _assumptions(compared: list[Case]) -> list[str]:
    graphs = "; ".join(f"clusters of {case.size}: {case.graph['graph']} graph, {case.graph['turns']} turn" for case in compared)
    return [
        f"Uplink (LTE): {1e6 * LTE.send_j:.2f} uJ per byte sent, {1e6 * LTE.receive_j:.2f} received: Huang et al., MobiSys 2012, power model of data transfer "
        "(438.39 mW per Mbit/s up, 51.97 down, 1288.04 mW) at its median rates of 5.64 and 12.74 Mbit/s. The tail after each transfer (11.6 s at 1.06 W) is left "
        "out: in fog, too, every member wakes its radio for a few small messages to the head, so it would come to both alike.",
        f"D2D (WiFi): {1e6 * WIFI.send_j:.2f} uJ per byte sent, {1e6 * WIFI.receive_j:.2f} received: Halperin et al., HotPower 2010, 802.11n, one antenna (1.28 W, "
        f"0.94 W) at 50 Mbit/s of payload. Worse case beside it: the WiFi of Huang et al. at 20 Mbit/s ({1e6 * OLD_WIFI.send_j:.2f}, {1e6 * OLD_WIFI.receive_j:.2f} uJ). "
        "Listening for others costs nothing here.",
        f"Computing: {DEVICE.joules_per_flop * 1e9:g} nJ per floating-point operation, in both methods. Idle power is left out. Only devices count; edge nodes and cloud are on mains.",
        "Non-IID: shards, two per device (McMahan et al. 2017). All devices take part in each round, with the same local steps, batches and first weights.",
        f"fog: `mode: d2d` in all layers; {graphs}; one member, drawn at random, sends the result up; the weights come down to one member, who passes them on. The "
        "edge nodes average in the same way, then one sends to the cloud.",
        "uplink_saved counts every byte between layers, device - edge node and edge node - cloud, up and down; fedavg: device - cloud, a cast counted at each receiver.",
        "To the target: the first round whose rating on the test set reaches it; totals of a run divided by its rounds, times that round.",
        "accuracy_gap: fedavg's accuracy less fog's after the same number of rounds (mean of the last five ratings).",
    ]


# -- live ----------------------------------------------------------------------------------

LIVE_SITES: Final = 2
LIVE_SIZE: Final = 3
LIVE: Final = Case(
    size=LIVE_SIZE,
    clusters=LIVE_SITES,
    graph={"graph": "full", "turns": 1},
    data="digits",
    model={"name": "mlp", "hidden": [64]},
    rounds=20,
    target=0.8,
    lr=0.1,
    batch=32,
    local_steps=10,
)


def live(outcome: Outcome, say: Callable[[str], None], on_a_fleet: Callable[[dict[str, Any], int, int], dict[str, Any]], case: Case) -> None:
    """Run fedavg and fog on agents and brokers of this machine; add rows with the bytes of the jobs' status, and findings."""
    name = f"live: {case.clusters} sites of {case.size}"
    methods: tuple[dict[str, Any], ...] = ({"name": "fedavg"}, case.fog())
    statuses: dict[str, dict[str, Any]] = {}
    for method in methods:
        say(f"{name}: {method['name']}")
        spec = {**case.spec(method, 0), "nodes": {"select": {"tier": ["edge"]}}}
        statuses[method["name"]] = status = on_a_fleet(spec, case.devices, case.clusters)
        moved, rounds = status["bytes"], status["round"]
        up = {"uplink": moved["up"] + moved["down"] + moved["cast"], "d2d": moved["d2d"], "through the cloud's broker": _crossing(status)}
        rows = [TableRow(row=name, column=f"{method['name']} {what}", ours=count / rounds, unit="B per round") for what, count in up.items()]
        outcome.rows += [*rows, TableRow(row=name, column=f"{method['name']} accuracy", ours=status["metrics"]["accuracy"], unit="fraction")]
    ours = {row.column: row.ours for row in outcome.rows if row.row == name and row.ours is not None}
    more = {"live": True, "cluster_size": case.size, "devices": case.devices}
    saving, gap = 1 - ours["fog uplink"] / ours["fedavg uplink"], ours["fedavg accuracy"] - ours["fog accuracy"]
    outcome.rows.append(TableRow(row=name, column="uplink_saved", ours=saving, unit="fraction", more=more, note="a cast counted once"))
    outcome.rows.append(TableRow(row=name, column="accuracy_gap", ours=gap, unit="fraction", more=more))
    strays = sum(status["stray_bytes"] for status in statuses.values())
    outcome.findings.append(held("live: no byte of a site's own traffic at another broker", strays == 0, f"{strays} B"))
    outcome.findings.append(held("live: fog sends less between layers than fedavg", saving > 0, f"{saving:.0%} less, gap in accuracy {gap:+.3f}"))
    outcome.simulated.append(
        f"{name}: not simulated: agents, workers and brokers of this machine, real torch; after {case.rounds} rounds. uplink: payloads of the planes up, down "
        "and cast, as published (fedavg's cast to all counts once, so its uplink is a lower bound); d2d: inside the sites."
    )


def _crossing(status: dict[str, Any]) -> int:
    """Payload bytes of the planes `to` and `cast` at the cloud's broker, including control messages of the fleet."""
    passed = status["broker_bytes"]["cloud"]
    return int(passed["to"] + passed["cast"])
