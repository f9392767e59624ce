"""Spectra: amplitudes, RMS in bands, and RMS velocity by integration in the frequency domain."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forewarn_models.vibration.waveform import Floats, checked_band_hz, checked_rate_hz, checked_waveform

SEVERITY_BAND_HZ: Final = (10.0, 1000.0)
"""What ISO 20816-3 evaluates; from 2 Hz for machines below 600 r/min."""
Complexes = NDArray[np.complex128]
_MM_PER_M: Final = 1000.0
_HANN_MEAN: Final = 0.5
_HANN_MEAN_SQUARE: Final = 0.375


@dataclass(frozen=True, kw_only=True, eq=False)
class Lines:
    """Fourier transform of waveforms: what all spectra of theirs are made from."""

    values: Complexes
    """(..., samples // 2 + 1)"""
    samples: int
    rate: float
    """Samples per second, or per revolution."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Spectrum:
    """One-sided amplitudes of sines: bin i is at `i * step`, in Hz, or in orders where samples are by angle."""

    step: float
    amplitude: Floats
    """(..., m) in the unit of the waveform; the peak, not the RMS, of a sine."""


def amplitude_spectrum(waveform: ArrayLike, sample_rate_hz: float) -> Spectrum:
    """Amplitudes under a Hann window, corrected for its mean: a sine between two lines reads up to 15 % low.

    With samples per revolution for the rate, the step is in orders.

    Raises:
        ValueError: the waveform or the rate cannot be used.
    """
    return spectrum_of(lines_of(checked_waveform(waveform), checked_rate_hz(sample_rate_hz)))


def band_rms_m_s2(waveform: ArrayLike, sample_rate_hz: float, bands_hz: Sequence[tuple[float, float]]) -> Floats:
    """(..., bands) RMS acceleration in each band, low <= f < high; half the sampling rate belongs to a band up to it.

    No window: the squares of bands that tile 0 to half the sampling rate sum to the square of `rms_m_s2` (Parseval).

    Raises:
        ValueError: the waveform, the rate or a band cannot be used.
    """
    return band_rms_of(lines_of(checked_waveform(waveform), checked_rate_hz(sample_rate_hz)), bands_hz)


def velocity_rms_mm_s(
    waveform: ArrayLike, sample_rate_hz: float, *, band_hz: tuple[float, float] = SEVERITY_BAND_HZ
) -> Floats:
    """(...) RMS velocity in mm/s of the part within `band_hz`: each line of the spectrum over 2 pi f.

    A Hann window, corrected for its power, keeps what leaks from strong lines out of the lowest frequencies, where the
    integration would magnify it. It makes the band's edges two lines wide and reads a sine of k periods 0.5/k2 high.

    Raises:
        ValueError: the waveform, the rate or the band cannot be used, or the waveform is shorter than two periods of
            the band's lower end.
    """
    return velocity_rms_of(lines_of(checked_waveform(waveform), checked_rate_hz(sample_rate_hz)), band_hz)


# --- of waveforms that have been checked ------------------------------------------------------------------------------


def lines_of(centred: Floats, rate: float) -> Lines:
    return Lines(values=np.fft.rfft(centred, axis=-1), samples=centred.shape[-1], rate=rate)


def spectrum_of(lines: Lines) -> Spectrum:
    scale = 2.0 / (_HANN_MEAN * lines.samples)
    every = slice(0, lines.values.shape[-1])
    return Spectrum(step=lines.rate / lines.samples, amplitude=np.abs(_under_hann(lines, every)) * scale)


def band_rms_of(lines: Lines, bands_hz: Sequence[tuple[float, float]]) -> Floats:
    slices = [_part(lines, checked_band_hz("bands_hz", band, lines.rate)) for band in bands_hz]
    power = _power(lines.values, lines.samples) if slices else np.zeros(lines.values.shape)
    if lines.samples % 2 == 0:
        power[..., -1] /= 2.0  # the line at half the sampling rate has no twin at negative frequency
    found = [np.sqrt(power[..., part].sum(axis=-1)) for part in slices]
    return np.stack(found, axis=-1) if found else np.zeros((*lines.values.shape[:-1], 0))


def velocity_rms_of(lines: Lines, band_hz: tuple[float, float]) -> Floats:
    low, high = checked_band_hz("band_hz", band_hz, lines.rate)
    if low <= 0:
        raise ValueError("band_hz: velocity needs a lower end above 0 Hz")
    seconds = lines.samples / lines.rate
    if seconds < 2.0 / low:
        raise ValueError(
            f"waveform: {seconds:g} s are too short for velocity from {low:g} Hz; "
            f"record at least {2.0 / low:g} s or raise band_hz"
        )
    part = _part(lines, (low, high))
    rad_per_s = np.arange(part.start, part.stop) * (2.0 * math.pi / seconds)
    power = _power(_under_hann(lines, part), lines.samples) / _HANN_MEAN_SQUARE
    return np.asarray(_MM_PER_M * np.sqrt((power / np.square(rad_per_s)).sum(axis=-1)))


def _under_hann(lines: Lines, part: slice) -> Complexes:
    """Those lines of the waveform under a (periodic) Hann window: half of each less a quarter of its neighbours."""
    values, first, end = lines.values, part.start, part.stop
    before = values[..., first - 1 : first] if first else values[..., 1:2].conj()
    mirror = lines.samples - end
    after = values[..., end : end + 1] if end < values.shape[-1] else values[..., mirror : mirror + 1].conj()
    sides = 0.25 * np.concatenate([before, values[..., part], after], axis=-1)
    return np.asarray(0.5 * values[..., part] - sides[..., :-2] - sides[..., 2:])


def _power(values: Complexes, samples: int) -> Floats:
    """Mean square of the sine that each line stands for; the mean was removed, so there is none at 0."""
    power: Floats = (np.square(values.real) + np.square(values.imag)) * (2.0 / samples**2)
    return power


def _part(lines: Lines, band_hz: tuple[float, float]) -> slice:
    # A hair of tolerance: 10 Hz is line 10 of a second, whatever the rounding of 10 * n / rate.
    first, end = (math.ceil(edge * lines.samples / lines.rate - 1e-9) for edge in band_hz)
    up_to_half = band_hz[1] >= lines.rate / 2 * (1 - 1e-12)
    return slice(first, lines.values.shape[-1] if up_to_half else end)
