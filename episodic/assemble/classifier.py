"""Few-shot answers in the manners of scikit-learn: `fit` keeps a support, `predict` asks a learner about queries."""

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
    """Names items after a few examples of each class, by a learner of this package. Nothing is trained.

    **Arguments:**

    - `model`: a run's folder, whose backbone, learner, wrapper and form of images are used; a file that `save` wrote, likewise; a
      module `[n, C, H, W]` (normalized floats) -> embeddings, which is copied; a configuration as of `conf/predict.yaml`; or
      None (default): X are features `[n, d]`, which the learner compares as they are.
    - `semi`: wrappers that use unlabeled items, a name of `conf/semi` or several, the last outermost. Default: those of the model.
    - `learner`: a name of `conf/learner`, without weights of its own. Default: that of the model, or `"prototypical"`.
    - `options`: settings of the two, or of the model's own, as on the command line, e.g. `("learner.temperature=64",)`.
    - `pictures`: the form of images for a module; by default its `in_channels` and `image_size`, else 3 and 224, normalized as for
      ImageNet. `invert`: turn gray values around, for pictures dark on bright where the model knows bright on dark; by default not.
    - `abstain`: 0, never (the default); a probability; or `"auto"`: the smallest such that of the support items, each left out in
      turn and asked about alone, those answered with it or more are wrong in at most the share `max_error` (default 0.1). That is so of
      these items; of few of them it says little, and less of a transductive learner, which sees several queries at once.
    - `device` (`"auto"`), `precision` (`"fp32"`): as on the command line. None for the last, `invert`, `abstain` or `max_error`: what
      the saved file says that is the model, else the default.

    **Attributes** after `fit`: `classes_`, sorted; `threshold_`, 0 where all answers count; `left_out_`, how many items
    `abstain="auto"` asked about; `names_`, the support's files or None; `form_`, that of images, None for features.

    An inductive learner answers each query as if it were alone, a transductive one (`transductive_`) sees all queries of
    a call together.
    """

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of each item, `[n]`, whether or not its answer counts."""
        labels = self._logits(X).argmax(1)
        return self.classes_[labels]

    def decision_function(self, X: Any) -> np.ndarray:
        """The learner's logits `[n, n_classes]`; of two classes, `[n]`, that of the second less that of the first."""
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
