#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Consoles of a real guest: a terminal, a new pseudo-terminal, a log file, and several at once."""
import hashlib
import os
import re
import select
import signal
import termios
import time

from guest import Guest, GuestError, alone, main, resize, terminal, until


def on_a_terminal(columns=80, rows=24, **arguments):
    """A guest on a terminal of that size, and the terminal's attributes before."""
    ours, theirs = terminal(columns, rows)
    before = termios.tcgetattr(theirs)
    return Guest(tty=(ours, theirs), **arguments), before


def close(guest):
    guest.close()
    for fd in guest.tty:
        os.close(fd)


@alone
def test_terminal(_):
    guest, before = on_a_terminal(93, 31)
    ours, theirs = guest.tty
    guest.ready()

    # The size arrives, and follows.
    until(lambda: guest.run("stty size </dev/hvc0")[1] == "31 93", "size")
    for columns, rows in ((132, 43), (40, 12), (200, 60)):
        resize(ours, columns, rows)
        guest.signal(signal.SIGWINCH)
        until(lambda: guest.do("stty size </dev/hvc0") == f"{rows} {columns}", f"size {columns}x{rows}")

    # Raw: no echo by the host, no signals, no line editing; what the host would do the guest does.
    assert not termios.tcgetattr(theirs)[3] & (termios.ECHO | termios.ICANON | termios.ISIG)
    guest.send("stty isig echo </dev/hvc0; trap 'echo INTERRUPTED' INT; echo WAITING; cat </dev/hvc0")
    guest.expect(rb"WAITING\r?\n")
    os.write(ours, b"typed\x7f\x7f\n")
    guest.expect(rb"typed.*\r?\ntyp\r?\n", 20)
    os.write(ours, b"\x04")
    guest.expect(rb"VIZOR-RC 0")
    assert guest.alive()

    # Two times the escape is one for the guest.
    guest.send("stty raw -echo </dev/hvc0; echo GO; head -c 3 </dev/hvc0 | hexdump -v -e '/1 \"%02x\"'; "
               "stty -raw -echo </dev/hvc0")
    guest.expect(rb"GO\r?\n")
    os.write(ours, b"\x03\x01\x01\x1c")
    guest.expect(rb"03011c")
    guest.expect(rb"VIZOR-RC 0")

    assert guest.power_off() == 0
    assert termios.tcgetattr(theirs) == before, "the terminal was not restored"
    close(guest)


@alone
def test_escape_leaves_at_once(_):
    guest, before = on_a_terminal()
    guest.ready()
    guest.send("sleep 1000")
    os.write(guest.tty[0], b"\x01x")
    begin = time.monotonic()
    assert guest.ended(5) == 0
    assert time.monotonic() - begin < 3
    assert termios.tcgetattr(guest.tty[1]) == before, "the terminal was not restored"
    close(guest)


@alone
def test_shell_on_a_terminal(_):
    """What a user does: type, see the prompt, interrupt a command, leave."""
    guest, before = on_a_terminal(mode="shell", words="vizor.mount=no")
    ours = guest.tty[0]
    guest.expect(rb"vizor:\S+# ", 60)
    os.write(ours, b"echo $((6 * 7)) $(tty)\r")
    guest.expect(rb"\n42 /dev/hvc0\r\n")
    guest.expect(rb"vizor:\S+# ")
    os.write(ours, b"sleep 1000\r")
    guest.expect(rb"sleep 1000\r\n")
    time.sleep(0.5)
    os.write(ours, b"\x03")
    guest.expect(rb"\^C\s+vizor:\S+# ", 5)
    os.write(ours, b"exit\r")
    assert guest.ended() == 0
    assert termios.tcgetattr(guest.tty[1]) == before, "the terminal was not restored"
    close(guest)


@alone
def test_log_file(directory):
    path = directory / "log"
    path.write_text("from before\n")
    guest = Guest(console=f"virtio-serial,logFilePath={path}", mode="exec",
                  words="vizor.mount=no -- sh -c 'seq${IFS}1${IFS}30000|cat'")
    assert guest.ended(60) == 0
    text = path.read_text(errors="replace")
    assert "from before" not in text and "vizor: init" in text, text[:500]
    assert guest.unread == b"", guest.unread


@alone
def test_log_file_has_everything(directory):
    path = directory / "log"
    with Guest(devices=(f"virtio-serial,logFilePath={path}",)) as guest:
        guest.ready()
        want = guest.do("head -c 500000 /dev/urandom | hexdump -v -e '32/1 \"%02x\" \"\\n\"' >/tmp/x; "
                        "sha256sum </tmp/x")
        guest.do("cat /tmp/x >/dev/hvc1; echo the end >/dev/hvc1", 60)
        assert guest.power_off() == 0
    data = path.read_bytes().replace(b"\r\n", b"\n")
    assert data.endswith(b"the end\n"), data[-100:]
    assert hashlib.sha256(data[:-8]).hexdigest() == want.split()[0], len(data)


def pty_of(guest, index):
    """The name of the pseudo-terminal that vizor told."""
    pattern = rf"console {index} is (/dev/pts/\d+)"
    until(lambda: re.search(pattern, guest.stderr()), "name of the pty")
    return re.search(pattern, guest.stderr())[1]


def read_until(fd, wanted, seconds=20):
    end, seen = time.monotonic() + seconds, b""
    while wanted not in seen:
        left = end - time.monotonic()
        if left <= 0 or not select.select([fd], [], [], left)[0]:
            raise GuestError(f"{wanted} is not in {seen[-200:]}")
        seen += os.read(fd, 65536)
    return seen


@alone
def test_pty(_):
    """Somebody connects to it, leaves, and connects again; without anybody the guest is not held up."""
    with Guest(devices=("virtio-serial,pty",)) as guest:
        guest.ready()
        name = pty_of(guest, 1)
        guest.do("seq 1 20000 >/tmp/n; timeout 20 cat /tmp/n >/dev/hvc1", 60)
        guest.send("(stty -echo; echo GO >/dev/hvc0; while read -r line; do [ \"$line\" != end ] || break; "
                   "echo \"<$line>\"; done) </dev/hvc1 >/dev/hvc1")
        guest.expect(rb"GO\r?\n")
        for turn in range(3):
            fd = os.open(name, os.O_RDWR | os.O_NOCTTY)
            attributes = termios.tcgetattr(fd)
            attributes[3] &= ~termios.ECHO
            termios.tcsetattr(fd, termios.TCSANOW, attributes)
            os.write(fd, f"hello {turn}\n".encode())
            read_until(fd, f"<hello {turn}>".encode())
            os.close(fd)
            time.sleep(0.2)
        fd = os.open(name, os.O_RDWR | os.O_NOCTTY)
        os.write(fd, b"end\n")
        guest.expect(rb"VIZOR-RC 0")
        resize(fd, 111, 22)
        os.write(fd, b"\n")  # nothing tells of the size but the next key
        until(lambda: guest.do("stty size </dev/hvc1") == "22 111", "size of the pty", 10)
        os.close(fd)
        assert guest.power_off() == 0


@alone
def test_four_consoles(directory):
    """Each line goes where it belongs."""
    logs = [directory / f"log{i}" for i in range(3)]
    with Guest(devices=[f"virtio-serial,logFilePath={path}" for path in logs]) as guest:
        guest.ready()
        guest.do("for i in $(seq 500); do for c in 1 2 3; do echo $c.$i >/dev/hvc$c; done; done", 60)
        guest.do("cat /sys/class/tty/console/active")
        assert guest.power_off() == 0
    for number, path in enumerate(logs, 1):
        assert path.read_text().split() == [f"{number}.{i}" for i in range(1, 501)], path


@alone
def test_input_at_its_end(_):
    """Standard input that ends is no reason to end the machine."""
    with Guest() as guest:
        guest.ready()
        guest.send("sleep 2; echo STILL HERE; poweroff -f")
        guest.process.stdin.close()
        guest.expect(rb"STILL HERE")
        assert guest.ended() == 0


@alone
def test_nobody_reads(_):
    """Standard output that is closed: the guest goes on."""
    with Guest(disk=None, options=("--pidfile", "/dev/null")) as guest:
        guest.ready()
        guest.send("sleep 1; seq 1 20000 | cat; poweroff -f")
        os.close(os.dup(guest.fd_out))
        guest.process.stdout.close()
        guest.process.wait(30)
        assert guest.process.returncode == 0, guest.stderr()


if __name__ == "__main__":
    main()
