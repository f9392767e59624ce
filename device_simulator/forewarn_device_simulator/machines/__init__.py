"""The machine types the simulator knows, by asset type."""

from typing import Final

from forewarn_device_simulator.machines.compressor import COMPRESSOR
from forewarn_device_simulator.machines.fan import FAN
from forewarn_device_simulator.machines.machine import Machine
from forewarn_device_simulator.machines.pump import PUMP

MACHINES: Final[dict[str, Machine]] = {machine.name: machine for machine in (PUMP, COMPRESSOR, FAN)}
