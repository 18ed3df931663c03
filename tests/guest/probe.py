# SPDX-License-Identifier: MIT
"""Brings the program probe (probe.c; its path is in PROBE) to a guest, on a disk, and compares."""
import os
import subprocess

from guest import Skip, comment

PROBE = os.environ.get("PROBE", "")
TESTS = {}


def probe_disk(directory):
    """The value of a --device; without a program it has one that tells so."""
    path = directory / "probe.img"
    if os.path.exists(PROBE):
        with open(PROBE, "rb") as file:
            data = file.read()
    else:
        data = b"#!/bin/sh\necho missing\n"
    path.write_bytes(data + bytes(-len(data) % 512))
    return f"virtio-blk,path={path},readonly,deviceId=probe"


def install(guest):
    guest.do("[ -x /tmp/probe ] || for d in /sys/block/vd*; do [ \"$(cat $d/serial)\" != probe ] || "
             "{ cat /dev/${d##*/} >/tmp/probe && chmod +x /tmp/probe; }; done")


def same_as_here(guest, *names):
    """Its tests, or the named, print in the guest what they print on the host."""
    if not os.path.exists(PROBE):
        raise Skip("the program for guests was not built")
    install(guest)
    for name in names or ("",):
        here = subprocess.run([PROBE, *name.split()], capture_output=True, text=True, timeout=60, check=True).stdout
        status, there = guest.run(f"/tmp/probe {name}", 60)
        comment(there)
        assert status == 0, there
        want, got = here.split("\n")[:-1], there.splitlines()
        assert len(want) == len(got) and all(a == b or "absent" in b for a, b in zip(want, got)), \
            f"here:\n{here}there:\n{there}"
