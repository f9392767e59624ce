"""Waveforms whose features are known: by a formula, by scipy, or because the fault in them was put there."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray
from scipy import signal as oracle

from forewarn_models.asset_type import SIGNAL_NAME
from forewarn_models.vibration import (
    BearingGeometry,
    FaultOrders,
    Spectrum,
    amplitude_spectrum,
    angle_resampled,
    band_rms_m_s2,
    clipped_share,
    crest_factor,
    envelope,
    envelope_peaks,
    fault_orders,
    feature_names,
    features,
    kurtosis,
    order_amplitudes,
    order_spectrum,
    peak_m_s2,
    revolutions_from_speed,
    revolutions_from_tacho,
    rms_m_s2,
    velocity_rms_mm_s,
)

Floats = NDArray[np.float64]
RATE_HZ = 20_480.0
SAMPLES = 20_480
SECONDS = np.arange(SAMPLES) / RATE_HZ
BEARING = BearingGeometry(rolling_elements=9, ball_diameter_mm=7.94, pitch_diameter_mm=39.04)
BANDS_HZ = ((10.0, 1000.0), (1000.0, 5000.0), (5000.0, 10_000.0))
SPEED_HZ = 29.4


def sine(frequency_hz: float, amplitude: float = 1.0, phase: float = 0.3) -> Floats:
    return np.asarray(amplitude * np.sin(2 * np.pi * frequency_hz * SECONDS + phase))


def noise(seed: int, *shape: int) -> Floats:
    return np.random.default_rng(seed).normal(size=shape or (SAMPLES,))


def struck(orders: float, speed_hz: Floats, *, seed: int, modulated: bool = False, slip: float = 0.01) -> Floats:
    """Impacts `orders` times a revolution, each a little early or late, ring a resonance at 4.2 kHz under noise.

    `modulated`: the struck spot turns with the shaft through the load zone.
    """
    random = np.random.default_rng(seed)
    turned = revolutions_from_speed(speed_hz, sample_rate_hz=RATE_HZ, samples=SAMPLES)
    gaps = (1.0 + slip * random.normal(size=int(turned[-1] * orders) + 2)) / orders
    at = np.interp(np.cumsum(gaps), turned, SECONDS)
    at = at[at < SECONDS[-1]]
    strength = 1.0 + modulated * 0.8 * np.sin(2 * np.pi * np.interp(at, SECONDS, turned))
    impacts = np.zeros(SAMPLES)
    np.add.at(impacts, np.round(at * RATE_HZ).astype(int).clip(max=SAMPLES - 1), strength)
    ringing = np.exp(-900 * SECONDS[:400]) * np.sin(2 * np.pi * 4200 * SECONDS[:400])
    return np.asarray(np.convolve(impacts, 3.0 * ringing)[:SAMPLES] + 0.5 * noise(seed + 1))


def steady(speed_hz: float = SPEED_HZ) -> Floats:
    return np.full(SAMPLES, speed_hz)


# --- what the waveform itself tells -----------------------------------------------------------------------------------


@pytest.mark.parametrize("frequency_hz", [20.0, 50.0, 50.5, 123.4, 997.0])
def test_a_sine_has_the_features_of_its_formula(frequency_hz: float) -> None:
    wave = sine(frequency_hz, 3.0)
    assert rms_m_s2(wave) == pytest.approx(3.0 / math.sqrt(2), rel=2e-3)
    assert peak_m_s2(wave) == pytest.approx(3.0, rel=1e-2)
    assert crest_factor(wave) == pytest.approx(math.sqrt(2), rel=1e-2)
    assert kurtosis(wave) == pytest.approx(1.5, rel=1e-2)
    # Within a line of the band's edge, the window spreads part of it outside.
    expected = 1000 * 3.0 / (2 * math.pi * frequency_hz) / math.sqrt(2)
    assert velocity_rms_mm_s(wave, RATE_HZ) == pytest.approx(expected, rel=3e-3)


def test_velocity_leaves_out_what_is_outside_the_band() -> None:
    inside = velocity_rms_mm_s(sine(100.0), RATE_HZ)
    both = velocity_rms_mm_s(sine(100.0) + sine(4.0, 5.0) + sine(3000.0, 50.0), RATE_HZ)
    assert both == pytest.approx(inside, rel=1e-6)
    slow = velocity_rms_mm_s(sine(4.0, 5.0), RATE_HZ, band_hz=(2.0, 1000.0))
    assert slow == pytest.approx(1000 * 5.0 / (2 * math.pi * 4.0) / math.sqrt(2), rel=0.05)


def test_velocity_is_that_of_integration_in_time() -> None:
    random = np.random.default_rng(1)
    wave = sum(sine(f, random.uniform(0.5, 2.0), random.uniform(0, 6)) for f in np.arange(40.0, 400.0, 7.0))
    velocity = np.cumsum(wave) / RATE_HZ
    assert velocity_rms_mm_s(wave, RATE_HZ) == pytest.approx(1000 * velocity.std(), rel=2e-3)


def test_a_square_wave_has_crest_factor_1_and_rests_at_its_extremes() -> None:
    wave = np.where(np.arange(SAMPLES) % 1024 < 512, 2.0, -2.0)
    assert crest_factor(wave) == pytest.approx(1.0)
    assert kurtosis(wave) == pytest.approx(1.0)
    assert clipped_share(wave) == 1.0


def test_kurtosis_of_noise_is_3_and_impacts_raise_it() -> None:
    assert kurtosis(noise(1, 200_000)) == pytest.approx(3.0, abs=6 * math.sqrt(24 / 200_000))
    assert kurtosis(struck(3.0, steady(), seed=1)) > 5.0


def test_clipping_shows_in_its_share_and_lowers_the_rest() -> None:
    whole = sine(50.0, 2.0)
    cut = whole.clip(-1.0, 1.0)
    assert clipped_share(noise(1)) == 2 / SAMPLES
    assert clipped_share(cut) == pytest.approx(2 / 3, rel=1e-2)  # |sin| exceeds a half for two thirds of the time
    assert rms_m_s2(cut) < rms_m_s2(whole)
    assert kurtosis(cut) < kurtosis(whole)


@pytest.mark.parametrize("value", [0.0, 9.81, -1e6 / 3])
def test_a_constant_waveform_is_still_and_its_ratios_are_unknown(value: float) -> None:
    found = features(np.full(SAMPLES, value), RATE_HZ, speed_hz=SPEED_HZ, geometry=BEARING, bands_hz=BANDS_HZ)
    unknown = {name for name, number in found.items() if np.isnan(number)}
    assert unknown == {name for name in found if name.endswith(("crest_factor", "kurtosis", "ratio"))}
    assert found.pop("acceleration_clipped_share") == 1.0
    assert all(number == 0.0 for name, number in found.items() if name not in unknown)


# --- spectra ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [20_480, 20_479, 1_000, 999])
def test_bands_that_tile_the_spectrum_have_all_the_power(samples: int) -> None:
    wave = noise(2, 3, samples)
    edges = [0.0, 10.0, 1000.0, 5000.0, RATE_HZ / 2]
    parts = band_rms_m_s2(wave, RATE_HZ, list(pairwise(edges)))
    assert parts.shape == (3, 4)
    np.testing.assert_allclose(np.square(parts).sum(axis=-1), np.square(rms_m_s2(wave)), rtol=1e-12)


def test_band_rms_is_that_of_a_periodogram() -> None:
    wave = noise(3)
    frequency_hz, density = oracle.periodogram(wave, fs=RATE_HZ)
    inside = (frequency_hz >= 1000) & (frequency_hz < 5000)
    expected = math.sqrt(density[inside].sum() * frequency_hz[1])
    assert band_rms_m_s2(wave, RATE_HZ, [(1000.0, 5000.0)])[0] == pytest.approx(expected, rel=1e-9)


def test_amplitudes_are_those_of_the_windowed_transform() -> None:
    for samples in (2048, 2047):
        wave = noise(4, 2, samples) + 1.0
        window = oracle.get_window("hann", samples)
        expected = np.abs(np.fft.rfft((wave - wave.mean(axis=-1, keepdims=True)) * window)) * 2 / window.sum()
        np.testing.assert_allclose(amplitude_spectrum(wave, RATE_HZ).amplitude, expected, atol=1e-12)
    spectrum = amplitude_spectrum(sine(100.0, 4.0), RATE_HZ)
    assert spectrum.step == 1.0
    assert spectrum.amplitude.argmax() == 100
    assert spectrum.amplitude[100] == pytest.approx(4.0)


# --- envelope and bearings --------------------------------------------------------------------------------------------


def test_the_envelope_is_that_of_the_analytic_signal() -> None:
    for samples in (2048, 2047):
        wave = noise(5, 2, samples)
        lines = np.fft.rfft(wave)
        frequency_hz = np.fft.rfftfreq(samples, 1 / RATE_HZ)
        lines[:, (frequency_hz < 2000) | (frequency_hz >= 8000)] = 0
        expected = np.abs(oracle.hilbert(np.fft.irfft(lines, samples)))
        np.testing.assert_allclose(envelope(wave, RATE_HZ, (2000.0, 8000.0)), expected, atol=1e-12)


def test_the_envelope_of_a_modulated_carrier_is_the_modulation() -> None:
    modulation = 1.0 + 0.5 * np.cos(2 * np.pi * 87.0 * SECONDS)
    wave = modulation * sine(4000.0) + sine(50.0, 20.0)
    np.testing.assert_allclose(envelope(wave, RATE_HZ, (2000.0, 8000.0)), modulation, atol=1e-9)


def test_the_published_frequencies_of_two_bearings() -> None:
    # Drive-end bearing of the Case Western Reserve test rig (ball frequency there: both races, so twice the spin).
    cwru = fault_orders(BEARING)
    assert cwru.bpfi == pytest.approx(5.4152, abs=2e-3)
    assert cwru.bpfo == pytest.approx(3.5848, abs=2e-3)
    assert cwru.ftf == pytest.approx(0.39828, abs=2e-4)
    assert 2 * cwru.bsf == pytest.approx(4.7135, abs=2e-3)
    # Rexnord ZA-2115 of the IMS run-to-failure tests, at 2000 r/min.
    geometry = BearingGeometry(
        rolling_elements=16, ball_diameter_mm=8.4, pitch_diameter_mm=71.5, contact_angle_deg=15.17
    )
    in_hz = [order * 2000 / 60 for order in fault_orders(geometry)]
    assert in_hz == pytest.approx([236.4, 296.9, 139.9, 14.8], rel=3e-3)


@given(
    st.integers(3, 20),
    st.floats(0.05, 0.14),
    st.floats(0.0, 60.0),
)
def test_each_element_passes_each_race_once_as_the_cage_turns_against_it(n: int, ratio: float, angle: float) -> None:
    geometry = BearingGeometry(
        rolling_elements=n, ball_diameter_mm=100 * ratio, pitch_diameter_mm=100.0, contact_angle_deg=angle
    )
    orders = fault_orders(geometry)
    assert orders.bpfo == pytest.approx(n * orders.ftf)
    assert orders.bpfi == pytest.approx(n * (1 - orders.ftf))
    assert orders.bpfo < n / 2 < orders.bpfi


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("fault", ["bpfo", "bpfi", "bsf"])
def test_a_bearing_fault_stands_out_at_its_own_frequency(fault: str, seed: int) -> None:
    order = getattr(fault_orders(BEARING), fault)
    wave = struck(order, steady(), seed=seed, modulated=fault == "bpfi")
    found = features(wave, RATE_HZ, speed_hz=SPEED_HZ, geometry=BEARING)
    ratios = {name: float(found[f"envelope_{name}_ratio"]) for name in ("bpfo", "bpfi", "bsf", "ftf")}
    others = max(ratio for name, ratio in ratios.items() if name != fault)
    assert ratios[fault] > 3 * others
    assert found[f"envelope_{fault}_m_s2"] == max(found[f"envelope_{name}_m_s2"] for name in FaultOrders._fields)


@pytest.mark.parametrize("seed", range(5))
def test_the_ratio_says_nothing_about_loudness_and_healthy_noise_stays_low(seed: int) -> None:
    loud = features(1000 * noise(seed) + 300 * sine(SPEED_HZ), RATE_HZ, speed_hz=SPEED_HZ, geometry=BEARING)
    quiet = features(1e-3 * noise(seed) + 3e-4 * sine(SPEED_HZ), RATE_HZ, speed_hz=SPEED_HZ, geometry=BEARING)
    for name in FaultOrders._fields:
        assert loud[f"envelope_{name}_ratio"] < 4
        assert loud[f"envelope_{name}_ratio"] == pytest.approx(quiet[f"envelope_{name}_ratio"], rel=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_a_loose_machine_that_strikes_once_a_turn_is_no_bearing_fault(seed: int) -> None:
    # The 11th and 16th multiple of the speed come near the harmonics of BPFI, but at different slips.
    loose = features(struck(1.0, steady(), seed=seed, slip=0.0), RATE_HZ, speed_hz=SPEED_HZ, geometry=BEARING)
    faulty = features(struck(5.43, steady(), seed=seed), RATE_HZ, speed_hz=SPEED_HZ, geometry=BEARING)
    assert all(loose[f"envelope_{name}_ratio"] < 5 for name in FaultOrders._fields)
    assert faulty["envelope_bpfi_ratio"] > 3 * loose["envelope_bpfi_ratio"]


def test_the_floor_is_the_median_of_thirty_lines_on_each_side_and_never_of_lines_at_or_below_0() -> None:
    amplitude = np.linspace(2.0, 1.0, 400)
    amplitude[[0, 10, 100]] = 1000.0, 6.0, 8.0
    peaks = envelope_peaks(Spectrum(step=0.05, amplitude=amplitude), [0.5, 5.0], harmonics=1, slip=0.0)
    near_0 = np.concatenate([amplitude[1:9], amplitude[12:64]])  # what is missing below is taken from above
    far = np.concatenate([amplitude[69:99], amplitude[102:132]])
    assert peaks.amplitude_m_s2 == pytest.approx([6.0, 8.0])
    assert peaks.ratio == pytest.approx([6.0 / np.median(near_0), 8.0 / np.median(far)])


def test_a_fault_beyond_the_allowed_slip_is_not_taken_for_one() -> None:
    bpfo = fault_orders(BEARING).bpfo
    off = features(struck(1.06 * bpfo, steady(), seed=1), RATE_HZ, speed_hz=SPEED_HZ, geometry=BEARING)
    slipping = features(struck(0.985 * bpfo, steady(), seed=1), RATE_HZ, speed_hz=SPEED_HZ, geometry=BEARING)
    strict = features(struck(0.985 * bpfo, steady(), seed=1), RATE_HZ, speed_hz=SPEED_HZ, geometry=BEARING, slip=0.0)
    assert slipping["envelope_bpfo_ratio"] > 3 * off["envelope_bpfo_ratio"]
    assert slipping["envelope_bpfo_ratio"] > 3 * strict["envelope_bpfo_ratio"]


# --- order tracking ---------------------------------------------------------------------------------------------------

RAMP_HZ = np.linspace(20.0, 40.0, SAMPLES)
RAMP_REVOLUTIONS = 20.0 * SECONDS + 10.0 * SECONDS**2


def test_order_tracking_sharpens_what_turns_with_the_shaft() -> None:
    angle = 2 * np.pi * RAMP_REVOLUTIONS
    wave = 2.0 * np.sin(angle) + np.sin(3 * angle + 1.0) + np.sin(20 * angle + 2.0)
    tracked = order_spectrum(wave, RATE_HZ, RAMP_HZ)
    smeared = order_spectrum(wave, RATE_HZ, float(RAMP_HZ.mean()))
    assert order_amplitudes(tracked, [1, 2, 3, 20]) == pytest.approx([2.0, 0.0, 1.0, 1.0], abs=0.01)
    assert tracked.amplitude.max() > 2 * smeared.amplitude.max()


def test_a_constant_speed_needs_no_resampling_and_gives_the_same() -> None:
    wave = 2.0 * np.sin(2 * np.pi * SPEED_HZ * SECONDS) + np.sin(2 * np.pi * 2 * SPEED_HZ * SECONDS)
    direct = order_amplitudes(order_spectrum(wave, RATE_HZ, SPEED_HZ), [1, 2, 3])
    tracked = order_amplitudes(order_spectrum(wave, RATE_HZ, steady()), [1, 2, 3])
    assert direct == pytest.approx([2.0, 1.0, 0.0], abs=0.01)
    assert tracked == pytest.approx([2.0, 1.0, 0.0], abs=0.01)


def test_a_bearing_fault_is_found_while_the_speed_changes_only_by_its_course() -> None:
    wave = struck(fault_orders(BEARING).bpfo, RAMP_HZ, seed=3)
    tracked = features(wave, RATE_HZ, speed_hz=RAMP_HZ, geometry=BEARING)
    averaged = features(wave, RATE_HZ, speed_hz=float(RAMP_HZ.mean()), geometry=BEARING)
    assert tracked["envelope_bpfo_ratio"] > 3 * tracked["envelope_bpfi_ratio"]
    assert tracked["envelope_bpfo_ratio"] > 3 * averaged["envelope_bpfo_ratio"]


def test_the_angle_is_the_integral_of_the_speed() -> None:
    angle = revolutions_from_speed(RAMP_HZ, sample_rate_hz=RATE_HZ, samples=SAMPLES)
    np.testing.assert_allclose(angle, RAMP_REVOLUTIONS, atol=2e-3)


@pytest.mark.parametrize("pulses_per_revolution", [1, 4])
def test_a_tacho_gives_the_angle_that_the_speed_gives(pulses_per_revolution: int) -> None:
    turned = np.arange(0.25, 29.9, 1 / pulses_per_revolution)
    pulses = np.interp(turned, RAMP_REVOLUTIONS, SECONDS)
    angle = revolutions_from_tacho(
        pulses, sample_rate_hz=RATE_HZ, samples=SAMPLES, pulses_per_revolution=pulses_per_revolution
    )
    np.testing.assert_allclose(angle + 0.25, RAMP_REVOLUTIONS, atol=0.02)
    resampled, per_revolution = angle_resampled(np.sin(2 * np.pi * RAMP_REVOLUTIONS), angle)
    spectrum = amplitude_spectrum(resampled, per_revolution)
    assert order_amplitudes(spectrum, [1.0]) == pytest.approx([1.0], abs=0.02)


# --- the whole set ----------------------------------------------------------------------------------------------------


def every_feature(waveform: ArrayLike, **changed: Any) -> dict[str, Floats]:
    return features(waveform, RATE_HZ, **{"speed_hz": SPEED_HZ, "geometry": BEARING, "bands_hz": BANDS_HZ, **changed})


def test_the_names_are_known_beforehand_and_can_be_signals() -> None:
    wave = noise(6)
    for bands in ((), BANDS_HZ):
        assert tuple(features(wave, RATE_HZ, bands_hz=bands)) == feature_names(bands_hz=bands)
        with_speed = features(wave, RATE_HZ, bands_hz=bands, speed_hz=SPEED_HZ)
        assert tuple(with_speed) == feature_names(bands_hz=bands, speed=True)
        names = feature_names(bands_hz=bands, speed=True, bearing=True)
        assert tuple(every_feature(wave, bands_hz=bands)) == names
        assert all(SIGNAL_NAME.fullmatch(name) for name in names)
        assert len(set(names)) == len(names)


def test_each_feature_is_what_its_own_function_says() -> None:
    wave = struck(3.0, steady(), seed=4)
    found = every_feature(wave)
    tracked = order_spectrum(envelope(wave, RATE_HZ, (2048.0, 8192.0)), RATE_HZ, SPEED_HZ)
    peaks = envelope_peaks(tracked, fault_orders(BEARING))
    assert found["acceleration_rms_m_s2"] == rms_m_s2(wave)
    assert found["acceleration_peak_m_s2"] == peak_m_s2(wave)
    assert found["acceleration_crest_factor"] == crest_factor(wave)
    assert found["acceleration_kurtosis"] == kurtosis(wave)
    assert found["acceleration_clipped_share"] == clipped_share(wave)
    assert found["velocity_rms_mm_s"] == velocity_rms_mm_s(wave, RATE_HZ)
    assert found["acceleration_1000_5000_hz_rms_m_s2"] == band_rms_m_s2(wave, RATE_HZ, BANDS_HZ)[1]
    assert found["order_2x_m_s2"] == order_amplitudes(order_spectrum(wave, RATE_HZ, SPEED_HZ), [2])[0]
    assert found["envelope_bpfi_ratio"] == pytest.approx(peaks.ratio[1])
    assert found["envelope_bsf_m_s2"] == pytest.approx(peaks.amplitude_m_s2[2])


SPEEDS: tuple[ArrayLike, ...] = (SPEED_HZ, RAMP_HZ)


@pytest.mark.parametrize("speed_hz", SPEEDS, ids=["constant", "ramp"])
def test_many_channels_at_once_are_each_channel_alone_in_any_order(speed_hz: ArrayLike) -> None:
    waves = np.stack([struck(3.58, steady(), seed=seed) * (seed + 1) for seed in range(6)])
    together = every_feature(waves.reshape(2, 3, SAMPLES), speed_hz=speed_hz)
    swapped = every_feature(waves[::-1], speed_hz=speed_hz)
    for i, wave in enumerate(waves):
        for name, alone in every_feature(wave, speed_hz=speed_hz).items():
            assert together[name].shape == (2, 3)
            assert together[name].ravel()[i] == pytest.approx(alone, rel=1e-9)
            assert swapped[name][5 - i] == pytest.approx(alone, rel=1e-9)


@given(
    scale=st.floats(1e-6, 1e6),
    sign=st.sampled_from([-1.0, 1.0]),
    offset=st.floats(-10.0, 10.0),
    seed=st.integers(0, 1000),
)
def test_features_scale_with_the_waveform_and_ignore_sign_and_offset(
    scale: float, sign: float, offset: float, seed: int
) -> None:
    wave = struck(3.58, steady(), seed=seed)
    before, after = every_feature(wave), every_feature(scale * sign * (wave + offset))
    for name, number in before.items():
        factor = scale if name.endswith(("_m_s2", "_mm_s")) else 1.0
        assert after[name] == pytest.approx(number * factor, rel=1e-6), name


def test_a_waveform_is_not_changed_and_integers_and_lists_are_waveforms_too() -> None:
    wave = np.round(100 * noise(7))
    kept = wave.copy()
    found = every_feature(wave)
    assert np.array_equal(wave, kept)
    assert every_feature(wave.astype(np.int32)) == found
    assert every_feature(wave.tolist()) == found


def test_what_a_slow_shaft_does_not_show_in_a_second_is_unknown_the_rest_is_not() -> None:
    found = every_feature(noise(8), speed_hz=5.0)
    unknown = {name for name, number in found.items() if np.isnan(number)}
    assert unknown == {name for name in found if name.startswith(("order_", "envelope_"))}
    cage_only = every_feature(noise(8), speed_hz=10.0)
    assert {name for name, number in cage_only.items() if np.isnan(number)} == {
        "envelope_ftf_m_s2",
        "envelope_ftf_ratio",
    }


def test_a_band_too_narrow_for_a_fault_s_harmonics_makes_it_unknown() -> None:
    found = every_feature(noise(9), envelope_band_hz=(4000.0, 4400.0))
    assert np.isnan(found["envelope_bpfi_ratio"])  # 3 x 5.4 x 29.4 Hz is more than 400 Hz
    assert np.isfinite(found["envelope_bpfo_ratio"])


# --- wrong input ------------------------------------------------------------------------------------------------------


def with_value(value: float) -> Floats:
    wave = noise(1)
    wave[17] = value
    return wave


WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "nan": (lambda: every_feature(with_value(math.nan)), "waveform: 1 samples are NaN or infinite"),
    "infinity": (lambda: every_feature(with_value(-math.inf)), "waveform: 1 samples are NaN or infinite"),
    "no samples": (lambda: rms_m_s2(np.zeros((3, 0))), "waveform: 0 samples are too few; record at least"),
    "a number": (lambda: rms_m_s2(3.0), "waveform: 1 samples are too few"),
    "few samples": (lambda: every_feature(noise(1, 63)), "waveform: 63 samples are too few; record at least 64"),
    "short": (lambda: every_feature(noise(1, 2048)), "waveform: 0.1 s are too short .* record at least 0.2 s"),
    "rate 0": (lambda: features(noise(1), 0.0), "sample_rate_hz: give a positive number"),
    "rate nan": (lambda: features(noise(1), math.nan), "sample_rate_hz: give a positive number"),
    "low rate": (lambda: features(noise(1), 1024.0), "band_hz: 1000 Hz needs a sample_rate_hz of at least 2000"),
    "band order": (lambda: every_feature(noise(1), bands_hz=[(500.0, 500.0)]), "bands_hz: .* give 0 <= low < high"),
    "band nan": (lambda: every_feature(noise(1), bands_hz=[(math.nan, 5.0)]), "bands_hz: .* give 0 <= low < high"),
    "band high": (lambda: every_feature(noise(1), bands_hz=[(1.0, 2e4)]), "bands_hz: 20000 Hz needs a sample_rate_hz"),
    "velocity from 0": (lambda: velocity_rms_mm_s(noise(1), RATE_HZ, band_hz=(0.0, 100.0)), "lower end above 0 Hz"),
    "envelope band": (lambda: every_feature(noise(1), envelope_band_hz=(1e3, 2e4)), "envelope_band_hz: 20000 Hz"),
    "narrow": (lambda: envelope(noise(1), RATE_HZ, (100.2, 100.6)), "envelope_band_hz: .* has no line"),
    "speed 0": (lambda: every_feature(noise(1), speed_hz=0.0), "speed_hz: give revolutions per second above 0"),
    "speed -1": (lambda: every_feature(noise(1), speed_hz=-1.0), "speed_hz: give revolutions per second above 0"),
    "speed nan": (lambda: every_feature(noise(1), speed_hz=math.nan), "speed_hz: give revolutions per second above"),
    "speed stops": (lambda: every_feature(noise(1), speed_hz=RAMP_HZ - 30), "speed_hz: give revolutions per second"),
    "speed shape": (lambda: every_feature(noise(1), speed_hz=[1.0, 2.0]), "speed_hz: give one number or one per sam"),
    "no speed": (lambda: every_feature(noise(1), speed_hz=None), "speed_hz: bearing frequencies need"),
    "slip": (lambda: every_feature(noise(1), slip=0.5), "slip: give a share"),
    "harmonics": (
        lambda: envelope_peaks(amplitude_spectrum(noise(1), RATE_HZ), [100.0], harmonics=0),
        "harmonics: give at least 1",
    ),
    "few revolutions": (lambda: order_spectrum(noise(1), RATE_HZ, 4.0), "waveform: 4 revolutions are too few"),
    "few tracked": (lambda: order_spectrum(noise(1), RATE_HZ, steady(4.5)), "waveform: 4.5 revolutions are too few"),
    "order": (lambda: order_amplitudes(amplitude_spectrum(noise(1), RATE_HZ), [2e4]), "orders: 20000 is not within"),
    "angle back": (lambda: angle_resampled(noise(1), -RAMP_REVOLUTIONS), "revolutions: give finite angles, each gre"),
    "angle shape": (lambda: angle_resampled(noise(1), [1.0]), "revolutions: give one angle per sample"),
    "one pulse": (
        lambda: revolutions_from_tacho([0.1], sample_rate_hz=RATE_HZ, samples=9),
        "pulse_times_s: give at least two pulses",
    ),
    "pulses back": (
        lambda: revolutions_from_tacho([0.1, 0.1], sample_rate_hz=RATE_HZ, samples=9),
        "pulse_times_s: give finite times, each later",
    ),
    "pulses per revolution": (
        lambda: revolutions_from_tacho([0.1, 0.2], sample_rate_hz=RATE_HZ, samples=9, pulses_per_revolution=0),
        "pulses_per_revolution: give at least 1",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_refused_with_the_parameter_and_the_fix(case: str) -> None:
    call, told = WRONG[case]
    with pytest.raises(ValueError, match=told):
        call()


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"rolling_elements": 2}, "rolling_elements: give at least 3"),
        ({"rolling_elements": 40}, "rolling_elements: 40 of that diameter do not fit"),
        ({"ball_diameter_mm": 0.0}, "ball_diameter_mm: give a number above 0"),
        ({"ball_diameter_mm": math.nan}, "ball_diameter_mm: give a number above 0"),
        ({"ball_diameter_mm": 39.04}, "ball_diameter_mm: .* below pitch_diameter_mm"),
        ({"pitch_diameter_mm": math.inf}, "ball_diameter_mm: .* below pitch_diameter_mm"),
        ({"contact_angle_deg": 90.0}, "contact_angle_deg: give 0 to below 90"),
        ({"contact_angle_deg": math.nan}, "contact_angle_deg: give 0 to below 90"),
    ],
)
def test_a_bearing_that_cannot_exist_is_refused(changed: dict[str, float], told: str) -> None:
    real: dict[str, Any] = {"rolling_elements": 9, "ball_diameter_mm": 7.94, "pitch_diameter_mm": 39.04}
    with pytest.raises(ValueError, match=told):
        BearingGeometry(**{**real, **changed})
