"""Loading ahead in other processes changes neither the order nor the content of batches, nor where a resume goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import psutil
import pytest
import torch

from tests.data.media import question, write_lines, write_video
from timeexpert.data.build import build
from timeexpert.data.loader import LoaderError, PlannedLoader, batches_ahead
from timeexpert.data.mixture import BatchPlanner, Mixture, MixtureError
from timeexpert.data.shards import ShardDataset
from timeexpert.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
LENGTHS = [[7, 3, 9, 4, 8], [5, 6, 2]]


def length_of(ref):
    return LENGTHS[ref.dataset][ref.index]


def planner(seed=0):
    return BatchPlanner(Mixture([5, 3], [2, 1], seed), length_of, max_tokens=20, max_samples=3)


def load(refs):
    """A batch as real ones are: tensors beside plain values; serials seed what is random in it."""
    noise = [float(torch.rand((), generator=torch.Generator().manual_seed(r.serial))) for r in refs]
    return {"refs": refs, "noise": torch.tensor(noise)}


def load_or_fail(refs):
    if any(ref.serial == 6 for ref in refs):
        raise UserError("clip.mp4: the file is damaged")
    return load(refs)


def slow(refs):
    time.sleep(0.01)
    return load(refs)


def plain(steps):
    return [(batch["refs"], batch["noise"].tolist(), state) for batch, state in steps]


@pytest.mark.parametrize(("workers", "method"), [(1, "fork"), (2, "fork"), (2, "spawn")])
def test_any_number_of_workers_gives_the_same_batches_and_states(workers, method):
    alone = plain(islice(PlannedLoader(planner(), load), 12))
    assert plain(islice(PlannedLoader(planner(), load, workers, start_method=method), 12)) == alone


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_in_the_middle_of_an_epoch_gives_exactly_the_next_batches(workers):
    whole = plain(islice(PlannedLoader(planner(), load), 16))
    assert max(ref.epoch for refs, _, _ in whole for ref in refs) >= 3
    for cut in (1, 4, 9):
        loader = PlannedLoader(planner(), load, workers)
        loader.load_state_dict(json.loads(json.dumps(whole[cut][2])))
        assert plain(islice(loader, 16 - cut - 1)) == whole[cut + 1 :]


def test_iterating_again_goes_on_after_the_last_batch_handed_out_not_after_those_loaded_ahead():
    whole = plain(islice(PlannedLoader(planner(), load), 6))
    loader = PlannedLoader(planner(), load, num_workers=1, prefetch=4)
    first = plain(islice(loader, 2))
    assert loader.state_dict() == first[-1][2]
    assert first + plain(islice(loader, 4)) == whole


def test_ranks_share_the_plan_and_a_state_is_good_for_another_world_size():
    whole = plain(islice(PlannedLoader(planner(), load), 8))
    two = [plain(islice(PlannedLoader(planner(), load, rank=r, world_size=2), 2)) for r in (0, 1)]
    assert [two[0][0][:2], two[1][0][:2], two[0][1][:2], two[1][1][:2]] == [step[:2] for step in whole[:4]]
    assert two[0][1][2] == two[1][1][2] == whole[3][2]
    alone = PlannedLoader(planner(), load)
    alone.load_state_dict(two[0][1][2])
    assert plain(islice(alone, 4)) == whole[4:]


def read_by(world, workers, rounds, state=None):
    """(data set, index, epoch) of all draws of ``rounds`` rounds, by all ranks, and the state after them."""
    draws, after = [], []
    for rank in range(world):
        loader = PlannedLoader(planner(), load, workers, rank=rank, world_size=world)
        if state is not None:
            loader.load_state_dict(state)
        steps = list(islice(loader, rounds))
        draws += [ref[:3] for batch, _ in steps for ref in batch["refs"]]
        after.append(steps[-1][1])
    assert all(other == after[0] for other in after)
    return draws, after[0]


def of_epoch(draws, epoch):
    return sorted((dataset, index) for dataset, index, e in draws if e == epoch)


EVERY = [(dataset, index) for dataset, lengths in enumerate(LENGTHS) for index in range(len(lengths))]


@pytest.mark.parametrize("workers", [0, 1, 4])
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_an_epoch_holds_each_sample_once_for_any_ranks_and_workers(world, workers):
    draws, _ = read_by(world, workers, 12 // world + 1)
    assert of_epoch(draws, 0) == EVERY
    assert of_epoch(draws, 1) == EVERY


@pytest.mark.parametrize(("before", "after"), [(1, 4), (2, 3), (2, 1), (1, 2)])
def test_a_run_that_goes_on_with_other_ranks_neither_repeats_nor_skips(before, after):
    first, state = read_by(before, 0, 1)
    rest, _ = read_by(after, 1, 12 // after + 1, json.loads(json.dumps(state)))
    assert of_epoch(first + rest, 0) == EVERY
    assert of_epoch(first + rest, 1) == EVERY
    assert 0 < len(of_epoch(first, 0)) < len(EVERY)  # the change is in the middle of an epoch


@pytest.mark.parametrize("workers", [0, 1])
def test_a_user_error_in_a_worker_is_raised_here_with_its_message_alone(workers):
    with pytest.raises(LoaderError, match=r"^clip\.mp4: the file is damaged$"):
        for _ in PlannedLoader(planner(), load_or_fail, workers):
            pass


def test_any_other_exception_in_a_worker_keeps_its_type_and_its_traceback():
    with pytest.raises(KeyError, match=r"no such clip.*in fail_on_serial_6|in fail_on_serial_6(.|\n)*no such clip"):
        for _ in PlannedLoader(planner(), fail_on_serial_6, num_workers=1):
            pass


def fail_on_serial_6(refs):
    if any(ref.serial == 6 for ref in refs):
        raise KeyError("no such clip")
    return load(refs)


def test_a_worker_that_is_killed_is_an_error_of_the_next_batch_and_neither_a_hang_nor_an_interruption():
    others = children(os.getpid())
    steps = iter(PlannedLoader(planner(), load, num_workers=1))
    next(steps)
    (worker,) = [pid for pid in children(os.getpid()) if pid not in others]
    os.kill(worker, signal.SIGKILL)
    time.sleep(0.5)  # a death is told to the parent by a signal, which comes here
    assert not alive([worker])
    with pytest.raises(LoaderError, match=r"a data worker died \(.*Lower num_workers \(1\) or prefetch \(2\)"):
        for _ in steps:
            pass


def test_workers_go_on_when_the_whole_process_group_is_told_to_stop():
    others = children(os.getpid())
    steps = iter(PlannedLoader(planner(), load, num_workers=1))
    first = [next(steps)]
    (worker,) = [pid for pid in children(os.getpid()) if pid not in others]
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(worker, number)
    assert plain([*first, *islice(steps, 7)]) == plain(islice(PlannedLoader(planner(), load), 8))


def test_loading_draws_nothing_from_the_global_random_state():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(islice(PlannedLoader(planner(), load, num_workers=1), 2))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_state_of_other_data_is_refused():
    with pytest.raises(MixtureError, match="seed was 0, is 1"):
        PlannedLoader(planner(seed=1), load).load_state_dict(planner().state_dict())


class ReadShards:
    """What training does: the questions of a batch and their videos, from shards."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __call__(self, refs):
        return [(self.dataset.sample(r.index).id, self.dataset.media(r.index)) for r in refs]


@pytest.mark.parametrize(("workers", "method"), [(2, "fork"), (1, "spawn")])
def test_real_shards_give_the_same_batches_from_any_worker_after_any_resume(tmp_path, workers, method):
    for i in range(3):
        write_video(tmp_path / "media" / f"v{i}.mp4", num_frames=4 + i)
    rows = [question(f"q{i}", f"v{i % 3}.mp4", 0, 0.5) for i in range(7)]
    build(write_lines(tmp_path / "s.jsonl", rows), tmp_path / "media", tmp_path / "out", shard_mb=0.01)
    dataset = ShardDataset(tmp_path / "out")
    dataset.media(0)  # a file is open here when the workers start

    def plan():
        return BatchPlanner(Mixture([len(dataset)], [1], seed=5), lambda ref: 1, max_samples=3)

    whole = list(islice(PlannedLoader(plan(), ReadShards(dataset)), 6))
    assert {id for batch, _ in whole[:3] for id, _ in batch} == {f"q{i}" for i in range(7)}
    loader = PlannedLoader(plan(), ReadShards(dataset), workers, start_method=method)
    loader.load_state_dict(whole[1][1])
    assert list(islice(loader, 4)) == whole[2:]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_workers": -1}, r"num_workers \(-1\) must be >= 0"),
        ({"prefetch": 0}, r"prefetch \(0\) >= 1"),
        ({"rank": 2, "world_size": 2}, r"rank \(2\) must be at least 0 and below world_size \(2\)"),
    ],
)
def test_options_that_cannot_be_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        PlannedLoader(planner(), load, **options)


@pytest.mark.parametrize(
    ("batch_bytes", "workers", "memory_bytes", "ahead"),
    [(100, 2, 1000, 4), (100, 4, 1000, 2), (100, 8, 1000, 1), (100, 0, 250, 2), (10**9, 8, 0, 1), (0, 1, 1000, 4)],
)
def test_as_many_batches_wait_as_memory_holds(batch_bytes, workers, memory_bytes, ahead):
    assert batches_ahead(batch_bytes, workers, memory_bytes) == ahead


def test_workers_end_when_iteration_ends():
    others = children(os.getpid())
    steps = iter(PlannedLoader(planner(), slow, num_workers=2))
    next(steps)
    workers = [pid for pid in children(os.getpid()) if pid not in others]
    assert len(workers) == 2
    steps.close()
    assert not alive(workers)


def test_workers_end_when_this_process_is_killed():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from tests.data.test_loader import PlannedLoader, planner, slow\n"
        "for _ in PlannedLoader(planner(), slow, num_workers=2):\n    print('up', flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(ROOT)], stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None and process.stdout.readline() == b"up\n"
        workers = children(process.pid)
        assert len(workers) == 2
        process.kill()
    deadline = time.monotonic() + 30
    while alive(workers) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not alive(workers)


def test_a_process_ends_while_an_iterator_is_still_held():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from tests.data.test_loader import PlannedLoader, load, planner\n"
        "held = iter(PlannedLoader(planner(), load, num_workers=2))\nnext(held)\n"
        "sys.held = held\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(ROOT)], cwd=ROOT, timeout=60, capture_output=True)
    assert (ended.returncode, ended.stderr) == (0, b"")


def children(pid: int) -> list[int]:
    return [child.pid for child in psutil.Process(pid).children()]


def alive(pids: list[int]) -> list[int]:
    def running(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
        except OSError:
            return False

    return [pid for pid in pids if running(pid)]
