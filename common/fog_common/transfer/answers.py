"""Effect of a receiver's acknowledgement at the sender."""

from __future__ import annotations

import math

from fog_common.errors import WireError
from fog_common.transfer import frames
from fog_common.transfer.frames import Ack, LetterState
from fog_common.transfer.letters import STALE_VIEW, Acked, LetterRefused
from fog_common.transfer.outbox import Outbox
from fog_common.transfer.outgoing import Flow, PeerLine, Sending
from fog_common.transfer.window import mask_of


def apply(outbox: Outbox, now: float, line: PeerLine, ack: Ack) -> None:
    """Apply an acknowledgement to the outbox. WireError if it names chunks that do not exist; the outbox stays unchanged then."""
    masks = _masks(line, ack)
    fresh = ack.number > line.last_ack
    if fresh:
        line.last_ack, line.grant = ack.number, max(1, ack.grant)
    line.probing = False
    outbox.ready[line.peer] = line
    echoed = fresh and ack.echo == line.probe > 0
    edge = line.probe_serial if echoed else 0
    unknown: set[int] = set()
    for flow, status, mask in masks:
        if status == frames.UNKNOWN:
            unknown.add(flow.parcel.number)
            continue
        edge = max(edge, _blob(now, line, flow, mask, fresh, line.probe_marks.get(flow.parcel.number, 0) if echoed else 0))
    for state in ack.letters:
        sending = line.letters.get((state.stream, state.seq))
        if sending is not None:
            if state.status != frames.UNKNOWN:
                edge = max(edge, line.unanswered.get(sending.id, 0))
            _letter(outbox, now, sending, state, fresh, unknown)
    if edge:
        _drop_lost(outbox, line, edge)
    for name in {sending.cast.id: None for sending in line.letters.values() if sending.cast is not None}:
        outbox.casting[name] = outbox.casts[name]


def _masks(line: PeerLine, ack: Ack) -> list[tuple[Flow, int, int]]:
    masks = []
    for state in ack.blobs:
        flow = line.numbers.get(state.number)
        if flow is not None:
            full = flow.parcel.full
            if state.count > flow.parcel.count or len(state.beyond) > flow.parcel.count // 8 + 1:
                raise WireError(f"{line.to.node} has {state.count} chunks of {flow.parcel.count}")
            mask = full if state.status == frames.DONE else mask_of(state.count, state.beyond)
            if mask & ~full:
                raise WireError(f"{line.to.node} has chunks behind the {flow.parcel.count} of blob {flow.parcel.digest[:12]}")
            masks.append((flow, state.status, mask))
    return masks


def _blob(now: float, line: PeerLine, flow: Flow, mask: int, fresh: bool, mark: int) -> int:
    """Apply the state of one blob; returns the newest acknowledged serial. mark: see PeerLine.probe_marks."""
    if mask & ~flow.received or (flow.hint and fresh):
        flow.heard = now
    newest = flow.learn(mask, fresh)
    if flow.done:
        line.hold(flow.parcel.digest)
    elif flow.hint and fresh:
        flow.hint = False
        line.held.pop(flow.parcel.digest, None)
        if flow.passing is not None:
            flow.miss(flow.parcel.full & ~mask)
    if flow.passing is not None and not flow.passing.passed:
        flow.passing.learned(flow, mark)
    line.wake(flow)
    return newest


def _letter(outbox: Outbox, now: float, sending: Sending, state: LetterState, fresh: bool, unknown: set[int]) -> None:
    line = sending.line
    match state.status:
        case frames.DONE:
            outbox.outputs.append(Acked(sending.key, line.to.node))
            outbox.forget(sending, held=True)
        case frames.REFUSED if state.reason != STALE_VIEW:
            outbox.outputs.append(LetterRefused(sending.key, line.to.node, state.reason))
            outbox.forget(sending)
        case frames.REFUSED if state.view < outbox.view:
            newer = sending.id in line.unanswered and sending.offered_view > state.view
            if sending.id not in line.offers and not newer:
                outbox.requeue(sending)
        case frames.REFUSED:
            line.unanswered.pop(sending.id, None)
            line.offers.pop(sending.id, None)
            if sending.refused_view != state.view:
                sending.refused_view, sending.due = state.view, math.inf
                outbox.outputs.append(LetterRefused(sending.key, line.to.node, state.reason))
        case frames.KNOWN:
            line.unanswered.pop(sending.id, None)
            if not sending.known:
                sending.known, sending.wait = True, 0.0
                outbox.arm(line, sending, now + outbox.limits.stall_s)
        case frames.BUSY:
            line.unanswered.pop(sending.id, None)
            sending.known = False
            sending.wait = min(outbox.limits.stall_max_s, max(outbox.limits.stall_s, 2 * sending.wait))
            outbox.arm(line, sending, now + sending.wait)
            for flow in sending.flows:
                if flow.users == 1 and flow.passing is None:
                    flow.restart(hint=True)
        case frames.UNKNOWN if fresh and sending.id not in line.offers and line.unanswered.get(sending.id, 0) <= line.probe_serial:
            outbox.requeue(sending)
            for flow in sending.flows:
                if flow.parcel.number in unknown:
                    outbox.restart(flow)


def _drop_lost(outbox: Outbox, line: PeerLine, edge: int) -> None:
    """Resend unacknowledged frames up to serial `edge`: frames arrive in order, so these are lost."""
    for flow in line.flows.values():
        if flow.outstanding:
            flow.drop_lost(edge)
            if flow.resend:
                line.wake(flow)
    for name, serial in list(line.unanswered.items()):
        if serial > edge:
            break
        outbox.requeue(line.letters[name])
