"""Great-circle distance and speed on a spherical Earth.

A sphere is wrong by at most about 0.5 % against the ellipsoid, far below what a merchant's
registered place is wrong by.
"""

from __future__ import annotations

import math

from aegis_core.features.kernels import elementwise

EARTH_RADIUS_KM = 6371.0088
"""Mean radius R1 of the Earth (IUGG, in Moritz, Geodetic Reference System 1980)."""


@elementwise
def haversine_km(lat1: float, lon1: float, lat2: float, lon2: float) -> float:
    """Great-circle distance in km between places in degrees; NaN where a place is missing.

    Numbers or arrays, broadcast like any ufunc. In [0, 20 015] km. The haversine form stays exact
    for small distances (Sinnott, Virtues of the Haversine, 1984).

    >>> round(float(haversine_km(52.52, 13.405, 48.8566, 2.3522)))  # Berlin to Paris
    877
    """
    dlat = math.radians(lat2 - lat1)
    dlon = math.radians(lon2 - lon1)
    h = (
        math.sin(dlat / 2) ** 2
        + math.cos(math.radians(lat1)) * math.cos(math.radians(lat2)) * math.sin(dlon / 2) ** 2
    )
    return 2 * EARTH_RADIUS_KM * math.atan2(math.sqrt(h), math.sqrt(abs(1 - h)))
