import contextlib
import copyreg
import os
import pickle
import resource
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from mmpareto.data.raw.unpickling import load_object_array, load_pickle
from mmpareto.errors import InputError

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def assert_same(result: Any, expected: Any) -> None:
    assert type(result) is type(expected)
    if isinstance(expected, np.ndarray):
        assert result.dtype == expected.dtype and result.shape == expected.shape
        if expected.dtype == object:
            for one, other in zip(result.ravel(), expected.ravel(), strict=True):
                assert_same(one, other)
        else:
            assert result.tobytes() == expected.tobytes()
            assert result.flags.writeable
    elif isinstance(expected, dict):
        assert result.keys() == expected.keys()
        for key in expected:
            assert_same(result[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert len(result) == len(expected)
        for one, other in zip(result, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, np.generic):
        assert result.dtype == expected.dtype and result.tobytes() == expected.tobytes()
    else:
        assert result == expected


EXAMPLE = {
    "float": np.arange(6, dtype="f4").reshape(2, 3) / 7,
    "big-endian": np.arange(6, dtype=">i2"),
    "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "transposed": np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
    "every second": np.arange(10)[::2],
    "empty": np.zeros((0, 3)),
    "no axes": np.array(3.5),
    "boolean": np.array([True, False]),
    "complex": np.array([1 + 2j]),
    "strings": np.array(["é", "naïve"]),
    "byte strings": np.array([b"ab", b"c"]),
    "objects": np.array([["a", None], [[1, 2], {"inner": np.ones((2, 2), "f2")}]], dtype=object),
    "scalars": [np.float32(2), np.int64(-1), np.bool_(True), np.str_("hé"), np.bytes_(b"x")],
    "dtypes": (np.dtype("f4"), np.dtype(">u2"), np.dtype("U3"), np.dtype(object)),
    "numbers": [1, -(10**40), 2.5, 1j, True, None],
    "bytes": [b"\xff\x00", b"", bytearray(b"ab"), bytearray()],
    "containers": ([], (), {}, {1, (2, 3)}, frozenset("ab"), ([np.zeros(2)],)),
    3: "ünïcode",
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_reads_what_pickle_writes(tmp_path: Path, protocol: int) -> None:
    assert_same(load_pickle(written(tmp_path / "x.pkl", pickle.dumps(EXAMPLE, protocol))), EXAMPLE)


@pytest.mark.parametrize("protocol", range(4))  # these write names as lines of text
def test_reads_the_names_of_numpy_1_and_of_numpy_2(tmp_path: Path, protocol: int) -> None:
    value = {"a": np.arange(4.0), "s": np.float32(3)}
    new = pickle.dumps(value, protocol)
    old = new.replace(b"numpy._core.", b"numpy.core.")
    assert old != new
    assert_same(load_pickle(written(tmp_path / "old.pkl", old)), value)


arrays = hnp.arrays(
    st.one_of(hnp.integer_dtypes(), hnp.floating_dtypes(sizes=(16, 32, 64)), hnp.boolean_dtypes()),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary(), arrays),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.text(max_size=3), inner, max_size=4),
        st.tuples(inner, inner),
    ),
    max_leaves=10,
)


@settings(max_examples=60)
@given(value=values, protocol=st.sampled_from(PROTOCOLS))
def test_equals_what_pickle_itself_reads(tmp_path_factory: pytest.TempPathFactory, value: Any, protocol: int) -> None:
    path = written(tmp_path_factory.getbasetemp() / "any.pkl", pickle.dumps(value, protocol))
    assert_same(load_pickle(path), value)


def test_shared_and_cyclic_references_are_preserved(tmp_path: Path) -> None:
    array = np.arange(3)
    cycle: list[Any] = [array, (array,)]
    cycle.append(cycle)
    result = load_pickle(written(tmp_path / "x.pkl", pickle.dumps(cycle)))
    assert result[0] is result[1][0] and result[2] is result


# As written by Python 2 with NumPy 1: strings are bytes (opcodes U and T), and so is the content of an array.
def python2_string(content: bytes) -> bytes:
    return b"T" + struct.pack("<i", len(content)) + content


def python2_array(array: npt.NDArray[Any]) -> bytes:
    shape = b"(" + b"".join(b"J" + struct.pack("<i", size) for size in array.shape) + b"t"
    kind = python2_string(array.dtype.str[1:].encode())
    order = python2_string(array.dtype.str[:1].encode())
    return (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
        + (shape + b"cnumpy\ndtype\n" + kind + b"K\x00K\x01\x87R(K\x03" + order + b"NNNJ\xff\xff\xff\xff")
        + (b"J\xff\xff\xff\xffK\x00tb\x89" + python2_string(array.tobytes()) + b"tb")
    )


def python2_dictionary(content: dict[bytes, bytes]) -> bytes:
    return b"}(" + b"".join(python2_string(key) + value for key, value in content.items()) + b"u"


def test_reads_pickles_of_python_2_strings_as_latin1(tmp_path: Path) -> None:
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3) * 10
    label = np.array([3, -1], dtype="<i8")
    content = {
        b"image": python2_array(image),
        b"label": python2_array(label),
        b"na\xefve": python2_string(b"\xe9"),
    }
    data = b"\x80\x02" + python2_dictionary(content) + b"."
    result = load_pickle(written(tmp_path / "x.pkl", data))
    assert_same(result, {"image": image, "label": label, "naïve": "é"})
    assert_same(result, pickle.loads(data, encoding="latin1"))


def npy(content: bytes, header: str = "{'descr': '|O', 'fortran_order': False, 'shape': (), }") -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content


def test_reads_a_dictionary_that_numpy_saved(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array(EXAMPLE, dtype=object))
    assert_same(load_object_array(tmp_path / "x.npy"), EXAMPLE)


def test_reads_a_dictionary_that_numpy_saved_under_python_2(tmp_path: Path) -> None:
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    state = python2_dictionary({b"image": python2_array(image)})
    whole = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01)cnumpy\ndtype\n"
        b"U\x02O8K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb\x89]" + state + b"atb."
    )
    path = written(tmp_path / "x.npy", npy(whole))
    assert_same(load_object_array(path), {"image": image})
    assert_same(np.load(path, allow_pickle=True, encoding="latin1").item(), {"image": image})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a readable .npy file"),
        (b"PK\x03\x04 something else", "not a readable .npy file"),
        (b"\x93NUMPY\x09\x00\x10\x00", "not a readable .npy file"),
        (npy(b"", "{'descr': '|O', 'shape': __import__('os').getcwd()}"), "not a readable .npy file"),
        (
            npy(b"12345678", "{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }"),
            "float64 .1,. instead of one",
        ),
        (npy(b"", "{'descr': '|O', 'fortran_order': False, 'shape': (9,), }"), "instead of one pickled object"),
        (npy(pickle.dumps({})), "does not contain the object"),
        (npy(pickle.dumps(np.arange(3))), "does not contain the object"),
        (npy(pickle.dumps(np.array([{}], dtype=object))[:-3]), "damaged or not a pickle"),
    ],
)
def test_other_npy_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=rf"x\.npy.*{message}"):
        load_object_array(written(tmp_path / "x.npy", content))


class Reducing:
    """Pickled as a function call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


class Own:
    pass


def leave_a_mark(path: Path) -> Reducing:
    return Reducing(os.system, f"touch '{path}'")


NESTINGS = {
    "alone": lambda bad: bad,
    "in a dictionary": lambda bad: {"train": {"x": [1, bad]}},
    "as a key": lambda bad: {bad: 1},
    "in a tuple in a list": lambda bad: [(1, bad)],
    "in a set": lambda bad: {bad},
    "in an object array": lambda bad: np.array([1, bad], dtype=object),
    "in an array in an array": lambda bad: {"a": np.array([np.array([bad, 2], dtype=object), 3], dtype=object)},
}


@pytest.mark.parametrize("nesting", NESTINGS)
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_pickle_that_runs_a_command_is_refused_and_nothing_runs(tmp_path: Path, nesting: str, protocol: int) -> None:
    mark = tmp_path / "mark"
    content = pickle.dumps(NESTINGS[nesting](leave_a_mark(mark)), protocol)
    path = written(tmp_path / "bad.pkl", content)
    with pytest.raises(InputError, match=r"bad\.pkl requests posix\.system.*None of it was run"):
        load_pickle(path)
    assert not mark.exists()
    pickle.loads(content)
    assert mark.exists()


def test_an_npy_file_that_runs_a_command_is_refused(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    np.save(tmp_path / "bad.npy", np.array({"train_image": leave_a_mark(mark)}, dtype=object))
    with pytest.raises(InputError, match=r"bad\.npy requests posix\.system"):
        load_object_array(tmp_path / "bad.npy")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("thing", "name"),
    [
        (Reducing(eval, "1 + 1"), r"(__builtin__|builtins)\.eval"),
        (Reducing(exec, "1"), r"(__builtin__|builtins)\.exec"),
        (Reducing(getattr, "x", "join"), r"(__builtin__|builtins)\.getattr"),
        (Reducing(np.load, "x.npy"), r"numpy\.load"),
        (Reducing(pickle.loads, b"."), r"pickle\.loads"),
        (Reducing(copyreg._reconstructor, Own, object, None), r"copyreg\._reconstructor|copy_reg\._reconstructor"),
        (Own(), r"\.Own|_reconstructor"),
        (Own, r"\.Own"),
        (os.getcwd, r"posix\.getcwd"),
        (np.ones, r"numpy\.ones"),
        (np.ma.masked_array([1]), r"numpy\.ma"),
        (np.random.default_rng(0), r"numpy\.random"),
        (np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]), "V12"),
        (np.array(["2020-01-01"], dtype="M8[D]"), "M8"),
        (np.longdouble(1), "f16"),
        (range(3), r"range"),
        (Path("x"), r"pathlib"),
    ],
)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_types_other_than_arrays_and_containers_are_refused(
    tmp_path: Path, thing: Any, name: str, protocol: int
) -> None:
    path = written(tmp_path / "bad.pkl", pickle.dumps({"fine": np.ones(2), "odd": thing}, protocol))
    with pytest.raises(InputError, match=rf"bad\.pkl (requests|contains data of the type) .*({name})"):
        load_pickle(path)


NDARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
FLOATS, OBJECTS = (b"cnumpy\ndtype\nX\x02\x00\x00\x00" + code + b"\x89\x88\x87R" for code in (b"f4", b"O8"))


@pytest.mark.parametrize(
    ("program", "message"),
    [
        # misuse of allowed functions
        (b"c_codecs\nencode\n.", "contains a function"),
        (b"cnumpy\nndarray\n(K\x05t\x85R.", "calls numpy.ndarray"),
        (b"cnumpy\nndarray\n(K\x05\x85t\x81.", "damaged"),  # NEWOBJ: ndarray.__new__(ndarray, …)
        (b"cnumpy.core.multiarray\n_reconstruct\ncbuiltins\nset\nK\x00\x85C\x01b\x87R.", "a custom class"),
        (b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x04\x00\x00\x00zlibtR.", "encoding 'zlib'"),
        (b"cbuiltins\nbytearray\n(J\xff\xff\xff\x7ftR.", "int where bytes are expected"),
        (b"cbuiltins\nbytes\n(J\xff\xff\xff\x7ftR.", "damaged"),
        (b"c_codecs\nencode\n}X\x01\x00\x00\x00aK\x01sb.", "changes a function"),
        (b"c_codecs\nencode\nN}X\x05\x00\x00\x00_callK\x01s\x86b.", "changes a function"),
        # arrays that declare more than they contain
        (NDARRAY + b"(K\x01J\xff\xff\xff\x7f\x85" + FLOATS + b"\x89C\x04abcdtb.", "damaged.*4 bytes or items"),
        (NDARRAY + b"(K\x01J\xff\xff\xff\x7f\x85" + OBJECTS + b"\x89](K\x01K\x02etb.", "damaged.*2 bytes or items"),
        (NDARRAY + b"(K\x01K\x01\x85" + OBJECTS + b"\x89C\x08abcdefghtb.", "objects without a list"),
        (NDARRAY + b"(K\x01J\xff\xff\xff\xff\x85" + FLOATS + b"\x89C\x00tb.", "damaged.*shape"),
        (NDARRAY + b".", "damaged"),
        (b"cnumpy.core.multiarray\nscalar\n" + FLOATS + b"C\x02ab\x86R.", "damaged"),
        (b"cnumpy.core.multiarray\nscalar\n" + OBJECTS + b"](K\x01e\x86R.", "scalar that is an object"),
        # dtypes that reach beyond their items
        (FLOATS + b"(K\x03X\x01\x00\x00\x00<NX\x01\x00\x00\x00a\x85}J\x00\x00\x01\x00K\x01K\x00tb.", "structured"),
        (b"cnumpy\ndtype\nX\x05\x00\x00\x00i4,i4\x89\x88\x87R.", "i4,i4"),
        # other opcodes that load functions or outside data
        (b"(cposix\nsystem\nX\x02\x00\x00\x00lso.", "requests posix.system"),
        (b"(X\x02\x00\x00\x00lsiposix\nsystem\n.", "requests posix.system"),
        (b"\x82\x01.", "registered extension 1"),
        (b"Pelsewhere\n.", "'elsewhere' outside the file"),
        (b"\x97.", "damaged"),  # a buffer outside the file
    ],
)
def test_programs_that_misuse_allowed_functions_are_refused(tmp_path: Path, program: bytes, message: str) -> None:
    with pytest.raises(InputError, match=rf"(?s)bad\.pkl.*{message}"):
        load_pickle(written(tmp_path / "bad.pkl", b"\x80\x04" + program))


@pytest.mark.parametrize(
    "program",
    [
        b"K\x01r\x00\x00\x00\x02.",  # memo entry 33,554,432, for which C allocates twice as many
        b"\x8e\x00\x00\x00\x00\x01\x00\x00\x00.",  # 4 GiB of bytes
        b"\x96\x00\x00\x00\x00\x00\x01\x00\x00.",  # a bytearray of one tebibyte
        b"\x8d\x00\x00\x00\x00\x01\x00\x00\x00.",
        b"B\xff\xff\xff\xff.",
        NDARRAY + b"(K\x01(J\xff\xff\xff\x7fJ\xff\xff\xff\x7ft" + FLOATS + b"\x89C\x04abcdtb.",
    ],
)
def test_small_files_do_not_allocate_gigabytes(tmp_path: Path, program: bytes) -> None:
    path = written(tmp_path / "small.pkl", b"\x80\x05" + program)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with contextlib.suppress(InputError):
        load_pickle(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < resident + 200_000  # kB


def test_truncated_files_are_refused(tmp_path: Path) -> None:
    whole = pickle.dumps(EXAMPLE)
    for length in [*range(0, len(whole), 41), len(whole) - 1]:
        with pytest.raises(InputError, match=r"cut\.pkl is damaged or not a pickle"):
            load_pickle(written(tmp_path / "cut.pkl", whole[:length]))


@given(place=st.integers(0, len(pickle.dumps(EXAMPLE)) - 1), byte=st.integers(0, 255))
def test_a_damaged_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, place: int, byte: int) -> None:
    content = bytearray(pickle.dumps(EXAMPLE))
    content[place] = byte
    path = written(tmp_path_factory.getbasetemp() / "damaged.pkl", content)
    try:
        load_pickle(path)
    except InputError as error:
        assert "damaged.pkl" in str(error)


@pytest.mark.parametrize("content", [b"hello, world\n", b"{'a': 1}", b"\x89PNG\r\n\x1a\n", b"\x1f\x8b\x08\x00"])
def test_files_of_other_kinds_are_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InputError, match=r"other\.pkl"):
        load_pickle(written(tmp_path / "other.pkl", content))


def test_a_zip_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pkl", "w") as file:
        file.writestr("a", "b")
    with pytest.raises(InputError, match=r"x\.pkl"):
        load_pickle(tmp_path / "x.pkl")
    with pytest.raises(InputError, match=r"absent\.pkl cannot be read"):
        load_pickle(tmp_path / "absent.pkl")
    with pytest.raises(InputError, match="cannot be read"):
        load_object_array(tmp_path)


def test_deep_nesting_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="RecursionError"):
        load_pickle(written(tmp_path / "deep.pkl", b"\x80\x04" + b"]" * 50_000 + b"a" * 49_999 + b"."))


def test_peak_memory_is_at_most_one_array_above_the_content(tmp_path: Path) -> None:
    arrays = {str(number): np.full(2_000_000, number, dtype=np.uint8) for number in range(8)}
    path = written(tmp_path / "large.pkl", pickle.dumps(arrays))
    tracemalloc.start()
    load_pickle(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < (8 + 1 + 0.5) * 2_000_000
