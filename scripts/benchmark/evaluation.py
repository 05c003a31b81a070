"""Time scoring many episodes, from files to accuracy: the row `evaluation` of the benchmark.

The learner is Prototypical Networks (Conv4, random weights) on miniImageNet's validation classes. Ours opens the image cache (built
before the clock starts), embeds every image once and scores `--episodes` episodes; all of it is timed. The peer is
`easyfsl.utils.evaluate` in float32, which decodes and embeds the images of each episode anew, on `--peer-episodes` episodes;
opening its data set is not timed, and nothing is resized. Before that both answer the same episodes: float32 scores must agree to
0.1 %, and the accuracy of the timed run, in our precision, to one percentage point.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from benchmark.measuring import DIFFERENT, QUERY, SHOT, WAY, Comparison, by_class, conv4, in_child, peer, task_sampler
from episodic import EpisodeSampler
from episodic.data.augment import Normalize
from episodic.data.sets.miniimagenet import MiniImageNet
from episodic.evaluate.scoring import episode_predictor, evaluate
from episodic.learners.prototypical import Prototypical
from episodic.run.device import Hardware

TARGET = 200


def evaluation(args: argparse.Namespace, hardware: Hardware) -> Iterator[Comparison]:
    """Compare the scoring of many episodes of miniImageNet's validation classes, from disk."""
    dataset = MiniImageNet(args.data_dir)
    listing, store = dataset.listing("val"), dataset.store("val")
    path, row = listing.items[0]
    if row is not None or Image.open(path).size != (84, 84):
        raise FileNotFoundError("the comparison needs miniImageNet as image files of 84 x 84")
    learner = hardware.place(Prototypical(conv4())).eval()
    normalize = Normalize(dataset.mean, dataset.std).to(hardware.device)
    tasks = min(args.peer_episodes, args.episodes)
    few = EpisodeSampler(store.labels.numpy(), WAY, SHOT, QUERY, episodes=tasks)[0:tasks]
    # easyfsl's table of files; it finds absolute names whatever its root folder is
    rows = zip(listing.labels, listing.items, strict=True)
    lines = [f'{listing.class_names[label]},"{path.resolve()}"' for label, (path, _) in rows]
    setting = ("\n".join(["class_name,image_name", *lines]), str(hardware.device))
    scores, peer_accuracy = in_child(peer_answers, *setting, by_class(few).tolist(), few.class_ids.tolist())
    with torch.inference_mode():
        predict, _ = episode_predictor(
            learner, store, normalize, Hardware(hardware.device, torch.float32), cached=False
        )
        logits = torch.cat([predict(few[i : i + 1])[1].logits for i in range(tasks)]).cpu().numpy()
    error = np.abs(logits + scores**2).max() / np.abs(logits).max()  # easyfsl's distances are not squared
    same = (logits.argmax(-1) == scores.argmax(-1)).mean()
    correct = (logits.argmax(-1) == few.query_y).mean()
    print(f"evaluation: the same {tasks} episodes in float32: scores differ by at most {error:.0e} of the largest,")
    print(f"  {same:.2%} of {few.query.size:,} answers equal, accuracy {correct:.2%} (easyfsl {peer_accuracy:.2%})")
    if error > 1e-3 or same < 0.998 or abs(correct - peer_accuracy) > 0.002:
        raise SystemExit(f"evaluation: {DIFFERENT}")

    def ours() -> float:
        started = time.perf_counter()
        opened = MiniImageNet(args.data_dir).store("val")
        episodes = EpisodeSampler(opened.labels.numpy(), WAY, SHOT, QUERY, episodes=args.episodes)
        result = evaluate(learner, opened, episodes, normalize, hardware)
        seconds = time.perf_counter() - started
        first = result.accuracies[:tasks].mean()  # the same episodes as above, which depend on seed and index alone
        each = f"{args.episodes:,} episodes in {seconds:.1f} s, {1e3 * seconds / args.episodes:.3g} ms each"
        print(f"  ours: {each}; accuracy of the first {tasks}: {first:.2%} (easyfsl {peer_accuracy:.2%})")
        if abs(first - peer_accuracy) > 0.01:
            raise SystemExit(f"evaluation: {DIFFERENT}")
        return args.episodes / seconds

    def theirs() -> float:
        speed = in_child(peer_evaluation, *setting, tasks)
        each = f"{tasks} episodes in {tasks / speed:.1f} s, {1e3 / speed:.3g} ms each"
        print(f"  easyfsl: {each}; {args.episodes:,} would take {args.episodes / speed:,.0f} s")
        return speed

    yield Comparison("evaluation / easyfsl evaluate", ours, theirs, TARGET)


def peer_evaluation(specs: str, device: str, tasks: int) -> float:
    dataset, model = easyfsl_parts(specs, device)
    sampler = task_sampler(dataset, tasks)
    loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=sampler.episodic_collate_fn)
    started = time.perf_counter()
    peer("easyfsl.utils").evaluate(model, loader, device=device, use_tqdm=False)
    return tasks / (time.perf_counter() - started)


def peer_answers(specs: str, device: str, episodes: list, class_ids: list) -> tuple[np.ndarray, float]:
    """easyfsl's scores `[E, Q, way]`, classes in the order of `class_ids`, and its accuracy, on given episodes."""
    dataset, model = easyfsl_parts(specs, device)
    loader = DataLoader(dataset, batch_sampler=episodes, collate_fn=task_sampler(dataset, 1).episodic_collate_fn)
    scores = []
    with torch.no_grad():
        for (support, support_y, query, _, order), ids in zip(loader, class_ids, strict=True):
            model.process_support_set(support.to(device), support_y.to(device))
            scores.append(model(query.to(device)).cpu()[:, [order.index(c) for c in ids]].numpy())
    return np.stack(scores), peer("easyfsl.utils").evaluate(model, loader, device=device, use_tqdm=False)


def easyfsl_parts(specs: str, device: str) -> tuple[Any, torch.nn.Module]:
    """easyfsl's data set, which reads a file whenever it is asked for, and its learner around our backbone."""
    from torchvision.transforms import Compose, Normalize, ToTensor

    transform = Compose([ToTensor(), Normalize(MiniImageNet.mean, MiniImageNet.std)])
    dataset = peer("easyfsl.datasets").MiniImageNet("/", specs_file=io.StringIO(specs), transform=transform)
    return dataset, peer("easyfsl.methods").PrototypicalNetworks(conv4()).eval().to(device)
