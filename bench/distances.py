"""Episodic distance kernels against PyTorch, JAX, SciPy and scikit-learn: `python -m bench.distances [NAMES] [--rounds 6]`.

`episode-dist`: class means of the supports, squared distances of the queries from them, log-softmax, mean NLL, and its gradients to
supports and queries.  Peers get the supports class by class and average over an axis; fastmeta gets labels.  `forward-*`: distances
only.  `gradient-*`: a weighted sum of distances and its gradients to both sets.  `nearest`: the 5 nearest rows of a bank.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.__main__ import begin, show

Thunk = Callable[[], Any]
BANDWIDTH = 8.0


@dataclass(frozen=True)
class Episodes:
    """One meta-batch of embeddings."""

    tasks: int
    ways: int
    shots: int
    queries: int  # per class
    features: int

    def __str__(self) -> str:
        return f"({self.tasks},{self.ways},{self.shots},{self.queries},{self.features})"

    @property
    def data(self) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(0)
        lead, n, d = (self.tasks, self.ways), self.ways * self.queries, self.features
        centres = rng.normal(0, 0.3, (*lead, 1, d))
        size = d**-0.25  # squared distances then differ by about 1 between classes, whatever their number of terms

        def drawn(rows: int) -> np.ndarray:
            return (size * (centres + rng.normal(size=(*lead, rows, d)))).astype(np.float32)

        def labels(rows: int) -> np.ndarray:
            return np.tile(np.repeat(np.arange(self.ways, dtype=np.int32), rows), (self.tasks, 1))

        weights = rng.normal(size=(self.tasks, n, self.ways)).astype(np.float32)
        return {
            "support": drawn(self.shots), "labels": labels(self.shots), "query": drawn(self.queries).reshape(self.tasks, n, d),
            "query_labels": labels(self.queries), "points": drawn(1)[:, :, 0], "weights": weights,
        }  # fmt: skip

    @property
    def flops(self) -> int:
        """Of the three products: distances and both gradients."""
        return self.tasks * 6 * self.ways**2 * self.queries * self.features

    @property
    def bytes(self) -> int:
        """Inputs read once, gradients written once."""
        return self.tasks * 8 * self.ways * (self.shots + self.queries) * self.features


SIZES = [Episodes(32, 5, 1, 15, 64), Episodes(32, 20, 5, 15, 64), Episodes(8, 5, 5, 15, 1600), Episodes(100, 5, 1, 15, 640)]


# ---- contestants: each gives (value, gradients..) or distances


def ours_dist(e: Episodes) -> Thunk:
    import fastmeta as fm

    def loss(support: Any, query: Any, labels: Any, query_labels: Any) -> Any:
        return fm.kernels.proto_loss(support, labels, query, query_labels, n_way=e.ways)[0]

    d = e.data
    step = fm.map_tasks(fm.value_and_grad(loss, argnums=(0, 1)), reduce=("sum", None))
    support = d["support"].reshape(e.tasks, -1, e.features)
    return lambda: _flat(step(support, d["query"], d["labels"], d["query_labels"]))


def _flat(result: Any) -> tuple[Any, ...]:
    value, gradients = result
    return (value, *gradients)


def torch_dist(e: Episodes, form: str) -> Thunk:
    import torch
    import torch.nn.functional as F

    d = {k: torch.from_numpy(v) for k, v in e.data.items()}
    support, query = d["support"].requires_grad_(), d["query"].requires_grad_()
    labels = d["query_labels"].long().reshape(-1)

    def step() -> Any:
        means = support.mean(2)
        if form == "cdist":
            logits = -(torch.cdist(query, means) ** 2)
        else:
            logits = 2 * torch.bmm(query, means.mT) - (query**2).sum(2, keepdim=True) - (means**2).sum(2)[:, None]
        value = F.cross_entropy(logits.flatten(0, 1), labels) * e.tasks
        return (value.detach(), *torch.autograd.grad(value, (support, query)))

    return step


def jax_dist(e: Episodes) -> Thunk:
    import jax
    import jax.numpy as jnp

    d = {k: jnp.asarray(v) for k, v in e.data.items()}

    def loss(support: Any, query: Any) -> Any:
        means = support.mean(2)
        products = jnp.einsum("tnd,tmd->tnm", query, means)
        logits = 2 * products - (query**2).sum(2, keepdims=True) - (means**2).sum(2)[:, None]
        log_p = jax.nn.log_softmax(logits)
        return -jnp.take_along_axis(log_p, d["query_labels"][..., None], 2).mean() * e.tasks

    step = jax.jit(jax.value_and_grad(loss, (0, 1)))
    return lambda: jax.block_until_ready(_flat(step(d["support"], d["query"])))


def ours_distance(e: Episodes, metric: str) -> Thunk:
    import fastmeta as fm

    d = e.data
    return lambda: (fm.kernels.pairwise_distance(d["query"], d["points"], metric=metric),)


def torch_distance(e: Episodes, metric: str, form: str) -> Thunk:
    import torch
    import torch.nn.functional as F

    x, y = torch.from_numpy(e.data["query"]), torch.from_numpy(e.data["points"])

    def step() -> Any:
        if metric == "cosine":
            return (1 - torch.bmm(F.normalize(x, dim=2), F.normalize(y, dim=2).mT),)
        if form == "cdist":
            return (torch.cdist(x, y) ** 2,)
        return ((x**2).sum(2, keepdim=True) - 2 * torch.bmm(x, y.mT) + (y**2).sum(2)[:, None],)

    return step


def jax_metric(metric: str) -> Callable[[Any, Any], Any]:
    import jax.numpy as jnp

    def squares(x: Any, y: Any) -> Any:
        return (x**2).sum(2, keepdims=True) - 2 * jnp.einsum("tnd,tmd->tnm", x, y) + (y**2).sum(2)[:, None]

    def unit(x: Any) -> Any:
        return x / jnp.linalg.norm(x, axis=2, keepdims=True)

    return {
        "sqeuclidean": squares,
        "cosine": lambda x, y: 1 - jnp.einsum("tnd,tmd->tnm", unit(x), unit(y)),
        "l1": lambda x, y: jnp.abs(x[:, :, None] - y[:, None]).sum(3),
        "rbf": lambda x, y: 1 - jnp.exp(squares(x, y) / (-2 * BANDWIDTH**2)),
    }[metric]


def jax_distance(e: Episodes, metric: str) -> Thunk:
    import jax
    import jax.numpy as jnp

    x, y, f = jnp.asarray(e.data["query"]), jnp.asarray(e.data["points"]), jax.jit(jax_metric(metric))
    return lambda: (f(x, y).block_until_ready(),)


def ours_gradient(e: Episodes, metric: str) -> Thunk:
    import fastmeta as fm

    d = e.data
    scale = BANDWIDTH if metric == "rbf" else None

    def value(x: Any, y: Any, w: Any) -> Any:
        return fm.sum(w * fm.kernels.pairwise_distance(x, y, metric=metric, scale=scale))

    step = fm.map_tasks(fm.value_and_grad(value, argnums=(0, 1)), reduce=("sum", None))
    return lambda: _flat(step(d["query"], d["points"], d["weights"]))


def torch_gradient(e: Episodes, metric: str) -> Thunk:
    import torch

    d = {k: torch.from_numpy(v) for k, v in e.data.items()}
    x, y = d["query"].requires_grad_(), d["points"].requires_grad_()

    def step() -> Any:
        if metric == "l1":
            distance = torch.cdist(x, y, p=1)
        else:
            squares = (x**2).sum(2, keepdim=True) - 2 * torch.bmm(x, y.mT) + (y**2).sum(2)[:, None]
            distance = 1 - torch.exp(squares / (-2 * BANDWIDTH**2))
        value = (d["weights"] * distance).sum()
        return (value.detach(), *torch.autograd.grad(value, (x, y)))

    return step


def jax_gradient(e: Episodes, metric: str) -> Thunk:
    import jax
    import jax.numpy as jnp

    d, f = {k: jnp.asarray(v) for k, v in e.data.items()}, jax_metric(metric)
    step = jax.jit(jax.value_and_grad(lambda x, y: (d["weights"] * f(x, y)).sum(), (0, 1)))
    return lambda: jax.block_until_ready(_flat(step(d["query"], d["points"])))


def neighbours(queries: int = 500, rows: int = 5000, features: int = 64, k: int = 5) -> dict[str, Thunk]:
    """The same indices by everyone: distances of the 5 nearest of a bank of embeddings."""
    from scipy.spatial.distance import cdist
    from sklearn.neighbors import NearestNeighbors

    import fastmeta as fm

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(queries, features)).astype(np.float32), rng.normal(size=(rows, features)).astype(np.float32)
    model = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(y)

    def scipy() -> Any:
        d = cdist(x, y, "sqeuclidean")
        return (np.sort(np.partition(d, k, axis=1)[:, :k], axis=1),)

    return {
        "fastmeta": lambda: (fm.kernels.nearest(x, y, k)[0],),
        "scipy": scipy,
        "scikit-learn": lambda: (model.kneighbors(x)[0] ** 2,),
    }


def workloads() -> dict[str, dict[str, Thunk]]:
    """Contestants by workload; what they compute is alike but for rounding."""
    out: dict[str, Any] = {}
    for e in SIZES:
        out[f"episode-dist {e}"] = {
            "fastmeta": lambda e=e: ours_dist(e), "jax": lambda e=e: jax_dist(e), "torch-bmm": lambda e=e: torch_dist(e, "bmm"),
            "torch-cdist": lambda e=e: torch_dist(e, "cdist"),
        }  # fmt: skip
    for m in ("sqeuclidean", "cosine"):
        for e in SIZES:
            out[f"forward-{m} {e}"] = {
                "fastmeta": lambda e=e, m=m: ours_distance(e, m), "jax": lambda e=e, m=m: jax_distance(e, m),
                "torch-bmm": lambda e=e, m=m: torch_distance(e, m, "bmm"),
            }  # fmt: skip
            if m == "sqeuclidean":
                out[f"forward-{m} {e}"]["torch-cdist"] = lambda e=e, m=m: torch_distance(e, m, "cdist")
    for m in ("l1", "rbf"):
        for e in SIZES:
            out[f"gradient-{m} {e}"] = {
                "fastmeta": lambda e=e, m=m: ours_gradient(e, m), "jax": lambda e=e, m=m: jax_gradient(e, m),
                "torch": lambda e=e, m=m: torch_gradient(e, m),
            }  # fmt: skip
    return out


def copy_bandwidth() -> float:
    """GB/s of a copy into a reused buffer by all threads, both directions counted."""
    import time

    import torch

    x = torch.ones(10_000_000)
    y = torch.empty_like(x)
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        y.copy_(x)
        seconds.append(time.perf_counter() - start)
    return 2 * x.numel() * 4 / min(seconds) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.distances", description=__doc__)
    parser.add_argument("names", nargs="*", help="workloads whose title contains one of these (default all)")
    options, origin = begin(parser)
    from bench import measure

    found: dict[str, Any] = {**workloads(), "nearest (500 x 5000, D 64, k 5)": None}
    wanted = [t for t in found if not options.names or any(n in t for n in options.names)]
    print(f"copy {copy_bandwidth():.1f} GB/s", end="\n\n")
    sizes = {str(e): e for e in SIZES}
    reports: dict[str, Any] = {}
    for title in wanted:
        makers = found[title]
        thunks = neighbours() if makers is None else {name: make() for name, make in makers.items()}
        rows = measure.contest(title, thunks, options.rounds, "us", 1e6)
        best = rows["fastmeta"]["us"]["min"] / 1e6
        e = sizes.get(title.partition(" ")[2])
        extra = {"gflops": round(e.flops / best / 1e9, 1), "gb_per_s": round(e.bytes / best / 1e9, 1)} if title.startswith("episode") and e else {}
        reports[title] = {**extra, "rows": rows}
        print(" ".join(f"{k} {v}" for k, v in extra.items()))
        show(title, rows)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps({"provenance": origin, "reports": reports}, indent=1) + "\n")


if __name__ == "__main__":
    main()
