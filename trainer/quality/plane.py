"""Projects points of a latent space to a plane, for the pictures of it."""

import numpy as np


def plane(embedding: np.ndarray) -> tuple[np.ndarray, float]:
    """Projects points of a latent space to a plane.

    Args:
        embedding: float [n, d].

    Returns:
        float64 [n, 2], the two dimensions themselves if d is 2, otherwise the coordinates along the
        two principal directions; and the share of the variance that they retain.
    """
    points = embedding.astype(np.float64)
    if points.shape[1] == 1:
        return np.concatenate([points, np.zeros_like(points)], axis=1), 1.0
    if points.shape[1] == 2:
        return points, 1.0
    centred = points - points.mean(axis=0)
    # The row of zeros changes no direction, and gives a single point a second one.
    padded = np.pad(centred, ((0, 1), (0, 0)))
    _, singular, directions = np.linalg.svd(padded, full_matrices=False)
    kept = float(np.square(singular[:2]).sum() / max(np.square(singular).sum(), 1e-12))
    return centred @ directions[:2].T, kept
