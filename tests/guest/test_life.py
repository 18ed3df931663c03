#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""How a real guest comes, goes and comes again: reboot, power button, signals, pid file."""
import os
import pathlib
import signal
import subprocess
import time

from guest import END, Guest, VIZOR, alone, copy_disk, main, until


def fsck(disk):
    """What e2fsck says of a disk that nobody uses; its exit status has to be 0."""
    done = subprocess.run(["e2fsck", "-fn", disk], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@alone
def test_reboot(directory):
    """Within the same process, as often as the guest likes; all devices start anew."""
    disk = copy_disk(directory)
    with Guest(disk=disk, cpus=2) as guest:
        pid = guest.process.pid
        for turn in range(4):
            first = guest.ready()
            assert "vizor: init" in first, first
            uptime = float(guest.do("cut -d' ' -f1 /proc/uptime"))
            assert uptime < 20, uptime
            assert guest.do("cat /mnt/turn 2>/dev/null || echo none") == (str(turn - 1) if turn else "none")
            guest.do(f"echo {turn} >/mnt/turn; head -c 16 /dev/hwrng | wc -c; nproc")
            guest.do("umount /mnt; sync")
            guest.send("reboot -f")
        guest.ready()
        assert guest.process.pid == pid and guest.alive()
        assert guest.power_off() == 0
    assert "error" not in guest.stderr(), guest.stderr()
    fsck(disk)


@alone
def test_reboot_while_busy(directory):
    """No quiet moment: all CPUs compute, the disk is written to, the console prints."""
    disk = copy_disk(directory)
    with Guest(disk=disk, cpus=2) as guest:
        for _ in range(2):
            guest.ready()
            guest.send("for i in 1 2; do (while :; do :; done) & (while :; do dd if=/dev/urandom of=/mnt/f$i bs=64k "
                       "count=20 conv=fsync 2>/dev/null; done) & done; (while :; do seq 100; done) & "
                       "sleep 1; echo b >/proc/sysrq-trigger; sleep 100")
        guest.ready()
        assert guest.power_off() == 0


@alone
def test_sigterm_presses_the_power_button(directory):
    disk = copy_disk(directory)
    with Guest(disk=disk) as guest:
        guest.ready()
        # The guest has not written this yet: it does when it is told to stop.
        guest.do("echo precious >/mnt/precious")
        begin = time.monotonic()
        guest.signal(signal.SIGTERM)
        assert guest.ended(10) == 0
        assert time.monotonic() - begin < 4.9, "it was the deadline that ended it"
    fsck(disk)
    shown = subprocess.run(["debugfs", "-R", "cat /precious", disk], capture_output=True, text=True, timeout=60,
                           check=True).stdout
    assert shown == "precious\n", shown


@alone
def test_sigterm_with_all_cpus_busy(directory):
    with Guest(cpus=2, disk=copy_disk(directory)) as guest:
        guest.ready()
        guest.send("for i in 1 2 3; do (while :; do :; done) & done; sleep 1000")
        time.sleep(0.5)
        guest.signal(signal.SIGINT)
        assert guest.ended(10) == 0


def ignore_the_button(guest):
    """Whoever reads it sleeps for ever."""
    guest.do("until for p in /proc/[0-9]*; do case \"$(readlink $p/fd/0)\" in /dev/input/*) "
             "kill -STOP ${p#/proc/} && stopped=yes ;; esac; done; [ $stopped ]; do usleep 10000; done")


@alone
def test_guest_that_ignores_the_button(_):
    with Guest(words="vizor.mount=no") as guest:
        guest.ready()
        ignore_the_button(guest)
        begin = time.monotonic()
        guest.signal(signal.SIGTERM)
        assert guest.ended(15) == 0
        assert 4.5 < time.monotonic() - begin < 8, time.monotonic() - begin


@alone
def test_two_signals_stop_it_at_once(_):
    with Guest(words="vizor.mount=no") as guest:
        guest.ready()
        ignore_the_button(guest)
        guest.signal(signal.SIGTERM)
        time.sleep(0.3)
        assert guest.alive()
        begin = time.monotonic()
        guest.signal(signal.SIGTERM)
        assert guest.ended(5) == 0
        assert time.monotonic() - begin < 2


@alone
def test_signal_during_boot(_):
    """No button is watched yet; it ends all the same, at whatever moment."""
    for wait in (0.0, 0.05, 0.2, 0.5):
        with Guest(words="vizor.mount=no") as guest:
            time.sleep(wait)
            guest.signal(signal.SIGTERM)
            status = guest.ended(20)
            # Before vizor waits for signals they do what they do to any program.
            assert status == 0 or (wait == 0 and status == -signal.SIGTERM), (wait, status)


def children(pid):
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(path)
    return found


@alone
def test_sigkill_leaves_nothing(directory):
    disk = copy_disk(directory)
    shared = set(os.listdir("/dev/shm"))
    with Guest(disk=disk, options=("--pidfile", directory / "pid"), devices=("virtio-serial,pty",)) as guest:
        guest.ready()
        assert not children(guest.process.pid), "vizor has processes"
        before = set(os.listdir(directory))
        assert before == {"disk.img", "pid"}, before
        guest.signal(signal.SIGKILL)
        assert guest.ended() == -signal.SIGKILL
    assert set(os.listdir("/dev/shm")) <= shared, "shared memory is left"
    # The disk is free again at once, and the old pid file is no obstacle.
    with Guest(disk=disk, options=("--pidfile", directory / "pid")) as guest:
        guest.ready()
        assert int((directory / "pid").read_text()) == guest.process.pid
        assert guest.power_off() == 0
    assert not (directory / "pid").exists()
    fsck(disk)


@alone
def test_disk_belongs_to_one(directory):
    disk = copy_disk(directory)
    with Guest(disk=disk) as guest:
        guest.ready()
        other = subprocess.run([VIZOR, "run", "--kernel", guest.command[0], "--device", f"virtio-blk,path={disk}"],
                               capture_output=True, text=True, timeout=END, stdin=subprocess.DEVNULL, check=False)
        assert other.returncode == 1 and "devices[0].path" in other.stderr, other.stderr
        assert guest.do("cat /mnt/welcome")
        assert guest.power_off() == 0
    fsck(disk)


@alone
def test_guest_says_halt(_):
    """A halt is no power-off: the machine goes on until it is told to end."""
    with Guest(words="vizor.mount=no") as guest:
        guest.ready()
        guest.send("halt -f")
        time.sleep(1)
        assert guest.alive()
        guest.signal(signal.SIGTERM)
        time.sleep(0.2)
        guest.signal(signal.SIGTERM)
        assert guest.ended(10) == 0


@alone
def test_stopped_and_continued(_):
    """SIGSTOP and SIGCONT: the guest misses some time and nothing else."""
    with Guest(cpus=2) as guest:
        guest.ready()
        guest.signal(signal.SIGSTOP)
        time.sleep(2)
        guest.signal(signal.SIGCONT)
        before = time.time()
        seconds = int(guest.do("date +%s"))
        assert before - 2 <= seconds <= time.time() + 1, f"{seconds}, not {before:.0f}"
        guest.do("sleep 0.5; seq 10000 | sha256sum")
        assert guest.run("dmesg | grep -E 'BUG|Oops|WARNING:|Call Trace'")[0] == 1, guest.do("dmesg | tail -40")
        assert guest.power_off() == 0


@alone
def test_pidfile(directory):
    path = directory / "pid"
    with Guest(words="vizor.mount=no", options=("--pidfile", path)) as guest:
        until(path.exists, "pid file")
        guest.ready()
        assert int(path.read_text()) == guest.process.pid
        guest.send("reboot -f")
        guest.ready()
        assert int(path.read_text()) == guest.process.pid
        assert guest.power_off() == 0
    assert not path.exists()


if __name__ == "__main__":
    main()
