"""A share of samples by groups: patients, speakers, scenes. No group is on both sides."""

from __future__ import annotations

import numpy as np

from ffdist.data.sampler import generator


def group_share(labels: np.ndarray, groups: np.ndarray, share: float, seed: int) -> np.ndarray:
    """A mask, bool [N], of the samples that are held out: whole groups, so that each class comes near to its share.

    labels, groups: int [N]. Groups are looked at in an order drawn by `seed`; one is held out where that brings the
    classes' counts nearer to their shares. Some are on either side, if there are two.
    """
    _, groups = np.unique(groups, return_inverse=True)
    count, classes = int(groups.max(initial=-1)) + 1, int(labels.max(initial=-1)) + 1
    if not share or count < 2:
        return np.zeros(len(labels), bool)
    sizes_gk = np.zeros((count, classes), np.int64)
    np.add.at(sizes_gk, (groups, labels), 1)
    order = generator(seed, "split").permutation(count)
    wanted, held = sizes_gk.sum(0) * share, np.zeros(classes)
    out = np.zeros(count, bool)
    for group in order:
        with_it = held + sizes_gk[group]
        if np.square(with_it - wanted).sum() < np.square(held - wanted).sum():
            held, out[group] = with_it, True
    if not out.any():
        out[order[sizes_gk.sum(1)[order].argmin()]] = True  # the smallest: each alone is more than the share
    elif out.all():
        out[order[0]] = False
    return out[groups]
