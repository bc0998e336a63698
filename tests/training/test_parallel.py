"""Data parallel training over MLX's ring backend: two processes equal one with the whole batch."""

import json
import os
import socket
import subprocess
import sys
import time

import mlx.core as mx
import numpy as np
import pytest

from tests.support import ROOT

WORKER = ROOT / "tests" / "support" / "parallel_worker.py"
SECONDS = 30  # for both processes, on a busy machine


@pytest.fixture
def ring():
    """Skips the test where MLX has no ring backend."""
    if not mx.distributed.is_available("ring"):
        pytest.skip("this MLX has no ring backend")


def free_ports(count):
    """Ports of the loopback device that nobody listens on, for the moment."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def run_ranks(folder, size):
    """All ranks at once -> the exit codes and what they wrote to stderr."""
    hosts = folder / "hosts.json"
    hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in free_ports(size)]))
    environ = {k: v for k, v in os.environ.items() if not k.startswith("MLX_RANK")}
    processes = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(folder / f"{rank}.npz")],
            env=environ | {"MLX_RANK": str(rank), "MLX_HOSTFILE": str(hosts)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    try:
        wait_for(processes)
    finally:
        for process in processes:
            process.kill()
    return [(p.wait(), p.communicate()[1]) for p in processes]


def wait_for(processes):
    """Returns when all have ended, one has failed, or time is up."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        codes = [process.poll() for process in processes]
        if None not in codes or any(codes):
            return
        time.sleep(0.02)


def train_with(size, folder):
    """What each of `size` processes saved; other ports are tried when one is taken meanwhile."""
    for _ in range(3):
        ended = run_ranks(folder, size)
        if not any(code for code, _ in ended):
            return [dict(np.load(folder / f"{rank}.npz")) for rank in range(size)]
        if not any("bind" in error for _, error in ended):
            break
    raise AssertionError(f"exit codes and errors: {ended}")


def test_two_processes_equal_one_with_the_whole_batch(ring, run_python, tmp_path):
    done = run_python(str(WORKER), str(tmp_path / "whole.npz"))
    assert done.returncode == 0, done.stderr
    want = dict(np.load(tmp_path / "whole.npz"))
    first, second = train_with(2, tmp_path)
    assert want.pop("size") == 1
    assert first.pop("size") == second.pop("size") == 2
    assert set(first) == set(second) == set(want)
    for key, array in want.items():
        np.testing.assert_array_equal(first[key], second[key], err_msg=key)
        np.testing.assert_allclose(first[key], array, rtol=0, atol=1e-5, err_msg=key)
    assert want["cfc.losses"][2] != want["cfc.losses"][0]
    assert want["ltc.losses"][2] != want["ltc.losses"][0]
