"""What things are called: signals, units and failure modes of an asset type, in the reader's language."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from forewarn_cloud.console.i18n import Words
from forewarn_cloud.service.catalogue import asset_type_of
from forewarn_models.asset_type import AssetType, FailureMode, Signal
from forewarn_models.explain import explanation, recommendation
from forewarn_models.wire import Advisory

_UNITS: Final = {"degC": "°C", "m3/h": "m³/h", "m3/min": "m³/min", "uV": "µV", "um": "µm", "m/s2": "m/s²"}


@dataclass(frozen=True, kw_only=True)
class TypeWords:
    """An asset type as a page speaks of it. What the type does not know is called by its own identifier."""

    name: str
    words: Words

    @property
    def kind(self) -> AssetType:
        return asset_type_of(self.name)

    @property
    def title(self) -> str:
        known = self.kind.asset_type == self.name
        return self.kind.title.in_language(self.words.language) if known else self.name

    def signal(self, name: str) -> Signal | None:
        return next((signal for signal in self.kind.signals if signal.name == name), None)

    def signal_title(self, name: str) -> str:
        signal = self.signal(name)
        return signal.title.in_language(self.words.language) if signal and signal.title else name

    def unit(self, name: str) -> str:
        signal = self.signal(name)
        return _UNITS.get(signal.unit, signal.unit) if signal else ""

    def difference_unit(self, name: str) -> str:
        """The unit of a deviation: 9 °C more are 9 K."""
        unit = self.unit(name)
        return "K" if unit == "°C" else unit

    def in_order(self, names: Iterable[str]) -> list[str]:
        """Signals as the type lists them, what is watched before what explains it, then the unknown ones."""
        ranked = {s.name: (s.role == "regime", i) for i, s in enumerate(self.kind.signals)}
        return sorted(names, key=lambda name: (ranked.get(name, (True, len(ranked))), name))

    def failure_modes(self) -> tuple[FailureMode, ...]:
        return self.kind.failure_modes

    def problem(self, code: str) -> str:
        """What is wrong, in words."""
        mode = self.kind.failure_mode(code)
        return mode.title.in_language(self.words.language) if mode else self.words.known("failure_mode", code)

    def action(self, code: str) -> str:
        """What to do about it."""
        mode = self.kind.failure_mode(code)
        return mode.action.in_language(self.words.language) if mode else self.words("order.inspect")

    def why(self, advisory: dict[str, Any]) -> str | None:
        """One sentence that explains an advisory; None if it was written by a version we cannot read."""
        read = _read(advisory)
        if read is None:
            return None
        said = explanation(read, self.kind, self.words.language)
        return said[:1].upper() + said[1:]

    def advice(self, advisory: dict[str, Any]) -> str | None:
        """What to do about an advisory whose failure mode is likely enough to be named."""
        read = _read(advisory)
        return None if read is None else recommendation(read, self.kind, self.words.language)


def _read(advisory: dict[str, Any]) -> Advisory | None:
    try:
        return msgspec.convert(advisory, Advisory)
    except msgspec.ValidationError:
        return None
