"""Wrong command lines, a line each, by command. Each must be answered with exit code 2 and a line or two that name the mistake."""

SMALL = ("trainer.steps=2", "trainer.validation_episodes=5", "episodes=10", "device=cpu")

WRONG = {
    "train": """
seed=abc
seed=null
seed=1.5
seed=-1
seed=true
seed=[1]
episodes=1.5
episodes=true
episodes=null
episodes=0
episodes=-5
episodes=abc
semi=[]
loss=[]
semi=[soft_kmeans,soft_kmeans]
semi=null
loss=null
learner=null
learner=[]
learner=3
learner=[prototypical,matching]
learner=
task=
task=3
task=null
backbone=null
head=null
optimizer=null
schedule=null
trainer=null
memory=null
sse=null
augment=null
experiment=3
optimizer.lr=abc
optimizer.lr=-1
optimizer.lr=nan
optimizer.lr=inf
optimizer.lr=null
optimizer.lr=[1]
backbone.widths=64
backbone.widths=[]
backbone.widths=[0]
backbone.widths=[a]
backbone.widths=null
backbone.bias=maybe
backbone.output=square
trainer.steps=true
trainer.steps=abc
trainer.steps=0
trainer.steps=-3
trainer.steps=1.5
trainer.steps=1e3
trainer.validate_every=0
trainer.validation_episodes=0
trainer.validation_episodes=abc
trainer.save_every=0
trainer.log_every=0
trainer.clip_norm=-1
trainer.clip_norm=abc
trainer.clip_norm=nan
trainer.episodes_per_step=0
trainer.episodes_per_step=abc
trainer=dml trainer.classes_per_batch=0
trainer=dml trainer.images_per_class=abc
trainer=dml trainer.sampler=best
task.n_way=abc
task.n_way=1.5
task.n_way=[5]
task.n_way=[5,3]
task.n_way=[5,10,15]
task.n_way=0
task.n_way=-5
task.n_way=100000
task.n_way=null
task.n_way=true
task.n_shot=0
task.n_query=0
task.n_query=abc
task.n_unlabeled=-1
task.n_distractors=abc
task.imbalanced=maybe
task.imbalanced=1
task.too_small=maybe
task.labeled_fraction=nan
task.labeled_fraction=0
task.labeled_fraction=1.5
task.labeled_fraction=abc
task.labeled_fraction=0.5 task.labeled_seed=abc
task.folds=abc
task.fold=0 task.folds=0
task.fold=0 task.folds=1
task.fold=9
task.fold=abc
task.fold=-1
task.base_way=abc
task.image_size=abc
task.image_size=0
task.image_size=-28
task.image_size=1.5
task.channels=2
task.channels=abc
task.train_classes=abc
task.train_classes=0
task.train=3
task.train.n_way=abc
task.train.n_shot=0
task.n_shot=few
task.dataset=3
task.dataset.drawings=abc
task.dataset.drawings=0
task=folder_5w1s
task=folder_5w1s task.dataset.path=nowhere
task=folder_5w1s task.dataset.path=null
task=folder_5w1s task.dataset.path=run task.dataset.fractions=[1,1]
task=folder_5w1s task.dataset.path=run task.dataset.fractions=abc
task=omniglot_5w1s data_dir=nowhere
resume=maybe
resume=2
resume=null
resume=true run=
device=abacus
device=3
device=cuda:99
precision=fp64
precision=16
allow_any_target=maybe
allow_any_target=1
init_from=nowhere
init_from=3
run=run
learner.temperature=0
learner.temperature=-1
learner.temperature=abc
learner.temperature=nan
learner.distance=3
learner.distance=none
learner=matching learner.steps=0
learner=matching learner.full_context=3
learner=maml learner.inner_steps=-1
learner=maml learner.inner_lr=abc
learner=maml learner.batch_norm=none
learner=cross_attention learner.candidates=2
learner=tpn learner.alpha=1
learner=tpn learner.neighbors=0
learner=relation learner.loss=hinge
learner._target_=os.system
+learner.extra=3
+learner._partial_=true
+task.extra=3
~learner
~task.n_way
~seed
loss=circle loss.circle.weight=abc
loss=circle loss.circle.weight=nan
loss=circle loss.circle.margin=abc
loss=circle loss.circle.distance=3
loss=circle loss.circle=3
loss=triplet loss.triplet.triplets=some
loss=classifier loss.classifier.label_smoothing=2
loss=proxy_nca loss.proxy_nca.lr_multiplier=abc
loss=[circle,circle]
loss=[circle,circl]
loss=contrastive memory=xbm memory.size=0
loss=contrastive memory=xbm memory.start=abc
schedule=step schedule.every=0
schedule=step schedule.gamma=abc
schedule=cosine schedule.warmup=-1
schedule=linear
augment.crop_padding=abc
augment.crop_padding=-1
augment.jitter=abc
augment.jitter=-1
augment.flip=perhaps
loss=classifier sse=se sse.probability=2
loss=classifier sse=se sse.probability=abc
loss=classifier sse=graph sse.edges=nowhere.csv
semi=label_propagation task=glyphs_semi_5w1s semi.label_propagation.alpha=2
semi=label_propagation task=glyphs_semi_5w1s semi.label_propagation.alpha=abc
semi=mean_teacher semi.mean_teacher.decay=2
head=linear head.embedding_dim=0
head=linear head.embedding_dim=abc
head=linear head.slices=3
backbone=pretrained backbone.name=abc backbone.weights=null
backbone=pretrained backbone.weights=nowhere.pth
backbone=resnet12 backbone.drop_rate=2
backbone=resnet12 backbone.variant=x
stps=3
seed
seed=
=3
seed=1=2
--seed=3
seed=${oc.env:HOME}
seed=${seed}
task.n_way=${task.n_way}
hydra=none
@learner=matching
learner@x=matching
""",
    "cross_validate": """

run=cv repeats=abc
run=cv repeats=0
run=cv repeats=true
run=cv task.folds=abc
run=cv task.folds=0
run=cv task.folds=1
run=cv task.fold=1
run=cv learner=maml
run=cv seed=abc
run=null
""",
    "evaluate": """

run=nowhere
run=
run=null
run=run episodes=abc
run=run episodes=0
run=run episodes=true
run=run episodes=1.5
run=run episodes=null
run=run seed=abc
run=run seed=null
run=run split=all2
run=run split=null
run=run split=3
run=run retrieval=abc
run=run retrieval=1
run=run retrieval=null
run=run clustering=maybe
run=run audit=maybe
run=run against=nowhere
run=run against=3
run=run retrieval=true distance=none
run=run retrieval=true distance=3
run=run task.n_way=abc
run=run task.n_way=1000
run=run task.channels=3
run=run task.image_size=32
run=run learner.temperature=0
run=run learner.temperature=abc
run=run learner=maml
run=run semi=[]
run=run semi=mean_teacher
run=run semi=label_propagation semi.label_propagation.alpha=abc
run=run device=abacus
run=run precision=fp8
run=run save_episodes=nowhere/x.jsonl
run=run save_episodes=3
run=run trainer.steps=3
run=run backbone=conv4
run=run data_dir=nowhere task=omniglot_5w1s
""",
    "report": """

run=nowhere
run=run split=all
run=run episodes=abc
run=run episodes=1.5
run=run out=run/config.yaml
run=run against=nowhere
""",
    "predict": """

run=nowhere support=a query=b
run=run
run=run support=nowhere query=nowhere
run=run support=run query=run invert=maybe
run=run support=run query=run abstain=maybe
run=run support=run query=run abstain=2
run=run support=run query=run abstain=nan
run=run support=run query=run max_error=abc abstain=auto
run=run support=run query=run max_error=0.1
run=run support=run query=run seed=abc
run=run support=run query=run out=x.txt
run=run support=run query=run save=x.bin
run=run model=x support=run query=run
model=nowhere query=run
model=run/config.yaml query=run
model=run query=run
backbone=abc support=run query=run
backbone=resnet50 backbone.weights=nowhere.pth support=run query=run
""",
    "demo": """

run=nowhere
run=run port=abc
run=run port=-1
run=run port=99999999
run=run port=1.5
run=run invert=maybe
run=run abstain=abc
""",
    "doctor": """

data=nowhere
data=
task=glyphs_5w1s near=abc
task=glyphs_5w1s near=99
task=glyphs_5w1s near=1.5
task=glyphs_5w1s sources=maybe
task=glyphs_5w1s out=x.txt
task=glyphs_5w1s out=nowhere/x.json
task=glyphs_5w1s run=nowhere
task=nothing
""",
}
