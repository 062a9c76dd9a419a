"""AM3: prototypes of what classes look like, mixed with what is told of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastmeta import array as fa
from fastmeta.algorithms.learner import functions, initial
from fastmeta.algorithms.protonet import ProtoNet
from fastmeta.errors import expected
from fastmeta.trace import Array

__all__ = ["AM3"]


class AM3(ProtoNet):
    """Adaptive cross-modal few-shot learning: a prototypical network that is told of each class beside its examples.

    The prototype of a class is, with p the mean of its embedded examples and e its metadata,

        share * p + (1 - share) * w,    w = transform(e),    share = sigmoid(mixer(w))

    so that it is learned for which classes to trust the examples.  Episodes are `fastmeta.data.DescribedEpisode`, metadata [ways, m]
    with a row for each class; `adapt` takes (x, y, metadata).  Meta-parameters: {"model", "transform", "mixer"}.

    Args:
        model: an embedding ``model(params, x) -> [n, features]`` with ``model.init(seed)``, or any such function.
        transform: ``transform(params, [ways, m]) -> [ways, features]`` alike, into the space of the embeddings.
        mixer: ``mixer(params, [ways, features]) -> [ways, 1]`` alike.
        metric, temperature, ways, batch_norm: as for `ProtoNet`; batch norm in the other two nets is by the classes at hand.

    Errors: as for `ProtoNet`; TypeError for episodes without metadata, ValueError for nets that do not fit them.
    Source: Xing, Rostamzadeh, Oreshkin, Pinheiro 2019, section 3.2, on prototypical networks; without its dropout in the last two nets.

    >>> import numpy as np
    >>> from fastmeta.models import MLP
    >>> learner = AM3(MLP((2, 8, 4)), transform=MLP((3, 8, 4)), mixer=MLP((4, 8, 1)))
    >>> x, y, metadata = np.eye(2, dtype=np.float32), np.array([0, 1]), np.ones((2, 3), np.float32)
    >>> adapted = learner.adapt(learner.init(seed=0), x, y, metadata)
    >>> learner.predict(adapted, x).shape
    (2, 2)
    """

    described = True

    def __init__(
        self, model: Callable[..., Any], transform: Callable[..., Any], mixer: Callable[..., Any], metric: str = "sqeuclidean",
        temperature: float = 1.0, ways: int | None = None, batch_norm: str = "batch",
    ):  # fmt: skip
        super().__init__(model, metric, temperature, ways, batch_norm)
        functions(self._name, transform=transform, mixer=mixer)
        self.transform: Any = transform  # callables; ours have init
        self.mixer: Any = mixer

    def init(self, seed: int = 0) -> Any:
        """Fresh meta-parameters of the three nets, each from a seed of its own."""
        return {
            "model": super().init(seed),
            "transform": initial(self._name, self.transform, seed, 1),
            "mixer": initial(self._name, self.mixer, seed, 2),
        }

    def _weights(self, params: Any) -> Any:
        return params["model"]

    def _conditioned(self, params: Any, metadata: Array) -> Any:
        w = self.transform(params["transform"], metadata)
        return {"model": params["model"], "told": w, "share": fa.sigmoid(self.mixer(params["mixer"], w))}

    def _fit(self, params: Any, z: Array, y: Array, classes: range) -> Array:
        seen, told, share = super()._fit(params, z, y, classes), params["told"], params["share"]
        for what, got, want in (("transform", told, seen.shape), ("mixer", share, (len(classes), 1))):
            if tuple(got.shape) != tuple(want):
                raise expected(self._name, f"{list(want)} of {what}, a row for each class", f"shape {list(got.shape)}")
        return fa.add(told, fa.multiply(share, fa.subtract(seen, told)))
