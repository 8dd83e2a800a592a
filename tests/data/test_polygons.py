from __future__ import annotations

import numpy as np
import pytest

from timeexpert.data.mask_rle import MaskError, encode_rle
from timeexpert.data.polygons import polygons_mask


def test_the_pixels_are_those_of_the_coco_api():
    # what pycocotools 2.0.11 makes of these two polygons: frPyObjects, then merge
    polygons = [[10.5, 3.2, 28.7, 9.9, 20.1, 25.4, 7.3, 18.8], [2, 2, 6, 2, 6, 7, 2, 7]]
    counts = "n15i000000^1LaN5K6K4O20O010O01O010O0010O0N3M2N2O2M2N2NQ;"
    assert encode_rle(polygons_mask(polygons, (30, 40))) == {"size": [30, 40], "counts": counts}


def test_a_rectangle_by_hand_and_one_that_leaves_the_image():
    mask = polygons_mask([[1, 1, 3, 1, 3, 3, 1, 3]], (4, 5))
    assert np.argwhere(mask).tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]
    assert polygons_mask([[-9, -9, 99, -9, 99, 99, -9, 99]], (4, 5)).all()
    assert not polygons_mask([], (4, 5)).any()


@pytest.mark.parametrize("polygon", [[1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7], ["a"] * 6, 5, [[1, 2], [3, 4]], [1e9] * 6])
def test_what_is_no_polygon_is_refused(polygon):
    with pytest.raises(MaskError, match=r"polygon 0 .* must be \[x1, y1, x2, y2"):
        polygons_mask([polygon], (4, 5))
