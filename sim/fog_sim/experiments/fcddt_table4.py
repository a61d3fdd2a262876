"""FCDDT, Table 4: delay of critical traffic beside learning traffic, for 4 to 18 fog nodes, and the region in which the methods' order holds."""

from __future__ import annotations

from math import ceil, lcm
from statistics import fmean
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from fog_sim.experiments.base import ExperimentSettings, Line, Outcome, Plot, ResultTable, TableRow, held, mean_std
from fog_sim.experiments.mixed_traffic import HYPERPERIOD_S, Learning, Method, Network, simulate

PAPER: Final[dict[int, dict[Method, tuple[float, float]]]] = {
    4: {"FCDDT": (49, 18), "FL": (52, 21), "CC": (57, 22)},
    7: {"FCDDT": (52, 19), "FL": (56, 23), "CC": (65, 24)},
    10: {"FCDDT": (56, 21), "FL": (63, 25), "CC": (75, 26)},
    12: {"FCDDT": (62, 22), "FL": (69, 25), "CC": (83, 27)},
    15: {"FCDDT": (66, 24), "FL": (77, 28), "CC": (89, 29)},
    18: {"FCDDT": (71, 25), "FL": (84, 29), "CC": (96, 31)},
}
"""FNs -> method -> (mean delay in us, bandwidth in %)."""
PAPER_NONE: Final = (55.0, 20.0)
METHODS: Final[tuple[Method, ...]] = ("none", "FCDDT", "FCDDT as the paper counts", "FL", "CC")
COMPARED: Final[tuple[Method, ...]] = ("FCDDT", "FL", "CC")
BATCHES: Final = (25, 50, 100, 150, 200, 300, 400, 600, 800)
WIDTHS: Final = (16, 32, 64, 128, 256)
SYNCS: Final = (1, 2, 5, 10)
RARER: Final = (5, 10)
"""Further values of sync_every that are simulated at every size."""


class PlacementCase(Struct, frozen=True):
    """A column: a method and its learning traffic."""

    name: str
    method: Method
    learning: Learning


class MeanCost(Struct, frozen=True):
    """Means over the seeds."""

    delay_us: float
    load: float
    """Percent."""


def cases(learning: Learning) -> list[PlacementCase]:
    rarer = [replace(learning, sync_every=every) for every in RARER]
    return [*(PlacementCase(method, method, learning) for method in METHODS), *(PlacementCase(synced(each), "FCDDT", each) for each in rarer)]


def synced(learning: Learning) -> str:
    return f"FCDDT, sync_every {learning.sync_every}"


def run(settings: ExperimentSettings) -> Outcome:
    seeds, learning, network = settings.repeat(full=3), Learning(), Network()
    outcome = Outcome(
        setting={
            "B": learning.batch,
            "h": learning.hidden,
            "dtype": "float32",
            "samples per seed": f"{samples(settings, 18)} (18 FNs) to {samples(settings, 4)} (4 FNs)",
            "sync_every": f"{learning.sync_every} (and {', '.join(map(str, RARER))} in columns of their own)",
            "access": "1 Gbit/s",
            "trunk": "10 Gbit/s",
            "seeds": list(seeds),
        },
        assumptions=[
            "Link rates, batch size, widths and topology are not given in the paper. Ours: each FN has a 1 Gbit/s full-duplex link to one switch, the "
            "switch a 10 Gbit/s link to the cloud; store and forward, 10 us in the switch, frames of 1500 B (learning: 9000 B) + 38 B, queues first in first out, "
            "no priorities.",
            "Two-layer MLP on MNIST, cut behind the hidden layer: B = 200, h = 64, float32, sync_every = 2 (`cut_gradient`). FCDDT sends B·h values up "
            "and down in each step, and |w_local| up and down in each second one (sync_every 5 and 10: each fifth and tenth, counted over all "
            "hyperperiods); FL |w| up and down; CC B·d up.",
            "A learning step each 1000 ms: the cloud asks all FNs at once (1200 B), each answers, then the cloud sends to all at once.",
            "Critical: each FN asks the cloud (1400 B, answer 5000 B) each 400 ms and both its neighbours in a ring (1400 B, answer 4000 B) each 200, 300 or "
            "400 ms, drawn by the seed; phases are drawn by the seed, the same for all methods. Answers are sent at once.",
            f"Means over {samples(settings, 18)} to {samples(settings, 4)} hyperperiods of {HYPERPERIOD_S:g} s with other phases (the paper: one hyperperiod), then over the seeds; std is over the "
            "seeds.",
            "Bandwidth: the paper does not say of what its percentages are, and no single link rate gives both its delays and its percentages (5000 B in about "
            "50 us need about 1 Gbit/s, where this traffic is below 1 %). Ours is bytes carried over what all links could carry.",
        ],
        simulated=["Everything here is modelled, in virtual time; nothing is trained and no byte is sent."],
    )
    means = {(nodes, case.name): _mean(settings, nodes, case, network, seeds, outcome) for nodes in PAPER for case in cases(learning)}
    decomposed = ["FCDDT", *(synced(replace(learning, sync_every=every)) for every in RARER)]
    for name in decomposed:
        _ratios(outcome, means, name)
        _judge(outcome, means, name)
    _compare(outcome, means)
    _bytes(outcome)
    _region(outcome, settings, network)
    outcome.plots = [
        Plot(
            name="delay",
            title="Mean delay of critical messages (modelled; dashed: paper)",
            x="fog nodes",
            y="us",
            lines=[
                *(Line(case.name, [(n, means[n, case.name].delay_us) for n in PAPER]) for case in cases(learning)),
                *(Line(f"{method}, paper", [(n, PAPER[n][method][0]) for n in PAPER], dashed=True) for method in COMPARED),
            ],
        )
    ]
    return outcome


def samples(settings: ExperimentSettings, nodes: int) -> int:
    """Hyperperiods per mean, a multiple of all cycles of SYNCS; fewer nodes exchange fewer messages and need more of them."""
    cycle = lcm(*(Learning(sync_every=every).cycle for every in SYNCS))
    return cycle * ceil((60 if settings.quick else 100) * 18 / nodes / cycle)


def _mean(settings: ExperimentSettings, nodes: int, case: PlacementCase, network: Network, seeds: range, outcome: Outcome) -> MeanCost:
    settings.say(f"{nodes} FNs, {case.name}")
    results = [simulate(nodes, case.method, case.learning, network, seed=seed, samples=samples(settings, nodes)) for seed in seeds]
    paper = PAPER[nodes].get(case.method)
    delay, delay_std = mean_std([result.delay_us for result in results])
    load, load_std = mean_std([100 * result.load for result in results])
    settings.say(f"{nodes} FNs, {case.name}: {delay:.2f} us, {load:.4f} %")
    values, tensors, headers = case.learning.values(case.method), results[0].learning_bytes, results[0].header_bytes
    more = {
        "sync_every": case.learning.sync_every,
        "values_per_fn_and_step": values,
        "bytes_formula": case.learning.value_bytes * values,
        "bytes_measured": tensors + headers,
        "bytes_of_headers": headers,
        "mbit_s_measured": fmean(result.mbit_s for result in results),
    }
    name = f"{nodes} FNs"
    outcome.rows.append(TableRow(row=name, column=case.name, paper=paper[0] if paper else None, ours=delay, std=delay_std, unit="us", more=more))
    share = TableRow(row=name, column=f"{case.name} bandwidth", paper=paper[1] if paper else None, ours=load, std=load_std, unit="%", more=more)
    outcome.rows.append(share)
    return MeanCost(delay, load)


def _ratios(outcome: Outcome, means: dict[tuple[int, str], MeanCost], fcddt: str) -> None:
    """Add the ratios between the methods. fcddt: the column that stands for FCDDT."""
    shown, pairs = [], (("FL", "FCDDT"), ("CC", "FCDDT"), ("CC", "FL"))
    for nodes, paper in PAPER.items():
        cells = [str(nodes)]
        for index, unit in enumerate(("delay", "bandwidth")):
            for above, below in pairs:
                name = fcddt if below == "FCDDT" else below
                theirs = paper[above][index] / paper[below][index]  # type: ignore[index]
                ours = _figure(means[nodes, above], index) / _figure(means[nodes, name], index)
                if name != "FL" or fcddt == "FCDDT":  # CC/FL once
                    outcome.rows.append(TableRow(row=f"{nodes} FNs", column=f"{above}/{name} {unit}", paper=theirs, ours=ours, unit="ratio"))
                cells.append(f"{ours:.2f} ({theirs:.2f})")
        shown.append(cells)
    columns = [f"{above}/{below} {unit}" for unit in ("delay", "bandwidth") for above, below in pairs]
    outcome.tables.append(ResultTable(f"Ratios with {fcddt}, ours (paper's)", ["FNs", *columns], shown))


def _figure(mean: MeanCost, index: int) -> float:
    return (mean.delay_us, mean.load)[index]


def _judge(outcome: Outcome, means: dict[tuple[int, str], MeanCost], fcddt: str) -> None:
    for index, what in enumerate(("delay", "bandwidth")):
        wrong = [str(n) for n in PAPER if not _figure(means[n, fcddt], index) < _figure(means[n, "FL"], index) < _figure(means[n, "CC"], index)]
        how = f"wrong at {', '.join(wrong)} FNs" if wrong else "at every size"
        outcome.findings.append(held(f"order {fcddt} < FL < CC in {what}, 4 to 18 FNs", not wrong, how))


def _compare(outcome: Outcome, means: dict[tuple[int, str], MeanCost]) -> None:
    added = {method: fmean(means[n, method].delay_us - means[n, "none"].delay_us for n in PAPER) for method in COMPARED}
    theirs = {method: fmean(PAPER[n][method][0] for n in PAPER) - PAPER_NONE[0] for method in COMPARED}
    none = fmean(means[n, "none"].delay_us for n in PAPER)
    outcome.findings.append(f"Without learning traffic: {none:.1f} us (paper {PAPER_NONE[0]:g} us, {PAPER_NONE[1]:g} %).")
    added_text = ", ".join(f"{method} +{added[method]:.1f} us (paper +{theirs[method]:.1f})" for method in COMPARED)
    outcome.findings.append(f"Delay that learning adds, mean over the sizes: {added_text}.")


def _bytes(outcome: Outcome) -> None:
    """Compare the simulated bytes with the formula; per FN they depend neither on the seed nor on the size."""
    rows, wrong = [], []
    learning = [row for row in outcome.rows if row.unit == "us" and row.more["values_per_fn_and_step"]]
    for row in learning:
        tensors = row.more["bytes_measured"] - row.more["bytes_of_headers"]
        cells = (row.more["bytes_measured"], row.more["bytes_of_headers"], row.more["bytes_formula"], row.more["mbit_s_measured"])
        rows.append([row.row, row.column, *(f"{cell:,.0f}" for cell in cells[:3]), f"{cells[3]:.2f}"])
        wrong += [] if abs(tensors / row.more["bytes_formula"] - 1) <= 0.05 else [f"{row.column} at {row.row}"]
    columns = ("FNs", "method", "simulated", "of these headers and requests", "formula (tensors)", "Mbit/s of all traffic")
    outcome.tables.append(ResultTable("Bytes of learning per FN and step", columns, rows))
    outcome.findings.append(
        held("simulated bytes are within 5 % of the formula, and headers", not wrong, "; ".join(wrong) or f"{len(learning)} of {len(learning)}")
    )


def _region(outcome: Outcome, settings: ExperimentSettings, network: Network) -> None:
    """Add the region by formula on a grid with its bounds, and simulations at points on both sides of them."""
    rows, seeds = [], range(1 if settings.quick else 2)
    for sync in SYNCS:
        for hidden in WIDTHS:
            cells = ["yes" if Learning(batch=batch, hidden=hidden, sync_every=sync).in_order() else "-" for batch in BATCHES]
            low, high = bounds(hidden, sync)
            rows.append([str(sync), str(hidden), *cells, f"{low:.0f} < B < {high:.0f}" if low < high else "nowhere"])
    columns = ["sync_every", "h", *(f"B={batch}" for batch in BATCHES), "bounds of B"]
    outcome.tables.append(ResultTable("Where FCDDT < FL < CC in bytes per step (exact `cut_gradient`; any dtype, any number of FNs)", columns, rows))
    points = [(200, 64, 1), (200, 64, 2), (100, 64, 2), (600, 64, 2), (600, 64, 5)]
    points += [] if settings.quick else [(200, 128, 2), (400, 128, 5), (400, 128, 10), (100, 32, 2), (50, 32, 2)]
    checked, differ = [], []
    for batch, hidden, sync in points:
        learning = Learning(batch=batch, hidden=hidden, sync_every=sync)
        delays = [
            fmean(simulate(10, method, learning, network, seed=seed, samples=samples(settings, 10)).delay_us for seed in seeds) for method in COMPARED
        ]
        order = delays[0] < delays[1] < delays[2]
        checked.append(
            [
                str(batch),
                str(hidden),
                str(sync),
                *(f"{delay:.2f}" for delay in delays),
                "yes" if order else "-",
                "yes" if learning.in_order() else "-",
            ]
        )
        near = learning.values("FCDDT") / learning.values("FL")
        differ += [] if order == learning.in_order() else [f"B={batch} h={hidden} sync_every={sync}, where FCDDT's bytes are {near:.2f} of FL's"]
    columns = ["B", "h", "sync_every", *(f"{method} us" for method in COMPARED), "order in delay", "order in bytes"]
    outcome.tables.append(ResultTable("The same in simulated delay, 10 FNs", columns, checked))
    outcome.findings.append(
        held("the order in delay is the order in bytes at the points simulated", not differ, "; ".join(differ) or f"{len(points)} points")
    )


def bounds(hidden: int, sync_every: int) -> tuple[float, float]:
    """(lower, upper) bound of B: above the lower FL < CC, below the upper FCDDT < FL."""
    one = Learning(hidden=hidden)
    return 2 * one.weights / one.inputs, (one.weights - one.local / sync_every) / hidden
