"""The same image stored in another way."""

import numpy as np


def turned(data, affine, order, flips):
    """Return data (X, Y, Z, ...) with its axes of space in another order and direction, and the affine of that."""
    turn = np.zeros((4, 4))
    turn[3, 3] = 1
    for new, (old, flip) in enumerate(zip(order, flips, strict=True)):
        turn[old, new] = -1 if flip else 1
        turn[old, 3] = data.shape[old] - 1 if flip else 0
    axes = [axis for axis, flip in enumerate(flips) if flip]
    moved = np.flip(data.transpose(*order, *range(3, data.ndim)), axes)
    return np.ascontiguousarray(moved), affine @ turn
