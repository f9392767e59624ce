"""The metrics against examples worked by hand, other implementations, and what they promise for any input."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chi2, norm
from sklearn.metrics import roc_auc_score

from forewarn_models import evaluation as metrics
from forewarn_models.assessment import Condition
from forewarn_models.prognosis import failure_probability
from forewarn_models.wire import RulHours

hours = st.floats(min_value=0.0, max_value=1e4)
hour_lists = st.lists(hours, min_size=1, max_size=20)
positive = st.floats(min_value=0.1, max_value=1e4)
rul_quantiles = st.tuples(positive, positive, positive).map(sorted)
HOUR_MS = 3_600_000


def _array(*values: float) -> NDArray[np.float64]:
    return np.array(values, np.float64)


def _conditions(letters: str) -> NDArray[np.int8]:
    """U unknown, N normal, W alert, A alarm."""
    return np.array(["UNWA".index(letter) for letter in letters], np.int8)


# --- remaining life at one time -------------------------------------------------------------------------------------


def test_rmse_by_hand() -> None:
    assert metrics.rmse(_array(3.0, 5.0), _array(0.0, 9.0)) == pytest.approx(math.sqrt((9 + 16) / 2))


def test_the_phm08_score_by_hand_ten_late_costs_more_than_ten_early() -> None:
    late, early = metrics.phm08_score(_array(60.0), _array(50.0)), metrics.phm08_score(_array(40.0), _array(50.0))
    assert late == pytest.approx(math.e - 1)
    assert early == pytest.approx(math.exp(10 / 13) - 1)
    assert metrics.phm08_score(_array(60.0, 40.0), _array(50.0, 50.0)) == pytest.approx(late + early)


@given(hour_lists)
def test_a_perfect_prediction_has_no_error(truth: list[float]) -> None:
    exact = np.array(truth)
    assert metrics.rmse(exact, exact) == 0.0
    assert metrics.phm08_score(exact, exact) == 0.0
    assert metrics.crps(np.repeat(exact[:, None], 3, axis=1), exact) == pytest.approx(np.zeros(len(exact)))


@given(positive, st.floats(min_value=0.05, max_value=1.0), positive)
def test_crps_of_a_log_normal_is_the_one_in_closed_form(median: float, spread: float, truth: float) -> None:
    """Baran and Lerch 2015: y(2F(y) - 1) - 2 exp(mu + s^2/2) (Phi((ln y - mu - s^2)/s) + Phi(s/sqrt 2) - 1)."""
    z = (math.log(truth) - math.log(median)) / spread
    tail = norm.cdf(z - spread) + norm.cdf(spread / math.sqrt(2.0)) - 1.0
    exact = truth * (2 * norm.cdf(z) - 1) - 2 * median * math.exp(spread**2 / 2) * tail
    quantiles = median * np.exp(spread * norm.ppf([[0.1, 0.5, 0.9]]))
    assert metrics.crps(quantiles, _array(truth))[0] == pytest.approx(exact, rel=0.01, abs=0.01 * median)


@given(positive, hours)
def test_crps_of_a_sure_prediction_is_its_absolute_error(told: float, truth: float) -> None:
    assert metrics.crps(_array(told, told, told)[None], _array(truth))[0] == pytest.approx(abs(told - truth))


def test_crps_is_least_for_the_distribution_that_the_truth_comes_from() -> None:
    truth = 100.0 * np.exp(0.4 * np.random.default_rng(1).standard_normal(5000))

    def told(median: float, spread: float) -> float:
        quantiles = median * np.exp(spread * norm.ppf([[0.1, 0.5, 0.9]]))
        return float(metrics.crps(np.repeat(quantiles, len(truth), axis=0), truth).mean())

    assert told(100.0, 0.4) < min(told(120.0, 0.4), told(80.0, 0.4), told(100.0, 0.2), told(100.0, 0.8))


@given(rul_quantiles, st.floats(min_value=0.01, max_value=0.99))
def test_the_quantile_is_the_inverse_of_the_probability_of_failure(three: list[float], level: float) -> None:
    p10, p50, p90 = three
    assume(p10 * 1.01 < p50 < 0.99 * p90)
    at = float(metrics.rul_quantile(np.array([three]), level)[0])
    assert failure_probability(RulHours(p10=p10, p50=p50, p90=p90), at) == pytest.approx(level)


@given(st.floats(min_value=0.11, max_value=0.49))
def test_the_same_where_the_tenth_percentile_is_zero(level: float) -> None:
    at = float(metrics.rul_quantile(_array(0.0, 50.0, 80.0)[None], level)[0])
    assert failure_probability(RulHours(p10=0.0, p50=50.0, p90=80.0), at) == pytest.approx(level)


def test_coverage_counts_the_truths_within_bounds_included() -> None:
    assert metrics.interval_coverage(_array(1, 1, 1, 1), _array(3, 3, 3, 3), _array(0.9, 1, 3, 3.1)) == 0.5


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_was_not_predicted_does_not_pass_silently(bad: float) -> None:
    good, wrong = _array(1.0, 2.0), _array(1.0, bad)
    for function in (metrics.rmse, metrics.phm08_score):
        with pytest.raises(ValueError, match="NaN or infinite"):
            function(wrong, good)
        with pytest.raises(ValueError, match="NaN or infinite"):
            function(good, wrong)
    with pytest.raises(ValueError, match="NaN or infinite"):
        metrics.interval_coverage(good, wrong, good)
    with pytest.raises(ValueError, match="NaN or infinite"):
        metrics.crps(_array(1.0, 2.0, bad)[None], _array(1.0))


def test_shapes_that_do_not_fit_and_quantiles_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="shapes"):
        metrics.rmse(_array(1.0), _array(1.0, 2.0))
    with pytest.raises(ValueError, match="at least one"):
        metrics.rmse(_array(), _array())
    with pytest.raises(ValueError, match="P10 <= P50 <= P90"):
        metrics.crps(_array(2.0, 1.0, 3.0)[None], _array(1.0))


# --- remaining life along a path ------------------------------------------------------------------------------------

TRUTH = np.arange(100.0, -1.0, -1.0)


def test_alpha_lambda_looks_where_half_the_way_from_the_first_prediction_is_gone() -> None:
    predicted = np.full(101, np.nan)
    predicted[20:] = 2 * TRUTH[20:]
    assert not metrics.alpha_lambda(predicted, TRUTH)
    predicted[60] = 1.19 * TRUTH[60]  # first prediction at 80 h left, half-way at 40 h left: step 60
    assert metrics.alpha_lambda(predicted, TRUTH)
    predicted[60] = 1.21 * TRUTH[60]
    assert not metrics.alpha_lambda(predicted, TRUTH)
    assert not metrics.alpha_lambda(np.full(101, np.nan), TRUTH)


def test_the_prognostic_horizon_begins_where_the_prediction_stays_within_the_band() -> None:
    predicted = TRUTH + 11.0
    predicted[10] = TRUTH[10]  # by chance
    predicted[70:] = TRUTH[70:] + 9.0
    assert metrics.prognostic_horizon(predicted, TRUTH, life_hours=100.0) == 30.0
    predicted[80] = math.nan
    assert metrics.prognostic_horizon(predicted, TRUTH, life_hours=100.0) == 19.0
    assert metrics.prognostic_horizon(TRUTH + 50.0, TRUTH, life_hours=100.0) == 0.0


@given(st.lists(st.floats(min_value=0.0, max_value=200.0), min_size=101, max_size=101))
def test_a_wider_band_never_shortens_the_horizon(predicted: list[float]) -> None:
    path = np.array(predicted)
    narrow, wide = (metrics.prognostic_horizon(path, TRUTH, life_hours=100.0, alpha=alpha) for alpha in (0.1, 0.3))
    assert 0.0 <= narrow <= wide <= 100.0


def test_monotonicity_and_trendability_by_hand() -> None:
    assert metrics.monotonicity([_array(1, 2, 3, 4)]) == 1.0
    assert metrics.monotonicity([_array(4, 3, 2, 1)]) == 1.0
    assert metrics.monotonicity([_array(0, 1, 0, 1, 0)]) == 0.0
    assert metrics.monotonicity([_array(1, 2, 3), _array(1, 2, 1)]) == 0.5
    assert metrics.trendability([_array(0, 1, 2), _array(5, 3, 1, -1, -3)]) == pytest.approx(1.0)
    assert metrics.trendability([_array(0, 1, 2), _array(7, 7)]) == 0.0
    with pytest.raises(ValueError, match="at least 2"):
        metrics.trendability([_array(1, 2)])
    with pytest.raises(ValueError, match="shapes"):
        metrics.monotonicity([_array(1)])


# --- detection in time ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("letters", "steps"),
    [
        ("NNAANNA", [2, 6]),
        ("AAN", [0]),
        ("NAUUAN", [1]),  # switched off in between: the same ALARM
        ("NAWAN", [1, 3]),
        ("NAUNUA", [1, 5]),
        ("UUA", [2]),
        ("NNUW", []),
        ("", []),
    ],
)
def test_an_alarm_is_raised_where_it_begins(letters: str, steps: list[int]) -> None:
    assert metrics.raised_steps(_conditions(letters)).tolist() == steps


@given(st.text("UNWA", max_size=40))
def test_raised_alarms_are_alarms_and_do_not_grow_by_being_off(letters: str) -> None:
    condition = _conditions(letters)
    raised = metrics.raised_steps(condition)
    assert (condition[raised] == Condition.ALARM).all()
    assert len(metrics.raised_steps(np.insert(condition, len(condition) // 2, 0))) == len(raised)


def test_lead_time_and_delay_by_hand() -> None:
    t_ms = np.arange(6, dtype=np.int64) * HOUR_MS
    alarm = np.array([False, True, False, True, True, False])
    assert metrics.lead_time_hours(t_ms, alarm, 5 * HOUR_MS) == 4.0
    assert metrics.lead_time_hours(t_ms, ~alarm & False, 5 * HOUR_MS) is None
    assert metrics.detection_delay_s(t_ms, alarm, 2 * HOUR_MS - 60_000, 5 * HOUR_MS) == 3660.0
    assert metrics.detection_delay_s(t_ms, alarm, 3 * HOUR_MS, 3 * HOUR_MS) == 0.0
    assert metrics.detection_delay_s(t_ms, alarm, 5 * HOUR_MS, 9 * HOUR_MS) is None


def test_a_long_gap_is_not_observed_time() -> None:
    t_ms = np.array([0, 1, 2, 3, 500, 501], np.int64) * HOUR_MS
    assert metrics.observed_hours(t_ms) == 6.0
    assert metrics.observed_hours(t_ms[:1]) == 0.0
    assert metrics.alarms_per_asset_month(3, 1440.0) == 1.5
    assert metrics.alarms_per_asset_month(0, 0.0) is None


@pytest.mark.parametrize("count", [0, 1, 3, 40, 2000])
def test_the_interval_of_a_count_is_the_exact_one(count: int) -> None:
    """Garwood 1936 by the chi-squared distribution."""
    low, high = metrics.poisson_interval(count, 0.9)
    assert low == pytest.approx(chi2.ppf(0.05, 2 * count) / 2 if count else 0.0, rel=1e-6)
    assert high == pytest.approx(chi2.ppf(0.95, 2 * count + 2) / 2, rel=1e-6)


# --- detection by row -----------------------------------------------------------------------------------------------


def test_row_rates_by_hand() -> None:
    alarm = np.array([1, 1, 1, 0, 0, 0, 0, 0], np.bool_)
    faulty = np.array([1, 1, 0, 1, 0, 0, 0, 0], np.bool_)
    rates = metrics.row_rates(alarm, faulty)
    assert (rates.rows, rates.faulty_rows) == (8, 3)
    assert rates.precision == pytest.approx(2 / 3)
    assert rates.recall == pytest.approx(2 / 3)
    assert rates.f1 == pytest.approx(2 / 3)
    assert rates.false_alarm_rate == pytest.approx(1 / 5)


def test_a_rate_that_rests_on_nothing_is_not_a_number_but_none() -> None:
    rates = metrics.row_rates(np.zeros(3, np.bool_), np.zeros(3, np.bool_))
    assert (rates.precision, rates.recall, rates.f1, rates.false_alarm_rate) == (None, None, None, 0.0)
    assert metrics.roc_auc(_array(1, 2), np.array([True, True])) is None
    with pytest.raises(ValueError, match="NaN"):
        metrics.roc_auc(_array(1, math.nan), np.array([True, False]))


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=60))
def test_auc_agrees_with_scikit_learn_also_where_scores_tie(rows: list[tuple[int, bool]]) -> None:
    score, faulty = np.array([row[0] for row in rows], np.float64), np.array([row[1] for row in rows])
    assume(faulty.any() and not faulty.all())
    auc = metrics.roc_auc(score, faulty)
    assert auc == pytest.approx(float(roc_auc_score(faulty, score)), abs=1e-12)
    assert metrics.roc_auc(-score, ~faulty) == pytest.approx(auc)
