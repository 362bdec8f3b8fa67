"""Great-circle distance obeys the laws of a distance on a sphere."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_core.features.geo import EARTH_RADIUS_KM, haversine_km

LAT = st.floats(-90, 90)
LON = st.floats(-180, 180)
PLACE = st.tuples(LAT, LON)
HALF_ROUND = math.pi * EARTH_RADIUS_KM
haversine_km(0.0, 0.0, 0.0, 0.0)  # compiled here, so that no example of a test is timed with it


@given(LAT, LON, LAT, LON)
def test_distance_is_the_same_both_ways_and_at_most_half_round(
    lat1: float, lon1: float, lat2: float, lon2: float
) -> None:
    there = haversine_km(lat1, lon1, lat2, lon2)
    assert 0 <= there <= HALF_ROUND * (1 + 1e-12)
    assert there == pytest.approx(haversine_km(lat2, lon2, lat1, lon1), abs=1e-3)


@given(LAT, LON)
def test_a_place_is_at_no_distance_from_itself(lat: float, lon: float) -> None:
    assert haversine_km(lat, lon, lat, lon) == 0


@given(PLACE, PLACE, PLACE)
def test_a_detour_is_never_shorter(
    a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]
) -> None:
    assert haversine_km(*a, *c) <= haversine_km(*a, *b) + haversine_km(*b, *c) + 1e-3


@given(LAT, LON, LAT, LON)
def test_a_full_turn_of_longitude_changes_nothing(
    lat1: float, lon1: float, lat2: float, lon2: float
) -> None:
    turned = haversine_km(lat1, lon1 - 360, lat2, lon2)
    assert turned == pytest.approx(haversine_km(lat1, lon1, lat2, lon2), abs=1e-3)


@pytest.mark.parametrize(
    ("place", "other", "km"),
    [
        ((0, 0), (0, 1), HALF_ROUND / 180),
        ((0, 0), (90, 0), HALF_ROUND / 2),
        ((0, 0), (0, 180), HALF_ROUND),
        ((90, 0), (-90, 123), HALF_ROUND),
        ((0, 179.5), (0, -179.5), HALF_ROUND / 180),
    ],
)
def test_a_degree_a_quarter_and_a_half_of_a_great_circle(
    place: tuple[float, float], other: tuple[float, float], km: float
) -> None:
    assert haversine_km(*place, *other) == pytest.approx(km, rel=1e-12)


def test_a_metre_is_still_measured() -> None:
    degrees = 0.001 / (HALF_ROUND / 180)
    assert haversine_km(45, 7, 45 + degrees, 7) == pytest.approx(0.001, rel=1e-6)


def test_arrays_broadcast() -> None:
    km = haversine_km(52.0, 13.0, np.array([[52.0], [53.0]]), np.array([13.0, 14.0, 15.0]))
    assert km.shape == (2, 3)
    assert km[0, 0] == 0
    assert km[1, 0] == pytest.approx(HALF_ROUND / 180)


def test_a_missing_place_is_no_distance() -> None:
    nan = float("nan")
    assert np.isnan(haversine_km(np.array([nan, 1.0]), 0.0, 0.0, np.array([0.0, nan]))).all()
