"""Great-circle distance and speed on a spherical Earth.

A sphere is wrong by at most about 0.5 % against the ellipsoid, far below what a merchant's
registered place is wrong by.
"""

from __future__ import annotations

import math

from aegis_core.features.kernels import elementwise, kernel

EARTH_RADIUS_KM = 6371.0088
"""Mean radius R1 of the Earth (IUGG, in Moritz, Geodetic Reference System 1980)."""
LOCAL_KM = 50.0
ROAD_KMH, AIR_KMH = 100.0, 850.0
AIRPORTS_H = 2.0
"""Hours between a purchase and a flight, and between the flight and a purchase, together."""


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


@kernel
def could_travel(distance_km: float, gap_h: float) -> bool:
    """Whether anybody could make a journey in a time: by road, or by a scheduled flight.

    Within `LOCAL_KM` it is left open, since places are rarely known better.

    >>> could_travel(6_386.0, 120.0), could_travel(504.0, 11.0), could_travel(877.0, 0.5)
    (True, True, False)
    """
    by_road = distance_km / ROAD_KMH
    by_air = AIRPORTS_H + distance_km / AIR_KMH
    return distance_km > LOCAL_KM and gap_h >= min(by_road, by_air)
