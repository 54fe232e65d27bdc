"""What a device says it is: board, build, version of the system firmware. For people; nothing is decided by it.

Sources: ChromeOS /etc/lsb-release (CHROMEOS_RELEASE_…); os-release(5); SMBIOS as the kernel shows it (ABI/testing/sysfs-firmware-dmi),
where coreboot puts the ChromeOS firmware id into the BIOS version; device tree `model`, and `/firmware/chromeos/firmware-version`
(vboot_reference, host/arch/arm/lib/crossystem_arch.c).
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from auditor.facts.types import Identity, Ok
from auditor.model import visible

if TYPE_CHECKING:
    from auditor.facts.reading import Device

LONGEST = 200
"""Characters of a name that are shown."""

_DMI = "/sys/class/dmi/id"
_TREE = "/sys/firmware/devicetree/base"


def read_identity(device: Device) -> Identity:
    """The names that a device has for itself, the most telling first."""
    chromeos, distribution = _release(device, "/etc/lsb-release"), _release(device, "/etc/os-release")
    product = " ".join(filter(None, (_text(device, f"{_DMI}/sys_vendor"), _text(device, f"{_DMI}/product_name"))))
    return Identity(
        board=chromeos.get("CHROMEOS_RELEASE_BOARD") or product or _text(device, f"{_TREE}/model"),
        build=chromeos.get("CHROMEOS_RELEASE_BUILDER_PATH")
        or chromeos.get("CHROMEOS_RELEASE_DESCRIPTION")
        or distribution.get("PRETTY_NAME"),
        firmware=_text(device, f"{_DMI}/bios_version") or _text(device, f"{_TREE}/firmware/chromeos/firmware-version"),
    )


def _release(device: Device, path: str) -> dict[str, str]:
    """The NAME=value lines of a release file; values may be quoted as a shell quotes them."""
    found = device.text(path)
    lines = found.value.splitlines() if isinstance(found, Ok) else []
    pairs = (line.partition("=") for line in lines if not line.startswith("#"))
    return {name.strip(): text for name, _, value in pairs if (text := _shown(_unquoted(value)))}


def _unquoted(value: str) -> str:
    try:
        return " ".join(shlex.split(value))
    except ValueError:
        return value


def _text(device: Device, path: str) -> str | None:
    found = device.text(path)
    return _shown(found.value) if isinstance(found, Ok) else None


def _shown(text: str) -> str | None:
    return visible(text.strip("\0 \t\r\n"))[:LONGEST] or None
