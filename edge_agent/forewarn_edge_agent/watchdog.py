"""Which assets have gone silent: no new sample for too long, be it that nothing comes or the same again and again.

Pure: the caller says what time it is, in seconds of a monotonic clock. After a restart an asset has its time anew.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

LEAST_SECONDS: Final = 60.0
UNTIL_KNOWN_SECONDS: Final = 3600.0
"""Before the usual pauses of an asset are known."""
TIMES_USUAL: Final = 5.0
KNOWN_PAUSES: Final = 32
ENOUGH_PAUSES: Final = 8


@dataclass(frozen=True, kw_only=True)
class Silence:
    """`heard_here`: it was heard since the agent started, so `seconds` is how long ago that was."""

    asset: str
    seconds: float
    heard_here: bool


@dataclass(kw_only=True)
class _Listened:
    configured_seconds: float | None
    since_s: float
    heard_here: bool = False
    is_silent: bool = False
    pauses: deque[float] = field(default_factory=lambda: deque(maxlen=KNOWN_PAUSES))

    @property
    def patience_seconds(self) -> float:
        """As configured, or five times the longest of the last pauses."""
        if self.configured_seconds is not None:
            return self.configured_seconds
        if len(self.pauses) < ENOUGH_PAUSES:
            return UNTIL_KNOWN_SECONDS
        return max(LEAST_SECONDS, TIMES_USUAL * max(self.pauses))


class Watchdog:
    """`configured_seconds`: of each asset, None where its own pace decides; `silent`: told so before the restart."""

    def __init__(self, configured_seconds: Mapping[str, float | None], silent: frozenset[str], now_s: float) -> None:
        self._assets = {
            asset: _Listened(configured_seconds=seconds, since_s=now_s, is_silent=asset in silent)
            for asset, seconds in configured_seconds.items()
        }

    def heard(self, asset: str, now_s: float) -> bool:
        """A new sample came; whether the asset was silent. One that is not watched for never is."""
        listened = self._assets.get(asset)
        if listened is None:
            return False
        was_silent = listened.is_silent
        if listened.heard_here and not was_silent:
            listened.pauses.append(now_s - listened.since_s)
        listened.since_s, listened.heard_here, listened.is_silent = now_s, True, False
        return was_silent

    def fall_silent(self, now_s: float) -> list[Silence]:
        """Those that have just become silent; each is named once."""
        found = []
        for asset, listened in self._assets.items():
            seconds = now_s - listened.since_s
            if not listened.is_silent and seconds >= listened.patience_seconds:
                listened.is_silent = True
                found.append(Silence(asset=asset, seconds=seconds, heard_here=listened.heard_here))
        return found

    def told(self, now_s: float) -> dict[str, dict[str, object]]:
        """Of each asset, for the status."""
        return {
            asset: {
                "silent": listened.is_silent,
                "silent_after_s": round(listened.patience_seconds, 1),
                "heard_s_ago": round(now_s - listened.since_s, 1) if listened.heard_here else None,
            }
            for asset, listened in self._assets.items()
        }
