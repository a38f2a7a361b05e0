"""GaussianBlur next to torchvision's, with the standard deviations that were drawn."""

from __future__ import annotations

import numpy as np
import pytest

from alexnet_fast.augment.gaussian_blur import GaussianBlur, draw_sigma
from alexnet_fast.errors import UserError
from beside_torchvision import applied, by_torch, difference, functional, keys_of, photos


@pytest.mark.parametrize(("kernel_size", "sigma"), [(23, (0.1, 2.0)), (3, 0.7), (9, (1.0, 3.0))])
def test_it_is_torchvisions_to_one_level(kernel_size: int, sigma: float | tuple[float, float]) -> None:
    operation, images, keys = GaussianBlur(kernel_size, sigma), photos(), keys_of(10)
    drawn = [draw_sigma(key, operation.sigma) for key in keys]
    expected = np.concatenate(
        [
            by_torch(functional().gaussian_blur, images[k : k + 1], [kernel_size] * 2, [each] * 2)
            for k, each in enumerate(drawn)
        ]
    )
    assert difference(applied(operation, images, keys), expected).most <= 1
    least, most = operation.sigma  # type: ignore[misc]
    assert least <= min(drawn) and max(drawn) <= most and (least == most or len(set(drawn)) == 10)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"kernel_size": 4}, "GaussianBlur.kernel_size = 4 is out of range, expected an odd one, 3 to 129"),
        ({"kernel_size": 131}, "GaussianBlur.kernel_size = 131 is out of range"),
        ({"sigma": 0}, "GaussianBlur.sigma = (0, 0) is out of range, expected more than 0"),
        ({"sigma": (2, 1)}, "GaussianBlur.sigma = (2, 1) is out of range, expected least and most"),
    ],
)
def test_a_parameter_that_it_cannot_use_is_refused_by_name(given: dict[str, object], said: str) -> None:
    with pytest.raises(UserError) as caught:
        GaussianBlur(**given)  # type: ignore[arg-type]
    assert str(caught.value).startswith(said)
