"""Effects of the worker's core beside those of its host, performed in order by a shell (threads live, or the simulator)."""

from __future__ import annotations

from msgspec import Struct

from fog_agent.worker.frames import State
from fog_common.runtime.effects import Compute, Persist, Withdraw
from fog_common.transfer.endpoint import PublishFrame
from fog_common.wire.messages import DesiredJob


class Prepare(Struct, frozen=True):
    """Build the job's backend and run its preflight; ends as on_prepared or on_refused."""

    desired: DesiredJob


class Connect(Struct, frozen=True):
    """Open the worker's own connection to the broker with these subscriptions; its events come by on_bus."""

    filters: tuple[str, ...]


class Subscribe(Struct, frozen=True):
    filters: tuple[str, ...]


class Unsubscribe(Struct, frozen=True):
    filters: tuple[str, ...]


class Reslot(Struct, frozen=True):
    """Tell the backend the data slots of this table, before the ops that follow."""

    desired: DesiredJob


class Note(Struct, frozen=True):
    """One fact for the log."""

    text: str
    warning: bool = False


Effect = Prepare | Connect | Subscribe | Unsubscribe | Reslot | Note | State | PublishFrame | Compute | Withdraw | Persist
