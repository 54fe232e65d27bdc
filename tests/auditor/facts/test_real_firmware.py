"""The images that linux-firmware ships, and a kernel's own modules: what they are, who signed them, and that no change goes unseen.

The packages come from this machine's Debian mirror; the counts are of their version 20250410.
"""

from __future__ import annotations

import collections
import datetime
import gzip
import hashlib
import random
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from auditor.facts.firmware import appended, read_envelope
from auditor.facts.firmware.image import Bytes
from auditor.facts.modules import carve_certificates
from auditor.facts.types import Settings
from auditor.facts.unpack import unpack
from auditor.verify import State, verify_image, verify_module
from tests import archive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from auditor.facts.types import Signature
    from auditor.verify import Verified

pytestmark = pytest.mark.packages

COUNTED = "20250410-2"
TODAY = datetime.date(2026, 11, 22)
"""The day on which expired certificates were counted."""

KEYS = Path(__file__).parents[3].parent / "shared/keys"
NPU_KEY = KEYS / "amd-npu-public-key.json"
NO_KEY = Settings()


def firmware(package: str) -> Callable[[], Path]:
    """A fixture: the firmware folder of a package, asked of the mirror once."""

    @pytest.fixture(scope="module", name=package.replace("-", "_"))
    def folder() -> Path:
        with archive.needed():
            return archive.unpacked(package, "non-free-firmware") / "usr/lib/firmware"

    return folder


intel_misc = firmware("firmware-intel-misc")
amd_graphics = firmware("firmware-amd-graphics")
qcom_soc = firmware("firmware-qcom-soc")
sof_signed = firmware("firmware-sof-signed")
intel_graphics = firmware("firmware-intel-graphics")


def verify(data: bytes, settings: Settings = NO_KEY) -> Verified:
    return verify_image(read_envelope(Bytes(data)), settings)


def state(data: bytes, settings: Settings = NO_KEY) -> State | None:
    """None for an image that contradicts itself, which the facts give as one that is not understood."""
    try:
        return verify(data, settings).state
    except ValueError:
        return None


def flipped(data: bytes, at: int, bit: int = 0) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1 << bit
    return bytes(changed)


def counted(root: Path, package: str) -> None:
    """Skip where the mirror has another version of a package than the one whose images were counted."""
    changes = root.parents[1] / "share/doc" / package / "changelog.Debian.gz"
    found = re.search(r"\((.*?)\)", gzip.decompress(changes.read_bytes()).decode("utf-8", "replace"))
    version = found[1] if found else "no version"
    if version != COUNTED:
        pytest.skip(f"{package}: images were counted in {COUNTED}, the mirror has {version}")


# --- Intel NPU: no signature, and no room for one ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vpu_37xx_v1.bin", "vpu_40xx_v1.bin"])
def test_an_intel_npu_image_is_proven_unsigned_by_its_size(firmware_intel_misc: Path, name: str) -> None:
    data = (firmware_intel_misc / "intel/vpu" / name).read_bytes()
    envelope = read_envelope(Bytes(data))
    assert envelope.format == "intel-npu"
    assert f"(8192 + {len(data) - 8192} bytes)" in envelope.unsigned
    assert verify(data).state is State.UNSIGNED
    # with room for a signature nothing is proven
    assert state(data + b"\x01" * 256) is State.UNKNOWN_FORMAT
    assert state(data[:-1]) is State.UNKNOWN_FORMAT
    assert state(flipped(data, 16)) is State.UNKNOWN_FORMAT


# --- AMD NPU: signed, by a key that linux-firmware does not have -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def amd_images(firmware_amd_graphics: Path) -> dict[str, bytes]:
    root = firmware_amd_graphics / "amdnpu"
    found = {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("npu.sbin*")) if not path.is_symlink()}
    assert {name.partition("/")[0] for name in found} >= {"1502_00", "17f0_10", "17f0_11"}
    return found


def test_amd_npu_images_are_signed_by_a_key_that_is_not_known_without_being_given(amd_images: dict[str, bytes]) -> None:
    for name, data in amd_images.items():
        found = verify(data)
        assert (name, found.state, found.signer) == (name, State.UNKNOWN_KEY, "12e274db369e4739ad5cb0175e4821ff")
        # the body's digest is in the header; that one is not signed by anyone who is known
        assert state(flipped(data, 0x100 + len(data) // 2)) is State.BAD
        assert state(data[:-1]) is None
        appended_to = read_envelope(Bytes(data + b"\x01" * 64))
        assert appended_to.uncovered == read_envelope(Bytes(data)).uncovered + 64


def test_amd_npu_images_verify_with_their_key_and_no_change_goes_unseen(amd_images: dict[str, bytes]) -> None:
    if not NPU_KEY.exists():
        pytest.skip("the public key of AMD's NPU images is not here: shared/keys/amd-npu-public-key.json beside the repository")
    from auditor.verify.crypto import read_root

    settings = Settings(keys=(read_root(NPU_KEY.read_bytes(), "key"),))
    for name, data in amd_images.items():
        found = verify(data, settings)
        assert (name, found.state, found.scheme) == (name, State.PRODUCTION, "AMD $PS1, RSA-2048 PSS, sha256")
        assert found.root == "140ec8a2e12e8ae293f10b087037ce7a0a3a80a1635394de26d92e331416f91b"
        signed = int.from_bytes(data[0x14:0x18], "little")
        for at in (0, 0x60, 0xD0, 0x100, 0x100 + signed // 2, 0xFF + signed, 0x100 + signed, 0x1FF + signed):
            assert state(flipped(data, at), settings) is State.BAD, (name, hex(at))
        for at in (0x14, 0x30, 0x34, 0x38):  # its claims of size, signature and key
            assert state(flipped(data, at), settings) is not State.PRODUCTION, (name, hex(at))


# --- Qualcomm: signed, most of them by test keys -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hexagon(firmware_qcom_soc: Path) -> dict[str, Verified]:
    """What each ELF image of firmware-qcom-soc is, by every name that it has."""
    root = firmware_qcom_soc
    counted(root, "firmware-qcom-soc")
    known: dict[Path, Verified] = {}
    found: dict[str, Verified] = {}
    for path in sorted(root.rglob("*")):
        real = path.resolve()
        if not path.is_file():
            continue
        if real not in known:
            data = path.read_bytes()
            if not data.startswith(b"\x7fELF"):
                continue
            known[real] = verify(data)
        found[str(path.relative_to(root / "qcom"))] = known[real]
    assert len(known) == 73
    return found


def expires(found: Verified) -> datetime.date:
    (until,) = (match[1] for each in found.remarks if (match := re.fullmatch(r"certificate valid until (\S+)", each)))
    return datetime.date.fromisoformat(until)


def test_most_hexagon_images_are_signed_by_a_test_root(hexagon: dict[str, Verified]) -> None:
    assert collections.Counter(found.state for found in hexagon.values()) == {
        State.TEST: 70,
        State.PRODUCTION: 15,
        State.UNKNOWN_FORMAT: 1,  # a container of two ELF files
    }
    assert hexagon["qdu100/xbl_s.melf"].state is State.UNKNOWN_FORMAT
    for accelerator in (
        "aic100/fw1.bin",
        "qcm6490/cdsp.mbn",
        "qcs8300/cdsp0.mbn",
        "sa8775p/gpdsp0.mbn",
        "sdm845/cdsp.mbn",
        "sm8250/cdsp.mbn",
    ):
        assert hexagon[accelerator].state is State.TEST, accelerator
    assert hexagon["sc8280xp/LENOVO/21BX/qccdsp8280.mbn"].signer.startswith("CN=QMC Attestation Root CA 4,")
    assert hexagon["x1e80100/LENOVO/21N1/qccdsp8380.mbn"].signer.startswith("CN=QMC Attestation Root CA 6,")
    assert "Lenovo IdeaPad" in hexagon["x1e80100/LENOVO/83ED/qccdsp8380.mbn"].signer


def test_the_expired_certificates_are_those_of_production(hexagon: dict[str, Verified]) -> None:
    expired = [found for found in hexagon.values() if found.state is not State.UNKNOWN_FORMAT and expires(found) < TODAY]
    assert [found.state for found in expired] == [State.PRODUCTION] * 6


def test_hexagon_images_are_signed_in_six_schemes(hexagon: dict[str, Verified]) -> None:
    assert collections.Counter(found.scheme for found in hexagon.values() if found.scheme) == {
        "MBN v6, ECDSA secp384r1, sha384": 32,
        "MBN v6, RSA-2048 PSS, sha256": 16,
        "MBN v7, ECDSA secp384r1, sha384": 16,
        "MBN v3, RSA-2048 PKCS#1 v1.5 without DigestInfo, sha256": 15,
        "MBN v3, RSA-2048 PSS, sha256": 3,
        "MBN v5, RSA-2048 PSS, sha256": 3,
    }


@pytest.mark.parametrize(
    "name",
    [
        "x1e80100/LENOVO/21N1/qcdxkmsuc8380.mbn",  # v7, ECDSA, of production
        "qcm6490/ipa_fws.mbn",  # v6, ECDSA
        "qcm2290/a702_zap.mbn",  # v6, RSA PSS
        "apq8096/a530_zap.mbn",  # v3, RSA PKCS #1 around the bare digest
        "aic100/fw5.bin",
    ],
)
def test_no_changed_bit_of_a_hexagon_image_goes_unseen(firmware_qcom_soc: Path, name: str) -> None:
    """It takes the state away, or it lies in what was padding and now is reported as bytes that nothing covers."""
    data = (firmware_qcom_soc / "qcom" / name).read_bytes()
    before = verify(data)
    assert before.state in {State.TEST, State.PRODUCTION}
    assert read_envelope(Bytes(data)).uncovered == 0
    places = random.Random(name)
    caught = 0
    for _ in range(100):
        changed = flipped(data, places.randrange(len(data)), places.randrange(8))
        if state(changed) is before.state:
            assert read_envelope(Bytes(changed)).uncovered == 1
        else:
            caught += 1
    assert caught > 20
    assert read_envelope(Bytes(data + b"\x01" * 4096)).uncovered == 4096


# --- Intel's manifests -------------------------------------------------------------------------------------------------------------------


def test_sof_images_differ_in_their_key_alone(firmware_sof_signed: Path) -> None:
    root = firmware_sof_signed / "intel/sof"
    for signed_by, expected in (("intel-signed", State.PRODUCTION), ("community", State.TEST)):
        images = [path for path in sorted((root / signed_by).glob("*.ri")) if not path.is_symlink()]
        assert len(images) >= 5
        assert {verify(path.read_bytes()).state for path in images} == {expected}


def test_no_part_of_a_sof_image_can_be_changed(firmware_sof_signed: Path) -> None:
    """The signature covers the manifest alone; the payload hangs on it by two steps of digests."""
    data = (firmware_sof_signed / "intel/sof/intel-signed/sof-adl.ri").read_bytes()
    assert verify(data).state is State.PRODUCTION
    manifest = data.index(b"$MN2") - 0x1C
    parts = {
        "header": manifest + 0x20,
        "modulus": manifest + 0x90,
        "signature": manifest + 0x80 + 384 + 4 + 10,
        "extension": manifest + 4 * int.from_bytes(data[manifest + 4 : manifest + 8], "little") + 8,
        "payload": len(data) // 2,
    }
    for part, at in parts.items():
        assert state(flipped(data, at)) not in {State.PRODUCTION, State.UNKNOWN_ROOT, State.TEST}, part


def test_an_ipu_manifest_is_signed_but_what_binds_its_module_is_not_understood(firmware_intel_graphics: Path) -> None:
    found = verify((firmware_intel_graphics / "intel/ipu/ipu6_fw.bin").read_bytes())
    assert (found.state, found.scheme) == (State.UNKNOWN_FORMAT, "Intel CSS, RSA-3072 PSS, sha384")
    assert found.remarks == ("no digest of 'iunit' that is understood",)


# --- kernel modules ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kernel() -> Path:
    with archive.needed():
        return archive.unpacked(f"linux-image-{archive.kernel_release()}")


@pytest.fixture(scope="module")
def certificates(kernel: Path) -> tuple[bytes, ...]:
    (image,) = (kernel / "boot").glob("vmlinuz-*")
    return carve_certificates(image.read_bytes())


def modules(kernel: Path, count: int) -> Iterator[tuple[str, bytes]]:
    """Modules of every part of the kernel, unpacked; the largest take longest to unpack and prove no more."""
    found = [path for path in sorted((kernel / "usr/lib/modules").rglob("*.ko*")) if path.stat().st_size < 200_000]
    for path in found[:: len(found) // count][:count]:
        yield path.name, unpack(path.read_bytes())


def signature(data: bytes) -> Signature:
    return appended.read_signature(Bytes(data))


def test_400_modules_are_signed_by_the_key_that_only_their_kernel_has(kernel: Path, certificates: tuple[bytes, ...]) -> None:
    found = {name: verify_module(signature(data), certificates) for name, data in modules(kernel, 400)}
    assert len(found) == 400
    assert {each.state for each in found.values()} == {State.PRODUCTION}
    assert {each.scheme for each in found.values()} == {"ECDSA secp384r1, sha256"}
    ((signer, root),) = {(each.signer, each.root) for each in found.values()}
    assert "Build time autogenerated kernel key" in signer
    data = next(data for _, data in modules(kernel, 1))
    others = [each for each in certificates if hashlib.sha256(each).hexdigest() != root]
    assert len(others) == len(certificates) - 1
    assert verify_module(signature(data), others).state is State.UNKNOWN_KEY


def test_no_changed_bit_of_a_module_goes_unseen(kernel: Path, certificates: tuple[bytes, ...]) -> None:
    (path,) = (kernel / "usr/lib/modules").rglob("intel_vpu.ko*")
    data = unpack(path.read_bytes())
    assert appended.is_signed(data)
    assert verify_module(signature(data), certificates).state is State.PRODUCTION
    length = int.from_bytes(data[-len(appended.MAGIC) - 4 : -len(appended.MAGIC)], "big")
    signed = len(data) - appended.TRAILER - length
    for at in (100, signed // 2, signed - 1, len(data) - appended.TRAILER - 1):
        assert verify_module(signature(flipped(data, at)), certificates).state is State.BAD, at
    assert not appended.is_signed(data[:signed])
