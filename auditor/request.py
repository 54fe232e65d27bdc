"""What an audit is asked for: what to audit, with what, and by what to judge it. One class for all commands, a base class a group."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field, fields

from auditor.bench.options import ZooOptions, option
from auditor.engine import Selection
from auditor.errors import UsageError
from auditor.model import printable

DEFAULT_SET = "r113-zoo-0.0.2"


@dataclass(frozen=True, kw_only=True)
class Target:
    """What to audit, and what may be done there. At most one of `host`, `root`, `snapshot` and `demo`; none of them is this machine."""

    host: str | None = option(None, "Audit a device over ssh; with no python3 >= 3.10 there, it is only read.", "[USER@]HOST")
    ssh_config: str | None = option(None, "With --host: configuration file for ssh, as `ssh -F` takes it.", "FILE")
    identity: str | None = option(None, "With --host: file of the private key to log in with, as `ssh -i` takes it.", "FILE")
    root: str | None = option(None, "Audit a directory laid out like a device's file system; nothing is run.", "DIR")
    snapshot: str | None = option(None, "Judge a snapshot; nothing is run.", "FILE")
    kernel_log: str | None = option(None, "With --root: the device's kernel log, as dmesg, journalctl or syslog keeps it.", "FILE")
    demo: bool = option(False, "Audit the recorded virtual device that ships with the program, and run the zoo here.")
    accelerators: tuple[str, ...] = option((), "Audit this accelerator only (pci:…, of:…); may repeat.", "ID", flag="--accelerator")
    not_accelerators: tuple[str, ...] = option(
        (), "Take this device, which a report does not recognise, for no accelerator; may repeat.", "ID", flag="--not-an-accelerator"
    )
    firmware_images: tuple[str, ...] = option(
        (), "Image that a driver in user space (VFIO) loads, a file on the device; may repeat.", "FILE", flag="--firmware-image"
    )
    probes: bool = option(True, "Only read; try nothing (no dma-buf, VFIO or tracing probe).", flag="--no-probes", negated=True)
    probe_dma: bool = option(False, "Make a VFIO-bound device read an unmapped address, to prove that the IOMMU blocks it.")
    run_zoo: bool = option(True, "Do not run the zoo; its requirements are unknown.", flag="--no-zoo", negated=True)


@dataclass(frozen=True, kw_only=True)
class Judging:
    """By what to judge."""

    requirements: str = option(DEFAULT_SET, "Requirement set: a shipped name, or a .toml file.", "SET")
    manifest: str | None = option(None, "Pinned digests of model files, as sha256sum writes them.", "FILE", flag="--zoo-manifest")
    tool_manifest: str | None = option(None, "Pinned digests of benchmark_model and inference_diff_eval, as sha256sum writes them.", "FILE")
    waivers: str | None = option(None, "Dated exceptions (TOML); each covers a finding, or those that its pattern names.", "FILE")
    apply_waivers: bool = option(True, "Judge as if no waiver were in force.", flag="--no-waivers", negated=True)
    trust_roots: tuple[str, ...] = option(
        (), "Firmware root trusted as production: fingerprint, certificate, or key; may repeat.", "SHA256|FILE", flag="--trust-root"
    )
    base_image: str | None = option(None, "Files of the base image, one absolute path per line.", "LIST")


@dataclass(frozen=True, kw_only=True)
class Request(Target, ZooOptions, Judging):
    """One audit."""

    selection: Selection = field(default_factory=Selection)
    today: datetime.date

    def __post_init__(self) -> None:
        """Raise UsageError for options that contradict each other, whatever they name."""
        targets = {"--host": self.host, "--root": self.root, "--snapshot": self.snapshot, "--demo": self.demo or None}
        named = [option for option, value in targets.items() if value is not None]
        if len(named) > 1:
            raise UsageError("--host, --root, --snapshot, --demo: mutually exclusive")
        if self.demo and (self.accelerators or self.delegate or self.stable_delegate):
            raise UsageError("--demo: the recorded device has its own accelerator, and no delegate runs on it")
        if self.probe_dma and not self.may_try:
            raise UsageError("--probe-dma: expected a device to try it on: this machine or --host, without --no-probes")
        for path in self.firmware_images:
            if self.demo or not path.startswith("/"):
                raise UsageError(f"--firmware-image: {printable(path)}: expected the absolute path of a file on the audited device")
        if self.device_dir is not None and self.host is None:
            raise UsageError("--device-dir: expected with --host: it is a folder of the device for what is copied there")
        if self.host is None and not (self.ssh_config is None and self.identity is None):
            raise UsageError("--ssh-config, --identity: expected with --host")
        if self.kernel_log is not None and self.root is None:
            raise UsageError("--kernel-log: expected with --root: a device and a snapshot have their own")
        self.check()
        self._check_snapshot()

    def _check_snapshot(self) -> None:
        if self.snapshot is None:
            return
        named = {self.delegate, self.stable_delegate, self.zoo, self.runtime}
        if self.accelerators or self.firmware_images or not self.run_zoo or named != {None}:
            raise UsageError(
                "--snapshot: cannot be combined with --delegate, --stable-delegate, --zoo, --runtime, --accelerator, --firmware-image or "
                "--no-zoo"
            )
        if self.options() != ZooOptions(delegate_options=self.delegate_options):
            raise UsageError(
                "--allow-path, --allow-unconfined, --tflite, --bench-time: cannot be combined with --snapshot, under which nothing is run"
            )

    @property
    def may_try(self) -> bool:
        """Whether there is a device to try things on."""
        return self.probes and not self.demo and self.root is None and self.snapshot is None

    @property
    def ssh_options(self) -> tuple[str, ...]:
        """What ssh is given in addition to the host. A key that is named is the only one that is offered."""
        config = () if self.ssh_config is None else ("-F", self.ssh_config)
        return config if self.identity is None else (*config, "-i", self.identity, "-o", "IdentitiesOnly=yes")

    def options(self) -> ZooOptions:
        """The zoo's part of it."""
        return ZooOptions(**{each.name: getattr(self, each.name) for each in fields(ZooOptions)})
