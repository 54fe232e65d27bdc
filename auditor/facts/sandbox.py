"""Who holds the accelerators' nodes on the running system, and how services are meant to be confined.

Sources: proc(5) (status, fd, task, ns), chromiumos/platform2 (/etc/init, /usr/share/minijail, /usr/share/policy), google/minijail.
An ordinary user sees the descriptors of his own processes only; what he may not look at is `unread`.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from auditor.facts.absence import is_listed
from auditor.facts.minijail import LIMIT, Jail, decode, joined_lines, parse_command_line, parse_configuration, read_policy
from auditor.facts.processes import has_ended, read_processes, read_restraint, unnumbered
from auditor.facts.reading import all_of, parse
from auditor.facts.types import Accelerator, Fact, Holder, Listing, Missing, Ok, Sandbox, SandboxDefinition
from auditor.model import Evidence, Remedy, Status, visible

if TYPE_CHECKING:
    from collections.abc import Mapping

    from auditor.facts.reading import Device

JOBS = "/etc/init"
CONFIGURATIONS = "/usr/share/minijail"

DESCRIPTORS = 200_000
"""Open files of all processes together above which the rest is not looked at."""

MENTIONED = 1024
"""Programs that a job which is not understood may start."""

FILES = 4096
"""Jobs, and configurations, above which the rest is not looked at."""

CALLS = 64
"""Calls of minijail0 in a job, and words that it gathers for them, above which it is not understood."""

NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")

_PATH = re.compile(r"(?<![\w/.$}])/[\w.+-]+(?:/[\w.+-]+)+")
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_ENVIRONMENT = re.compile(r"^[ \t]*env[ \t]+(\w+)=(\S{0,256})[ \t]*(?:#.*)?$", re.MULTILINE)


def read_sandbox(device: Device, accelerators: Fact[Listing[Accelerator]]) -> Sandbox:
    """Who holds the nodes of these accelerators, and every definition of a sandbox with its seccomp policy."""
    definitions = _definitions(device)
    policies = sorted({each.policy for each in definitions.items if each.policy})
    return Sandbox(
        holders=_holders(device, accelerators),
        definitions=Ok(definitions, definitions.evidence),
        policies={path: read_policy(device, path) for path in policies},
    )


# --- who holds the nodes ---------------------------------------------------------------------------------------------------------------


def _holders(device: Device, accelerators: Fact[Listing[Accelerator]]) -> Fact[Listing[Holder]]:
    if isinstance(accelerators, Missing):
        return accelerators
    nodes = {node.path: each.subject for each in accelerators.value.items for node in each.nodes}
    if not nodes:
        return Ok(Listing((), accelerators.evidence, accelerators.value.unread), accelerators.evidence)
    processes = read_processes(device)
    if isinstance(processes, Missing):
        return processes
    unread = [*accelerators.value.unread, *processes.value.unread]
    found: dict[tuple[str, str], list[Holder]] = {}
    left = DESCRIPTORS
    for process in processes.value.items:
        held = _held(device, process, tuple(nodes), left)
        left -= held.looked_at
        unread += held.unread
        for node, evidence in held.nodes:
            holder = _holder(device, process, node, nodes[node], evidence)
            if isinstance(holder, Missing):
                unread.append(holder)
            elif holder:
                found.setdefault((holder.subject, node), []).append(holder)
    items = tuple(holder for _, same in sorted(found.items()) for holder in same)
    return Ok(Listing(items, processes.evidence, tuple(dict.fromkeys(unread))), processes.evidence)


@dataclass(frozen=True, slots=True)
class _Held:
    """The nodes that one process holds, each with how that was seen."""

    nodes: tuple[tuple[str, tuple[Evidence, ...]], ...] = ()
    unread: tuple[Missing, ...] = ()
    looked_at: int = 0


def _held(device: Device, process: str, nodes: tuple[str, ...], limit: int) -> _Held:
    descriptors = device.names(f"/proc/{process}/fd")
    if isinstance(descriptors, Missing):
        return _Held() if has_ended(device, process, descriptors) else _Held(unread=(_unread(descriptors),))
    if len(descriptors.value) > limit:
        return _Held(unread=(Missing(Status.FAILED, (), f"more than {DESCRIPTORS} files are open", Remedy.EVIDENCE),))
    held: dict[str, tuple[Evidence, ...]] = {}
    unread: list[Missing] = []
    for number in descriptors.value:
        target = device.link(f"/proc/{process}/fd/{number}")
        if isinstance(target, Ok):
            # a process with a root of its own shows the node below that root
            held |= {node: unnumbered(target.evidence, node) for node in nodes if target.value.removesuffix(" (deleted)").endswith(node)}
        elif target.status is not Status.ABSENT and not has_ended(device, process, target):
            unread.append(_unread(target))
    return _Held(tuple(held.items()), tuple(dict.fromkeys(unread)), len(descriptors.value))


def _unread(missing: Missing) -> Missing:
    """The same for every process, so that a thousand closed ones are one remark."""
    return replace(missing, evidence=unnumbered(missing.evidence), note="who holds the node is not in sight")


def _holder(device: Device, process: str, node: str, accelerator: str, seen: tuple[Evidence, ...]) -> Holder | Missing | None:
    """A process that holds a node; None where it has ended meanwhile."""
    executable = device.link(f"/proc/{process}/exe")
    if isinstance(executable, Missing):
        return None if has_ended(device, process, executable) else _unread(executable)
    restraint = read_restraint(device, process)
    if restraint is None:
        return None
    path = visible(executable.value.removesuffix(" (deleted)"))
    return Holder(
        subject=f"exe:{path}",
        node=node,
        accelerator=accelerator,
        restraint=restraint,
        namespaces=_namespaces(device, process),
        evidence=(*seen, *unnumbered(executable.evidence, path)),
    )


def _namespaces(device: Device, process: str) -> Fact[frozenset[str]]:
    """Those that are not PID 1's; one that this kernel has not is shared."""
    own: set[str] = set()
    evidence: list[Evidence] = []
    for name in NAMESPACES:
        here, first = device.link(f"/proc/{process}/ns/{name}"), device.link(f"/proc/1/ns/{name}")
        for each in (here, first):
            if isinstance(each, Missing) and each.status is not Status.ABSENT:
                return replace(each, evidence=unnumbered(each.evidence))
        if isinstance(here, Ok) and isinstance(first, Ok) and here.value != first.value:
            own.add(name)
        evidence += [*unnumbered(here.evidence), *first.evidence]
    return Ok(frozenset(own), tuple(evidence))


# --- how services are meant to be confined ---------------------------------------------------------------------------------------------


def _definitions(device: Device) -> Listing[SandboxDefinition]:
    items: list[SandboxDefinition] = []
    evidence: list[Evidence] = []
    unread: list[Missing] = []
    for folder, reader in ((JOBS, _job), (CONFIGURATIONS, _configuration)):
        listed = _files(device, folder)
        if isinstance(listed, Missing):
            unread.append(listed)
            continue
        evidence += listed.evidence
        if len(listed.value) > FILES:
            unread.append(Missing(Status.FAILED, listed.evidence, f"more than {FILES} files", Remedy.EVIDENCE))
        for path in listed.value[:FILES]:
            text = parse(device.data(path, length=LIMIT), decode)
            if isinstance(text, Missing) and text.status is Status.ABSENT:
                continue  # a link that leads nowhere, for who starts services too
            found = reader(device, path, text)
            if isinstance(found, Missing):
                unread.append(found)
            else:
                items += found
    return Listing(tuple(items), tuple(evidence), tuple(unread))


def _files(device: Device, folder: str) -> Fact[tuple[str, ...]]:
    """The .conf files in a folder; none where the folder is not there, which only a listing of its parent can say."""
    names = device.names(folder)
    if isinstance(names, Ok):
        return Ok(tuple(f"{folder}/{name}" for name in names.value if name.endswith(".conf")), names.evidence)
    named = is_listed(device, folder)
    if names.status is Status.ABSENT and isinstance(named, Ok) and not named.value:
        return Ok((), all_of(names, named))
    return names


def _configuration(device: Device, path: str, text: Fact[str]) -> list[SandboxDefinition]:
    """A configuration concerns the services of the jobs that name it, and nobody where it is named by none, read or not."""
    del device
    jail = parse(text, parse_configuration)
    if isinstance(jail, Missing):
        return [_definition(path, "", Jail(), visible(jail.note or jail.status.value), jail.evidence)]
    return [_definition(path, "", jail.value, "", text.evidence)]


def _job(device: Device, path: str, text: Fact[str]) -> list[SandboxDefinition] | Missing:
    found: list[SandboxDefinition] = []
    if isinstance(text, Missing):
        return text
    calls = parse(text, _calls)
    if isinstance(calls, Missing):  # as of a call that is not understood: it may be any of the programs that the job names
        mentioned = sorted(set(_PATH.findall(text.value)))
        return [_definition(path, each, Jail(), visible(calls.note), text.evidence) for each in mentioned[:MENTIONED]] or calls
    for call in calls.value:
        jail = Jail()
        try:
            command, facts = _command(device, call, jail)
        except ValueError as error:
            # of what is not understood at least this is known: it may be any of the programs that it names
            mentioned = sorted({path for word in call for path in _PATH.findall(word)})
            found += [_definition(path, each, Jail(), visible(str(error)), text.evidence) for each in mentioned]
            continue
        known = parse(device.stat(command), lambda found: found.real) if command.startswith("/") else Ok(command)
        if isinstance(known, Missing) and known.status is not Status.ABSENT:
            return known
        executable = known.value if isinstance(known, Ok) else command
        # where the command's links lead says whose sandbox it is, and nothing about the sandbox
        evidence = (*all_of(text, *facts), *(replace(item, necessary=False) for item in known.evidence))
        found.append(_definition(path, executable, jail, _trouble(jail, facts), evidence))
    return found


def _command(device: Device, words: list[str], jail: Jail) -> tuple[str, list[Fact[Jail]]]:
    """Collect what each minijail0 of a nest of them is told; the command inside, and the configurations that were read."""
    facts: list[Fact[Jail]] = []
    while True:
        level, rest = parse_command_line(words)
        jail.merge(level)
        for path in level.options.get("config", ()):
            fact = parse(device.data(path, length=LIMIT), lambda data: parse_configuration(decode(data)))
            facts.append(fact)
            if isinstance(fact, Ok):
                jail.merge(fact.value)
        if not rest or rest[0].rpartition("/")[2] != "minijail0":
            return (rest[0] if rest else ""), facts
        words = rest[1:]


def _trouble(jail: Jail, facts: list[Fact[Jail]]) -> str:
    unknown = [*jail.variables, *(value for values in jail.options.values() for value in values if "$" in value)]
    parts = [f"{visible(each[:80])} is known to the shell only" for each in unknown[:3]]
    parts += [f"{each.evidence[0].path} could not be read" for each in facts if isinstance(each, Missing) and each.evidence]
    return "; ".join(parts)


def _definition(path: str, command: str, jail: Jail, trouble: str, evidence: tuple[Evidence, ...]) -> SandboxDefinition:
    policy = jail.options.get("S", [""])[-1:]
    return SandboxDefinition(
        subject=f"file:{visible(path)}",
        command=visible(command),
        options=jail.frozen(),
        binds=jail.binds(),
        policy=policy[0] if policy else "",
        trouble=trouble,
        evidence=evidence,
    )


def _calls(text: str) -> list[list[str]]:
    """The words behind each `minijail0` of an upstart job, with its `env` variables and what `set -- "$@" …` gathered in their places.

    Raises ValueError for a job with too many.
    """
    environment = dict(_ENVIRONMENT.findall(text))
    gathered: list[str] = []
    found: list[list[str]] = []
    for line in joined_lines(text):
        calls, gathers = "minijail0" in line, "set --" in line
        if line.lstrip().startswith("#") or not (calls or gathers):
            continue
        try:
            commands = _commands(line, environment)
        except ValueError:
            # a quote that ends in another line, or a word of another command: no option of minijail begins so, and every path is mentioned
            commands = [["minijail0", f"--{line}"]] if calls else []
            gathered = [*gathered, "$@"]
        for command in commands:
            if command[:2] == ["set", "--"]:
                gathered = [*(gathered if "$@" in command else []), *(word for word in command[2:] if word != "$@")]
            at = next((at for at, word in enumerate(command) if word.rpartition("/")[2] == "minijail0"), None)
            if at is not None:
                found.append([each for word in command[at + 1 :] for each in (gathered if word == "$@" else [word])])
            if len(found) > CALLS or len(gathered) > CALLS:
                raise ValueError("more calls of minijail0, or more words in them, than are looked at")
    return found


def _commands(line: str, environment: Mapping[str, str]) -> list[list[str]]:
    """The commands in a line of shell, each as its words; raises ValueError for an open quote, and for what another command writes."""
    if "$(" in line or "`" in line:
        raise ValueError("a word that another command makes")
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    commands: list[list[str]] = [[]]
    for word in lexer:
        if word and not word.strip("();<>|&"):
            commands.append([])
        elif word not in {"then", "else", "do", "if", "exec"}:
            commands[-1].append(_VARIABLE.sub(lambda name: environment.get(name[1] or name[2], name[0]), word))
    return commands
