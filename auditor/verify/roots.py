"""Firmware roots that are known: of production, and of testing, by the sha256 of the root certificate, or of a bare key's modulus.

A fingerprint that is not here is an unknown root, whatever its certificate calls itself; `--trust-root` adds one. Measured on the images of
linux-firmware 20250410 and sof-bin 2025.01: the fingerprints are of those files, the names of the certificates' subjects. Sound Open
Firmware's community keys are for development, and their private halves are published with its sources.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

TEST_NAME = re.compile(r"\b(TEST (KEY|ROOT|USER)|FOR TESTING|NOT SECURE|DO NOT (TRUST|SHIP))\b", re.IGNORECASE)
"""What roots for testing call themselves: SecTools', QPSA's, qtestsign's, edk2's."""


@dataclass(frozen=True, slots=True)
class Root:
    """A root: a name for people, and whether it signs what is sold."""

    name: str
    production: bool


PINNED = {
    # Qualcomm MBN: the root certificate of the chain in the image
    "f8ab20526358c4fa4cef96d78c45180dc3db75e8f24051ad624448c134b4e861": Root("Qualcomm SecTools test root", production=False),
    "9cda6268c11916ff53b41f2b1701e2758fc3bbd227538ee127158f7c9527a454": Root("Qualcomm general use test key", production=False),
    "959b8d0549ef41befabc24f51efe84fee366ac169ab04a0db30c799b324fd798": Root("Qualcomm SecTools test root", production=False),
    "b53fb23d1953decb95928fe657556cea6edab3444dc708c019057cbaf8c62d4a": Root("QPSA F4 TEST ROOT", production=False),
    "e146b8051141cf43dbe51819ed530947015f90f71aa79bb37a79c1fe5df45c8f": Root("Lenovo IdeaPad root key for product", production=True),
    "1e979f3a07489f18a6370f1793ea06ca21bd640f67dcf5d53cff2a8436215cde": Root("QMC Attestation Root CA 6", production=True),
    "3a99e4047d45b407ad297c827c5bdb8e2913de09c45163bc8c05e3d0fe91547a": Root("QMC Attestation Root CA 4", production=True),
    "ba2aa4eeacd6927b8d4c39839fb3e93be4112d02104d41829b0ba20a58dc7a1e": Root("Qualcomm general use test key", production=False),
    "0fd0e4fc50735dd9105a8898b1709af79575c9234520844d35b5f7d25ed111ff": Root("Lenovo Qualcomm Secure Boot Root CA", production=True),
    "983054f5c4b3fd2c8a98aa917271adb7d8766127c34d56a89f5e0a311ca45c2f": Root("Qualcomm general use test key", production=False),
    "6f7b08c06d371c90d55d7b2fb5c8d984bddf2587d3105dd96127fa10ce43ad98": Root("SecTools Test User Root", production=False),
    "0576ae2edfc92993ea0f070ef01bf529bf7b4c12e4a28af7369e87bf88897e4e": Root("Qualcomm general use test key", production=False),
    "d281fa4df83b46cc7aeecd1caed2c9ae09a35b393a93dbd371e76ebcbf17c325": Root("Qualcomm general use test key", production=False),
    "efb5a6de9cf66413d008feda3923e40e5a1c717316c525f83387c9fe723eaf9f": Root("Qualcomm general use test key", production=False),
    # Intel CSS: the modulus in the manifest
    "2f8036c596c34814bf89ef1c509f8bdc72cf2b9c54a0a1ed4f978ee0d1f7367f": Root("Intel key of i915/dg2_huc_gsc.bin", production=True),
    "4bba5d61815843c2e16e086009d43e10aea10fdc516daf3212f50aed0fcf21a3": Root("Intel key of i915/mtl_gsc_1.bin", production=True),
    "50c6efbbb7fb2146c4efefcea9fdc762224ed1247934fb727fcb9e61b5964a6f": Root("Intel key of i915/mtl_huc_gsc.bin", production=True),
    "d9736a0f4b0bc323c94f76032f5f44f64e219defd6dc6be5b9a6d56e16a96900": Root("Intel key of intel/ipu/ipu6_fw.bin", production=True),
    "be4231cc677da0400f4df5820e1092ee9ea0520644031af7b2c6b7d6e44b8273": Root("Intel key of intel/ipu/ipu6ep_fw.bin", production=True),
    "4c2379733e064f41b9fc1878cdad66ae4c2e6ebfc76fc1cec8590c0757e57aef": Root("Intel key of intel/ipu/ipu6epmtl_fw.bin", production=True),
    "a12241698a2ad530a07920c8e625d1f0fd47dc3aebd96c854dd24fb9a4a92869": Root("Intel key of intel/ipu/ipu6se_fw.bin", production=True),
    "ea8d13a07dec48c8e50f6dec76758e9707634f810350cdf24bdc01c18b08cef3": Root("Intel key of xe/bmg_huc.bin", production=True),
    "e275e637dc8bc23d2446b6b902d6afe1f0caae7b2aa60c523be5cda2a763c52b": Root("Intel key of xe/lnl_gsc_1.bin", production=True),
    "20b42b9cdc09ef3f466c0a37a036d6c6430724f62f76aeb77bf4622dcda0e78d": Root("Intel key of xe/lnl_huc.bin", production=True),
    "f17398b34c282b39329e9fba3060527c56cb8dc3401e3de35f41d5b0a15e0fea": Root("Intel key of intel/ish/ish_lnlm.bin", production=True),
    "a79ccf7c4f230d75368bd389b08b271acd3d05be834fc4b2b85b3fc133f2cb97": Root("Intel key of sof-lnl.ri", production=True),
    "c380e4660162ba3d03c5b389d647a8715d2a90c8758198a58c9b00b897130448": Root("Intel key of sof-adl-n.ri", production=True),
    "e1668add842ebc1607cdebab6a107487493ae36e314243f320e842ebf48526ab": Root("Intel key of sof-adl.ri", production=True),
    "1649007a1feed079d2c087ce2e1a3543fc330290c8051a5f77a6a5af9b993390": Root("Intel key of sof-arl-s.ri", production=True),
    "dbde11ad770eb1ac09320f8d9d1d9a58147d986bffe5d600efaff6b1622300e6": Root("Intel key of sof-mtl.ri", production=True),
    "79544ea1cf740417dc95b7696f9a296ae00b34e8ea5871932c7d127fccd3d717": Root("Intel key of sof-tgl.ri", production=True),
    "86792b08831f88e01b5e165d1454e8e83efa4d97abb210aa74065ec222968543": Root("Intel key of sof-apl.ri", production=True),
    "42070fa86c2a4c4956c10b3737052bf5ccc3ccf8018323e6e91b5920e29e5e9a": Root("Intel key of sof-cnl.ri", production=True),
    "c3e4cd44b7caa071b01f122cd28c5cba9ceb6ad4441d4e8c8893853ef5349620": Root("Intel key of sof-ehl.ri", production=True),
    "a3ef139702a126af67657c7a2f7e590a3c6b347ae88e1afe95f727572e3e5ed4": Root("Intel key of sof-icl.ri", production=True),
    "f5ae863e5e9b1d9d240030259e2f49ff939906c6c7aa66fdf33b0d77f9718b2d": Root("Intel key of sof-jsl.ri", production=True),
    "cd7b1d52387bd55911399ed036fa59127febcbfd9fecad7bd4f2dad24c5d747b": Root("SOF community key, RSA-3072", production=False),
    "4b9da7e88a2f783aa48b1bb7c41702cc5ddb03305fdc92e7d2bc159da8c33201": Root("SOF community key, RSA-2048", production=False),
}
