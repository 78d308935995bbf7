"""Where figures come from, also on systems that do not say."""

from nvfp4.bench import machine


def test_describe_names_the_machine():
    found = machine.describe()
    assert found.cpu
    assert found.isa
    assert found.threads >= 1
    assert found.llc_bytes >= 1 << 15
    assert found.load >= 0
    assert found.date.endswith("+00:00")


def test_the_largest_cache_counts(tmp_path):
    for i, size in enumerate(("32K", "512K", "32768K", "junk")):
        (tmp_path / f"index{i}").mkdir()
        (tmp_path / f"index{i}" / "size").write_text(size + "\n")
    assert machine.last_level_cache(tmp_path) == 32 << 20


def test_systems_that_do_not_say(tmp_path):
    assert machine.last_level_cache(tmp_path) == 32 << 20
    assert machine.cpu_model(tmp_path / "cpuinfo")
    assert machine.commit(tmp_path) == ""


def test_the_cpu_model_of_linux(tmp_path):
    file = tmp_path / "cpuinfo"
    file.write_text("processor\t: 0\nmodel name\t: AMD EPYC 7763\nflags\t: avx2\n")
    assert machine.cpu_model(file) == "AMD EPYC 7763"


def test_variables_in_effect_become_a_prefix(monkeypatch):
    for name in ("NVFP4_BACKEND", "NVFP4_NUM_THREADS", "NVFP4_LOG", "NVFP4_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NVFP4_CPU_ISA", "portable")
    assert machine.environment_prefix() == "NVFP4_CPU_ISA=portable "
