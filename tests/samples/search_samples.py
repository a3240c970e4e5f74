"""Galleries that are hard to search, and the search by brute force."""

import numpy as np
import torch

BACKENDS = ["torch", "faiss"]


def unit(features):
    norm = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(norm > 0, norm, 1)


def brute_force(query, gallery, k):
    """Float64 neighbours, ties to the lower index; similarities equal to 12 digits are ties."""
    similarity = np.round(unit(query.double().numpy()) @ unit(gallery.double().numpy()).T, 12)
    index = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(similarity, index, 1), index


def galleries():
    generator = torch.Generator().manual_seed(0)
    plain = torch.randn(1500, 48, generator=generator)
    grid = plain.sign() * (plain.abs() > 1)
    return {
        "random": plain,
        "clusters": torch.randn(15, 48, generator=generator).repeat_interleave(100, 0) + 0.1 * plain,  # neighbours side by side
        "duplicates": plain[torch.arange(1500) % 3],  # every vector 500 times: more than any margin
        "near ties": plain[:1] + 1e-6 * plain,  # below float32's resolution of a cosine
        "common offset": 30 + plain,  # all similarities within a thousandth, as of an untrained network
        "coarse grid": grid,  # small integers: many exact ties
        "scaled copies": (2.0 ** (torch.arange(1500) % 5))[:, None] * grid[torch.arange(1500) % 40],
        "opposed": torch.cat([plain[:750], -plain[:750]]),
        "zeros": torch.where(torch.arange(1500)[:, None] % 2 == 0, plain, torch.zeros(48)),
        "collapsed": torch.ones(1500, 48),
        "tiny and huge": (10.0 ** torch.linspace(-37, 37, 1500))[:, None] * plain,
        "half precision": plain.half(),
        "double precision": plain.double() + 1e-9,
    }
