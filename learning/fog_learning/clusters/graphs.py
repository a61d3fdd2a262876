"""Average consensus: graphs, Metropolis weights, speed of agreement (Xiao and Boyd 2004; Hosseinalipour et al. 2020, section IV).

n nodes hold x_i(0). In each turn x_i <- x_i + sum_j W_ij (x_j - x_i) over the neighbours j, with W symmetric and its rows
summing to 1: the sum of all x_i stays the same, and all x_i approach the mean. A weighted mean needs the pair
(y_i, m_i) = (n_i w_i, n_i), both mixed alike; node i's estimate is y_i / m_i. This module is plain arithmetic on indices;
fog_learning.clusters.mixing exchanges the values.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Literal

Graph = tuple[tuple[int, ...], ...]
"""Sorted indices of each node's neighbours. Undirected, without loops."""
Weights = tuple[dict[int, float], ...]
"""Row i of W: neighbour (and i itself) -> weight."""
Kind = Literal["full", "ring", "geometric", "small_world", "measured"]
"""measured: full, less the links that turn out to be silent during the consensus."""

# -- graphs --------------------------------------------------------------------------------


def graph_from(n: int, edges: set[tuple[int, int]]) -> Graph:
    """The graph on n nodes with these edges, each given once in either direction. ValueError for a loop or an index out of range."""
    neighbours: list[set[int]] = [set() for _ in range(n)]
    for a, b in edges:
        if a == b or not (0 <= a < n and 0 <= b < n):
            raise ValueError(f"no edge of a graph on {n} nodes: {(a, b)}")
        neighbours[a].add(b)
        neighbours[b].add(a)
    return tuple(tuple(sorted(each)) for each in neighbours)


def edges_of(graph: Graph) -> set[tuple[int, int]]:
    return {(a, b) for a, row in enumerate(graph) for b in row if a < b}


def full(n: int) -> Graph:
    return graph_from(n, {(a, b) for a in range(n) for b in range(a + 1, n)})


def ring(n: int) -> Graph:
    return graph_from(n, {(min(a, b), max(a, b)) for a in range(n) if (b := (a + 1) % n) != a})


def geometric(n: int, radius: float, seed: int) -> Graph:
    """n points in the unit square, linked up to `radius` apart; separate parts are linked by their closest points."""
    dice = random.Random(f"geometric/{seed}/{n}")
    points = [(dice.random(), dice.random()) for _ in range(n)]
    edges = {(a, b) for a in range(n) for b in range(a + 1, n) if math.dist(points[a], points[b]) <= radius}
    return joined(graph_from(n, edges), lambda a, b: math.dist(points[a], points[b]))


def small_world(n: int, degree: int, rewire: float, seed: int) -> Graph:
    """Watts and Strogatz (1998): a ring with links to the `degree` nearest nodes, each link moved with probability `rewire`. Connected."""
    half = max(1, min(degree, n - 1) // 2)
    dice = random.Random(f"small_world/{seed}/{n}")
    edges: set[tuple[int, int]] = set()
    for step in range(1, half + 1):
        for a in range(n):
            b = (a + step) % n
            if a != b:
                edges.add((min(a, b), max(a, b)))
    for a, b in sorted(edges):
        if dice.random() < rewire:
            free = [c for c in range(n) if c != a and (min(a, c), max(a, c)) not in edges]
            if free:
                c = dice.choice(free)
                edges.remove((a, b))
                edges.add((min(a, c), max(a, c)))
    return joined(graph_from(n, edges), lambda a, b: min(abs(a - b), n - abs(a - b)))


def make_graph(kind: Kind, n: int, seed: int = 0, radius: float = 0.5, degree: int = 4, rewire: float = 0.2) -> Graph:
    """A connected graph of this kind on n >= 1 nodes; the same for the same arguments."""
    match kind:
        case "full" | "measured":
            return full(n)
        case "ring":
            return ring(n)
        case "geometric":
            return geometric(n, radius, seed)
        case "small_world":
            return small_world(n, degree, rewire, seed)


def over_sites(sites: Sequence[str], make: Callable[[int], Graph]) -> Graph:
    """A graph `make(members)` in each site, and one link between neighbouring sites (by name, the last beside the first).

    sites: the site of each node. Links inside a site are cheap; a link between sites crosses the uplinks of both.
    """
    members = {site: [node for node, where in enumerate(sites) if where == site] for site in sorted(set(sites))}
    edges: set[tuple[int, int]] = set()
    for nodes in members.values():
        edges |= {(nodes[a], nodes[b]) for a, b in edges_of(make(len(nodes)))}
    groups = list(members.values())
    beside = zip(groups, groups[1:] + groups[:1], strict=True) if len(groups) > 2 else [(groups[0], groups[1])] if len(groups) == 2 else []
    edges |= {(one[-1], other[0]) for one, other in beside}
    return graph_from(len(sites), edges)


def components(graph: Graph) -> list[tuple[int, ...]]:
    """The connected parts, each sorted, the largest first (ties: the smaller index first)."""
    left, parts = set(range(len(graph))), []
    while left:
        reached, frontier = set(), [min(left)]
        while frontier:
            node = frontier.pop()
            if node not in reached:
                reached.add(node)
                frontier += graph[node]
        parts.append(tuple(sorted(reached)))
        left -= reached
    return sorted(parts, key=lambda part: (-len(part), part))


def joined(graph: Graph, distance: Callable[[int, int], float]) -> Graph:
    """The graph with its parts linked by their closest pairs until it is connected."""
    edges = edges_of(graph)
    while len(parts := components(graph_from(len(graph), edges))) > 1:
        first, rest = parts[0], [node for part in parts[1:] for node in part]
        a, b = min(((a, b) for a in first for b in rest), key=lambda pair: (distance(*pair), pair))
        edges.add((min(a, b), max(a, b)))
    return graph_from(len(graph), edges)


def without(graph: Graph, broken: set[tuple[int, int]]) -> Graph:
    """The graph less these edges (a < b), its parts linked anew by unbroken pairs, the closest in index.

    The result has several parts if all pairs between them are broken.
    """
    kept = graph_from(len(graph), edges_of(graph) - broken)
    linked = joined(kept, lambda a, b: math.inf if (min(a, b), max(a, b)) in broken else abs(a - b))
    return graph_from(len(graph), edges_of(linked) - broken)


# -- weights and their speed ---------------------------------------------------------------


def metropolis(graph: Graph) -> Weights:
    """W_ij = 1 / (1 + max(degree_i, degree_j)) on links, the rest on the diagonal: symmetric, doubly stochastic, W_ii > 0."""
    rows: list[dict[int, float]] = []
    for i, neighbours in enumerate(graph):
        row = {j: 1.0 / (1 + max(len(neighbours), len(graph[j]))) for j in neighbours}
        row[i] = 1.0 - math.fsum(row.values())
        rows.append(row)
    return tuple(rows)


def _applied(weights: Weights, x: Sequence[float]) -> list[float]:
    return [math.fsum(w * x[j] for j, w in row.items()) for row in weights]


def _centred(x: Sequence[float]) -> list[float]:
    mean = math.fsum(x) / len(x)
    return [value - mean for value in x]


def second_eigenvalue(weights: Weights, tolerance: float = 1e-12, steps: int = 20_000) -> float:
    """The second largest |eigenvalue| of W, in 0 .. 1: the factor by which disagreement shrinks in a turn, in the long run.

    Power iteration on W^2 across the mean (W is symmetric, so the eigenvalues of its square are not negative). The steps rise
    to the eigenvalue from below: the result is accurate to about `tolerance`, not an exact upper bound.
    """
    n = len(weights)
    if n < 2:
        return 0.0
    dice = random.Random(n)
    x = _centred([dice.gauss(0.0, 1.0) for _ in range(n)])
    value = 0.0
    for _ in range(steps):
        norm = math.hypot(*x)
        if norm < 1e-150:
            return 0.0
        x = [each / norm for each in x]
        x = _centred(_applied(weights, _applied(weights, x)))
        before, value = value, math.hypot(*x)
        if abs(value - before) <= tolerance * max(value, 1e-300):
            break
    return math.sqrt(min(1.0, value))


def turns_needed(eigenvalue: float, tolerance: float) -> int:
    """The smallest k with eigenvalue^k <= tolerance, for 0 < tolerance < 1. ValueError for eigenvalue 1: the graph is not connected."""
    if eigenvalue <= 0.0:
        return 1
    if eigenvalue >= 1.0:
        raise ValueError("the graph is not connected: its nodes never agree")
    return max(1, math.ceil(math.log(tolerance) / math.log(eigenvalue) - 1e-9))


def error_bound(eigenvalue: float, turns: int, spread: float, share: float = 1.0) -> float:
    """Upper bound of |y_i/m_i - mean| after `turns`, for every node i.

    spread: sqrt(sum_j m_j(0)^2 |w_j - mean|^2), the disagreement before the first turn (plain mean: all m = 1); share: m_i
    after the turns. It follows from y_i - m_i mean = sum_j (W^k)_ij (y_j(0) - m_j(0) mean), whose parts sum to 0.
    """
    return float(eigenvalue**turns * spread / share)


def transfer(weights: Weights, turns: int) -> list[list[float]]:
    """W^turns as n rows of n numbers: the weight of each input in each node's value after the turns."""
    n = len(weights)
    rows = [[1.0 if i == j else 0.0 for j in range(n)] for i in range(n)]
    for _ in range(turns):
        rows = [[math.fsum(w * rows[k][j] for k, w in row.items()) for j in range(n)] for row in weights]
    return rows
