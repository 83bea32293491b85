"""What this process may take of the machine's memory."""

import pytest

from keras_sdft.host_memory import available_on_host
from keras_sdft.runs.memory import available_memory


@pytest.fixture
def machine(tmp_path):
    """Writes the files of a machine: 8 MiB available, 2 MiB held."""

    def make(**files):
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    def with_memory(groups="", **files):
        root = make(
            proc__meminfo="MemTotal: 9999 kB\nMemAvailable: 8192 kB\n",
            proc__self__status="Name:\tpython\nVmRSS:\t2048 kB\n",
            proc__self__cgroup=groups,
        )
        for name, text in files.items():
            path = root / "sys/fs/cgroup" / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(path.name.replace("-", ".")).write_text(text)
        return available_on_host(root) / 2**20

    return with_memory


def group(version, limit, used, files):
    """The files of a control group, in MiB."""
    names = {
        1: ("limit_in_bytes", "usage_in_bytes", "total_inactive_file"),
        2: ("max", "current", "inactive_file"),
    }[version]
    limit = limit if isinstance(limit, str) else limit * 2**20
    return {
        f"memory-{names[0]}": f"{limit}\n",
        f"memory-{names[1]}": f"{used * 2**20}\n",
        "memory-stat": f"anon 5\n{names[2]} {files * 2**20}\n",
    }


def under(path, files):
    return {f"{path}__{name}": text for name, text in files.items()}


def test_without_groups_it_is_what_is_available(machine):
    assert machine() == 10


def test_the_tightest_group_counts(machine):
    outer = under("a", group(2, 7, 4, 1))
    inner = under("a__b", group(2, "max", 3, 0))
    assert machine("0::/a/b\n", **outer, **inner) == 2 + 7 - 4 + 1
    outer = under("a", group(2, 700, 4, 1))
    inner = under("a__b", group(2, 6, 3, 0))
    assert machine("0::/a/b\n", **outer, **inner) == 2 + 6 - 3


def test_groups_of_version_1(machine):
    files = under("memory__a", group(1, 7, 4, 1))
    assert machine("3:cpu:/a\n2:memory:/a\n0::/\n", **files) == 2 + 7 - 4 + 1
    # In a container the group is the top of what is seen.
    files = under("memory", group(1, 6, 4, 0))
    assert machine("2:memory:/docker/1f\n", **files) == 2 + 6 - 4


def test_elsewhere_nothing_is_known(tmp_path):
    assert available_on_host(tmp_path) is None


def test_this_machine_has_memory():
    where, room = available_memory()
    assert where in ("CPU", "GPU")
    assert room is None or room > 100 * 2**20
