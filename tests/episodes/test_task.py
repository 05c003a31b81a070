import pytest
import torch

from episodic import Episode, EpisodeSampler, Task
from episodic.episodes.task import gather_episode
from tests.episodes.test_collate import LABELS, VALUES, same


def test_map_is_one_call_over_all_items_and_keeps_the_rest():
    calls = []

    def f(x):
        calls.append(x.shape)
        return x.mean(dim=(1, 2)) + 1

    task = Task(
        torch.rand(2, 3, 4, 5), torch.zeros(2, 3, dtype=torch.long), torch.rand(2, 6, 4, 5), 1, torch.rand(2, 2, 4, 5)
    )
    mapped = task.map(f)
    assert calls == [(2 * (3 + 6 + 2), 4, 5)]
    for role in ("support", "query", "unlabeled"):
        assert torch.allclose(getattr(mapped, role), getattr(task, role).mean((2, 3)) + 1)
    assert mapped.support_y is task.support_y
    without = Task(task.support, task.support_y, task.query, 1).map(f)
    assert without.unlabeled is None
    assert torch.equal(without.query, mapped.query)


def test_a_task_holds_no_query_label():
    assert not any("query_y" in name for name in Task.__dataclass_fields__)


def test_gather_moves_and_tuples():
    sampler = EpisodeSampler(LABELS, 3, 1, 2, 1, 1, episodes=4)
    episode = gather_episode(sampler[0:4], lambda index: VALUES[index], "cpu")
    assert same(episode, sampler[0:4])
    there = episode.to("meta")
    assert there.task.support.device.type == there.unlabeled_y.device.type == "meta"
    support, support_y, query, query_y, class_ids = episode.as_tuple()
    assert support.shape[:2] == support_y.shape
    assert query.shape[:2] == query_y.shape
    assert class_ids.shape == (4, 3)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (dict(), "5-way 1-shot, 75 queries"),
        (dict(episodes=4), "4 x 5-way 1-shot, 75 queries"),
        (dict(support=7, query=1), "5-way, 7 support items, 1 query"),
        (dict(unlabeled=25), "5-way 1-shot, 75 queries, 25 unlabeled"),
        (dict(n_base=64), "5-way 1-shot, 75 queries, 64 base classes"),
    ],
)
def test_tasks_and_episodes_say_their_shape(settings, words):
    e, s, q, u = (
        settings.get(name, default) for name, default in dict(episodes=1, support=5, query=75, unlabeled=0).items()
    )
    unlabeled = torch.rand(e, u, 2) if u else None
    n_base = settings.get("n_base", 0)
    task = Task(torch.rand(e, s, 2), torch.zeros(e, s, dtype=torch.long), torch.rand(e, q, 2), 5, unlabeled, n_base)
    assert repr(task) == f"Task({words})"
    episode = Episode(task, torch.zeros(e, q, dtype=torch.long), torch.zeros(e, 5, dtype=torch.long))
    assert repr(episode) == f"Episode({words})"
