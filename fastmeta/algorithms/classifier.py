"""Few-shot classification of features that exist already, with scikit-learn's estimator protocol but without scikit-learn."""

from __future__ import annotations

import functools
import inspect
import sys
import warnings
from typing import Any

import numpy as np
import optree
from numpy.typing import NDArray

from fastmeta import array as fa
from fastmeta.algorithms.covariance import CovarianceNet
from fastmeta.algorithms.frozen import Frozen
from fastmeta.algorithms.inner import positive
from fastmeta.algorithms.matching import MatchingNet
from fastmeta.algorithms.metric import MetricLearner
from fastmeta.algorithms.protonet import ProtoNet, SemiSupervisedProtoNet, one_metric
from fastmeta.errors import expected

__all__ = ["FewShotClassifier"]

METHODS = ("prototypes", "matching", "covariance", "soft-k-means")
NAME = "FewShotClassifier"


class FewShotClassifier:
    """A classifier of embeddings from a handful of examples a class: an estimator for scikit-learn's tools.

    Any backbone may have made the features.  Labels may be numbers or texts.  Arithmetic is float32 for float32 features, else
    float64; the same on every backend.

    | method | a class is near if | learner |
    |---|---|---|
    | prototypes | its mean is | `fastmeta.algorithms.ProtoNet` |
    | matching | its examples are: attention over all of them | `MatchingNet` |
    | covariance | its mean is, by its own shrunk covariance | `CovarianceNet` |
    | soft-k-means | its mean is, refined by unlabelled examples | `SemiSupervisedProtoNet` |

    For "soft-k-means", and for no other method, an example is unlabelled if its label is -1 among whole numbers, as scikit-learn
    has it, or if it is in ``fit``'s ``unlabelled``.  In a pipeline the label -1 is the form to take: its other steps do not
    transform ``unlabelled``.  Beside a single other label, as in -1 and 1, the label -1 is a class.

    Args:
        method: a name of the table.
        metric: "sqeuclidean", "euclidean", "cosine", "dot" or "l1"; covariance has its own and takes none but the default.
        temperature: by which distances are divided, above 0: it moves probabilities, and the classes of "matching".
        center: [features] subtracted first, as the mean of the features that the backbone was trained on; None for none.
        normalize: whether features are divided by their length then; with ``center`` this is SimpleShot (CL2N).
        ridge: added to the diagonal of every covariance, above 0: the less, the more of a class's shape counts; the other
            methods have none and take none but the default.

    After `fit`: ``classes_`` sorted, ``n_features_in_``.
    Errors: at `fit`, naming the parameter, as scikit-learn asks of estimators; ValueError for features or labels that cannot be
    used, saying which, for features so large that no score of an example is finite, and for a ``ridge`` too small to invert a covariance.
    Source: of each method, see its learner; SimpleShot: Wang et al. 2019.

    >>> features = np.array([[0.0, 0.1], [0.2, 0.0], [5.0, 5.1], [5.2, 4.9]])
    >>> classifier = FewShotClassifier(method="prototypes").fit(features, ["cat", "cat", "dog", "dog"])
    >>> classifier.predict([[4.0, 5.0]])
    array(['dog'], dtype='<U3')
    """

    _estimator_type = "classifier"

    def __init__(
        self, method: str = "prototypes", *, metric: str = "sqeuclidean", temperature: float = 1.0, center: Any = None,
        normalize: bool = False, ridge: float = 1.0,
    ):  # fmt: skip
        self.method, self.metric, self.temperature = method, metric, temperature
        self.center, self.normalize, self.ridge = center, normalize, ridge

    def fit(self, X: Any, y: Any, unlabelled: Any = None) -> FewShotClassifier:
        """Learn from features X [n, D] with labels y [n], and with method "soft-k-means" from ``unlabelled`` features [m, D]."""
        head, transform = self._head_and_transform()
        x = _features(X)
        classes, labels = _labels(y, len(x), unlabelled=self.method == "soft-k-means")
        if unlabelled is not None:
            if self.method != "soft-k-means":
                raise expected(NAME, "method 'soft-k-means' for unlabelled examples", repr(self.method))
            more = _features(unlabelled, x.shape[1], x.dtype)
            x, labels = np.concatenate([x, more]), np.concatenate([labels, np.full(len(more), -1, labels.dtype)])
        z = np.asarray(transform((), x))
        task = _compiled(*head).adapt((), z, labels)[1]
        if not all(np.isfinite(part).all() for part in optree.tree_leaves(task)):
            with np.errstate(over="ignore"):
                squares = np.square(z).sum()
            if self.method == "covariance" and np.isfinite(squares):  # so are covariances: their inverses are not
                hint = f"Take a ridge above {self.ridge}, or smaller features: normalize=True, or all divided by a number"
                raise expected(NAME, f"covariances that have an inverse in {x.dtype}", "a singular one", ValueError, hint)
            raise _overflow("finite statistics of the classes", x.dtype)
        # By name, not as the learner itself: what that has compiled cannot be pickled.
        self._head, self._transform, self._task = head, transform, task
        self._dtype, self.classes_, self.n_features_in_ = x.dtype, classes, x.shape[1]
        vars(self).pop("feature_names_in_", None)
        if (names := _names(X)) is not None:
            self.feature_names_in_ = names
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """The most probable class of each row of X [n, D]: [n]."""
        best = self._logits(X).argmax(axis=1)
        result: NDArray[Any] = self.classes_[best]
        return result

    def predict_proba(self, X: Any) -> NDArray[Any]:
        """The probability of each of ``classes_`` for each row of X [n, D]: [n, classes]."""
        return np.asarray(fa.softmax(self._logits(X), axis=1))

    def score(self, X: Any, y: Any) -> float:
        """The share of rows of X [n, D] whose predicted class is y [n]."""
        truth = np.asarray(y)
        predicted = self.predict(X)
        if truth.shape != predicted.shape:
            raise expected(NAME, f"y of shape {list(predicted.shape)}", list(truth.shape))
        return float(np.mean(predicted == truth))

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments."""
        return {name: getattr(self, name) for name in _parameters()}

    def set_params(self, **params: Any) -> FewShotClassifier:
        """Change constructor arguments; they count from the next `fit` on."""
        for name, value in params.items():
            if name not in _parameters():
                raise expected(NAME, f"a parameter of {', '.join(_parameters())}", repr(name))
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        defaults = inspect.signature(type(self).__init__).parameters
        with np.printoptions(threshold=6):  # a center of hundreds of numbers on one line
            shown = {name: (repr(value), repr(defaults[name].default)) for name, value in self.get_params().items()}
        return f"{NAME}({', '.join(f'{name}={value}' for name, (value, default) in shown.items() if value != default)})"

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "classes_")

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags  # only scikit-learn asks

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=True),
            classifier_tags=ClassifierTags(),
            input_tags=InputTags(),
        )

    def _head_and_transform(self) -> tuple[Head, Frozen]:
        """The parameters as they are now, checked: what `_compiled` takes, and the transform of features before it."""
        if self.method not in METHODS:
            raise expected(NAME, f"method one of {', '.join(METHODS)}", repr(self.method))
        if self.method == "covariance" and (self.metric != "sqeuclidean" or self.temperature != 1.0):
            raise expected(NAME, "no metric and temperature for covariance", f"{self.metric!r}, {self.temperature!r}")
        if self.method != "covariance" and self.ridge != 1.0:
            raise expected(NAME, f"no ridge for {self.method}", repr(self.ridge))
        temperature, ridge = (positive(NAME, name, getattr(self, name)) for name in ("temperature", "ridge"))
        return (self.method, one_metric(NAME, self.metric), temperature, ridge), Frozen(self.center, self.normalize)

    def _logits(self, X: Any) -> NDArray[Any]:
        if not hasattr(self, "classes_"):
            raise _not_fitted()
        names, given = getattr(self, "feature_names_in_", None), _names(X)
        if names is not None and given is not None and list(names) != list(given):
            hint = "The feature names should match those that were passed during fit"
            raise expected(NAME, f"columns {list(names)}, as in fit", list(given), ValueError, hint)
        x = _features(X, self.n_features_in_, self._dtype)
        # Up to a power of two, so that few programs serve any number of queries: a query's scores depend on no other.
        padded = np.pad(x, ((0, (1 << (len(x) - 1).bit_length()) - len(x)), (0, 0)), mode="edge")
        task = ((), self._task, ())
        scores = np.asarray(_compiled(*self._head).predict(task, self._transform((), padded)))[: len(x)]
        # A class may be infinitely far, but not all, and none may be near for want of a number.
        bad = np.flatnonzero(~np.isfinite(scores.max(axis=1)))
        if len(bad):
            raise _overflow(f"a finite score of row {bad[0]}", self._dtype)
        return scores


Head = tuple[str, str, float, float]  # method, metric, temperature and ridge


@functools.lru_cache(maxsize=64)
def _compiled(method: str, metric: str, temperature: float, ridge: float) -> MetricLearner:
    """One learner for all classifiers with these parameters, since it keeps what it has compiled."""
    if method == "covariance":
        return CovarianceNet(Frozen(), ridge)
    make = {"prototypes": ProtoNet, "matching": MatchingNet, "soft-k-means": SemiSupervisedProtoNet}[method]
    return make(Frozen(), metric=metric, temperature=temperature)


def _overflow(what: str, dtype: np.dtype[Any]) -> ValueError:
    hint = f"Features are too large for {dtype}: divide them all by a number, or take normalize=True"
    return expected(NAME, what, "NaN or infinity", ValueError, hint)


def _parameters() -> list[str]:
    return [name for name in inspect.signature(FewShotClassifier.__init__).parameters if name != "self"]


def _names(X: Any) -> NDArray[Any] | None:
    """The columns of a data frame, if they have names."""
    columns = list(getattr(X, "columns", ()))
    return np.array(columns, object) if columns and all(isinstance(name, str) for name in columns) else None


def _features(X: Any, features: int | None = None, dtype: np.dtype[Any] | None = None) -> NDArray[Any]:
    """X as floats [n, D], of ``dtype`` if given; the phrases after ``hint`` are those that scikit-learn's checks look for."""
    if hasattr(X, "toarray"):
        raise expected(NAME, "a dense array", "a sparse one", TypeError, "Sparse data is not supported: use X.toarray()")
    x = np.asarray(X)
    if x.dtype.kind == "c":
        raise expected(NAME, "real features", x.dtype, ValueError, "Complex data not supported")
    if x.dtype.kind not in "fiub":
        try:
            x = x.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise expected(NAME, "features that are numbers", x.dtype, type(error), str(error)) from None
    if x.ndim != 2:
        raise expected(NAME, "features [n, D]", f"shape {list(x.shape)}", ValueError, "Reshape your data")
    if not x.shape[1]:
        hint = f"Found array with 0 feature(s) (shape={x.shape}) while a minimum of 1 is required."
        raise expected(NAME, "at least one feature", 0, ValueError, hint)
    if not len(x):
        hint = f"Found array with 0 sample(s) (shape={x.shape}) while a minimum of 1 is required."
        raise expected(NAME, "at least one example", 0, ValueError, hint)
    if features not in (None, x.shape[1]):
        hint = f"X has {x.shape[1]} features, but {NAME} is expecting {features} features as input"
        raise expected(NAME, f"{features} features, as in fit", x.shape[1], ValueError, hint)
    with np.errstate(over="ignore"):  # what the dtype cannot hold is refused in the next line
        x = x.astype(dtype or (np.float32 if x.dtype == np.float32 else np.float64))
    if not np.isfinite(x).all():
        hint = f"Input X contains NaN or inf, or numbers too large for {x.dtype}"
        raise expected(NAME, "finite features", "NaN or infinity", ValueError, hint)
    return np.ascontiguousarray(x)


def _labels(y: Any, examples: int, unlabelled: bool) -> tuple[NDArray[Any], NDArray[Any]]:
    """The sorted classes, and the index of each example's; where examples may be ``unlabelled``, -1 for these."""
    if y is None:
        raise expected(NAME, "labels y", None, ValueError, f"{NAME} requires y to be passed, but the target y is None")
    labels = np.asarray(y)
    if labels.ndim == 2 and labels.shape[1] == 1:
        kind = getattr(sys.modules.get("sklearn.exceptions"), "DataConversionWarning", UserWarning)
        warnings.warn("A column-vector y was passed when a 1d array was expected", kind, stacklevel=4)
        labels = labels[:, 0]
    if labels.shape != (examples,):
        raise expected(NAME, f"one label for each of {examples} examples", f"shape {list(labels.shape)}")
    if labels.dtype.kind == "f":
        if not np.isfinite(labels).all():
            raise expected(NAME, "finite labels", "NaN or infinity", ValueError, "Input y contains NaN or inf")
        if (labels != np.round(labels)).any():
            raise expected(NAME, "labels that name classes", "fractions", ValueError, "Unknown label type: continuous")
    classes, indices = np.unique(labels, return_inverse=True)
    if unlabelled and labels.dtype.kind == "i" and classes[0] == -1 and len(classes) > 2:
        classes, indices = classes[1:], indices - 1
    return classes, indices.astype(np.int32)


class _NotFitted(ValueError, AttributeError):
    """As scikit-learn's NotFittedError, where scikit-learn is not in use."""


def _not_fitted() -> Exception:
    kind = getattr(sys.modules.get("sklearn.exceptions"), "NotFittedError", _NotFitted)
    return expected(NAME, "a call of fit first", "none", kind, f"This {NAME} instance is not fitted yet")
