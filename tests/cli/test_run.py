#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Running: how guests end, what is said about it, signals, the terminal, the pid file."""
import os
import pty
import signal
import subprocess
import termios
import time

from bare import HALT, POWER_OFF, RESET, SPIN, TRIPLE_FAULT, kernel, say
from tap import VIZOR, main, refused, vizor

PANIC = "[    0.5] Kernel panic - not syncing: VFS: no root\n"


def start(*args, **kwargs):
    kwargs.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.Popen([VIZOR, *map(str, args)], stderr=subprocess.PIPE, text=True, **kwargs)


def wait_for(condition, what, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"no {what} within {seconds} s"
        time.sleep(0.01)


def running(directory, code, *args, **kwargs):
    """A guest that has begun to run: the pid file is there before it, its first message after."""
    args = ("-k", kernel(directory / "kernel", say("up\n") + code), "--log-level", "debug", *args)
    process = start(*args, **kwargs)
    for line in process.stderr:
        if line.startswith("up"):
            return process
    raise AssertionError(f"the guest did not start, status {process.wait()}")


def ended(process, within):
    begin = time.monotonic()
    process.communicate(timeout=20)
    took = time.monotonic() - begin
    assert took <= within, f"took {took:.1f} s"
    return process.returncode


def test_power_off_is_status_0(directory):
    done = vizor("-k", kernel(directory / "k", POWER_OFF))
    assert done.returncode == 0 and not done.stderr, done.stderr


def test_power_off_with_many_cpus(directory):
    done = vizor("-c", 8, "-k", kernel(directory / "k", POWER_OFF))
    assert done.returncode == 0 and not done.stderr, done.stderr


def test_panic_is_status_1_with_its_text(directory):
    done = vizor("-k", kernel(directory / "k", say("booting\n" + PANIC) + RESET))
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[-1] == "vizor: guest kernel panicked: VFS: no root", done.stderr
    assert "booting" in lines, done.stderr


def test_triple_fault_is_status_1_with_the_cpu_state(directory):
    done = vizor("-k", kernel(directory / "k", say("last words") + TRIPLE_FAULT))
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[-1].startswith("vizor: CPU 0: "), done.stderr
    assert any(line.startswith("rip ") for line in lines), done.stderr
    assert "last words" in lines, done.stderr


def test_reset_boots_again(directory):
    # The kernel is loaded again, so it never learns that it ran before: it resets for ever.
    process = running(directory, RESET)
    for line in process.stderr:
        if line.startswith("up"):
            break
    process.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert ended(process, 2) == 0


def test_serial_is_silent_unless_asked(directory):
    done = vizor("-k", kernel(directory / "k", say("hello\n") + POWER_OFF))
    assert done.returncode == 0 and not done.stderr, done.stderr
    done = vizor("--log-level", "debug", "-k", kernel(directory / "k", say("hello\n") + POWER_OFF))
    assert "hello" in done.stderr


def test_second_signal_stops_a_halted_guest_at_once(directory):
    process = running(directory, HALT)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    assert process.poll() is None, "the guest was not given time"
    process.send_signal(signal.SIGTERM)
    assert ended(process, 1) == 0


def test_a_guest_that_ignores_the_button_is_stopped(directory):
    process = running(directory, SPIN)
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert ended(process, 7) == 0
    assert time.monotonic() - begin > 4, "it was given less than five seconds"


def test_pidfile_exists_while_the_machine_does(directory):
    path = directory / "pid"
    process = running(directory, HALT, "--pidfile", path)
    assert int(path.read_text()) == process.pid
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGHUP)
    assert ended(process, 6) == 0
    assert not path.exists()


def test_pidfile_that_is_no_file_stays(directory):
    # A private twin of /dev/null: the path must not be unlinked.
    path = directory / "null"
    path.symlink_to("/dev/null")
    done = vizor("--pidfile", path, "-k", kernel(directory / "k", POWER_OFF))
    assert done.returncode == 0, done.stderr
    assert path.is_symlink()


def test_pidfile_of_another_process_stays(directory):
    path = directory / "pid"
    process = running(directory, HALT, "--pidfile", path)
    path.unlink()
    path.write_text("1\n")
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGHUP)
    assert ended(process, 6) == 0
    assert path.read_text() == "1\n"


def test_cmdline_may_be_left_out(directory):
    done = vizor("--bootloader", f"linux,kernel={kernel(directory / 'k', POWER_OFF)}")
    assert done.returncode == 0, done.stderr


def test_engine_that_is_asked_for_is_taken_or_tells_why(directory):
    done = vizor("--engine", "kvm", "-k", kernel(directory / "k", POWER_OFF))
    if done.returncode:
        refused(done, "engine: kvm does not work here: ")


def test_auto_takes_the_first_engine_without_a_but(directory):
    lines = vizor("engines").stdout.splitlines()
    names = [a.split()[0] for a, b in zip(lines, lines[1:]) if b.strip() == "works here"]
    done = vizor("-k", kernel(directory / "k", POWER_OFF), "--log-level", "info")
    assert done.returncode == 0 and f"engine {names[0]}: " in done.stderr, done.stderr


# --- the terminal ------------------------------------------------------------------------------


def on_a_terminal(directory, code):
    """A guest whose console is a new pseudo-terminal's; (process, our end, the attributes before)."""
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    process = running(directory, code, "--device", "virtio-serial,stdio", stdin=theirs,
                      stdout=theirs, preexec_fn=lambda: take_terminal(theirs))
    wait_for(lambda: not termios.tcgetattr(theirs)[3] & termios.ECHO, "raw mode")
    return process, ours, theirs, before


def take_terminal(fd):
    os.setsid()
    import fcntl
    fcntl.ioctl(fd, termios.TIOCSCTTY, 0)


def check_restored(process, ours, theirs, before, within):
    assert ended(process, within) == 0
    assert termios.tcgetattr(theirs) == before, "the terminal was not restored"
    os.close(ours)
    os.close(theirs)


def test_escape_ends_the_machine(directory):
    process, ours, theirs, before = on_a_terminal(directory, HALT)
    os.write(ours, b"\x01x")
    check_restored(process, ours, theirs, before, 2)


def test_terminal_is_restored_after_power_off(directory):
    # Long enough for the test to see raw mode: half a billion turns at most.
    turns = b"\xb9\x00\x00\x00\x20\xff\xc9\x75\xfc"
    process, ours, theirs, before = on_a_terminal(directory, turns + POWER_OFF)
    check_restored(process, ours, theirs, before, 20)


def test_terminal_is_restored_after_signals(directory):
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        process, ours, theirs, before = on_a_terminal(directory, HALT)
        process.send_signal(number)
        time.sleep(0.1)
        process.send_signal(number)
        check_restored(process, ours, theirs, before, 2)


if __name__ == "__main__":
    main()
