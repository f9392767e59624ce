"""One chaos run: its size, its machines and where its files are. The agent processes read it from a file."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, Self

import msgspec

from tests.faults.chaos.machine import Machine

FILE_NAME: Final = "plan.json"
HISTORY_MS: Final = 20 * 86_400_000
"""The machines' time begins so long ago and runs faster than ours, but never catches up with it."""
ASSESSED_SAMPLES: Final = 5
"""In a record of a machine that is assessed: the models cost more than all the rest, whatever the size of a record."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """`processes` with `nodes_each` agents; every agent serves one machine, and the first of each process assesses it.

    `samples_per_second`: of each machine, for `seconds` from `began_ms` on, by the wall clock.
    """

    folder: Path
    seed: int
    seconds: float
    processes: int
    nodes_each: int
    samples_per_second: float
    began_ms: int = 0
    reconnect_max_seconds: float = 2.0
    keep_alive_seconds: int = 5

    @classmethod
    def load(cls, path: Path) -> Self:
        return msgspec.json.decode(path.read_bytes(), type=cls, dec_hook=lambda kind, value: kind(value))

    def save(self) -> Path:
        path = self.folder / FILE_NAME
        path.write_bytes(msgspec.json.encode(self, enc_hook=str))
        return path

    @cached_property
    def machines(self) -> tuple[Machine, ...]:
        return tuple(self._machine(index) for index in range(self.processes * self.nodes_each))

    def machines_of(self, process: int) -> tuple[Machine, ...]:
        return self.machines[process * self.nodes_each : (process + 1) * self.nodes_each]

    def is_assessed(self, machine: Machine) -> bool:
        return machine.index % self.nodes_each == 0

    def node_folder(self, machine: Machine) -> Path:
        """Its configuration, its spool and the journal of what its source was told is durable."""
        return self.folder / machine.node

    def config(self, machine: Machine) -> Path:
        return self.node_folder(machine) / "edge.toml"

    def state_dir(self, machine: Machine) -> Path:
        return self.node_folder(machine) / "state"

    def journal(self, machine: Machine) -> Path:
        return self.node_folder(machine) / "confirmed"

    def due_ms(self, machine: Machine, record: int) -> int:
        """When the machine has measured a record, by the wall clock."""
        return self.began_ms + round(record * machine.samples_per_record / self.samples_per_second * 1000)

    def _machine(self, index: int) -> Machine:
        samples_per_record = ASSESSED_SAMPLES if index % self.nodes_each == 0 else 1
        return Machine(
            seed=self.seed,
            index=index,
            begin_ms=self.began_ms - HISTORY_MS,
            records=max(1, round(self.seconds * self.samples_per_second) // samples_per_record),
            samples_per_record=samples_per_record,
        )
