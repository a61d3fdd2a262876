"""Folders that look like the /sys of a board with an energy sensor, and the output of a Pi's vcgencmd."""

from __future__ import annotations

from pathlib import Path

VCGENCMD = """ 3V7_WL_SW_A current(0)=0.10000000A
   3V3_SYS_A current(1)=0.20000000A
  VDD_CORE_A current(7)=2.00000000A
 3V7_WL_SW_V volt(8)=3.70000000V
   3V3_SYS_V volt(9)=3.30000000V
  VDD_CORE_V volt(15)=0.75000000V
     EXT5V_V volt(24)=5.15000000V
      BATT_V volt(25)=0.00000000V
"""


def tree(root: Path, **files: str) -> Path:
    """Files below root; '__' in a name is a '/'."""
    for name, content in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    return root


def rapl_tree(root: Path, package: int, dram: int | None = None, span: int = 262_143_328_850) -> Path:
    base = root / "sys/class/powercap"
    domains = {"intel-rapl:0": ("package-0", package), "intel-rapl:0:0": ("core", 999), "intel-rapl:1": ("psys", 77)}
    if dram is not None:
        domains["intel-rapl:0:1"] = ("dram", dram)
    for domain, (name, energy) in domains.items():
        folder = base / domain
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "name").write_text(name + "\n")
        (folder / "energy_uj").write_text(f"{energy}\n")
        (folder / "max_energy_range_uj").write_text(f"{span}\n")
    return root


def jetson_tree(root: Path, total_label: str = "VDD_IN") -> Path:
    folder = "sys/bus/i2c/devices/1-0040/hwmon/hwmon3/"
    labels = {1: (total_label, 5000, 2000), 2: ("VDD_CPU_GPU_CV", 5000, 800), 3: ("VDD_SOC", 5000, 400)}
    files = {folder + "name": "ina3221", folder + "in7_label": "sum of shunt voltages", folder + "in7_input": "3"}
    for channel, (label, millivolts, milliamps) in labels.items():
        files |= {
            f"{folder}in{channel}_label": label,
            f"{folder}in{channel}_input": str(millivolts),
            f"{folder}curr{channel}_input": str(milliamps),
        }
    return tree(root, **files)


def battery_tree(root: Path, status: str, **files: str) -> Path:
    base = "sys/class/power_supply/BAT0/"
    return tree(root, **{base + "type": "Battery", base + "status": status}, **{base + name: value for name, value in files.items()})
