"""Images or arrays to calibrate with and judge by: enough, different, and the same ones again by their seed."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from rest_deploy.errors import ConfigError, ImageError
from rest_deploy.preprocess.dataset import images_below
from rest_deploy.preprocess.sample import ArrayInput, Sample, SampleSource, choose_images


def _path(source: SampleSource) -> Path:
    assert isinstance(source, Path)
    return source


def _noise(folder: Path, count: int, *, contrast: float = 1.0, start: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(start, start + count):
        rng = np.random.default_rng(number)
        coarse = 128 + contrast * rng.uniform(-120, 120, (4, 4, 3)) + rng.uniform(-1, 1, (4, 4, 3))
        Image.fromarray(coarse.astype(np.uint8)).resize((24, 20), Image.Resampling.NEAREST).save(
            folder / f"{number:03d}.png"
        )
    return folder


def test_a_hundred_to_calibrate_and_a_hundred_others(tmp_path: Path) -> None:
    sample = choose_images(_noise(tmp_path / "x", 230), None, 0)
    assert (len(sample.calibration), len(sample.judged)) == (100, 100)
    assert not set(sample.calibration) & set(sample.judged)


def test_a_smaller_folder_is_split(tmp_path: Path) -> None:
    sample = choose_images(_noise(tmp_path / "x", 40), None, 0)
    assert (len(sample.calibration), len(sample.judged)) == (30, 10)
    asked = choose_images(tmp_path / "x", 20, 0)
    assert (len(asked.calibration), len(asked.judged)) == (20, 20)


def test_the_same_seed_chooses_the_same(tmp_path: Path) -> None:
    folder = _noise(tmp_path / "x", 30)
    first, again, other = (choose_images(folder, None, seed) for seed in (1, 1, 2))
    assert first == again
    assert first.sha256 != other.sha256
    assert first.names(first.calibration) == tuple(_path(source).name for source in first.calibration)


def test_another_picture_under_the_same_name_has_another_digest(tmp_path: Path) -> None:
    one = choose_images(_noise(tmp_path / "x", 24), None, 0)
    image, other = _path(one.calibration[3]), _path(one.judged[0])
    image.write_bytes(other.read_bytes())
    other.unlink()
    _noise(tmp_path / "x", 1, start=99)
    assert choose_images(tmp_path / "x", None, 0).sha256 != one.sha256


def test_folders_of_classes_are_searched(tmp_path: Path) -> None:
    for number in range(3):
        _noise(tmp_path / "x" / f"class{number}", 10, start=10 * number)
    sample = choose_images(tmp_path / "x", None, 0)
    assert {name.partition("/")[0] for name in sample.names(sample.calibration)} == {"class0", "class1", "class2"}


def test_all_of_them_judge_where_no_ranges_are_taken(tmp_path: Path) -> None:
    sample = choose_images(_noise(tmp_path / "x", 30), None, 0, calibrating=False)
    assert (len(sample.calibration), len(sample.judged)) == (0, 30)
    with pytest.raises(ConfigError, match="has 7 different images; needed: 8 or more, 8 to judge by"):
        choose_images(_noise(tmp_path / "y", 7), None, 0, calibrating=False)


def test_a_name_that_is_no_utf8_is_escaped(tmp_path: Path) -> None:
    folder = _noise(tmp_path / "x", 24)
    (folder / "000.png").rename(os.fsdecode(os.fsencode(folder) + b"/\xff.png"))
    sample = choose_images(folder, None, 0)
    names = sample.names(sample.calibration) + sample.names(sample.judged)
    assert "\\udcff.png" in names or "\\xff.png" in names
    assert all(name.encode() for name in names)


def test_linked_folders_are_searched(tmp_path: Path) -> None:
    _noise(tmp_path / "elsewhere", 24)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "link").symlink_to(tmp_path / "elsewhere")
    assert len(choose_images(tmp_path / "x", None, 0).calibration) == 18


@pytest.mark.parametrize(("count", "there", "needed"), [(None, 20, 24), (None, 1, 24), (30, 37, 38)])
def test_too_few(tmp_path: Path, count: int | None, there: int, needed: int) -> None:
    folder = _noise(tmp_path / "x", there)
    with pytest.raises(ConfigError, match=rf"has {there} different images?; needed: {needed} or more"):
        choose_images(folder, count, 0)


def test_an_array_that_may_not_be_read_is_told_as_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(24):
        np.save(tmp_path / f"{number}.npy", np.random.default_rng(number).normal(size=(3, 8, 8)).astype(np.float32))

    def refusing(path: Path, *_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refusing)
    with pytest.raises(ConfigError, match=r"\.npy: cannot be read: Permission denied"):
        choose_images(tmp_path, None, 0)


def test_copies_count_once(tmp_path: Path) -> None:
    folder = _noise(tmp_path / "x", 20)
    for number in range(12):
        (folder / f"copy{number}.png").write_bytes((folder / "000.png").read_bytes())
        Image.open(folder / f"{number:03d}.png").save(folder / f"again{number}.jpg", quality=95, subsampling=0)
    with pytest.raises(ConfigError, match="has 20 different images"):
        choose_images(folder, None, 0)


def test_all_alike(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"all alike \(thumbnails differ by \d\.\d of 255"):
        choose_images(_noise(tmp_path / "x", 40, contrast=0.04), None, 0)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        choose_images(tmp_path / "none", None, 0)


def test_an_image_that_is_none_is_named(tmp_path: Path) -> None:
    folder = _noise(tmp_path / "x", 24)
    chosen = _path(choose_images(folder, None, 0).calibration[0])
    chosen.write_bytes(b"no image")
    with pytest.raises(ImageError, match=f"{chosen.name}: not an image .* calibration folder"):
        choose_images(folder, None, 0)


def test_hidden_files_are_left_out(tmp_path: Path) -> None:
    folder = _noise(tmp_path / "x", 24)
    (folder / "._000.png").write_bytes(b"of a Mac, beside every image")
    _noise(folder / ".thumbnails", 3)
    assert len(images_below(folder).images) == 24
    assert choose_images(folder, None, 0).left_out_note == ""


def test_what_is_left_out_of_a_folder_is_told(tmp_path: Path) -> None:
    folder = _noise(tmp_path / "x", 24)
    (folder / "notes.txt").write_text("no image")
    note = choose_images(folder, None, 0).left_out_note
    assert note.startswith("1 file left out")
    assert "'notes.txt'" in note


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"calibration folder .*x: no images or \.npy files"):
        choose_images(_noise(tmp_path / "x", 0), None, 0)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "x.png").touch()
    with pytest.raises(ConfigError, match=r"x\.png: a file, not a folder"):
        choose_images(tmp_path / "x.png", None, 0)


# Arrays


def _inputs(count: int, channels: int = 6, start: int = 0, size: tuple[int, int] = (20, 24)) -> NDArray[np.float32]:
    """Inputs of a network of some channels, one of which has other units than the others."""
    rng = np.random.default_rng(start)
    coarse = rng.standard_normal((count, channels, 4, 4)).repeat(5, axis=2).repeat(6, axis=3)
    values = coarse[..., : size[0], : size[1]].astype(np.float32)
    values[:, -1] = 1000 * values[:, -1] + 5000
    return values


def _saved(folder: Path, *arrays: NDArray[Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for array in arrays:
        np.save(folder / f"{len(list(folder.iterdir())):03d}.npy", array)
    return folder


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_arrays_are_inputs_as_they_are(tmp_path: Path, apart: bool, dtype: Any) -> None:
    values = _inputs(40)
    stored = values.astype(dtype)
    sample = choose_images(_saved(tmp_path / "x", *(stored if apart else [stored])), None, 0)
    assert (len(sample.calibration), len(sample.judged)) == (30, 10)
    sources = (*sample.calibration, *sample.judged)
    loaded = [_array(source).load(6) for source in sources]
    assert all(array.dtype == np.float32 and array.shape == (6, 20, 24) for array in loaded)
    assert {array.tobytes() for array in loaded} == {array.astype(np.float32).tobytes() for array in stored}
    numbers = [int(name[:3]) if apart else int(name[8:-1]) for name in sample.names(sources)]
    assert sorted(numbers) == list(range(40))
    for number, array in zip(numbers, loaded, strict=True):
        assert np.array_equal(array, stored[number].astype(np.float32))
    assert sample == choose_images(tmp_path / "x", None, 0)


def _array(source: SampleSource) -> ArrayInput:
    assert isinstance(source, ArrayInput)
    return source


def test_arrays_of_several_sizes_and_orders_in_memory(tmp_path: Path) -> None:
    folder = _saved(tmp_path / "x", *_inputs(20), *_inputs(20, size=(7, 9), start=1))
    _saved(folder, np.asfortranarray(_inputs(4, start=2)))
    sample = choose_images(folder, 30, 0)
    shapes = {_array(source).load().shape for source in (*sample.calibration, *sample.judged)}
    assert shapes == {(6, 20, 24), (6, 7, 9)}


def test_another_value_in_an_array_gives_another_digest(tmp_path: Path) -> None:
    values = _inputs(40)
    one = choose_images(_saved(tmp_path / "x", values), 32, 0)
    first = _array(one.calibration[0])
    assert first.row is not None
    values[first.row, 0, 0, 0] += 1
    np.save(first.path, values)
    again = choose_images(tmp_path / "x", 32, 0)
    assert again.calibration == one.calibration
    assert again.sha256 != one.sha256


def test_copies_of_arrays_count_once(tmp_path: Path) -> None:
    values = _inputs(20)
    with pytest.raises(ConfigError, match="has 20 different inputs; needed: 24"):
        choose_images(_saved(tmp_path / "x", values, *values), None, 0)


@pytest.mark.parametrize("share", [0.0, 0.01])
def test_arrays_that_are_all_alike(tmp_path: Path, share: float) -> None:
    """One input with a little noise on it, in each channel by its own scale."""
    values = np.repeat(_inputs(1), 40, axis=0)
    noise = np.random.default_rng(3).standard_normal(values.shape)
    values += (1e-5 + share) * values.std(axis=(0, 2, 3), keepdims=True) * noise
    with pytest.raises(ConfigError, match=r"its inputs are all alike"):
        choose_images(_saved(tmp_path / "x", values.astype(np.float32)), None, 0)


def test_arrays_with_a_channel_that_never_changes_are_not_alike(tmp_path: Path) -> None:
    values = _inputs(40)
    values[:, 2] = 7
    assert len(choose_images(_saved(tmp_path / "x", values), None, 0).calibration) == 30


def test_arrays_and_images_in_one_folder(tmp_path: Path) -> None:
    folder = _saved(_noise(tmp_path / "x", 30), _inputs(40))
    with pytest.raises(ConfigError, match=r"calibration folder .*both \.npy files .*030\.npy.* and images .*000\.png"):
        choose_images(folder, None, 0)


class _Object:
    """Pickled into an array, it would say so."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a pickle was run",))


def _changed(at: tuple[int, ...], value: float) -> NDArray[np.float64]:
    values = _inputs(40).astype(np.float64)
    values[at] = value
    return values


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((40, 6, 8, 8), np.uint8), r"dtype uint8 and shape \(40, 6, 8, 8\); needed: float16, float32"),
        (np.zeros((40, 6, 8, 8), np.int64), "dtype int64"),
        (np.zeros((40, 6, 8, 8), np.complex64), "dtype complex64"),
        (np.zeros((8, 8), np.float32), r"shape \(8, 8\)"),
        (np.zeros((2, 40, 6, 8, 8), np.float32), r"shape \(2, 40, 6, 8, 8\)"),
        (np.zeros((0, 6, 8, 8), np.float32), r"shape \(0, 6, 8, 8\)|mmap an empty"),
        (np.zeros((40, 6, 0, 8), np.float32), r"shape \(40, 6, 0, 8\)|mmap an empty"),
        (np.float32(3), r"shape \(\)"),
        (np.array([_Object()], object), "not a .npy file of numbers"),
        (np.zeros(40, [("a", "f4")]), "dtype"),
        (_changed((7, 1, 2, 3), np.nan), r"input 7: .* not finite"),
        (_changed((7, 1, 2, 3), np.inf), r"input 7: .* not finite"),
        (_changed((7, 1, 2, 3), 1e39), r"input 7: .* not finite in float32"),
    ],
    ids=range(13),
)
def test_arrays_that_are_no_inputs(tmp_path: Path, array: NDArray[Any], words: str) -> None:
    folder = tmp_path / "x"
    folder.mkdir()
    np.save(folder / "000.npy", array, allow_pickle=True)
    with pytest.raises(ConfigError, match=rf"000\.npy.*{words}") as caught:
        choose_images(folder, None, 0)
    assert len(str(caught.value).splitlines()) == 1


def test_files_that_are_no_arrays(tmp_path: Path) -> None:
    whole = (_saved(tmp_path / "whole", _inputs(40)) / "000.npy").read_bytes()
    np.savez(tmp_path / "several.npz", a=_inputs(3))
    contents = [b"", b"no array", whole[:5], whole[:100], whole[:2000], b"\x93NUMPY\1\0\xff\xff" + whole[10:]]
    contents += [b"PK\3\4 no archive", whole.replace(b"'<f4'", b"',f4'"), whole.replace(b"shape'", b"sha(e'")]
    for number, content in enumerate([*contents, (tmp_path / "several.npz").read_bytes()]):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "bad.npy").write_bytes(content)
        with pytest.raises(ConfigError, match=r"bad\.npy: ") as caught:
            choose_images(folder, None, 0)
        assert len(str(caught.value).splitlines()) == 1


def test_arrays_of_two_networks(tmp_path: Path) -> None:
    folder = _saved(tmp_path / "x", _inputs(40), _inputs(40, channels=4))
    with pytest.raises(ConfigError, match=r"001\.npy: .*\(40, 4, 20, 24\) .*4 channels, .*000\.npy has 6"):
        choose_images(folder, None, 0)


def test_arrays_of_another_network(tmp_path: Path) -> None:
    sample: Sample = choose_images(_saved(tmp_path / "x", _inputs(40)), None, 0)
    with pytest.raises(ConfigError, match=r"000\.npy: .*\(40, 6, 20, 24\), .* 3 channels"):
        _array(sample.calibration[0]).load(3)
