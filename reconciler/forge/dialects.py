"""
The dialects by `forge.kind`.
"""

from collections.abc import Mapping

from reconciler.forge.dialect import FORGEJO, GITEA, Dialect
from reconciler.forge.github import GITHUB
from reconciler.forge.gitlab import GITLAB

DIALECTS: Mapping[str, Dialect] = {
    "forgejo": FORGEJO,
    "gitea": GITEA,
    "github": GITHUB,
    "gitlab": GITLAB,
}
