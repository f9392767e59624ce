"""All features of a waveform under names that say their units, fit to be condition signals of the kernel."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from forewarn_models.vibration.bearing import BearingGeometry, FaultOrders, fault_orders
from forewarn_models.vibration.envelope import DEFAULT_SLIP, default_envelope_band_hz, envelope_of, envelope_peaks
from forewarn_models.vibration.orders import (
    MIN_REVOLUTIONS,
    checked_speed_hz,
    in_orders,
    order_amplitudes,
    order_spectrum,
)
from forewarn_models.vibration.spectrum import (
    SEVERITY_BAND_HZ,
    Lines,
    Spectrum,
    band_rms_of,
    lines_of,
    spectrum_of,
    velocity_rms_of,
)
from forewarn_models.vibration.waveform import (
    Floats,
    checked_rate_hz,
    checked_waveform,
    clipped_share_of,
    crest_of,
    kurtosis_of,
    peak_of,
    rms_of,
)

Band = tuple[float, float]
_ORDERS: Final = (1, 2, 3)
_ALWAYS: Final = (
    "acceleration_rms_m_s2",
    "acceleration_peak_m_s2",
    "acceleration_crest_factor",
    "acceleration_kurtosis",
    "acceleration_clipped_share",
    "velocity_rms_mm_s",
)
_OF_ORDERS: Final = tuple(f"order_{order}x_m_s2" for order in _ORDERS)
_OF_BEARING: Final = tuple(
    f"envelope_{fault}_{measure}" for measure in ("m_s2", "ratio") for fault in FaultOrders._fields
)


def feature_names(*, bands_hz: Sequence[Band] = (), speed: bool = False, bearing: bool = False) -> tuple[str, ...]:
    """What `features` returns, in this order, with a speed and with a speed and a bearing."""
    bands = tuple(f"acceleration_{low:.0f}_{high:.0f}_hz_rms_m_s2" for low, high in bands_hz)
    return _ALWAYS + bands + (_OF_ORDERS if speed else ()) + (_OF_BEARING if speed and bearing else ())


def features(
    waveform: ArrayLike,
    sample_rate_hz: float,
    *,
    speed_hz: ArrayLike | None = None,
    geometry: BearingGeometry | None = None,
    velocity_band_hz: Band = SEVERITY_BAND_HZ,
    bands_hz: Sequence[Band] = (),
    envelope_band_hz: Band | None = None,
    slip: float = DEFAULT_SLIP,
) -> dict[str, Floats]:
    """Name -> (...) for waveforms (..., n) in m/s2.

    Without `speed_hz` (revolutions per second; one number, or its course (n,)) there are no orders and no bearing
    frequencies. NaN is a value that this waveform cannot tell: crest factor, kurtosis and ratios of a constant;
    orders below a good `MIN_REVOLUTIONS`; bearing frequencies as in `envelope_peaks`.

    Raises:
        ValueError: a parameter cannot be used; the message names it and the fix.
    """
    rate, values = checked_rate_hz(sample_rate_hz), checked_waveform(waveform)
    if geometry is not None and speed_hz is None:
        raise ValueError("speed_hz: bearing frequencies need the shaft's speed; give it or leave out geometry")
    lines = lines_of(values, rate)
    found = [
        rms_of(values),
        peak_of(values),
        crest_of(values),
        kurtosis_of(values),
        clipped_share_of(values),
        velocity_rms_of(lines, velocity_band_hz),
        *np.moveaxis(band_rms_of(lines, bands_hz), -1, 0),
    ]
    if speed_hz is not None:
        speed = checked_speed_hz(speed_hz, lines.samples)
        found += _of_speed(values, lines, speed, geometry, envelope_band_hz or default_envelope_band_hz(rate), slip)
    names = feature_names(bands_hz=bands_hz, speed=speed_hz is not None, bearing=geometry is not None)
    return dict(zip(names, found, strict=True))


def _of_speed(
    values: Floats, lines: Lines, speed_hz: Floats, geometry: BearingGeometry | None, band_hz: Band, slip: float
) -> list[Floats]:
    # One to spare: between the first and the last sample the shaft turns a little less.
    if lines.samples / lines.rate * float(speed_hz.mean()) < MIN_REVOLUTIONS + 1:
        unknown = np.full(values.shape[:-1], np.nan)
        return [unknown] * (len(_OF_ORDERS) + (len(_OF_BEARING) if geometry is not None else 0))
    if geometry is None:
        orders = order_amplitudes(_in_orders(values[None], [lines], speed_hz)[0], _ORDERS)
        return [*np.moveaxis(orders, -1, 0)]
    bow = checked_waveform(envelope_of(lines, band_hz))
    both = _in_orders(np.stack([values, bow]), [lines, lines_of(bow, lines.rate)], speed_hz)
    reach = (band_hz[1] - band_hz[0]) / float(speed_hz.max())
    peaks = envelope_peaks(both[1], fault_orders(geometry), highest_order=reach, slip=slip)
    orders = order_amplitudes(both[0], _ORDERS)
    return [*np.moveaxis(np.concatenate([orders, peaks.amplitude_m_s2, peaks.ratio], axis=-1), -1, 0)]


def _in_orders(waveforms: Floats, lines: list[Lines], speed_hz: Floats) -> list[Spectrum]:
    """Order spectra of several waveforms of one shaft, of which the lines in Hz are known."""
    if not speed_hz.ndim:
        return [in_orders(spectrum_of(of_one), float(speed_hz)) for of_one in lines]
    tracked = order_spectrum(waveforms, lines[0].rate, speed_hz)
    return [replace(tracked, amplitude=amplitude) for amplitude in tracked.amplitude]
