"""Launch scripts start processes in sessions of their own, which do not end with a test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.scripts.launching import end_all


@pytest.fixture(autouse=True)
def no_process_outlives_its_test() -> Iterator[None]:
    yield
    end_all()
