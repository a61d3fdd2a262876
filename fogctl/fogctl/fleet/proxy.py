"""A TCP proxy that makes a network bad: latency, rate, cut, black hole, half-open connections, resets. Needs neither root nor netem.

    with Proxy() as proxy:
        link = proxy.link("pi-1", "127.0.0.1", 1883)      # the agent connects to 127.0.0.1:link.port
        link.shape(latency_s=0.2, rate_bytes_s=50_000)
        link.cut(); link.heal()

An asyncio loop runs on a thread of its own; any thread may call a link's methods, which return when the change is made.
A link is one node's network interface, full duplex: all connections through it share its rate.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar

log = logging.getLogger(__name__)

HOST: Final = "127.0.0.1"
PIECE_BYTES: Final = 16 * 1024
"""Bytes read at a time, and so the largest piece that a slow link sends at once."""
AHEAD_BYTES: Final = 256 * 1024
"""Bytes that a link holds per direction of a connection before it stops reading, as a socket does."""
CONNECT_S: Final = 5.0
RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER that makes close() send RST."""
Side = Literal["agent", "broker"]
T = TypeVar("T")


class Proxy:
    """A proxy, which runs as a context manager; leaving it ends all links."""

    def __init__(self) -> None:
        self.links: dict[str, ProxyLink] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="fault proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End all links and the loop. Idempotent."""
        if self._loop.is_closed():
            return
        if self._thread.is_alive():
            for link in self.links.values():
                self.call(link.stop())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._loop.close()

    def link(self, name: str, host: str, port: int) -> ProxyLink:
        """A new link to host:port, which need not exist yet. OSError if no port can be opened."""
        link = ProxyLink(self, name, host, port)
        self.call(link.start())
        self.links[name] = link
        return link

    def call(self, what: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the proxy's loop; returns its result."""
        return asyncio.run_coroutine_threadsafe(what, self._loop).result()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()


class ProxyLink:
    """One listening port and the connections through it. Made by Proxy.link."""

    def __init__(self, proxy: Proxy, name: str, host: str, target: int) -> None:
        self.name, self.host, self.target = name, host, target
        self.port = 0
        self.up = ProxyLane()
        """The direction to the broker."""
        self.down = ProxyLane()
        self.accepted = 0
        """Number of connections so far."""
        self._proxy = proxy
        self._pairs: dict[Pair, None] = {}
        self._server: asyncio.Server | None = None
        self._refusing = False

    @property
    def connections(self) -> int:
        return len(self._pairs)

    # -- faults, from any thread ---------------------------------------------------------------

    def shape(self, latency_s: float = 0.0, rate_bytes_s: float = 0.0) -> None:
        """Set one-way latency and rate of both directions, until the next shape() or heal(); 0 = as fast as this machine."""

        def do() -> None:
            for lane in (self.up, self.down):
                lane.latency_s, lane.rate_bytes_s = latency_s, rate_bytes_s

        self._do(do)

    def cut(self) -> None:
        """Cut the link so that both ends see it: all connections are reset, new ones as soon as they come."""

        def do() -> None:
            self._refusing = True
            self._reset_all()

        self._do(do)

    def reset(self) -> None:
        """Send a RST to both ends of each connection; new connections work."""
        self._do(self._reset_all)

    def black_hole(self) -> None:
        """Stop all bytes without notice to either end. They arrive after heal(), in order, as TCP repeats them."""
        self._do(lambda: self._hold(self.up, self.down))

    def one_way(self, dead: Literal["up", "down"]) -> None:
        """As black_hole, for one direction only."""
        self._do(lambda: self._hold(self.up if dead == "up" else self.down))

    def half_open(self, believer: Side = "agent") -> None:
        """End each open connection for one end; the other end, the believer, learns of it only when heal() resets it.

        believer: "agent": the broker sees the end and publishes the will; "broker": the broker goes on serving a client that is gone.
        New connections work.
        """

        def do() -> None:
            for pair in self._pairs:
                pair.forget_other(believer)

        self._do(do)

    def heal(self) -> None:
        """End all faults; half-open connections, and those that began in a black hole, are reset."""

        def do() -> None:
            self._refusing = False
            for lane in (self.up, self.down):
                lane.latency_s = lane.rate_bytes_s = 0.0
                lane.passable.set()
            for pair in [pair for pair in self._pairs if pair.half or pair.broker is None]:
                pair.reset()

        self._do(do)

    # -- on the loop -----------------------------------------------------------------------------

    async def start(self) -> None:
        for lane in (self.up, self.down):
            lane.passable.set()
        self._server = await asyncio.start_server(self._accept, HOST, 0, limit=PIECE_BYTES)
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for lane in (self.up, self.down):
            lane.passable.set()
        self._reset_all()
        while self._pairs:
            await asyncio.sleep(0.005)

    def _do(self, what: Callable[[], None]) -> None:
        async def run() -> None:
            what()

        self._proxy.call(run())

    def _hold(self, *lanes: ProxyLane) -> None:
        for lane in lanes:
            lane.passable.clear()

    def _reset_all(self) -> None:
        for pair in list(self._pairs):
            pair.reset()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        pair = Pair(reader, writer)
        self._pairs[pair] = None
        try:
            if self._refusing:
                return
            await self.up.passable.wait()  # the kernel has answered the SYN already; then there is silence, as in a black hole
            if pair.dead:
                return
            target = asyncio.open_connection(self.host, self.target, limit=PIECE_BYTES)
            pair.broker = await asyncio.wait_for(target, CONNECT_S)
            if pair.dead:  # a fault came during the connect
                _abort(pair.broker[1])
                return
            await pair.run(self.up, self.down)
        except OSError as error:
            log.debug("link %s: %s", self.name, error)
        finally:
            pair.reset()
            self._pairs.pop(pair, None)


class ProxyLane:
    """One direction of a link, whose latency and rate all connections share."""

    def __init__(self) -> None:
        self.latency_s = 0.0
        self.rate_bytes_s = 0.0
        self.passable = asyncio.Event()
        self.bytes = 0
        """Bytes passed so far."""
        self._free_at = 0.0

    def due(self, size: int, now: float) -> float:
        """Time at which the last of `size` bytes that are sent now is at the other end."""
        if self.rate_bytes_s:
            self._free_at = max(self._free_at, now) + size / self.rate_bytes_s
        else:
            self._free_at = min(self._free_at, now)
        return max(self._free_at, now) + self.latency_s


class Pair:
    """A connection of an agent, and the proxy's own to the broker for it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.agent = (reader, writer)
        self.broker: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.dead = False
        self.half = False
        self._ended = asyncio.Event()

    async def run(self, up: ProxyLane, down: ProxyLane) -> None:
        """Pass bytes on until one direction ends and is delivered, or a fault ends the pair."""
        assert self.broker is not None
        lanes = ((self.agent[0], self.broker[1], up), (self.broker[0], self.agent[1], down))
        pumps = [asyncio.ensure_future(self._pump(*lane)) for lane in lanes]
        ended = asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait([*pumps, ended], return_when=asyncio.FIRST_COMPLETED)
            if self.half:  # the believer stays connected until heal(), even if a pump has ended
                await self._ended.wait()
            elif not self.dead:
                for _, writer in (self.agent, self.broker):
                    writer.close()  # an orderly end is passed on
                self.dead = True
        finally:
            for task in (*pumps, ended):
                task.cancel()
            await asyncio.gather(*pumps, ended, return_exceptions=True)

    def reset(self) -> None:
        """Send a RST to both ends. Idempotent."""
        if not self.dead:
            self.dead = True
            for end in (self.agent, self.broker):
                if end is not None:
                    _abort(end[1])
        self._ended.set()

    def forget_other(self, believer: Side) -> None:
        """Send a RST to the other end than the believer."""
        if self.dead or self.broker is None:
            return
        self.half = True
        _abort((self.broker if believer == "agent" else self.agent)[1])

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, lane: ProxyLane) -> None:
        """Pass one direction on: read, wait for the lane, write; ends after the reader's end, once all bytes are delivered."""
        loop = asyncio.get_running_loop()
        line: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=max(1, AHEAD_BYTES // PIECE_BYTES))

        async def deliver() -> None:
            while True:
                due, piece = await line.get()
                if (left := due - loop.time()) > 0:
                    await asyncio.sleep(left)
                await lane.passable.wait()
                if not piece:
                    return
                lane.bytes += len(piece)
                if not self.half:  # with one end gone the other's bytes are lost
                    writer.write(piece)
                    await writer.drain()

        delivery = asyncio.ensure_future(deliver())
        try:
            while piece := await reader.read(PIECE_BYTES):
                await line.put((lane.due(len(piece), loop.time()), piece))
            await line.put((lane.due(0, loop.time()), b""))
            await delivery
        finally:
            delivery.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await delivery


def _abort(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN; buffered bytes are dropped."""
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()
