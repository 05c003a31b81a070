from episodic.doctor.finding import Finding, first_line, found_or_ok


def test_without_items_all_is_well():
    assert found_or_ok("files", "error", "3 are bad", "none is bad", []) == Finding("files", "ok", "none is bad")
    bad = found_or_ok("files", "error", "3 are bad", "none is bad", [{"image": "a"}])
    assert (bad.mark, bad.text, bad.items) == ("error", "3 are bad", [{"image": "a"}])


def test_an_error_is_told_by_its_first_line():
    assert first_line(ValueError("what is wrong\nand more")) == "what is wrong"
