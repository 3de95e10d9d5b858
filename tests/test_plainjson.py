"""Strict JSON: the standard library's parser is the oracle for what is valid, refusals are listed one by one."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medaegis.plainjson import MAX_DEPTH, decode_json, encode_json

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(values)
def test_what_is_written_is_read_and_has_one_encoding(value):
    data = encode_json(value)
    assert decode_json(data) == value == json.loads(data)
    assert encode_json(decode_json(data)) == data


@given(st.dictionaries(st.text(max_size=5), st.integers(), min_size=2))
def test_order_of_keys_does_not_show(content):
    assert encode_json(content) == encode_json(dict(reversed(content.items())))


@given(st.binary(max_size=40) | st.text('{}[]",:0123456789.eE+-truefalsn \\u', max_size=40).map(str.encode))
def test_reader_accepts_no_more_than_the_standard(data):
    try:
        value = decode_json(data)
    except ValueError:
        return
    assert value == json.loads(data.decode())


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b'{"a": 1, "a": 1}', "twice"),
        (b'{"a": {"b": 1, "b": 2}}', "twice"),
        (b"NaN", "not a finite number"),
        (b"[-Infinity]", "not a finite number"),
        (b"[1e999]", "not a finite number"),
        (b'"\\ud800"', "not Unicode"),
        (b'{"\\udfff": 1}', "not Unicode"),
        (b"\xff\xfe{\x00}\x00", "not UTF-8"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b"[" * 100_000, "deep"),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), None),
        (b"[" * (MAX_DEPTH + 2) + b"]" * (MAX_DEPTH + 2), "deep"),
        (b"9" * 5000, "digits"),
        (b"{} {}", "Extra data"),
    ],
)
def test_refused_on_reading(data, reason):
    if reason is None:
        decode_json(data)
    else:
        with pytest.raises(ValueError, match=reason):
            decode_json(data)


@pytest.mark.parametrize(
    "value", [float("nan"), [float("inf")], {1: "a"}, {"a": object()}, {"a": b"x"}, "\ud800", {"\udc00": 1}, {1, 2}]
)
def test_refused_on_writing(value):
    with pytest.raises(ValueError, match=r"not a|not Unicode|not text"):
        encode_json(value)


def test_a_value_that_contains_itself_is_refused():
    loop = []
    loop.append(loop)
    with pytest.raises(ValueError, match="deep"):
        encode_json(loop)
