#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Debian's kernel for everything, compressed with XZ: much more hardware support, the same devices."""
import re

from guest import Guest, Machine, alone, comment, image, main

PACKAGE = "linux-image-amd64"
generic = Machine(package=PACKAGE, disk=True, words="vizor.cpus=1 vizor.memory=512")


@generic
def test_generic_boots(guest):
    comment(f"ready after {guest.boot_seconds:.2f} s")
    release = guest.do("uname -r")
    comment(release)
    assert re.search(r"\d-amd64$", release) and "cloud" not in release, release


@generic
def test_generic_selftest(guest):
    _, output = guest.run("/selftest </dev/hvc0", 90)
    assert output.endswith("VIZOR-CHECK PASS") and "not ok" not in output, output


@generic
def test_generic_power_off(guest):
    assert guest.power_off() == 0
    assert guest.stderr() == "", guest.stderr()


@alone
def test_generic_two_cpus_reboot(_):
    with Guest(folder=image(PACKAGE), cpus=2, words="vizor.mount=no") as guest:
        guest.ready()
        assert guest.do("nproc") == "2"
        guest.send("reboot -f")
        guest.ready()
        assert guest.power_off() == 0


if __name__ == "__main__":
    main()
