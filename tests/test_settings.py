"""No setting is silently without effect: a choice or a value changes the outcome, or is refused with the reason.

The outcome of a configuration is what three training steps leave: all weights, the state of the training procedure, and the
answers to a few episodes of validation classes. Over the product of the groups, a combination that is accepted differs from the
one in which any of its choices is left out; and every setting of every option, changed alone, changes the outcome or is refused.
"""

import copy
import hashlib
import itertools
import re

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from episodic.assemble.learner import build_parts
from episodic.assemble.task import build_sampler, count_train_classes, load_store
from episodic.config.compose import compose_config, conf_dir
from episodic.data.cache import Listing
from episodic.data.dataset import AbstractDataset
from episodic.episodes.task import gather_episode
from episodic.train.setup import build_procedure, check_effects

STEPS = 3
NONE = {
    "trainer": "episodes",
    "loss": "cross_entropy",
    "memory": "none",
    "sse": "none",
    "semi": "supervised",
    "learner": "prototypical",
    "transform": "none",
}


class Patterns(AbstractDataset):
    """Noisy patterns of 8 x 8 pixels in memory: 6 classes of 8 images to train, 3 for validation."""

    name, split_name, corrupt = "patterns", "made-up", "error"
    mean, std = (0.5,), (0.25,)

    def __init__(self, channels: int = 1, image_size: int = 8):
        self.channels, self.image_size = channels, image_size

    def listing(self, split):
        classes = 6 if split == "train" else 3
        labels = np.repeat(np.arange(classes), 8).tolist()
        names = [f"{split}{c}" for c in range(classes)]
        groups = [c // 2 for c in range(classes)]
        items = [f"{split}{c}/{i}" for c in range(classes) for i in range(8)]
        return Listing(items, labels, names, items, split, groups, sorted({str(g) for g in groups}))

    def render(self, listing, out):
        random = np.random.default_rng(len(listing.items))
        patterns = random.uniform(60, 200, size=(len(listing.class_names), 1, 1, self.image_size, self.image_size))
        noise = random.normal(0, 40, size=(len(listing.class_names), 8, 1, self.image_size, self.image_size))
        out[:] = np.concatenate(list((patterns + noise).clip(0, 255).astype(np.uint8)))
        return {}


BASE = [
    *(
        "task=folder_5w1s",
        "task.dataset.path=.",
        "task.channels=1",
        "task.image_size=8",
        "task.n_way=3",
        "task.n_query=2",
    ),
    *(
        "task.n_unlabeled=2",
        "task.labeled_fraction=0.5",
        "backbone.widths=[4,4]",
        "augment=none",
        "device=cpu",
        "precision=fp32",
    ),
    f"trainer.steps={STEPS}",
]
# Small values of settings, for three steps on few images; each is a setting of an option that is chosen.
SMALL = {
    "classes_per_batch": ["trainer.classes_per_batch=3", "trainer.images_per_class=3"],
    "trainer=divide_and_conquer": ["trainer.recluster_every=2", "trainer.finish=0.3"],
    "loss=divide_and_conquer": ["loss.divide_and_conquer.n_learners=2"],
    "memory=xbm": ["memory.start=0", "memory.size=16"],
    "sse=se": ["sse.probability=0.9"],
    "sse=graph": ["sse.probability=0.9"],
    "schedule=step": ["schedule.every=1"],
    "semi=label_propagation": ["semi.label_propagation.neighbors=3", "semi.label_propagation.scale_neighbor=2"],
    "semi=self_training": [f"semi.self_training.{s}" for s in ("stages=1", "retrain_steps=2", "finetune_steps=2")],
    "semi=pseudo_labels": [
        f"semi.pseudo_labels.{s}"
        for s in ("neighbors=6", "batch=8", "labeled_per_batch=4", "iterations=3", "refresh_every=2")
    ],
    "loss=margin": ["optimizer=sgd"],  # Adam does not see how large a gradient is
    "loss=ranked_list": ["loss.ranked_list.alpha=0.5"],
    "trainer=schem": ["trainer.candidates=1"],
    "semi=mean_teacher": ["semi.mean_teacher.ramp_steps=2"],
    "learner=tpn": ["learner.neighbors=2"],
    "learner=maml": ["learner.inner_steps=1", "learner.test_inner_steps=1"],
    "learner=anil": ["learner.inner_steps=1", "learner.test_inner_steps=1"],
    "head=linear": ["head.embedding_dim=8"],
    "backbone=resnet12": ["task.image_size=32"],
}
ALL_LABELED = ("schem", "divide_and_conquer")  # procedures that take any training image


def options(group):
    return sorted(path.stem for path in (conf_dir() / group).glob("[!_]*.yaml"))


def configuration(*given):
    """The small configuration with the options given."""
    chosen = [option for option in given if option in SMALL]
    settings = [setting for option in chosen for setting in SMALL[option]]
    trainer = next((o.partition("=")[2] for o in given if o.startswith("trainer=")), "episodes")
    settings += SMALL["classes_per_batch"] if trainer in ("dml", "schem", "divide_and_conquer") else []
    own_backbone = any(o.startswith("backbone=") and o != "backbone=conv4" for o in given)
    base = [o for o in BASE if not (own_backbone and o.startswith("backbone."))]
    base = [o for o in base if not (o.startswith("task.labeled") and trainer in ALL_LABELED)]
    cfg = compose_config("train", [*base, *given, *settings])
    cfg.task.dataset = OmegaConf.create({"_target_": f"{__name__}.Patterns", "image_size": "${task.image_size}"})
    cfg.allow_any_target = True
    count_train_classes(cfg)
    return cfg


def outcome(cfg: DictConfig, overrides: tuple[str, ...] = ()) -> str:
    """A hash of what training leaves.

    **Raises:** `ValueError` where the configuration is refused.
    """
    parts = build_parts(cfg)
    procedure = build_procedure(cfg, parts)
    check_effects(cfg, list(overrides), procedure)
    procedure.fit_transforms()
    for _ in range(STEPS):
        procedure.training_step()
    procedure.fit_transforms()
    state = hashlib.sha256()
    tensors = {**parts.learner.state_dict(), **{f"+{k}": v for k, v in procedure.state.state_dict().items()}}
    for name in sorted(tensors):
        state.update(name.encode() + tensors[name].detach().contiguous().numpy().tobytes())
    store = load_store(parts.dataset, cfg.task, "val")
    indices = build_sampler(cfg.task, store, shape=cfg.task, seed=0, stream="val", episodes=2)[0:2]
    parts.learner.eval()
    with torch.inference_mode():
        task = gather_episode(indices, store.gather, "cpu").task.map(parts.normalize)
        state.update(parts.learner(task).logits.numpy().tobytes())
    return state.hexdigest()


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EPISODIC_CACHE", str(tmp_path_factory.mktemp("cache")))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(threads)


def check_product(groups: dict[str, list[str]]) -> tuple[int, int]:
    """Every combination is refused, or differs from the one without each of its choices; how many were accepted, and refused."""
    outcomes, longest = {}, 0
    nodes = {g: {o: composed(g, o) for o in choices} for g, choices in groups.items()}
    for combination in itertools.product(*groups.values()):
        chosen = dict(zip(groups, combination, strict=True))
        try:
            by_hand = tuple(f"{group}={option}" for group, option in chosen.items() if option != NONE[group])
            outcomes[combination] = outcome(joined(chosen, nodes), by_hand)
        except RuntimeError as error:
            raise AssertionError(f"{chosen} fails in training: {error}") from error
        except (ValueError, ImportError) as refused:
            outcomes[combination] = None
            longest = max(longest, len(str(refused).splitlines()))
    silent = []
    for combination, found in outcomes.items():
        for place, group in enumerate(groups):
            without = (*combination[:place], NONE[group], *combination[place + 1 :])
            if found is not None and without != combination and outcomes.get(without) == found:
                silent.append((group, dict(zip(groups, combination, strict=True))))
    assert longest <= 2, "a refusal is a line or two"
    assert not silent, f"{len(silent)} choices change nothing and are not refused, e.g. {silent[:5]}"
    accepted = sum(found is not None for found in outcomes.values())
    return accepted, len(outcomes) - accepted


def composed(group: str, option: str) -> DictConfig:
    return configuration(f"{group}={option}")


def joined(chosen: dict[str, str], nodes: dict[str, dict[str, DictConfig]]) -> DictConfig:
    """The configuration of several choices, from those of one each: composing all of them anew would take minutes."""
    cfg = copy.deepcopy(next(iter(nodes.values()))[next(iter(chosen.values()))])
    for group, option in chosen.items():
        node = nodes[group][option]
        cfg[group] = copy.deepcopy(node[group])
        if group == "learner":  # it may ask for maps, and for episodes of the tested shape
            cfg.backbone, cfg.task = copy.deepcopy(node.backbone), copy.deepcopy(node.task)
    if chosen.get("semi") == "pseudo_labels" and "trainer" not in chosen:
        cfg.trainer = copy.deepcopy(nodes["semi"]["pseudo_labels"].trainer)
    if chosen.get("trainer") in ALL_LABELED:
        cfg.task.labeled_fraction = 1.0
    return cfg


def test_trainers_losses_memories_and_exchanges():
    losses = [*options("loss"), "[cross_entropy,circle]", "[contrastive,proxy_nca]"]
    few_and_many = ("finetune", "long")  # episodes but for the number of steps
    trainers = [trainer for trainer in options("trainer") if trainer not in few_and_many]
    groups = {"trainer": trainers, "loss": losses, "memory": options("memory"), "sse": options("sse")}
    accepted, refused = check_product(groups)
    assert accepted >= 90
    assert refused >= 100


def test_learners_wrappers_and_exchanges():
    accepted, refused = check_product({"learner": options("learner"), "semi": options("semi"), "sse": ["none", "se"]})
    assert accepted >= 60
    assert refused >= 20


def test_learners_and_transforms():
    accepted, refused = check_product({"learner": options("learner"), "transform": options("transform")})
    assert accepted >= 40
    assert refused >= 1


def test_trainers_learners_and_wrappers():
    groups = {
        "trainer": ["episodes", "pseudo_labels"],
        "learner": options("learner"),
        "semi": ["supervised", "pseudo_labels"],
    }
    accepted, refused = check_product(groups)
    assert accepted >= 8
    assert refused >= 8


# What does not show in the outcome, and where it does.
ELSEWHERE = {
    "trainer.validate_every": "when the run is validated",
    "trainer.validation_episodes": "on how many episodes",
    "trainer.save_every": "when it is saved",
    "trainer.log_every": "when a point of the curve is made",
    "trainer.steps": "how many steps there are",
    "sse.edges": "a file; tests/assemble/test_learner.py",
}
NEEDED = {  # choices that an option needs to train at all
    "loss": {
        "*": ["trainer=dml"],
        "schem": ["trainer=schem"],
        "divide_and_conquer": ["trainer=divide_and_conquer"],
        "cross_entropy": [],
    },
    "trainer": {
        "episodes": [],
        "finetune": [],
        "dml": ["loss=contrastive", "trainer.sampler=coreset"],
        "schem": ["loss=schem"],
        "divide_and_conquer": ["loss=divide_and_conquer"],
        "pseudo_labels": ["semi=pseudo_labels", "learner=base_classifier"],
    },
    "memory": {"*": ["trainer=dml", "loss=contrastive"]},
    "sse": {"*": ["trainer=dml", "loss=classifier"]},
    "semi": {"pseudo_labels": ["learner=base_classifier"], "*": []},
}
GROUPS = [
    "learner",
    "semi",
    "loss",
    "trainer",
    "memory",
    "sse",
    "schedule",
    "optimizer",
    "head",
    "transform",
    "augment",
    "backbone",
]
HEAVY = {"wrn28_10", "pretrained", "densenet201", "googlenet", "resnet50", "resnet18"}  # seconds a step, or a download


def candidates(value, comment):
    """Other values that a setting may have: the ones its comment names, else ones near to it."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, max(value - 1, 0), 2 * value]
    if isinstance(value, float):
        return [value / 2, value * 1.5 + 0.1, 0.3, 1.0, 0.0, value + 1]
    named = [w for w in re.findall(r"\w+", comment.replace("|", " ")) if not w.isdigit()]
    return [w for w in named if w != value] if isinstance(value, str) else [1, 2, 0.5, *named]


def leaves(group, option):
    """`(key, value, comment)` of the settings that an option's YAML says, of those that it begins with too."""
    file, found = conf_dir() / group / f"{option}.yaml", []
    text = file.read_text(encoding="utf-8")
    for base in re.findall(r"^  - (_\w+)$", text, re.MULTILINE):
        if base != "_self_":
            found += leaves(group, base)
    for line in text.splitlines():
        if (match := re.match(r"^([a-z]\w*): *([^#]*?) *(?:# *(.*))?$", line)) and match[1] != "defaults":
            value = OmegaConf.create(f"value: {match[2]}").value if "${" not in match[2] else "${"
            if value != "${" and not isinstance(value, DictConfig) and not OmegaConf.is_list(value):
                found.append((match[1], value, match[3] or ""))
    return found


CASES = [(g, o) for g in GROUPS for o in options(g) if o not in HEAVY]


@pytest.mark.parametrize(("group", "option"), CASES)
def test_every_setting_changed_alone_has_its_effect_or_is_refused(group, option):
    needed = NEEDED.get(group, {})
    given = [f"{group}={option}", *needed.get(option, needed.get("*", []))]
    try:
        cfg = configuration(*given)
        plain = outcome(cfg)
    except ImportError as missing:
        pytest.skip(str(missing))
    prefix = f"{group}.{option}" if group in ("loss", "semi") else group
    for name, value, comment in leaves(group, option):
        key = f"{prefix}.{name}"
        if key in ELSEWHERE:
            continue
        tried = {}
        for other in candidates(OmegaConf.select(cfg, key), comment):
            changed = copy.deepcopy(cfg)
            OmegaConf.update(changed, key, other)
            try:
                tried[other] = outcome(changed, (f"{key}={other}",)) != plain
            except (ValueError, TypeError):
                continue  # refused, with the reason
            if tried[other]:
                break
        assert any(tried.values()) or not tried, (
            f"{key} (now {value!r}) changes nothing and is not refused: {list(tried)}"
        )
