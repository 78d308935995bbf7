"""The cases are well-formed, and malformed options are refused with a message."""

import pytest

from nvfp4.bench import cases
from nvfp4.bench.cases import Case


def test_every_case_once_and_groups_stand_together():
    made = cases.make_cases()
    assert len(set(made)) == len(made)
    groups = list(dict.fromkeys(case.group for case in made))
    assert sorted(made, key=lambda case: groups.index(case.group)) == made
    assert {case.op for case in made} == set(cases.OPS)
    assert {(case.n, case.k) for case in made if case.is_linear} == set(cases.SHAPES)
    assert all(case.k % 16 == 0 and case.m > 0 and case.bytes > 0 for case in made)


def test_row_ops_run_once_for_each_k():
    made = cases.make_cases(["quantize"], [(64, 32), (128, 32)], [1])
    assert made == [Case("quantize", 1, 0, 32)]


def test_the_bytes_of_a_case():
    case = Case("linear-w4a4", 2, 16, 64)
    assert case.quantized_bytes == 576
    assert case.bytes == 576 + 2 * 64 * 2 + 2 * 16 * 2
    assert case.macs == 2 * 16 * 64
    rows = Case("quantize", 3, 0, 64, "float32")
    assert rows.bytes == 3 * (64 * 4 + 32 + 4 + 4)
    assert rows.macs == 0


@pytest.mark.parametrize("op", cases.OPS)
def test_the_command_repeats_the_case(op):
    case = Case(op, 4, 0 if op in cases.ROW_OPS else 64, 32, "float16")
    words = case.command.split()
    options = dict(zip(words[2::2], words[3::2], strict=True))
    again = cases.make_cases(
        [options["--op"]],
        [cases.parse_shape(options["--shape"])],
        cases.parse_tokens(options["--m"]),
        options["--dtype"],
    )
    assert again == [case]


@pytest.mark.parametrize("text", ["", "64", "64,", "64,32,16", "a,b", "-1,32", "0,32", "64,20", "1.5,16"])
def test_bad_shapes(text):
    with pytest.raises(ValueError, match="--shape"):
        cases.parse_shape(text)


def test_shapes_with_a_comma_or_an_x():
    assert cases.parse_shape("64,32") == cases.parse_shape("64x32") == (64, 32)


@pytest.mark.parametrize("text", ["", "0", "1,,2", "x", "-4", "1 2"])
def test_bad_tokens(text):
    with pytest.raises(ValueError, match="--m"):
        cases.parse_tokens(text)


def test_tokens_once_each():
    assert cases.parse_tokens("4,1,4") == (4, 1)


def test_unknown_names():
    with pytest.raises(ValueError, match=r"--op.*linear-w4a4"):
        cases.parse_ops(["linear"])
    with pytest.raises(ValueError, match=r"--dtype.*bfloat16"):
        cases.parse_dtype("bf16")
    assert cases.parse_ops([]) == cases.OPS
