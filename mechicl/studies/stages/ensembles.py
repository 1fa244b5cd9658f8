"""Linear probes on single neurons and on growing ensembles; selection never uses the test data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Judged:
    """Activations of some neurons before tokens of a class and others, in two folds.

    The selection fold is split again: probes that rank neurons are fitted on `learn` and scored on `score`.
    """

    activations: FloatArray
    """[context neuron]"""
    label: BoolArray
    test: BoolArray
    learn: BoolArray
    score: BoolArray

    def correct(self, neurons: list[int], fit: BoolArray, judge: BoolArray) -> BoolArray:
        """Whether a linear probe on these neurons, fitted on `fit`, predicts the label of each context of `judge`."""
        probe = linear_probe().fit(self.activations[fit][:, neurons], self.label[fit])
        right: BoolArray = probe.predict(self.activations[judge][:, neurons]) == self.label[judge]
        return right

    def ranked(self, neurons: list[int], *, on_test: bool = False) -> list[int]:
        """Neurons ranked by accuracy of their single probes; `on_test` ranks on the test data (as the authors do)."""
        fit, judge = (~self.test, self.test) if on_test else (self.learn, self.score)
        accuracy = [self.correct([neuron], fit, judge).mean() for neuron in neurons]
        return [neurons[i] for i in np.argsort(-np.array(accuracy), kind="stable")]

    def greedy(self, ranked: list[int], most: int) -> list[int]:
        """Neurons in greedy order: each improves a least-squares probe most, given those before it.

        Least squares replace logistic regression because thousands of probes are compared, by their error on `score`.
        """
        learn, score = self.activations[self.learn], self.activations[self.score]
        mean, spread = learn.mean(0), learn.std(0) + 1e-9
        learn, score = (np.c_[np.ones(len(part)), (part - mean) / spread] for part in (learn, score))
        target, truth = (np.where(self.label[half], 1.0, -1.0) for half in (self.learn, self.score))
        gram, moment = learn.T @ learn + np.eye(learn.shape[1]), learn.T @ target
        chosen, left = [0], [neuron + 1 for neuron in ranked]  # column 0 is the constant
        while left and len(chosen) <= most:
            errors = []
            for column in left:
                columns = [*chosen, column]
                weights = np.linalg.solve(gram[np.ix_(columns, columns)], moment[columns])
                errors.append(((score[:, columns] @ weights - truth) ** 2).sum())
            chosen.append(left.pop(int(np.argmin(errors))))
        return [column - 1 for column in chosen[1:]]

    def growing(self, order: list[int]) -> list[BoolArray]:
        """For ensembles of the first 1, 2, ... neurons: test contexts that a probe from the other fold gets right."""
        return [self.correct(order[:k], ~self.test, self.test) for k in range(1, len(order) + 1)]


def linear_probe(**options: Any) -> Any:
    """Standardised logistic regression as an unfitted scikit-learn estimator."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(**options))
