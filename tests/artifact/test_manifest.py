"""The manifest beside an engine: found, believed only of the plan it tells of, and every refusal says what to do."""

import errno
import json
import os
import re
import shlex
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rest_deploy.artifact import identity, manifest
from rest_deploy.artifact.identity import sha256_of
from rest_deploy.artifact.info import ArtifactInfo
from rest_deploy.artifact.manifest import manifest_path, read_manifest, write_manifest
from rest_deploy.errors import ArtifactError
from tests.artifact.test_engine import make_record
from tests.artifact.test_info import make_info

PLAN = bytes(range(256)) * 40
#: Of a record that still can be read, and of one that cannot.
OWN_LINE = "rebuild: rest-export --model rest_small --checkpoint 'my weights.pth' --format trt-rtx --target sm86,sm120 "
ANY_LINE = "rest-export --model NAME --checkpoint FILE --format trt "


@pytest.fixture
def engine(tmp_path):
    """A plan and its manifest, in a folder that a shell would split."""
    path = tmp_path / "my engines" / "rest.engine"
    path.parent.mkdir()
    path.write_bytes(PLAN)
    record = make_record(plan_sha256=sha256_of(path), plan_bytes=len(PLAN))
    write_manifest(manifest_path(path), make_info(format="trt-rtx", extra={}, engine=record))
    return path


def edit(engine, change):
    """Change the manifest's JSON."""
    path = manifest_path(engine)
    values = json.loads(path.read_text("utf-8"))
    change(values)
    path.write_text(json.dumps(values), encoding="utf-8")


def refusal(engine, line=ANY_LINE):
    """The message of a refusal: it names a file, says why, and ends with the line that rebuilds this engine."""
    with pytest.raises(ArtifactError) as caught:
        read_manifest(engine)
    message = str(caught.value)
    assert message.startswith(str(engine))
    assert message.endswith(f"{line}--output {shlex.quote(str(engine))}")
    return message


@pytest.mark.parametrize("path", ["a/rest.engine", Path("a/rest.engine")])
def test_the_manifest_lies_beside_its_engine(path):
    assert manifest_path(path) == Path("a/rest.engine.json")


def test_what_is_written_is_read(engine):
    info = read_manifest(str(engine))
    assert info == make_info(format="trt-rtx", extra={}, engine=info.engine)
    assert info.engine == make_record(plan_sha256=sha256_of(engine), plan_bytes=len(PLAN))


def test_the_manifest_is_text_for_people(engine):
    text = manifest_path(engine).read_text("utf-8")
    assert "犬" in text
    assert text.startswith('{\n  "schema": 3,\n')
    assert text.endswith("}\n")


@pytest.mark.parametrize(
    ("content", "digest"),
    [
        (b"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        (b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (b"a" * 10**6, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"),
    ],
    ids=["empty", "short", "million"],
)
def test_sha256_of_a_file(tmp_path, content, digest, monkeypatch):
    """Values of FIPS 180-2, appendix B; the last is longer than a block."""
    monkeypatch.setattr(identity, "_BLOCK", 1000)
    (tmp_path / "file").write_bytes(content)
    assert sha256_of(tmp_path / "file") == digest


@pytest.mark.parametrize("make_folder", [False, True])
def test_a_missing_plan(tmp_path, make_folder):
    path = tmp_path / "none.engine"
    if make_folder:
        path.mkdir()
    assert ("a folder, not a file" if make_folder else "no such file") in refusal(path)


def test_a_missing_manifest(engine):
    manifest_path(engine).unlink()
    assert "rest.engine.json is not beside it; copy it along" in refusal(engine)


def test_a_manifest_of_another_name_is_not_taken(engine):
    other = engine.rename(engine.with_name("renamed.engine"))
    assert "renamed.engine.json is not beside it" in refusal(other)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "empty"),
        (PLAN[:-1], "10,239 bytes of SHA-256"),
        (PLAN + b"\0", "10,241 bytes of SHA-256"),
        (PLAN[:5000] + bytes([PLAN[5000] ^ 1]) + PLAN[5001:], "10,240 bytes of SHA-256"),
    ],
    ids=["empty", "truncated", "longer", "bit-flipped"],
)
def test_a_damaged_plan(engine, content, why):
    engine.write_bytes(content)
    said = refusal(engine, OWN_LINE)
    assert f"rest.engine: it is {why}" in said
    assert "its manifest tells of 10,240 bytes" in said


def test_a_manifest_of_another_plan(engine):
    """Foreign, or edited: its SHA-256 is not that of the plan."""
    edit(engine, lambda values: values["engine"].update(plan_sha256="0" * 64))
    assert "SHA-256 0000000000000000..." in refusal(engine, OWN_LINE)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "metadata is not JSON"),
        (b'{"schema": 1', "metadata is not JSON"),
        (b"[]", "metadata is not a JSON object"),
        (b"{}", "metadata of schema None"),
        (b"\xef\xbb\xbf{}", "metadata is not JSON"),  # Notepad's byte order mark
        (b"\xff\xfe{\0}\0", "it is not text"),  # UTF-16
        (b"[" * 100_000, "metadata is not JSON"),
        (PLAN, "it is not text"),
    ],
    ids=["empty", "cut", "list", "bare", "mark", "utf-16", "deep", "plan"],
)
def test_a_damaged_manifest(engine, content, said):
    manifest_path(engine).write_bytes(content)
    assert f"rest.engine.json: {said}" in refusal(engine)


def test_a_truncated_manifest_is_refused_wherever_it_was_cut(engine):
    path = manifest_path(engine)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 2, 101):
        path.write_bytes(whole[:length])
        assert re.search("is not JSON|is not text", refusal(engine)), length


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda values: values.update(schema=4), "schema 4; this version reads 3"),
        (lambda values: values["engine"].update(library="x"), "engine.library is 'x'"),
        (lambda values: values["engine"].pop("targets"), "engine.targets is missing"),
        (lambda values: values["engine"].update(profiles=[]), "engine.profiles has 0 values"),
        (lambda values: values["engine"].update(plan_sha256="00"), "engine.plan_sha256 is '00'"),
        (lambda values: values.update(engine=[]), "engine is []"),
        (lambda values: values.update(labels=["cat"]), "1 label for 3 classes"),
    ],
    ids=["schema", "library", "targets", "profiles", "digest", "list", "labels"],
)
def test_an_edited_manifest(engine, change, said):
    edit(engine, change)
    message = refusal(engine)
    assert said in message
    assert "rest.engine.json: " in message


def test_a_manifest_of_something_else_than_an_engine(engine):
    edit(engine, lambda values: values.pop("engine"))
    assert "rest.engine.json: its engine is missing" in refusal(engine)


def test_a_manifest_without_end(engine, monkeypatch):
    """No more of it is read than a manifest may have."""
    monkeypatch.setattr(manifest, "_MAX_BYTES", 100)
    assert "rest.engine.json: too large" in refusal(engine)


def test_a_folder_in_place_of_the_manifest(engine):
    manifest_path(engine).unlink()
    manifest_path(engine).mkdir()
    assert "rest.engine.json: it is not a file" in refusal(engine)


def test_a_pipe_in_place_of_the_manifest_is_not_waited_for(engine):
    manifest_path(engine).unlink()
    os.mkfifo(manifest_path(engine))
    assert "rest.engine.json: it is not a file" in refusal(engine)


def test_a_plan_that_cannot_be_read(engine, monkeypatch):
    def fail(path):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(manifest, "sha256_of", fail)
    with pytest.raises(ArtifactError, match=r"rest\.engine: cannot be read: Permission denied$"):
        read_manifest(engine)


def test_the_plan_is_hashed_and_not_merely_measured(engine):
    """Its size in the manifest is for people: a plan is known by its SHA-256."""
    edit(engine, lambda values: values["engine"].update(plan_bytes=1))
    assert read_manifest(engine).engine.plan_bytes == 1


VALUES = make_info(engine=make_record()).to_dict()
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def places(values, path=()):
    """Paths of everything within nested dicts and lists."""
    inner = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in inner:
        yield (*path, key)
        yield from places(value, (*path, key))


def record_or_message(text):
    """What a text is read as, or what is said of it."""
    try:
        return ArtifactInfo.from_json(text, "a.engine.json")
    except ArtifactError as exc:
        return str(exc)


@settings(deadline=None)
@given(st.sampled_from(list(places(VALUES))), JUNK, st.booleans())
def test_a_mutated_record_gives_a_record_or_an_artifact_error(path, junk, remove):
    values = json.loads(json.dumps(VALUES))
    inner = values
    for key in path[:-1]:
        inner = inner[key]
    if remove:
        del inner[path[-1]]
    else:
        inner[path[-1]] = junk
    found = record_or_message(json.dumps(values))
    if isinstance(found, str):
        assert found.startswith("a.engine.json: ")
    else:
        assert found.to_json()
        assert found.engine is None or found.engine.rebuild("a.engine")


@settings(deadline=None)
@given(st.data())
def test_mutated_text_gives_a_record_or_an_artifact_error(data):
    text = json.dumps(VALUES)
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 20)))
    mutated = text[:start] + data.draw(st.text(max_size=5)) + text[end:]
    found = record_or_message(mutated)
    assert isinstance(found, ArtifactInfo) or found.startswith("a.engine.json: ")
