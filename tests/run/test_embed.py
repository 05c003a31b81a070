import pytest
import torch

from episodic.learners.prototypical import Prototypical
from episodic.run.device import Hardware
from episodic.run.embed import embed, embeddings_of
from tests.conftest import random_store
from tests.evaluate.test_scoring import Blind
from tests.train.training import FP32, PLAIN, conv4


def test_bf16_differs_by_rounding_only():
    store, learner = random_store(separation=0.3), Prototypical(conv4())
    exact = embed(learner.backbone, store, PLAIN, FP32)
    rounded = embed(learner.backbone, store, PLAIN, Hardware.choose("cpu", "bf16"))
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).norm() / exact.norm() < 0.02


def test_embedding_is_in_eval_mode_and_keeps_the_order():
    store, backbone = random_store(), conv4().train()
    features = embed(backbone, store, PLAIN, FP32)
    assert not backbone.training
    with torch.no_grad():
        torch.testing.assert_close(features[150:151], backbone(PLAIN(store.images[150:151])))


def test_embeddings_come_flat_with_their_labels():
    store, learner = random_store(), Prototypical(conv4())
    embeddings, labels = embeddings_of(learner, store, PLAIN, FP32)
    assert torch.equal(embeddings, embed(learner.backbone, store, PLAIN, FP32).flatten(1))
    assert torch.equal(labels, store.labels)
    with pytest.raises(ValueError, match="Blind has none of its own"):
        embeddings_of(Blind(learner), store, PLAIN, FP32)
