#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""One CPU, 512 MiB, all devices: everything that a guest does with them."""
import hashlib
import os
import random
import re
import time

from guest import PATIENCE, Guest, Machine, alone, comment, copy_disk, main
from probe import probe_disk, same_as_here

MIB = 1 << 20
SERIAL = "vizor,test-0123"


def disks(directory):
    """vda: ext4. vdb: the same without the right to write. vdc: for what destroys it. vdd: a program."""
    copy_disk(directory, "readonly.img")
    with open(directory / "scratch.img", "wb") as scratch:
        scratch.write(os.urandom(32 * MIB))
    return {"devices": (f"virtio-blk,path={directory}/readonly.img,readonly",
                        f'virtio-blk,path={directory}/scratch.img,queues=4,deviceId="{SERIAL}",cache=none',
                        probe_disk(directory), "virtio-rng")}


basic = Machine(disk=True, prepare=disks, words="vizor.cpus=1 vizor.memory=512")


@basic
def test_boots(guest):
    comment(f"ready after {guest.boot_seconds:.2f} s")
    assert "vizor: init" in guest.first_words


@basic
def test_selftest(guest):
    _, output = guest.run("/selftest </dev/hvc0", 60)
    comment(output)
    assert output.endswith("VIZOR-CHECK PASS") and "not ok" not in output, output


# --- CPU ---------------------------------------------------------------------------------------


@basic
def test_computes_what_the_host_computes(guest):
    same_as_here(guest)


@basic
def test_floating_point_survives_the_neighbours(guest):
    """Processes that take turns on one CPU, each with numbers of its own."""
    output = guest.do("for n in 1 2 3 4 5 6; do awk -v n=$n 'BEGIN { for (i = 1; i <= 30000; i++) "
                      "s += n / i + i / (n + i); printf \"%d %.6f\\n\", n, s }' & done; wait", 60)
    want = {n: sum(n / i + i / (n + i) for i in range(1, 30001)) for n in range(1, 7)}
    got = {int(line.split()[0]): float(line.split()[1]) for line in output.splitlines()}
    assert got.keys() == want.keys() and all(abs(got[n] - want[n]) < 1e-3 for n in want), (got, want)


@basic
def test_signals(guest):
    assert guest.do("sh -c 'trap \"echo caught; exit 3\" USR1; kill -USR1 $$; sleep 5'; echo $?") == "caught\n3"
    assert guest.do("sleep 100 & kill -9 $!; wait $! 2>/dev/null; echo $?").endswith("137")


@basic
def test_fork_storm(guest):
    output = guest.do("for i in $(seq 300); do (echo $i) & done; wait", 60)
    numbers = [int(word) for word in output.split()]
    assert sorted(numbers) == list(range(1, 301)), output


@basic
def test_pipelines(guest):
    got = guest.do("seq 1 50000 | gzip -c | gzip -dc | sort -nr | sha256sum", 60)
    want = hashlib.sha256("".join(f"{i}\n" for i in range(50000, 0, -1)).encode()).hexdigest()
    assert got.split()[0] == want


@basic
def test_modules(guest):
    assert guest.run("grep -q ^fuse /proc/modules")[0] == 1
    guest.do("insmod /lib/modules/fuse.ko")
    guest.do("grep -q '^fuse .* Live' /proc/modules && grep -q fuse /proc/filesystems")
    guest.do("rmmod fuse")
    assert guest.run("grep -q ^fuse /proc/modules")[0] == 1


@basic
def test_memory_pressure(guest):
    """More than there is: the page cache gives way, and nothing is lost."""
    guest.do("dd if=/dev/urandom of=/tmp/base bs=1M count=16 2>/dev/null")
    guest.do("mount -o remount,size=420M /tmp; for i in $(seq 20); do cp /tmp/base /tmp/copy$i || exit 1; done", 60)
    sums = guest.do("cat /dev/vda >/dev/null; sha256sum /tmp/base /tmp/copy* | cut -d' ' -f1 | sort | uniq -c", 60)
    guest.do("rm /tmp/base /tmp/copy*")
    assert len(sums.splitlines()) == 1 and sums.split()[0] == "21", sums


# --- time --------------------------------------------------------------------------------------


@basic
def test_clock_source(guest):
    source = guest.do("cat /sys/devices/system/clocksource/clocksource0/current_clocksource")
    assert source in ("tsc", "kvm-clock"), source


@basic
def test_time_of_day(guest):
    before = time.time()
    seconds = int(guest.do("date +%s"))
    assert before - 2 <= seconds <= time.time() + 1, f"the guest says {seconds}, the host {before:.0f}"


@basic
def test_sleep_takes_its_time(guest):
    begin = time.monotonic()
    output = guest.do("cut -d' ' -f1 /proc/uptime; sleep 2; cut -d' ' -f1 /proc/uptime").split()
    host, own = time.monotonic() - begin, float(output[1]) - float(output[0])
    comment(f"two seconds were {host:.2f} s of the host, {own:.2f} s of the guest")
    assert 1.98 <= host <= 2 + 1.5 * PATIENCE, host
    assert abs(host - own) < 0.5 * PATIENCE, (host, own)


@basic
def test_short_sleeps(guest):
    begin = time.monotonic()
    guest.do("for i in $(seq 50); do usleep 10000; done")
    took = time.monotonic() - begin
    comment(f"50 times 10 ms were {took:.2f} s")
    assert 0.5 <= took < 3 * PATIENCE, took


# --- disk --------------------------------------------------------------------------------------


def host_sum(path, offset, size):
    with open(path, "rb") as file:
        file.seek(offset)
        return hashlib.sha256(file.read(size)).hexdigest()


@basic
def test_big_file(guest):
    guest.do("dd if=/dev/urandom of=/tmp/big bs=1M count=32 2>/dev/null; cp /tmp/big /mnt/big; sync", 60)
    want = guest.do("sha256sum </tmp/big; rm /tmp/big")
    for _ in range(2):
        guest.do("sync; echo 3 >/proc/sys/vm/drop_caches")
        assert guest.do("sha256sum </mnt/big", 60) == want
    guest.do("umount /mnt; mount -t ext4 /dev/vda /mnt")
    assert guest.do("sha256sum </mnt/big; rm /mnt/big", 60) == want


@basic
def test_what_is_flushed_is_in_the_image(guest):
    for seek, count in ((0, 1), (1000, 8), (5001, 3), (30000, 200)):
        guest.do(f"dd if=/dev/urandom of=/tmp/part bs=512 count={count} 2>/dev/null; "
                 f"dd if=/tmp/part of=/dev/vdc bs=512 seek={seek} conv=notrunc,fsync 2>/dev/null")
        want = guest.do("sha256sum </tmp/part").split()[0]
        assert host_sum(guest.directory / "scratch.img", seek * 512, count * 512) == want, seek


@basic
def test_reads_what_the_image_has(guest):
    path = guest.directory / "scratch.img"
    guest.do("sync; echo 3 >/proc/sys/vm/drop_caches")
    for _ in range(10):
        start, count = random.randrange(60000), random.randrange(1, 3000)
        got = guest.do(f"dd if=/dev/vdc bs=512 skip={start} count={count} 2>/dev/null | sha256sum").split()[0]
        assert got == host_sum(path, start * 512, count * 512), (start, count)


@basic
def test_many_at_once(guest):
    """Writers and readers of different parts, all at the same time."""
    guest.do("for i in 0 1 2 3 4 5 6 7; do (dd if=/dev/urandom of=/tmp/w$i bs=64k count=32 2>/dev/null; "
             "dd if=/tmp/w$i of=/dev/vdc bs=64k seek=$((i * 32)) conv=notrunc,fsync 2>/dev/null; "
             "dd if=/dev/vdc bs=64k skip=$((i * 32)) count=32 2>/dev/null | cmp - /tmp/w$i || echo $i differs) & "
             "cat /mnt/welcome >/dev/null; done; wait; echo 3 >/proc/sys/vm/drop_caches", 60)
    for i in range(8):
        want = guest.do(f"sha256sum </tmp/w{i}; rm /tmp/w{i}").split()[0]
        assert host_sum(guest.directory / "scratch.img", i * 2 * MIB, 2 * MIB) == want, i


@basic
def test_discard(guest):
    path = guest.directory / "scratch.img"
    before = path.stat().st_blocks
    guest.do(f"blkdiscard -o {8 * MIB} -l {16 * MIB} /dev/vdc")
    freed = (before - path.stat().st_blocks) * 512
    assert host_sum(path, 8 * MIB, 16 * MIB) == hashlib.sha256(bytes(16 * MIB)).hexdigest()
    assert path.stat().st_size == 32 * MIB
    assert freed >= 15 * MIB, f"{freed} bytes were given back"
    guest.do("echo 3 >/proc/sys/vm/drop_caches")
    assert guest.do("dd if=/dev/vdc bs=1M skip=8 count=16 2>/dev/null | tr -d '\\000' | wc -c") == "0"


@basic
def test_fstrim(guest):
    path = guest.directory / "disk.img"
    guest.do("dd if=/dev/urandom of=/mnt/gone bs=1M count=24 conv=fsync 2>/dev/null", 60)
    before = path.stat().st_blocks
    guest.do("rm /mnt/gone; sync; fstrim /mnt")
    freed = (before - path.stat().st_blocks) * 512
    assert freed >= 20 * MIB, f"{freed} bytes were given back"


@basic
def test_read_only_disk(guest):
    path = guest.directory / "readonly.img"
    before = host_sum(path, 0, 64 * MIB)
    assert guest.do("cat /sys/block/vdb/ro") == "1"
    assert guest.run("dd if=/dev/zero of=/dev/vdb bs=4k count=1 conv=fsync")[0] != 0
    assert guest.run("blkdiscard /dev/vdb")[0] != 0
    guest.do("mkdir -p /tmp/ro; mount -t ext4 -o ro,noload /dev/vdb /tmp/ro && grep -q disk /tmp/ro/welcome")
    assert guest.run("touch /tmp/ro/x")[0] != 0
    guest.do("umount /tmp/ro")
    assert host_sum(path, 0, 64 * MIB) == before


@basic
def test_serial_number(guest):
    assert guest.do("cat /sys/block/vdc/serial") == SERIAL


@basic
def test_size_and_queues(guest):
    assert guest.do("cat /sys/block/vdc/size") == str(32 * MIB // 512)
    # One CPU uses one queue of four.
    assert guest.do("ls /sys/block/vdc/mq") == "0"


@basic
def test_cache_mode(guest):
    assert guest.do("cat /sys/block/vda/queue/write_cache") == "write back"


# --- other devices -----------------------------------------------------------------------------


@basic
def test_random_bytes_differ(guest):
    words = guest.do("for i in $(seq 20); do head -c 16 /dev/hwrng | hexdump -e '16/1 \"%02x\" \"\\n\"'; done").split()
    assert len(words) == 20 and all(re.fullmatch("[0-9a-f]{32}", word) for word in words), words
    assert len(set(words)) == 20, words
    assert len(guest.raw("head -c 100000 /dev/hwrng")[1]) == 100000


@basic
def test_random_bytes_are_not_those_of_another_boot(guest):
    with Guest(memory=128) as other:
        other.ready()
        command = "head -c 32 /dev/hwrng | sha256sum"
        assert guest.do(command) != other.do(command)


def interrupts(guest):
    """Counts by name of those that are messages."""
    found = {}
    for line in guest.do("cat /proc/interrupts").splitlines():
        words = line.split()
        if "PCI-MSI" in line:
            found[words[-1]] = sum(int(word) for word in words[1:] if word.isdigit())
    return found


@basic
def test_interrupts_are_messages(guest):
    before = interrupts(guest)
    guest.do("dd if=/dev/vda of=/dev/null bs=64k count=50 iflag=direct; head -c 64 /dev/hwrng | wc -c; "
             "dd if=/dev/vdc of=/dev/null bs=64k count=50 iflag=direct")
    after = interrupts(guest)
    for device in ("virtio1-req.0", "virtio3-req.0", "virtio5-input"):
        assert after[device] > before[device], (device, before, after)
    assert not re.search(r"\b(ERR|MIS): +[1-9]", guest.do("cat /proc/interrupts"))


@basic
def test_all_devices_have_drivers(guest):
    assert guest.do("for d in /sys/bus/virtio/devices/*; do [ -e $d/driver ] || echo $d; done") == ""


# --- console -----------------------------------------------------------------------------------


@basic
def test_large_output(guest):
    guest.do("head -c 1048576 /dev/urandom >/tmp/large; stty -opost </dev/hvc0")
    begin = time.monotonic()
    status, output = guest.raw("cat /tmp/large", 60)
    comment(f"{time.monotonic() - begin:.2f} s")
    want = guest.do("stty opost </dev/hvc0; sha256sum </tmp/large; rm /tmp/large").split()[0]
    assert status == 0 and len(output) == MIB, len(output)
    assert hashlib.sha256(output).hexdigest() == want


def difference(got, want):
    at = next((i for i, (a, b) in enumerate(zip(got, want)) if a != b), min(len(got), len(want)))
    return f"{len(got)} bytes, not {len(want)}; at {at}: {got[at:at + 40]} and not {want[at:at + 40]}"


def noise(size):
    """Random bytes for a console: Ctrl-O makes the kernel look at the next one."""
    return random.randbytes(size).replace(b"\x0f", b"\x10")


@basic
def test_large_input(guest):
    data = noise(MIB)
    guest.send("stty raw -echo </dev/hvc0; echo GO; head -c 1048576 </dev/hvc0 >/tmp/large; "
               "stty -raw opost -onlcr -echo </dev/hvc0; echo GOT")
    guest.expect(rb"GO\r?\n")
    begin = time.monotonic()
    guest.expect(rb"GOT\r?\n", 60, data)
    comment(f"{time.monotonic() - begin:.2f} s")
    guest.expect(rb"VIZOR-RC 0")
    assert guest.do("sha256sum </tmp/large; rm /tmp/large").split()[0] == hashlib.sha256(data).hexdigest()


@basic
def test_both_ways_at_once(guest):
    """An echo of everything, with more on the way than any buffer holds."""
    data = noise(300000).replace(b"V", b"v")
    guest.send("stty raw -echo </dev/hvc0; echo GO; head -c 300000 </dev/hvc0; "
               "stty -raw opost -onlcr -echo </dev/hvc0")
    guest.expect(rb"GO\r?\n")
    output, match = guest.expect(rb"VIZOR-RC (\d+)\r?\n", 60, data)
    assert match[1] == b"0" and output == data, difference(output, data)


@basic
def test_console_is_slow_to_be_read(guest):
    """A reader that is not there for a second costs nothing but that second."""
    guest.send("seq 1 200000 | cat")
    time.sleep(1)
    output, _ = guest.expect(rb"VIZOR-RC 0\r?\n", 60)
    want = "".join(f"{n}\n" for n in range(1, 200001)).encode()
    assert output == want, difference(output, want)


# --- the end -----------------------------------------------------------------------------------


@basic
def test_kernel_has_nothing_to_complain_of(guest):
    bad = guest.run("dmesg | grep -E 'BUG|Oops|WARNING|Call Trace|lockup|stall|unchecked MSR|timed out|I/O error'")
    assert bad[0] == 1, bad[1]


@basic
def test_power_off(guest):
    assert guest.power_off() == 0
    assert guest.stderr() == "", guest.stderr()


@alone
def test_kernel_in_memory_that_is_small(_):
    with Guest(memory=96) as guest:
        guest.ready()
        assert guest.power_off() == 0


if __name__ == "__main__":
    main()
