"""Plain models of one number: what they expect, how they learn, and how surprising what came is.

Surprise is −log of a tail probability, in nats; higher is more suspicious. The models are plain on
purpose (normal with a conjugate prior, Poisson counts): `detector` recalibrates what they say.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from aegis_core.features.arrays import Floats
from aegis_core.features.kernels import kernel

PRIOR_MEAN: Final = 3.0
PRIOR_VARIANCE: Final = 20.0
PRIOR_HOURS: Final = 5.0
"""Transactions that what is expected beforehand counts for."""
MEMORY: Final = 1000.0
"""Transactions that a customer's mean and variance remember; older ones fade."""

_COS = np.cos((np.arange(24) + 0.5) * np.pi / 12)
_SIN = np.sin((np.arange(24) + 0.5) * np.pi / 12)


@kernel
def surprise(z: float) -> float:
    """−log of the share of a normal distribution above `z`, in nats.

    >>> round(surprise(0.0), 4), round(surprise(40.0), 1)
    (0.6931, 804.6)
    """
    if z > 20.0:  # erfc runs out of digits; the leading terms of the asymptotic series
        return z * z / 2 + math.log(z) + 0.9189385332046727 + 1 / (z * z)
    return -math.log(0.5 * math.erfc(z / math.sqrt(2.0)))


@kernel
def normal_score(t: float, dof: float) -> float:
    """Normal deviate about as far out as Student's `t` with `dof` degrees of freedom."""
    z = math.sqrt(dof * math.log1p(t * t / dof))
    return z if t > 0 else -z


@kernel
def poisson_surprise(count: float, expected: float) -> float:
    """Chernoff bound on −log P(at least `count`) of a Poisson law, in nats; 0 up to `expected`.

    >>> poisson_surprise(1.0, 2.0), round(poisson_surprise(10.0, 1.0), 2)
    (0.0, 14.03)
    """
    if count <= expected:
        return 0.0
    return count * math.log(count / expected) - count + expected


@kernel
def faded(gap_us: float, hours: float) -> float:
    """Share that is left of what was remembered `gap_us` ago, 1/e after `hours`."""
    return math.exp(-max(0.0, gap_us) / 3.6e9 / hours)


@kernel
def expected(
    n: float, mean: float, m2: float, prior_mean: float, prior_var: float
) -> tuple[float, float]:
    """Predictive mean and standard deviation of the next log amount (normal, conjugate prior)."""
    mu = (PRIOR_MEAN * prior_mean + n * mean) / (PRIOR_MEAN + n)
    var = (PRIOR_VARIANCE * prior_var + m2) / (PRIOR_VARIANCE + n)
    return mu, math.sqrt(var * (1 + 1 / (PRIOR_MEAN + n)))


@kernel
def welford(n: float, mean: float, m2: float, x: float) -> tuple[float, float, float]:
    """Mean and squared deviations after `x`, forgetting beyond `MEMORY` (Welford 1962)."""
    if n < MEMORY:
        n += 1
    else:
        m2 *= 1 - 1 / MEMORY
    d = x - mean
    mean += d / n
    return n, mean, m2 + d * (x - mean)


@kernel
def hour_surprise(counts: Floats, shares: Floats, hour: float) -> tuple[float, float]:
    """Surprise of the hour itself, and of how near it is to the middle of the quiet time.

    `counts` are the customer's transactions in each hour of the day, `shares` everybody's.
    """
    total, tail, east, north = 0.0, 0.0, 0.0, 0.0
    at = int(hour)
    here = _hour_weight(counts[at - 1], counts[at], counts[at + 1 if at < 23 else 0], shares[at])
    before, own = counts[23], counts[0]
    for h in range(24):
        after = counts[h + 1 if h < 23 else 0]
        w = _hour_weight(before, own, after, shares[h])
        before, own = own, after
        total += w
        if w <= here:
            tail += w
        east += w * _COS[h]
        north += w * _SIN[h]
    quiet = (math.atan2(north, east) * 12 / math.pi + 12.0) % 24.0
    apart = abs((hour - quiet + 12.0) % 24.0 - 12.0)
    return -math.log(tail / total), -math.log((apart + 0.25) / 12.25)


@kernel
def _hour_weight(before: float, own: float, after: float, share: float) -> float:
    return 0.5 * own + 0.25 * (before + after) + PRIOR_HOURS * share
