#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Bad input: each fault ends with status 1 and one line that names the field and the remedy."""
import fcntl
import os
import subprocess

from tap import SECTOR, VIZOR, elf_kernel, main, refused, vizor


def image(directory, name="disk.img", size=1 << 20):
    path = directory / name
    with open(path, "wb") as f:
        f.truncate(size)
    return path


def with_disk(directory, *disks):
    """Both ways to hear of a fault must tell the same."""
    kernel = elf_kernel(directory / "kernel")
    args = ["--kernel", kernel]
    for disk in disks:
        args += ["--device", f"virtio-blk,path={disk}" if "=" not in str(disk) else disk]
    return vizor("run", *args), vizor("validate", *args)


def both_refused(pair, *words):
    for done in pair:
        refused(done, *words)


def with_kernel(*args):
    return vizor("run", *args), vizor("validate", *args)


def test_a_good_configuration_is_valid(directory):
    done = vizor("validate", "-k", elf_kernel(directory / "kernel"), "-d", "virtio-rng",
                 "-d", f"virtio-blk,path={image(directory)}")
    assert done.returncode == 0, done.stderr


def test_no_kernel(_):
    both_refused(with_kernel("--cpus", "1"), "bootloader.kernel: no kernel")


def test_kernel_missing(directory):
    both_refused(with_kernel("-k", directory / "none"), "bootloader.kernel: ", "none",
                 "No such file")


def test_kernel_empty(directory):
    both_refused(with_kernel("-k", image(directory, "k", 0)), "bootloader.kernel: ", "empty")


def test_kernel_a_directory(directory):
    both_refused(with_kernel("-k", directory), "bootloader.kernel: ", "directory")


def test_kernel_unreadable(directory):
    path = image(directory) / "kernel"
    both_refused(with_kernel("-k", path), "bootloader.kernel: ", "Not a directory")


def test_kernel_without_permission(directory):
    if os.geteuid() == 0:
        return "root may read everything"
    path = image(directory)
    path.chmod(0)
    both_refused(with_kernel("-k", path), "bootloader.kernel: ", "Permission denied")
    return None


def test_kernel_is_something_else(directory):
    path = directory / "text"
    path.write_text("#!/bin/sh\n" * 1000)
    both_refused(with_kernel("-k", path), "bootloader.kernel: ", "not a kernel")


def test_kernel_truncated(directory):
    path = elf_kernel(directory / "kernel", code=bytes(8192))
    os.truncate(path, 6000)
    both_refused(with_kernel("-k", path), "bootloader.kernel: ", "truncated")


def test_initrd_missing(directory):
    kernel = elf_kernel(directory / "kernel")
    both_refused(with_kernel("-k", kernel, "-i", directory / "none"), "bootloader.initrd: ",
                 "No such file")


def test_initrd_empty(directory):
    kernel = elf_kernel(directory / "kernel")
    both_refused(with_kernel("-k", kernel, "-i", image(directory, "i", 0)), "bootloader.initrd: ",
                 "empty")


def test_initrd_a_directory(directory):
    kernel = elf_kernel(directory / "kernel")
    both_refused(with_kernel("-k", kernel, "-i", directory), "bootloader.initrd: ", "directory")


def test_initrd_larger_than_memory(directory):
    kernel = elf_kernel(directory / "kernel")
    both_refused(with_kernel("-k", kernel, "-m", "64", "-i", image(directory, "i", 65 << 20)),
                 "MiB")


def test_cmdline_too_long(directory):
    kernel = elf_kernel(directory / "kernel")
    both_refused(with_kernel("-k", kernel, "-C", "x" * 70000), "bootloader.cmdline: ")


def test_zero_cpus(directory):
    both_refused(with_kernel("-k", elf_kernel(directory / "k"), "-c", "0"), "cpus: ", "1 to 64")


def test_absurd_cpus(directory):
    both_refused(with_kernel("-k", elf_kernel(directory / "k"), "-c", "4000"), "cpus: ", "1 to 64")


def test_zero_memory(directory):
    both_refused(with_kernel("-k", elf_kernel(directory / "k"), "-m", "0"), "memory: ",
                 "32 to 1048576 MiB")


def test_absurd_memory(directory):
    both_refused(with_kernel("-k", elf_kernel(directory / "k"), "-m", "99999999"), "memory: ",
                 "32 to 1048576 MiB")


def test_host_out_of_memory(directory):
    command = ["prlimit", f"--as={400 << 20}", VIZOR, "run", "-m", "2048", "-k",
               str(elf_kernel(directory / "k"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    if "Sanitizer" in done.stderr:
        return "a sanitizer needs more address space"
    refused(done, "memory: ")
    return None


def test_disk_missing(directory):
    both_refused(with_disk(directory, directory / "none"), "devices[0].path: ", "does not exist")


def test_disk_a_directory(directory):
    both_refused(with_disk(directory, directory), "devices[0].path: ", "directory")


def test_disk_empty(directory):
    both_refused(with_disk(directory, image(directory, size=0)), "devices[0].path: ", "empty")


def test_disk_unreadable(directory):
    both_refused(with_disk(directory, image(directory) / "x"), "devices[0].path: ")


def test_disk_truncated_to_part_of_a_sector(directory):
    both_refused(with_disk(directory, image(directory, size=10 * SECTOR + 1)), "devices[0].path: ",
                 "multiple of 512")


def test_disk_locked_by_another_process(directory):
    path = image(directory)
    with open(path, "r+b") as f:
        lock_whole_file(f)
        both_refused(with_disk(directory, path), "devices[0].path: ", "open in another process")


def lock_whole_file(f):
    """An open file description lock, as another machine holds it (F_OFD_SETLK, struct flock)."""
    import struct
    fcntl.fcntl(f, 37, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))


def test_two_disks_with_the_same_image(directory):
    path = image(directory)
    both_refused(with_disk(directory, path, path), "devices[1].path: ", "devices[0]", "readonly")


def test_two_disks_with_the_same_image_under_two_names(directory):
    path = image(directory)
    (directory / "link").symlink_to(path)
    both_refused(with_disk(directory, path, directory / "link"), "devices[1].path: ", "devices[0]")


def test_two_readonly_disks_may_share_an_image(directory):
    disk = f"virtio-blk,path={image(directory)},readonly"
    done = vizor("validate", "-k", elf_kernel(directory / "k"), "-d", disk, "-d", disk)
    assert done.returncode == 0, done.stderr


def test_disk_without_path(directory):
    both_refused(with_disk(directory, "virtio-blk,type=image"), "devices[0].path: ")


def test_unknown_key_suggests_the_nearest(directory):
    both_refused(with_disk(directory, f"virtio-blk,path={image(directory)},readonli"),
                 "devices[0].readonli: ", "readonly")


def test_flag_with_value(directory):
    both_refused(with_disk(directory, f"virtio-blk,path={image(directory)},readonly=yes"),
                 "devices[0].readonly: ")


def test_value_out_of_its_words(directory):
    both_refused(with_disk(directory, f"virtio-blk,path={image(directory)},type=imag"),
                 "devices[0].type: ", "image")


def test_key_of_a_device_without_keys(directory):
    both_refused(with_disk(directory, "virtio-rng,source=x"), "devices[0].source: ")


def test_two_stdio_consoles(directory):
    args = ("-k", elf_kernel(directory / "k"), "-d", "virtio-serial,stdio", "-d",
            "virtio-serial,stdio")
    both_refused(with_kernel(*args), "devices[1].stdio: ", "devices[0]")


def test_console_without_attachment(directory):
    both_refused(with_kernel("-k", elf_kernel(directory / "k"), "-d", "virtio-serial"),
                 "devices[0]: ", "one of 'logFilePath', 'stdio' or 'pty' must be set")


def test_console_with_two_attachments(directory):
    both_refused(with_kernel("-k", elf_kernel(directory / "k"), "-d", "virtio-serial,stdio,pty"),
                 "devices[0].pty: ", "at the same time")


def test_log_file_in_a_missing_directory(directory):
    refused(vizor("-k", elf_kernel(directory / "k"), "-d", "virtio-serial,logFilePath=no/such/log"),
            "devices[0].logFilePath: ")


def test_pidfile_that_cannot_be_written(directory):
    refused(vizor("-k", elf_kernel(directory / "k"), "--pidfile", directory), "--pidfile: ")


def test_validate_reports_every_fault(directory):
    done = vizor("validate", "-c", "0", "-m", "1", "--engine", "none", "-k", directory / "none",
                 "-i", directory, "-d", "virtio-blk,path=none,typo=1", "-d", "virtio-blk")
    assert done.returncode == 1
    for field in ("cpus", "memory", "engine", "bootloader.kernel", "bootloader.initrd",
                  "devices[0].typo", "devices[0].path", "devices[1].path"):
        assert f"vizor: {field}: " in done.stderr, f"{field} is not in: {done.stderr}"


def test_validate_goes_on_after_an_option_that_it_cannot_parse(directory):
    done = vizor("validate", "--typo", "-d", "virtio-blok,path=x", "-c", "0", "-k", elf_kernel(directory / "k"))
    assert done.returncode == 1
    for words in ("--typo", "virtio-blok (did you mean virtio-blk?)", "vizor: cpus: "):
        assert words in done.stderr, f"'{words}' is not in: {done.stderr}"


if __name__ == "__main__":
    main()
