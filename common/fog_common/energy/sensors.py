"""The registry of energy sensors, and the choice among those of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from fog_common.energy.battery import Battery
from fog_common.energy.ina3221 import Ina3221
from fog_common.energy.model import WITHOUT_SENSOR, EnergyConfig
from fog_common.energy.nvml import Nvml
from fog_common.energy.pmic import Pmic
from fog_common.energy.rapl import Rapl
from fog_common.energy.reader import Reader, Sensor
from fog_common.errors import ConfigError

SENSORS: Final[dict[str, type[Sensor]]] = {
    "pmic": Pmic,
    "ina3221": Ina3221,
    "rapl": Rapl,
    "battery": Battery,
    "nvml": Nvml,
}
"""Value of `energy.reader` -> sensor, in the order in which `auto` tries them."""


def check_reader(name: str) -> None:
    """ConfigError if `energy.reader` names neither a sensor of the registry nor a choice without one."""
    allowed = ("auto", *WITHOUT_SENSOR, *SENSORS)
    if name not in allowed:
        raise ConfigError(f"energy.reader: expected one of {', '.join(allowed)}, got {name!r}")


def readers(config: EnergyConfig, root: Path = Path("/")) -> list[Reader]:
    """The readers of this machine: one of the board, and one of the graphics cards unless the board's covers the node. [] = model only.

    ConfigError if the configured name is unknown.
    """
    check_reader(config.reader)
    chosen = [sensor for name, sensor in SENSORS.items() if config.reader in {"auto", name}]
    board = _first([sensor for sensor in chosen if sensor.covers != "cards"], config, root)
    if board is not None and board.covers == "node":
        return [board]
    cards = _first([sensor for sensor in chosen if sensor.covers == "cards"], config, root)
    return [reader for reader in (board, cards) if reader is not None]


def _first(sensors: list[type[Sensor]], config: EnergyConfig, root: Path) -> Reader | None:
    for sensor in sensors:
        if (reader := sensor.found(config, root)) is not None:
            return reader
    return None
