"""
Every page, and where it is.
"""

from collections.abc import Sequence

from reconciler.api.pages.actions import (
    act_on_host,
    act_on_task,
    approve_removal,
    new_task_page,
    submit_task,
)
from reconciler.api.pages.commits import check_commit, check_path, commit_page, file_page
from reconciler.api.pages.cost import cost_page
from reconciler.api.pages.diff import diff_page
from reconciler.api.pages.handlers import PageAction, PageDefinition, PageStream
from reconciler.api.pages.history import history_page
from reconciler.api.pages.hosts import agents_page, host_page, hosts_page
from reconciler.api.pages.log import follow_log, log_page
from reconciler.api.pages.now import now_page
from reconciler.api.pages.plan import plan_page
from reconciler.api.pages.problems import problems_page
from reconciler.api.pages.task import task_page
from reconciler.api.pages.tasks import tasks_page

TABS = (
    ("Now", "/"),
    ("Tasks", "/tasks"),
    ("Hosts", "/hosts"),
    ("Agents", "/agents"),
    ("Plan", "/plan"),
    ("History", "/history"),
    ("Cost", "/cost"),
    ("Problems", "/problems"),
)
"""The navigation, in its order."""

PAGES: Sequence[PageDefinition] = (
    PageDefinition(path="/", name="now", show=now_page, tab="Now"),
    PageDefinition(path="/tasks", name="tasks", show=tasks_page, tab="Tasks"),
    PageDefinition(path="/tasks/<name:path>", name="task", show=task_page, tab="Tasks"),
    PageDefinition(path="/new", name="new_task", show=new_task_page, tab="Tasks"),
    PageDefinition(path="/logs/<name:path>", name="log", show=log_page, tab="Tasks"),
    PageDefinition(path="/diff/<name:path>", name="diff", show=diff_page, tab="Tasks"),
    PageDefinition(path="/hosts", name="hosts", show=hosts_page, tab="Hosts"),
    PageDefinition(path="/hosts/<name:path>", name="host", show=host_page, tab="Hosts"),
    PageDefinition(path="/agents", name="agents", show=agents_page, tab="Agents"),
    PageDefinition(path="/plan", name="plan", show=plan_page, tab="Plan"),
    PageDefinition(path="/history", name="history", show=history_page, tab="History"),
    PageDefinition(path="/cost", name="cost", show=cost_page, tab="Cost"),
    PageDefinition(path="/problems", name="problems", show=problems_page, tab="Problems"),
    PageDefinition(
        path="/commits/<name:path>", name="commit", show=commit_page, tab="History", check=check_commit
    ),
    PageDefinition(path="/files/<name:path>", name="file", show=file_page, check=check_path),
)
STREAMS: Sequence[PageStream] = (PageStream(path="/follow/<name:path>", name="follow", events=follow_log),)
ACTIONS: Sequence[PageAction] = (
    PageAction(path="/act/tasks/<name:path>", name="task", act=act_on_task, tab="Tasks"),
    PageAction(path="/act/hosts/<name:path>", name="host", act=act_on_host, tab="Hosts"),
    PageAction(path="/act/removal", name="removal", act=approve_removal, tab="Now"),
    PageAction(path="/new", name="new_task", act=submit_task, tab="Tasks"),
)
