"""Profiles measure the machine, so nothing else may run on it."""

from __future__ import annotations

import pytest

import beside


@pytest.fixture(scope="session", autouse=True)
def alone() -> None:
    beside.await_all()
