"""fastmeta on convolutional workloads: `fm.MAML` around a model of `fm.models`, as a user writes it."""

from __future__ import annotations

from collections.abc import Callable

import optree

import fastmeta as fm
from bench.images import ImageWorkload
from bench.workloads import Episodes, Params, Result


def maml(workload: ImageWorkload, params: Params, episodes: Episodes) -> Callable[[], Result]:
    if workload.net == "conv4":
        head = "mean" if workload.mean else "flatten"
        model = fm.models.Conv4(workload.channels[0], workload.ways, workload.input, strided=workload.strided, head=head)
    else:
        model = fm.models.ResNet12(workload.channels, workload.ways, workload.input)
    learner = fm.MAML(model, inner_lr=workload.rate, inner_steps=workload.steps)
    tree = optree.tree_structure(learner.init())
    theta = optree.tree_unflatten(tree, params)

    def meta_step() -> Result:
        (loss, _), gradient = learner.value_and_grad(theta, episodes)
        return loss, optree.tree_leaves(gradient)

    return meta_step
