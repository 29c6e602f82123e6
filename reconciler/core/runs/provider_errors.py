r"""
What the error of an agent's CLI means, as far as a model's provider speaks through it.

A status or a phrase counts where the words around it are a provider's too:
"Rate limit reached for gpt-5" says something of an account, and "status 429 is
not in the enum" or "vector capacity exceeded" something of a program.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from reconciler.core.model.runs import FailureClass
from reconciler.core.patterns import lines_of

STATUSES = {
    **dict.fromkeys((401, 403, 407), FailureClass.AUTH),
    402: FailureClass.BUDGET,
    **dict.fromkeys((429, 500, 503, *range(520, 530)), FailureClass.QUOTA),
    **dict.fromkeys((404, 405), FailureClass.CONFIG),
    **dict.fromkeys((408, 502, 504), FailureClass.HOST),
}
"""
What an HTTP status of the model's server means. A server that fails (500) is
waited for as one that is overloaded: some CLIs tell both in the same words.
"""


def class_of(text: str, own: Mapping[Any, str]) -> FailureClass | None:
    """
    Return what an error in words means; None if nothing in it is known.

    `own` are the CLI's own phrases, expressions by class; they count first.
    """
    for kind, pattern in own.items():
        if any(re.search(pattern, line) for line in lines_of(text)):
            return FailureClass(kind)
    text = _of_the_model(text)
    by_status = (STATUSES[status] for status in _statuses(text) if status in STATUSES)
    by_phrase = (kind for kind, phrase in _PATTERNS.items() if _is_in(text, kind, phrase))
    return next(by_status, None) or next(by_phrase, None)


def _of_the_model(text: str) -> str:
    """Return the lines of an error that may be of the model or its server, without names in quotes."""
    lines = text.replace("\r", "\n").split("\n")
    return "\n".join(_NAME.sub("''", line) for line in lines if not _OF_THE_WORK.search(line))


def _statuses(text: str) -> Iterator[int]:
    """Yield the HTTP statuses that a provider answered, where their place says that they are some."""
    certain = _CERTAIN.finditer(text)
    stated = (match for match in _STATED.finditer(text) if _is_of_a_provider(text, match))
    for match in sorted((*certain, *stated), key=re.Match.start):
        yield int(match[1] or match[2])


def _is_in(text: str, kind: FailureClass, phrase: re.Pattern[str]) -> bool:
    """Tell whether a phrase stands in an error, said by a provider if only a provider can mean it."""
    matches = phrase.finditer(text)
    return any(kind not in _PROVIDERS_OWN or _is_of_a_provider(text, match) for match in matches)


def _is_of_a_provider(text: str, match: re.Match[str]) -> bool:
    """Tell whether what stands beside a match in its clause is said in the words of a provider."""
    before = _CLAUSE.split(text[max(0, match.start() - _BESIDE) : match.start()])[-1]
    after = _CLAUSE.split(text[match.end() : match.end() + _BESIDE])[0]
    beside = [*before.split(), *after.split()[:_MOST_AFTER]]
    return all(_PROVIDERS_WORD.fullmatch(word.replace("\u2019", "'").strip("'`*.")) for word in beside)


_BESIDE = 200
"""Characters that are looked at on either side of a match."""
_MOST_AFTER = 6
"""Words that are looked at behind a match; what comes later may name anything."""

_CLAUSE = re.compile(r"[\n:;,·∙|(){}\[\]\"!?=…<>]|\.(?=\s|$)|\s[-\u2013\u2014]+\s")
"""Where a clause ends."""

_PROVIDERS_WORD = re.compile(
    # a little grammar
    r"an?|the|this|that|these|your?|you'(?:ve|re)|we|we're|our|its?|it's|i|has|have|had|been|be|is|are|was|"
    r"were|will|would|could|may|can|cannot|can't|must|do|does|don't|doesn't|not|no|any|all|other|more|too|"
    r"many|much|and|or|as|at|by|due|for|from|in|into|of|on|per|to|until|till|with|without|because|if|so|"
    r"again|after|before|later|already|currently|temporarily|temporary|now|today|recently|still|which|cause|"
    r"please|sorry|unfortunately|while|then|"
    # who speaks, and of whom
    r"apis?|provider|upstream|servers?|services?|backend|engine|gateway|proxy|cloud|openai|anthropic|claude|"
    r"claude\.ai|codex|chatgpt|google|vertex|azure|bedrock|openrouter|dashscope|alibaba|deepseek|mistral|"
    r"moonshot|kimi|groq|litellm|copilot|code|cli|ai|models?|selected|requested|gpt|gemini|qwen\d*|opus|"
    r"sonnet|haiku|fable|pro|flash|turbo|mini|max|accounts?|users?|organi[sz]ations?|orgs?|teams?|workspace|"
    r"projects?|subscriptions?|plans?|tiers?|free|paid|premium|trial|billing|credits?|balance|funds|low|"
    r"details|settings|"
    # what was asked for, and what was answered
    r"requests?|calls?|messages?|tokens?|inputs?|output|prompt|usage|rates?|limits?|limited|quotas?|metric|"
    r"spend|spending|concurrent|concurrency|allocated|current|maximum|number|high|demand|load|overloaded|"
    r"unavailable|seconds?|minutes?|hours?|days?|weeks?|months?|daily|weekly|monthly|hourly|rolling|window|"
    r"sessions?|login|oauth|sso|keys?|secret|bearer|auth|authentication|authorization|credentials?|"
    r"permissions?|access|errors?|http|https|status|code|type|unexpected|got|received|returned|returns|"
    r"responded|response|answer|last|client|failed|failure|fail|exceed(?:s|ed|ing)?|reached|hit|used|get|"
    r"getting|being|refused|rejected|denied|provided|found|invalid|expires?|expired|missing|unauthorized|"
    r"forbidden|try|tried|trying|retry|retries|retrying|wait|resets?|attempts?|check|run|see|switch|use|"
    r"using|specify|environment|variables?|upgrade|contact|increase|continue|different|another|new|valid|"
    r"set|log|sign|logged|signed|out|up|experiencing|process(?:ed)?|completed?|refreshed|via|url|"
    # names of models, ids and amounts
    r"(?:models/|openai/|anthropic/|google/)?(?:gpt|claude|gemini|qwen|llama|mistral|deepseek|grok|glm|kimi|o\d)"
    r"[-\d.][\w.:-]*|\$?\d[\w.,%+-]*|(?:org|req|proj|user)[-_]\w+|//\S+|/login|\w+_API_KEY|\w+Error|",
    re.IGNORECASE,
)
"""
What providers say of accounts, calls and models, all of it common: a clause in which another word stands
beside a phrase is about something else.
"""

_PROVIDERS_OWN = frozenset({FailureClass.QUOTA, FailureClass.AUTH, FailureClass.BUDGET})
"""Classes that only a provider causes: they cost no attempt, or wait for a person."""

_CERTAIN = re.compile(
    r"(?:\bAPI Error:? |\"code\": ?|\berror code: |\brejected \()([45]\d\d)\b(?![.:]\d)"
    r"|^[^\w\n#]*(?:[\w.]*Error: )?([45]\d\d) ?[{\"]",
    re.IGNORECASE | re.MULTILINE,
)
"""An HTTP status where its place says that it is one, whatever is said beside it."""

_STATED = re.compile(
    r"(?:\bHTTP(?:/[\d.]+)?(?: error)?:? |(?<!exit )\bstatus(?:[ _]?code)?[\"':= ]{1,4}"
    r"|\breturned (?:an )?error:? )([45]\d\d)\b(?![.:]\d)"
    r"|(?<![\w#/.-])([45]\d\d) (?:unauthorized|forbidden|payment required|proxy authentication required|"
    r"not found\b|method not allowed|request timeout|too many requests|internal server error|bad gateway|"
    r"service unavailable|gateway time-?out|overloaded|rate limit|(?:incorrect|invalid) api key)",
    re.IGNORECASE,
)
"""An HTTP status that is called one: any other number may be of a line or a port."""

_KIND = (
    r"(?:usage|session|weekly|monthly|daily|hourly|\d+-hour|rate|request|token|concurrency|"
    r"spend(?:ing)?|free[ -]tier|opus|sonnet|plan|message)"
)
"""What providers limit."""

PHRASES = {
    FailureClass.BUDGET: (
        r"(reached|exceeded|hit) (the )?max(imum)? (budget|number of turns|session turns)",
        r"credit balance|insufficient (account )?(credits?|funds|balance)\b|payment required",
        r"billing (hard )?limit|^\W*(\w+: )?budget has been exceeded\b",
        r"(out of|requires? more|not enough|no more) credits?\b",
    ),
    FailureClass.QUOTA: (
        r"too many (concurrent )?requests|too many tokens( per (minute|day))?, please wait",
        r"\bThrottling(Exception|\.\w+|: )|\brequest was throttled\b|(^|: )rate exceeded\b",
        r"\brepeated 5\d\d overloaded\b|the server had an error while processing your request",
        r"rate[ -]limited\b|rate[ -]limit (was |has been )?(reached|exceeded|hit)",
        r"\brate_limit_(error|exceeded)|\bRateLimitError:|\bQuotaError:|insufficient_quota|QUOTA_EXCEEDED",
        rf"(your |\b){_KIND} limit (has been |was |is )?(reached|exceeded|hit)|\byour {_KIND} limit\b",
        rf"(hit|reached|exceed(ed|s)?) (a |the |your |its )?(\w+'s )?({_KIND} )?{_KIND} limit\b",
        r"(hit|reached|exceeded) your\b(?!.{0,40}context).{0,40}\blimit\b",
        r"(?<!disk )quota (has been |was |is )?(exceeded|exhausted|reached|used up)",
        r"(exceeded|exhausted|reached|used) (your|the)\b.{0,40}\b(quota|capacity)",
        r"\boverloaded(_error)?\b(?! (function|method|operator|constructor))|high demand",
        r"resource[ _](has been )?exhausted",
        r"at capacity|capacity (constraints?|exceeded|exhausted)|out of capacity",
        r"service (is )?(temporarily )?unavailable|internal server error",
        r"(?<!resource )temporarily unavailable|server is (too )?busy|please (wait and )?try again later",
    ),
    FailureClass.AUTH: (
        r"unauthori[sz]ed|unauthenticated|failed to authenticate|not authenticated|permission_denied",
        r"authentication[ _](error|failed|fails|failure|required)",
        r"\b\w*authentication_?error\b|\bauth_error\b",
        r"not logged in|logged out|log out and|(log|sign) ?in again|signed in to another",
        r"please (log|sign) ?in\b",
        r"run [`'\"]?(/login|\w+ (auth )?login\b)|no auth(entication)? (type|method)|invalid auth method",
        r"missing environment variable|\b(missing|no) (\w+ )?api.?key",
        r"\b(set|specify|provide|missing)\b.{0,40}\b\w+_API_KEY\b",
        r"(invalid|no|missing) (auth\w* )?credentials",
        r"(incorrect|invalid|expired|revoked|disabled) (x-)?api.?key",
        r"api.?key (is |was |has been |has )?(not valid|invalid|expired|revoked|disabled|missing)",
        r"(access|refresh|oauth|auth|bearer|api) ?token\b.{0,60}\b(expired|revoked|already used|refreshed)",
        r"(invalid|expired) (access|refresh|oauth|auth|bearer|api) ?token",
        r"\b(token|login|credentials?) (has |have |is |are |was )?(been )?(expired|revoked)",
        r"\binvalid_grant\b|could not resolve authentication method|could not load the default credentials",
        r"security token included in the request is (expired|invalid)|^\W*\w+_API_KEY is not set",
        r"^\W*\w+_API_KEY environment variable not found",
        r"(organi[sz]ation|account|subscription)\b.{0,40}\b(disabled|suspended|deactivated|expired)",
        r"(^|: )forbidden\b|authentication is\b.{0,20} not supported",
        r"(account|organi[sz]ation|subscription|key) (does not|doesn't) have access",
        r"permission to (use|access) (this|the) (model|organi[sz]ation|project|api)\b",
    ),
    FailureClass.HOST: (
        r"connection (refused|failed|reset|error|closed|timed out)",
        r"\b(econn\w+|eai_\w+|ehost\w+|enet\w+|enotfound|etimedout)\b",
        r"lookup [\w.-]+: no such host|unable to connect to api\b",
        r"lookup address|waiting for network|fetch failed|socket hang up|network (error|is unreachable)",
        r"bad gateway|gateway time-?out|upstream connect error",
        r"stream (closed|disconnected|ended without)|request timed out|broken pipe",
        r"self.signed certificate|certificate[ _](has expired|verif\w+[ _]failed)",
        r"unable to (get|verify)\b.{0,40}\bcertificate",
        r"no space left|\benospc\b|disk quota exceeded|\bedquot\b|read-only file system|too many open files",
        r"out of memory|\benomem\b|cannot allocate memory",
        r"resource temporarily unavailable|database is locked|active writer|already in use",
    ),
    FailureClass.CONFIG: (
        r"unknown (option|argument)|unexpected argument|is invalid\b|root/sudo|trusted director",
        r"no such file|(file|provider|model)\b.{0,60}\b(not found|not supported|unsupported)|404 not found",
        r"does not exist|selected model|plan does not include|(unsupported|unknown|invalid) model",
        r"no prompt|must be provided|no input|input exceeds|can't check actions|auto-rejecting",
    ),
}
"""
What the words of an error mean; the first that fits. They are phrases, and
asked of what a CLI tells as its error, never of all it printed: "quota" alone
may be the name of a file.
"""

_PATTERNS = {
    kind: re.compile("|".join(phrases), re.IGNORECASE | re.MULTILINE) for kind, phrases in PHRASES.items()
}

_OF_THE_WORK = re.compile(
    r"\bassert|\w{0,80}Assertion| [!=]==? |\bexpected\b.{1,200}\b(?:got|to|but|received|found|actual)\b"
    r"|\btest_\w|\b\w{1,80}(?:\.|_)(?:test|spec)\b|\btests? failed|^\W*(?-i:FAIL)\b|' not in "
    r"|\bcall (?:to|of) |\b(?:operator|function|method|constructor)\b.{0,40}\boverloaded\b"
    r"|failed to (?:push|compile)|unable to access '|\bRPC failed|\bnpm (?:ERR|error)|\bcurl: \("
    r"|\w\.(?:m?[jt]sx?|cjs|py|go|rb|java|cpp|php):\d"
    r"|\b(?-i:(?:Key|Attribute|Name|Import|ModuleNotFound|Index|Syntax|Reference|Range|NotImplemented"
    r"|UnboundLocal|Recursion)Error|NullPointerException)\b",
    re.IGNORECASE,
)
"""A line about the code that an agent works on, told by one of its tools, or of a mistake in a program."""

_NAME = re.compile(r"(?:(?<=\w )|(?<=\())'(?![45]\d\d )[^'\n]{0,200}'(?!\w)")
"""Something an error is about, not what it says: a name in quotes; values such as `status: 'X'` are none."""
