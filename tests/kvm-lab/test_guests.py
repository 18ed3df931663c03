#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""
Linux guests on the engine kvm: here when KVM has hardware virtualisation, else in the lab (./lab). With
"inside" as its argument it is there already. Environment: VIZOR the command, KVM_UNIT and KVM_LIFE the
programs of test_kvm.c and life.c.
"""
import os
import pathlib
import signal
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "guest"))

import guest as guests
from guest import Guest, Machine, Skip, alone, comment, copy_disk, image

SKIP = 77

# QEMU does not tell its guest hypervisor that XCR0 was written: no XSAVE (noxsave would become init's argument).
LAB_WORDS = "clearcpuid=154" if "VIZOR_LAB" in os.environ else ""


def hardware():
    """Does `vizor engines` praise kvm without a but?"""
    lines = subprocess.run([guests.VIZOR, "engines"], capture_output=True, text=True, check=True).stdout.splitlines()
    return any(a.startswith("kvm ") and b.strip() == "works here" for a, b in zip(lines, lines[1:]))


def selftest(cpus, directory):
    """Boot, look at everything; the guest."""
    guest = Guest(cpus=cpus, memory=384, disk=copy_disk(directory),
                  words=f"vizor.cpus={cpus} vizor.memory=384 {LAB_WORDS}")
    guest.ready()
    comment(f"{cpus} CPUs: ready after {guests.time.monotonic() - guest.started:.1f} s")
    _, output = guest.run("/selftest </dev/hvc0", 60)
    comment(output)
    assert output.endswith("VIZOR-CHECK PASS") and "not ok" not in output, output
    return guest


@alone
def test_one_cpu_selftest_and_power_off(directory):
    guest = selftest(1, directory)
    assert guest.power_off() == 0, guest.report()


@alone
def test_two_cpus_selftest_and_power_button(directory):
    guest = selftest(2, directory)
    guest.signal(signal.SIGTERM)
    assert guest.ended() == 0, guest.report()


def program(variable, *arguments):
    """A program that prints TAP itself."""
    if variable not in os.environ:
        raise Skip(f"no {variable}")
    done = subprocess.run([os.environ[variable], *map(str, arguments)], capture_output=True, text=True,
                          timeout=200, check=False)
    comment(done.stdout + done.stderr)
    assert done.returncode == 0 and "not ok" not in done.stdout, done.stdout


@alone
def test_small_guests(_):
    program("KVM_UNIT")


@alone
def test_life(_):
    program("KVM_LIFE", "kvm", image() / "vmlinuz", image() / "initramfs", LAB_WORDS)


def inside():
    guests.ENGINE = "kvm"
    guests.PATIENCE = 6 if "VIZOR_LAB" in os.environ else 1
    del sys.argv[1:]
    guests.main()


def main():
    if sys.argv[1:] == ["inside"] or hardware():
        inside()
        return
    try:
        image()  # in the lab it is too late for that
    except Skip as skip:
        print(f"1..0 # SKIP {skip}")
        return
    lab = subprocess.run([HERE / "lab", "--", sys.executable, __file__, "inside"], check=False)
    sys.exit(0 if lab.returncode == SKIP else lab.returncode)


if __name__ == "__main__":
    main()
