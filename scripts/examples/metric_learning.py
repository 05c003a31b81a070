"""Train a network with losses of embeddings in a loop of your own, without episodes and without a learner.
Prints how well it finds images of the same class, before and after the training.

The network is small and trains for 100 steps on class-balanced batches. It has two losses: the multi-similarity loss, which also
sees the embeddings of past batches, and a triplet loss with mined triplets. Printed are Recall@1, R-precision and MAP@R on letters
of scripts that were not trained on, and the few-shot accuracy of the same embeddings.
"""

import torch
from torch.utils.data import DataLoader

from episodic import EpisodeSampler
from episodic.core.backbones.conv4 import Conv4
from episodic.core.backbones.head import LinearHead
from episodic.core.losses.memory.xbm import XBM
from episodic.core.losses.multi_similarity import MultiSimilarity
from episodic.core.losses.triplet import Triplet
from episodic.data.augment import Normalize
from episodic.data.sets.glyphs import Glyphs
from episodic.evaluate.retrieval import retrieval
from episodic.evaluate.scoring import evaluate
from episodic.evaluate.tables import percent
from episodic.learners.matching import Matching
from episodic.run.device import Hardware
from episodic.run.embed import embed

STEPS = 100


def main() -> None:
    torch.manual_seed(0)
    hardware, glyphs = Hardware.choose(), Glyphs()
    train, unseen = glyphs.store("train"), glyphs.store("test")
    normalize = Normalize(glyphs.mean, glyphs.std).to(hardware.device)
    network = hardware.place(LinearHead(Conv4(in_channels=1, image_size=28, widths=(32, 32, 32, 32)), embedding_dim=64))
    multi_similarity = XBM(MultiSimilarity(), dim=64, size=1024, start=30).to(hardware.device)
    triplet = Triplet(triplets="semi_hard", margin=0.2)

    def report(when: str) -> None:
        found = retrieval(embed(network, unseen, normalize, hardware), unseen.labels.to(hardware.device))
        for name in ("recall@1", "r_precision", "map@r"):
            print(f"{name} {when}: {percent(found.intervals[name])} %")

    report("before")
    balanced = EpisodeSampler(
        train.labels, n_way=24, n_shot=2, n_query=2, episodes=STEPS
    )  # 24 classes, 4 images of each
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    network.train()
    for images, labels in DataLoader(train, batch_sampler=balanced):
        images, labels = images.to(hardware.device), labels.to(hardware.device)
        with hardware.autocast():
            embeddings = network(normalize(images))
        loss = multi_similarity(embeddings, labels) + triplet(embeddings, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    report("after")
    tasks = EpisodeSampler(unseen.labels, n_way=5, n_shot=1, n_query=15, episodes=600, epoch=2)
    scored = evaluate(Matching(network), unseen, tasks, normalize, hardware)
    print(f"5-way 1-shot by cosine: {percent(scored.interval)} %")


if __name__ == "__main__":
    main()
