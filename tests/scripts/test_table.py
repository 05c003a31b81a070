"""The command that writes the tables into their pages."""

import sys

import pytest


@pytest.fixture
def page(tmp_path, monkeypatch):
    """A page with one table, whose records say something else."""
    import table

    class Two:
        HEADER = ("name", "figure")

        @staticmethod
        def rows(name):
            return [[name, "2"]]

    page = tmp_path / "page.md"
    page.write_text("before\n<!-- some -->\nold\n<!-- /some -->\nafter\n")
    monkeypatch.setattr(table, "ROOT", tmp_path)
    monkeypatch.setattr(table, "TABLES", [(page, "some", Two)])
    return page


def test_a_table_stands_between_its_marks_and_the_rest_is_left_alone(page, monkeypatch):
    import table

    monkeypatch.setattr(sys, "argv", ["table.py"])
    table.main()
    made = "| name | figure |\n| --- | --- |\n| some | 2 |"
    assert page.read_text() == f"before\n<!-- some -->\n{made}\n<!-- /some -->\nafter\n"
    monkeypatch.setattr(sys, "argv", ["table.py", "--check"])
    table.main()


def test_a_check_fails_where_a_page_says_otherwise_and_writes_nothing(page, monkeypatch):
    import table

    before = page.read_text()
    monkeypatch.setattr(sys, "argv", ["table.py", "--check"])
    with pytest.raises(SystemExit, match=r"page.md: differs from the records"):
        table.main()
    assert page.read_text() == before
