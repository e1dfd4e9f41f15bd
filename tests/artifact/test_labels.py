"""Names of classes, from files of all kinds."""

import json

import pytest

from rest_deploy.artifact.labels import default_labels, imagenet_labels, parse_labels, read_labels
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
    [("a\nb\n", "a.txt"), ("a\n", "a.txt"), ("a\nb\nc\nd", "a.txt"), ("", "a.txt"), ("[]", "a.json"), ("{}", "a.json")],
)
def test_another_number_of_labels_is_refused(tmp_path, content, name):
    with pytest.raises(ConfigError, match=rf"{name}: (1 label|[^1] labels) for a model of 3 classes"):
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


NAMES = ("ant", "bee", "cat")

#: Shapes that files of labels have, each of the names above.
SHAPES = {
    "lines": "ant\nbee\ncat\n",
    "numbered": "0 ant\n1 bee\n2 cat",
    "numbered, not in order": "2 cat\n0 ant\n1 bee",
    "numbered with colons": "0: ant\n1: bee\n2:cat",
    "numbered with tabs or commas": "0\tant\n1,bee\n2, cat",
    "synsets": "n02219486 ant\nn02206856 bee\nn02123045 cat",
    "numbered synsets": "0 n02219486 ant\n1 n02206856 bee\n2 n02123045 cat",
    "a dict as Python prints it": "{0: 'ant',\n 1: 'bee',\n 2: \"cat\"}",
    "list": json.dumps(NAMES),
    "name to number": json.dumps({"cat": 2, "ant": 0, "bee": 1}),
    "number to name": json.dumps({"2": "cat", "0": "ant", "1": "bee"}),
    "number to synset and name": json.dumps(
        {"0": ["n02219486", "ant"], "1": ["n02206856", "bee"], "2": ["n02123045", "cat"]}
    ),
    "list of synset and name": json.dumps([["n02219486", "ant"], ["n02206856", "bee"], ["n02123045", "cat"]]),
    "id2label": json.dumps({"architectures": ["x"], "id2label": {"0": "ant", "1": "bee", "2": "cat"}}),
    "both of Hugging Face": json.dumps(
        {"id2label": {"0": "ant", "1": "bee", "2": "cat"}, "label2id": {"ant": 0, "bee": 1, "cat": 2}}
    ),
    "classes": json.dumps({"classes": NAMES, "num_classes": 3}),
    "class_to_idx": json.dumps({"class_to_idx": {"ant": 0, "bee": 1, "cat": 2}}),
}  # fmt: skip


@pytest.mark.parametrize("name", ["a.txt", "a.json", "a"])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_read_whatever_the_suffix(tmp_path, shape, name):
    assert read_labels(write(tmp_path, SHAPES[shape], name), 3) == NAMES


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("0\n1\n2", ("0", "1", "2")),  # digits are names
        ("2012 audi\n2013 bmw\n2012 fiat", ("2012 audi", "2013 bmw", "2012 fiat")),  # years are
        ("101 dalmatians\nbee\ncat", ("101 dalmatians", "bee", "cat")),
        ('{"0": 0, "10": 2, "1": 1}', ("0", "1", "10")),  # ImageFolder's, of folders with numbers for names
        ("n02219486\nn02206856\nn02123045", ("n02219486", "n02206856", "n02123045")),
    ],
)
def test_names_that_look_like_numbers(tmp_path, text, names):
    assert read_labels(write(tmp_path, text), 3) == names


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("[", "starts like JSON, but is not valid JSON"),
        ('{"cat": 0', "starts like JSON, but is not valid JSON"),
        ("[background]\ncat", "starts like JSON, but is not valid JSON"),
        pytest.param("[" * 100_000, "starts like JSON", id="deeper than Python's recursion limit"),
        ('{"1": "cat", "2": "dog"}', "numbered 1 to 2, and it has 2"),
        ("1 cat\n2 dog", "numbered 1 to 2, and it has 2"),
        ('{"cat": 0, "dog": 2}', "numbered 0 to 2, and it has 2"),
        ('{"1": "0", "0": "1"}', "read two ways"),
        ('{"cat": "a", "dog": "b"}', "neither its keys nor its values"),
        ('{"classes": ["a", "b"], "class_to_idx": {"b": 0, "a": 1}}', "name the classes differently"),
        ('["cat", null]', "the label of class 1 is a NoneType"),
        ('["cat", ["n02084071", "dog", "x"]]', "the label of class 1 is a list"),
        ('[{"name": "cat"}, {"name": "dog"}]', "the label of class 0 is a dict"),
        ('{"classes": {"classes": ["cat", "dog"]}}', "neither its keys nor its values"),
    ],
)
@pytest.mark.parametrize("name", ["a.txt", "a.json"])
def test_other_shapes_are_refused_in_one_line(tmp_path, name, text, fact):
    with pytest.raises(ConfigError) as caught:
        read_labels(write(tmp_path, text, name), 2)
    message = str(caught.value)
    assert message.startswith(str(tmp_path / name))
    assert fact in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (("a", "b"), ("a", "b")),
        ({0: "a", 1: "b"}, ("a", "b")),
        ({1: "7", 0: "8"}, ("8", "7")),  # numbers are numbers, text is a name
        ({"b": 0, "a": 1}, ("b", "a")),
    ],
)
def test_values_of_python_are_read_the_same_way(values, names):
    assert parse_labels(values) == names


@pytest.mark.parametrize("values", [None, 3, "ab", {0: 1, 1: 0}, {0.5: "a"}, [b"a"], [True]])
def test_other_values_of_python_are_refused(values):
    with pytest.raises(ConfigError):
        parse_labels(values)


def test_a_file_too_large_for_labels_is_refused_unread(tmp_path):
    path = tmp_path / "weights.txt"
    with path.open("wb") as file:
        file.truncate((4 << 20) + 1)
    with pytest.raises(ConfigError, match=r"weights\.txt: too many bytes for labels; at most 4,194,304"):
        read_labels(path, 1)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.txt: labels cannot be read: No such file"):
        read_labels(tmp_path / "none.txt", 1)
    with pytest.raises(ConfigError, match="labels cannot be read: a folder, not a file; give the file in it"):
        read_labels(tmp_path, 1)
