import pytest
from hypothesis import given
from hypothesis import strategies as st

from softcache.errors import FormatError
from softcache.store.layout import check_path, is_name_part, is_split_name, is_target_name


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/a",
        "a/",
        "a//b",
        "..",
        "a/../b",
        "./a",
        "a\\b",
        "a\x00b",
        "s3://x",
        "C:/x",
        "file:a",
        "a/.",
        "~/../x",
        "%2e%2e/x",
        "a?b",
        "a#b",
        "a*",
        "a\n",
    ],
)
def test_paths_outside_are_refused(path: str) -> None:
    with pytest.raises(FormatError):
        check_path(path)


@given(st.text())
def test_no_path_escapes(path: str) -> None:
    try:
        parts = check_path(path).split("/")
    except FormatError:
        return
    assert not path.startswith("/")
    assert all(p not in ("", ".", "..") for p in parts)


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("a@b", True),
        ("a.b-c_1@x", True),
        ("A@b", False),
        ("ab", False),
        ("a@b@c", False),
        (".a@b", False),
        ("a@", False),
        ("a@b\n", False),
        ("a@" + "b" * 200, False),
    ],
)
def test_target_names(name: str, good: bool) -> None:
    assert is_target_name(name) is good


@pytest.mark.parametrize(
    ("name", "good"),
    [("train", True), ("a.b", True), ("été", True), ("a..b", False), ("a/b", False), ("", False), ("a-b", False)],
)
def test_split_names(name: str, good: bool) -> None:
    assert is_split_name(name) is good


def test_name_parts() -> None:
    assert is_name_part("resnet-50.v1")
    assert not is_name_part("a@b")
