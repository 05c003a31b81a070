"""Figures of papers, to read beside one's own."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Published:
    """An accuracy in percent on test classes, and whose it is. It is printed beside one's own.

    >>> str(published("omniglot_20w1s", "prototypical", "conv4"))
    'Published: 96 % on test classes (Snell et al., 2017).'
    """

    percent: float
    source: str

    def __str__(self) -> str:
        return f"Published: {self.percent:g} % on test classes ({self.source})."


SNELL, VINYALS, SUNG, FINN = "Snell et al., 2017", "Vinyals et al., 2016", "Sung et al., 2018", "Finn et al., 2017"
LIBFEWSHOT = "the re-run of LibFewShot; the paper has ResNet-12 only"
CONV4 = {
    "omniglot_5w1s": {"prototypical": (98.8, SNELL), "matching": (98.1, VINYALS), "maml": (98.7, FINN)},
    "omniglot_5w5s": {"prototypical": (99.7, SNELL), "matching": (98.9, VINYALS), "maml": (99.9, FINN)},
    "omniglot_20w1s": {"prototypical": (96.0, SNELL), "matching": (93.8, VINYALS), "maml": (95.8, FINN)},
    "miniimagenet_5w1s": {
        "prototypical": (49.42, SNELL),
        "matching": (43.56, "as re-run by Ravi and Larochelle, 2017"),
        "relation": (50.44, SUNG),
        "cross_attention": (55.88, LIBFEWSHOT),
        "maml": (48.70, FINN),
    },
    "miniimagenet_5w5s": {
        "prototypical": (68.20, SNELL),
        "matching": (55.31, "as re-run by Ravi and Larochelle, 2017"),
        "relation": (65.32, SUNG),
        "cross_attention": (70.98, LIBFEWSHOT),
        "maml": (63.11, FINN),
    },
    "miniimagenet_incremental_5w1s": {"attention_attractor": (54.95, "Ren et al., 2019, with a ResNet")},
    "miniimagenet_incremental_5w5s": {"attention_attractor": (63.04, "Ren et al., 2019, with a ResNet")},
    "cifarfs_5w1s": {"prototypical": (55.5, "as re-run by Bertinetto et al., 2019")},
    "cifarfs_5w5s": {"prototypical": (72.0, "as re-run by Bertinetto et al., 2019")},
}


def published(task: str, learner: str, backbone: str) -> Published | None:
    """The figure of the paper for a task, a learner without a wrapper, and a backbone, by their names in `conf/`; None where none
    is known for them together.

    >>> published("glyphs_5w1s", "prototypical", "conv4") is None
    True
    """
    found = CONV4.get(task, {}).get(learner) if backbone == "conv4" else None
    return Published(*found) if found else None
