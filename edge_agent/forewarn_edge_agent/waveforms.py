"""From the waveforms in a machine's message to signals. The waveforms themselves are neither stored nor sent on."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from forewarn_models.vibration import SEVERITY_BAND_HZ, BearingGeometry, feature_names, features

_PER_SECOND: Final = {"rpm": 1.0 / 60.0, "hz": 1.0}


class Waveform(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A measuring point that sends waveforms, and which of their features become signals of the asset.

    `features`: name as in `forewarn_models.vibration.feature_names` -> signal. `speed`: the signal, in the same
    message, that says how fast the shaft turns; orders and bearing frequencies need it.
    """

    point: str
    features: Annotated[dict[str, str], msgspec.Meta(min_length=1)]
    speed: str | None = None
    speed_unit: Literal["rpm", "hz"] = "rpm"
    bearing: BearingGeometry | None = None
    velocity_band_hz: tuple[float, float] = SEVERITY_BAND_HZ
    bands_hz: tuple[tuple[float, float], ...] = ()
    envelope_band_hz: tuple[float, float] | None = None

    def known(self) -> tuple[str, ...]:
        """The names that `features` may use."""
        bearing = self.bearing is not None
        return feature_names(bands_hz=self.bands_hz, speed=bearing or self.speed is not None, bearing=bearing)


class WaveformError(Exception):
    """The waveform cannot be used; the message names it, the field and the fix."""


class Sampled(msgspec.Struct, forbid_unknown_fields=True):
    """A waveform as it travels."""

    sample_rate_hz: float
    acceleration_m_s2: list[float]


def signals(
    declared: Waveform, raw: msgspec.Raw, readings: Mapping[str, NDArray[np.float32]]
) -> dict[str, NDArray[np.float64]]:
    """(1,) for each signal that the features become; NaN, missing, what this waveform cannot tell.

    `readings`: the signals of the same message, (1,) each. Without a speed above 0 in them, which is how a machine
    stands still, orders and bearing frequencies are missing.

    Raises:
        WaveformError: the waveform cannot be used.
    """
    where = f"waveforms.{declared.point}"
    speed_hz = _speed_hz(declared, readings)
    try:
        sampled = msgspec.json.decode(raw, type=Sampled)
        found = features(
            np.array(sampled.acceleration_m_s2),
            sampled.sample_rate_hz,
            speed_hz=speed_hz,
            geometry=None if speed_hz is None else declared.bearing,
            velocity_band_hz=declared.velocity_band_hz,
            bands_hz=declared.bands_hz,
            envelope_band_hz=declared.envelope_band_hz,
        )
    except (msgspec.DecodeError, ValueError) as error:
        raise WaveformError(f"{where}: {error}") from None
    unknown = np.array(np.nan)
    return {signal: np.atleast_1d(found.get(name, unknown)) for name, signal in declared.features.items()}


def _speed_hz(declared: Waveform, readings: Mapping[str, NDArray[np.float32]]) -> float | None:
    if declared.speed is None:
        return None
    if declared.speed not in readings:
        raise WaveformError(f"waveforms.{declared.point}: send the signal {declared.speed} in the same message")
    speed_hz = float(readings[declared.speed][0]) * _PER_SECOND[declared.speed_unit]
    return speed_hz if speed_hz > 0 else None


def problems(waveforms: tuple[Waveform, ...]) -> Iterator[tuple[str, str]]:
    """Where, below an asset, and what is wrong with the waveforms that its configuration declares."""
    points, taken = set[str](), set[str]()
    for i, waveform in enumerate(waveforms):
        where = f"waveforms[{i}]"
        if waveform.point in points:
            yield f"{where}.point", f"{waveform.point!r} is declared twice"
        if waveform.bearing is not None and waveform.speed is None:
            yield f"{where}.bearing", "a bearing needs speed: name the signal that tells it"
        known = waveform.known()
        for name, signal in waveform.features.items():
            if name not in known:
                yield f"{where}.features", f"{name!r} is none of the features here: {', '.join(known)}"
            if signal in taken:
                yield f"{where}.features", f"two features become the signal {signal!r}"
            taken.add(signal)
        points.add(waveform.point)
