# SPDX-License-Identifier: MIT
"""Guests of a few instructions: 64-bit kernels as ELF files, linked high as Linux is."""
import pathlib
import struct

VIRTUAL, PHYSICAL = 0xffffffff81000000, 0x1000000

HALT = b"\xf4\xeb\xfd"                           # 1: hlt; jmp 1b
SPIN = b"\xeb\xfe"                               # 1: jmp 1b
POWER_OFF = b"\x66\xba\x00\x06\xb0\x34\xee" + HALT   # sleep control: S5
RESET = b"\x66\xba\x02\x06\xb0\x01\xee" + HALT       # reset register
TRIPLE_FAULT = b"\x0f\x0b"                       # ud2, and there is no interrupt table


def say(text):
    """Code that writes to COM1."""
    data = text.encode() + b"\0"
    skip = b"\xe8" + struct.pack("<i", len(data))     # call over the text
    loop = b"\x5e\x66\xba\xf8\x03\xac\x84\xc0\x74\x03\xee\xeb\xf8"
    return skip + data + loop


def kernel(path, code):
    """An ELF file with one segment, entered in 64-bit mode."""
    header = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack(
        "<HHIQQQIHHHHHH", 2, 62, 1, PHYSICAL, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 7, 4096, VIRTUAL, PHYSICAL, len(code), len(code), 4096)
    body = header + load
    pathlib.Path(path).write_bytes(body + bytes(4096 - len(body)) + code)
    return path
