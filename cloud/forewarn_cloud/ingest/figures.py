"""What the running ingest tells about itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class IngestFigures:
    """Counts are since the program started."""

    waiting_messages: int = 0
    """In the hand-over between the network and the writer."""
    fill: float = 0.0
    """How full the hand-over is, 0 to 1."""
    lag_seconds: float = 0.0
    """How long the batch that is being committed has waited: 0 when there is nothing to do."""
    suspects: int = 0
    """Messages set apart because they, or others of their node, could not be stored."""
    set_aside: int = 0
    """Messages and records that our own code or the database could not take."""
    replacements: int = 0
    """How often the connection's thread was found dead or stuck and replaced."""
    throttled: Mapping[str, int] = field(default_factory=dict)
    """Node -> acknowledgements withheld because it was over its quota."""
    let_go: Mapping[str, int] = field(default_factory=dict)
    """Node -> messages let go because it flooded."""
