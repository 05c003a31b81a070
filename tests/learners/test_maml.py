import copy
import gc
import subprocess
import sys
import types

import learn2learn
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, replace_all_batch_norm_modules_
from torch.nn.functional import cross_entropy

from episodic import EpisodeSampler, Task
from episodic.config.compose import compose_config
from episodic.config.instantiate import make
from episodic.core.backbones.conv4 import Conv4
from episodic.data.augment import Normalize
from episodic.evaluate.scoring import episode_predictor, evaluate
from episodic.learners import maml
from episodic.learners.maml import MAML, InnerLoop
from episodic.run.device import Hardware
from tests.conftest import random_store, random_task
from tests.learners.laws import check_laws

IMAGE = (2, 6, 6)


def mlp():
    body = nn.Sequential(nn.Flatten(), nn.Linear(72, 7), nn.Tanh())
    body.shape = (7,)
    return body


def conv():
    """With batch norm, and a map that the learner has to flatten."""
    layers = [nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(5, 3, 1)]
    body = nn.Sequential(*layers, nn.BatchNorm2d(3))
    body.shape = (3, 2, 2)
    return body


def learner_of(body, seed=0, **settings):
    torch.manual_seed(seed)
    learner = MAML(body(), 4, **{"inner_lr": 0.3, "inner_steps": 3, "test_inner_steps": 2, **settings})
    for module in learner.modules():
        if isinstance(module, nn.BatchNorm2d):  # far from the statistics of any batch
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 3)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return learner.double()


def images(**shape) -> Task:
    return random_task(item=IMAGE, **shape).map(Tensor.double)


def query_labels(task):
    return torch.randint(task.n_way, task.query.shape[:2], generator=torch.Generator().manual_seed(3))


def meta_gradient(learner, task):
    loss = cross_entropy(learner(task).logits.flatten(0, 1), query_labels(task).flatten())
    names, parameters = zip(*learner.named_parameters(), strict=True)
    return loss.detach(), dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


def buffers(learner):
    return {name: value.clone() for name, value in learner.named_buffers()}


def assert_same_tensors(ours, theirs, **tolerance):
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], **tolerance)


@pytest.mark.parametrize(
    ("steps", "first_order", "weight", "slope"),
    [(1, False, 1.6, 0.96), (1, True, 1.6, 1.2), (2, False, 1.28, 0.3584), (2, True, 1.28, 0.56)],
)
def test_hand_computed_example(monkeypatch, steps, first_order, weight, slope):
    # y = w x from w = 2; inner loss w^2 at rate 0.1, so w' = 0.8 w; query loss (w' - 1)^2.
    monkeypatch.setattr(maml, "cross_entropy", lambda outputs, _: outputs.square().mean())
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, 2.0)
    task = Task(torch.ones(1, 2, 1), torch.zeros(1, 2, dtype=torch.long), torch.ones(1, 1, 1), n_way=2)
    loop = InnerLoop("maml", 2, 0.1, steps, 0, first_order)
    adapted = loop.adapt_and_predict(net, task, training=True)
    (adapted - 1).square().sum().backward()
    torch.testing.assert_close(adapted.item(), weight)
    torch.testing.assert_close(net.weight.grad.item(), slope)
    assert net.weight.item() == 2


@pytest.mark.parametrize("body", [mlp, conv])
@pytest.mark.parametrize("first_order", [False, True])
def test_equals_functional_gradient_descent(body, first_order):
    """torch.func in the place of learn2learn: answers and meta-gradient."""
    learner, task = learner_of(body, first_order=first_order).train(), images(imbalanced=True)
    net = nn.Sequential(learner.backbone, nn.Flatten(), learner.head)
    start = dict(net.named_parameters())
    reference = replace_all_batch_norm_modules_(
        copy.deepcopy(net)
    )  # no running statistics: torch.func refuses to write

    def support_loss(weights, x, y):
        return cross_entropy(functional_call(reference, weights, x), y)

    expected = []
    for x, y, query in zip(task.support, task.support_y, task.query, strict=True):
        weights = start
        for _ in range(3):
            slopes = grad(support_loss)(weights, x, y)
            weights = {n: w - 0.3 * (slopes[n].detach() if first_order else slopes[n]) for n, w in weights.items()}
        expected.append(functional_call(reference, weights, query))
    expected = torch.stack(expected)
    torch.testing.assert_close(learner(task).logits, expected, rtol=1e-9, atol=1e-9)
    loss = cross_entropy(expected.flatten(0, 1), query_labels(task).flatten())
    slopes = torch.autograd.grad(loss, list(start.values()))
    _, ours = meta_gradient(learner, task)
    torch.testing.assert_close(list(ours.values()), list(slopes), rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("batch_norm", ["batch", "running"])
def test_training_is_the_plain_loop_of_learn2learns_users(first_order, batch_norm):
    """Losses, meta-gradient and the batch norms' records are identical to the loop of learn2learn's examples."""
    learner = learner_of(conv, first_order=first_order, batch_norm=batch_norm).train()
    peer, task = copy.deepcopy(learner), images(imbalanced=True)
    loss, ours = meta_gradient(learner, task)

    wrapped = learn2learn.algorithms.MAML(
        nn.Sequential(peer.backbone, nn.Flatten(), peer.head), lr=0.3, first_order=first_order
    )
    total = 0.0
    for e in range(3):
        fast = wrapped.clone()
        for _ in range(3):
            fast.adapt(cross_entropy(fast(task.support[e]), task.support_y[e]))
        error = cross_entropy(fast(task.query[e]), query_labels(task)[e])
        error.backward()
        total += error.item()
    torch.testing.assert_close(loss.item(), total / 3, rtol=1e-12, atol=0)
    assert_same_tensors(ours, {n: p.grad / 3 for n, p in peer.named_parameters()}, rtol=1e-9, atol=1e-12)
    assert_same_tensors(buffers(learner), buffers(peer), rtol=0, atol=0)
    assert learner.backbone[1].num_batches_tracked == 3 * (3 + 1)


@pytest.mark.parametrize("body", [mlp, conv])
def test_without_steps_it_is_the_supervised_network(body):
    learner, task = learner_of(body, inner_steps=0).train(), images()
    net = nn.Sequential(learner.backbone, nn.Flatten(), learner.head)
    plain = torch.stack([net(query) for query in task.query])
    torch.testing.assert_close(learner(task).logits, plain)
    loss = cross_entropy(plain.flatten(0, 1), query_labels(task).flatten())
    slopes = torch.autograd.grad(loss, list(net.parameters()))
    torch.testing.assert_close(list(meta_gradient(learner, task)[1].values()), list(slopes))


def test_evaluation_takes_its_own_number_of_steps():
    task = images()
    evaluated = learner_of(mlp, inner_steps=0, test_inner_steps=4).eval()(task).logits
    torch.testing.assert_close(evaluated, learner_of(mlp, inner_steps=4).train()(task).logits)
    assert not torch.allclose(evaluated, learner_of(mlp, test_inner_steps=3).eval()(task).logits)


def test_more_steps_fit_the_support_better():
    def loss(steps):
        task = images(n_shot=3)
        seen = Task(task.support, task.support_y, task.support, 4)
        logits = learner_of(mlp, test_inner_steps=steps).eval()(seen).logits
        return cross_entropy(logits.flatten(0, 1), task.support_y.flatten()).item()

    losses = [loss(steps) for steps in (0, 1, 5, 50)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
@pytest.mark.parametrize("batch_norm", ["batch", "running"])
def test_evaluation_gives_the_same_in_every_mode_and_leaves_no_trace(batch_norm, mode):
    learner, task = learner_of(conv, batch_norm=batch_norm).eval(), images()
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    expected = learner(task).logits.detach()
    with mode():
        task = task.map(torch.clone)  # as evaluation makes them: tensors of inference mode
        logits = learner(task).logits
    assert logits.requires_grad == (mode is torch.enable_grad)
    torch.testing.assert_close(logits.clone(), expected)
    assert_same_tensors(dict(learner.state_dict()), before, rtol=0, atol=0)
    assert all(p.grad is None and p.requires_grad and p.is_leaf for p in learner.parameters())
    assert all(norm.track_running_stats for norm in learner.modules() if isinstance(norm, nn.BatchNorm2d))
    assert not learner.backbone.training


def test_evaluation_keeps_no_tensor_but_the_answer():
    learner, task = learner_of(conv).eval(), images()

    def alive():
        gc.collect()
        return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())

    with torch.inference_mode():
        learner(task)
        before = alive()
        kept = [learner(task).logits for _ in range(3)]
    assert alive() == before + len(kept)


@pytest.mark.parametrize("training", [False, True])
def test_only_what_learns_is_differentiated_twice(monkeypatch, training):
    asked = []
    original = learn2learn.algorithms.MAML.adapt

    def adapt(self, loss):
        asked.append(self.first_order)
        return original(self, loss)

    monkeypatch.setattr(learn2learn.algorithms.MAML, "adapt", adapt)
    learner = learner_of(mlp).train(training)
    with torch.set_grad_enabled(training):
        learner(images())
    assert asked == [not training] * 3 * (3 if training else 2)


def test_batch_norm_goes_by_the_batch_in_evaluation_or_by_the_running_statistics():
    task = images()
    torch.testing.assert_close(
        learner_of(conv, test_inner_steps=3).eval()(task).logits, learner_of(conv).train()(task).logits
    )
    running = learner_of(conv, batch_norm="running").eval()
    net = nn.Sequential(running.backbone, nn.Flatten(), running.head)
    fast = learn2learn.algorithms.MAML(net, lr=0.3).clone()
    for _ in range(2):
        fast.adapt(cross_entropy(fast(task.support[1]), task.support_y[1]))
    torch.testing.assert_close(running(task).logits[1], fast(task.query[1]))
    assert not torch.allclose(running(task).logits, learner_of(conv).eval()(task).logits, atol=1e-3)


def test_dropout_is_off_in_evaluation():
    class Body(nn.Sequential):
        shape = (72,)

    task = images()
    learner = MAML(Body(nn.BatchNorm2d(2), nn.Dropout(0.5), nn.Flatten()), 4).double()
    assert not torch.equal(learner.train()(task).logits, learner(task).logits)
    assert torch.equal(learner.eval()(task).logits, learner(task).logits)


@pytest.mark.parametrize("batch_norm", ["batch", "running"])
def test_laws_of_a_head_that_starts_at_zero(batch_norm):
    """Equal rows make classes alike; with rows of their own the answer depends on how the classes are numbered."""
    learner = learner_of(conv, batch_norm=batch_norm).float().eval()
    as_metric = types.SimpleNamespace(classify=learner, capabilities=learner.capabilities)
    nn.init.zeros_(learner.head.weight), nn.init.zeros_(learner.head.bias)
    check_laws(as_metric, item=IMAGE, transductive=batch_norm == "batch")
    nn.init.normal_(learner.head.weight)
    with pytest.raises(AssertionError, match="not close"):
        check_laws(as_metric, item=IMAGE, transductive=batch_norm == "batch")


def test_settings_without_effect():
    assert learner_of(conv).without_effect == {}
    assert list(learner_of(mlp).without_effect) == ["batch_norm"]
    assert list(learner_of(conv, inner_steps=0).without_effect) == ["first_order"]
    assert list(learner_of(conv, inner_steps=0, test_inner_steps=0).without_effect) == ["first_order", "inner_lr"]
    assert learner_of(conv, test_inner_steps=0).without_effect == {}


def test_first_order_has_no_effect_where_training_takes_no_step():
    task = images()
    one, other = (meta_gradient(learner_of(conv, inner_steps=0, first_order=first), task) for first in (False, True))
    assert torch.equal(one[0], other[0])
    assert_same_tensors(one[1], other[1])


def test_transductive_is_said_of_a_batch_norm_that_goes_by_the_queries_only():
    assert learner_of(conv).capabilities.transductive
    assert not learner_of(conv, batch_norm="running").capabilities.transductive
    assert not learner_of(mlp).capabilities.transductive  # no batch norm


def test_frozen_weights_stay_and_the_rest_adapts(capsys):
    learner, task = learner_of(mlp), images()
    learner.backbone.requires_grad_(False)
    features = task.map(learner.backbone)
    weight, bias = learner.head.weight.detach(), learner.head.bias.detach()
    for _ in range(3):
        error = (features.support[0] @ weight.T + bias).softmax(-1) - nn.functional.one_hot(task.support_y[0], 4)
        weight, bias = weight - 0.3 * error.T @ features.support[0] / 8, bias - 0.3 * error.mean(0)
    torch.testing.assert_close(learner.train()(task).logits[0], features.query[0] @ weight.T + bias)
    assert capsys.readouterr() == ("", "")


def test_autocast_does_not_reach_it():
    learner, task = learner_of(conv).float(), images().map(Tensor.float)
    exact = learner.train()(task).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(learner(task).logits, exact)


@pytest.mark.parametrize("batch_norm", ["batch", "running"])
def test_is_scored_by_evaluate(batch_norm):
    store = random_store(separation=2.0)
    sampler = EpisodeSampler(store.labels.numpy(), n_way=4, n_shot=2, n_query=3, episodes=40)
    normalize, hardware = Normalize([0.5], [0.2]), Hardware(torch.device("cpu"), torch.float32)
    torch.manual_seed(0)
    learner = MAML(Conv4(1, 16, widths=(8, 8)), 4, batch_norm=batch_norm)
    before = buffers(learner)
    evaluation = evaluate(learner, store, sampler, normalize, hardware)
    assert evaluation.transductive == (batch_norm == "batch")
    assert evaluation.accuracies.shape == (40,)
    assert evaluation.interval.mean > 0.4  # chance is 0.25; patterns so far apart need no meta-training
    assert_same_tensors(buffers(learner), before, rtol=0, atol=0)
    predict, _ = episode_predictor(learner, store, normalize, hardware)
    with torch.inference_mode():
        episode, prediction = predict(sampler[0:4])
    assert not prediction.logits.requires_grad
    expected = (prediction.logits.argmax(-1) == episode.query_y).double().mean(1).numpy()
    assert evaluation.accuracies[:4] == pytest.approx(expected)


def test_meta_training_lowers_the_loss_after_adaptation():
    learner, task = learner_of(conv, inner_steps=1).train(), images()
    query = (task.support + 0.1 * task.support.roll(1, 1), task.support_y)  # what adaptation can get right
    task = Task(task.support, task.support_y, query[0], 4)
    optimizer, losses = torch.optim.Adam(learner.parameters(), 0.01), []
    for _ in range(15):
        loss = cross_entropy(learner(task).logits.flatten(0, 1), query[1].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_training_takes_episodes_of_the_shape_of_the_test():
    cfg = compose_config("train", ["learner=maml", "task=omniglot_5w1s"])
    assert (cfg.task.train.n_way, cfg.task.train.n_shot, cfg.task.train.n_query) == (5, 1, 15)
    assert cfg.learner.n_way == 5
    assert make(cfg.learner, backbone=make(cfg.backbone)).head.out_features == 5
    assert compose_config("train", ["learner=maml", "task=glyphs_20w1s"]).learner.n_way == 20


def test_a_task_of_another_number_of_ways_is_refused():
    with pytest.raises(ValueError, match=r"made for tasks of 4 ways .* one of 3: .*task\.train\.n_way.*task\.n_way=3"):
        learner_of(mlp)(images(n_way=3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_way": 1}, "n_way must be an integer, at least 2, the same for all tasks of learner=maml, got 1"),
        ({"inner_lr": 0.0}, "inner_lr must be a number, above 0 .*, got 0"),
        ({"inner_steps": -1}, "^inner_steps must be an integer, at least 0, got -1"),
        ({"test_inner_steps": -2}, "test_inner_steps must be an integer, at least 0, got -2"),
        ({"batch_norm": "layer"}, "batch_norm must be one of batch, running, got 'layer'"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        MAML(mlp(), **{"n_way": 4, **settings})


def test_without_learn2learn_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "learn2learn.algorithms", None)
    with pytest.raises(ImportError, match=r"^learner=maml needs learn2learn: pip install 'episodic\[learn2learn\]' \("):
        MAML(mlp(), 4)


def test_learn2learn_comes_with_the_learner_and_quietly():
    code = (
        "import sys, torch, episodic.learners.anil\n"
        "from episodic.learners.maml import MAML\n"
        "assert not {'learn2learn', 'gym'} & set(sys.modules)\n"
        "net = torch.nn.Identity()\n"
        "net.shape = (6,)\n"
        "MAML(net, 4)\n"
        "assert 'learn2learn' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
