"""Order tracking: from time to shaft angle, so that what turns with the shaft stays in one line while speed changes.

Computed order tracking after Fyfe and Munck (MSSP 11, 1997), with linear interpolation: good for orders far below the
sampling rate (an order at a twentieth of it reads 0.8 % low), which 1x to 3x are.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from forewarn_models.vibration.spectrum import Spectrum, amplitude_spectrum
from forewarn_models.vibration.waveform import Floats, checked_rate_hz, checked_waveform

MIN_REVOLUTIONS: Final = 5
"""An order then is five lines away from 0 and from its neighbours: the lobes of a Hann window stay apart."""
_LOBE: Final = 2
_LOBE_POWER: Final = 1.5
"""Sum of the squares of a sine's lines under a Hann window, over the square of its amplitude."""


def checked_speed_hz(speed_hz: ArrayLike, samples: int) -> Floats:
    """() or (n,) revolutions per second.

    Raises:
        ValueError: a value is not positive and finite, or a profile has not one value per sample.
    """
    speed = np.asarray(speed_hz, dtype=np.float64)
    if speed.shape not in ((), (samples,)):
        raise ValueError(f"speed_hz: give one number or one per sample ({samples}), not the shape {speed.shape}")
    if not bool((np.isfinite(speed) & (speed > 0)).all()):
        raise ValueError("speed_hz: give revolutions per second above 0; there are no orders of a machine at rest")
    return speed


def revolutions_from_speed(speed_hz: ArrayLike, *, sample_rate_hz: float, samples: int) -> Floats:
    """(n,) shaft angle in revolutions at each sample, from 0: the speed integrated by trapezoids.

    `speed_hz`: revolutions per second, one number or (n,).

    Raises:
        ValueError: speed or rate cannot be used.
    """
    rate = checked_rate_hz(sample_rate_hz)
    speed = np.broadcast_to(checked_speed_hz(speed_hz, samples), (samples,))
    return np.concatenate([[0.0], np.cumsum(0.5 * (speed[1:] + speed[:-1]) / rate)])


def revolutions_from_tacho(
    pulse_times_s: ArrayLike, *, sample_rate_hz: float, samples: int, pulses_per_revolution: int = 1
) -> Floats:
    """(n,) shaft angle in revolutions at each sample, 0 at the first pulse; linear between pulses, and beyond the first
    and last one at the speed of the pair next to it.

    `pulse_times_s`: (pulses,) seconds since the first sample.

    Raises:
        ValueError: fewer than two pulses, not in strictly growing order, or not finite; or the rate cannot be used.
    """
    times, rate = np.asarray(pulse_times_s, dtype=np.float64), checked_rate_hz(sample_rate_hz)
    if times.ndim != 1 or len(times) < 2:
        raise ValueError("pulse_times_s: give at least two pulses")
    if not (np.isfinite(times).all() and (np.diff(times) > 0).all()):
        raise ValueError("pulse_times_s: give finite times, each later than the one before")
    if pulses_per_revolution < 1:
        raise ValueError(f"pulses_per_revolution: give at least 1, not {pulses_per_revolution}")
    at = np.arange(samples) / rate
    left = np.clip(np.searchsorted(times, at, side="right") - 1, 0, len(times) - 2)
    return np.asarray((left + (at - times[left]) / np.diff(times)[left]) / pulses_per_revolution)


def angle_resampled(waveform: ArrayLike, revolutions: ArrayLike) -> tuple[Floats, float]:
    """(..., n) the waveform at n even steps of shaft angle from its first to its last sample, and the samples per
    revolution. What lies above half of them folds: the highest frequencies, while the machine is slower than its mean.

    Raises:
        ValueError: the angle does not grow strictly, has another length, or spans under `MIN_REVOLUTIONS`.
    """
    values, angle = checked_waveform(waveform), np.asarray(revolutions, dtype=np.float64)
    samples = values.shape[-1]
    if angle.shape != (samples,):
        raise ValueError(f"revolutions: give one angle per sample ({samples}), not the shape {angle.shape}")
    if not (np.isfinite(angle).all() and (np.diff(angle) > 0).all()):
        raise ValueError("revolutions: give finite angles, each greater than the one before")
    span = float(angle[-1] - angle[0])
    if span < MIN_REVOLUTIONS:
        raise ValueError(f"waveform: {span:.3g} revolutions are too few for orders; record at least {MIN_REVOLUTIONS}")
    grid = np.linspace(angle[0], angle[-1], samples)
    rows = [np.interp(grid, angle, row) for row in values.reshape(-1, samples)]
    return np.array(rows).reshape(values.shape), (samples - 1) / span


def order_spectrum(waveform: ArrayLike, sample_rate_hz: float, speed_hz: ArrayLike) -> Spectrum:
    """Amplitudes by order: multiples of the shaft's speed.

    `speed_hz`: one number where the speed stands still, then nothing is resampled; or (n,) its course.

    Raises:
        ValueError: waveform, rate or speed cannot be used, or there are fewer than `MIN_REVOLUTIONS`.
    """
    values, rate = checked_waveform(waveform), checked_rate_hz(sample_rate_hz)
    samples = values.shape[-1]
    speed = checked_speed_hz(speed_hz, samples)
    if speed.ndim:
        angle = revolutions_from_speed(speed, sample_rate_hz=rate, samples=samples)
        return amplitude_spectrum(*angle_resampled(values, angle))
    return in_orders(amplitude_spectrum(values, rate), float(speed))


def in_orders(spectrum: Spectrum, speed_hz: float) -> Spectrum:
    """A spectrum in Hz of a machine whose speed stands still.

    Raises:
        ValueError: it shows fewer than `MIN_REVOLUTIONS`.
    """
    step = spectrum.step / speed_hz
    if step * MIN_REVOLUTIONS > 1 + 1e-9:
        raise ValueError(
            f"waveform: {1 / step:.3g} revolutions are too few for orders; record at least {MIN_REVOLUTIONS}"
        )
    return replace(spectrum, step=step)


def order_amplitudes(spectrum: Spectrum, orders: Sequence[float]) -> Floats:
    """(..., orders) amplitude of the sine at each order, from the power in the five lines around it: right between two
    lines, too, and where the speed is off by up to a line.

    Raises:
        ValueError: an order is not within the spectrum.
    """
    return np.stack([_amplitude(spectrum, order) for order in orders], axis=-1)


def _amplitude(spectrum: Spectrum, order: float) -> Floats:
    middle, lines = round(order / spectrum.step), spectrum.amplitude.shape[-1]
    if not _LOBE < middle < lines - _LOBE:
        raise ValueError(f"orders: {order:g} is not within the spectrum, which ends at {(lines - 1) * spectrum.step:g}")
    lobe = spectrum.amplitude[..., middle - _LOBE : middle + _LOBE + 1]
    return np.asarray(np.sqrt(np.square(lobe).sum(axis=-1) / _LOBE_POWER))
