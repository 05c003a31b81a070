"""The figures of the results: one color a training, one line a stage, at the minutes and accuracies of the record."""


def record(accuracy, **changed):
    told = {"train_options": ["task=miniimagenet_5w1s"], "evaluate_options": [], "train/hardware": "x"}
    scored = {"val/dataset": "miniimagenet", "val/protocol": "5-way 1-shot, inductive", "val/accuracy": accuracy}
    return told | scored | {"curve": [[[1.0, 10, 0.3], [2.0, 20, 0.4]], [[3.0, 30, accuracy]]]} | changed


def test_each_stage_of_a_training_is_a_line_in_its_color():
    import figures

    ax = figures.minutes([record(0.45), record(0.5)]).axes[0]
    assert [line.get_ydata().tolist() for line in ax.lines] == [[30, 40], [50], [30, 40], [45]]  # the best first
    assert [line.get_xdata().tolist() for line in ax.lines[:2]] == [[1, 2], [3]]
    assert len({line.get_color() for line in ax.lines}) == 2
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["task=miniimagenet_5w1s (x)"] * 2


def test_records_of_other_episodes_and_without_a_curve_are_left_out():
    import figures

    others = [
        record(0.5, curve=[]),
        record(0.5, evaluate_options=["task=omniglot_20w1s"]),
        record(0.5, **{"val/protocol": "5-way 5-shot, inductive"}),
        record(0.5, **{"val/dataset": "omniglot"}),
        {"train_options": [], "evaluate_options": [], "test/accuracy": 0.5},
    ]
    assert figures.drawn([*others, record(0.4)]) == [record(0.4)]


def test_figures_are_written_where_the_page_shows_them(tmp_path, monkeypatch, scripts):
    import figures

    monkeypatch.setattr(figures, "DOCS", tmp_path)
    figures.main()
    page = (scripts.parent / "docs" / "results.md").read_text()
    for name in ("minutes.svg", "shots.svg"):
        assert (tmp_path / name).read_text().startswith("<?xml")
        assert f"]({name})" in page


def test_each_training_is_a_line_over_its_shots_in_their_order():
    import figures

    two = [record(0.6, **{"val/protocol": "5-way 5-shot, inductive"}), record(0.4)]
    other = record(0.3, train_options=["learner=matching"])
    found = [{"val/ci95": 0.01} | made for made in (*two, other)]
    ax = figures.shots(found).axes[0]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["learner=matching", "task=miniimagenet_5w1s"]
    assert [line[0].get_xydata().tolist() for line in ax.containers] == [[[1, 30]], [[1, 40], [5, 60]]]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1", "5"]
