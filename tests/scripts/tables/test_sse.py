"""Exchanges of rows are compared with what goes without."""


def test_exchanges_are_compared_with_what_goes_without(records, retrieved, tmp_path):
    from tables import sse

    sse.reproduce("sse_omniglot", tmp_path / "runs", 2, [])
    scored = [(name, options) for kind, name, options in retrieved if kind == "episodic.evaluate"]
    assert len(scored) == 2 * 2 * 3
    for name, options in scored:
        loss, *_, seed = name.split("-")
        assert f"against={tmp_path / 'runs' / 'dml_omniglot' / f'{loss}-{seed}'}" in options
