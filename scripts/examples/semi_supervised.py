"""Put a semi-supervised wrapper around a learner that was trained without one.
The wrapper uses unlabeled images, some of which are of classes that the task does not ask for.

A prototypical network trains in 100 episodes. Then each of 600 5-way 1-shot tasks has 5 unlabeled images of each class, and as many
of each of 5 distractor classes; label propagation spreads the labels to them. Prints the accuracy with and without it, their
difference on the same tasks, and how many unlabeled images of the task's classes got the right label.
"""

import torch

from episodic import EpisodeSampler
from episodic.core.backbones.conv4 import Conv4
from episodic.data.augment import Normalize
from episodic.data.sets.glyphs import Glyphs
from episodic.evaluate.intervals import mean_interval, paired_interval
from episodic.evaluate.scoring import evaluate
from episodic.evaluate.tables import percent
from episodic.learners.prototypical import Prototypical
from episodic.run.device import Hardware
from episodic.semi.label_propagation import LabelPropagation
from episodic.train.episodes import EpisodicTraining
from episodic.train.fit import fit
from episodic.train.procedure import Setup
from episodic.train.schedule import Cosine


def main() -> None:
    torch.manual_seed(0)
    hardware, glyphs = Hardware.choose(), Glyphs()
    learner = hardware.place(Prototypical(Conv4(in_channels=1, image_size=28, widths=(32, 32, 32, 32))))
    store, normalize = glyphs.store("train"), Normalize(glyphs.mean, glyphs.std).to(hardware.device)
    setup = Setup(
        learner=learner,
        store=store,
        normalize=normalize,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=3e-3),
        hardware=hardware,
        episodes=lambda count, per_step: EpisodeSampler(store.labels, n_way=20, n_shot=1, n_query=5, episodes=count),
        schedule=Cosine(),
    )
    fit(EpisodicTraining(setup, steps=100))

    unseen = glyphs.store("test")
    tasks = EpisodeSampler(
        unseen.labels, n_way=5, n_shot=1, n_query=10, n_unlabeled=5, n_distractors=5, episodes=600, epoch=2
    )
    alone = evaluate(learner, unseen, tasks, normalize, hardware)  # a learner without a wrapper does not look at them
    spread = evaluate(LabelPropagation(learner), unseen, tasks, normalize, hardware)
    print(f"support alone: {percent(alone.interval)} %")
    print(f"with unlabeled images: {percent(spread.interval)} %")
    difference = paired_interval(spread.accuracies, alone.accuracies)
    print(f"difference on the same tasks: {percent(difference)} %")
    print(f"unlabeled images labeled rightly: {percent(mean_interval(spread.details['unlabeled accuracy']))} %")


if __name__ == "__main__":
    main()
