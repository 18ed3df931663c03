# SPDX-License-Identifier: MIT
"""
Linux guests for tests: `vizor run` with the image of scripts/guest-image in vizor.mode=serve, which runs what
is written to its console. Everything has a deadline, and no guest outlives its test.

Tests are functions decorated with a Machine. Those of one machine share a boot; one that fails costs a new
boot. Environment: VIZOR the command, VIZOR_ENGINE what runs the guests (auto).
"""
import atexit
import ctypes
import fcntl
import os
import pathlib
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
import traceback

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
VIZOR = os.environ.get("VIZOR") or str(ROOT / "build/cli/vizor")
ENGINE = os.environ.get("VIZOR_ENGINE") or "auto"
SANITIZED = b"__asan_init" in pathlib.Path(VIZOR).read_bytes() if os.path.exists(VIZOR) else False
PATIENCE = 5 if SANITIZED else 1  # every deadline is multiplied by it
BOOT, COMMAND, END = 60, 30, 30  # seconds
KEPT = 4000  # bytes of a guest's last words that a failure shows
LONGEST = 1000  # bytes that a pattern matches
os.environ["PATH"] += ":/usr/sbin:/sbin"  # e2fsck


class GuestError(AssertionError):
    """The guest ended, or did not do in time what was expected."""


class Skip(Exception):
    """This test cannot be run here."""


def image(package=None):
    """The folder with vmlinuz, initramfs and disk.img of a kernel package, made if need be."""
    command = [ROOT / "scripts/guest-image"]
    if package:
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
        command += ["--kernel-package", package, "--output", cache / "vizor" / f"guest-{package}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Skip(f"no guest image: {error}") from None
    if done.returncode:
        raise Skip("no guest image: " + (done.stderr.strip().splitlines() or ["no reason given"])[-1])
    return pathlib.Path(done.stdout.strip().splitlines()[-1])


def copy_disk(directory, name="disk.img"):
    """A disk of the test's own: 64 MiB, ext4, mounted at /mnt in the guest."""
    path = pathlib.Path(directory) / name
    subprocess.run(["cp", "--sparse=always", image() / "disk.img", path], check=True, timeout=60)
    return path


def until(condition, what, seconds=10):
    end = time.monotonic() + seconds * PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise GuestError(f"{what}: not within {seconds * PATIENCE} s")
        time.sleep(0.01)


def terminal(columns=80, rows=24):
    """A pseudo-terminal for a guest: (our end, the guest's)."""
    ours, theirs = pty.openpty()
    resize(ours, columns, rows)
    return ours, theirs


def resize(fd, columns, rows):
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Guest:
    """
    A running vizor. words: more of the kernel command line. devices: of --device, in this order; the console
    is the first. tty: a terminal instead of pipes, as (our end, its end).
    """
    running = set()
    failed = []  # reports

    def __init__(self, *, cpus=1, memory=512, words="", devices=("virtio-rng",), options=(), disk=None,
                 console="virtio-serial,stdio", folder=None, kernel=None, initrd=None, mode="serve", tty=None,
                 before=None):
        folder = folder or (image() if kernel is None or initrd is None else None)
        loader = f"linux,kernel={kernel or folder / 'vmlinuz'}"
        if initrd != "none":
            loader += f",initrd={initrd or folder / 'initramfs'}"
        loader += f',cmdline="console=hvc0 quiet vizor.mode={mode} {words}"'
        self.command = [VIZOR, "run", "--engine", ENGINE, "--cpus", cpus, "--memory", memory,
                        "--bootloader", loader]
        for device in (console, *((f"virtio-blk,path={disk}",) if disk else ()), *devices):
            self.command += ["--device", device] if device else []
        self.command = [str(word) for word in (*self.command, *options)]
        self.errors = tempfile.TemporaryFile()
        self.seen = b""  # everything, for the report
        self.unread = bytearray()
        self.tty = tty
        self.started = time.monotonic()

        def prepare():
            die_with_parent()
            if tty:
                os.setsid()
                fcntl.ioctl(tty[1], termios.TIOCSCTTY, 0)
            if before:
                before()

        if tty:
            self.process = subprocess.Popen(self.command, stdin=tty[1], stdout=tty[1], stderr=self.errors,
                                            preexec_fn=prepare)
            self.fd_in = self.fd_out = tty[0]
        else:
            self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                            stderr=self.errors, preexec_fn=prepare)
            self.fd_in, self.fd_out = self.process.stdin.fileno(), self.process.stdout.fileno()
            os.set_blocking(self.fd_in, False)
        Guest.running.add(self)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind:
            Guest.failed.append(self.report())
        self.close()

    def close(self):
        """Whatever it is doing: it is gone after this."""
        if self not in Guest.running:
            return
        Guest.running.discard(self)
        self.process.kill()
        self.process.wait()
        self.errors.seek(0)
        self.error_text = self.errors.read().decode(errors="replace")
        self.errors.close()
        if not self.tty:
            self.process.stdin.close()
            self.process.stdout.close()

    def stderr(self):
        if self.errors.closed:
            return self.error_text
        return os.pread(self.errors.fileno(), 1 << 20, 0).decode(errors="replace")

    def report(self):
        """What is known about it, for the log of a failure."""
        status = self.process.poll()
        state = "runs" if status is None else f"ended with status {status}"
        last = self.seen.decode(errors="replace").splitlines()[-30:]
        return "\n".join([f"vizor {state}: {' '.join(self.command)}", "--- console", *last,
                          "--- standard error", self.stderr()[-KEPT:], "---"])

    # --- the console ---------------------------------------------------------------------------

    def pump(self, done, what, seconds, data=b""):
        """Write data and read, until done(unread bytes, where to begin) gives something true: that."""
        end = time.monotonic() + seconds * PATIENCE
        old, result = 0, None
        while True:
            result = result or done(self.unread, old)
            if result and not data:
                return result
            old = max(0, len(self.unread) - LONGEST)
            left = end - time.monotonic()
            if left <= 0:
                raise GuestError(f"{what}: not within {seconds * PATIENCE} s")
            readable, writable, _ = select.select([self.fd_out], [self.fd_in] if data else [], [], left)
            if writable:
                try:
                    data = data[os.write(self.fd_in, data[:4096]):]
                except OSError:
                    data = b""
            if readable:
                self.read(what)

    def read(self, what):
        try:
            got = os.read(self.fd_out, 65536)
        except OSError:  # a terminal without anybody on the other side
            got = b""
        if not got:
            try:
                status = self.process.wait(5)
            except subprocess.TimeoutExpired:
                status = "none"
            raise GuestError(f"{what}: the console ended, exit status {status}")
        self.seen = (self.seen + got)[-KEPT:]
        self.unread.extend(got)

    def expect(self, pattern, seconds=COMMAND, data=b""):
        """Read until the pattern; (what came before it, the match)."""
        pattern = re.compile(pattern)
        match = self.pump(pattern.search, f"waiting for {pattern.pattern!r}", seconds, data)
        before = bytes(self.unread[:match.start()])
        self.unread = self.unread[match.end():]
        return before, match

    def ready(self, seconds=BOOT):
        """Wait until the guest serves; what it said before."""
        return self.expect(rb"VIZOR-READY\r?\n", seconds)[0].decode(errors="replace")

    def raw(self, command, seconds=COMMAND, data=b""):
        """Run a shell command with more input for the console; (exit status, output as bytes)."""
        self.unread = bytearray()
        try:
            output, match = self.expect(rb"VIZOR-RC (\d+)\r?\n", seconds, command.encode() + b"\n" + data)
        except GuestError as error:
            raise GuestError(f"[{command}] {error}") from None
        return int(match[1]), output

    def run(self, command, seconds=COMMAND):
        """(exit status, output) of a shell command in the guest."""
        status, output = self.raw(command, seconds)
        return status, output.decode(errors="replace").replace("\r\n", "\n").strip()

    def do(self, command, seconds=COMMAND):
        """The output of a command that has to succeed."""
        status, output = self.run(command, seconds)
        if status:
            raise GuestError(f"[{command}] exit status {status}: {output}")
        return output

    def send(self, command):
        """A command that gives no answer."""
        self.pump(lambda *_: True, "writing", COMMAND, command.encode() + b"\n")

    # --- its life ------------------------------------------------------------------------------

    def alive(self):
        return self in Guest.running and self.process.poll() is None

    def ended(self, seconds=END):
        """The exit status, once it has ended by itself. Its output is read meanwhile."""
        end = time.monotonic() + seconds * PATIENCE
        while self.process.poll() is None:
            if time.monotonic() > end:
                raise GuestError(f"vizor did not end within {seconds * PATIENCE} s")
            if select.select([self.fd_out], [], [], 0.01)[0]:
                try:
                    got = os.read(self.fd_out, 65536)
                except OSError:
                    got = b""
                self.seen = (self.seen + got)[-KEPT:]
                self.unread.extend(got)
                if not got:
                    time.sleep(0.01)
        return self.process.returncode

    def power_off(self):
        """Ask it to, as its user would; the exit status."""
        self.send("umount /mnt; sync; poweroff -f")
        return self.ended()

    def signal(self, number):
        self.process.send_signal(number)


@atexit.register
def _kill_all():
    for guest in list(Guest.running):
        guest.close()


# --- tests -------------------------------------------------------------------------------------


class Machine:
    """Decorates tests; the one argument of a test is the Guest. disk: it gets one at guest.disk."""
    tests = []

    def __init__(self, *, disk=False, package=None, prepare=None, **arguments):
        self.disk, self.package, self.prepare, self.arguments = disk, package, prepare, arguments
        self.guest = self.directory = None

    def __call__(self, function):
        Machine.tests.append((function, self))
        return function

    def boot(self):
        self.down()
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="vizor-test-"))
        arguments = dict(self.arguments)
        if self.prepare:
            arguments.update(self.prepare(self.directory))
        if self.disk:
            arguments["disk"] = copy_disk(self.directory)
        self.guest = Guest(folder=image(self.package), **arguments)
        self.guest.directory = self.directory
        self.guest.disk = arguments.get("disk")
        self.guest.first_words = self.guest.ready()
        self.guest.boot_seconds = time.monotonic() - self.guest.started
        return self.guest

    def up(self):
        return self.guest if self.guest and self.guest.alive() else self.boot()

    def down(self):
        if self.guest:
            self.guest.close()
        if self.directory:
            shutil.rmtree(self.directory, ignore_errors=True)
        self.guest = self.directory = None


def alone(function):
    """A test that makes its own guests: its argument is an empty folder."""
    Machine.tests.append((function, None))
    return function


def comment(text):
    for line in str(text).splitlines():
        print("# " + "".join(c if c.isprintable() or c == "\t" else "?" for c in line))


def run_one(function, machine):
    if machine:
        function(machine.up())
        return
    with tempfile.TemporaryDirectory(prefix="vizor-test-") as directory:
        try:
            function(pathlib.Path(directory))
        finally:
            for guest in list(Guest.running):
                Guest.failed.append(guest.report())
                guest.close()


def run_and_tell(number, function, machine):
    """Did it not fail?"""
    name, start, good = function.__name__, time.monotonic(), True
    try:
        run_one(function, machine)
        print(f"ok {number} - {name}")
    except Skip as skip:
        print(f"ok {number} - {name} # SKIP {skip}")
    except Exception:  # whatever it is, it is this test's failure
        good = False
        print(f"not ok {number} - {name}")
        comment(traceback.format_exc())
        if machine and machine.guest:
            Guest.failed.append(machine.guest.report())
            machine.down()
        comment("\n".join(Guest.failed))
    Guest.failed.clear()
    comment(f"{time.monotonic() - start:.1f} s")
    sys.stdout.flush()
    return good


def main():
    """Run the tests of the calling script, or those whose names are given."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    tests = [(f, m) for f, m in Machine.tests if not sys.argv[1:] or f.__name__ in sys.argv[1:]]
    try:
        image()
    except Skip as skip:
        print(f"1..0 # SKIP {skip}")
        return
    print(f"1..{len(tests)}", flush=True)
    good, previous = True, None
    for number, (function, machine) in enumerate(tests, 1):
        if previous and previous is not machine:
            previous.down()
        good &= run_and_tell(number, function, machine)
        previous = machine
    if previous:
        previous.down()
    sys.exit(not good)
