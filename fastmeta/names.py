"""What NumPy, JAX and PyTorch call otherwise: names that are looked for, and what to use here."""

from __future__ import annotations

MODULE = {
    "absolute": "fm.abs", "allclose": "NumPy's, on results", "amax": "fm.max", "amin": "fm.min", "arccos": "fm.acos", "arcsin": "fm.asin",
    "arctan": "fm.atan", "arctan2": "fm.atan2", "asarray": "NumPy's arrays, which every function takes",
    "bmm": "fm.matmul", "cat": "fm.concat", "concatenate": "fm.concat", "cond": "fm.where", "cross_entropy": "fm.nn.cross_entropy", "cumprod": "fm.cumulative_prod",
    "cumsum": "fm.cumulative_sum", "dot": "fm.matmul", "float32": "np.float32", "float64": "np.float64", "fori_loop": "fm.scan", "gather": "fm.take_along_axis",
    "gelu": "fm.nn.gelu", "hstack": "fm.concat", "inv": "fm.inverse", "lax": "fm.scan and the functions of fm itself",
    "linalg": "fm.norm, fm.inverse, fm.solve, fm.logdet, fm.trace", "mod": "fm.remainder", "newaxis": "None", "numpy": "the functions of fm itself",
    "pi": "math.pi", "pmap": "fm.map_tasks", "random": "a seeded generator of NumPy's outside of the function, and its numbers as an argument",
    "softplus": "fm.nn.softplus", "split": "slices, or fm.unstack", "swapaxes": "fm.permute_dims or fm.moveaxis", "topk": "fm.top_k",
    "transpose": "fm.permute_dims or fm.matrix_transpose", "tree_util": "fm.tree_map", "unbind": "fm.unstack", "vmap": "fm.map_tasks",
    "vstack": "fm.concat", "while_loop": "fm.scan with a fixed length and fm.where",
}  # fmt: skip

VALUE = {
    "at": "fm.where, fm.concat or fm.scatter_add, which make a new array", "copy": "the value itself: nothing is written in place",
    "item": "the value as an array, or return it from the function", "numpy": "the value itself, or return it from the function",
    "tolist": "the value as an array, or return it from the function", "view": "x.reshape", "permute": "fm.permute_dims", "detach": "fm.stop_gradient(x)",
    "to": "fm.astype", "float": "fm.astype", "unsqueeze": "fm.expand_dims", "backward": "fm.grad(f), which takes the function",
}  # fmt: skip


def missing(what: str, name: str, names: dict[str, str]) -> AttributeError:
    """The error of a name that is not there, with what to use instead if it is known."""
    hint = f". Use {names[name]}" if name in names else ""
    return AttributeError(f"{what} has no attribute {name!r}{hint}")
