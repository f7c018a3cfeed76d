"""What the models of the roles hold in memory: weights of their own, or adapters on a frozen base that they share."""

from __future__ import annotations

from harness.footprint import Phase, base, weights
from harness.models.shape import Shape


def policy(shape: Shape, *, adapted: bool = True) -> Phase:
    """A language model, with its base where it has adapters.

    Args:
        shape: of the model.
        adapted: whether it has an adapter itself; False for a bare base that others put theirs on.
    """
    if shape.adapters is None:
        return {"policy": weights(shape.parameters)}
    return {"base": base(shape, shape.parameters), **beside(shape, "policy", adapted=adapted)}


def scorer(shape: Shape, role: str) -> Phase:
    """A classifier, with its base where it has adapters: the trunk without an output layer."""
    if shape.adapters is None:
        return {role: weights(shape.scorer_parameters)}
    return {"base": base(shape, shape.parameters - shape.head), **beside(shape, role, scorer=True)}


def judge(shape: Shape) -> Phase:
    """A finished judge, whose base is its own: it stands under its own role beside another base."""
    held = scorer(shape, "judge")
    return {"judge": held["base"], "adapters": held["adapters"]} if "base" in held else held


def beside(shape: Shape, role: str, *, scorer: bool = False, adapted: bool = True) -> Phase:
    """One role more on a base that is there already: its adapter, a classifier's with its head; else a whole model.

    Args:
        shape: of the model that all roles start from.
        role: under which a whole model stands; an adapter stands under ``adapters``, whoever's it is.
        scorer: whether it is a classifier.
        adapted: False for a policy that is the bare base, and so adds nothing to it.

    Returns:
        Role -> bytes.
    """
    if shape.adapters is None:
        return {role: weights(shape.scorer_parameters if scorer else shape.parameters)}
    return {"adapters": weights(shape.scorer_trained if scorer else shape.trained)} if adapted else {}


def merging(shape: Shape, role: str, *, scorer: bool = False) -> Phase:
    """What a merged model is written from: new matrices for the adapted layers, all else shared; the adapter twice."""
    if shape.adapters is None:
        return {}
    return {role: weights(shape.adapters.inside), **beside(shape, role, scorer=scorer)}
