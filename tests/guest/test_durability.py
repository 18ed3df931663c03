#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""What was flushed survives the death of vizor; what was powered off needs no repair."""
import time

from durability import WRITER, check, last_number, random_round
from guest import Guest, alone, copy_disk, main


@alone
def test_killed_at_random(_):
    total = sum(random_round() for _ in range(6))
    assert total > 20, f"only {total} records were written"


@alone
def test_powered_off(directory):
    """No journal to replay, no error, everything there."""
    disk = copy_disk(directory)
    with Guest(disk=disk, memory=256) as guest:
        guest.ready()
        guest.send(WRITER.replace("while n=$((n + 1))", "while n=$((n + 1)); [ $n -le 50 ]"))
        output, _ = guest.expect(rb"VIZOR-RC (\d+)", 60)
        assert guest.power_off() == 0
    assert last_number(output) == 50, output
    check(disk, 50, directory)


@alone
def test_power_button_while_writing(directory):
    disk = copy_disk(directory)
    with Guest(disk=disk, memory=256) as guest:
        guest.ready()
        guest.send(WRITER)
        time.sleep(1.5)
        guest.signal(15)
        assert guest.ended(15) == 0
        acknowledged = last_number(guest.unread)
    assert acknowledged > 3, acknowledged
    check(disk, acknowledged, directory)


if __name__ == "__main__":
    main()
