import json

import pytest

from episodic.data.dataset import SPLITS
from episodic.data.sources.tables import (
    COLUMNS,
    check_classes,
    class_folders,
    class_lists,
    find_image,
    folder_rows,
    images_below,
    json_rows,
    make_listing,
    others_below,
    read_csv,
)


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_published_lists_hold_each_class_once():
    for name in ("cifarfs", "miniimagenet"):
        lists = class_lists(name)
        classes = [c for split in SPLITS for c in lists[split]]
        assert len(classes) == len(set(classes)) == 100


def test_a_listing_is_in_order_of_class_then_name():
    rows = [("b", "b/2", 1), ("a", "a/1", 2), ("b", "b/1", 3)]
    listing = make_listing(rows, "stamp", {"a": "upper", "b": "lower"})
    assert listing.items == [2, 3, 1]
    assert listing.labels == [0, 1, 1]
    assert listing.class_names == ["a", "b"]
    assert listing.item_names == ["a/1", "b/1", "b/2"]
    assert [listing.super_class_names[i] for i in listing.super_classes] == ["upper", "lower"]
    assert make_listing(rows, "stamp").super_classes is None
    with pytest.raises(ValueError, match=r"listed more often: 1 \(b/1\)"):
        make_listing([*rows, ("b", "b/1", 4)], "stamp")


def test_other_classes_are_counted_and_named():
    check_classes(["a", "b"], {"b", "a"}, "here", "the paper")
    with pytest.raises(
        ValueError, match=r"here: expected the 2 classes of the paper, got 2: 1 \(b\) missing, 1 \(c\) too"
    ):
        check_classes(["a", "c"], ["a", "b"], "here", "the paper")


def test_images_of_folders(tmp_path):
    touch(tmp_path, "b/1.JPG", "b/in/2.png", "a/1.webp", "a/.3.png", ".git/4.png", "a/notes.txt", "README.md")
    assert list(class_folders(tmp_path)) == ["a", "b"]
    assert [p.relative_to(tmp_path).as_posix() for p in images_below(tmp_path)] == ["a/1.webp", "b/1.JPG", "b/in/2.png"]
    assert [p.name for p in others_below(tmp_path)] == ["README.md", "notes.txt"]
    rows = folder_rows(class_folders(tmp_path), tmp_path)
    assert [row[:2] for row in rows] == [("a", "a/1.webp"), ("b", "b/1.JPG"), ("b", "b/in/2.png")]


def test_tables_with_the_columns_of_either_source(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("filename,label\n1.jpg,cat\n\n2.jpg,dog\n")
    assert read_csv(path, *COLUMNS) == [(2, ("cat", "1.jpg")), (4, ("dog", "2.jpg"))]
    path.write_text("\ufeffclass_name, image_name, more\ncat, 1.jpg, x\n")
    assert read_csv(path, *COLUMNS) == [(2, ("cat", "1.jpg"))]
    path.write_text("wnid,category\nn01,animal\n")
    assert read_csv(path, *COLUMNS) is None
    path.write_text("filename,label\n1.jpg\n")
    with pytest.raises(ValueError, match=r"train\.csv, line 2: expected the columns filename,label, got \['1.jpg'\]"):
        read_csv(path, *COLUMNS)


def test_tables_in_json(tmp_path):
    path = tmp_path / "base.json"
    table = {"label_names": ["cat", "dog"], "image_names": ["1.jpg", "2.jpg"], "image_labels": [1, 0]}
    path.write_text(json.dumps(table))
    assert [row[:2] for row in json_rows(path)] == [("dog", "1.jpg"), ("cat", "2.jpg")]
    assert json_rows(path)[1][2] == f"{path}, image_names[1]"
    for change in ({"image_labels": [1]}, {"image_labels": [1, -1]}, {"label_names": None}):
        path.write_text(json.dumps(table | change))
        with pytest.raises(ValueError, match=r"base\.json: expected label_names, image_names and"):
            json_rows(path)


@pytest.mark.parametrize("place", ["1.jpg", "images/1.jpg", "images/cat/1.jpg", "cat/1.jpg"])
def test_an_image_is_found_where_people_put_it(tmp_path, place):
    touch(tmp_path, place)
    assert find_image(tmp_path, "cat", "1.jpg", "here") == tmp_path / place
    with pytest.raises(FileNotFoundError, match=r"train\.csv, line 2: there is no image 2\.jpg"):
        find_image(tmp_path, "cat", "2.jpg", "train.csv, line 2")


@pytest.mark.parametrize("line", [b"x" * 200_000, b"\xff\xfe.jpg"])
def test_a_file_that_is_no_table_of_text_is_named(tmp_path, line):
    path = tmp_path / "a.csv"
    path.write_bytes(b"filename,label\n" + line + b",cat\n")
    with pytest.raises(ValueError, match=r"a\.csv cannot be read as a CSV file in UTF-8"):
        read_csv(path, ("filename", "label"))


@pytest.mark.parametrize("change", [{"image_names": [3]}, {"label_names": [["cat"]]}, {"label_names": ["cat", "cat"]}])
def test_names_in_json_are_different_texts(tmp_path, change):
    path = tmp_path / "base.json"
    path.write_text(json.dumps({"label_names": ["cat"], "image_names": ["1.jpg"], "image_labels": [0]} | change))
    with pytest.raises(ValueError, match=r"base\.json: expected label_names, image_names"):
        json_rows(path)
