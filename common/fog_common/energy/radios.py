"""Joules per byte of radios, from published measurements: for models that must say where their figures come from."""

from __future__ import annotations

from typing import Final

from msgspec import Struct


class Radio(Struct, frozen=True):
    """Joules of the device per byte sent and received, at these rates."""

    send_j: float
    receive_j: float
    send_bytes_s: float
    receive_bytes_s: float

    def joules(self, sent: float, received: float) -> float:
        return sent * self.send_j + received * self.receive_j

    @property
    def pair_j(self) -> float:
        """A byte that one device sends and another receives."""
        return self.send_j + self.receive_j


def radio(send_mw: tuple[float, float], receive_mw: tuple[float, float], send_mbit_s: float, receive_mbit_s: float) -> Radio:
    """(mW per Mbit/s, mW) of a radio that is on: mW per Mbit/s are nJ per bit, to which the constant part adds mW / (Mbit/s)."""

    def per_byte(slope: float, constant: float, rate: float) -> float:
        return 8e-9 * (slope + constant / rate)

    return Radio(per_byte(*send_mw, send_mbit_s), per_byte(*receive_mw, receive_mbit_s), send_mbit_s * 125_000, receive_mbit_s * 125_000)


LTE: Final = radio((438.39, 1288.04), (51.97, 1288.04), 5.64, 12.74)
"""Huang et al., A Close Examination of Performance and Power Characteristics of 4G LTE Networks, MobiSys 2012: power model of data
transfer (438.39 mW per Mbit/s up, 51.97 down, 1288.04 mW), at the median rates measured there."""
WIFI: Final = radio((0.0, 1280.0), (0.0, 940.0), 50.0, 50.0)
"""Halperin et al., Demystifying 802.11n Power Consumption, HotPower 2010: one antenna, 1.28 W sending, 0.94 W receiving; at 50 Mbit/s
of payload (MCS 7, 65 Mbit/s, frames aggregated)."""
OLD_WIFI: Final = radio((283.17, 132.86), (137.01, 132.86), 20.0, 20.0)
"""WiFi of the phone in Huang et al. (2012), at 20 Mbit/s: the worse case."""
