"""The layers that tell routes apart, trained on labelled texts: what each takes and gives is in `Head`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.routing.ngrams import BUCKETS, matrix, rarity_of
from inference.routing.scorers import Floats, Head

INVERSE_REGULARISATION = 20.0
"""Of logistic regression on unit vectors."""
SHRINKAGE = 10.0
"""Of the covariance towards a sphere, in mean variances: 384 dimensions are estimated from a hundred vectors a route, or ten."""
SHARES = (0.0, 0.25, 0.5, 1.0, 2.0)
"""What the layer on n-grams may count for, beside the one on vectors."""
GRAM_EPOCHS, GRAM_BATCH, GRAM_RATE = 8, 64, 0.02
NEVER = -10.0
"""The logit of a route that no row has."""
Layer = tuple[Floats, Floats]
"""Weights and bias."""


def head_of(texts: Sequence[str], vectors: Floats, wanted: NDArray[np.bool_], exclusive: bool, asked: Sequence[str], seen: Floats, truth: NDArray[np.bool_]) -> tuple[Head, Floats, Floats]:
    """A head for routes `wanted` (rows, routes) of `texts` and their `vectors`, and its logits (n, outputs), and those of n-grams alone, of what is `asked`, with vectors `seen` and routes `truth`
    (n, routes), by which is chosen what n-grams count for. Routes that are `exclusive` have an output more, for what is out of scope."""
    rarity = rarity_of(texts)
    targets = np.concatenate([wanted, ~wanted.any(1, keepdims=True)], axis=1) if exclusive else wanted
    weights, bias = _on_vectors(vectors, targets, exclusive)
    grams, gram_bias = _on_grams(matrix(texts, rarity), targets.astype(np.float32), exclusive)
    by_vector, by_gram = seen @ weights.T + bias, np.asarray(matrix(asked, rarity) @ grams) + gram_bias
    share = max(SHARES, key=lambda share: _worth(by_vector + share * by_gram, truth, exclusive))
    head = Head(weights, bias, grams.astype(np.float16), gram_bias, np.array([share], np.float32), rarity, *_mahalanobis(vectors, wanted))
    return head, (by_vector + share * by_gram).astype(np.float32), by_gram.astype(np.float32)


def _worth(logits: Floats, truth: NDArray[np.bool_], exclusive: bool) -> float:
    """How often the best route is right; of sets of routes their mean log likelihood."""
    if exclusive:
        inside = truth.any(1)
        return float(truth[inside, logits[inside, : truth.shape[1]].argmax(1)].mean())
    return -float(np.logaddexp(0, np.where(truth, -logits, logits)).mean())


def _on_vectors(vectors: Floats, targets: NDArray[np.bool_], exclusive: bool) -> Layer:
    """Logistic regression: weights (outputs, dimensions) and bias (outputs,)."""
    from sklearn.linear_model import LogisticRegression

    weights, bias = np.zeros((targets.shape[1], vectors.shape[1]), np.float32), np.full(targets.shape[1], NEVER, np.float32)
    if exclusive:
        model = LogisticRegression(C=INVERSE_REGULARISATION, max_iter=500).fit(vectors, targets.argmax(1))
        coefficients, intercepts = model.coef_, model.intercept_
        if len(model.classes_) == 2:  # of two classes scikit-learn keeps the second one's side alone
            coefficients, intercepts = np.r_[-coefficients, coefficients] / 2, np.r_[-intercepts, intercepts] / 2
        weights[model.classes_], bias[model.classes_] = coefficients, intercepts
        return weights, bias
    for at, column in enumerate(targets.T):
        if column.any() and not column.all():
            model = LogisticRegression(C=INVERSE_REGULARISATION, max_iter=500).fit(vectors, column)
            weights[at], bias[at] = model.coef_[0], model.intercept_[0]
    return weights, bias


def _on_grams(features: Any, targets: NDArray[np.float32], exclusive: bool) -> Layer:
    """Weights (BUCKETS, outputs) and bias (outputs,) by cross entropy on sparse `features`; of more epochs nothing was gained."""
    import torch

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    bag = torch.nn.EmbeddingBag(BUCKETS, targets.shape[1], mode="sum")
    torch.nn.init.zeros_(bag.weight)
    bias = torch.zeros(targets.shape[1], requires_grad=True)
    steps, step = GRAM_EPOCHS * -(-len(targets) // GRAM_BATCH), 0
    optimizer = torch.optim.Adam([bag.weight, bias], lr=GRAM_RATE)
    loss_of = torch.nn.functional.cross_entropy if exclusive else torch.nn.functional.binary_cross_entropy_with_logits
    for _ in range(GRAM_EPOCHS):
        order = rng.permutation(len(targets))
        for at in range(0, len(order), GRAM_BATCH):
            batch = order[at : at + GRAM_BATCH]
            part = features[batch]
            ids, starts, values = (torch.from_numpy(array) for array in (part.indices.astype(np.int64), part.indptr[:-1].astype(np.int64), part.data.astype(np.float32)))
            loss = loss_of(bag(ids, starts, per_sample_weights=values) + bias, torch.from_numpy(targets[batch]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.param_groups[0]["lr"] = GRAM_RATE * (steps - step) / steps
            optimizer.step()
            step += 1
    return bag.weight.detach().numpy(), bias.detach().numpy()


def _mahalanobis(vectors: Floats, wanted: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """The whitening of what routes have in common, and their means behind it."""
    rows, routes = np.nonzero(wanted)
    count = np.maximum(wanted.sum(0), 1)[:, None]
    means = (wanted.T.astype(np.float32) @ vectors) / count
    rest = (vectors[rows] - means[routes]).astype(np.float64)
    covariance = rest.T @ rest / max(len(rest), 1)
    spread = max(float(np.trace(covariance)) / len(covariance), 1e-9)
    values, axes = np.linalg.eigh(covariance + SHRINKAGE * spread * np.eye(len(covariance)))
    whitening = (axes / np.sqrt(values)) @ axes.T
    return whitening.astype(np.float32), (means @ whitening).astype(np.float32)
