"""One node's part of an average consensus: the turns of one epoch, sans-IO. Used by fog (led by a head) and by gossip.

An **epoch** fixes members, links, weights and the number of turns. It begins from the inputs (w_i, n_i); if a member or a
link changes, a new epoch begins from the same inputs and the old one's values are forgotten, so that no data is counted
twice or lost. In each turn a node sends its y (in the dtype of the model) and m to its neighbours, and adds
sum_j W_ij (y_j - y_i) of the *sent* values, including its own: rounding on the wire then moves the nodes, never the sum.

| op      | inputs                    | numbers in      | outputs      | numbers out |
|---------|---------------------------|-----------------|--------------|-------------|
| pair    | weights                   | n               | value, sent  |             |
| mix     | value, sent, from0, from1 … | w0, w1 …      | value, sent  | change      |
| sketch  | value                     | size, seed      | sketch       | exact       |
| settle  | value                     | m, part, of     | weights      |             |

value: y = n w in float64; sent: y in the model's dtype; change: Euclidean norm of what the turn added; sketch: a random linear
projection of y to `size` numbers (y itself if it is not longer: exact = 1); settle: y / m in the model's dtype, of = 1: as weights,
of > 1: slice number `part` of `of`, flat.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

from fog_common.runtime.machine import Command, Handle, Ran, Ref, Run, Send

Epoch = tuple[int, ...]
"""Ordered name of an epoch: a later epoch replaces an earlier one. fog: the head's line, its view and incarnation, a count, the round."""


class Share(Struct, frozen=True, tag="Share"):
    """Member -> neighbour: the sender's pair (y, m) before the turn. The receiver drops shares of older epochs and keeps those of newer ones."""

    epoch: Epoch
    turn: int
    value: Ref
    mass: float


class Mixing(Struct):
    """State of one member in one epoch."""

    epoch: Epoch = ()
    links: dict[str, float] = field(default_factory=dict)
    """Neighbour (task id) -> W_ij, in sorted order."""
    turns: int = 0
    """Number of turns of the epoch."""
    turn: int = 0
    """Number of turns done."""
    mass: float = 0.0
    """m_i."""
    phase: Literal["idle", "pairing", "waiting", "mixing", "settled"] = "idle"
    value: Ref | None = None
    sent: Ref | None = None
    change: float = 0.0
    """Euclidean norm of what the last turn added."""
    inbox: dict[str, list[Share]] = field(default_factory=dict)
    """Unused shares by sender, of this epoch or of one that has not begun here."""

    def begin(self, epoch: Epoch, links: dict[str, float], turns: int, weights: Ref, n: float) -> list[Command]:
        """Begin an epoch from the input (weights, n). An epoch that is not newer is ignored."""
        if epoch <= self.epoch:
            return []
        self.epoch, self.links, self.turns, self.turn = epoch, dict(sorted(links.items())), turns, 0
        self.mass, self.phase, self.value, self.sent = float(n), "pairing", None, None
        self.inbox = {sender: kept for sender, shares in self.inbox.items() if (kept := [share for share in shares if share.epoch >= epoch])}
        named = "-".join(str(part) for part in epoch)
        into = {"value": Handle(f"y-{named}"), "sent": Handle(f"s-{named}")}
        return [Run("pair", {"weights": weights}, ("paired", *epoch), {"n": float(n)}, into)]

    def extend(self, turns: int) -> list[Command]:
        """Go on until `turns` turns are done."""
        if turns <= self.turns or self.phase == "idle":
            return []
        self.turns = turns
        return self._offer() if self.phase == "settled" else []

    def hear(self, sender: str, share: Share) -> list[Command]:
        """Keep a neighbour's share until its turn; repeated and outdated shares are dropped."""
        if share.epoch < self.epoch or (share.epoch == self.epoch and (share.turn < self.turn or sender not in self.links)):
            return []
        known = self.inbox.setdefault(sender, [])
        if any((other.epoch, other.turn) == (share.epoch, share.turn) for other in known):
            return []
        newest = max(other.epoch for other in [*known, share])
        # of the epochs that have not begun here only the newest can still count
        self.inbox[sender] = [other for other in [*known, share] if other.epoch in (self.epoch, newest)]
        return self._mix() if share.epoch == self.epoch else []

    def ran(self, event: Ran) -> list[Command]:
        """Go on after `pair` or `mix`; ops of another epoch are ignored."""
        match event.tag:
            case ("paired", *epoch) if tuple(epoch) == self.epoch and self.phase == "pairing":
                self.value, self.sent = event.refs["value"], event.refs["sent"]
                return self._offer()
            case ("mixed", turn, *epoch) if tuple(epoch) == self.epoch and turn == self.turn and self.phase == "mixing":
                self.value, self.sent = event.refs["value"], event.refs["sent"]
                self.change = event.numbers.get("change", 0.0)
                self.mass += sum(w * (share.mass - self.mass) for w, share in self._shares())
                self._forget()
                self.turn += 1
                return self._offer()
        return []

    def missing(self) -> tuple[str, ...]:
        """Neighbours whose share of this turn is missing."""
        return tuple(name for name in self.links if self._share(name) is None) if self.phase == "waiting" else ()

    def stop(self) -> None:
        """Forget the values; a later epoch may begin."""
        self.phase, self.value, self.sent, self.links, self.inbox = "idle", None, None, {}, {}

    # -- inside --------------------------------------------------------------------------

    def _offer(self) -> list[Command]:
        """Send the shares of the next turn, or settle after the last."""
        if self.turn >= self.turns:
            self.phase = "settled"
            return []
        self.phase = "waiting"
        assert self.sent is not None
        share = Share(self.epoch, self.turn, self.sent, self.mass)
        return [*(Send(name, share, once=True) for name in self.links), *self._mix()]

    def _share(self, name: str) -> Share | None:
        return next((share for share in self.inbox.get(name, ()) if share.epoch == self.epoch and share.turn == self.turn), None)

    def _shares(self) -> list[tuple[float, Share]]:
        return [(w, share) for name, w in self.links.items() if (share := self._share(name)) is not None]

    def _mix(self) -> list[Command]:
        shares = self._shares()
        if self.phase != "waiting" or len(shares) < len(self.links):
            return []
        assert self.value is not None
        assert self.sent is not None
        self.phase = "mixing"
        refs = {"value": self.value, "sent": self.sent, **{f"from{i}": share.value for i, (_, share) in enumerate(shares)}}
        into = {"value": self.value} if isinstance(self.value, Handle) else {}
        return [Run("mix", refs, ("mixed", self.turn, *self.epoch), {f"w{i}": w for i, (w, _) in enumerate(shares)}, into)]

    def _forget(self) -> None:
        """Drop the shares of the finished turn."""
        for sender in list(self.inbox):
            kept = [share for share in self.inbox[sender] if share.epoch > self.epoch or (share.epoch == self.epoch and share.turn > self.turn)]
            if kept:
                self.inbox[sender] = kept
            else:
                del self.inbox[sender]
