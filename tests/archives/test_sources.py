"""Which images there are, in which order, and what is damaged, left out, or given twice."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from rest_deploy.archives.sources import BLOCK, Item, Listing, Shard
from rest_deploy.errors import ConfigError, ImageError, RestDeployError
from rest_deploy.preprocess.image_files import MAX_BYTES
from rest_deploy.preprocess.images import load_image
from tests.archives.conftest import pictures

PICTURES = dict(pictures(4, broken_every=1000))
PNG = next(iter(PICTURES.values()))


def listed(*sources: object) -> tuple[list[Item], str]:
    """Images of sources, and what was told of them."""
    with closing(Listing([str(source) for source in sources])) as listing:
        found = [item for block in listing.blocks(0, -(-listing.count // BLOCK)) for item in block]
        assert len(found) == listing.count
        return found, listing.note


def names(*sources: object) -> list[str]:
    return [item.name for item in listed(*sources)[0]]


def make_tar(path: Path, members: dict[str, bytes], links: dict[str, str] | None = None) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
    return path


def test_folders_lists_and_tar_files_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("f/b.png", "f/a.png", "f/a/c.png", "f/.hidden.png", "f/note.md", "d.png"):
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"# Of these" if path.suffix == ".md" else PNG)
    make_tar(Path("t.tar"), {"z.png": PNG, "z.cls": b"7", "a.png": PNG})
    Path("list.txt").write_bytes(b"d.png\r\n\nno/such.png\nt.tar\n")
    found, note = listed("f", "list.txt", "f/b.png", "t.tar")
    assert [item.name for item in found] == [
        "f/a.png", "f/b.png", "f/a/c.png", "d.png", "no/such.png", "t.tar/z.png", "t.tar/a.png",
    ]  # fmt: skip
    assert note.startswith("3 files left out, not images that can be read here: f/note.md, t.tar/z.cls")
    assert note.endswith("3 images given more than once, taken once")


def test_the_same_by_another_path_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.png").write_bytes(PNG)
    assert names("a.png", "./a.png", tmp_path / "a.png", "x/../a.png" if Path("x").mkdir() is None else "") == ["a.png"]


def test_members_of_a_tar_file_are_read_where_they_lie(tmp_path: Path) -> None:
    members = {
        "d/1.png": PNG,
        "1.json": b"{}",
        "without_suffix": PNG,
        "text": b"GIF" * 9,
        "1.png": PICTURES["00/00001.png"],
    }
    tar = make_tar(tmp_path / "t.tar", members | {"._1.png": b"", "d/.x/2.png": PNG}, links={"2.png": "/etc/passwd"})
    found, note = listed(tar)
    assert [item.source() for item in found] == [PNG, PNG, members["1.png"]]
    assert [Path(item.name).name for item in found] == ["1.png", "without_suffix", "1.png"]
    assert note == f"3 files left out, not images that can be read here: {tar}/1.json, {tar}/text, {tar}/2.png"


def test_tar_files_of_a_folder_are_not_looked_into(tmp_path: Path) -> None:
    make_tar(tmp_path / "1.tar", PICTURES)
    (tmp_path / "note.md").write_bytes(b"# Of these")
    with pytest.raises(ImageError, match=r"no images; 1 file .*note\.md; 1 tar file in a folder left out: .*1\.tar"):
        listed(tmp_path)
    for number in range(2, 13):
        make_tar(tmp_path / f"{number}.TAR", PICTURES)
    (tmp_path / "a.png").write_bytes(PNG)
    _, note = listed(tmp_path)
    assert note.startswith(
        f"1 file left out, not images that can be read here: {tmp_path}/note.md; "
        f"12 tar files in a folder left out: {tmp_path}/1.tar"
    )
    assert note.endswith(" and 2 more; to take their images give them by their own names, as FOLDER/*.tar")


def test_links_to_a_file_are_other_paths(tmp_path: Path) -> None:
    """A row for each, as of copies; of a path that is written in two ways there is one."""
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "hard.png").hardlink_to(tmp_path / "a.png")
    (tmp_path / "soft.png").symlink_to("a.png")
    found, note = listed(tmp_path, f"{tmp_path}//./hard.png")
    assert [Path(item.name).name for item in found] == ["a.png", "hard.png", "soft.png"]
    assert note == "1 image given more than once, taken once"


def test_a_member_that_is_named_in_two_ways_is_one(tmp_path: Path) -> None:
    tar = make_tar(tmp_path / "t.tar", {"./d/a.png": PNG, "d/a.png": PNG, "d/./b/../a.png": PNG, "e/a.png": PNG})
    assert names(tar) == [f"{tar}/./d/a.png", f"{tar}/e/a.png"]


def test_of_members_of_one_name_the_first_counts(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for content in (PNG, PICTURES["00/00001.png"]):
            info = tarfile.TarInfo("same.png")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    found, note = listed(tmp_path / "t.tar")
    assert [item.source() for item in found] == [PNG]
    assert note == "1 image given more than once, taken once"


def test_names_that_no_terminal_and_no_utf8_can_show(tmp_path: Path) -> None:
    """They are text that any file of results can hold; what is opened is the name as it is."""
    strange = os.fsdecode(b"\xff.png")
    (tmp_path / strange).write_bytes(PNG)
    (found,), _ = listed(tmp_path)
    assert found.name == f"{tmp_path}/\\xff.png"
    assert load_image(found.source()).size
    tar = make_tar(tmp_path / "t.tar", {"../../up\x1b[2J.png": PNG})
    assert names(tar) == [f"{tar}/../../up\x1b[2J.png"]


def damaged_tars() -> Iterator[tuple[str, bytes, str]]:
    whole = make_tar(Path(os.devnull), {}) and _tar_bytes()
    header = 512 + (-(-len(PNG) // 512)) * 512  # of the second member
    yield "cut in a member", whole[:700], "unexpected end of data"
    yield "cut between members", whole[:header], "it was cut off"
    yield "cut in a header", whole[: header + 100], "damaged at byte"
    yield "a header overwritten", whole[:header] + b"\x55" * 512 + whole[header + 512 :], f"damaged at byte {header:,}"
    yield "two in one", whole + whole, "more follows its end"
    claims = tarfile.TarInfo("long.png")
    claims.type, claims.size = tarfile.XHDTYPE, 1 << 60
    yield "a header of more than there is", claims.tobuf(tarfile.GNU_FORMAT) + bytes(1024), "no tar file, or damaged"
    yield "none at all", b"x" * 2000, "no tar file, or damaged"
    yield "empty", b"", "no tar file, or damaged: empty file"


def _tar_bytes() -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, content in PICTURES.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return made.getvalue()


@pytest.mark.parametrize(
    ("content", "told"), [case[1:] for case in damaged_tars()], ids=[case[0] for case in damaged_tars()]
)
def test_a_damaged_tar_file_is_an_error_before_anything_is_done(content: bytes, told: str, tmp_path: Path) -> None:
    """The module tarfile takes several of these for the end of the archive."""
    (tmp_path / "t.tar").write_bytes(content)
    with pytest.raises(ConfigError, match=told) as caught:
        listed(tmp_path / "t.tar")
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("make it again; nothing was predicted")


@pytest.mark.parametrize("seed", range(40))
def test_any_bytes_changed_in_a_tar_file_give_its_images_or_one_error(seed: int, tmp_path: Path) -> None:
    import random

    chance, content = random.Random(seed), bytearray(_tar_bytes())
    for _ in range(chance.randint(1, 20)):
        content[512 * chance.randrange(len(content) // 512) + chance.randrange(512)] = chance.randrange(256)
    (tmp_path / "t.tar").write_bytes(content)
    try:
        found, _ = listed(tmp_path / "t.tar")
    except RestDeployError:
        return
    assert len(found) == len(PICTURES)


def test_what_cannot_be_read_is_the_error_of_one_image(tmp_path: Path) -> None:
    tar = make_tar(tmp_path / "t.tar", PICTURES)
    item = listed(tar)[0][0]
    tar.write_bytes(tar.read_bytes()[:600])
    for broken, told in (
        (item, "has become shorter"),
        (item._replace(path=str(tmp_path / "gone.tar")), "No such file"),
        (item._replace(size=MAX_BYTES + 1), "more than an accepted image can have"),
    ):
        with pytest.raises(ImageError, match=told):
            load_image(broken.source())


@pytest.mark.parametrize(
    ("made", "told"),
    [
        ({}, "no such file; give folders, images"),
        ({"x.txt": b""}, "x.txt: no images"),
        ({"x.txt": b"a" * 70_000}, "line 1 is longer than any path"),
        ({"x.txt": b"a\nb\0"}, "line 2 holds bytes of no path"),
        ({"x.txt": b"a.png\ngs://bucket/b.png\n"}, "gs://bucket/b.png: a URI, and images are read by their paths"),
        ({"x.txt": b"shard.tar.gz"}, "shard.tar.gz: a packed tar file"),
        ({"x.tgz": b"any"}, "x.tgz: a packed tar file, whose members cannot be read by their place; unpack it"),
        ({"x.tar": _tar_bytes()[:0] + b"\0" * 1024}, "x.tar: no images"),
    ],
)
def test_sources_that_are_none(made: dict[str, bytes], told: str, tmp_path: Path) -> None:
    for name, content in made.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises((ImageError, ConfigError), match=told):
        listed(*(tmp_path / name for name in made or ["x"]))


def test_the_digest_tells_another_list(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    with closing(Listing([str(tmp_path)])) as before:
        (tmp_path / "b.png").write_bytes(PNG)
        with closing(Listing([str(tmp_path)])) as after:
            assert before.digest != after.digest


def test_a_temporary_folder_without_room_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sqlite3

    from rest_deploy.archives import sources

    def full(_: str) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(sources.sqlite3, "connect", full)
    with pytest.raises(ConfigError, match="database or disk is full; set TMPDIR to a folder with room"):
        listed(tmp_path)


@pytest.mark.parametrize("images", [1, BLOCK, BLOCK + 1, 5000])
@pytest.mark.parametrize("count", [1, 3, 4, 100])
def test_shards_have_every_block_once_and_in_order(images: int, count: int) -> None:
    parts = [range(*Shard(number, count).blocks(images)) for number in range(1, count + 1)]
    assert [block for part in parts for block in part] == list(range(-(-images // BLOCK)))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("text", ["17/16", "0/16", "3", "3/0", "-1/4", "1/100000", "a/b", "1/2/3"])
def test_shards_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match=r"give 1/16 to 16/16|such as 3/16"):
        Shard.parse(text)


def test_behind_a_link_two_dots_lead_where_the_system_says(tmp_path: Path) -> None:
    (tmp_path / "real" / "sub").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "link").symlink_to(tmp_path / "real" / "sub")
    for folder in ("real", "other"):
        (tmp_path / folder / "x.jpg").write_bytes(folder.encode())
    with closing(
        Listing([str(tmp_path / "other" / "link" / ".." / "x.jpg"), str(tmp_path / "other" / "x.jpg")])
    ) as found:
        (items,) = found.blocks(0, 1)
    assert [Path(item.path).read_bytes() for item in items] == [b"real", b"other"]


def test_a_list_from_an_editor_that_marks_it(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes(b"\xef\xbb\xbfa.png\r\nb.png\r\n")
    assert [item.name for item in listed(tmp_path / "x.txt")[0]] == ["a.png", "b.png"]


def test_one_tar_file_by_two_ways_is_one(tmp_path: Path) -> None:
    tar = make_tar(tmp_path / "t.tar", PICTURES)
    (tmp_path / "link").symlink_to(tmp_path)
    assert len(listed(tar, tmp_path / "link" / "t.tar")[0]) == len(PICTURES)
