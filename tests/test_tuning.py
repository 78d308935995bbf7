"""The tuning file: what is stored comes back, and what is damaged is never used in part."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import threading
from types import SimpleNamespace

import pytest

from nvfp4 import tuning
from nvfp4.tuning import Key, Problem, Store

KEY = Key("NVIDIA RTX PRO 6000 Blackwell/Workstation", "580.65.06", "0.1.0")
FIRST, SECOND = Problem(2048, 5376, 21504), Problem(512, 43008, 5376)
TIMES = {"a whole": 310.25, "a pieces": 300.0}


def anything(problem, times):
    return ""


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NVFP4_CACHE", str(tmp_path / "cache"))
    tuning._warn_once.cache_clear()


@pytest.fixture
def store():
    return Store(KEY, "sm120", anything)


def damage(store, text):
    store.key.path.parent.mkdir(parents=True, exist_ok=True)
    store.key.path.write_bytes(text if isinstance(text, bytes) else text.encode())


def edited(store, **changes):
    """The file of one measurement with some fields replaced."""
    store.add({FIRST: TIMES})
    damage(store, json.dumps(json.loads(store.key.path.read_text()) | changes))


def test_what_is_stored_comes_back(store, tmp_path):
    assert store.load() == {}
    store.add({FIRST: TIMES})
    assert store.load() == store.usable() == {FIRST: TIMES}
    path = tmp_path / "cache" / "tuning-NVIDIA-RTX-PRO-6000-Blackwell-Workstation-580.65.06-0.1.0.json"
    assert json.loads(path.read_text())["microseconds"] == {"sm120": {"2048x5376x21504": TIMES}}


def test_later_measurements_join_earlier_ones_and_replace_those_of_the_same_problem(store):
    triton = Store(KEY, "triton", anything)
    store.add({FIRST: TIMES})
    triton.add({FIRST: {"64x64": 7.0}})
    store.add({SECOND: TIMES, FIRST: {"b": 5.0}})
    assert store.load() == {FIRST: {"b": 5.0}, SECOND: TIMES}
    assert triton.load() == {FIRST: {"64x64": 7.0}}


@pytest.mark.parametrize("field", Key._fields)
def test_every_gpu_driver_and_version_has_its_own_file(store, field):
    store.add({FIRST: TIMES})
    other = Store(KEY._replace(**{field: "another"}), "sm120", anything)
    assert other.load() == {}
    other.key.path.write_bytes(store.key.path.read_bytes())
    with pytest.raises(ValueError, match=f"got {field} '.*', wanted 'another'"):
        other.load()


BAD = {
    "nothing": b"",
    "half a file": '{"format": 1, "gpu": ',
    "no text": b"\xff\xfe\x00",
    "a list": "[]",
    "deep": "[" * 100_000,
    "no fields": "{}",
}
BAD_FIELDS = [
    {"format": 2},
    {"extra": 1},
    {"gpu": 3},
    {"microseconds": {"sm120": {"2048x5376": TIMES}}},
    {"microseconds": {"sm120": {"0x1x1": TIMES}}},
    {"microseconds": {"sm120": {"99999999999999999999x1x1": TIMES}}},
    {"microseconds": {"sm120": {"1x1x1": {"a": 0}}}},
    {"microseconds": {"sm120": {"1x1x1": {"a": -1.0}}}},
    {"microseconds": {"sm120": {"1x1x1": {"a": float("nan")}}}},
    {"microseconds": {"sm120": {"1x1x1": {"a": float("inf")}}}},
    {"microseconds": {"sm120": {"1x1x1": {"a": "5"}}}},
    {"microseconds": {"sm120": {"1x1x1": {"": 5}}}},
]


def one_warning(store, caplog):
    """However often it is asked, and by whichever family."""
    with caplog.at_level(logging.WARNING, "nvfp4"):
        for who in (store, store, Store(KEY, "triton", anything)):
            assert who.usable() == {}
    (record,) = caplog.records
    assert record.name == "nvfp4"
    assert "`nvfp4 tune --clear`" in record.getMessage()
    assert str(store.key.path) in record.getMessage()
    return record.getMessage()


@pytest.mark.parametrize("text", BAD.values(), ids=BAD.keys())
def test_a_damaged_file_is_one_warning_and_is_replaced_by_the_next_tune(store, text, caplog):
    damage(store, text)
    one_warning(store, caplog)
    store.add({FIRST: TIMES})
    assert "is replaced" in caplog.records[-1].getMessage()
    assert store.load() == {FIRST: TIMES}


@pytest.mark.parametrize("changes", BAD_FIELDS, ids=str)
def test_a_file_of_another_form_is_one_warning(store, changes, caplog):
    edited(store, **changes)
    one_warning(store, caplog)


def test_the_warning_says_where_and_what(store, caplog):
    edited(store, microseconds={"sm120": {str(FIRST): {"a whole": -1}}})
    message = one_warning(store, caplog)
    assert "microseconds.sm120.2048x5376x21504.a whole: Input should be greater than 0" in message


def test_a_folder_in_its_place_is_one_warning(store, caplog):
    store.key.path.mkdir(parents=True)
    one_warning(store, caplog)


def test_no_home_folder_is_no_error(store, monkeypatch, caplog):
    monkeypatch.setenv("NVFP4_CACHE", "~nobody-of-this-name/cache")
    with caplog.at_level(logging.WARNING, "nvfp4"):
        assert store.usable() == {}
    assert len(caplog.records) == 1


def test_what_a_family_refuses_is_not_used_even_in_part_and_goes_with_the_next_tune(store, caplog):
    store.add({FIRST: TIMES, SECOND: {"unknown": 1.0}})
    strict = Store(KEY, "sm120", lambda problem, times: "no such candidate" if "unknown" in times else "")
    with caplog.at_level(logging.WARNING, "nvfp4"):
        assert strict.usable() == strict.usable() == {}
    (record,) = caplog.records
    assert "sm120: 512x43008x5376: no such candidate" in record.getMessage()
    strict.add({})
    assert strict.load() == {FIRST: TIMES}


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_write_leaves_the_old_file(store, error, monkeypatch):
    store.add({FIRST: TIMES})
    before = store.key.path.read_bytes()

    def interrupted(fd):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupted)
        with pytest.raises(type(error) if isinstance(error, OSError) else error):
            store.add({SECOND: TIMES})
    assert store.key.path.read_bytes() == before
    assert not list(store.key.path.parent.glob(".partial-*"))
    store.add({SECOND: TIMES})  # nor is it locked for ever
    assert store.load() == {FIRST: TIMES, SECOND: TIMES}


def test_writers_at_once_lose_nothing_and_readers_never_see_half(store):
    problems = [[Problem(m, 128 * writer, 128) for m in range(1, 6)] for writer in range(1, 7)]
    errors = []
    done = threading.Event()

    def write(mine):
        try:
            for problem in mine:
                store.add({problem: TIMES, FIRST: {"by": float(problem.n)}})
        except Exception as error:
            errors.append(error)

    def read():
        while not done.is_set():
            try:
                store.load()
            except Exception as error:
                errors.append(error)

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=write, args=(mine,)) for mine in problems]
    reader.start()
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    done.set()
    reader.join()
    assert errors == []
    assert store.load().keys() == {FIRST, *(problem for mine in problems for problem in mine)}


def test_clear(store):
    assert not store.clear()
    damage(store, "{")
    assert store.clear()
    assert store.load() == {}


def test_the_key_of_a_gpu(monkeypatch):
    monkeypatch.setattr(tuning.torch.cuda, "get_device_name", lambda index: f"GPU {index}")
    monkeypatch.setattr(tuning, "driver_version", lambda: "1.2")
    assert tuning.key_of(3, "0.1.0") == Key("GPU 3", "1.2", "0.1.0")


def test_the_driver_version(monkeypatch):
    def version(text, size):
        text.value = b"580.65.06"

    nvml = SimpleNamespace(nvmlInit_v2=lambda: 0, nvmlSystemGetDriverVersion=version, nvmlShutdown=lambda: 0)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: nvml)
    assert tuning.driver_version() == "580.65.06"
    nvml.nvmlInit_v2 = lambda: 9
    assert tuning.driver_version() == "unknown"

    def missing(name):
        raise OSError("no such library")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert tuning.driver_version() == "unknown"
