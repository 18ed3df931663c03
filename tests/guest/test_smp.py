#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Several CPUs, little memory, and memory above 4 GiB."""
import re
import time

from guest import Guest, GuestError, Machine, alone, comment, main
from probe import install, probe_disk, same_as_here


def program(directory):
    return {"devices": (probe_disk(directory), "virtio-rng")}


def several(cpus, memory):
    return Machine(cpus=cpus, memory=memory, disk=True, prepare=program,
                   words=f"vizor.cpus={cpus} vizor.memory={memory}")


two, four = several(2, 512), several(4, 256)
high = Machine(cpus=2, memory=6144, prepare=program, words="vizor.cpus=2 vizor.memory=6144")


def selftest(guest):
    comment(f"ready after {guest.boot_seconds:.2f} s")
    _, output = guest.run("/selftest </dev/hvc0", 60)
    assert output.endswith("VIZOR-CHECK PASS") and "not ok" not in output, output


def agree(guest, cpus):
    """Each CPU computes the same of the same data, all at once, several times."""
    guest.do("dd if=/dev/urandom of=/tmp/data bs=1M count=8 2>/dev/null")
    numbers = " ".join(map(str, range(cpus)))
    output = guest.do(f"for i in 1 2 3; do for c in {numbers}; do taskset -c $c sha256sum /tmp/data & done; wait; "
                      "done; rm /tmp/data", 120)
    words = output.split()[::2]
    assert len(words) == 3 * cpus and len(set(words)) == 1, output


def cpu_times(guest):
    """Jiffies that each CPU did not idle."""
    lines = guest.do("grep '^cpu[0-9]' /proc/stat").splitlines()
    return [sum(map(int, line.split()[1:4])) for line in lines]


def content(guest):
    bad = guest.run("dmesg | grep -E 'BUG|Oops|WARNING|Call Trace|lockup|stall|unchecked MSR|timed out|I/O error'")
    assert bad[0] == 1, bad[1]


@two
def test_two_cpus_selftest(guest):
    selftest(guest)


@two
def test_two_cpus_compute_the_same(guest):
    agree(guest, 2)


@two
def test_two_cpus_share_memory(guest):
    same_as_here(guest, "threads", "ordering", "clocks")


@two
def test_two_cpus_run_programs(guest):
    same_as_here(guest)


@two
def test_two_cpus_at_once(guest):
    """The same program on both, in turns of faults, forks, signals and new code."""
    install(guest)
    output = guest.do("for i in 1 2 3 4; do for t in faults forks alarms new_code mappings avx2; do "
                      "/tmp/probe $t; done & done; wait", 120)
    lines = sorted(output.splitlines())
    assert len(lines) == 24 and len(set(lines)) == 6, output


@two
def test_two_cpus_share_the_load(guest):
    before, begin = cpu_times(guest), time.monotonic()
    guest.do("for c in 1 2; do timeout 2 sh -c 'while :; do :; done' & done; wait", 30)
    used = [b - a for a, b in zip(before, cpu_times(guest))]
    comment(f"{used} ticks of work in {time.monotonic() - begin:.1f} s")
    assert len(used) == 2 and min(used) > 0.3 * max(used) > 0, used


@two
def test_two_cpus_interrupt_each_other(guest):
    """A process goes from CPU to CPU; what it unmaps on one is unmapped on all."""
    assert guest.do("for i in $(seq 50); do taskset -c $((i % 2)) sh -c 'cut -d\" \" -f39 /proc/self/stat' || "
                    "echo bad; done | sort | uniq -c | tr -s ' '") == "25 0\n 25 1"
    calls = re.search(r"CAL: +(\d+) +(\d+)", guest.do("cat /proc/interrupts"))
    assert int(calls[1]) + int(calls[2]) > 0, calls


@two
def test_two_cpus_queues(guest):
    assert guest.do("ls /sys/block/vda/mq") == "0"
    with Guest(cpus=2, words="vizor.mount=no", devices=(f"virtio-blk,path={guest.directory}/probe.img,readonly,"
                                                        "queues=4",)) as other:
        other.ready()
        assert other.do("ls /sys/block/vda/mq | tr '\\n' ' '") in ("0 1", "0 1 2 3")
        output = other.do("for c in 0 1; do taskset -c $c dd if=/dev/vda bs=16k iflag=direct 2>/dev/null | sha256sum & "
                          "done; wait").split()
        assert len(output) == 4 and output[0] == output[2], output
        counts = re.findall(r"^ *\d+: +(\d+) +(\d+) .*req\.", other.do("cat /proc/interrupts"), re.M)
        assert len(counts) == 2 and all(int(a) + int(b) for a, b in counts), counts
        assert other.power_off() == 0


@two
def test_two_cpus_and_the_disk(guest):
    guest.do("for c in 0 1; do (for i in $(seq 10); do taskset -c $c dd if=/dev/urandom of=/mnt/f$c bs=256k count=8 "
             "2>/dev/null; a=$(sha256sum </mnt/f$c); sync; echo 3 >/proc/sys/vm/drop_caches; "
             "[ \"$a\" = \"$(sha256sum </mnt/f$c)\" ] || echo differs; done) & done; wait; rm /mnt/f0 /mnt/f1", 120)


@two
def test_two_cpus_one_goes_away(guest):
    """CPU 1 is taken out of use and comes back."""
    if guest.run("[ -w /sys/devices/system/cpu/cpu1/online ]")[0]:
        raise GuestError("CPU 1 cannot be switched off")
    for _ in range(3):
        guest.do("echo 0 >/sys/devices/system/cpu/cpu1/online; [ $(nproc) = 1 ]")
        guest.do("echo 1 >/sys/devices/system/cpu/cpu1/online; [ $(nproc) = 2 ] && taskset -c 1 true")


@two
def test_two_cpus_complaints(guest):
    content(guest)


@two
def test_two_cpus_power_off(guest):
    assert guest.power_off() == 0
    assert guest.stderr() == "", guest.stderr()


@four
def test_four_cpus_selftest(guest):
    selftest(guest)


@four
def test_four_cpus_compute_the_same(guest):
    agree(guest, 4)


@four
def test_four_cpus_share_memory(guest):
    same_as_here(guest, "threads", "ordering", "clocks", "forks")


@four
def test_four_cpus_fork_storm(guest):
    output = guest.do("for i in $(seq 300); do (echo $i) & done; wait", 60)
    assert sorted(map(int, output.split())) == list(range(1, 301)), output


@four
def test_four_cpus_complaints(guest):
    content(guest)


@four
def test_four_cpus_power_off(guest):
    assert guest.power_off() == 0


@high
def test_memory_above_4_gib(guest):
    selftest(guest)
    comment(guest.do("grep 'System RAM' /proc/iomem"))
    top = [int(line.split("-")[1].split()[0], 16) for line in
           guest.do("grep 'System RAM' /proc/iomem").splitlines()]
    assert max(top) > 4 << 30, top


@high
def test_memory_above_4_gib_holds_what_is_written(guest):
    def free():
        """Pages in the zone above 4 GiB."""
        return int(guest.do("awk '/zone +Normal/ { on = 1 } on && /nr_free_pages/ { print $2; exit }' /proc/zoneinfo"))

    before = free()
    guest.do("dd if=/dev/urandom of=/tmp/a bs=1M count=16 2>/dev/null; "
             "for i in $(seq 20); do cp /tmp/a /tmp/a$i; done", 60)
    used = (before - free()) >> 8
    comment(f"{used} MiB of what was written is above 4 GiB")
    assert used > 250, used
    sums = guest.do("sha256sum /tmp/a* | cut -d' ' -f1 | uniq -c", 60).split()
    assert sums[0] == "21" and len(sums) == 2, sums
    guest.do("rm /tmp/a*")


@high
def test_devices_reach_memory_above_4_gib(guest):
    """Direct reads of a disk into a buffer that is new each time."""
    words = guest.do("for i in 1 2 3; do dd if=/dev/vda bs=512k iflag=direct 2>/dev/null | sha256sum; done; "
                     "cat /dev/vda | sha256sum").split()[::2]
    assert len(set(words)) == 1, words


@high
def test_memory_above_4_gib_programs(guest):
    same_as_here(guest)


@high
def test_memory_above_4_gib_power_off(guest):
    content(guest)
    assert guest.power_off() == 0


@alone
def test_eight_cpus_boot(_):
    """Four times as many as the smallest host that this is tested on."""
    with Guest(cpus=8, words="vizor.cpus=8") as guest:
        guest.ready()
        assert guest.do("nproc") == "8"
        assert guest.power_off() == 0


if __name__ == "__main__":
    main()
