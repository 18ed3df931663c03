#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Guests that fail, and a host that has no memory: vizor ends with status 1 and tells why."""
import gzip
import os
import random
import re
import resource
import struct
import subprocess

from guest import ENGINE, PATIENCE, SANITIZED, VIZOR, Guest, Skip, alone, comment, image, main

MIB = 1 << 20


def archive(path, *names):
    """A cpio archive with empty folders of these names."""
    data = b""
    for number, name in enumerate((*names, "TRAILER!!!")):
        mode = 0 if name == "TRAILER!!!" else 0o40755
        fields = [number, mode, 0, 0, 1, 0, 0, 0, 0, 0, 0, len(name) + 1, 0]
        data += b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
        data += bytes(-len(data) % 4)
    path.write_bytes(data)
    return path


def panics(guest, *words, seconds=60):
    """It ended by a panic whose text has the words, and what the kernel said before is shown."""
    status = guest.ended(seconds)
    lines = guest.stderr().splitlines()
    assert status == 1, f"status {status}: {guest.stderr()}"
    assert lines[-1].startswith("vizor: guest kernel panicked: "), lines[-1]
    for word in words:
        assert word in lines[-1], f"'{word}' is not in: {lines[-1]}"
    assert "--- the guest's last messages ---" in guest.stderr(), guest.stderr()
    assert "Kernel panic - not syncing" in guest.stderr()
    assert len([line for line in lines if line.startswith("vizor: ")]) == 1, guest.stderr()


@alone
def test_no_init(directory):
    with Guest(initrd=archive(directory / "initrd", "dev", "sys")) as guest:
        panics(guest, "VFS: Unable to mount root fs")


@alone
def test_no_initrd(_):
    with Guest(initrd="none") as guest:
        panics(guest, "VFS: Unable to mount root fs")


@alone
def test_init_that_is_not_there(_):
    with Guest(words="rdinit=/nonexistent") as guest:
        panics(guest, "VFS: Unable to mount root fs")
        assert "/nonexistent" in guest.stderr()


@alone
def test_init_that_ends(_):
    with Guest(words="rdinit=/bin/ls") as guest:
        panics(guest, "Attempted to kill init!")


@alone
def test_damaged_initrd(directory):
    data = bytearray(gzip.compress((image() / "initramfs").read_bytes(), 1))
    data[len(data) // 2:] = os.urandom(len(data) // 2)
    (directory / "initrd").write_bytes(data)
    with Guest(initrd=directory / "initrd") as guest:
        panics(guest)


@alone
def test_panic_while_it_runs(_):
    with Guest(cpus=2) as guest:
        guest.ready()
        guest.send("echo c >/proc/sysrq-trigger")
        panics(guest)
        assert "sysrq" in guest.stderr()


@alone
def test_panic_that_the_user_wants_to_look_at(_):
    """panic=0 stays with the user: the guest stops and vizor waits."""
    with Guest(words="panic=0") as guest:
        guest.ready()
        guest.send("sleep 1; echo c >/proc/sysrq-trigger")
        try:
            guest.expect(rb"end Kernel panic", 20)
        finally:
            comment(guest.stderr()[-200:])
        assert guest.alive()


def died(guest, seconds=60):
    """By a triple fault: status 1, the state of the CPU, and its last words."""
    status = guest.ended(seconds)
    assert status == 1, f"status {status}: {guest.stderr()}"
    lines = guest.stderr().splitlines()
    assert re.match(r"vizor: CPU \d+: ", lines[-1]), lines[-1]
    for register in ("rip", "rsp", "cr3"):
        assert re.search(rf"\b{register}\b", guest.stderr(), re.I), register


@alone
def test_triple_fault_of_linux(_):
    with Guest(words="reboot=triple") as guest:
        guest.ready()
        guest.send("reboot -f")
        died(guest)


@alone
def test_triple_fault_of_linux_on_two_cpus(_):
    with Guest(cpus=2, words="reboot=triple") as guest:
        guest.ready()
        guest.send("reboot -f")
        died(guest)


def elf(path, code):
    """A 64-bit kernel of a few bytes: entered in 64-bit mode."""
    base = 0x1000000
    header = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack(
        "<HHIQQQIHHHHHH", 2, 62, 1, base, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 7, 4096, 0xffffffff81000000, base, len(code), len(code), 4096)
    path.write_bytes((header + load).ljust(4096, b"\0") + code)
    return path


@alone
def test_triple_fault_of_a_few_bytes(directory):
    """lidt with a limit of 0; int3."""
    code = b"\x48\x31\xc0\x50\x50\x48\xbc" + struct.pack("<Q", 0x1100000) + b"\x50\x50\x0f\x01\x1c\x24\xcc\xeb\xfe"
    code = code[7 - 2:]  # the stack first, then the table on it
    with Guest(kernel=elf(directory / "kernel", code), initrd="none") as guest:
        died(guest, 20)


def end_of(kernel, seconds):
    """The exit status of a guest that is stopped if it does not end."""
    with Guest(memory=128, kernel=kernel, initrd="none", words="root=none panic=-1") as guest:
        try:
            return guest.process.wait(seconds * PATIENCE)
        except subprocess.TimeoutExpired:
            guest.signal(15)
            guest.signal(15)
            return guest.ended(10)


@alone
def test_kernels_of_noise(directory):
    """Whatever the bytes are, vizor ends or is ended, and never crashes."""
    statuses = []
    for _ in range(10):
        code = os.urandom(4000)
        statuses.append(end_of(elf(directory / "kernel", code), 1))
        assert statuses[-1] in (0, 1), f"status {statuses[-1]}, code {code.hex()}"
    comment(statuses)


@alone
def test_damaged_kernels(directory):
    """A few bytes of a real one are others: in its header, in its payload."""
    good = (image() / "vmlinuz").read_bytes()
    statuses = []
    for last in (1024, 1024, 1024, 1024, 20000, len(good), len(good)):
        bad = bytearray(good)
        places = {random.randrange(512, last): random.randrange(256) for _ in range(8)}
        for place, byte in places.items():
            bad[place] = byte
        (directory / "kernel").write_bytes(bad)
        statuses.append(end_of(directory / "kernel", 3))
        assert statuses[-1] in (0, 1), f"status {statuses[-1]}, places {places}"
    comment(statuses)


# --- a host without memory ---------------------------------------------------------------------


def limited(limit, memory, kernel):
    """A guest that halts, in an address space of so many MiB; (status, lines of standard error)."""
    command = [VIZOR, "run", "--engine", ENGINE, "--memory", str(memory), "--kernel", str(kernel)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                               preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit * MIB, limit * MIB)))
    try:
        _, errors = process.communicate(timeout=20 * PATIENCE)
    finally:
        process.kill()
    return process.returncode, errors.decode().splitlines()


POWER_OFF = b"\x66\xba\x00\x06\xb0\x34\xee\xf4\xeb\xfd"


@alone
def test_no_memory_for_the_guest(directory):
    if SANITIZED:
        raise Skip("a sanitizer needs all of the address space")
    status, errors = limited(800, 4096, elf(directory / "kernel", POWER_OFF))
    assert status == 1 and len(errors) == 1, (status, errors)
    assert errors[0].startswith("vizor: memory: "), errors[0]


@alone
def test_no_memory_wherever_it_ends(directory):
    """Ever less: it works, or one line tells why not."""
    if SANITIZED:
        raise Skip("a sanitizer needs all of the address space")
    kernel = elf(directory / "kernel", POWER_OFF)
    worked = set()
    for limit in (*range(8, 160, 8), *range(160, 1400, 60)):
        status, errors = limited(limit, 64, kernel)
        if status == 0:
            worked.add(limit)
            continue
        # The dynamic loader says it in its own words.
        if errors and "error while loading shared libraries" in errors[0]:
            continue
        assert status == 1 and len(errors) == 1 and errors[0].startswith("vizor: "), (limit, status, errors)
        comment(f"{limit} MiB: {errors[0]}")
    assert worked, "it never worked"
    comment(f"works with {min(worked)} MiB")


@alone
def test_no_space_for_the_disk(directory):
    """A disk image on a file system that is full: the guest gets an error, nobody dies."""
    path = directory / "sparse.img"
    with open(path, "wb") as file:
        file.truncate(64 * MIB)

    with Guest(disk=path, words="vizor.mount=no") as guest:
        guest.ready()
        # Like a full file system: what would make the file longer than this fails.
        resource.prlimit(guest.process.pid, resource.RLIMIT_FSIZE, (8 * MIB, 8 * MIB))
        guest.do("dd if=/dev/urandom of=/dev/vda bs=1M count=4 conv=fsync 2>/dev/null")
        assert guest.run("dd if=/dev/urandom of=/dev/vda bs=1M seek=16 count=2 conv=fsync 2>/dev/null")[0] != 0
        guest.do("dd if=/dev/vda of=/dev/null bs=1M iflag=direct 2>/dev/null")
        assert guest.power_off() == 0


if __name__ == "__main__":
    main()
