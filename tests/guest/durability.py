# SPDX-License-Identifier: MIT
"""
What a guest was told is on the disk has to be there when vizor was killed: a guest writes numbered records,
flushes each and prints its number, until vizor dies by SIGKILL.
"""
import hashlib
import pathlib
import random
import re
import subprocess
import tempfile
import time

from guest import Guest, GuestError, comment, copy_disk

# A record in a new file, and one at the end of a file. The number is printed once both fsyncs have returned.
WRITER = ("mkdir -p /mnt/r; n=0; while n=$((n + 1)); do "
          "text=$(seq $n $((n + n % 300))); "
          "echo \"$text\" | dd of=/mnt/r/$n bs=4k conv=fsync 2>/dev/null && "
          "echo \"record $n $(echo \"$text\" | sha256sum | cut -c1-16)\" | "
          "dd of=/mnt/r/log oflag=append conv=notrunc,fsync 2>/dev/null && "
          "echo DONE $n; done")


def text_of(number):
    return "".join(f"{n}\n" for n in range(number, number + number % 300 + 1)).encode()


def command(*words):
    return subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=120, check=False)


def check(disk, acknowledged, directory):
    """The journal is replayed on a copy, which then has no error and every record up to that number."""
    copy = pathlib.Path(directory) / "copy.img"
    command("cp", "--sparse=always", disk, copy)
    done = command("e2fsck", "-E", "journal_only", "-y", copy)
    assert done.returncode in (0, 1), f"journal: {done.stdout}{done.stderr}"
    done = command("e2fsck", "-fn", copy)
    assert done.returncode == 0, f"e2fsck -fn: {done.stdout}{done.stderr}"
    out = pathlib.Path(directory) / "out"
    out.mkdir()
    command("debugfs", "-R", f"rdump /r {out}", copy)
    lines = (out / "r/log").read_bytes().decode().splitlines() if acknowledged else []
    for number in range(1, acknowledged + 1):
        path = out / "r" / str(number)
        assert path.exists(), f"record {number} of {acknowledged} is gone"
        assert path.read_bytes() == text_of(number), f"record {number} of {acknowledged} is damaged"
        want = f"record {number} {hashlib.sha256(text_of(number)).hexdigest()[:16]}"
        assert lines[number - 1] == want, f"line {number} of {acknowledged}: {lines[number - 1]}"


def last_number(output):
    numbers = re.findall(rb"DONE (\d+)\r?\n", output)
    return int(numbers[-1]) if numbers else 0


def one_round(seconds, cpus=1, options=""):
    """Kill a guest after that many seconds of work; how many records were acknowledged."""
    with tempfile.TemporaryDirectory(prefix="vizor-kill-") as directory:
        disk = copy_disk(directory)
        with Guest(cpus=cpus, memory=256, disk=f"{disk}{options}") as guest:
            guest.ready()
            guest.send(WRITER)
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                try:
                    guest.expect(rb"never", max(0.001, end - time.monotonic()))
                except GuestError:
                    assert guest.alive(), guest.report()
            guest.process.kill()
            guest.process.wait()
            try:  # what was printed before it died
                while True:
                    guest.read("rest")
            except GuestError:
                pass
            acknowledged = last_number(guest.unread)
        check(disk, acknowledged, directory)
        return acknowledged


def random_round():
    seconds, cpus = random.uniform(0.05, 3), random.choice((1, 2))
    options = random.choice(("", ",cache=none", ",sync=fsync", ",queues=2"))
    what = f"killed after {seconds:.2f} s, {cpus} CPUs, options '{options}'"
    try:
        acknowledged = one_round(seconds, cpus, options)
    except AssertionError as error:
        raise AssertionError(f"{what}: {error}") from None
    comment(f"{what}: {acknowledged} records")
    return acknowledged
