"""Names of classes, from files of all kinds."""

import json

import pytest

from rest_deploy.artifact.labels import default_labels, imagenet_labels, read_labels
from rest_deploy.errors import ConfigError


def write(tmp_path, content, name="labels.txt"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_imagenet_has_1000_classes_in_the_usual_order():
    labels = imagenet_labels()
    assert len(labels) == 1000
    assert labels[0] == "tench, Tinca tinca"
    assert labels[207] == "golden retriever"
    assert labels[999] == "toilet tissue, toilet paper, bathroom tissue"
    assert all(label and label == label.strip() and label.isprintable() for label in labels)


def test_imagenet_is_the_default_for_exactly_1000_classes():
    assert default_labels(1000) == imagenet_labels()
    assert default_labels(999) is None
    assert default_labels(1001) is None


@pytest.mark.parametrize(
    "text", ["cat\nKäse\n犬", "cat\nKäse\n犬\n", "cat\r\nKäse\r\n犬\r\n", "  cat\n\tKäse \n犬 \n"], ids=repr
)
def test_text_holds_one_label_a_line(tmp_path, text):
    assert read_labels(write(tmp_path, text), 3) == ("cat", "Käse", "犬")


@pytest.mark.parametrize("name", ["labels.json", "labels.JSON"])
@pytest.mark.parametrize("values", [["cat", "Käse", "犬"], {"2": "犬", "0": "cat", "1": "Käse"}])
def test_json_is_a_list_or_an_object(tmp_path, name, values):
    assert read_labels(str(write(tmp_path, json.dumps(values), name)), 3) == ("cat", "Käse", "犬")


def test_an_object_is_read_by_number_and_not_by_order(tmp_path):
    values = {str(index): f"name {index}" for index in reversed(range(12))}
    assert read_labels(write(tmp_path, json.dumps(values), "a.json"), 12)[10] == "name 10"


@pytest.mark.parametrize(
    ("content", "name"),
    [("a\nb\n", "a.txt"), ("a\nb\nc\nd", "a.txt"), ("", "a.txt"), ("[]", "a.json"), ("{}", "a.json")],
)
def test_another_number_of_labels_is_refused(tmp_path, content, name):
    with pytest.raises(ConfigError, match=rf"{name}: \d labels for a model of 3 classes"):
        read_labels(write(tmp_path, content, name), 3)


@pytest.mark.parametrize("content", [b"\xff\xfec\x00a\x00t\x00", "Käse".encode("latin-1"), b"\x89PNG\r\n\x1a\n"])
def test_what_is_not_utf8_is_refused(tmp_path, content):
    for name in ("a.txt", "a.json"):
        with pytest.raises(ConfigError, match=rf"{name}: labels must be UTF-8 text"):
            read_labels(write(tmp_path, content, name), 1)


@pytest.mark.parametrize("label", ["", "   ", "\x00", "a\x07", "\x1b[31mred", "a\nb", "a\u202eb", "\ud800"], ids=ascii)
def test_empty_and_unprintable_labels_are_refused(tmp_path, label):
    with pytest.raises(ConfigError, match=r"a\.json: the label of class 1 is .*; it must be printable, not empty"):
        read_labels(write(tmp_path, json.dumps(["cat", label]), "a.json"), 2)


@pytest.mark.parametrize("text", ["cat\n\ndog", "cat\n\x1b[2J\ndog", "cat\n\x07\ndog"], ids=repr)
def test_empty_and_unprintable_lines_are_refused(tmp_path, text):
    with pytest.raises(ConfigError, match=r"labels\.txt: the label of class 1 is .*; it must be printable, not empty"):
        read_labels(write(tmp_path, text), 3)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "cat\ndog",
        "[",
        "3",
        "null",
        "true",
        '{"1": "cat", "2": "dog"}',  # from 1: no class 0
        '{"cat": 0, "dog": 1}',
        pytest.param("[" * 100_000, id="deeper than Python's recursion limit"),
    ],
)
def test_other_json_is_refused(tmp_path, text):
    with pytest.raises(ConfigError, match=r"a\.json: needed: a JSON list of names, or an object of number"):
        read_labels(write(tmp_path, text, "a.json"), 2)


@pytest.mark.parametrize(
    "values",
    [
        "ab",  # text is no list of its letters
        ["cat", None],
        ["cat", ["n02084071", "dog"]],
        {"0": ["n02121808", "cat"], "1": ["n02084071", "dog"]},  # Keras' imagenet_class_index.json looks like this
        [{"name": "cat"}, {"name": "dog"}],
    ],
)
def test_json_of_other_things_than_names_is_refused(tmp_path, values):
    with pytest.raises(ConfigError, match=r"a\.json: needed: a JSON list of names"):
        read_labels(write(tmp_path, json.dumps(values), "a.json"), 2)


def test_a_file_too_large_for_labels_is_refused_unread(tmp_path):
    path = tmp_path / "weights.txt"
    with path.open("wb") as file:
        file.truncate((4 << 20) + 1)
    with pytest.raises(ConfigError, match=r"weights\.txt: too many bytes for labels; at most 4,194,304"):
        read_labels(path, 1)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.txt: labels cannot be read: No such file"):
        read_labels(tmp_path / "none.txt", 1)
    with pytest.raises(ConfigError, match="labels cannot be read: Is a directory"):
        read_labels(tmp_path, 1)
