"""FewShotClassifier: scikit-learn's checks, closed forms, and what it refuses."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.metrics import pairwise_distances
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import fastmeta as fm

METHODS = ("prototypes", "matching", "covariance", "soft-k-means")
RNG = np.random.default_rng(0)
X, Y, QUERIES = RNG.normal(size=(12, 4)), np.repeat(["c", "a", "b"], 4), RNG.normal(size=(7, 4))
X += 2 * (Y == "a")[:, None]


@pytest.mark.filterwarnings("ignore:Estimator FewShotClassifier does not inherit")
@pytest.mark.parametrize("method", METHODS)
def test_scikit_learn_checks_it(method):
    done = check_estimator(fm.FewShotClassifier(method=method), on_skip=None)
    assert len(done) > 40 and all(check["status"] != "failed" for check in done)


def softmax(scores):
    e = np.exp(scores - scores.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("metric", "theirs"), [("sqeuclidean", "sqeuclidean"), ("euclidean", "euclidean"), ("cosine", "cosine"), ("l1", "manhattan")])
def test_prototypes_are_class_means(metric, theirs, backend):
    classifier = fm.FewShotClassifier(metric=metric, temperature=0.5).fit(X, Y)
    means = np.stack([X[c == Y].mean(axis=0) for c in "abc"])
    np.testing.assert_allclose(classifier.predict_proba(QUERIES), softmax(-pairwise_distances(QUERIES, means, theirs) / 0.5), 1e-8)
    assert classifier.classes_.tolist() == ["a", "b", "c"]
    if metric == "euclidean":
        assert (classifier.predict(QUERIES) == NearestCentroid().fit(X, Y).predict(QUERIES)).all()


def test_matching_attends_to_examples(backend):
    weights = softmax(-pairwise_distances(QUERIES, X, "sqeuclidean") / 2)
    want = np.stack([weights[:, c == Y].sum(axis=1) for c in "abc"], axis=1)
    np.testing.assert_allclose(fm.FewShotClassifier("matching", temperature=2).fit(X, Y).predict_proba(QUERIES), want, 1e-8)


def test_simpleshot_is_centred_and_of_length_one():
    center = RNG.normal(size=4)
    a, q = (((x - center) / np.linalg.norm(x - center, axis=1, keepdims=True)) for x in (X, QUERIES))
    got = fm.FewShotClassifier(center=center, normalize=True).fit(X, Y).predict_proba(QUERIES)
    np.testing.assert_allclose(got, fm.FewShotClassifier().fit(a, Y).predict_proba(q), 1e-9)


def test_unlabelled_examples_move_prototypes():
    x, y = np.array([[0.0], [4.0]]), [0, 1]
    alone = fm.FewShotClassifier("soft-k-means").fit(x, y)
    helped = fm.FewShotClassifier("soft-k-means").fit(x, y, unlabelled=np.full((50, 1), 6.0))
    assert alone.predict([[2.2]]) == [1] and helped.predict([[2.2]]) == [0]


def test_it_works_with_scikit_learns_tools():
    search = GridSearchCV(fm.FewShotClassifier(), {"metric": ["sqeuclidean", "cosine"], "method": ["prototypes", "matching"]}, cv=2).fit(X, Y)
    assert search.best_score_ > 0.4 and search.best_estimator_.score(X, Y) > 0.6
    copy = clone(fm.FewShotClassifier("matching", temperature=2.0, center=np.zeros(4)))
    assert repr(clone(fm.FewShotClassifier("matching", temperature=2.0))) == "FewShotClassifier(method='matching', temperature=2.0)"
    assert copy.get_params()["temperature"] == 2.0 and copy.fit(X, Y).predict(X[:1]).shape == (1,)


def test_labels_of_minus_one_are_unlabelled_for_soft_k_means_only():
    x, y = np.concatenate([X, QUERIES]), np.concatenate([np.repeat([2, 0, 1], 4), np.full(len(QUERIES), -1)])
    by_label = make_pipeline(StandardScaler(), fm.FewShotClassifier("soft-k-means")).fit(x, y)
    z = StandardScaler().fit(x).transform(x)
    by_argument = fm.FewShotClassifier("soft-k-means").fit(z[:12], y[:12], unlabelled=z[12:])
    assert by_label.classes_.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(by_label.predict_proba(x), by_argument.predict_proba(z))
    assert fm.FewShotClassifier().fit(x, y).classes_.tolist() == [-1, 0, 1, 2]
    assert fm.FewShotClassifier("soft-k-means").fit(x, np.where(y > 0, 1, -1)).classes_.tolist() == [-1, 1]


def test_parameters_set_after_fit_count_from_the_next_fit_on():
    center = np.zeros(4)
    classifier = fm.FewShotClassifier(center=center).fit(X, Y)
    want = classifier.predict_proba(QUERIES)
    center += 5  # the caller's array is not ours
    for changed in ({"method": "matching", "temperature": 3.0}, {"method": "knn"}, {"center": np.ones(9), "normalize": True}):
        np.testing.assert_array_equal(classifier.set_params(**changed).predict_proba(QUERIES), want)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(classifier)).predict_proba(QUERIES), want)
    with pytest.raises(ValueError, match="expected method"):
        classifier.fit(X, Y)
    assert not hasattr(clone(classifier), "classes_")


def test_an_array_as_center_is_shown_and_whole_numbers_may_be_one():
    assert repr(fm.FewShotClassifier(center=np.zeros(3))) == "FewShotClassifier(center=array([0., 0., 0.]))"
    assert len(repr(fm.FewShotClassifier(center=np.zeros(640), normalize=True))) < 120
    for center in ([1, 2, 3, 4], np.arange(1, 5), [1.0, 2.0, 3.0, 4.0]):
        got = fm.FewShotClassifier(center=center, normalize=True).fit(X, Y).predict_proba(QUERIES)
        want = fm.FewShotClassifier(center=np.arange(1.0, 5.0), normalize=True).fit(X, Y).predict_proba(QUERIES)
        np.testing.assert_array_equal(got, want)
    third = fm.FewShotClassifier(center=[1 / 3] * 4).fit(X, Y)._transform.center
    assert third.dtype == np.float64 and third[0] == 1 / 3


@pytest.mark.parametrize(("dtype", "large"), [(np.float32, 1e25), (np.float64, 1e200)])
@pytest.mark.parametrize("method", METHODS)
def test_overflow_is_refused(method, dtype, large):
    x = X.astype(dtype)
    classifier = fm.FewShotClassifier(method).fit(x, Y)
    with pytest.raises(ValueError, match=f"expected a finite score of row 1, got NaN or infinity. Features are too large for {dtype.__name__}"):
        classifier.predict(np.stack([x[0], x[1] * dtype(large)]))
    with pytest.raises(ValueError, match="expected finite features.* too large for float32"):
        fm.FewShotClassifier(method).fit(X.astype(np.float32), Y).predict_proba(X * 1e200)
    with pytest.raises(ValueError, match="Features are too large"):
        fm.FewShotClassifier(method).fit(x * dtype(large), Y).predict(QUERIES.astype(dtype) * dtype(large))
    tame = fm.FewShotClassifier(method, normalize=True).fit(x * dtype(large), Y)
    assert np.isfinite(tame.predict_proba(x * dtype(large))).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_singular_covariance_asks_for_a_larger_ridge(dtype):
    x = np.repeat(X.astype(dtype), 2, axis=1)  # each feature twice
    classifier = fm.FewShotClassifier("covariance", ridge=1e-20)
    with pytest.raises(ValueError, match=f"an inverse in {dtype.__name__}, got a singular one. Take a ridge above 1e-20"):
        classifier.fit(x, Y)
    assert classifier.set_params(ridge=1e-3).fit(x, Y).score(x, Y) > 0.9


def test_covariance_takes_a_ridge():
    classifier = fm.FewShotClassifier("covariance", ridge=0.3).fit(X, Y)
    total, want = np.cov(X.T), []
    for c in "abc":
        covariance = 4 / 5 * np.cov(X[c == Y].T) + 1 / 5 * total + 0.3 * np.eye(4)
        apart = QUERIES - X[c == Y].mean(axis=0)
        want.append(-0.5 * np.einsum("nd,de,ne->n", apart, np.linalg.inv(covariance), apart))
    np.testing.assert_allclose(classifier.predict_proba(QUERIES), softmax(np.stack(want, axis=1)), 1e-9)


def test_float32_stays_and_number_of_queries_does_not_matter():
    classifier = fm.FewShotClassifier().fit(X.astype(np.float32), Y)
    whole = classifier.predict_proba(QUERIES.astype(np.float32))
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(whole[2:3], classifier.predict_proba(QUERIES[2:3].astype(np.float32)))


def test_it_needs_no_scikit_learn():
    script = """
import sys, numpy as np, fastmeta as fm
sys.modules["sklearn"] = None
c = fm.FewShotClassifier()
try:
    c.predict(np.ones((1, 2)))
except ValueError as error:
    assert "expected a call of fit first" in str(error)
print(*c.fit(np.eye(2), [3, 5]).predict(np.eye(2)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["3", "5"], done.stderr


def fitted(**parameters):
    return lambda: fm.FewShotClassifier(**parameters).fit(X, Y)


HERE = "[FewShotClassifier] "
BAD = [
    (fitted(method="knn"), ValueError, HERE + "expected method one of prototypes, matching, covariance, soft-k-means, got 'knn'"),
    (fitted(metric="manhattan"), ValueError, HERE + "expected metric one of sqeuclidean, euclidean, cosine, dot, l1, got 'manhattan'"),
    (fitted(temperature=0.0), ValueError, HERE + "expected temperature above 0, got 0.0"),
    (fitted(temperature="warm"), TypeError, HERE + "expected temperature a number, got 'warm'"),
    (fitted(method="covariance", metric="cosine"), ValueError, HERE + "expected no metric and temperature for covariance"),
    (fitted(center=np.ones(3)), ValueError, "[Frozen] expected features [n, 3], got shape [12, 4]"),
    (fitted(center=np.ones((1, 4))), ValueError, "[Frozen] expected center numbers of shape [D], got float64 [1, 4]"),
    (fitted(center=np.array([0, np.nan, 0, 0])), ValueError, "[Frozen] expected center finite, got NaN or infinity"),
    (fitted(method="covariance", ridge=0), ValueError, HERE + "expected ridge above 0, got 0"),
    (fitted(ridge=0.5), ValueError, HERE + "expected no ridge for prototypes, got 0.5"),
    (fitted(normalize=1), TypeError, "[Frozen] expected normalize True or False, got 1"),
    (lambda: fm.FewShotClassifier().fit(X, Y, unlabelled=X), ValueError, HERE + "expected method 'soft-k-means' for unlabelled examples, got 'prototypes'"),
    (lambda: fm.FewShotClassifier().fit(X[:, 0], Y), ValueError, HERE + "expected features [n, D], got shape [12]. Reshape your data"),
    (lambda: fm.FewShotClassifier().fit(X * np.nan, Y), ValueError, HERE + "expected finite features, got NaN or infinity"),
    (lambda: fm.FewShotClassifier().fit(X, Y[:5]), ValueError, HERE + "expected one label for each of 12 examples, got shape [5]"),
    (lambda: fm.FewShotClassifier().fit(X, np.linspace(0, 1, 12)), ValueError, HERE + "expected labels that name classes, got fractions"),
    (lambda: fitted()().predict(X[:, :3]), ValueError, HERE + "expected 4 features, as in fit, got 3"),
    (lambda: fitted()().score(X, Y[:5]), ValueError, HERE + "expected y of shape [12], got [5]"),
    (lambda: fm.FewShotClassifier().set_params(k=3), ValueError, HERE + "expected a parameter of method, metric, temperature, center, normalize, ridge, got 'k'"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "message"), BAD, ids=range(len(BAD)))
def test_bad_input_is_refused(call, kind, message):
    with pytest.raises(kind, match=re.escape(message)):
        call()


class Frame:
    """As much of a data frame as a classifier asks for."""

    def __init__(self, values, columns):
        self.values, self.columns = values, columns

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.values, dtype)


def test_columns_of_a_frame_are_those_of_fit():
    x, y = np.random.default_rng(0).normal(size=(6, 2)), np.repeat([0, 1], 3)
    c = fm.FewShotClassifier().fit(Frame(x, ["a", "b"]), y)
    assert c.feature_names_in_.tolist() == ["a", "b"]
    np.testing.assert_array_equal(c.predict(Frame(x, ["a", "b"])), c.predict(x))
    with pytest.raises(ValueError, match=r"expected columns \['a', 'b'\], as in fit, got \['b', 'a'\]\. The feature names should match"):
        c.predict(Frame(x[:, ::-1], ["b", "a"]))
    assert not hasattr(c.fit(x, y), "feature_names_in_") and not hasattr(c.fit(Frame(x, [0, 1]), y), "feature_names_in_")
