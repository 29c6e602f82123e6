"""
Catalogue of what goes wrong: every code that is shown, with its cause, its remedy and what to type.

The single source of docs/errors.md and of `reconciler explain error`. Codes
are the words on record and on the screen: failure classes, reasons to wait,
states of hosts and exit codes as they are defined; what has no word of its own
is found by a part of its message.
"""

from collections.abc import Collection, Sequence
from difflib import get_close_matches
from functools import partial
from typing import Literal, NamedTuple

Family = Literal[
    "failure class",
    "waiting reason",
    "host state",
    "login failure",
    "notification reason",
    "refusal of run",
    "exit code",
]


class CatalogueEntry(NamedTuple):
    """One code: what leads to it, and what to do about it."""

    family: Family
    code: str
    """As it is written on record, or shown."""
    cause: str
    remedy: str
    command: str
    """What to type; TASK, HOST, REPO and other names in capitals are to be replaced."""
    sign: str = ""
    """Part of the message by which it is known, where it has no code on record."""


def lookup(text: str) -> Sequence[CatalogueEntry]:
    """Return the entries of a code, whatever its case, or of a message: by its sign, or `code: message`."""
    for code in (text, text.partition(":")[0]):
        if entries := [each for each in ENTRIES if _folded(each.code) == _folded(code)]:
            return entries
    return [each for each in ENTRIES if each.sign and each.sign in text]


def similar(text: str) -> Sequence[str]:
    """Return up to three codes that are written nearly as a text is, the nearest first."""
    by_spelling = {_folded(code): code for code in codes()}
    return [by_spelling[near] for near in get_close_matches(_folded(text), by_spelling, 3, 0.6)]


def codes() -> Collection[str]:
    """Return every code once, in the order of the catalogue."""
    return dict.fromkeys(each.code for each in ENTRIES)


def _folded(code: str) -> str:
    return "".join(each for each in code.casefold() if each.isalnum())


_failure = partial(CatalogueEntry, "failure class")
_FAILURES = (
    _failure(
        "agent",
        "The agent's CLI ended with an error, gave no result, or left nothing to review. It is tried "
        "again as often as `retries` says, then the task is `failed`.",
        "Read the end of its output. Say more in `goal` or `constraints`; a task that need not change "
        "anything takes `allow_empty: true`.",
        "reconciler logs TASK",
    ),
    _failure(
        "validation",
        "A command of `validation` did not exit 0 in the workspace. The agent got its output back "
        "`fix_attempts` times; then it counts against `retries`.",
        "See which check failed, and run it yourself on the base branch: if it fails there too, that is "
        "to be fixed first.",
        "reconciler describe TASK",
    ),
    _failure(
        "timeout",
        "The round took longer than `timeout` and was ended.",
        "Raise `timeout`, or ask for less at once.",
        "reconciler edit TASK --set timeout=2h",
    ),
    _failure(
        "stall",
        "The agent printed nothing for as long as `stall_timeout` and was ended.",
        "If it works in silence (a long build), raise `stall_timeout`; else read where it hangs.",
        "reconciler logs TASK",
    ),
    _failure(
        "host",
        "The run could not start or could not go on, by a fault of the host: the disk, git, the network, "
        "a job that Slurm ended. A run that could not start counts as no attempt.",
        "Check the host and do what it says; the task goes elsewhere meanwhile if another host fits.",
        "reconciler host check HOST",
    ),
    _failure(
        "quota",
        "The provider answers that a limit of use is reached. Counts as no failure: the task waits until "
        "the time that the provider named, else 15 minutes and then longer.",
        "Wait, or let other tasks use another account or adapter.",
        "reconciler explain TASK",
    ),
    _failure(
        "auth",
        "The agent's CLI is not logged in, or a secret, a forge or a repository refused us. Trying "
        "again cannot help: the task is `failed`.",
        "Log in on the host as the user of the runs, or renew the token; then try again.",
        "reconciler adapter test ADAPTER --host HOST",
    ),
    _failure(
        "budget",
        "The task spent its `budget` (money, tokens or turns), or its `deadline` is over. A person "
        "has to act: the task is `escalated`.",
        "See what was spent; raise `budget` or `deadline`, or ask for less.",
        "reconciler edit TASK --set 'budget={cost_usd: 20}'",
    ),
    _failure(
        "config",
        "Nothing can succeed as it is configured: a CLI or a model that is not there, a repository or "
        "branch that is not, a rule of the branch. Trying again cannot help: the task is `failed`.",
        "Correct the spec that the message names, or install what is missing on the host.",
        "reconciler doctor",
    ),
    _failure(
        "cancelled",
        "The run was stopped: by a change of the spec, a drain, preemption, or the agent gave the task "
        "back. Counts as no failure.",
        "See who asked for it; if it was not meant, run it again.",
        "reconciler history TASK",
    ),
)

_waiting = partial(CatalogueEntry, "waiting reason")
_WAITING = (
    _waiting(
        "Dependency",
        "A task in `depends_on`, or the one it starts from, is not completed or merged yet.",
        "See how far those are; one that failed holds up all behind it.",
        "reconciler get",
    ),
    _waiting(
        "Variants",
        "One of its variants is to be chosen; or it is a variant, and waits for the choice.",
        "See how far they are: `NAME@1`, `NAME@2` and so on.",
        "reconciler get",
    ),
    _waiting(
        "Pilot",
        "The first tasks of its campaign, its pilot, are not completed.",
        "See how the pilot is; if it failed, fix the campaign, or retry it.",
        "reconciler get campaigns",
    ),
    _waiting(
        "Width",
        "As many tasks of its campaign are begun and not settled as `width` allows; those in review count.",
        "Wait, merge what is in review, or raise `width`.",
        "reconciler get campaigns",
    ),
    _waiting(
        "Halted",
        "So many tasks of its campaign have failed (`stop_after`) that no more begin.",
        "Fix the campaign's task, which runs those again that failed, or retry them; then it goes on.",
        "reconciler get campaigns",
    ),
    _waiting(
        "Slot",
        "Every host that fits, or a limit of the fleet or repo, is full.",
        "Wait, or raise `slots` of a host or the limit that the message names.",
        "reconciler get hosts",
    ),
    _waiting(
        "Host",
        "No host fits: by its labels, adapters, repos or state; or none that may fit has answered yet.",
        "Read why each host does not fit; then change `requires` of the task, add a host or repair one.",
        "reconciler explain TASK",
    ),
    _waiting(
        "Repo",
        "Its code repository does not answer, or was not asked yet.",
        "Try the address with the reconciler's own credentials; it goes on by itself once it answers.",
        "reconciler doctor",
    ),
    _waiting(
        "Retrying",
        "A step of its live run (a fetch, a push, a connection) fails for now and is tried again.",
        "Nothing, if it is an outage; the message says what fails.",
        "reconciler describe TASK",
    ),
    _waiting(
        "Delivery",
        "Its agent has ended, and its host or repository does not answer: it takes no slot meanwhile.",
        "Nothing, if it is an outage: a repo is tried for half an hour; the message says who is silent.",
        "reconciler describe TASK",
    ),
    _waiting(
        "Queue",
        "Its run waits in the queue of its host's scheduler, such as Slurm's.",
        "Ask the scheduler why, on the host (`squeue`); see partition and limits in the spec of the host.",
        "reconciler describe TASK",
    ),
    _waiting(
        "Agent",
        "It waits for an outside agent to take it (`execution_mode: http_pull`): none that fits has asked.",
        "See which agents may take it and when they were seen last; start one.",
        "reconciler get agents",
    ),
    _waiting(
        "Suspended",
        "`desired: suspended` in its spec.",
        "Resume it when it may run.",
        "reconciler resume TASK",
    ),
    _waiting(
        "Backoff",
        "Its last attempt failed, and the next one waits a while.",
        "Nothing; or repair what failed and try again at once.",
        "reconciler retry TASK",
    ),
    _waiting(
        "Quota",
        "The provider's limit of use is reached; the message says until when.",
        "Wait, or use another account or adapter.",
        "reconciler explain TASK",
    ),
    _waiting(
        "Circuit",
        "Runs of three tasks in a row failed with its account, or that which its adapter has: the login, the "
        "settings, a silent provider. One run tries it again after a minute, then after twice the time.",
        "Repair what the message says (an edit of its spec has it tried at once), or use another account.",
        "reconciler describe account/ACCOUNT",
    ),
    _waiting(
        "NotBefore",
        "`not_before` in its spec is still to come.",
        "Wait, or change the time.",
        "reconciler edit TASK",
    ),
    _waiting(
        "Schedule",
        "It is done for now; its `schedule` says when it is due next.",
        "Wait; or run it once more now.",
        "reconciler retry TASK",
    ),
    _waiting(
        "Window",
        "It is outside of the hours in which it may start (`window`).",
        "Wait, or change the window.",
        "reconciler explain TASK",
    ),
    _waiting(
        "Budget",
        "The `daily_budget` of fleet, repo, adapter or host is spent; new runs start the next day (UTC).",
        "See who spent it; raise it, or wait.",
        "reconciler cost --by task --since 1d",
    ),
    _waiting(
        "SpecError",
        "Its spec, or one it depends on, has a mistake: the last good version counts; nothing new starts.",
        "Correct the file, line and column that the message names, commit and push.",
        "reconciler validate",
    ),
    _waiting(
        "Check",
        "What an outside agent says it has finished is fetched and validated.",
        "Nothing; it takes as long as the validation does.",
        "reconciler describe TASK",
    ),
    _waiting(
        "Person",
        "The agent asks a question, or somebody pushed to its branch and it keeps out of the way.",
        "Answer; or, after your own push, ask for changes in a review of the pull request.",
        "reconciler answer TASK",
    ),
    _waiting(
        "Review",
        "Its pull request is not merged yet; the message says what is missing.",
        "Review and merge it. Without a forge, merge the branch that it names yourself.",
        "reconciler open TASK",
    ),
    _waiting(
        "Blocked",
        "Its pull request cannot be merged: checks fail, it conflicts, or the forge refuses the merge.",
        "Remove what the message names: repair the check, merge the base branch, or change the rule.",
        "reconciler open TASK",
    ),
    _waiting(
        "MergeQueue",
        "Its pull request is approved and in the merge queue of its repo (`merge: queue`); the message says "
        "at which place, and what is validated.",
        "Nothing; it lands, or goes back to its agent, by itself.",
        "reconciler get tasks",
    ),
    _waiting(
        "MergeQueueHalted",
        "Nothing of the merge queue can land: the base branch does not pass its validation by itself, or "
        "takes no pushes of the reconciler.",
        "Repair the base branch, be it by merging a pull request by hand; or let the reconciler push to it.",
        "reconciler get tasks",
    ),
    _waiting(
        "Approval",
        "More tasks would be removed at once than goes without asking: an empty folder or a wrong branch "
        "looks the same.",
        "See whether the removal is meant; then approve it, or bring the files back.",
        "reconciler approve-prune",
    ),
    _waiting(
        "Fault",
        "A bug of the reconciler in judging or planning this task; it is set aside, and others go on.",
        "Read its log, report it, and edit the spec to let it be tried again.",
        "reconciler describe TASK",
    ),
)

_host = partial(CatalogueEntry, "host state")
_HOSTS = (
    _host("up", "It answers and takes runs.", "Nothing.", "reconciler get hosts"),
    _host(
        "unready",
        "It answers, but no run can start: git is missing, the working folder or TMPDIR cannot be "
        "written to, the disk is nearly full, no `sh` starts under its `env`, its scheduler takes no "
        "jobs, or runs of three tasks in a row could not start, or were ended by its fault.",
        "Do what the message says; it is back with the next probe.",
        "reconciler host check HOST",
    ),
    _host(
        "down",
        "It does not answer, or refuses the login. Live runs hold their slots until `lost_after`.",
        "The message says why; the login failures below have what helps.",
        "reconciler host check HOST",
    ),
    _host(
        "unknown",
        "It was not asked yet: the reconciler has just begun, or none runs.",
        "See whether a reconciler runs.",
        "reconciler status",
    ),
    _host(
        "suspended",
        "`desired: suspended` in its spec: it is not asked and takes no runs.",
        "Set it back when it may work.",
        "reconciler edit host/HOST --set desired=active",
    ),
    _host(
        "cordoned",
        "A person closed it to new runs; live ones go on.",
        "Open it.",
        "reconciler host uncordon HOST",
    ),
    _host(
        "draining",
        "It is to become empty; live runs end first.",
        "Wait, or open it again.",
        "reconciler host uncordon HOST",
    ),
    _host(
        "drained",
        "It is closed, and empty.",
        "Do with it what you meant to; then open it.",
        "reconciler host uncordon HOST",
    ),
)

_CHECK = "reconciler host check HOST"
_login = partial(CatalogueEntry, "login failure")
_LOGINS = (
    _login("name", "The name in `address` is not known to DNS.", "Correct `address`.", _CHECK),
    _login("network", "There is no way to the address.", "Check `address`, VPN and network.", _CHECK),
    _login("closed", "Nothing listens on that port.", "Check `port`, and that sshd runs.", _CHECK),
    _login(
        "silent",
        "Nothing answers within 15 seconds: a firewall, or a machine that is off.",
        "Check `address`, `port`, firewalls, and that the machine is on.",
        _CHECK,
    ),
    _login(
        "slow",
        "sshd answered, but the login was not done within a minute.",
        "See what it waits for there: UseDNS, PAM, AuthorizedKeysCommand.",
        _CHECK,
    ),
    _login("stranger", "What listens on that port is no sshd.", "Correct `port`.", _CHECK),
    _login(
        "busy",
        "sshd has too many logins under way (MaxStartups), or is short of memory.",
        "Nothing, if it passes; else raise MaxStartups there.",
        _CHECK,
    ),
    _login(
        "barred",
        "sshd takes nothing from our address for a while (PerSourcePenalties), after logins that failed.",
        "Repair what failed first; it passes by itself. PerSourcePenaltyExemptList exempts an address.",
        _CHECK,
    ),
    _login(
        "algorithms",
        "It offers only algorithms that are not safe any more.",
        "Update its sshd, or give it an Ed25519 key (`ssh-keygen -A`).",
        _CHECK,
    ),
    _login(
        "host key",
        "It shows another key than the one in its spec: it was set up anew, or somebody stands between.",
        "Compare the fingerprints with the machine itself; then trust the new key.",
        "reconciler host trust HOST",
    ),
    _login(
        "jump",
        "The jump host cannot reach it, or forbids forwarding.",
        "Check `jump`, `address`, and AllowTcpForwarding of the jump host.",
        _CHECK,
    ),
    _login(
        "too many keys",
        "The SSH agent holds more keys than sshd tries (MaxAuthTries).",
        "Name the right one in `identity`.",
        "reconciler edit host/HOST --set identity=~/.ssh/agents",
    ),
    _login(
        "login",
        "sshd refused our key for this user.",
        "Check `user`, and put the public key into its authorized_keys.",
        _CHECK,
    ),
    _login(
        "second factor",
        "The key is right, but sshd wants a password or code besides.",
        "Let this user log in with the key alone (a `Match User` block there).",
        _CHECK,
    ),
    _login(
        "no keys",
        "sshd takes no keys, only passwords.",
        "Allow PubkeyAuthentication for this user.",
        _CHECK,
    ),
    _login(
        "account",
        "sshd ended the connection during the login: the account is locked, expired or kept out.",
        "See the log of its sshd, PAM and AllowUsers.",
        _CHECK,
    ),
    _login("protocol", "The handshake failed in another way.", "See the log of its sshd.", _CHECK),
)

_notification = partial(CatalogueEntry, "notification reason")
_NOTIFICATIONS = (
    _notification(
        "Forge",
        "A forge does not answer, or refuses our token; its pull requests stand still.",
        "Try the token, or wait for the end of the outage.",
        "reconciler doctor",
    ),
    _notification(
        "Reconciler",
        "The fleet is not looked after: its repository cannot be read or written, or went back.",
        "The message says why; `/readyz` says the same.",
        "reconciler status",
    ),
    _notification(
        "Unsent",
        "Messages do not reach a target of notifications.",
        "Try its secret URL with a test message.",
        "reconciler notify test TARGET",
    ),
)

_refusal = partial(CatalogueEntry, "refusal of run")
_REFUSALS = (
    _refusal(
        "AlreadyRunning",
        "Another process on this machine reconciles this repository.",
        "Leave the fleet to it, or end it first.",
        "reconciler status",
        "another reconciler (pid",
    ),
    _refusal(
        "ServedElsewhere",
        "Another machine holds the leader lease of this fleet.",
        "End that one first; if its machine is gone for good, take over.",
        "reconciler run --take-over",
        "another reconciler serves this fleet",
    ),
    _refusal(
        "TakenOver",
        "Another reconciler took the leader lease over; this one ended.",
        "Nothing, if that was meant.",
        "reconciler status",
        "another reconciler took over",
    ),
    _refusal(
        "Rewound",
        "The record or the specs point at a commit that does not descend from what was acted on: a "
        "forced push, an old backup, another repository.",
        "Restore what is lost; approve the older state only if you mean it.",
        "reconciler restore-record",
        "went back: branch",
    ),
    _refusal(
        "RecordElsewhere",
        "The record of this fleet is at a remote and not here, or newer there.",
        "Serve the remote by its URL; or adopt its record, once nobody serves it there.",
        "reconciler adopt-record",
        "the record of this fleet",
    ),
    _refusal(
        "Copy",
        "The folder is a copy of a repository that is still where it was reconciled.",
        "Leave the fleet to the original, or adopt the copy once nobody reconciles there.",
        "reconciler adopt-record --copy",
        "is a copy of",
    ),
    _refusal(
        "Mirror",
        "The repository is a mirror of a remote with the record: a fetch would write over that of here.",
        "Serve the remote by its URL.",
        "reconciler --repo URL run",
        "is a mirror of",
    ),
    _refusal(
        "RemoteSilent",
        "A remote that may have the record does not answer.",
        "Try again when it does; begin a record here only if it has none.",
        "reconciler adopt-record --anew",
        "may have the record of this fleet",
    ),
    _refusal(
        "SignersMissing",
        "`require_signed` of the fleet needs the file of those who may sign.",
        "Name it.",
        "reconciler run --allowed-signers FILE",
        "name the file of those who may sign",
    ),
    _refusal(
        "SignedTogether",
        "Specs cannot be required to be signed on the branch where the record is.",
        "Give the record a branch of its own (`state_branch`).",
        "$EDITOR specs/fleet.yaml",
        "cannot be required to be signed",
    ),
)

_exit = partial(CatalogueEntry, "exit code")
_EXITS = (
    _exit("0", "Done.", "Nothing.", "reconciler status"),
    _exit(
        "1",
        "It failed, or the specs have mistakes.",
        "The message says what to do.",
        "reconciler validate",
    ),
    _exit("2", "`plan --exit-code`: something would change.", "Look at it.", "reconciler plan"),
    _exit("3", "Nothing has that name.", "See what there is.", "reconciler get"),
    _exit(
        "4",
        "Refused, or not authenticated.",
        "See who may do it, and with which token or key.",
        "reconciler doctor",
    ),
    _exit(
        "5",
        "A task that was waited for ended badly, or a check failed.",
        "Read its cause.",
        "reconciler describe TASK",
    ),
    _exit(
        "6",
        "Others wrote to the same branch again and again.",
        "Try again; if it goes on, find who writes.",
        "git log -5 --all",
    ),
    _exit(
        "7",
        "Something waits for a person, or the record or the specs went back.",
        "See what it is.",
        "reconciler status",
    ),
    _exit("8", "No reconciler runs.", "Start one.", "reconciler run"),
    _exit("64", "Wrong usage.", "Read the help of the command.", "reconciler COMMAND --help"),
    _exit(
        "69",
        "What is needed cannot be reached now: a remote, a host, a forge.",
        "Try again later; see what is in the way.",
        "reconciler doctor",
    ),
    _exit(
        "124",
        "What was waited for did not come in time.",
        "Wait longer, or see what it waits for.",
        "reconciler explain TASK",
    ),
    _exit("130", "Interrupted with Ctrl-C.", "Nothing; runs go on.", "reconciler status"),
    _exit("141", "Whoever read the output stopped reading.", "Nothing.", "reconciler status"),
)

ENTRIES: Sequence[CatalogueEntry] = (
    *_FAILURES,
    *_WAITING,
    *_HOSTS,
    *_LOGINS,
    *_NOTIFICATIONS,
    *_REFUSALS,
    *_EXITS,
)
"""Every code, by family."""
