"""Images that stand for many: k-means medoids."""

import warnings

import numpy as np
from numpy.typing import NDArray


def medoids(features: NDArray[np.float32], count: int, seed: int) -> NDArray[np.intp]:
    """Return the rows nearest the k-means centres of features (N, F), ``count`` different ones.

    Where there are fewer different rows than centres, the first rows that are
    left fill up.
    """
    # Here, since loading it takes seconds and most commands cluster nothing.
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    if count >= len(features):
        return np.arange(len(features))
    means = KMeans(n_clusters=count, n_init="auto", random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different rows than centres
        distances = means.fit(features).transform(features)
    nearest = dict.fromkeys(int(row) for row in distances.argmin(axis=0))
    rest = (row for row in range(len(features)) if row not in nearest)
    return np.array([*nearest, *rest][:count], np.intp)
