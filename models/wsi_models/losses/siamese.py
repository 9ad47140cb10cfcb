"""Embeddings of two views and their assignment to clusters -> the losses of CluSiam and CluBYOL.

Where the embeddings come from, and which of them carry gradient, is the method's business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional

from wsi_models.losses.classification import full_precision

if TYPE_CHECKING:
    from torch import Tensor


def negative_cosine(predicted: Tensor, target: Tensor) -> Tensor:
    """Average ``-cos(predicted, target)`` over a batch; no gradient reaches the target.

    Parameters
    ----------
    predicted, target : Tensor of shape (B, D)
        What one view predicts of the other, and what that one is.

    Returns
    -------
    Tensor
        A scalar in [-1, 1], at least in float32.

    References
    ----------
    .. [1] X. Chen, K. He, Exploring Simple Siamese Representation Learning, CVPR 2021, equation 1.
    """
    cosine = functional.cosine_similarity(full_precision(predicted), _fixed(target), dim=1)
    return -cosine.mean()


def straight_through(logits: Tensor, noise: Tensor, temperature: float = 1.0) -> Tensor:
    """Assign each row to the cluster of its greatest noisy logit, with the gradient of a softmax.

    Parameters
    ----------
    logits : Tensor of shape (B, K)
        Scores of the clusters.
    noise : Tensor of shape (B, K)
        Independent draws of the Gumbel distribution: then a cluster is chosen with the
        probability that the softmax of the logits gives it.
    temperature : float
        Of the softmax; does not change what is chosen.

    Returns
    -------
    Tensor of shape (B, K)
        One-hot rows, at least in float32.

    References
    ----------
    .. [1] E. Jang et al., Categorical Reparameterization with Gumbel-Softmax, ICLR 2017,
       section 2.2.
    """
    noisy = full_precision(logits) + noise
    soft = functional.softmax(noisy / temperature, dim=1)
    hard = functional.one_hot(noisy.argmax(dim=1), logits.shape[1]).to(soft.dtype)
    return hard - soft.detach() + soft


def centroid_cosine(embedding: Tensor, assignment: Tensor) -> Tensor:
    """Average the cosine between the centroids of all pairs of clusters that hold a row.

    Parameters
    ----------
    embedding : Tensor of shape (B, D)
        Rows to be clustered; only their direction counts, and no gradient reaches them.
    assignment : Tensor of shape (B, K)
        One-hot rows, with gradient, from :func:`straight_through`.

    Returns
    -------
    Tensor
        A scalar, at least in float32; ``-1 / (k - 1)`` at best for k clusters in use. With a
        single cluster it is 1, without gradient: there is no pair to push apart.

    Notes
    -----
    A cluster is left out when no row is assigned to it. The published code leaves out cosines
    that are zero instead, which also loses pairs of clusters that are truly orthogonal. Dividing
    the sums by the number of rows, as published, changes nothing once they are normalised.

    References
    ----------
    .. [1] W. Wu et al., Improving Representation Learning for Histopathologic Images with Cluster
       Constraints, ICCV 2023.
    """
    rows = functional.normalize(_fixed(embedding), dim=1)
    used = assignment.detach().sum(dim=0) > 0.5
    # selecting before normalising: the gradient of normalising nothing is no number
    centroids = functional.normalize((assignment.T @ rows)[used], dim=1)
    count = len(centroids)
    if count < 2:
        return 1 + 0 * assignment.sum()
    return (centroids @ centroids.T).triu(diagonal=1).sum() * (2 / (count * (count - 1)))


def _fixed(tensor: Tensor) -> Tensor:
    return full_precision(tensor.detach())
