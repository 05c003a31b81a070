"""A few-shot classifier with the interface of scikit-learn: `fit` keeps examples, and `predict` names other items."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_consistent_length, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from episodic.assemble.predictor import Predictor


class FewShotClassifier(ClassifierMixin, BaseEstimator, Predictor):
    """Names items after a few examples of each class. It asks a learner of this package; nothing is trained.

    >>> from episodic import FewShotClassifier
    >>> FewShotClassifier().fit([[0, 0], [1, 1]], ["a", "b"]).predict([[0.9, 1]]).tolist()
    ['b']

    Without a model it compares features, as above. With one it takes pictures: `FewShotClassifier("runs/x").fit(paths, names)`.

    **Arguments:**

    - `model`: what answers. None (default): X are features `[n, d]`, which the learner compares as they are. A run's folder, or a
      file that `save` wrote: its backbone, learner and wrapper answer. A module, normalized images `[n, C, H, W]` -> embeddings:
      it is copied, and the learner compares what it gives. Or a configuration as of `conf/predict.yaml`.
    - `semi`: wrappers that use unlabeled items: a name of `conf/semi`, or several, the last outermost. Default: those of the model.
    - `learner`: a name of `conf/learner`; it must have no weights of its own. Default: that of the model, else `"prototypical"`.
    - `options`: settings of learner and wrappers as on the command line, e.g. `("learner.temperature=64",)`.
    - `pictures`: the form of the pictures for a module. Default: its `in_channels` and `image_size`, else 3 and 224, and the
      normalization of ImageNet.
    - `invert`: turn gray values around, for pictures that are dark on bright where the model knows bright on dark. Default: no.
    - `abstain`: the probability below which an answer does not count; 0 (default): all count. With `"auto"` it is found by leaving
      out each support item in turn: of those answered with this probability or more, at most the share `max_error` (default 0.1) is
      wrong. A few items say little about others, and less under a transductive learner, which sees several queries at once.
    - `device` (`"auto"`), `precision` (`"fp32"`): as on the command line.
    - `allow_any_target` (default false): let a run or a file build classes of other packages, such as a learner of your own.

    Where `invert`, `abstain`, `max_error` or `precision` is None, it is that of the saved file, else the default.

    **Attributes** after `fit`:

    - `classes_`: the sorted names. `threshold_`: the probability from which an answer counts, 0 where all do.
    - `left_out_`: how many items `abstain="auto"` left out. `names_`: the files of the support, or None.
    - `form_`: the form of the pictures, None for features. `transductive_`: whether all queries of a call are seen together; else
      each is answered as if it were alone.
    """

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of each item, `[n]`. It is given whether or not the answer counts."""
        labels = self._logits(X).argmax(1)
        return self.classes_[labels]

    def decision_function(self, X: Any) -> np.ndarray:
        """The learner's logits, `[n, n_classes]`. For two classes it is their difference, second minus first, `[n]`."""
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def _checked(self, X: Any, y: Any) -> tuple[Any, Any]:
        if self.form_ is None:
            X, y = validate_data(self, X, y, dtype=np.float64)
        y = column_or_1d(y)
        check_consistent_length(X, y)
        check_classification_targets(y)
        return X, y

    def _check_fitted(self) -> None:
        check_is_fitted(self)

    def _features(self, X: Any) -> Float[np.ndarray, "item dim"]:
        return validate_data(self, X, reset=False, dtype=np.float64)
