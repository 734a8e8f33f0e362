"""The same plan on a real Ray cluster on this machine: same bytes, whatever dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from scale_helpers import results

from talk2dino.errors import InputError
from talk2dino.scale.places import Place
from talk2dino.scale.plan import read_plan
from talk2dino.scale.ray.cluster import choose_pool
from talk2dino.scale.receipts import read_standing
from talk2dino.scale.rows import decode_rows
from talk2dino.scale.work import work

ray = pytest.importorskip("ray")

#: Ray's own threads and sockets are closed late; they are not ours to judge.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.timeout(600),
]


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([{"CPU": 2.0}], (1, 1, 0, 2)),
        ([{"CPU": 1.0}], (1, 1, 0, 1)),
        ([{"CPU": 16.0}], (3, 4, 0, 4)),
        ([{"CPU": 8.0}, {"CPU": 8.0}, {"memory": 5.0}], (2, 4, 0, 4)),
        ([{"CPU": 32.0, "GPU": 4.0}, {"CPU": 32.0, "GPU": 4.0}], (8, 1, 1, 7)),
    ],
)
def test_actors_leave_cpus_for_reading(nodes, expected):
    pool = choose_pool(nodes)
    assert (pool.actors, pool.cpus, pool.gpus, pool.threads) == expected
    if sum(node.get("CPU", 0) for node in nodes) > 1:
        assert pool.actors * pool.cpus < sum(node.get("CPU", 0) for node in nodes)


def test_a_cluster_without_cpus():
    with pytest.raises(InputError, match="no CPUs"):
        choose_pool([{"memory": 1.0}])


def run(place: Place, *arguments: str, **options) -> subprocess.Popen:
    """``talk2dino scale run`` in a process of its own."""
    command = [sys.executable, "-m", "talk2dino", "scale", "run", place.uri, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
        **options,
    )


def test_a_local_cluster_gives_the_same_bytes(planned, micro):
    """One process that starts a cluster, segments, and leaves nothing behind; another run finds nothing to do."""
    whole, _ = planned("whole")
    work(whole, segmenter=micro)
    place, _ = planned("ray")
    process = run(place, "--ray", "local")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 3, err
    assert "3 shards with 11 images done, 1 failed" in err
    assert results(place) == results(whole)
    again = run(place, "--ray", "local")
    _, err = again.communicate(timeout=120)
    assert "0 shards with 0 images done (3 were finished already)" in err


def test_no_cluster_at_the_address(planned):
    place, _ = planned()
    process = run(place, "--ray", "127.0.0.1:1")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "no Ray cluster answers at '127.0.0.1:1'" in err
    assert "use --ray local" in err
    assert place.names("done") == {}


# --- one cluster for the rest ---------------------------------------------------------------------------------------


@pytest.fixture
def cluster(monkeypatch):
    """Three nodes on this machine, with two CPUs each."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    one = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": 100 * 2**20})
    for _ in range(2):
        one.add_node(num_cpus=2, object_store_memory=100 * 2**20)
    yield one
    ray.shutdown()
    one.shutdown()


def processes_with(text: str) -> list[int]:
    """Processes whose command line contains a text."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if text in (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"):
                    found.append(int(folder.name))
            except OSError:
                continue
    return found


def wait_for(condition, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def finish(process: subprocess.Popen) -> str:
    _, err = process.communicate(timeout=500)
    return err


@pytest.fixture
def expected(planned, micro):
    """A plan with a shard per image, and what one process makes of it."""
    whole, _ = planned("whole", shard_size=1)
    work(whole, segmenter=micro)
    return results(whole)


@pytest.mark.long
def test_killed_actors(cluster, planned, expected):
    place, _ = planned("ray", shard_size=1)
    process = run(place, "--ray", cluster.address)
    wait_for(lambda: place.names("done"), 200, "nothing was done")
    for pid in processes_with("ray::MapWorker") or processes_with("ray::_MapWorker"):
        os.kill(pid, signal.SIGKILL)
    err = finish(process)
    if process.returncode not in (0, 3):  # Ray gave up: the same command goes on
        assert "the same command goes on with what is left" in err
        finish(run(place, "--ray", cluster.address))
    assert results(place) == expected


@pytest.mark.long
def test_a_killed_node_and_a_new_one(cluster, planned, expected):
    place, _ = planned("ray", shard_size=1)
    process = run(place, "--ray", cluster.address)
    wait_for(lambda: place.names("done"), 200, "nothing was done")
    node = cluster.list_all_nodes()[-1]
    os.kill(node.all_processes["raylet"][0].process.pid, signal.SIGKILL)
    cluster.add_node(num_cpus=2, object_store_memory=100 * 2**20)
    err = finish(process)
    if process.returncode not in (0, 3):
        assert "the same command goes on with what is left" in err
        finish(run(place, "--ray", cluster.address))
    assert results(place) == expected


@pytest.mark.long
def test_a_killed_driver(cluster, planned, expected):
    place, _ = planned("ray", shard_size=1)
    process = run(place, "--ray", cluster.address)
    wait_for(lambda: place.names("done"), 200, "nothing was done")
    process.kill()
    process.wait()
    wait_for(lambda: not processes_with("ray::MapWorker"), 120, "actors outlive their driver")
    finish(run(place, "--ray", cluster.address))
    assert results(place) == expected


@pytest.mark.long
def test_a_killed_head(cluster, planned, expected, micro):
    place, _ = planned("ray", shard_size=1)
    process = run(place, "--ray", cluster.address)
    wait_for(lambda: place.names("done"), 200, "nothing was done")
    os.kill(cluster.head_node.all_processes["gcs_server"][0].process.pid, signal.SIGKILL)
    process.wait(timeout=500)
    err = process.communicate()[1]
    assert process.returncode not in (0, 3) or results(place) == expected, err
    work(Place(place.uri), segmenter=micro)
    assert results(place) == expected


@pytest.mark.long
def test_an_image_that_kills_its_actor(cluster, planned, source, tmp_path, monkeypatch):
    """A module that Python loads at its start makes decoding one image kill the process."""
    place, _ = planned("ray", shard_size=2)
    (source / "deep" / "3.png").write_bytes(b"KILL" + (source / "deep" / "3.png").read_bytes()[4:])
    marker = tmp_path / "site" / "sitecustomize.py"
    marker.parent.mkdir()
    marker.write_text(
        "import os\n"
        "import PIL.Image as I\n"
        "real = I.init\n"
        "import talk2dino.io.images as m\n"
        "opened = m._open_header\n"
        "def bad(file, name):\n"
        "    start = file.tell(); head = file.read(4); file.seek(start)\n"
        "    if head == b'KILL' and name.startswith('file'): os.kill(os.getpid(), 9)\n"
        "    return opened(file, name)\n"
        "m._open_header = bad\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{marker.parent}:{os.environ.get('PYTHONPATH', '')}")
    process = run(place, "--ray", "local")
    err = finish(process)
    assert process.returncode == 3, err
    rows = {row.key: row for content in results(place).values() for row in decode_rows(content)}
    assert len(rows) == 11
    assert "ended the process" in rows["deep/3.png"].error


@pytest.mark.long
def test_two_runs_at_once(cluster, planned, expected):
    place, _ = planned("ray", shard_size=1)
    both = [run(place, "--ray", cluster.address) for _ in range(2)]
    for process in both:
        err = finish(process)
        assert process.returncode in (0, 3), err
    assert results(place) == expected
    assert len(read_standing(place, read_plan(place)).receipts) == 11


@pytest.mark.long
def test_a_data_set_of_images_becomes_one_of_masks(cluster, source, micro, planned):
    from talk2dino.scale import segment_dataset

    ray.init(
        cluster.address, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}}
    )
    files = sorted(source.rglob("*.*"))
    data = ray.data.from_items([{"image": file.read_bytes(), "name": file.name} for file in files])
    with pytest.raises(InputError, match="no column 'picture'; it has image, name"):
        segment_dataset(data, ["sky"], column="picture")
    found = {
        row["name"]: row
        for row in segment_dataset(data, ["sky", "grass", "ball"], model="micro", dtype="float32").take_all()
    }
    place, _ = planned("whole")
    work(place, segmenter=micro)
    for content in results(place).values():
        for row in decode_rows(content):
            one = found[row.key.rpartition("/")[2]]
            assert bool(one["error"]) == bool(row.error)
            assert [(c["name"], c["area"], c["rle"]) for c in one["classes"]] == list(row.classes)


@pytest.mark.long
def test_evaluate_on_a_cluster_counts_as_one_process(cluster, tmp_path):
    command = [sys.executable, "-m", "talk2dino", "evaluate", "-b", "world", "--limit", "9", "-m", "micro", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    found = []
    for more in (["--out", tmp_path / "one"], ["--out", tmp_path / "many", "--ray", cluster.address]):
        done = subprocess.run([*command, *map(str, more)], capture_output=True, text=True, env=environment, timeout=500)
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout))
    assert found[0]["classes"] == found[1]["classes"]
