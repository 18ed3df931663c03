# SPDX-License-Identifier: MIT
"""Tests of the command: functions named test_… of the calling script, run in order, reported as TAP."""
import os
import pathlib
import signal
import struct
import subprocess
import sys
import tempfile
import traceback

VIZOR = os.environ.get("VIZOR", "vizor")
SECTOR = 512


def vizor(*args, timeout=20, **kwargs):
    """Run the command; its CompletedProcess with text."""
    return subprocess.run([VIZOR, *map(str, args)], capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, timeout=timeout, check=False, **kwargs)


def refused(done, *words):
    """It ended with status 1, and one line on standard error that has all the words."""
    lines = done.stderr.splitlines()
    assert done.returncode == 1, f"status {done.returncode}: {done.stderr}"
    assert len(lines) == 1, f"not one line: {done.stderr}"
    assert lines[0].startswith("vizor: "), lines[0]
    for word in words:
        assert word in lines[0], f"'{word}' is not in: {lines[0]}"


def elf_kernel(path, code=b"\xf4", entry=0x1000000, xlf_64bit=True):
    """
    A bzImage-less guest: an ELF64 file with one segment of code at entry, started through PVH
    (32-bit protected mode).
    """
    note = struct.pack("<III4sI", 4, 4, 18, b"Xen\0", entry)
    offset_note, offset_code = 64 + 2 * 56, 4096
    header = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack(
        "<HHIQQQIHHHHHH", 2, 62, 1, entry, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 7, offset_code, entry, entry, len(code), len(code), 4096)
    notes = struct.pack("<IIQQQQQQ", 4, 4, offset_note, 0, 0, len(note), len(note), 4)
    body = header + load + notes + note
    pathlib.Path(path).write_bytes(body + bytes(offset_code - len(body)) + code)
    return path


def run(module):
    """Run the tests of a script in a directory of their own; its exit status."""
    tests = [(n, f) for n, f in vars(module).items() if n.startswith("test_")]
    failed = 0
    print(f"1..{len(tests)}")
    for number, (name, function) in enumerate(tests, 1):
        with tempfile.TemporaryDirectory() as directory:
            os.chdir(directory)
            try:
                skip = function(pathlib.Path(directory))
                print(f"ok {number} - {name}" + (f" # SKIP {skip}" if skip else ""))
            except Exception:  # whatever it is, it is this test's failure
                failed += 1
                print(f"not ok {number} - {name}")
                for line in traceback.format_exc().splitlines():
                    print(f"# {line}")
            os.chdir("/")
        sys.stdout.flush()
    return 1 if failed else 0


def main():
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(run(sys.modules["__main__"]))
