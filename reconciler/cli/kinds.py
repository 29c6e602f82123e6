"""
Kinds of objects in a fleet, as the read model has them.
"""

from collections.abc import Mapping

from reconciler.cli.details import account_details, campaign_details, host_details, spec_details, task_details
from reconciler.cli.render import (
    ADAPTER_COLUMNS,
    AGENT_COLUMNS,
    REPO_COLUMNS,
    account_columns,
    account_document,
    campaign_columns,
    campaign_document,
    host_columns,
    host_document,
    spec_document,
    task_columns,
    task_document,
)
from reconciler.cli.shown import ShownKind
from reconciler.core.views import ReadModel

SHOWN_KINDS: Mapping[str, ShownKind] = {
    kind.name: kind
    for kind in (
        ShownKind(
            "task",
            ReadModel.tasks,
            task_columns,
            task_document,
            task_details,
            lambda view: view.spec.labels if view.spec else (),
        ),
        ShownKind("campaign", ReadModel.campaigns, campaign_columns, campaign_document, campaign_details),
        ShownKind(
            "host", ReadModel.hosts, host_columns, host_document, host_details, lambda view: view.spec.labels
        ),
        ShownKind(
            "agent",
            ReadModel.workers,
            lambda _: AGENT_COLUMNS,
            spec_document,
            spec_details,
            lambda view: view.spec.capabilities,
        ),
        ShownKind(
            "adapter",
            ReadModel.adapters,
            lambda _: ADAPTER_COLUMNS,
            spec_document,
            spec_details,
        ),
        ShownKind("account", ReadModel.accounts, account_columns, account_document, account_details),
        ShownKind(
            "repo",
            ReadModel.repos,
            lambda _: REPO_COLUMNS,
            spec_document,
            spec_details,
            lambda view: view.spec.labels,
        ),
    )
}
