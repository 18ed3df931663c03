#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The manual and the help texts list the same options, devices and keys."""
import os
import pathlib
import re

from tap import main, vizor

MANUAL = pathlib.Path(os.environ["MANUAL"]).read_text()


def section(title, level):
    """The manual's text under a heading, up to the next one of that level or above."""
    start = re.search(rf"^#{{{level}}} {re.escape(title)}$", MANUAL, re.M)
    assert start, f"the manual has no section {title}"
    end = re.search(rf"^#{{1,{level}}} ", MANUAL[start.end():], re.M)
    return MANUAL[start.end():start.end() + end.start()] if end else MANUAL[start.end():]


def keys_of(device):
    out = vizor("--device", f"{device},help").stdout.splitlines()[1:]
    return {line.split()[0]: line for line in out}


def devices():
    return [line.split()[0] for line in vizor("--device", "help").stdout.splitlines()]


def test_options(_):
    in_help = re.findall(r"^  (?:-(.), |    )--(\S+)", vizor("--help").stdout, re.M)
    in_manual = re.findall(r"^(?:\*-(.)\*, )?\*--([a-z-]+)\*", section("OPTIONS", 1), re.M)
    assert len(in_help) > 5
    assert sorted(in_help) == sorted(in_manual), (in_help, in_manual)


def test_devices(_):
    in_manual = re.findall(r"^## (\S+)$", section("DEVICES", 1), re.M)
    assert sorted(devices()) == sorted(in_manual), (devices(), in_manual)


def test_keys(_):
    for device in devices():
        in_manual = re.findall(r"^\*(\w+)\*", section(device, 2), re.M)
        assert sorted(keys_of(device)) == sorted(in_manual), (device, in_manual)


def test_defaults(_):
    for device in devices():
        text = section(device, 2)
        for key, line in keys_of(device).items():
            paragraph = re.search(rf"^\*{key}\*.*?(?=^\*|\Z)", text, re.M | re.S)[0]
            default = re.search(r"\((\S+)\)$", line)
            if default and default[1] == "required":
                assert "Required" in paragraph, (device, key)
            elif default:
                assert f"Default: {default[1]}." in paragraph, (device, key)


if __name__ == "__main__":
    main()
