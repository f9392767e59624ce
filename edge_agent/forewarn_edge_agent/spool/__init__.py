"""The spool: everything the agent must not forget, in one SQLite file.

Two lanes of encoded records, each with its own sequence; the model states with the advisory memories; replay positions,
answered commands and counters. All of one `append` is one transaction on disk (WAL, `synchronous=FULL`) when it
returns, so samples, advisories and model states can never disagree. One thread uses a `Spool`; a file lock keeps a
second process out.

The model states are written at a checkpoint, not with every sample (cheap disks wear out). A crash costs nothing all
the same: telemetry is kept until it is acknowledged *and* older than the checkpoint, so the states are brought up to
date from it. The digests of the last records are kept to recognise what a source delivers again after a crash.

What the cloud has acknowledged stays for a while, as an archive that it can ask for, and is the first to go when room
is needed.
"""

from forewarn_edge_agent.spool.damage import SpoolDamagedError, SpoolVersionError, is_of_the_disk
from forewarn_edge_agent.spool.identity import Identity
from forewarn_edge_agent.spool.inspection import Inspection, inspect
from forewarn_edge_agent.spool.opening import FILE_NAME, LOCK_NAME, SpoolInUseError, take_lock
from forewarn_edge_agent.spool.records import AssetRow, Batch, Chunk, LaneState, Limits, Range
from forewarn_edge_agent.spool.schema import SCHEMA_VERSION
from forewarn_edge_agent.spool.store import KEPT_COMMANDS, KEPT_DIGESTS, Spool

__all__ = [
    "FILE_NAME",
    "KEPT_COMMANDS",
    "KEPT_DIGESTS",
    "LOCK_NAME",
    "SCHEMA_VERSION",
    "AssetRow",
    "Batch",
    "Chunk",
    "Identity",
    "Inspection",
    "LaneState",
    "Limits",
    "Range",
    "Spool",
    "SpoolDamagedError",
    "SpoolInUseError",
    "SpoolVersionError",
    "inspect",
    "is_of_the_disk",
    "take_lock",
]
