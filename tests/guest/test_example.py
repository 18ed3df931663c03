#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The example program on the public interface boots a real kernel. Environment: TINYVM, the program."""
import os
import subprocess

from guest import alone, copy_disk, image, main


def tinyvm(*arguments):
    return subprocess.run([os.environ["TINYVM"], *map(str, arguments)], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=120, check=False)


@alone
def test_tinyvm_boots_linux_with_a_disk(directory):
    words = "console=hvc0 quiet panic=-1 vizor.mode=exec -- cat /mnt/welcome"
    done = tinyvm(image() / "vmlinuz", image() / "initramfs", words, copy_disk(directory))
    assert done.returncode == 0, done.stderr
    assert "/mnt is a disk" in done.stdout and "VIZOR-RC 0" in done.stdout, done.stdout


@alone
def test_tinyvm_tells_what_is_wrong(directory):
    done = tinyvm(directory / "none")
    assert done.returncode == 1
    assert "bootloader.kernel" in done.stderr, done.stderr


if __name__ == "__main__":
    main()
