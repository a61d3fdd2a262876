"""Energy as configured and as modelled. Pure: numbers in, joules out; nothing here is measured, and the source says so."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

Positive = Annotated[float, Meta(ge=0)]

JOULES_PER_KWH: Final = 3.6e6
WITHOUT_SENSOR: Final = ("model", "none")
"""Values of `energy.reader` that read no sensor."""


class JoulesPerByte(Struct, frozen=True, forbid_unknown_fields=True):
    """Energy of one payload byte at the node's own interface, by link type: sent or received, mean of both directions.

    wifi, lte: slopes of Huang et al., MobiSys 2012, table 4 (283/137 and 438/52 mW per Mbit/s up/down). lan: order of magnitude.
    """

    lan: Positive = 1e-8
    wifi: Positive = 1.7e-6
    lte: Positive = 2.0e-6


class PmicFit(Struct, frozen=True, forbid_unknown_fields=True):
    """watts = slope x (sum of the PMIC's rails) + offset_w: the PMIC does not see the 5 V consumers.

    Defaults: fit of github.com/jfikar/RPi5-power over 50 s means.
    """

    slope: Annotated[float, Meta(gt=0)] = 1.1451
    offset_w: float = 0.5879


class EnergyConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The `energy:` section of an agent's configuration."""

    reader: str = "auto"
    """auto: the first sensor that this machine has, else the model. model: the model only. none: nothing. Otherwise a sensor of `SENSORS`.
    Several agents on one machine must say `model`, or each counts it whole."""
    idle_w: Positive | None = 3.0
    """Model: power of the node at rest (about a Raspberry Pi 5). null: unknown, then nothing is modelled."""
    core_w: Positive = 1.5
    """Model: further watts of one busy core."""
    link: Literal["lan", "wifi", "lte"] = "lan"
    """Model: what the node is connected by."""
    joules_per_byte: JoulesPerByte = JoulesPerByte()
    pmic: PmicFit = PmicFit()
    gco2_per_kwh: Positive | None = None
    """Carbon is derived from joules with this factor; null: no carbon is shown."""


class Parts(Struct, frozen=True):
    """Joules by what they were used for."""

    idle: float = 0.0
    compute: float = 0.0
    send: float = 0.0
    receive: float = 0.0

    @property
    def total(self) -> float:
        return self.idle + self.compute + self.send + self.receive


def modelled(config: EnergyConfig, seconds: float, cpu_seconds: float, sent_bytes: float, received_bytes: float) -> Parts | None:
    """idle + CPU-seconds x W/core + bytes x J/byte of the link, over a time span; None if the idle power is not known."""
    if config.idle_w is None:
        return None
    per_byte: float = getattr(config.joules_per_byte, config.link)
    return Parts(
        idle=config.idle_w * max(seconds, 0.0),
        compute=config.core_w * max(cpu_seconds, 0.0),
        send=per_byte * max(sent_bytes, 0.0),
        receive=per_byte * max(received_bytes, 0.0),
    )


def carbon_g(joules: float, gco2_per_kwh: float | None) -> float | None:
    """Grams of CO2, derived; None without a factor."""
    return None if gco2_per_kwh is None else joules / JOULES_PER_KWH * gco2_per_kwh
