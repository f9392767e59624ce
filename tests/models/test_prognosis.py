import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forewarn_models.prognosis import beyond, failure_probability, remaining_life_quantiles
from forewarn_models.wire import RulHours

hours = st.floats(min_value=0, max_value=1e5, allow_nan=False)
quantiles = st.tuples(hours, hours, hours).map(lambda three: RulHours(*sorted(three)))


@given(quantiles, st.lists(hours, min_size=2, max_size=5))
def test_the_probability_of_failure_grows_with_time_and_stays_in_its_range(rul: RulHours, times: list[float]) -> None:
    probabilities = [failure_probability(rul, within) for within in sorted(times)]
    assert all(0 <= probability <= 1 for probability in probabilities)
    assert all(a <= b + 1e-12 for a, b in pairwise(probabilities))


def test_the_probability_goes_through_the_quantiles() -> None:
    rul = RulHours(p10=40.0, p50=100.0, p90=300.0)
    assert failure_probability(rul, 40.0) == pytest.approx(0.1)
    assert failure_probability(rul, 100.0) == pytest.approx(0.5)
    assert failure_probability(rul, 300.0) == pytest.approx(0.9)
    assert failure_probability(rul, 0.0) == 0.0
    assert failure_probability(rul, -5.0) == 0.0
    assert failure_probability(rul, math.inf) == 1.0
    assert failure_probability(rul, math.nan) == 0.0


def test_a_certain_time_is_a_step_and_no_time_left_is_certain() -> None:
    certain = RulHours(p10=50.0, p50=50.0, p90=50.0)
    assert failure_probability(certain, 49.9) == 0.0
    assert failure_probability(certain, 50.1) == 1.0
    assert failure_probability(RulHours(p10=0.0, p50=0.0, p90=0.0), 1.0) == 1.0


def test_quantiles_travel_in_order_or_not_at_all() -> None:
    assert remaining_life_quantiles(np.array([1.0, 2.0, 3.0])) == RulHours(p10=1.0, p50=2.0, p90=3.0)
    assert remaining_life_quantiles(np.array([-1.0, 0.0, 3.0])) == RulHours(p10=0.0, p50=0.0, p90=3.0)
    assert remaining_life_quantiles(np.full(3, np.nan)) is None


def test_what_has_survived_a_long_time_is_expected_to_survive_longer() -> None:
    fresh, old = beyond(100.0, 0.5, np.array([0.0, 300.0]))
    assert fresh[1] == pytest.approx(100.0)
    assert (fresh[:2] < fresh[1:]).all()
    assert (old > 300.0).all()
    assert old[2] - old[0] > fresh[2] - fresh[0]


def test_the_conditional_quantiles_are_those_of_a_sample() -> None:
    spread, survived = 0.5, 120.0
    scale = spread * math.sqrt(3.0) / math.pi
    sample = 100.0 * np.exp(np.random.default_rng(1).logistic(0.0, scale, 400_000))
    empirical = np.quantile(sample[sample > survived], [0.1, 0.5, 0.9])
    assert beyond(100.0, spread, np.array([survived]))[0] == pytest.approx(empirical, rel=0.02)
