"""Which files of a folder are images, and their classes: as they are meant, or refused with the place and the words."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from rest_deploy.artifact.labels import imagenet_labels
from rest_deploy.errors import ConfigError, ImageError, PredictorError
from rest_deploy.preprocess import ground_truth
from rest_deploy.preprocess.classes import imagenet_synsets
from rest_deploy.preprocess.dataset import Dataset, images_below, open_dataset
from rest_deploy.preprocess.images import load_image

PETS = ("tabby cat", "Käse", "three-toed sloth", "crane", "crane")


def _images(folder: Path, *names: str) -> Path:
    """Files with names of images; listing looks into none of them."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def _open(
    folder: Path, labels: Sequence[str] | None = PETS, num_classes: int | None = None, truth: Path | None = None
) -> Dataset:
    return open_dataset(folder, labels=labels, num_classes=num_classes or len(labels or ()), ground_truth=truth)


def _classes(dataset: Dataset) -> dict[str, int | None]:
    return {dataset.name(path): number for path, number in zip(dataset.images, dataset.classes, strict=True)}


def _truth(folder: Path, content: str | bytes, name: str = "truth.txt") -> Path:
    path = folder.parent / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def _names(dataset: Dataset) -> list[str]:
    return [dataset.name(path) for path in dataset.images]


# Which files are images

#: Every suffix is that of its own content, but for two that have none.
SUFFIXES = (
    *(".bmp", ".gif", ".ico", ".jfif", ".jp2", ".JPG", ".jpeg", ".pbm", ".pcx", ".png", ".ppm", ".tga", ".tif"),
    *(".webp", ""),
)
KINDS = {".pcx": "PCX", ".ico": "ICO", "": "PNG", ".pbm": "PPM"}


def test_of_fifteen_pictures_of_fourteen_suffixes_all_are_found(tmp_path: Path) -> None:
    picture = Image.radial_gradient("L").convert("RGB").resize((32, 32))
    for number, suffix in enumerate(SUFFIXES):
        own = picture.convert("1") if suffix == ".pbm" else picture
        own.save(tmp_path / f"{number:02d}{suffix}", KINDS.get(suffix))
    picture.save(tmp_path / "15", "WEBP")
    (tmp_path / "notes.txt").write_text("no picture")
    found = images_below(tmp_path)
    assert _names(found) == sorted(path.name for path in tmp_path.iterdir() if path.name != "notes.txt")
    assert all(load_image(path).size == (32, 32) for path in found.images)
    assert [path.name for path in found.left_out] == ["notes.txt"]
    assert found.classes == (None,) * 16


def test_what_is_left_out_is_counted_and_named(tmp_path: Path) -> None:
    _images(tmp_path, "a.png", "deep/er/b.jpg", "._a.png", ".hidden/c.png", ".notes.txt", "deep/.d.png")
    _images(tmp_path, "a.txt", "deep/b.csv", "deep/er/c.zip", "array.npy")
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    os.mkfifo(tmp_path / "pipe.png")
    found = images_below(str(tmp_path))
    assert _names(found) == ["a.png", "deep/er/b.jpg"]
    assert [found.name(path) for path in found.left_out] == [
        *("a.txt", "array.npy", "gone.png", "pipe.png", "deep/b.csv", "deep/er/c.zip")
    ]
    assert found.left_out_note.startswith("6 files left out")
    assert found.left_out_note.endswith(": 'a.txt', 'array.npy', 'gone.png', 'pipe.png', 'deep/b.csv', 'deep/er/c.zip'")
    assert _open(tmp_path).left_out == found.left_out
    assert _open(tmp_path).limited(1, 0).left_out == found.left_out


def test_of_many_files_left_out_some_are_named_and_all_counted(tmp_path: Path) -> None:
    _images(tmp_path, "a.png", *(f"{number:03d}.txt" for number in range(200)))
    note = images_below(tmp_path).left_out_note
    assert note.startswith("200 files left out")
    assert note.endswith("'009.txt' and 190 more")
    assert len(images_below(tmp_path).left_out) == 200


def test_where_nothing_is_left_out_there_is_nothing_to_say(tmp_path: Path) -> None:
    assert images_below(_images(tmp_path, "a.png")).left_out_note == ""


def test_files_come_in_order_of_name(tmp_path: Path) -> None:
    names = ["10.jpg", "2.PNG", "a.jpeg", "b.bmp"]
    _images(tmp_path, *reversed(names), "a/z.png", "B/y.png")
    assert _names(images_below(tmp_path)) == [*names, "B/y.png", "a/z.png"]


def test_a_folder_without_images_names_what_it_has(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"x: no images .*; 2 files .*'a.npy', 'b.txt'"):
        images_below(_images(tmp_path / "x", "a.npy", "b.txt"))
    with pytest.raises(ImageError, match=r"y: no such folder"):
        images_below(tmp_path / "y")
    with pytest.raises(ImageError, match=r"b\.txt: a file, not a folder"):
        images_below(tmp_path / "x" / "b.txt")


def test_arrays_are_found_where_they_are_asked_for_and_mixed_with_images_refused(tmp_path: Path) -> None:
    _images(tmp_path, "a.npy", "deep/b.NPY", "c.txt")
    found = images_below(tmp_path, arrays=True)
    assert _names(found) == ["a.npy", "deep/b.NPY"]
    assert found.are_arrays
    assert [path.name for path in found.left_out] == ["c.txt"]
    _images(tmp_path, "x.png")
    assert not images_below(tmp_path).are_arrays
    with pytest.raises(ImageError, match=r"both .npy files \('a.npy', 'deep/b.NPY'\) and images \('x.png'\)"):
        images_below(tmp_path, arrays=True)


# Folders


def test_a_flat_folder_is_unlabelled(tmp_path: Path) -> None:
    dataset = _open(_images(tmp_path, "b.png", "a.JPG", "notes.txt"))
    assert _classes(dataset) == {"a.JPG": None, "b.png": None}
    assert not dataset.labelled
    assert dataset.note.startswith("'a.JPG' ")


def test_one_image_beside_the_folders_makes_them_mere_folders(tmp_path: Path) -> None:
    dataset = _open(_images(tmp_path, "crane-1.png", "tabby cat/a.png"))
    assert not dataset.labelled
    assert "'crane-1.png' " in dataset.note


@pytest.mark.parametrize(
    ("folder", "number"),
    [
        *[("tabby cat", 0), ("Tabby Cat", 0), ("tabby_cat", 0), ("TABBY-cat", 0)],
        *[("Ka\u0308se", 1), ("KÄSE", 1), ("three toed_sloth", 2)],
    ],
)
def test_folders_are_named_by_labels(tmp_path: Path, folder: str, number: int) -> None:
    dataset = _open(_images(tmp_path, f"{folder}/a.png", f"{folder}/deep/er/b.png"))
    assert dataset.classes == (number, number)
    assert dataset.labelled
    assert dataset.note == "classes: label names, names of folders"


def test_an_exact_label_comes_before_one_in_another_case(tmp_path: Path) -> None:
    dataset = _open(_images(tmp_path, "Cat/a.png", "cat/a.png", "c-at/a.png", "c_at/a.png"), ("cat", "Cat", "c-at"))
    assert _classes(dataset) == {"Cat/a.png": 1, "cat/a.png": 0, "c-at/a.png": 2, "c_at/a.png": 2}


@pytest.mark.parametrize(
    ("labels", "folder"), [(PETS, "crane"), (PETS, "CRANE"), (("Dog", "DOG"), "dog"), (("a b", "a-b"), "a_b")]
)
def test_a_folder_named_as_two_classes(tmp_path: Path, labels: tuple[str, ...], folder: str) -> None:
    with pytest.raises(ConfigError, match=rf"'{folder}' .* classes \d and \d; name all .* another way"):
        _open(_images(tmp_path, f"{folder}/a.png"), labels)


def test_imagenets_cranes_are_told_apart_by_their_ids(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'crane' .* classes 134 and 517; .*WordNet ids such as n01440764"):
        _open(_images(tmp_path / "names", "crane/a.png"), imagenet_labels())
    dataset = _open(_images(tmp_path / "ids", "n02012849/a.png", "n03126707/a.png"), imagenet_labels())
    assert dataset.classes == (134, 517)
    assert dataset.note == "classes: WordNet ids, names of folders"


def test_ids_are_those_of_imagenets_labels() -> None:
    synsets, labels = imagenet_synsets(), imagenet_labels()
    assert len(synsets) == len(set(synsets)) == len(labels)
    assert list(synsets) == sorted(synsets)
    known = {"n01440764": "tench", "n02099601": "golden retriever", "n02123045": "tabby", "n03710637": "maillot"}
    known |= {"n03710721": "maillot, tank suit", "n03887697": "paper towel", "n15075141": "toilet tissue"}
    assert all(labels[synsets.index(synset)].startswith(label) for synset, label in known.items())


def test_ids_stand_for_classes_of_imagenet_alone(tmp_path: Path) -> None:
    folder = _images(tmp_path, "n01440764/a.png")
    assert not _open(folder, None, 999).labelled
    assert _open(folder, None, 1000).classes == (0,)
    assert _open(folder, ("dog", "n01440764")).classes == (1,)  # a label like any other


@pytest.mark.parametrize("labels", [None, PETS])
def test_folders_are_named_by_numbers(tmp_path: Path, labels: tuple[str, ...] | None) -> None:
    dataset = _open(_images(tmp_path, "0/a.png", "3/a.png", "4/a.png"), labels, 5)
    assert dataset.classes == (0, 3, 4)
    assert dataset.note == "classes: class numbers, names of folders"


@pytest.mark.parametrize("labels", [None, tuple("abcdefghijkl")])
@pytest.mark.parametrize(
    "names",
    [
        [str(number) for number in range(12)],
        ["2", "3"],  # a part of the classes: ImageFolder counts "2" as the fifth of all twelve
        ["10", "11"],  # of "00" to "11", or of "0" to "11"?
        ["0", "1", "2"],
        ["02", "3"],
        ["02", "003"],
        ["2"],
    ],
)
def test_numbers_of_more_than_ten_classes_sort_two_ways(
    tmp_path: Path, names: list[str], labels: tuple[str, ...] | None
) -> None:
    folder = _images(tmp_path / "x", *(f"{name}/a.png" for name in names))
    with pytest.raises(ConfigError, match=r"\b12 classes .*--labels.*--ground-truth") as caught:
        _open(folder, labels, 12)
    assert len(str(caught.value).splitlines()) == 1
    truth = _truth(folder, "".join(f"{name}/a.png {int(name)}\n" for name in names))
    assert _open(folder, labels, 12, truth).classes == tuple(int(name) for name in sorted(names))
    named = tuple(f"{'n' if str(number) not in names else ''}{number}" for number in range(12))
    if all(name in named for name in names):  # labels that are the folders' names say which class is which
        assert _open(folder, named, 12).classes == tuple(int(name) for name in sorted(names))


@pytest.mark.parametrize(
    ("names", "num_classes"),
    [
        (["00", "02", "11"], 12),
        (["002", "010"], 12),
        (["0", "1"], 12),  # first and second in either order
        (["05"], 100),
        (["00", "09"], 10),
        (["0", "3", "9"], 10),
        (["000", "099", "999"], 1000),
    ],
)
def test_numbers_that_sort_one_way_are_classes(tmp_path: Path, names: list[str], num_classes: int) -> None:
    folder = _images(tmp_path, *(f"{name}/a.png" for name in names))
    assert _open(folder, None, num_classes).classes == tuple(map(int, names))


@pytest.mark.parametrize(("names", "num_classes"), [(["0", "03", "4"], 5), (["1", "02"], 3), (["7", "010"], 11)])
def test_zeros_before_some_of_the_numbers_sort_two_ways(tmp_path: Path, names: list[str], num_classes: int) -> None:
    """ImageFolder has "03" before "1", however few the classes are."""
    with pytest.raises(ConfigError, match="by number or by name"):
        _open(_images(tmp_path, *(f"{name}/a.png" for name in names)), None, num_classes)


def test_wordnet_ids_and_label_names_have_one_order(tmp_path: Path) -> None:
    labels = tuple(str(number) for number in range(12))
    assert _open(_images(tmp_path, "2/a.png", "10/a.png"), labels).classes == (10, 2)


def test_labels_come_before_numbers(tmp_path: Path) -> None:
    labels = tuple("1234567890")
    assert _open(_images(tmp_path / "x", "0/a.png", "1/a.png", "9/a.png"), labels).classes == (9, 0, 8)


def test_numbers_and_labels_are_not_mixed(tmp_path: Path) -> None:
    """The labels say "1" to "3"; a folder "0" is none of them, though a class has that number."""
    with pytest.raises(ConfigError, match=r"folders '0' are not classes.* label names"):
        _open(_images(tmp_path, "0/a.png", "1/a.png"), ("1", "2", "3"))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["tabby cat", "x"], "folders 'x' are not classes.* label names; accepted: label names"),
        (["0", "5"], "folders '5' are not classes.* class numbers; .* from 0 to 4"),
        (["0", "-1", "1.0", "²", "x"], "'-1', '1.0', 'x' and 1 more are not classes"),
        (["Käse", *"abcd"], "folders 'a', 'b', 'c' and 1 more are not classes"),
    ],
)
def test_some_folders_that_are_no_classes(tmp_path: Path, names: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        _open(_images(tmp_path, *(f"{name}/a.png" for name in names)))


def test_folders_without_images_need_no_class(tmp_path: Path) -> None:
    assert _open(_images(tmp_path, "Käse/a.png", "notes/a.txt")).classes == (1,)


def test_folders_that_are_all_no_classes_are_mere_folders(tmp_path: Path) -> None:
    dataset = _open(_images(tmp_path, "2024/a.png", "2025/b.png"))
    assert not dataset.labelled
    assert dataset.note.startswith("no folder has the name of a class ")
    assert dataset.note.endswith(
        "('2024', '2025'); accepted: label names such as 'tabby cat', or class numbers from 0 to 4; one kind for all"
    )


@pytest.mark.parametrize("make", [False, True])
def test_no_folder_and_no_images(tmp_path: Path, make: bool) -> None:
    folder = tmp_path / "x"
    if make:
        _images(folder, "notes.txt", "deep/folder.png/notes.txt")
    with pytest.raises(ConfigError, match=r"data folder .*x: no images .*'notes.txt'" if make else "x: no such folder"):
        _open(folder)


def test_labels_of_another_number(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="5 labels for 6 classes"):
        _open(_images(tmp_path, "a.png"), PETS, 6)


def test_a_name_that_is_no_utf8_is_escaped(tmp_path: Path) -> None:
    folder = _images(tmp_path, os.fsdecode(b"\xff/\xfe.png"))
    dataset = _open(folder)
    assert [dataset.name(path) for path in dataset.images] == [r"\xff/\xfe.png"]
    assert dataset.note.encode()


def test_a_subfolder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Left out, its class would be missing from the accuracy."""
    _images(tmp_path, "0/a.png", "1/a.png")
    scandir = os.scandir

    def refusing(path: str) -> object:
        if str(path).endswith("1"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(ConfigError, match=r"data folder .*1: cannot be read: Permission denied"):
        _open(tmp_path)
    with pytest.raises(ImageError, match=r"1: cannot be read: Permission denied"):
        images_below(tmp_path)


def test_a_machine_that_opens_no_more_folders_is_not_a_bad_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _images(tmp_path, "0/a.png")

    def exhausted(path: str) -> object:
        raise OSError(errno.EMFILE, "Too many open files", str(path))

    monkeypatch.setattr(os, "scandir", exhausted)
    for opening in (_open, images_below):
        with pytest.raises(PredictorError, match="Too many open files"):
            opening(tmp_path)


# Links


@pytest.mark.parametrize("link", ["0/up", "1/deep/top", "latest"])
def test_a_link_to_a_parent_is_not_entered_again(tmp_path: Path, link: str) -> None:
    _images(tmp_path / "x", "0/a.png", "1/deep/b.png")
    (tmp_path / "x" / link).symlink_to(tmp_path / "x")
    (tmp_path / "x" / "0" / "self").symlink_to("self")
    dataset = _open(tmp_path / "x")
    assert _classes(dataset) == {"0/a.png": 0, "1/deep/b.png": 1}


def test_a_link_beyond_the_folder_and_back(tmp_path: Path) -> None:
    _images(tmp_path, "x/0/a.png", "y/b.png")
    (tmp_path / "x" / "1").symlink_to(tmp_path / "y")
    (tmp_path / "y" / "back").symlink_to(tmp_path / "x")
    assert _classes(_open(tmp_path / "x")) == {"0/a.png": 0, "1/b.png": 1}


@pytest.mark.parametrize("link", ["a", "z"])
def test_a_folder_and_a_link_to_it_count_once_by_the_name_of_the_folder(tmp_path: Path, link: str) -> None:
    _images(tmp_path, "m/a.png")
    (tmp_path / link).symlink_to("m")
    assert _names(images_below(tmp_path)) == ["m/a.png"]


def test_linked_images_and_a_linked_folder_itself(tmp_path: Path) -> None:
    _images(tmp_path / "x", "0/a.png")
    (tmp_path / "x" / "0" / "b.png").symlink_to("a.png")
    (tmp_path / "x" / "0" / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "link").symlink_to("x")
    assert _classes(_open(tmp_path / "link")) == {"0/a.png": 0, "0/b.png": 0}


# Ground truth


@pytest.mark.parametrize(
    "text",
    [
        "a.png 0\nd/b c.png 1\n",
        "a.png\t0\nd/b c.png\t1",
        "a.png,0\r\nd/b c.png,1\r\n",
        "\ufeff# of two\n\n  a.png   0  \n\t\n#\nd/b c.png , 1\n",
        "./a.png 00\nd//b c.png 01\n",
        'a.png,"tabby cat"\n"d/b c.png","Käse"\n',
        "a.png\ttabby cat\nd/b c.png\tKÄSE\n",
        "a.png,Tabby-Cat\nd/b c.png Käse\na.png,tabby cat\n",
    ],
)
def test_a_file_of_lines(tmp_path: Path, text: str) -> None:
    folder = _images(tmp_path / "x", "a.png", "d/b c.png")
    dataset = _open(folder, truth=_truth(folder, text))
    assert _classes(dataset) == {"a.png": 0, "d/b c.png": 1}
    assert dataset.note.startswith(("classes: class numbers in", "classes: label names in"))


def test_of_several_ways_to_part_a_line_the_path_of_an_image_counts(tmp_path: Path) -> None:
    folder = _images(tmp_path / "x", "a,b.png", "c, d.png", "e.png", "f g.png", 'h"i.png')
    text = "a,b.png,maillot, tank suit\nc, d.png tench,\ne.png,maillot, tank suit\nf g.png,tench,\n"
    text += '"h""i.png","maillot, tank suit"\n'
    dataset = _open(folder, ("tench,", "maillot, tank suit"), truth=_truth(folder, text))
    assert _classes(dataset) == {"a,b.png": 1, "c, d.png": 0, "e.png": 1, "f g.png": 0, 'h"i.png': 1}


def test_a_file_overrules_folders(tmp_path: Path) -> None:
    folder = _images(tmp_path / "x", "0/a.png", "strange/b.png")
    assert _open(folder, truth=_truth(folder, "0/a.png 3\nstrange/b.png 4")).classes == (3, 4)


def test_a_file_of_ids(tmp_path: Path) -> None:
    folder = _images(tmp_path / "x", "a.JPEG", "b.JPEG")
    dataset = _open(folder, imagenet_labels(), truth=_truth(folder, "b.JPEG n15075141\na.JPEG n01440764\n"))
    assert dataset.classes == (0, 999)
    assert "WordNet ids in" in dataset.note


@pytest.mark.parametrize("values", [{"a.png": 3, "b.png": "0"}, {"./b.png": 0, "a.png": "3"}])
def test_json(tmp_path: Path, values: dict[str, object]) -> None:
    folder = _images(tmp_path / "x", "a.png", "b.png")
    assert _open(folder, truth=_truth(folder, json.dumps(values), "truth.JSON")).classes == (3, 0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a.png 0", r"truth.txt: no entry for 'b.png'"),
        ("", r"truth.txt: no entry for 'a.png', 'b.png'"),
        ("a.png 0\n\nc.png 1\nb.png 1", r"truth.txt, line 3: 'c.png' is not an image of the folder; needed: its path"),
        ("a 0\nb 1", r"line 1: 'a' is not an image .* with suffix"),
        ("filename,label\na.png,0\nb.png,1", "line 1: 'filename' is not an image"),
        ("a.png 0\nb.png 1\n# c\na.png 2", r"line 4: 'a.png' .* class 2 here .* class 0 in .*line 1; keep one"),
        ("a.png 0\n./a.png 1\nb.png 1", "line 2: 'a.png' .* class 1 here .* class 0 in"),
        ("a.png 0\nb.png", r"line 2: 'b.png' .*; needed: PATH CLASS on each line"),
        ("a.png 0\nb.png,", r"line 2: 'b.png,' .*; needed"),
        ("a.png 0\nb.png 5", r"line 2: '5' is not a class; .* class numbers; accepted: .* from 0 to 4"),
        ("a.png -1\nb.png 1", r"line 1: '-1' is not a class"),
        ("a.png 0\nb.png 1.0", r"line 2: '1.0' is not a class"),
        ("a.png 0\nb.png\tKäse", r"line 1: '0' is not a class; .* label names; .*one kind for all"),
        ("a.png x\nb.png y", r"line 1: 'x' is not a class; accepted: label names .*, or class numbers"),
        ("a.png Käse\nb.png crane", r"line 2: 'crane' .* classes 3 and 4"),
        ("a.png\ttabby cat\nb.png golden retriever", r"line 2: 'b.png golden' is not an image"),
        ("../x/a.png 0\nb.png 1", r"line 1: '../x/a.png' leaves the folder of the images"),
        ("d/../a.png 0\nb.png 1", r"line 1: 'd/../a.png' leaves the folder"),
        ("a.png 0\n/etc/passwd 1", r"line 2: '/etc/passwd' leaves the folder"),
        ("a.png 0\nC:\\b.png 1", r"line 2: .* leaves the folder"),
        ("a.png 0\n..\\b.png 1", r"line 2: .* leaves the folder"),
        ("490\n361\n\n171\n", r"ILSVRC2012_validation_ground_truth.txt; .* needed: PATH CLASS"),
        ("a.png 0\n" + "b,1," * 3_000, r"line 2: 12,000 characters; needed: PATH CLASS"),
        ("a.png 0\nb.png \x1b[2J", r"line 2: '\\x1b\[2J' is not a class"),
        (b"a.png 0\nb\xff.png 1", r"truth.txt, line 2: ground truth must be UTF-8 text"),
        ("a.png 0\nb.png 1".encode("utf-16"), r"truth.txt, line 1: ground truth must be UTF-8 text"),
    ],
)
def test_a_file_that_does_not_fit(tmp_path: Path, text: str | bytes, words: str) -> None:
    folder = _images(tmp_path / "x", "a.png", "b.png")
    with pytest.raises(ConfigError, match=words):
        _open(folder, truth=_truth(folder, text))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a.png": 0', r"truth.json: not JSON \(.*line 1 column 12"),
        ('[["a.png", 0], ["b.png", 1]]', "JSON is not .*; needed: an object of path to class"),
        ("3", "JSON is not"),
        ("[" * 100_000, r"truth.json: not JSON \(.*recursion"),
        ('{"a.png": 0, "b.png": 1, "a.png": 2}', r"entry 3: 'a.png' .* class 2 here .* class 0 in .*entry 1"),
        ('{"a.png": 0, "b.png": true}', r"entry 2: the class of 'b.png' is neither a whole number nor text"),
        ('{"a.png": 0.0, "b.png": 1}', r"entry 1: the class of 'a.png' is neither"),
        ('{"a.png": {}, "b.png": 1}', r"entry 1: the class of 'a.png' is neither"),
        ('{"a.png": null, "b.png": 1}', r"entry 1: the class of 'a.png' is neither"),
        ('{"a.png": "", "b.png": 1}', r"entry 1: '' is not a class"),
        ('{"": 0}', r"entry 1: '' is not an image"),
        ('{"\\ud800.png": 0}', r"entry 1: '\\ud800.png' is not an image"),
        ('{"a.png": -1, "b.png": 1}', r"entry 1: '-1' is not a class"),
        ("{}", r"no entry for 'a.png', 'b.png'"),
    ],
    ids=range(14),
)
def test_json_that_does_not_fit(tmp_path: Path, text: str, words: str) -> None:
    folder = _images(tmp_path / "x", "a.png", "b.png")
    with pytest.raises(ConfigError, match=words) as caught:
        _open(folder, truth=_truth(folder, text, "truth.json"))
    assert str(caught.value).encode()  # can be printed


def test_a_file_that_is_missing_or_none(tmp_path: Path) -> None:
    folder = _images(tmp_path / "x", "a.png")
    for path, words in ((tmp_path / "none", "No such file"), (folder, "Is a directory")):
        with pytest.raises(ConfigError, match=f"{path.name}: ground truth cannot be read: {words}"):
            _open(folder, truth=path)


def test_a_file_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _images(tmp_path / "x", "a.png")
    monkeypatch.setattr(ground_truth, "_MAX_MIB", 1)
    full = _truth(folder, "a.png 0\n#".ljust(1 << 20, "#"))
    assert _open(folder, truth=full).classes == (0,)
    full.write_bytes(full.read_bytes() + b"\n")
    with pytest.raises(ConfigError, match=r"truth\.txt: more than the 1 MiB"):
        _open(folder, truth=full)


# Choices


def _made(classes: Sequence[int | None]) -> Dataset:
    images = tuple(Path("x") / f"{number:04d}.png" for number in range(len(classes)))
    return Dataset(Path("x"), images, tuple(classes), "as made")


def test_a_choice_is_stratified_in_order_and_the_same_again() -> None:
    dataset = _made([number % 7 for number in range(210)] + [7] * 30)
    for seed in range(20):
        chosen = dataset.limited(40, seed)
        assert Counter(chosen.classes) == {**dict.fromkeys(range(8), 5)}
        assert list(chosen.images) == sorted(set(chosen.images))
        whole = _classes(dataset)
        assert _classes(chosen).items() <= whole.items()
        assert chosen == dataset.limited(40, seed)
    assert dataset.limited(40, 0) != dataset.limited(40, 1)
    assert dataset.limited(40, 0).note == "as made"


def test_shares_are_rounded_down_or_up() -> None:
    dataset = _made([0] * 50 + [1] * 31 + [2] * 19)
    seen = {tuple(Counter(dataset.limited(10, seed).classes)[number] for number in range(3)) for seed in range(200)}
    assert seen == {(5, 3, 2), (5, 4, 1)}


def test_fewer_images_than_classes_are_of_different_classes() -> None:
    dataset = _made([number // 3 for number in range(300)])
    chosen = [dataset.limited(20, seed).classes for seed in range(50)]
    assert all(len(set(classes)) == 20 for classes in chosen)
    assert {number for classes in chosen for number in classes} == set(range(100))
    assert any({number, number + 1} <= set(classes) for classes in chosen for number in classes)  # not each fifth


@pytest.mark.parametrize("classes", [[0] * 9 + [1], [None] * 10], ids=["labelled", "unlabelled"])
def test_every_image_is_as_likely(classes: list[int | None]) -> None:
    """3 of 10, 2000 times: 600 each; six standard deviations are 123."""
    dataset = _made(classes)
    drawn = Counter(path for seed in range(2000) for path in dataset.limited(3, seed).images)
    assert len(drawn) == 10
    assert all(abs(count - 600) < 123 for count in drawn.values())


def test_a_choice_of_all_is_the_dataset() -> None:
    dataset = _made([0, 1, None])
    assert not dataset.labelled
    assert dataset.limited(3, 0) is dataset
    assert dataset.limited(99, 0) is dataset
    assert len(dataset.limited(2, 0).images) == 2
    with pytest.raises(ConfigError, match=r"0 images .*; needed: 1 or more"):
        dataset.limited(0, 0)


@pytest.mark.parametrize(("images", "classes"), [(0, 0), (2, 1)])
def test_a_dataset_has_images_and_a_class_for_each(images: int, classes: int) -> None:
    with pytest.raises(ConfigError, match=f"{images} images with {classes} classes"):
        Dataset(Path("x"), (Path("x/a.png"),) * images, (0,) * classes)


def test_it_loads_neither_torch_nor_onnx() -> None:
    code = "import sys, rest_deploy.preprocess.dataset; print({'torch', 'onnx', 'onnxruntime'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
