"""Envelope analysis: impacts ring a resonance; how often they come is seen in the spectrum of the ringing's envelope.

After Randall and Antoni (MSSP 25, 2011, section 4): band-pass around the resonance, amplitude of the analytic signal,
spectrum. The ratio of a line to the median of its neighbours says by how much it stands out; unlike the amplitude in
m/s2 it means the same on any machine and sensor. Noise alone reads about 2 (the greatest of a few lines).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forewarn_models.vibration.orders import MIN_REVOLUTIONS
from forewarn_models.vibration.spectrum import Lines, Spectrum, lines_of
from forewarn_models.vibration.waveform import Floats, checked_band_hz, checked_rate_hz, checked_waveform, quotient

Ints = NDArray[np.int64]
DEFAULT_HARMONICS: Final = 3
DEFAULT_SLIP: Final = 0.02
_FLOOR_LINES: Final = 30
"""Neighbours on each side that say what the floor is."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EnvelopePeaks:
    """(..., frequencies) each; NaN where a frequency cannot be told from 0 or lies beyond the envelope's reach."""

    amplitude_m_s2: Floats
    """Root of the summed squares of the harmonics."""
    ratio: Floats
    """Geometric mean, over the harmonics, of each one's amplitude over its floor: all of them have to stand out."""


def default_envelope_band_hz(sample_rate_hz: float) -> tuple[float, float]:
    """From a tenth to four tenths of the sampling rate: above most shaft and gear orders, below the filters' edge."""
    return 0.1 * sample_rate_hz, 0.4 * sample_rate_hz


def envelope(waveform: ArrayLike, sample_rate_hz: float, band_hz: tuple[float, float]) -> Floats:
    """(..., n) amplitude of the analytic signal of the part within the band: with its Hilbert transform, a quarter of
    a turn behind at every frequency, it makes a right angle.

    Raises:
        ValueError: waveform, rate or band cannot be used, or the band has no line of the spectrum.
    """
    return envelope_of(lines_of(checked_waveform(waveform), checked_rate_hz(sample_rate_hz)), band_hz)


def envelope_of(lines: Lines, band_hz: tuple[float, float]) -> Floats:
    """The same of lines in Hz."""
    low, high = checked_band_hz("envelope_band_hz", band_hz, lines.rate)
    step, half = lines.rate / lines.samples, (lines.samples + 1) // 2
    first, end = max(math.ceil(low / step), 1), min(math.ceil(high / step), half)
    if end <= first:
        raise ValueError(f"envelope_band_hz: ({low:g}, {high:g}) has no line of the spectrum, one every {step:g} Hz")
    inside = np.zeros((2, *lines.values.shape), dtype=np.complex128)
    inside[0, ..., first:end] = lines.values[..., first:end]
    inside[1, ..., first:end] = -1j * lines.values[..., first:end]
    part, quadrature = np.fft.irfft(inside, lines.samples, axis=-1)
    return np.asarray(np.sqrt(np.square(part) + np.square(quadrature)))


def envelope_peaks(
    spectrum: Spectrum,
    orders: Sequence[float],
    *,
    highest_order: float = math.inf,
    harmonics: int = DEFAULT_HARMONICS,
    slip: float = DEFAULT_SLIP,
) -> EnvelopePeaks:
    """How much an envelope's spectrum stands out at some orders, such as `fault_orders` gives, and at their harmonics.

    `spectrum`: `order_spectrum` of an `envelope`. The lines that count are those at the slip, within `slip` (a share),
    at which the harmonics stand out most together, or beside them: a bearing slips alike at all its harmonics, while
    multiples of the shaft's speed that come near them do not fit one slip. NaN, not an error, where the waveform holds
    fewer than `MIN_REVOLUTIONS` periods of an order, or its harmonics go beyond the spectrum or `highest_order` (what
    the band lets through: its width over the speed), for all of that depends on the speed of the moment.

    Raises:
        ValueError: harmonics or slip cannot be used.
    """
    if harmonics < 1:
        raise ValueError(f"harmonics: give at least 1, not {harmonics}")
    if not 0 <= slip < 0.2:
        raise ValueError(f"slip: give a share of 0 to below 0.2, not {slip:g}")
    lines, every = spectrum.amplitude.shape[-1], np.asarray(orders, dtype=np.float64)
    middle = every[:, None] * np.arange(1, harmonics + 1) / spectrum.step
    reach = np.maximum(slip * middle, 1.0)
    first, end = np.ceil(middle - reach).astype(np.int64), np.floor(middle + reach).astype(np.int64) + 1
    last = min(lines - 2.0, highest_order / spectrum.step)
    known = (every >= MIN_REVOLUTIONS * spectrum.step) & (end[:, -1] <= last)
    first, end = np.where(known[:, None], first, 1), np.where(known[:, None], end, 2)
    slips = np.linspace(-slip, slip, 2 * math.ceil(slip * middle[known].max(initial=0.0)) + 1)
    at = np.where(known[:, None, None], middle[:, None, :] * (1.0 + slips[:, None]), 1.0)
    peak = _greatest_of_three(spectrum.amplitude, np.rint(at).astype(np.int64))
    floor = _floor(spectrum.amplitude, first, end)
    with np.errstate(divide="ignore"):
        log_ratio = np.log(quotient(peak, floor[..., None, :])).mean(axis=-1)
    best = log_ratio.argmax(axis=-1)[..., None]
    ratio = np.exp(np.take_along_axis(log_ratio, best, axis=-1)[..., 0])
    amplitude = np.sqrt(np.square(np.take_along_axis(peak, best[..., None], axis=-2)[..., 0, :]).sum(axis=-1))
    return EnvelopePeaks(amplitude_m_s2=np.where(known, amplitude, np.nan), ratio=np.where(known, ratio, np.nan))


def _greatest_of_three(amplitude: Floats, at: Ints) -> Floats:
    """(..., *at.shape) greatest of those lines and the ones beside them."""
    reach = min(int(at.max()) + 2, amplitude.shape[-1])
    below, middle, above = amplitude[..., : reach - 2], amplitude[..., 1 : reach - 1], amplitude[..., 2:reach]
    return np.asarray(np.maximum(np.maximum(below, middle), above)[..., at - 1])


def _floor(amplitude: Floats, first: Ints, end: Ints) -> Floats:
    """(..., orders, harmonics) median of the neighbours on both sides; those that would lie at or below 0 are taken
    from above instead.
    """
    away = np.arange(_FLOOR_LINES)
    below, above = first[..., None] - 1 - away, end[..., None] + away
    below = np.where(below < 1, above + _FLOOR_LINES, below)
    neighbours = np.minimum(np.concatenate([below, above], axis=-1), amplitude.shape[-1] - 1)
    return np.asarray(np.median(amplitude[..., neighbours], axis=-1))
