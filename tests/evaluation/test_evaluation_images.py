"""Evaluation images: how many are taken, and which."""

import numpy as np
import pytest

from quantkit.data.sources.open import open_source
from quantkit.errors import UsageError
from quantkit.evaluation.images import limited


def test_limited_fewer_images_are_evenly_spaced() -> None:
    found = open_source(np.zeros((10, 1, 4, 4), np.float32))
    assert len(limited(found, 4).names) == 4
    assert limited(found, None).names == limited(found, 20).names == found.names


@pytest.mark.parametrize("limit", [0, -5])
def test_limited_zero_images_is_refused(limit: int) -> None:
    found = open_source(np.zeros((10, 1, 4, 4), np.float32))
    with pytest.raises(UsageError, match="give at least 1"):
        limited(found, limit)
