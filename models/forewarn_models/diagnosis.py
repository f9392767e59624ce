"""Diagnosis: which failure mode the pattern of residuals looks like.

The smoothed standardised residuals are compressed (asinh: a deviation ten times as large is not ten times the evidence)
and compared by cosine with the symptom pattern of each failure mode. A softmax over the cosines, with "none of these"
as a rival of fixed strength, gives the probabilities.
"""

from typing import Final

import numpy as np

from forewarn_models.layout import Bools, Floats, Layout

_SHARPNESS: Final = 12.0
_NONE_OF_THESE: Final = 0.6
"""Cosine below which a pattern is rather none of the known ones."""


def mode_probabilities(layout: Layout, smoothed: Floats, evident: Bools) -> Floats:
    """(A, n, M) from `smoothed` (A, n, C); 0 where not `evident` (A, n)."""
    a, n, _ = smoothed.shape
    probability = np.zeros((a, n, len(layout.symptoms)))
    if not len(layout.symptoms) or not evident.any():
        return probability
    pattern = np.arcsinh(smoothed[evident])
    length = np.sqrt((pattern * pattern).sum(axis=1, keepdims=True))
    cosine = np.matmul(pattern / np.where(length > 0, length, 1.0), layout.symptoms.T)
    weight = np.exp(_SHARPNESS * (cosine - _NONE_OF_THESE))
    probability[evident] = weight / (1.0 + weight.sum(axis=1, keepdims=True))
    return probability
