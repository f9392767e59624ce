"""Which tests prove which fault: `python -m tests.faults.table` writes the table of README.md anew from their names."""

import ast
import re
from pathlib import Path
from typing import Final

PROJECT: Final = Path(__file__).parents[2]
README: Final = Path(__file__).parent / "README.md"
OPEN: Final = "none yet"
FAULTS: Final = {
    1: "SIGKILL of the agent between the spool's commit and publishing",
    2: "SIGKILL of the agent between publishing and the acknowledgement",
    3: "SIGKILL of the agent while the spool deletes",
    4: "SIGKILL of the agent while model states are saved",
    5: "Power cut at any write that was not synchronised",
    6: "Spool file truncated, bits flipped, empty",
    7: "Disk full at the edge",
    8: "Read-only file system or EIO at the edge",
    9: "The clock jumps: an hour, to 1970, beyond 2038",
    10: "Offline for a day, for a week",
    11: "A link that flaps",
    12: "A half-open TCP connection",
    13: "A link of 1 kB/s",
    14: "SIGKILL of the broker with full queues",
    15: "The broker starts with an empty session store",
    16: "The broker refuses",
    17: "The broker drops what overflows its queue",
    18: "A thousand clients connect again at once",
    19: "Two agents with one client id",
    20: "SIGKILL of ingest before the commit",
    21: "SIGKILL of ingest after the commit, before the PUBACK",
    22: "SIGKILL of ingest after the PUBACK, before the acknowledgement",
    23: "An exception in a handler",
    24: "The database is down or restarts",
    25: "The database is locked, fails to serialise, deadlocks",
    26: "The database's disk is full",
    27: "A crash between order, reservation and outbox",
    28: "Two workers, one alert",
    29: "Two orders, one last part",
    30: "Mail or webhook: 500, time-out, 200 after it, RST",
    31: "The receiver is down for three days",
    32: "A lease ends while its worker is stopped",
    33: "A migration is interrupted, or finds a newer schema",
    34: "The cloud is restored to an hour ago",
    38: "SIGTERM under load",
}
"""Those that concern models, certificates and their rotation (35 to 37) come with these."""
_NAMED: Final = re.compile(r"test_fault_(\d+)_")


def tests_by_fault() -> dict[int, dict[str, list[str]]]:
    """Fault -> file -> the tests in it whose names say the fault."""
    found: dict[int, dict[str, list[str]]] = {number: {} for number in FAULTS}
    for file in sorted(PROJECT.glob("tests/**/test_*.py")):
        for name in functions(file):
            named = _NAMED.match(name)
            if named and int(named[1]) in found:
                found[int(named[1])].setdefault(str(file.relative_to(PROJECT)), []).append(name)
    return found


def functions(file: Path) -> list[str]:
    """The functions of a module, also those of its classes."""
    tree = ast.parse(file.read_text("utf-8"))
    return [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def rows() -> str:
    by_fault = tests_by_fault()
    return "".join(f"| {number} | {fault} | {_cell(by_fault[number])} |\n" for number, fault in FAULTS.items())


def _cell(files: dict[str, list[str]]) -> str:
    return (
        "<br>".join(f"`{file}`: " + ", ".join(f"`{name}`" for name in names) for file, names in files.items()) or OPEN
    )


def main() -> None:
    text = README.read_text("utf-8")
    head, rule, _ = text.partition("|---|---|---|\n")
    README.write_text(head + rule + rows(), "utf-8")


if __name__ == "__main__":
    main()
