"""What a chart is made of."""

from datetime import UTC

import numpy as np

from forewarn_cloud.console.charts import Chart, Frame, signal_charts
from forewarn_cloud.console.i18n import words
from forewarn_cloud.console.knowledge import TypeWords
from forewarn_cloud.telemetry import TelemetrySeries

HOUR_MS = 3_600_000


def chart(series: TelemetrySeries) -> Chart:
    english = words("en")
    frame = Frame(from_ms=0, to_ms=10 * HOUR_MS, zone=UTC, marks=(), words=english)
    (drawn,) = signal_charts(series, [], TypeWords(name="generic", words=english), ["flow"], frame)
    return drawn


def column(*values: float) -> dict[str, np.ndarray]:
    return {"flow": np.array(values, dtype=np.float32)}


def test_where_a_point_stands_for_many_the_mean_is_drawn_between_the_extremes() -> None:
    series = TelemetrySeries(
        t_ms=np.arange(3, dtype=np.int64) * HOUR_MS,
        signals=column(2, 3, 4),
        low=column(1, 0.5, 3),
        high=column(3, 9, 5),
        samples=180,
        bucket_ms=HOUR_MS,
    )
    drawn = chart(series)
    assert [(one.label, one.style, one.values) for one in drawn.series] == [
        ("Mean", "observed", [2, 3, 4]),
        ("Lowest", "low", [1, 0.5, 3]),
        ("Highest", "high", [3, 9, 5]),
    ]
    assert drawn.summary == "latest 4.00 , from 0.500 to 9.00 in this period"


def test_samples_as_they_were_measured_are_one_line() -> None:
    series = TelemetrySeries(t_ms=np.arange(3, dtype=np.int64) * HOUR_MS, signals=column(2, 3, 4), samples=3)
    assert [(one.label, one.style) for one in chart(series).series] == [("Measured", "observed")]
