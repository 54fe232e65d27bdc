"""Submissions end to end: what a vendor sends, what a reviewer makes of it, and everything that is refused with nothing written."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import json
import os
import sys
import warnings
import zipfile
from importlib import resources
from urllib.parse import unquote_to_bytes

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given, settings
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope as Theirs
from securesystemslib.signer import SSlibKey

from auditor import audit, cli, review, submit
from auditor.comparing import Cause
from auditor.engine import claimed
from auditor.errors import AuditError
from auditor.model import Claim, Outcome
from auditor.sources import recording
from auditor.submission import bundle, statement
from auditor.submission.keys import FileSigner
from fixtures import devices
from fixtures.elf import Shared
from fixtures.report import sample
from tests.auditor.submission.test_redact import SEEDS, seeded
from tests.test_laws import DEVICES

DEMO = str(resources.files("auditor.data") / "demo.snapshot")
DRIVER = "functional-1.driver@pci:0000:00:05.0"
KEYS = {
    "vendor": ed25519.Ed25519PrivateKey.generate(),
    "reviewer": ec.generate_private_key(ec.SECP256R1()),
    "other": ed25519.Ed25519PrivateKey.generate(),
}
VENDOR = FileSigner(KEYS["vendor"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Keys, waivers, statements with an attachment, and two submissions."""
    made = tmp_path_factory.mktemp("submission")
    for name, key in KEYS.items():
        private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        (made / f"{name}.pem").write_bytes(private)
        (made / f"{name}.pub").write_bytes(public)
    (made / "mail.txt").write_text("We upstream it.\n")
    (made / "statements.toml").write_text(
        f'[[statement]]\nfinding = "{DRIVER}"\nstatement = "It is under review upstream."\nauthor = "vendor@example.com"\n'
        f'attachment = "mail.txt"\nsha256 = "{hashlib.sha256(b"We upstream it.{}".replace(b"{}", bytes([10]))).hexdigest()}"\n'
    )
    (made / "waivers.toml").write_text(f'[[waiver]]\nfinding = "{DRIVER}"\nreason = "known"\nauthor = "vendor"\nexpires = 2027-12-31\n')
    (made / "tools").write_text(f"{'ab' * 32}  benchmark_model\n")
    vendor = ["--snapshot", DEMO, "--today", "2026-12-01", "--key", str(made / "vendor.pem")]
    for name, options in {
        "full.crosml": [
            *("--statements", str(made / "statements.toml"), "--waivers", str(made / "waivers.toml")),
            *("--tool-manifest", str(made / "tools")),
        ],
        "plain.crosml": [],
    }.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["crosml-audit", "submit", *vendor, *options, "-o", str(made / name)])
            with pytest.raises(SystemExit) as ended:
                cli.main()
            assert not ended.value.code
    return made


def members_of(folder, name="full.crosml"):
    return bundle.unpack((folder / name).read_bytes(), "x")


def resigned(members, signer=VENDOR):
    """A submission of other members that the vendor signs."""
    members = {name: data for name, data in members.items() if name != bundle.ATTESTATION}
    return bundle.pack({**members, bundle.ATTESTATION: statement.signed(members, statement.SUBMISSION, {}, [signer])})


# --- the way there and back ---------------------------------------------------------------------------------------------------------------


def test_what_is_in_a_submission(folder):
    members = members_of(folder)
    assert sorted(members) == sorted(
        (
            *bundle.REQUIRED,
            "statements.toml",
            "tool-manifest",
            "waivers.toml",
            f"attachments/{hashlib.sha256((folder / 'mail.txt').read_bytes()).hexdigest()}",
        )
    )
    assert members["snapshot.zip"] == (resources.files("auditor.data") / "demo.snapshot").read_bytes()
    report = json.loads(members["report.json"])
    assert report["verdict"] == "incomplete"
    assert report["zoo"]["tool_manifest"]["sha256"] == hashlib.sha256(members["tool-manifest"]).hexdigest()
    assert str(folder) not in json.dumps(report)


def test_the_same_input_gives_the_same_submission(run, folder, tmp_path):
    run("submit", "--snapshot", DEMO, "--today", "2026-12-01", "--key", folder / "vendor.pem", "-o", tmp_path / "again.crosml")
    assert (tmp_path / "again.crosml").read_bytes() == (folder / "plain.crosml").read_bytes()


def test_a_reviewer_judges_by_his_own_rules_and_signs(run, folder, tmp_path):
    code, out, err = run(
        "review", folder / "full.crosml", "--trust", folder / "vendor.pub", "--today", "2026-12-01", "--key", folder / "reviewer.pem",
        "-o", tmp_path / "decision.json", "--format", f"json={tmp_path / 'mine.json'}", "--comment", "See the driver.",
    )  # fmt: skip
    assert (code, err) == (1, "")
    assert "vendor      incomplete, by" in out
    assert "reviewer    non-compliant, by" in out
    assert "claimed     statements of the vendor, which decide nothing: 1" in out
    assert f"  {DRIVER}: fail, waived by vendor until 2027-12-31: known, now fail\n    cause: waiver\n" in out
    assert out.endswith(statement.DISCLAIMER + "\n")
    code, out, _ = run(
        "report", "verify", tmp_path / "mine.json", "--signature", tmp_path / "decision.json", "--trust", folder / "reviewer.pub"
    )
    assert (code, out.count("non-compliant, signed by ECDSA secp256r1")) == (0, 1)
    signed = statement.read((tmp_path / "decision.json").read_bytes(), [FileSigner(KEYS["reviewer"]).key], "x")
    assert signed.digests["submission.crosml"] == hashlib.sha256((folder / "full.crosml").read_bytes()).hexdigest()
    assert (signed.predicate["verdict"], signed.predicate["comment"]) == ("non-compliant", "See the driver.")
    assert signed.predicate["differences"]["findings"][0]["causes"] == ["waiver"]


def test_a_reviewer_with_the_same_rules_finds_no_difference(run, folder):
    code, out, _ = run(
        "review", folder / "full.crosml", "--trust", folder / "vendor.pub", "--today", "2026-12-01", "--waivers", folder / "waivers.toml"
    )
    assert (code, "no difference\n" in out) == (3, True)


def test_securesystemslib_verifies_a_submission(folder):
    envelope = Theirs.from_dict(json.loads(members_of(folder)["attestation.json"]))
    assert envelope.verify([SSlibKey.from_crypto(KEYS["vendor"].public_key(), keyid=VENDOR.key.keyid)], 1)
    signed = json.loads(envelope.payload)
    assert {each["name"] for each in signed["subject"]} == set(members_of(folder)) - {"attestation.json"}


def test_several_keys_and_a_token_sign(run, folder, tmp_path):
    token = tmp_path / "token"
    token.write_text(
        f"#!{sys.executable}\nimport sys\nfrom cryptography.hazmat.primitives import serialization as s\n"
        f"key = s.load_pem_private_key(open({str(folder / 'other.pem')!r}, 'rb').read(), None)\n"
        "pem = key.public_key().public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo)\n"
        "sys.stdout.buffer.write(pem if sys.argv[1] == 'public-key' else key.sign(sys.stdin.buffer.read()))\n"
    )
    token.chmod(0o755)
    for key in ("vendor", "reviewer"):
        code, out, _ = run(
            "submit", "--snapshot", DEMO, "--key", folder / f"{key}.pem", "--signer", token, "-o", tmp_path / "x.crosml", "--force"
        )
        assert (code, out.count("ed25519") + out.count("ECDSA")) == (0, 2)
        code, out, _ = run("review", tmp_path / "x.crosml", "--trust", folder / "other.pub")
        assert code == 1
        assert "(trusted)" in out
        assert "(not trusted)" in out


def test_a_dry_run_lists_and_writes_nothing(run, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = run("submit", "--snapshot", DEMO, "--statements", folder / "statements.toml", "--dry-run", "--redact", "-o", "x.crosml")
    assert (code, os.listdir()) == (0, [])
    for each in (
        "snapshot.zip",
        "report.json",
        "settings.json",
        "statements.toml",
        "attachments/",
        "/sys/kernel/iommu_groups",
        "Redacted: ",
    ):
        assert each in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["submit", "--snapshot", DEMO, "-o", "x"], "--key or --signer"),
        (["submit", "--snapshot", DEMO, "--key", "vendor.pem"], "--output"),
        (["submit", "--snapshot", DEMO, "--key", "vendor.pub", "-o", "x"], "private key"),
        (["submit", "--snapshot", DEMO, "--key", "none.pem", "-o", "x"], "none.pem: No such file"),
        (
            ["submit", "--snapshot", DEMO, "--key", "vendor.pem", "--waivers", "mail.txt", "-o", "x"],
            "mail.txt: line 1, column 4: expected TOML",
        ),
        (["submit", "--snapshot", DEMO, "--key", "vendor.pem", "--statements", "mail.txt", "-o", "x"], "expected TOML"),
        (["review", "full.crosml"], "--trust"),
        (["review", "full.crosml", "--trust", "vendor.pem"], "expected a public key"),
        (["review", "full.crosml", "--trust", "vendor.pub", "-o", "x"], "--output with --key"),
        (["review", "full.crosml", "--trust", "vendor.pub", "--key", "vendor.pem"], "--output with --key"),
        (["review", "full.crosml", "--trust", "vendor.pub", "--format", "json"], "expected NAME=PATH"),
        (["report", "sign", "full.crosml"], "--key or --signer"),
        (["report", "verify", "full.crosml"], "--trust"),
    ],
)
def test_wrong_usage_is_said_in_one_line(arguments, message, run, folder, monkeypatch):
    monkeypatch.chdir(folder)
    before = sorted(os.listdir())
    code, out, err = run(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert sorted(os.listdir()) == before


# --- why vendor and reviewer differ -------------------------------------------------------------------------------------------------------


def causes(data, folder, run, *options):
    """The findings that differ with their causes, as the reviewer's signed decision has them, and the exit code."""
    (folder / "x.crosml").write_bytes(data)
    code, _, err = run(
        "review", folder / "x.crosml", "--trust", folder / "vendor.pub", "--today", "2026-12-01", *options,
        "--key", folder / "reviewer.pem", "-o", folder / "decision.json", "--force",
    )  # fmt: skip
    assert err == ""
    signed = statement.read((folder / "decision.json").read_bytes(), [FileSigner(KEYS["reviewer"]).key], "x")
    return code, {each["finding"]: each["causes"] for each in signed.predicate["differences"]["findings"]}


def own_set(folder, name, clauses, zoo):
    (folder / "clauses.toml").write_bytes(clauses)
    (folder / "zoo.toml").write_bytes(zoo)
    (folder / "set.toml").write_text(f'name = "{name}"\nclauses = "clauses.toml"\nzoo = "zoo.toml"\n')
    return folder / "set.toml"


def test_a_stricter_set_gives_another_verdict_with_its_cause(run, folder, tmp_path):
    """The vendor's own set asks for one clause, which the device meets."""
    clause = b'[[requirements]]\nid = "security-3"\ntitle = "t"\ntext = "t"\nsource = "s"\nlevel = "must"\n'
    lax = own_set(tmp_path, "lax", clause, b'version = "0"\nsource = "s"\nmodels = []\n')
    run("submit", "--snapshot", DEMO, "--requirements", lax, "--key", folder / "vendor.pem", "-o", tmp_path / "v.crosml")
    assert json.loads(members_of(tmp_path, "v.crosml")["report.json"])["verdict"] == "compliant"
    code, found = causes((tmp_path / "v.crosml").read_bytes(), folder, run)
    assert (code, DRIVER in found) == (1, True)
    assert {cause for each in found.values() for cause in each} == {"requirement set"}


def test_a_recommendation_that_the_reviewer_demands_is_a_difference(run, folder, tmp_path):
    members = members_of(folder, "plain.crosml")
    strict = own_set(tmp_path, "strict", members[bundle.SET[1]].replace(b'level = "should"', b'level = "must"'), members[bundle.SET[2]])
    code, found = causes((folder / "plain.crosml").read_bytes(), folder, run, "--requirements", strict)
    assert (code, bool(found)) == (1, True)
    assert {cause for each in found.values() for cause in each} == {"requirement set"}
    assert {name.partition(".")[0] for name in found} == {
        each["id"] for each in json.loads(members["report.json"])["requirements"] if each["level"] == "should" and each["findings"]
    }


def test_another_version_of_the_zoo_is_a_cause(run, folder):
    _, found = causes((folder / "plain.crosml").read_bytes(), folder, run, "--requirements", "r113-zoo-0.0.6")
    assert found
    assert {cause for each in found.values() for cause in each} == {"requirement set"}


def test_a_waiver_of_the_vendor_is_none_of_the_reviewers(run, folder):
    code, found = causes((folder / "full.crosml").read_bytes(), folder, run)
    assert (code, found) == (1, {DRIVER: ["waiver"]})


def test_a_waiver_that_expired_since_is_a_cause(run, folder):
    (folder / "x.crosml").write_bytes((folder / "full.crosml").read_bytes())
    options = ["--trust", folder / "vendor.pub", "--waivers", folder / "waivers.toml", "--today"]
    assert run("review", folder / "x.crosml", *options, "2027-12-31")[0] == 3
    code, out, _ = run("review", folder / "x.crosml", *options, "2028-01-01")
    assert (code, out.count("    cause: waiver\n")) == (1, 1)


def test_a_report_that_was_made_up_is_said_to_be(run, folder):
    """The vendor says that the driver passes, consistently, and signs it."""
    members = dict(members_of(folder, "plain.crosml"))
    report = json.loads(members["report.json"])
    requirement = next(each for each in report["requirements"] if each["id"] == "functional-1")
    for each in requirement["findings"]:
        if each["outcome"] == "fail":
            report["counts"]["fail"] -= 1
            report["counts"]["pass"] += 1
            each["outcome"] = "pass"
    requirement["outcome"] = "pass"
    report["verdict"] = "incomplete"
    members["report.json"] = json.dumps(report).encode()
    code, found = causes(resigned(members), folder, run)
    assert code == 1
    assert set(found.values().__iter__().__next__()) == {Cause.STATED.value}
    assert DRIVER in found


def test_another_version_of_the_auditor_is_a_cause(run, folder):
    members = dict(members_of(folder, "plain.crosml"))
    report = json.loads(members["report.json"])
    report["tool"]["version"] = "0.0.1"
    finding = next(each for result in report["requirements"] for each in result["findings"] if each["id"] == DRIVER)
    finding["reason"] = "As it was said then."
    members["report.json"] = json.dumps(report).encode()
    assert causes(resigned(members), folder, run) == (1, {DRIVER: ["auditor version"]})


def test_an_option_is_a_cause(run, folder, tmp_path):
    """The reviewer's list of the base image leaves a large library out of the driver's size."""
    Shared(soname="libvendor.so", needed=("libbig.so",)).write(f"{tmp_path}/root/usr/lib64/libvendor.so")
    Shared(soname="libbig.so", size=70_000_000).write(f"{tmp_path}/root/usr/lib64/libbig.so")
    (tmp_path / "base.txt").write_text("/usr/lib64/libbig.so\n")
    assert run("snapshot", "--root", tmp_path / "root", "--delegate", "/usr/lib64/libvendor.so", "-o", tmp_path / "s")[0] == 0
    assert run("submit", "--snapshot", tmp_path / "s", "--key", folder / "vendor.pem", "-o", tmp_path / "v.crosml")[0] == 0
    code, found = causes((tmp_path / "v.crosml").read_bytes(), folder, run, "--base-image", tmp_path / "base.txt")
    assert (code, found["misc-1.closure@device"]) == (3, ["options"])
    assert {cause for each in found.values() for cause in each} == {"options"}


# --- what is refused ----------------------------------------------------------------------------------------------------------------------


def trust():
    return [VENDOR.key]


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_one_byte_changed_anywhere_is_refused(folder, data):
    whole = (folder / "full.crosml").read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1) | st.integers(len(whole) - 2000, len(whole) - 1) | st.integers(0, 2000))
    changed = bytearray(whole)
    changed[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(AuditError, match=r"^x: "):
        review.verified(bytes(changed), "x", trust())


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_a_truncated_or_longer_file_is_refused(folder, data):
    whole = (folder / "full.crosml").read_bytes()
    other = data.draw(st.sampled_from(("cut", "longer", "before")))
    length = data.draw(st.integers(0, len(whole) - 1))
    changed = {"cut": whole[:length], "longer": whole + whole[: length + 1], "before": b"x" * (length % 99 + 1) + whole}[other]
    with pytest.raises(AuditError, match=r"^x: "):
        review.verified(changed, "x", trust())


def zipped(*members, link=""):
    """A zip as `pack` writes it, of members in any order, names more than once; one of them may be a link."""
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w") as archive:
        warnings.simplefilter("ignore")  # zipfile warns of names that are there twice
        for name, content in sorted(members):
            info = zipfile.ZipInfo(name)
            info.create_system = 3
            info.external_attr = (0o120777 if name == link else 0o100644) << 16
            archive.writestr(info, content)
    return out.getvalue()


def other_record():
    return recording.pack(dataclasses.replace(recording.load(DEMO), collected_at="2020-01-01T00:00:00+00:00"))


BAD = {
    "another's signature": (lambda full, plain: bundle.pack({**full, "attestation.json": plain["attestation.json"]}), "was"),
    "a swapped snapshot": (
        lambda full, plain: bundle.pack({**full, "snapshot.zip": other_record()}),
        "snapshot.zip is not the one that was signed",
    ),
    "a swapped snapshot that the vendor signed": (
        lambda full, plain: resigned({**full, "snapshot.zip": other_record()}),
        "the report is not about the record",
    ),
    "a member that was not signed": (
        lambda full, plain: bundle.pack({**full, "base-image": b"/x\n"}),
        "base-image is not among what was signed",
    ),
    "a member that is missing": (
        lambda full, plain: bundle.pack({name: data for name, data in full.items() if name != "waivers.toml"}),
        "waivers.toml was signed and is missing",
    ),
    "no attestation": (
        lambda full, plain: bundle.pack({name: data for name, data in full.items() if name != "attestation.json"}),
        "has no attestation",
    ),
    "signed by somebody else": (lambda full, plain: resigned(full, FileSigner(KEYS["other"])), "none of these keys is trusted"),
    "a statement of another kind": (
        lambda full, plain: bundle.pack(
            {
                **full,
                "attestation.json": statement.signed(
                    {n: d for n, d in full.items() if n != "attestation.json"}, statement.REVIEW, {}, [VENDOR]
                ),
            }
        ),
        "predicateType: expected",
    ),
    "a bundle in a bundle": (
        lambda full, plain: resigned({**full, "snapshot.zip": bundle.pack(full)}),
        "snapshot.zip: unexpected or repeated member",
    ),
    "a name that is there twice": (lambda full, plain: zipped(*full.items(), ("report.json", b"{}")), "is in it twice"),
    "a name that leads outside": (lambda full, plain: zipped(*full.items(), ("../outside", b"x")), "unexpected member"),
    "a link": (lambda full, plain: zipped(*full.items(), link="waivers.toml"), "expected a regular file, not a link"),
    "an attachment that no statement names": (
        lambda full, plain: resigned({**full, f"attachments/{'ab' * 32}": b"x"}),
        f"attachments/{'ab' * 32} belongs to no statement",
    ),
    "an attachment with another content": (
        lambda full, plain: resigned({name: b"x" if name.startswith("attachments/") else data for name, data in full.items()}),
        "its content has another sha256",
    ),
    "an attachment that is missing": (
        lambda full, plain: resigned({name: data for name, data in full.items() if not name.startswith("attachments/")}),
        "is missing",
    ),
    "waivers that are none": (lambda full, plain: resigned({**full, "waivers.toml": b"x"}), "waivers.toml: expected TOML"),
    "a waiver of everything": (
        lambda full, plain: resigned({**full, "waivers.toml": full["waivers.toml"].replace(DRIVER.encode(), b"*")}),
        "expected a check before the @",
    ),
    "settings that are none": (lambda full, plain: resigned({**full, "settings.json": b"{}"}), "settings.json: requirements: missing"),
    "a root that is not in it": (
        lambda full, plain: resigned(
            {**full, "settings.json": full["settings.json"].replace(b'"trust_roots": []', b'"trust_roots": ["/etc/passwd"]')}
        ),
        "--trust-root: /etc/passwd: missing in",
    ),
    "a set that is none": (lambda full, plain: resigned({**full, "requirements/zoo.toml": b"x"}), "expected TOML"),
    "a report that contradicts itself": (
        lambda full, plain: resigned(
            {**full, "report.json": full["report.json"].replace(b'"verdict": "incomplete"', b'"verdict": "compliant"')}
        ),
        "report.json: verdict: expected incomplete",
    ),
    "a snapshot that is none": (lambda full, plain: resigned({**full, "snapshot.zip": b"x"}), "snapshot.zip: not a snapshot"),
    "statements of a megabyte": (
        lambda full, plain: resigned({**full, "statements.toml": b"#" * ((1 << 20) + 1)}),
        "expected at most 1048576 bytes",
    ),
    "more statements than anyone makes": (
        lambda full, plain: resigned(
            {
                **full,
                "statements.toml": full["statements.toml"] + b'[[statement]]\nfinding = "a.b@c"\nstatement = "s"\nauthor = "a"\n' * 300,
            }
        ),
        "statement: expected at most 256 entries",
    ),
    "other models": (lambda full, plain: resigned({**full, "zoo.sha256": b"x"}), "zoo.sha256: expected the model files"),
    "no zip": (lambda full, plain: b"x" * 5000, "not a submission"),
    "empty": (lambda full, plain: b"", "not a submission"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_submission_is_refused_with_the_reason_and_nothing_is_written(name, run, folder, tmp_path, monkeypatch):
    make, reason = BAD[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.crosml").write_bytes(make(members_of(folder), members_of(folder, "plain.crosml")))
    code, out, err = run(
        "review", "bad.crosml", "--trust", folder / "vendor.pub", "--key", folder / "reviewer.pem", "-o", "decision.json",
        "--format", "json=mine.json",
    )  # fmt: skip
    assert (code, out, os.listdir()) == (4, "", ["bad.crosml"])
    assert err.startswith("crosml-audit: bad.crosml: ")
    assert err.count("\n") == 1
    assert err[:-1].isprintable()
    assert reason in err


# --- reports that are signed --------------------------------------------------------------------------------------------------------------


def test_a_signed_report_is_verified_and_another_is_refused(run, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.json").write_bytes(submit.as_json(sample()))
    assert run("report", "sign", "r.json", "--key", folder / "vendor.pem")[0] == 0
    code, out, _ = run("report", "verify", "r.json", "--trust", folder / "vendor.pub")
    assert (code, out.startswith("r.json: non-compliant, signed by ed25519 ")) == (0, True)
    assert statement.DISCLAIMER in out
    envelope = json.loads((tmp_path / "r.json.dsse.json").read_bytes())
    assert json.loads(base64.b64decode(envelope["payload"]))["predicate"]["result"] == "FAILED"
    assert run("report", "verify", "r.json", "--trust", folder / "other.pub")[0] == 4
    (tmp_path / "other.json").write_bytes(submit.as_json(sample(notes=())))
    code, _, err = run("report", "verify", "other.json", "--signature", "r.json.dsse.json", "--trust", folder / "vendor.pub")
    assert (code, "another report.json" in err) == (4, True)
    (tmp_path / "a.json").write_bytes(members_of(folder)["attestation.json"])
    (tmp_path / "b.json").write_bytes(members_of(folder)["report.json"])
    code, _, err = run("report", "verify", "b.json", "--signature", "a.json", "--trust", folder / "vendor.pub")
    assert (code, "expected the signature of a report" in err) == (4, True)
    before = sorted(os.listdir())
    (tmp_path / "b.json").write_bytes(b"{}")
    assert run("report", "sign", "b.json", "--key", folder / "vendor.pem")[0] == 4
    assert sorted(os.listdir()) == before


# --- redaction ----------------------------------------------------------------------------------------------------------------------------


def every_byte(data):
    """All the bytes of a submission, those of the record in it too, in every form that they have there."""
    members = bundle.unpack(data, "x")
    with zipfile.ZipFile(io.BytesIO(members["snapshot.zip"])) as archive:
        inner = {name: archive.read(name) for name in archive.namelist()}
    texts = [base64.b64decode(each[3]) for each in json.loads(inner["record.json"])["entries"] if isinstance(each[3], str)]
    payload = base64.b64decode(json.loads(members["attestation.json"])["payload"])
    return b"\n".join((data, payload, *inner.values(), *texts, unquote_to_bytes(inner["record.json"])))


def test_what_identifies_a_unit_or_a_person_is_gone_from_every_byte(run, folder, tmp_path):
    (tmp_path / "s.snapshot").write_bytes(recording.pack(seeded(devices.recorded())))
    home = tmp_path / SEEDS["user"]
    home.mkdir()
    (home / "w.toml").write_text(
        f'[[waiver]]\nfinding = "{DRIVER}"\nreason = "seen on {SEEDS["host"]}"\nauthor = "{SEEDS["user"]}"\nexpires = 2027-12-31\n'
    )
    code, out, err = run(
        "submit", "--snapshot", tmp_path / "s.snapshot", "--waivers", home / "w.toml", "--redact", "--redact-word", SEEDS["codename"],
        "--key", folder / "vendor.pem", "-o", tmp_path / "x.crosml",
    )  # fmt: skip
    assert (code, err) == (0, "")
    held = every_byte((tmp_path / "x.crosml").read_bytes()).lower()
    assert [name for name, seed in SEEDS.items() if seed.lower().encode() in held] == []
    assert "Redacted: 3 of kind MAC address" in out or "of kind MAC address" in out
    assert run("review", tmp_path / "x.crosml", "--trust", folder / "vendor.pub")[0] in {0, 1, 3}


@pytest.mark.parametrize("name", sorted(DEVICES))
def test_a_redacted_submission_has_the_outcomes_of_the_record(name, tmp_path):
    record = seeded(DEVICES[name]())
    (tmp_path / "s.snapshot").write_bytes(recording.pack(record))
    request = audit_request(tmp_path / "s.snapshot")
    plain, redacted = submit.assemble(request, None, None), submit.assemble(request, None, [SEEDS["codename"]])
    assert plain.report.counts == redacted.report.counts
    assert [(each.id, each.outcome) for each in plain.report.requirements] == [
        (each.id, each.outcome) for each in redacted.report.requirements
    ]


def audit_request(snapshot):
    import datetime

    from auditor.request import Request

    return Request(snapshot=str(snapshot), today=datetime.date(2026, 12, 1))


def test_an_attachment_that_names_what_is_taken_out_is_refused(run, folder, tmp_path):
    (tmp_path / "s.snapshot").write_bytes(recording.pack(seeded(devices.recorded())))
    text = f"We tested {SEEDS['host']}.\n".encode()
    (tmp_path / "a.txt").write_bytes(text)
    (tmp_path / "st.toml").write_text(
        f'[[statement]]\nfinding = "{DRIVER}"\nstatement = "s"\nauthor = "a"\nattachment = "a.txt"\n'
        f'sha256 = "{hashlib.sha256(text).hexdigest()}"\n'
    )
    arguments = ["submit", "--snapshot", tmp_path / "s.snapshot", "--statements", tmp_path / "st.toml", "--redact", "-o", tmp_path / "x"]
    code, _, err = run(*arguments, "--key", folder / "vendor.pem")
    assert (code, "redact the attachment" in err) == (2, True)
    assert not (tmp_path / "x").exists()


def test_outcomes_that_redaction_would_change_are_refused(run, folder, tmp_path, monkeypatch):
    """A word that a check looks for is taken out."""
    code, _, err = run(
        "submit", "--snapshot", DEMO, "--redact", "--redact-word", "DMA", "--key", folder / "vendor.pem", "-o", tmp_path / "x.crosml"
    )
    assert code == 4
    assert "nothing was written" in err
    assert not (tmp_path / "x.crosml").exists()


# --- statements ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("mail.txt", "none.txt"), "none.txt: No such file"),
        (('sha256 = "', 'sha256 = "0'), "expected 64 hexadecimal digits"),
        (('attachment = "mail.txt"', 'attachment = "waivers.toml"'), "expected sha256"),
        (('attachment = "mail.txt"\n', ""), "expected both attachment and sha256, or neither"),
        (('statement = "It is under review upstream."', 'statement = " "'), "statement[0].statement: expected text"),
        (("author", "autor"), "statement[0].author: missing"),
        ((DRIVER, "*"), "statement[0].finding: expected a check before the @"),
        ((DRIVER, "a.b@" + "*a" * 1000), "statement[0].finding: expected a pattern of at most 1000 characters"),
        (("It is under", "x" * 5000), "statement[0].statement: expected at most 4096 characters; attach the rest"),
    ],
)
def test_statements_that_are_wrong_are_refused(change, message, run, folder):
    (folder / "wrong.toml").write_text((folder / "statements.toml").read_text().replace(*change))
    code, _, err = run(
        "submit", "--snapshot", DEMO, "--statements", folder / "wrong.toml", "--key", folder / "vendor.pem", "-o", folder / "y"
    )
    assert (code, err.count("\n")) == (2, 1)
    assert message in err
    assert not (folder / "y").exists()


def test_a_statement_is_shown_as_claimed_in_every_format_and_decides_nothing(run, folder, tmp_path):
    (tmp_path / "r.json").write_bytes(members_of(folder)["report.json"])
    from auditor import registry

    for name in sorted(registry.formats()):
        code, text, _ = run("report", "convert", tmp_path / "r.json", "--format", name, "--no-waivers")
        assert code == 0
        if name == "in-toto":  # only names of findings
            continue
        words = " ".join(text.replace("\\", "").split())
        assert "It is under review upstream." in words, name
        assert "laimed" in words or name == "json", name


@given(st.sampled_from(Outcome), st.text(max_size=10))
def test_no_outcome_rests_on_a_claim(outcome, said):
    plain = sample()
    names = [finding.id for result in plain.requirements for finding in result.findings]
    stated = claimed(plain, [Claim(name, said or outcome.value, "vendor") for name in names])
    assert (stated.verdict, stated.counts) == (plain.verdict, plain.counts)
    bare = [dataclasses.replace(f, claims=()) for result in stated.requirements for f in result.findings]
    assert bare == [finding for result in plain.requirements for finding in result.findings]
    assert all(finding.claims for result in stated.requirements for finding in result.findings)


def test_a_claim_is_shown_with_its_own_finding_in_the_text():
    """Findings that say the same are told once, but for what the vendor claims."""
    from reports.text import render

    plain = sample()
    names = [f.id for result in plain.requirements for f in result.findings if f.outcome is Outcome.UNKNOWN and "convolution" in f.id]
    assert len(names) > 1
    text = render(claimed(plain, [Claim(names[1], "Only this one.", "vendor")]))
    assert text.count("Only this one.") == 1
    after = text[text.index(names[1].partition("@")[0]) :]
    assert after.index("Only this one.") < 700


def test_a_statement_about_nothing_is_noted():
    assert claimed(sample(), [Claim("x@y", "s", "a")]).notes[-1] == "The vendor's statement on x@y is about no finding of this report."


def test_the_audit_reads_nothing_that_a_submission_names(folder, monkeypatch):
    """Paths in a stranger's settings are names of members."""
    members = dict(members_of(folder))
    monkeypatch.setattr(audit.files, "read", lambda *_: pytest.fail("a file was read"))
    submit.judge(members, recording.unpack(members["snapshot.zip"], "x"), "x")
