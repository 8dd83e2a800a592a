from __future__ import annotations

import numpy as np

from timeexpert.reports.mask_sheet import SHARE, marked


def test_a_mask_is_mixed_in_and_its_edge_is_drawn_in_full():
    frame = np.full((5, 5, 3), 100, np.uint8)
    mask = np.zeros((5, 5), bool)
    mask[:4, :4] = True  # touches the frame's edge, which is an edge of the mask too
    out = marked(frame, mask, "#ff0000")
    assert (out[0, 0] == (255, 0, 0)).all() and (out[3, 1] == (255, 0, 0)).all()
    assert out[1, 1].tolist() == [int((1 - SHARE) * 100 + SHARE * 255), int((1 - SHARE) * 100), int((1 - SHARE) * 100)]
    assert (out[4] == 100).all() and (frame == 100).all()
    assert (marked(frame, mask, "#ff0000", edge=2)[:4, :4] == (255, 0, 0)).all()  # 4 pixels are edge from both sides
