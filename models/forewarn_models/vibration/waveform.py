"""What the waveform itself tells, and what makes a waveform unusable.

Clipped waveforms are accepted, and `clipped_share` tells: their RMS and peak are lower bounds, their kurtosis too low.
A constant waveform is still: RMS, peak and velocity are 0; crest factor, kurtosis and every ratio are undefined, NaN.
"""

import math
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
MIN_SAMPLES: Final = 64


def checked_waveform(waveform: ArrayLike) -> Floats:
    """(..., n) as float64 with its mean removed.

    Raises:
        ValueError: it has no axis of time, fewer than `MIN_SAMPLES` samples, or one that is NaN or infinite.
    """
    values = np.asarray(waveform, dtype=np.float64)
    samples = values.shape[-1] if values.ndim else 1
    if samples < MIN_SAMPLES:
        raise ValueError(f"waveform: {samples} samples are too few; record at least {MIN_SAMPLES}")
    unusable = values.size - int(np.count_nonzero(np.isfinite(values)))
    if unusable:
        raise ValueError(f"waveform: {unusable} samples are NaN or infinite; use only complete waveforms")
    centred: Floats = values - values.mean(axis=-1, keepdims=True)
    # What is left of a constant by rounding is not a vibration.
    rounding = 4 * np.finfo(np.float64).eps * np.abs(values).max(axis=-1, keepdims=True, initial=0.0)
    still = np.abs(centred).max(axis=-1, keepdims=True, initial=0.0) <= rounding
    return np.where(still, 0.0, centred) if still.any() else centred


def checked_rate_hz(sample_rate_hz: float) -> float:
    """Raises:
    ValueError: it is not a positive finite number.
    """
    if not (math.isfinite(sample_rate_hz) and sample_rate_hz > 0):
        raise ValueError(f"sample_rate_hz: give a positive number of samples per second, not {sample_rate_hz}")
    return float(sample_rate_hz)


def checked_band_hz(name: str, band_hz: tuple[float, float], sample_rate_hz: float) -> tuple[float, float]:
    """Raises:
    ValueError: the band is not 0 <= low < high, or reaches above half the sampling rate.
    """
    low, high = band_hz
    if not (math.isfinite(high) and 0 <= low < high):
        raise ValueError(f"{name}: ({low:g}, {high:g}) is no band; give 0 <= low < high")
    if high > sample_rate_hz / 2:
        raise ValueError(
            f"{name}: {high:g} Hz needs a sample_rate_hz of at least {2 * high:g}, not {sample_rate_hz:g}; "
            "sample faster or lower the band"
        )
    return float(low), float(high)


def rms_m_s2(waveform: ArrayLike) -> Floats:
    """(...) root mean square acceleration."""
    return rms_of(checked_waveform(waveform))


def peak_m_s2(waveform: ArrayLike) -> Floats:
    """(...) greatest distance from the mean."""
    return peak_of(checked_waveform(waveform))


def crest_factor(waveform: ArrayLike) -> Floats:
    """(...) peak over RMS: 1 for a square wave, sqrt(2) for a sine; NaN for a constant."""
    return crest_of(checked_waveform(waveform))


def kurtosis(waveform: ArrayLike) -> Floats:
    """(...) fourth central moment over the squared variance (Pearson's, of the population): 3 for a Gaussian, not 0.

    1.5 for a sine, 1 for a square wave; impacts raise it (Dyer and Stewart 1978). NaN for a constant.
    """
    return kurtosis_of(checked_waveform(waveform))


def clipped_share(waveform: ArrayLike) -> Floats:
    """(...) share of the samples that have exactly the greatest or the least value.

    About 2/n where nothing is clipped, 1 for a constant. A smooth, coarsely quantised signal rests at its extremes too:
    judge by a rise over the machine's own usual share.
    """
    return clipped_share_of(checked_waveform(waveform))


# --- of waveforms that have been checked ------------------------------------------------------------------------------


def rms_of(centred: Floats) -> Floats:
    return np.asarray(np.sqrt(_mean_square(centred)))


def peak_of(centred: Floats) -> Floats:
    return np.asarray(np.abs(centred).max(axis=-1))


def crest_of(centred: Floats) -> Floats:
    return quotient(peak_of(centred), rms_of(centred))


def kurtosis_of(centred: Floats) -> Floats:
    square = np.square(centred)
    return quotient(_mean_square(square), np.square(square.mean(axis=-1)))


def clipped_share_of(centred: Floats) -> Floats:
    greatest, least = centred.max(axis=-1, keepdims=True), centred.min(axis=-1, keepdims=True)
    return np.asarray(((centred == greatest) | (centred == least)).mean(axis=-1), dtype=np.float64)


def _mean_square(values: Floats) -> Floats:
    return np.asarray(np.einsum("...n,...n->...", values, values) / values.shape[-1])


def quotient(of: Floats, by: Floats) -> Floats:
    """NaN where `by` is 0."""
    return np.asarray(of / np.where(by > 0, by, np.nan))
