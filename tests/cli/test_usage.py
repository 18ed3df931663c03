#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The command line as such: forms of options, texts of errors, help. Nothing is started."""
from tap import main, refused, vizor


def test_version_has_the_form_that_drop_in_users_parse(_):
    done = vizor("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("vizor version: 0."), done.stdout


def test_help_goes_to_standard_output(_):
    done = vizor("--help")
    assert done.returncode == 0 and "--cpus" in done.stdout and not done.stderr


def test_no_arguments_is_an_error(_):
    assert vizor().returncode == 1


def test_unknown_command_suggests_the_nearest(_):
    refused(vizor("validat"), "unknown command: validat", "validate")


def test_unknown_option_suggests_the_nearest(_):
    refused(vizor("run", "--cpu", "2"), "unknown option: --cpu ", "--cpus")


def test_unknown_option_with_value_suggests_the_nearest(_):
    refused(vizor("run", "--memori=5"), "unknown option: --memori ", "--memory")


def test_unknown_letter(_):
    refused(vizor("run", "-Z"), "unknown option: -Z")


def test_missing_value(_):
    refused(vizor("run", "--cpus"), "--cpus needs a value")


def test_value_for_a_flag(_):
    refused(vizor("--version=3"), "--version takes no value")


def test_stray_argument(_):
    refused(vizor("run", "vmlinuz"), "unexpected argument: vmlinuz")


def test_unknown_log_level(_):
    refused(vizor("--log-level", "loud"), "unknown log level: loud")


def test_empty_device(_):
    refused(vizor("--device", ""), "empty option list in command line argument")


def test_unknown_device_suggests_the_nearest(_):
    refused(vizor("--device", "virtio-blok,path=x"), "unknown device type: virtio-blok", "virtio-blk")


def test_mismatched_quote(_):
    refused(vizor("--device", 'virtio-blk,path="x'), 'mismatched "')


def test_empty_bootloader(_):
    refused(vizor("--bootloader", ""), "empty option list in --bootloader command line argument")


def test_unknown_bootloader(_):
    refused(vizor("--bootloader", "grub"), "unknown bootloader type: grub")


def test_unknown_bootloader_key_suggests_the_nearest(_):
    refused(vizor("--bootloader", "linux,kernle=x"), "unknown option for linux bootloaders: kernle",
            "kernel")


def test_mismatched_quote_in_bootloader(_):
    refused(vizor("--bootloader", 'linux,cmdline="a b'), 'mismatched "')


def test_bootloader_excludes_the_short_form(_):
    refused(vizor("--bootloader", "linux,kernel=a", "--kernel", "b"), "cannot be combined")


def test_initrd_needs_a_kernel(_):
    refused(vizor("--initrd", "a"), "need --kernel")


def test_cpus_not_a_number(_):
    refused(vizor("--cpus", "many"), "--cpus", "1 to 64")


def test_negative_cpus(_):
    refused(vizor("--cpus", "-1"), "--cpus", "1 to 64")


def test_memory_not_a_number(_):
    refused(vizor("-m", "1.5"), "--memory", "32 to 1048576")


def test_letters_take_their_value_in_three_forms(_):
    for form in (["-c", "0"], ["-c0"], ["-c=0"]):
        refused(vizor("run", *form, "-k", "/nonexistent"), "cpus: 0 CPUs", "1 to 64")


def test_device_list(_):
    done = vizor("--device", "help")
    assert done.returncode == 0 and "virtio-blk" in done.stdout


def test_device_keys(_):
    done = vizor("--device", "virtio-blk,help")
    assert done.returncode == 0
    for word in ("path", "(required)", "readonly", "image|dev", "(image)"):
        assert word in done.stdout, word


def test_engines_tells_reasons(_):
    done = vizor("engines")
    assert done.returncode == 0
    assert "kvm" in done.stdout and "soft" in done.stdout
    assert done.stdout.count("work") >= 2, done.stdout


def test_unknown_engine_suggests_the_nearest(_):
    refused(vizor("--engine", "sotf", "-k", "/nonexistent"), "engine: unknown engine: sotf", "soft")


if __name__ == "__main__":
    main()
