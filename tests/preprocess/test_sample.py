"""Images to calibrate with and to judge by: enough, different, and the same ones again by their seed."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rest_deploy.errors import ConfigError, ImageError
from rest_deploy.preprocess.sample import choose_images, images_below


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
    assert first.names(first.calibration) == tuple(path.name for path in first.calibration)


def test_another_picture_under_the_same_name_has_another_digest(tmp_path: Path) -> None:
    one = choose_images(_noise(tmp_path / "x", 24), None, 0)
    one.calibration[3].write_bytes(one.judged[0].read_bytes())
    one.judged[0].unlink()
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


@pytest.mark.parametrize(("count", "there", "needed"), [(None, 20, 24), (None, 0, 24), (30, 37, 38)])
def test_too_few(tmp_path: Path, count: int | None, there: int, needed: int) -> None:
    folder = _noise(tmp_path / "x", there)
    with pytest.raises(ConfigError, match=rf"has {there} different images; needed: {needed} or more"):
        choose_images(folder, count, 0)


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
    chosen = choose_images(folder, None, 0).calibration[0]
    chosen.write_bytes(b"no image")
    with pytest.raises(ImageError, match=f"{chosen.name}: not an image .*; mend it or take it out of the calibration"):
        choose_images(folder, None, 0)


def test_hidden_files_are_left_out(tmp_path: Path) -> None:
    folder = _noise(tmp_path / "x", 24)
    (folder / "._000.png").write_bytes(b"of a Mac, beside every image")
    _noise(folder / ".thumbnails", 3)
    assert len(images_below(folder, "folder")) == 24


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "x.png").touch()
    with pytest.raises(ConfigError, match=r"x\.png: a file, not a folder"):
        choose_images(tmp_path / "x.png", None, 0)
