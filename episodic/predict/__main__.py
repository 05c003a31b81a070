"""`python -m episodic.predict support=<dir> query=<dir or file> run=<dir> [semi=... unlabeled=<dir>] [abstain=auto] [out=<file>]`.

Names the pictures of `query` after the examples in `support`, and prints a table with a line for each picture.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from tqdm import tqdm

from episodic.assemble.model_choice import UNREAD, check_seed, with_parts
from episodic.assemble.predictor import DEFAULTS, MANY, Predictor
from episodic.config.command import command
from episodic.config.compose import ConfigError
from episodic.config.terminal import printable
from episodic.data.image import class_folders, is_inverted, pictures_in, read_pictures
from episodic.data.sources.tables import others_below
from episodic.evaluate.tables import table
from episodic.predict.answers import AT_ONCE, answer_records, records_as_text, row
from episodic.run.files import write_atomically
from episodic.semi.wrapper import AbstractWrapper, unwrapped


def main(cfg: DictConfig) -> None:
    """Name the pictures of `query` after the examples in `support`."""
    check(cfg)
    queries = [] if cfg.query is None else pictures_in(cfg.query)
    for folder in filter(None, (cfg.support, cfg.query, cfg.unlabeled)):
        note_on_others(Path(folder).expanduser())
    classifier = classifier_of(cfg)
    if cfg.save is not None:
        classifier.save(cfg.save)
        print(f"Model and examples written to {cfg.save}; use them by model={cfg.save}.")
    if not queries:
        return
    records = list(tqdm(answer_records(classifier, queries), total=len(queries), disable=len(queries) <= MANY or None))
    failed = [record for record in records if "error" in record]
    if len(failed) == len(records):
        raise ConfigError(f"none of the {len(records)} pictures in {cfg.query} can be read: {failed[0]['error']}")
    if cfg.out is not None:
        write_atomically(Path(cfg.out), records_as_text(records, Path(cfg.out).suffix))
    marked = classifier.threshold_ > 0
    rows = [row(record, marked) for record in records if "error" not in record]
    print(table(["file", "class", "probability", "nearest", *["unsure"] * marked], rows))
    if marked:
        unsure, least = sum(record.get("abstain", False) for record in records), classifier.threshold_
        why = f"their probability is below {least:.3g}" if least <= 1 else "the examples show no probability to rely on"
        source = f" (by {classifier.left_out_} examples, each left out in turn)" if classifier.left_out_ else ""
        print(f"\n{unsure} of {len(rows)} are unsure: {why}{source}.")
    elif classifier.left_out_:
        share = f"at most {classifier.setting('max_error'):.0%}"
        print(
            f"\nabstain=auto: of {classifier.left_out_} examples, each left out in turn, {share} were wrong, so all count."
        )
    report_unreadable({record["file"]: record["error"] for record in failed})


def check(cfg: DictConfig) -> None:
    """Refuse options that contradict each other, before anything is read.

    **Raises:** `ConfigError`.
    """
    if cfg.support is None and cfg.model is None:
        raise ConfigError("which examples? support=<dir> with <class name>/<picture>")
    if cfg.query is None and cfg.save is None:
        raise ConfigError("which pictures? query=<a folder or a file>, or save=<file> to keep the examples for later")
    for name in ("unlabeled", *DEFAULTS) if cfg.support is None else ():
        if cfg[name] is not None:
            raise ConfigError(f"{name}= goes with support=: a saved file has its own")
    check_seed(cfg)
    for name, suffixes in (("out", (".json", ".csv")), ("save", (".safetensors",))):
        path = cfg[name] and Path(cfg[name])
        if path and path.suffix.lower() not in suffixes:
            raise ConfigError(f"{name} must be a file {' or '.join(suffixes)}, got {cfg[name]}")
        if path and (path.is_dir() or not path.absolute().parent.is_dir()):
            raise ConfigError(f"{name}={cfg[name]} cannot be written: it must be a file in a folder that is there")


def classifier_of(cfg: DictConfig) -> Predictor:
    """The classifier that was saved, or one that is shown the examples."""
    if cfg.support is None:
        classifier = Predictor.load(cfg.model, device=cfg.device, allow_any_target=cfg.allow_any_target)
        if classifier.form_ is None:
            raise ConfigError(f"model={cfg.model} compares features, not pictures")
        return classifier
    shown = class_folders(cfg.support)
    if cfg.run is None and cfg.model is None and cfg.backbone.get("weights") is None:
        mend = "take a run, or backbone.weights=<file>" if "weights" in cfg.backbone else "take a run"
        print(f"Warning: the backbone's weights are random, so the answers are guesses: {mend}.")
    settings = {name: cfg[name] for name in ("device", "allow_any_target", *DEFAULTS)}
    classifier = Predictor(cfg.model or cfg, **settings)
    check_effects(cfg, classifier)
    files, failed = readable([file for files in shown.values() for file in files])
    unlabeled, failed_unlabeled = (None, {}) if cfg.unlabeled is None else readable(pictures_in(cfg.unlabeled))
    for name, of_class in shown.items():
        if set(of_class) <= failed.keys():
            raise ConfigError(f"no picture of class {name} can be read: {of_class[0]}: {failed[of_class[0]]}")
    names = [name for name, of_class in shown.items() for file in of_class if file not in failed]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that no answer counts: the lines below the table say so
        classifier.fit(files, names, unlabeled)
    report_unreadable(failed | failed_unlabeled)
    note_on_polarity(classifier, files)
    return classifier


def check_effects(cfg: DictConfig, classifier: Predictor) -> None:
    """Refuse options that would change no answer.

    **Raises:** `ConfigError`.
    """
    if cfg.max_error is not None and classifier.setting("abstain") != "auto":
        raise ConfigError("max_error would have no effect here: it goes with abstain=auto")
    wrapped = any(override.startswith(("semi=", "semi.")) for override in HydraConfig.get().overrides.task)
    if not wrapped or cfg.unlabeled is not None:
        return
    layers = unwrapped(classifier.build().learner)
    idle = [layer for layer in layers if isinstance(layer, AbstractWrapper) and not layer.works_without_unlabeled]
    if idle:
        raise ConfigError(
            f"semi={'+'.join(cfg.semi)} would have no effect here: {type(idle[0]).__name__} uses further pictures without names, "
            "and there are none: give unlabeled=<dir>"
        )


def readable(files: list[Path]) -> tuple[list[Path], dict[Path, str]]:
    """The files that are whole pictures, and why the others are not."""
    _, kept, failed = read_pictures(files, channels=3, size=1)
    return kept, failed


def note_on_polarity(classifier: Predictor, files: list[Path]) -> None:
    """Print a note if the pictures are dark on bright and the model's own images are bright on dark, or vice versa."""
    form = classifier.form_
    if form.channels != 1:
        return
    gray = float(read_pictures(files[:AT_ONCE], 1, form.size, resize=form.resize)[0].mean()) / 255
    inverted = classifier.setting("invert")
    seen = 1 - gray if inverted else gray
    if is_inverted(form, seen):
        print(
            f"Note: the pictures' mean is {seen:.2f}, that of the model's own images {form.mean[0]:.2f}: "
            f"invert={str(not inverted).lower()} turns them around."
        )


def note_on_others(folder: Path) -> None:
    """Print which files of a folder are left out because of their names."""
    if others := others_below(folder):
        shown = ", ".join(printable(file.relative_to(folder)) for file in others[:3]) + ", ..." * (len(others) > 3)
        print(f"Note: {len(others)} left out of {printable(folder)}, whose names are not those of pictures: {shown}.")


def report_unreadable(failed: dict[Any, str]) -> None:
    """Print which pictures were left out, and why."""
    if failed:
        print(f"\n{len(failed)} {'picture' if len(failed) == 1 else 'pictures'} could not be read:")
        print("\n".join(f"  {printable(file)}: {reason}" for file, reason in failed.items()))


if __name__ == "__main__":
    command("predict", main, with_parts, UNREAD)
