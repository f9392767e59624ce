"""Vibration analysis of acceleration waveforms, vectorised over (..., n): many channels or machines in one call.

Waveforms are in m/s2, complete (no NaN), evenly sampled. The mean, a sensor's offset or gravity, is removed first.
`features` gives all the numbers of one waveform under names that can serve as condition signals of the kernel.
"""

from forewarn_models.vibration.bearing import BearingGeometry, FaultOrders, fault_orders
from forewarn_models.vibration.envelope import EnvelopePeaks, default_envelope_band_hz, envelope, envelope_peaks
from forewarn_models.vibration.feature_set import feature_names, features
from forewarn_models.vibration.orders import (
    angle_resampled,
    order_amplitudes,
    order_spectrum,
    revolutions_from_speed,
    revolutions_from_tacho,
)
from forewarn_models.vibration.spectrum import (
    SEVERITY_BAND_HZ,
    Spectrum,
    amplitude_spectrum,
    band_rms_m_s2,
    velocity_rms_mm_s,
)
from forewarn_models.vibration.waveform import clipped_share, crest_factor, kurtosis, peak_m_s2, rms_m_s2

__all__ = [
    "SEVERITY_BAND_HZ",
    "BearingGeometry",
    "EnvelopePeaks",
    "FaultOrders",
    "Spectrum",
    "amplitude_spectrum",
    "angle_resampled",
    "band_rms_m_s2",
    "clipped_share",
    "crest_factor",
    "default_envelope_band_hz",
    "envelope",
    "envelope_peaks",
    "fault_orders",
    "feature_names",
    "features",
    "kurtosis",
    "order_amplitudes",
    "order_spectrum",
    "peak_m_s2",
    "revolutions_from_speed",
    "revolutions_from_tacho",
    "rms_m_s2",
    "velocity_rms_mm_s",
]
