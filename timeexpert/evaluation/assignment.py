"""Which predicted object belongs to which true one: the one-to-one assignment of the largest total.

Shortest augmenting paths (Kuhn, 1955; Crouse, "On implementing 2D rectangular assignment algorithms", 2016), for a
few dozen objects.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def assign(values: NDArray[np.float64]) -> tuple[list[int], list[int]]:
    """Rows and columns of the one-to-one pairs whose ``values`` [R, C] have the largest sum, min(R, C) pairs, rows
    rising. Of equal sums, a free column and then a low one is taken first."""
    if values.shape[0] > values.shape[1]:
        columns, rows = assign(values.T)
        pairs = sorted(zip(rows, columns, strict=True))
        return [row for row, _ in pairs], [column for _, column in pairs]
    cost = (-values).tolist()
    count, width = values.shape
    row_price, column_price = [0.0] * count, [0.0] * width
    owner, owned = [-1] * width, [-1] * count  # the row of each column, the column of each row
    for start in range(count):
        reach, via = [math.inf] * width, [-1] * width
        open_columns = list(range(width - 1, -1, -1))
        rows_seen, closed = {start}, set()
        row, far, sink = start, 0.0, -1
        while sink < 0:
            lowest, chosen = math.inf, -1
            for at, column in enumerate(open_columns):
                length = far + cost[row][column] - row_price[row] - column_price[column]
                if length < reach[column]:
                    reach[column], via[column] = length, row
                if reach[column] < lowest or (reach[column] == lowest and owner[column] < 0):
                    lowest, chosen = reach[column], at
            far = lowest
            column = open_columns[chosen]
            open_columns[chosen] = open_columns[-1]
            open_columns.pop()
            closed.add(column)
            if owner[column] < 0:
                sink = column
            else:
                row = owner[column]
                rows_seen.add(row)
        for seen in rows_seen:
            row_price[seen] += far - (reach[owned[seen]] if seen != start else 0.0)
        for column in closed:
            column_price[column] -= far - reach[column]
        column = sink
        while True:
            row = via[column]
            owner[column] = row
            column, owned[row] = owned[row], column
            if row == start:
                break
    return list(range(count)), owned
