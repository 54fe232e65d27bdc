"""Redaction: what was seeded is gone from every byte, and the outcomes are the same."""

from __future__ import annotations

import base64
import io
import json
import re
import zipfile
from dataclasses import replace
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.model import Status
from auditor.sources import base
from auditor.sources.base import Reply
from auditor.sources.recording import Record, pack
from auditor.submission.redact import find, redacted
from fixtures import devices
from tests.test_laws import DEVICES, findings, report

SEEDS = {
    "serial": "5CD2339XYZ",
    "tag": "AT-77-QRS1",
    "mac": "3c:58:c2:11:9a:0b",
    "dashed": "3C-58-C2-11-9A-0C",
    "bare": "3c58c2119a0d",
    "uuid": "9b1deb4d-3b7d-4bad-9bdd-2b0d7b3dcb6d",
    "upper": "9B1DEB4D-3B7D-4BAD-9BDD-2B0D7B3DCB6E",
    "machine": "0123456789abcdef0123456789abcdef",
    "host": "eagle-proto-17",
    "user": "gwendolyn",
    "other": "hrothgar",
    "password": "hunter2hunter2",
    "token": "ghp_AbCdEf012345",
    "codename": "Bluefin",
}


def seeded(record):
    """A record with identifiers where a device has them."""
    log = next((reply.data for question, reply in record.answers.items() if question.kind == "kernel_log"), b"")
    more = (
        f"Command line: quiet androidboot.serialno={SEEDS['serial']} wifi_mac={SEEDS['bare']} root=PARTUUID={SEEDS['uuid']}\n"
        f"e1000e 0000:00:1f.6 eth0: {SEEDS['mac']}\nusb 1-1: SerialNumber: {SEEDS['serial']}\nwlan: address {SEEDS['dashed']}\n"
        f"systemd[1]: Hostname set to <{SEEDS['host']}>.\nLinux version 6.1 ({SEEDS['user']}@{SEEDS['host']}) on {SEEDS['codename']}\n"
    ).encode()
    here = {
        base.kernel_log(): Reply(Status.OK, log + more),
        base.read("/etc/hostname"): Reply(Status.OK, f"{SEEDS['host']}\n".encode()),
        base.read("/etc/passwd"): Reply(Status.OK, f"root:x:0:0::/root:/bin/sh\n{SEEDS['other']}:x:1001:1001::/x:/bin/sh\n".encode()),
        base.read("/etc/machine-id"): Reply(Status.OK, f"{SEEDS['machine']}\n".encode()),
        base.read("/sys/class/dmi/id/product_uuid"): Reply(Status.OK, f"{SEEDS['upper']}\n".encode()),
        base.read("/sys/class/dmi/id/chassis_asset_tag"): Reply(Status.OK, f"{SEEDS['tag']}\n".encode()),
        base.read(f"/home/{SEEDS['user']}/notes"): Reply(Status.OK, f"{SEEDS['codename'].upper()} by {SEEDS['other']}".encode()),
        base.names("/home"): Reply(Status.OK, f"{SEEDS['user']}\0zoe\0".encode()),
        base.names("/dev/disk/by-uuid"): Reply(Status.OK, f"{SEEDS['uuid']}\0".encode()),
        base.read("/proc/77/cmdline"): Reply(Status.OK, f"agent\0--password\0{SEEDS['password']}\0API_TOKEN={SEEDS['token']}\0".encode()),
        base.udev("net"): Reply(Status.OK, json.dumps([{"sys": "/s", "properties": {"ID_SERIAL_SHORT": SEEDS["serial"]}}]).encode()),
    }
    return replace(devices.answered(record, here), name=f"{SEEDS['user']}@{SEEDS['host']}")


def every_byte(data):
    """The bytes of a snapshot, and of all that is in it: members, what is spelled in base64 there, and paths as they are on the device."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [archive.read(name) for name in archive.namelist()]
    texts = [base64.b64decode(entry[3]) for entry in json.loads(members[-1])["entries"] if isinstance(entry[3], str)]
    return b"\n".join((data, *members, *texts, unquote_to_bytes(members[-1])))


@pytest.mark.parametrize("name", sorted(DEVICES))
def test_a_redacted_record_gives_the_same_outcomes(name):
    record = seeded(DEVICES[name]())
    redaction = find(record, [SEEDS["codename"]])
    before, after = findings(report(record)), findings(report(redacted(record, redaction)))
    assert {redaction.text(each): found.outcome for each, found in before.items()} == {each: found.outcome for each, found in after.items()}


def test_what_was_seeded_is_gone_from_every_byte():
    record = seeded(devices.recorded())
    held = every_byte(pack(record)).lower()
    assert all(seed.encode().lower() in held for seed in SEEDS.values())
    redaction = find(record, [SEEDS["codename"]])
    data = every_byte(pack(redacted(record, redaction))).lower()
    assert [name for name, seed in SEEDS.items() if seed.encode().lower() in data] == []
    # with the author of a driver, whom the kernel's own log names
    assert redaction.counts == {
        "MAC address": 3,
        "UUID": 3,
        "serial number": 2,
        "host name": 2,
        "user name": 3,
        "secret": 2,
        "given word": 1,
    }


def test_sizes_forms_and_equalities_stay():
    record = seeded(devices.recorded())
    after = redacted(record, find(record))
    assert len(after.answers) == len(record.answers)
    assert sorted(len(each.data) for each in after.answers.values()) == sorted(len(each.data) for each in record.answers.values())
    (log,) = [reply.data.decode() for question, reply in after.answers.items() if question.kind == "kernel_log"]
    assert re.search(r"eth0: 00:00:00:00:00:[0-9a-f]{2}\n", log)
    assert re.search(r"PARTUUID=00000000-0000-0000-0000-0000000000[0-9a-f]{2}\n", log)
    uuid = re.search(r"PARTUUID=(\S+)", log)[1]
    assert after.answers[base.names("/dev/disk/by-uuid")].data == f"{uuid}\0".encode()
    user = re.search(r"\((\w+)@", log)[1]
    assert f"{user}\0".encode() in after.answers[base.names("/home")].data
    assert base.read(f"/home/{user}/notes") in after.answers


def test_a_record_that_names_nothing_stays_as_it_is():
    plain = replace(DEVICES["laptop"](), name="localhost")
    assert not find(plain).counts
    assert redacted(plain, find(plain)).answers == plain.answers


@pytest.mark.parametrize(
    "text",
    [
        "sig_key: AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD",  # a key's fingerprint
        "0000:00:05.0 of:/soc/npu@fde40000 getty@tty1.service",
        "serial8250: ttyS0 at I/O 0x3f8 SerialNumber=3 console=ttyS0\nSerial: 8250/16550 driver",
        "passwd\0paste\0token-ring\0",
        "/dev/accel/accel0 sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        "debian-kernel@lists.debian.org",
        "ff:ff:ff:ff:ff:ff",
    ],
)
def test_what_identifies_nobody_stays(text):
    record = devices.answered(replace(devices.recorded(), name="localhost"), {base.read("/x"): Reply(Status.OK, text.encode())})
    assert redacted(record, find(record)).answers[base.read("/x")].data == text.encode()


@given(st.binary(max_size=400) | st.text("0123456789abcdef:-@=\0 serialmachostpassword", max_size=200).map(str.encode))
def test_any_answer_keeps_its_length(data):
    record = replace(devices.recorded(), answers={base.read("/x"): Reply(Status.OK, data), base.udev("x"): Reply(Status.OK, data)})
    after = redacted(record, find(record))
    assert [len(each.data) for each in after.answers.values()] == [len(data)] * 2


FORMS = {
    "ZSER001122": "usb 1-1: SerialNumber: {}",
    "ZSN0042Q": "platform: S/N: {}",
    "ZSER9XX": "Serial No.: {}",
    "ZQ55512": "serial# {}",
    "ZZTOP777": "board serial number {}",
    "ZTAG123": "Service Tag: {}",
    "356938035643809": "IMEI: {}",
    "eui.0025385c9140a1b2": "nvme0n1: wwid {}",
    "naa.5000c500a1b2c3d4": "scsi 0:0:0:0: {}",
    "3c58.c211.9a0b": "switch: {} up",
    "00:11:22:33:44:5a": "hwaddr {}",
    "fe80::211:22ff:fe33:445a": "eth0: address {}",
    "walt": "ssh {}@10.1.2.3",
    "10.44.2.3": "ssh root@{}",
    "jesse.p": "scp {}@lab-7.example.com:/x",
    "saul": "exec /home/{}/x",
    "hank": "USER={}",
    "marie": "sudo: {} : TTY=pts/0",
    "alice": "git clone https://{}:x77@forge/x",
    "robert": "curl -u {}:qqqqqq http://x",
    "tuco9": "Hostname: {}",
    "mike-host": "systemd.hostname={}",
    "hunter2a": "curl -u bob:{} http://x",
    "hunter3b": "tool --passwd={}",
    "hunter4c": "PGPASSWORD={}",
    "hunter5d": "Authorization: Bearer {}",
    "hunter6e": "https://alice:{}@host/x",
    "hunter7f": "wpa_psk={}",
    "hunter8g": "tool --auth-token {}",
    "hunter9h": "client_secret: {}",
    "AKIAABCDEFGHIJKLMNOP": "using {}",
    "ghp_AbCdEf0123456789": "using {}",
}


@pytest.mark.parametrize("seed", FORMS)
def test_each_form_of_an_identifier_is_found(seed):
    line = "quiet " + FORMS[seed].format(seed) + " splash\n"
    record = Record("ssh", "10.0.0.1", "c", "2026-01-01T00:00:00+00:00", {base.kernel_log(): Reply(Status.OK, line.encode())})
    (reply,) = redacted(record, find(record)).answers.values()
    assert seed.encode() not in reply.data
    assert len(reply.data) == len(line)


@pytest.mark.parametrize(
    "line",
    [
        "Serial: 8250/16550 driver, 4 ports, IRQ sharing enabled",
        "usb usb1: New USB device strings: Mfr=3, Product=2, SerialNumber=1",
        "serial8250: ttyS0 at I/O 0x3f8 (irq = 4, base_baud = 115200) is a 16550A",
        "Linux version 6.12.38-1 (gcc 12.2.0)",
        "pci 0000:00:05.0: [1234:11e8] type 00 class 0x00ff00",
        "user space and user mode, secret sauce, basic mode",
        "loop: module loaded at 10.1.2.3",
    ],
)
def test_what_is_no_identifier_stays(line):
    record = Record("ssh", "10.0.0.1", "c", "2026-01-01T00:00:00+00:00", {base.kernel_log(): Reply(Status.OK, line.encode())})
    (reply,) = redacted(record, find(record)).answers.values()
    assert reply.data == line.encode()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("/sys/firmware/vpd/ro/serial_number", "VPD5SER1"),
        ("/sys/firmware/vpd/ro/mlb_serial_number", "MLB77SER"),
        ("/sys/firmware/vpd/ro/attested_device_id", "ADIDADID"),
        ("/sys/firmware/vpd/ro/gbind_attribute", "gbindgbind"),
        ("/sys/firmware/vpd/ro/wifi_mac0", "11AABBCCDDEE"),
        ("/sys/firmware/devicetree/base/serial-number", "DTSER88"),
        ("/sys/class/dmi/id/board_serial", "BRDSER1"),
        ("/sys/class/nvme/nvme0/serial", "S4EWNX0R"),
        ("/sys/class/block/sda/device/wwid", "t10.ATA-Disk-77"),
        ("/sys/devices/soc0/serial_number", "12345678901"),
    ],
)
def test_an_identifier_is_found_by_its_place(path, value):
    record = Record("root", "x", "c", "2026-01-01T00:00:00+00:00", {base.read(path): Reply(Status.OK, f"{value}\n".encode())})
    (reply,) = redacted(record, find(record)).answers.values()
    assert value.encode() not in reply.data
