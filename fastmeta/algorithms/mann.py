"""Memory-augmented neural network: an LSTM that writes the support set to a memory and reads it again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastmeta import array as fa
from fastmeta import kernels, nn
from fastmeta.algorithms.learner import features
from fastmeta.algorithms.sequence import SequenceLearner, dense, linear
from fastmeta.errors import expected, whole
from fastmeta.loops import map_tasks, scan
from fastmeta.trace import Array

__all__ = ["MANN"]

DECAY = 0.99  # of usage, gamma in the paper
STRENGTH = 10.0  # at first: the nearest of 128 rows has most of the weight
State = tuple[Array, Array, Array, Array, Array, Array]


class MANN(SequenceLearner):
    """Memory-augmented network: an LSTM sees each embedding with the label of the one before, and what it has read from a memory.

    Labels arrive one step late, so that the network has to keep an example until its label comes, bind both, and find them
    again: the first step has no label, a query comes with the last support label.  Each of ``reads`` heads reads by softmax of
    its key's cosine with every row; then it writes the key to a row that was used least lately, which is emptied first, and to
    the rows that it read in the step before, in shares that are learned.  The memory begins empty.

    Two things are as in neural Turing machines where the paper is silent or else.  Cosines are multiplied by a learned strength:
    as they are, the nearest of many rows has hardly more weight than the others.  And a step reads before it writes: otherwise
    the nearest row is its own key.  Without both, the network learns no more than its LSTM does alone.

    Queries continue from the state after the support set, each on its own, and the loss is theirs; the paper's counts every
    step of one long stream.  Meta-parameters: {"model", "controller", "key", "strength", "gate", "out"}.

    Args:
        model: an embedding ``model(params, x) -> [n, features]`` that says ``model.outputs``, its features.
        ways: classes of every task.
        slots: rows of the memory.
        width: entries of a row.
        hidden: units of the LSTM.
        reads: heads, at most as many as rows; each reads and writes.
        batch_norm: whose statistics normalise examples in tests, "batch" or "running"; see `MetricLearner`.

    Errors: TypeError or ValueError naming the argument, a class without support example, or another number of classes.
    Source: Santoro et al. 2016, equations 2 to 8; sizes are theirs.  Strength: Graves, Wayne, Danihelka 2014, equation 5.

    >>> from fastmeta.models import MLP
    >>> learner = MANN(MLP((2, 8, 4)), ways=2, slots=4, width=3, hidden=5, reads=1)
    >>> x, y = np.eye(2, dtype=np.float32), np.array([1, 0])
    >>> adapted = learner.adapt(learner.init(seed=0), x, y)
    >>> learner.predict(adapted, x).shape
    (2, 2)
    """

    def __init__(
        self,
        model: Callable[..., Any],
        ways: int,
        slots: int = 128, width: int = 40, hidden: int = 200, reads: int = 4, batch_norm: str = "batch",
    ):  # fmt: skip
        super().__init__(model, ways, batch_norm)
        self.slots = whole(self._name, "slots", slots)
        self.width = whole(self._name, "width", width)
        self.hidden = whole(self._name, "hidden", hidden)
        self.reads = whole(self._name, "reads", reads)
        if self.reads > self.slots:
            raise expected(self._name, f"reads at most slots, {self.slots}", self.reads)

    def init(self, seed: int = 0) -> Any:
        """Fresh meta-parameters; heads begin by writing as much to the least used row as to those they read.

        A label is a single 1 beside many entries of an embedding: its weights begin within 1, not within 1 / sqrt(hidden), or it
        would hardly be heard, and training would take several times as long to begin to learn.
        """
        rng = np.random.default_rng([seed, 1])  # another stream than the model's
        n, read = features(self._name, "model", self.model), self.reads * self.width
        controller = nn.lstm_init(rng, n + self.ways + read, self.hidden)
        controller["w"][n : n + self.ways] *= np.float32(np.sqrt(self.hidden))
        return {
            "model": super().init(seed),
            "controller": controller,
            "key": dense(rng, self.hidden, read),
            "strength": np.full(self.reads, STRENGTH, np.float32),
            "gate": np.zeros(self.reads, np.float32),
            "out": dense(rng, self.hidden + read, self.ways),
        }

    def _fit(self, params: Any, z: Array, y: Array, classes: range) -> tuple[State, Array]:
        labels = fa.one_hot(y, len(classes), dtype=z.dtype)
        late = fa.concat([fa.zeros_like(labels[:1]), labels[:-1]], axis=0)
        sizes = self.hidden, self.hidden, (self.slots, self.width), (self.reads, self.slots), self.slots, self.reads * self.width
        empty = tuple(np.zeros(size, z.dtype) for size in sizes)
        state, _ = scan(lambda state, x: (self._step(params, state, x), None), empty, fa.concat([z, late], axis=1))
        return state, labels[-1]

    def _logits(self, params: Any, task: tuple[State, Array], z: Array) -> Array:
        state, label = task

        def query(z: Array) -> Array:
            h, *_, read = self._step(params, state, fa.concat([z, label], axis=0))
            return linear(params["out"], fa.concat([h, read], axis=0))

        return map_tasks(query)(z)

    def _step(self, params: Any, state: State, x: Array) -> State:
        """LSTM h and c [hidden], memory [slots, width], weights of the last reads [reads, slots], usage [slots], what was read
        [reads * width], after the embedding and the label before in x."""
        h, c, memory, before, usage, read = state
        h, c = nn.lstm_cell(params["controller"], fa.concat([x, read], axis=0), (h, c))
        keys = fa.reshape(fa.tanh(linear(params["key"], h)), (self.reads, self.width))
        strength, gate = fa.expand_dims(params["strength"], axis=1), fa.expand_dims(fa.sigmoid(params["gate"]), axis=1)
        apart = kernels.pairwise_distance(keys, memory, metric="cosine")
        near = fa.softmax(fa.negative(fa.multiply(apart, strength)), axis=1)  # equations 2 and 3
        read = fa.reshape(fa.matmul(near, memory), (self.reads * self.width,))  # 4
        least = fa.one_hot(fa.top_k(usage, self.reads, largest=False)[1], self.slots, dtype=usage.dtype)  # 6
        written = fa.add(fa.multiply(gate, before), fa.multiply(fa.subtract(1.0, gate), least))  # 7
        kept = fa.expand_dims(fa.subtract(1.0, fa.sum(least, axis=0)), axis=1)
        memory = fa.add(fa.multiply(memory, kept), fa.matmul(fa.permute_dims(written, (1, 0)), keys))  # 8
        usage = fa.add(fa.multiply(usage, DECAY), fa.sum(fa.add(near, written), axis=0))  # 5
        return h, c, memory, near, usage, read
