"""The formulae of RLHF written out as loops over floats: slow, obvious, and without a line of the code under test.

Tables are lists of lists of floats; a mask is a list of lists of bools, True = counts.
"""

from __future__ import annotations

import math

Row = list[float]
Table = list[list[float]]
Mask = list[list[bool]]


def clip(x: float, low: float, high: float) -> float:
    return low if x < low else high if x > high else x


def entries(table: Table, mask: Mask) -> Row:
    """The values under the mask, in one list."""
    return [table[b][t] for b in range(len(table)) for t in range(len(table[b])) if mask[b][t]]


def mean(values: Row) -> float:
    return math.fsum(values) / len(values) if values else 0.0


def variance(values: Row) -> float:
    centre = mean(values)
    return mean([(x - centre) ** 2 for x in values])


def probabilities(logits: Row, temperature: float) -> Row:
    highest = max(logits)
    powers = [math.exp((x - highest) / temperature) for x in logits]
    return [p / math.fsum(powers) for p in powers]


def logprob(logits: Row, token: int, temperature: float) -> float:
    return math.log(probabilities(logits, temperature)[token])


def entropy(logits: Row, temperature: float) -> float:
    return -math.fsum(p * math.log(p) for p in probabilities(logits, temperature) if p > 0)


def policy_loss(logprobs: Table, old: Table, advantages: Table, mask: Mask, eps: float) -> dict[str, float]:
    losses, bound, kls, ratios = [], [], [], []
    for new_value, old_value, a in zip(
        entries(logprobs, mask), entries(old, mask), entries(advantages, mask), strict=True
    ):
        ratio = math.exp(new_value - old_value)
        plain, clipped = -a * ratio, -a * clip(ratio, 1 - eps, 1 + eps)
        losses.append(max(plain, clipped))
        bound.append(1.0 if clipped > plain else 0.0)
        kls.append(ratio - 1 - (new_value - old_value))
        ratios.append(ratio)
    return {
        "loss": mean(losses),
        "clip_fraction": mean(bound),
        "approx_kl": mean(kls),
        "ratio_mean": mean(ratios),
        "ratio_max": max(ratios, default=0.0),
    }


def value_loss(values: Table, old: Table, returns: Table, mask: Mask, eps: float) -> dict[str, float]:
    losses, bound = [], []
    for v, v_old, r in zip(entries(values, mask), entries(old, mask), entries(returns, mask), strict=True):
        plain, clipped = (v - r) ** 2, (clip(v, v_old - eps, v_old + eps) - r) ** 2
        losses.append(0.5 * max(plain, clipped))
        bound.append(1.0 if clipped > plain else 0.0)
    return {"loss": mean(losses), "clip_fraction": mean(bound)}


def preference_loss(chosen: Row, rejected: Row, margins: Row, centering: float) -> float:
    terms = []
    for c, r, margin in zip(chosen, rejected, margins, strict=True):
        probability = 1 / (1 + math.exp(-(c - r - margin)))
        terms.append(-math.log(probability) + centering * (c + r) ** 2)
    return mean(terms)


def sft_loss(logits: list[Table], labels: list[list[int]], mask: Mask) -> float:
    terms = []
    for b in range(len(labels)):
        for t in range(len(labels[b])):
            if mask[b][t]:
                terms.append(-logprob(logits[b][t], labels[b][t], 1.0))
    return mean(terms)


def gae_row(rewards: Row, values: Row, gamma: float, lam: float) -> Row:
    """One episode by the definition: A_t = sum over l of (gamma lam)^l delta_{t+l}; no recursion."""
    n = len(rewards)
    deltas = [rewards[t] + (gamma * values[t + 1] if t + 1 < n else 0.0) - values[t] for t in range(n)]
    return [math.fsum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, n)) for t in range(n)]


def gae(rewards: Table, values: Table, mask: Mask, gamma: float, lam: float) -> tuple[Table, Table]:
    advantages = [[0.0] * len(row) for row in rewards]
    returns = [[0.0] * len(row) for row in rewards]
    for b, row in enumerate(mask):
        columns = [t for t, keep in enumerate(row) if keep]
        episode = gae_row([rewards[b][t] for t in columns], [values[b][t] for t in columns], gamma, lam)
        for t, advantage in zip(columns, episode, strict=True):
            advantages[b][t] = advantage
            returns[b][t] = advantage + values[b][t]
    return advantages, returns


def whiten(table: Table, mask: Mask, shift_mean: bool) -> Table:
    values = entries(table, mask)
    centre, scale = mean(values), math.sqrt(variance(values) + 1e-8)
    kept_mean = 0.0 if shift_mean else centre
    return [
        [(x - centre) / scale + kept_mean if keep else 0.0 for x, keep in zip(row, keeps, strict=True)]
        for row, keeps in zip(table, mask, strict=True)
    ]


def explained_variance(values: Table, returns: Table, mask: Mask) -> float:
    v, r = entries(values, mask), entries(returns, mask)
    if variance(r) == 0:
        return math.nan
    return 1 - variance([a - b for a, b in zip(r, v, strict=True)]) / variance(r)


def kl_estimates(logprob_policy: float, logprob_reference: float) -> tuple[float, float]:
    """k1, and k3 = (q - 1) - log q with q the reference's probability over the policy's."""
    q = math.exp(logprob_reference) / math.exp(logprob_policy)
    return math.log(math.exp(logprob_policy) / math.exp(logprob_reference)), q - 1 - math.log(q)


def token_rewards(scores: Row, kl: Table, mask: Mask, beta: float) -> Table:
    rewards = []
    for b, keeps in enumerate(mask):
        row = [-beta * kl[b][t] if keep else 0.0 for t, keep in enumerate(keeps)]
        for t in range(len(keeps) - 1, -1, -1):
            if keeps[t]:
                row[t] += scores[b]
                break
        rewards.append(row)
    return rewards


def adaptive_kl(beta: float, kls: Row, counts: list[int], target: float, horizon: float) -> Row:
    """beta after each update."""
    course = []
    for kl, n in zip(kls, counts, strict=True):
        beta = beta * (1 + clip(kl / target - 1, -0.2, 0.2) * n / horizon)
        course.append(beta)
    return course


def position_ids(mask: Mask) -> list[list[int]]:
    rows = []
    for keeps in mask:
        row, seen = [], 0
        for keep in keeps:
            seen += 1 if keep else 0
            row.append(max(seen - 1, 0))
        rows.append(row)
    return rows


def expected_calibration_error(predicted: Row, happened: Row, bins: int) -> float:
    total = 0.0
    for k in range(bins):
        low, high = k / bins, (k + 1) / bins
        inside = [i for i, p in enumerate(predicted) if low <= p < high or (k == bins - 1 and p == 1.0)]
        if inside:
            gap = mean([predicted[i] for i in inside]) - mean([happened[i] for i in inside])
            total += len(inside) / len(predicted) * abs(gap)
    return total
