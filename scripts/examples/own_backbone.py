"""Use a network of your own as the backbone of any learner of the package.
A backbone is a module from images `[item, channels, height, width]` to embeddings `[item, *shape]` that tells its `shape`.

Here it is a network of strided convolutions. The package's own training loop trains it in 100 episodes, as a prototypical and as a
matching network. Prints the accuracy of each on the same 600 5-way 1-shot tasks, and the difference. `own_learner/` shows how a
configuration chooses a part from outside the package.
"""

import itertools

import torch
from torch import nn

from episodic import EpisodeSampler
from episodic.data.augment import Normalize
from episodic.data.sets.glyphs import Glyphs
from episodic.evaluate.intervals import paired_interval
from episodic.evaluate.scoring import Evaluation, evaluate
from episodic.evaluate.tables import percent
from episodic.learners.learner import AbstractMetricLearner
from episodic.learners.matching import Matching
from episodic.learners.prototypical import Prototypical
from episodic.run.device import Hardware
from episodic.train.episodes import EpisodicTraining
from episodic.train.fit import fit
from episodic.train.procedure import Setup
from episodic.train.schedule import Cosine

HARDWARE = Hardware.choose()


class Strided(nn.Module):
    """Three convolutions that halve the image, each with batch norm and a smooth ReLU."""

    def __init__(self, channels: int = 1, image_size: int = 28, widths: tuple[int, ...] = (32, 64, 64)):
        super().__init__()
        blocks = []
        for before, width in itertools.pairwise((channels, *widths)):
            blocks += [nn.Conv2d(before, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.SiLU()]
            image_size = (image_size + 1) // 2
        self.layers = nn.Sequential(*blocks, nn.Flatten())
        self.shape = (widths[-1] * image_size**2,)  # of one embedding; all that a learner asks of its backbone

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


def train_and_test(learner: AbstractMetricLearner) -> Evaluation:
    learner = HARDWARE.place(learner)
    glyphs = Glyphs()
    store, normalize = glyphs.store("train"), Normalize(glyphs.mean, glyphs.std).to(HARDWARE.device)
    setup = Setup(
        learner=learner,
        store=store,
        normalize=normalize,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=3e-3),
        hardware=HARDWARE,
        episodes=lambda count, per_step: EpisodeSampler(store.labels, n_way=20, n_shot=1, n_query=5, episodes=count),
        schedule=Cosine(),
    )
    fit(EpisodicTraining(setup, steps=100))
    unseen = glyphs.store("test")
    tasks = EpisodeSampler(unseen.labels, n_way=5, n_shot=1, n_query=15, episodes=600, epoch=2)
    return evaluate(learner, unseen, tasks, normalize, HARDWARE)


def main() -> None:
    torch.manual_seed(0)
    prototypical = train_and_test(Prototypical(Strided(), temperature=64))  # its embeddings are wide
    matching = train_and_test(Matching(Strided()))
    print(f"prototypical: {percent(prototypical.interval)} %")
    print(f"matching: {percent(matching.interval)} %")
    difference = paired_interval(prototypical.accuracies, matching.accuracies)
    print(f"difference on the same tasks: {percent(difference)} %")


if __name__ == "__main__":
    main()
