"""The measurements that a report shows of a run.

They are taken in one pass over the episodes: accuracies and confusions of classes, example episodes, and the confidence of each
answer.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int64

from episodic.data.augment import Normalize
from episodic.data.store import ImageStore
from episodic.episodes.indices import EpisodeIndices
from episodic.episodes.source import Episodes
from episodic.evaluate.intervals import Interval, repeats_interval
from episodic.evaluate.scoring import Evaluation, evaluate
from episodic.learners.learner import AbstractLearner
from episodic.learners.prediction import Prediction
from episodic.run.device import Hardware

FEWEST = 5  # episodes of equal accuracy from which a spread of 0 is believed
DOUBT = 30  # right answers added to each pair of classes, so that one unlucky episode is not at the head of the list


class ConfusionCounts:
    """Counts of right and wrong answers by class. `add` counts a block of episodes.

    - `asked [C, C]`: the number of queries of class a in episodes where b was a possible answer; on the diagonal all queries of a.
    - `answered [C, C]`: how many of these were answered by b.
    - `episodes [C]`: the number of episodes with queries of class a.
    - `mean [C]`: the mean accuracy of class a in these episodes, NaN where there are none.

    >>> from episodic import EpisodeSampler
    >>> counts = ConfusionCounts(n_classes=2)
    >>> sampler = EpisodeSampler([0, 0, 0, 1, 1, 1], n_way=2, n_shot=1, n_query=2, episodes=1)
    >>> episode = sampler[0]
    >>> counts.add(episode, np.zeros_like(episode.query_y))  # every query is answered by the first class of the episode
    >>> sorted(counts.mean.tolist())
    [0.0, 1.0]
    """

    def __init__(self, n_classes: int):
        self.asked, self.answered = (np.zeros((n_classes, n_classes), np.int32) for _ in range(2))
        self.episodes = np.zeros(n_classes, np.int64)
        self._shares: list[list[float]] = [[] for _ in range(n_classes)]
        self._total = np.zeros(n_classes)

    def add(self, indices: EpisodeIndices, answers: Int64[np.ndarray, "episode query"]) -> None:
        """Count the local `answers` to the queries of `indices`."""
        names = indices.answer_class_ids
        truth = np.take_along_axis(names, indices.query_y, axis=1)
        np.add.at(self.answered, (truth, np.take_along_axis(names, answers, axis=1)), 1)
        np.add.at(self.asked, (truth[:, :, None], indices.class_ids[:, None, :]), 1)
        if indices.n_base:  # always possible answers
            self.asked[:, : indices.n_base] += np.bincount(truth.ravel(), minlength=len(self.asked))[:, None]
        slot = (indices.query_y + names.shape[1] * np.arange(len(names))[:, None]).ravel()
        counts = np.bincount(slot, minlength=names.size)
        rights = np.bincount(slot, weights=(answers == indices.query_y).ravel(), minlength=names.size)
        held = counts > 0
        ids, share = names.ravel()[held], rights[held] / counts[held]
        np.add.at(self.episodes, ids, 1)
        np.add.at(self._total, ids, share)
        for c, value in zip(ids.tolist(), share.tolist(), strict=True):
            self._shares[c].append(value)

    @property
    def mean(self) -> Float[np.ndarray, " classes"]:
        return np.divide(self._total, self.episodes, where=self.episodes > 0, out=np.full(len(self.episodes), np.nan))

    def interval(self, c: int) -> Interval | None:
        """The mean accuracy of class c with Student's t interval over its episodes. The interval is cut at 0 and 1.

        None where the episodes do not show a spread: after one episode, or after fewer than `FEWEST` that have the same accuracy.
        """
        values = np.array(self._shares[c])
        if len(values) < 2 or (len(values) < FEWEST and np.ptp(values) == 0):
            return None
        found = repeats_interval(values)
        return Interval(found.mean, min(found.below, found.mean), min(found.above, 1 - found.mean))

    @property
    def hardest(self) -> Int64[np.ndarray, " asked"]:
        """The classes that had queries, the least accurate first. Of equal ones, those of fewer episodes come first."""
        order = np.lexsort((self.episodes, self.mean))  # NaN comes last
        return order[: np.count_nonzero(self.episodes)]

    def confusions(self, most: int) -> list[tuple[int, int]]:
        """Up to `most` pairs `(class, answer)` of confused classes, the pair with the largest share of confused queries first.

        The share is of the queries with this answer among the possible ones, counted as if `DOUBT` more were answered rightly.
        """
        wrong = self.answered - np.diag(np.diag(self.answered))
        truth, answer = np.nonzero(wrong)
        share = wrong[truth, answer] / (self.asked[truth, answer] + DOUBT)
        order = np.argsort(-share, kind="stable")[:most]
        return [(int(truth[i]), int(answer[i])) for i in order]


@dataclasses.dataclass(frozen=True, eq=False)
class EpisodeExample:
    """One episode with its answers: `answers [Q]`, local labels, and `taken [U, n_way]` or None, see `Prediction.unlabeled`."""

    number: int
    indices: EpisodeIndices
    answers: np.ndarray
    taken: np.ndarray | None

    @property
    def accuracy(self) -> float:
        return float((self.answers == self.indices.query_y[0]).mean())


@dataclasses.dataclass(frozen=True, eq=False)
class Measurements:
    """What was measured of one learner on a list of episodes.

    - `evaluation`: that of `episodic.evaluate.scoring.evaluate`. `counts`: the answers by class.
    - `confidence [N]`: the largest probability of each query's answer. `right [N]`: whether the answer was right.
    - `wrong [W, 3]`: the item, its class and the answer of each query that was answered wrongly.
    - `examples`: the best, a median and the worst episode.
    """

    evaluation: Evaluation
    counts: ConfusionCounts
    confidence: Float[np.ndarray, " queries"]
    right: Bool[np.ndarray, " queries"]
    wrong: Int64[np.ndarray, "wrong 3"]
    examples: dict[str, EpisodeExample]

    def first_mistake(self, truth: int, answer: int) -> int:
        """The first query of class `truth` that was answered by `answer`."""
        return int(self.wrong[(self.wrong[:, 1] == truth) & (self.wrong[:, 2] == answer), 0][0])


def measure(
    learner: AbstractLearner,
    store: ImageStore,
    episodes: Episodes,
    normalize: Normalize,
    hardware: Hardware,
    *,
    progress: bool = False,
) -> Measurements:
    """Measure `learner` on `episodes` of `store` in one pass. The arguments are those of `evaluate`."""
    counts = ConfusionCounts(len(store.class_names))
    confidence, right, wrong, blocks = [], [], [], []

    def note(indices: EpisodeIndices, prediction: Prediction) -> None:
        probability, answers = prediction.logits.float().softmax(-1).max(-1)
        confidence.append(probability.flatten().cpu().numpy())
        answers = answers.cpu().numpy()
        counts.add(indices, answers)
        correct = answers == indices.query_y
        right.append(correct.ravel())
        names = indices.answer_class_ids
        told = [np.take_along_axis(names, y, axis=1) for y in (indices.query_y, answers)]
        wrong.append(np.stack([indices.query, *told], axis=-1)[~correct])
        taken = prediction.unlabeled
        blocks.append((indices, answers, None if taken is None else taken.cpu().numpy()))

    evaluation = evaluate(learner, store, episodes, normalize, hardware, progress=progress, on_block=note)
    starts = np.cumsum([0, *(len(indices) for indices, _, _ in blocks)])

    def example(number: int) -> EpisodeExample:
        block = int(np.searchsorted(starts, number, side="right")) - 1
        indices, answers, taken = blocks[block]
        row = number - int(starts[block])
        return EpisodeExample(number, indices[row : row + 1], answers[row], None if taken is None else taken[row])

    order = np.argsort(-evaluation.accuracies, kind="stable")
    places = {"best": order[0], "median": order[len(order) // 2], "worst": order[-1]}
    return Measurements(
        evaluation=evaluation,
        counts=counts,
        confidence=np.concatenate(confidence),
        right=np.concatenate(right),
        wrong=np.concatenate(wrong),
        examples={name: example(int(number)) for name, number in places.items()},
    )
